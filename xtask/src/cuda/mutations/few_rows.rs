//! Lists faults that someone could make in the products of few rows.

use super::{Mutation, Part, fault};

const FEW_ROWS: &str = "few_rows.cu";
const WEIGHTS: &str = "weights.cuh";

/// Weights of the format that has the fault, or of one that finds it.
pub(in super::super) fn part(mutation: &Mutation) -> Part {
    let words: &[_] = match mutation.name.split(':').next() {
        Some("q8_0") => &["q8_0"],
        Some("q4_0") => &["q4_0"],
        Some("q4_1") => &["q4_1"],
        Some("q4_k") => &["q4_k"],
        _ => &["bf16"],
    };
    Part { flags: &[], words }
}

pub(in super::super) const MUTATIONS: &[Mutation] = &[
    fault(
        "slices are not waited for",
        FEW_ROWS,
        ("copies_wait<PRODUCT_STAGES - 1>();", 0),
        "copies_wait<PRODUCT_STAGES>();",
    ),
    fault("lanes do not wait for each other's copies", FEW_ROWS, ("__syncwarp();", 0), ""),
    fault(
        "a slice is read from the other stage",
        FEW_ROWS,
        ("own + stage * STAGE", 0),
        "own + (stage ^ 1) * STAGE",
    ),
    fault("stages do not alternate", FEW_ROWS, ("stage ^= 1", 0), "stage ^= 0"),
    fault("sums are put over slices", FEW_ROWS, ("__syncthreads();", 1), ""),
    fault("sums of warps are not waited for", FEW_ROWS, ("__syncthreads();", 0), ""),
    fault("a warp is left out", FEW_ROWS, ("i < PRODUCT_WARPS", 0), "i < PRODUCT_WARPS - 1"),
    fault(
        "the order of sums depends on the rows",
        FEW_ROWS,
        ("i * OF_WARP", 0),
        "(i + p.rows) % PRODUCT_WARPS * OF_WARP",
    ),
    fault("outputs that are none are written", FEW_ROWS, ("output >= p.outputs", 0), "false"),
    fault("a bias is left out", FEW_ROWS, ("if (p.bias) sum += p.bias[output];", 0), ""),
    fault(
        "rows of weights that are none are read",
        FEW_ROWS,
        ("from < min(begin + SLICE_BYTES<W>, rows.end)", 0),
        "from < begin + SLICE_BYTES<W>",
    ),
    fault("the ninth row is left out", FEW_ROWS, ("p.rows <= 8", 0), "p.rows <= 9"),
    fault(
        "the second group has the rows of the first",
        FEW_ROWS,
        ("n * 8 + lane / 4", 0),
        "lane / 4",
    ),
    fault("x goes on where another warp's slice is", FEW_ROWS, ("part + 1 < parts", 0), "true"),
    fault(
        "numbers of x in f32 are cut to 16 bits",
        FEW_ROWS,
        ("__byte_perm(pairs[i][0], pairs[i][1], 0x7632)", 0),
        "term == 2 ? 0 : __byte_perm(pairs[i][0], pairs[i][1], 0x7632)",
    ),
    fault(
        "what is left of x is not",
        FEW_ROWS,
        ("without_upper_half(pairs[i][j])", 0),
        "pairs[i][j] << 16",
    ),
    fault(
        "rows of weights are mixed",
        FEW_ROWS,
        ("a[1] = codes[1].words[i][0]", 0),
        "a[1] = codes[0].words[i][0]",
    ),
    fault(
        "q4_0: weights are read beyond the last",
        FEW_ROWS,
        ("row_begin<W>(p, p.outputs) - whole", 0),
        "row_begin<W>(p, p.outputs) - whole + 16",
    ),
    fault(
        "q4_0: rows begin at multiples of 16",
        FEW_ROWS,
        ("(rows.begin<W>(row, warp) & 15)", 0),
        "0",
    ),
    fault("q4_0: words at multiples of 4", WEIGHTS, ("(at & 2) << 3", 0), "0"),
    fault("q4_0: nibbles are from 0 on", WEIGHTS, ("0xc308c308", 0), "0xc300c300"),
    fault("q4_0: low nibbles again in place of high", WEIGHTS, ("eight >> 4", 0), "eight"),
    fault(
        "q4_0: the end of a row is left out",
        FEW_ROWS,
        ("min(W::COLUMNS, p.columns - column)", 0),
        "(p.columns - column) / W::COLUMNS * W::COLUMNS",
    ),
    fault(
        "q4_0: x is not crossed",
        FEW_ROWS,
        ("CROSSED ? __byte_perm(four.x, four.y, 0x5410) : four.x", 0),
        "four.x",
    ),
    fault("q4_0: x in f32 is not crossed", FEW_ROWS, ("CROSSED ? four.z : four.y", 0), "four.y"),
    fault(
        "q8_0: bytes have no sign",
        WEIGHTS,
        ("(two & 0x00800080) | 0xc300c300", 0),
        "0xc300c300",
    ),
    fault(
        "q8_0: another part's scale",
        WEIGHTS,
        ("f16_at(shared, block)", 0),
        "f16_at(shared, at)",
    ),
    fault("q8_0: halves of a part are the same", WEIGHTS, ("words_at<2, 4>", 0), "words_at<2, 0>"),
    fault("q8_0: bytes of a word are mixed", WEIGHTS, ("0x4342", 0), "0x4243"),
    fault("q4_1: no minimum", WEIGHTS, ("f16_at(shared, block + 2)", 0), "0"),
    fault(
        "q4_1: a minimum meets x of another row",
        FEW_ROWS,
        ("x_sums[n][i]", 0),
        "x_sums[n][i ^ 1]",
    ),
    fault(
        "q4_k: the last parts' scales are the first's",
        WEIGHTS,
        ("part < 4 ? low & 63 : (high & 15) | (low >> 2 & 48)", 0),
        "low & 63",
    ),
    fault("q4_k: minima are read as scales", WEIGHTS, ("high >> 4 & 15", 0), "high & 15"),
    fault("q4_k: two high bits of a minimum are lost", WEIGHTS, ("middle >> 2 & 48", 0), "0"),
    fault(
        "q4_k: minima are added",
        WEIGHTS,
        ("-from_f16(head.x >> 16)", 0),
        "from_f16(head.x >> 16)",
    ),
    fault("q4_k: the second of two parts is the first", WEIGHTS, ("part % 2 * 4", 1), "0"),
    // Rows of a table.
    fault(
        "q4_0: rows: numbers are not crossed",
        FEW_ROWS,
        ("W::CROSSED ? bf16_low(b) : bf16_high(a)", 0),
        "bf16_high(a)",
    ),
    fault(
        "q8_0: rows: every slice is the first",
        FEW_ROWS,
        ("begin + (long long)slice * SLICE_BYTES<W>", 0),
        "begin",
    ),
    fault(
        "q4_1: rows: the offset is left out",
        FEW_ROWS,
        ("W::OFFSET ? codes.offset : 0", 0),
        "0.f",
    ),
    fault(
        "q4_k: rows: parts of the other slice",
        FEW_ROWS,
        ("of * W::APART + k", 0),
        "of * 16 + k",
    ),
    fault(
        "q8_0: rows: ids beyond the table are read",
        FEW_ROWS,
        ("id < static_cast<unsigned>(p.v)", 0),
        "true",
    ),
];

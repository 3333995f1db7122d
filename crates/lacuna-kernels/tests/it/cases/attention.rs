//! Checks attention on every mask, with segments of many lengths and in every layout that keys and values come in.

use super::*;
use lacuna_kernels::{
    AttentionMask, Backend, CachePrecision, KeyRanges, Segment, Segments, StoredRows, attention,
    attention_over, reference,
};
use std::num::NonZeroUsize;

#[derive(Clone)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) segments: Segments,
    /// Query heads, key heads, and the size d of a head.
    pub(crate) sizes: (usize, usize, usize),
}

impl Case {
    fn new(name: &str, segments: Segments, sizes: (usize, usize, usize)) -> Self {
        Self { name: format!("{name} {sizes:?}"), segments, sizes }
    }

    /// A case of `n` windows of one pattern.
    fn windows(name: &str, ranges: KeyRanges, n: usize, sizes: (usize, usize, usize)) -> Self {
        Self::new(&format!("{name}, {n}"), Segments::end_to_end(vec![ranges; n]), sizes)
    }

    pub(crate) fn inputs(&self) -> [Tensor; 3] {
        let (heads, kv_heads, d) = self.sizes;
        let mut draw = Numbers::new(7);
        let kv = [self.keys(), kv_heads, d];
        [draw.tensor(&[self.segments.query_rows(), heads, d]), draw.tensor(&kv), draw.tensor(&kv)]
    }

    pub(crate) fn keys(&self) -> usize {
        self.segments.iter().map(|segment| segment.keys.end).max().unwrap_or(0)
    }

    pub(crate) fn scale(&self) -> f64 {
        1. / (self.sizes.2 as f64).sqrt()
    }
}

pub(crate) fn block(size: usize) -> NonZeroUsize {
    NonZeroUsize::new(size).unwrap()
}

fn one(mask: AttentionMask, q_len: usize, kv_len: usize, prefix: usize) -> Segments {
    Segments::end_to_end([KeyRanges::new(mask, q_len, kv_len, prefix)])
}

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![];
    let l = 40;
    for (n, heads, kv_heads, d) in [(2, 2, 2, 16), (1, 6, 2, 8), (2, 3, 1, 20)] {
        let sizes = (heads, kv_heads, d);
        let mut case = |name, ranges| cases.push(Case::windows(name, ranges, n, sizes));
        case("causal", KeyRanges::new(AttentionMask::Causal, l, l, 0));
        case("full", KeyRanges::new(AttentionMask::Full, l, l, 0));
        for size in [1, 2, 4, 8, l] {
            let block_size = block(size);
            let causal = AttentionMask::BlockCausal { block_size };
            case("block causal", KeyRanges::new(causal, l, l, 0));
            let diffusion = AttentionMask::BlockDiffusion { block_size, seq_len: l };
            let ranges = KeyRanges::new(diffusion, 2 * l, 2 * l, 0);
            case("noisy half", ranges.first_queries(l));
            case("block diffusion", ranges);
        }
    }
    // Decoding: few queries, a long cache, more keys than one piece of the split.
    for q_len in [1, 2, 3, 4, 5, 8, 16] {
        for (heads, kv_heads) in [(4, 4), (9, 3)] {
            let ranges = KeyRanges::new(AttentionMask::Full, q_len, 700 + q_len, 700);
            cases.push(Case::windows(&format!("decode {q_len}"), ranges, 1, (heads, kv_heads, 16)));
        }
    }
    // The fused commit: the finished block and the next one.
    let mask = AttentionMask::BlockCausal { block_size: block(4) };
    cases.push(Case::windows("commit", KeyRanges::new(mask, 8, 33, 25), 2, (6, 3, 24)));
    // Uneven documents, a tail that ends in the middle of a block, a document of one token.
    let documents = [vec![7, 1, 18, 14], vec![40], vec![3, 37]];
    let diffusion = AttentionMask::BlockDiffusion { block_size: block(4), seq_len: 40 };
    for mask in [
        AttentionMask::Causal,
        AttentionMask::Full,
        AttentionMask::BlockCausal { block_size: block(4) },
        diffusion,
    ] {
        let of_window = |lengths: &Vec<usize>| KeyRanges::documents(mask, lengths).unwrap();
        let segments = Segments::end_to_end(documents.iter().map(of_window));
        cases.push(Case::new("documents", segments, (4, 2, 16)));
    }
    // Larger than a tile in both directions; 130 = 2 tiles and a bit.
    let diffusion = AttentionMask::BlockDiffusion { block_size: block(4), seq_len: 130 };
    let tiles = KeyRanges::new(diffusion, 260, 260, 0);
    cases.push(Case::windows("tiles", tiles, 1, (2, 1, 64)));
    let tiles = KeyRanges::new(diffusion, 260, 260 + 70, 70);
    cases.push(Case::windows("tiles", tiles, 1, (3, 1, 128)));
    cases.extend(ragged());
    cases
}

/// Segments of all lengths and masks beside each other, some without a query, and keys in another order than
/// the queries, with rows between them that nobody reads.
fn ragged() -> Vec<Case> {
    let diffusion = AttentionMask::BlockDiffusion { block_size: block(4), seq_len: 50 };
    let ranges = [
        KeyRanges::new(AttentionMask::Causal, 3, 3, 0),
        KeyRanges::new(AttentionMask::Full, 1, 150, 149),
        KeyRanges::new(diffusion, 100, 100, 0),
        KeyRanges::new(diffusion, 100, 100, 0).select_queries(&[5, 99, 7]),
        KeyRanges::new(diffusion, 100, 100, 0).select_queries(&[]),
        KeyRanges::new(AttentionMask::BlockCausal { block_size: block(4) }, 17, 30, 13),
        KeyRanges::speculative(block(4), 4, 8, 20),
    ];
    let few = Segments::end_to_end([&ranges[0], &ranges[1], &ranges[3]].map(Clone::clone));
    // Queries without keys, where k and v end.
    let blind = KeyRanges::new(AttentionMask::Full, 2, 0, 0);
    let ends_blind = Segments::end_to_end([ranges[0].clone(), blind]);
    let together = Segments::end_to_end(ranges.clone());
    let mut next = 2;
    let mut apart: Vec<Segment> = together.iter().cloned().collect();
    for segment in apart.iter_mut().rev() {
        segment.keys = next..next + segment.keys.len();
        next = segment.keys.end + 3;
    }
    vec![
        Case::new("ragged", together, (6, 2, 16)),
        Case::new("ragged, few", few, (3, 3, 8)),
        Case::new("ragged, ends blind", ends_blind, (4, 2, 8)),
        Case::new("ragged, keys apart", Segments::new(apart).unwrap(), (4, 1, 12)),
    ]
}

pub(crate) fn every_case_agrees_with_the_reference(backend: Backend) {
    for case in cases() {
        let f =
            |x: &[Tensor]| attention(backend, &x[0], &x[1], &x[2], &case.segments, case.scale());
        agrees_with_f64(&case.name, &case.inputs(), &f).unwrap();
    }
}

/// The inputs are transposed views, with strides of their own.
pub(crate) fn order_of_dimensions_does_not_matter(backend: Backend) {
    for case in cases() {
        let swap = |x: &Tensor| x.transpose(0, 1).unwrap();
        let inputs = case.inputs().map(|x| swap(&x).contiguous().unwrap());
        let f = |x: &[Tensor]| {
            let (q, k, v) = (swap(&x[0]), swap(&x[1]), swap(&x[2]));
            attention(backend, &q, &k, &v, &case.segments, case.scale())
        };
        agrees_with_f64(&case.name, &inputs, &f).unwrap();
    }
}

/// A cache holds more rows than are filled: keys come as a narrowed view.
pub(crate) fn narrowed_caches_are_read_in_place(backend: Backend) {
    let mut draw = Numbers::new(3);
    let q = draw.tensor(&[4, 4, 16]);
    let (k, v) = (draw.tensor(&[2, 90, 16]), draw.tensor(&[2, 90, 16]));
    let segments = one(AttentionMask::Full, 4, 70, 66);
    let f = |x: &[Tensor]| {
        let narrowed = |x: &Tensor| x.transpose(0, 1)?.narrow(0, 5, 70);
        attention(backend, &x[0], &narrowed(&x[1])?, &narrowed(&x[2])?, &segments, 0.25)
    };
    agrees_with_f64("narrowed", &[q, k, v], &f).unwrap();
}

/// Keys and values, one pair for each segment.
type Caches = Vec<(StoredRows, StoredRows)>;

/// The keys and values of each segment in a cache of its own, with room behind them, and segments that count from
/// each cache's first row.
fn caches(case: &Case, precision: CachePrecision) -> (Caches, Segments) {
    let [_, k, v] = case.inputs();
    let cache = |x: &Tensor, segment: &Segment| {
        let (rows, (_, heads, d)) = (segment.keys.len(), x.dims3().unwrap());
        let shape = [rows + 9, heads, d];
        let cache = StoredRows::zeros(precision, shape, DType::F32, &Device::Cpu).unwrap();
        cache.write(0, &Numbers::new(8).tensor(&shape)).unwrap();
        if rows > 0 {
            cache.write(0, &x.narrow(0, segment.keys.start, rows).unwrap()).unwrap();
        }
        cache
    };
    let pair = |segment: &Segment| (cache(&k, segment), cache(&v, segment));
    let own = |segment: &Segment| Segment { keys: 0..segment.keys.len(), ..segment.clone() };
    let segments = Segments::new(case.segments.iter().map(own).collect()).unwrap();
    (case.segments.iter().map(pair).collect(), segments)
}

/// Every case and precision that fit each other, and all masks with heads that fit every precision.
fn cases_of_caches() -> impl Iterator<Item = (Case, CachePrecision)> {
    let wide = ragged().into_iter().zip([32, 64, 96, 160]).map(|(case, d)| {
        let (heads, kv_heads, _) = case.sizes;
        Case::new("wide", case.segments, (heads, kv_heads, d))
    });
    let fits = |case: &Case, precision: CachePrecision| precision.row_bytes(case.sizes.2).is_ok();
    let with = move |case: Case| {
        let precisions = CachePrecision::ALL.into_iter().filter(|p| fits(&case, *p));
        precisions
            .map(|p| (Case { name: format!("{}, {p}", case.name), ..case.clone() }, p))
            .collect::<Vec<_>>()
    };
    cases().into_iter().chain(wide).flat_map(with)
}

pub(crate) fn caches_that_lie_apart_are_read_as_if_they_were_one(backend: Backend) {
    for case in cases() {
        let [q, k, v] = case.inputs();
        let (caches, segments) = caches(&case, CachePrecision::F32);
        let found = attention_over(backend, &q, &caches, &segments, case.scale()).unwrap();
        let [q, k, v] = [q, k, v].map(|x| x.to_dtype(DType::F64).unwrap());
        let want = reference::attention(&q, &k, &v, &case.segments, case.scale()).unwrap();
        assert!(error(&found, &want) < TOLERANCE, "{}", case.name);
    }
    let case = &ragged()[0];
    let (mut caches, segments) = caches(case, CachePrecision::F32);
    caches.pop();
    let refused = attention_over(backend, &case.inputs()[0], &caches, &segments, 1.).unwrap_err();
    assert!(refused.to_string().contains("6 pairs of keys and values for 7 segments"), "{refused}");
}

/// Packed keys and values give the bits that the same numbers give as floats, and those are right.
pub(crate) fn packed_caches_are_read_as_what_they_unpack_to(backend: Backend) {
    for (case, precision) in cases_of_caches() {
        let (caches, segments) = caches(&case, precision);
        let q = &case.inputs()[0];
        let over = |q: &Tensor, caches: &Caches| {
            attention_over(backend, q, caches, &segments, case.scale()).unwrap()
        };
        let unpacked = |x: &StoredRows| StoredRows::from(x.unpacked().unwrap());
        let unpacked: Caches = caches.iter().map(|(k, v)| (unpacked(k), unpacked(v))).collect();
        let found = over(q, &caches);
        assert_eq!(numbers(&found), numbers(&over(q, &unpacked)), "{}", case.name);
        let wide = q.to_dtype(DType::F64).unwrap();
        let want = reference::attention_over(&wide, &caches, &segments, case.scale()).unwrap();
        assert!(error(&found, &want) < TOLERANCE, "{}", case.name);
    }
}

pub(crate) fn a_sequence_has_the_same_bits_alone_and_in_any_company(backend: Backend) {
    for (case, precision) in cases_of_caches().filter(|(case, _)| case.segments.len() > 3) {
        let (caches, segments) = caches(&case, precision);
        let over = |q: &Tensor, caches: &[(StoredRows, StoredRows)], segments: &Segments| {
            attention_over(backend, q, caches, segments, case.scale()).unwrap()
        };
        let q = &case.inputs()[0];
        let together = over(q, &caches, &segments);
        for (segment, cache) in segments.iter().zip(&caches) {
            let rows = segment.queries.clone();
            let own = |x: &Tensor| x.narrow(0, rows.start, rows.len()).unwrap();
            let alone = Segments::end_to_end([segment.ranges.clone()]);
            let alone = over(&own(q), std::slice::from_ref(cache), &alone);
            assert_eq!(numbers(&alone), numbers(&own(&together)), "{} {rows:?}", case.name);
        }
    }
}

pub(crate) fn keys_of_two_segments_have_no_gradient_and_the_error_says_so(backend: Backend) {
    let ranges = KeyRanges::new(AttentionMask::Full, 2, 5, 0);
    let segment = |queries, keys| Segment { queries, keys, ranges: ranges.clone() };
    let segments = Segments::new(vec![segment(0..2, 0..5), segment(2..4, 4..9)]).unwrap();
    let mut draw = Numbers::new(19);
    let q = Var::from_tensor(&draw.tensor(&[4, 2, 8])).unwrap();
    let kv = draw.tensor(&[9, 1, 8]);
    let y = attention(backend, &q, &kv, &kv, &segments, 0.3).unwrap();
    let [q, kv] = [q.as_tensor(), &kv].map(|x| x.to_dtype(DType::F64).unwrap());
    let want = reference::attention(&q, &kv, &kv, &segments, 0.3).unwrap();
    assert!(error(&y, &want) < TOLERANCE);
    if backend != Backend::Reference {
        let refused = y.backward().unwrap_err().to_string();
        assert!(refused.contains("share key 4"), "{refused}");
    }
}

/// softmax is taken of large scores without overflow, and of hidden rows without NaN.
pub(crate) fn extreme_scores_stay_finite(backend: Backend) {
    let mut draw = Numbers::new(11);
    let inputs = [(); 3].map(|()| draw.tensor(&[33, 2, 8]));
    let segments = one(AttentionMask::Causal, 33, 33, 0);
    let y = attention(backend, &inputs[0], &inputs[1], &inputs[2], &segments, 1e3).unwrap();
    let wide = inputs.map(|x| x.to_dtype(DType::F64).unwrap());
    let want = reference::attention(&wide[0], &wide[1], &wide[2], &segments, 1e3).unwrap();
    // Scores of size 1e4 are each rounded by about 1e-3.
    assert!(error(&y, &want) < 2e-2);
}

/// A query without keys yields zeros and passes no gradient.
pub(crate) fn blind_queries_yield_zeros(backend: Backend) {
    // Only the first noisy key is there, and only the first noisy query may see it.
    let mask = AttentionMask::BlockDiffusion { block_size: block(1), seq_len: 3 };
    let segments = one(mask, 3, 1, 0);
    let mut draw = Numbers::new(13);
    let (q, v) = (draw.tensor(&[3, 1, 8]), draw.tensor(&[1, 1, 8]));
    let f = |x: &[Tensor]| attention(backend, &x[0], &x[1], &x[2], &segments, 0.3);
    let run = run(&[q, v.clone(), v], DType::F32, &f).unwrap();
    let y = numbers(&run.value);
    assert!(y[8..].iter().all(|x| *x == 0.) && y[..8].iter().any(|x| *x != 0.));
    for gradient in &run.gradients {
        assert!(numbers(gradient).iter().all(|x| x.is_finite()));
    }
}

/// A NaN reaches every query that sees it. In a key it reaches no other query; in a value it may, for hidden values
/// are multiplied with 0. The definition multiplies hidden keys with 0 too, so that there it reaches all.
pub(crate) fn nan_comes_through(backend: Backend) {
    let mut draw = Numbers::new(17);
    for len in [6usize, 70] {
        let segments = one(AttentionMask::Causal, len, len, 0);
        let [q, k, v] = [(); 3].map(|()| draw.tensor(&[len, 1, 8]));
        let bad = numbers(&v).into_iter().enumerate();
        let bad =
            bad.map(|(i, x)| if i == 8 * 3 { f32::NAN } else { x as f32 }).collect::<Vec<_>>();
        let bad = Tensor::from_vec(bad, v.shape(), &Device::Cpu).unwrap();
        let is_nan = |k, v| {
            let y = numbers(&attention(backend, &q, k, v, &segments, 0.3).unwrap());
            y.chunks(8).map(|row| row[0].is_nan()).collect::<Vec<_>>()
        };
        let sees = (0..len).map(|query| query >= 3).collect::<Vec<_>>();
        assert_eq!(is_nan(&bad, &v), sees);
        assert_eq!(is_nan(&k, &bad)[3..], sees[3..]);
    }
}

pub(crate) fn gradients_of_the_reference_are_slopes(backend: Backend) {
    for case in cases().into_iter().filter(|case| case.keys() < 100) {
        let f =
            |x: &[Tensor]| attention(backend, &x[0], &x[1], &x[2], &case.segments, case.scale());
        gradients_are_slopes(&case.name, &case.inputs(), &f).unwrap();
    }
}

pub(crate) fn thread_count_does_not_matter(backend: Backend) {
    for case in cases() {
        let f = || {
            let f = |x: &[Tensor]| {
                attention(backend, &x[0], &x[1], &x[2], &case.segments, case.scale())
            };
            let run = run(&case.inputs(), DType::F32, &f).unwrap();
            let all = std::iter::once(&run.value).chain(&run.gradients);
            all.flat_map(numbers).collect::<Vec<_>>()
        };
        same_for_any_thread_count(&case.name, &f);
    }
}

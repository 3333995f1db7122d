//! Records what this sampler picks, so that kernels which pick on a device are held to the same tokens.
//!
//! The lines are initialisers of C++: the tests of `lacuna-kernels/cuda` include them and make the same logits.

use super::super::*;

const RECORD: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../lacuna-kernels/cuda/tests/candidates.inc");

/// Splitmix64, in a line on both sides.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The shapes of rows; every logit is exact, so that both sides have the same bits.
const SHAPES: [&str; 6] = ["Uniform", "Peaked", "Ties", "Flat", "Holes", "Steep"];
/// Two tokens that can come out, and no other.
const PAIR: &str = "Pair";

fn row(shape: &str, vocab: usize, mut state: u64) -> Vec<f32> {
    let logit = |token: usize, bits: u64| {
        let uniform = ((bits >> 40) as i32 - (1 << 23)) as f32 / (1 << 20) as f32; // −8..8
        match shape {
            "Peaked" if token == vocab / 3 => 20.0,
            "Ties" => (uniform * 2.0).floor() / 2.0,
            "Flat" => 1.5,
            "Holes" if token != 3 && !bits.is_multiple_of(8) => f32::NEG_INFINITY,
            "Steep" => uniform * 4.0,
            PAIR => [0.5, 0.0].get(token.wrapping_sub(3)).copied().unwrap_or(f32::NEG_INFINITY),
            _ => uniform,
        }
    };
    (0..vocab).map(|token| logit(token, next(&mut state))).collect()
}

/// A row, and what is asked of it.
#[derive(Clone)]
struct Case {
    shape: &'static str,
    vocab: usize,
    /// Names the row's logits, the position and the refinement.
    number: usize,
    sampling: Sampling,
    forbidden: Vec<u32>,
}

impl Case {
    fn row(&self) -> Vec<f32> {
        row(self.shape, self.vocab, self.number as u64)
    }

    fn position(&self) -> usize {
        1000 + self.number
    }

    fn refinement(&self) -> usize {
        self.number % 5
    }

    fn pick(&self, logits: &[f32]) -> Candidate {
        let seen = match self.sampling.penalises() {
            true => (0..self.vocab as u32).step_by(3).map(|token| (token, 1)).collect(),
            false => Seen::new(),
        };
        let site = Site {
            request: 0,
            position: self.position(),
            refinement: self.refinement(),
            forbidden: &self.forbidden,
            seen: &seen,
            allowed: None,
        };
        let needs = Needs { margin: true, entropy: true, uniform: true };
        CandidateSampler::default().pick(logits, &self.sampling, needs, site).unwrap()
    }

    /// The fields as C++ reads them, but for the candidate's numbers.
    fn line(&self, token: u32) -> String {
        let Sampling { temperature, top_k, top_p, min_p, repetition_penalty, seed, .. } =
            self.sampling;
        let forbidden: Vec<_> = self.forbidden.iter().map(u32::to_string).collect();
        [
            format!("Shape::{}, {}, {}", self.shape, self.vocab, self.number),
            format!("{seed}u, {}, {}", self.position(), self.refinement()),
            format!("{temperature:?}, {}", top_k.map_or(0, NonZeroUsize::get)),
            format!("{:?}, {:?}", top_p.unwrap_or(0.0), min_p.unwrap_or(0.0)),
            format!("{repetition_penalty:?}, {{{}}}, {token}", forbidden.join(", ")),
        ]
        .join(", ")
    }
}

/// Settings by turns, over vocabularies of every size that matters to a device; 155 136 is a real model's.
fn cases() -> Vec<Case> {
    let warm = |temperature| Sampling { temperature, ..Sampling::default() };
    let top_k = |k, temperature| Sampling { top_k: NonZeroUsize::new(k), ..warm(temperature) };
    let top_p = |p, temperature| Sampling { top_p: Some(p), ..warm(temperature) };
    let kinds = [
        Sampling::default(),
        warm(1.0),
        warm(1e-40),
        top_k(1, 0.8),
        top_k(100, 30.0),
        Sampling { min_p: Some(0.3), ..top_k(200, 4.0) },
        top_k(1000, 5.0),
        top_p(0.95, 1.0),
        top_p(1.0, 1.0),
        Sampling { min_p: Some(0.02), ..warm(1.5) },
        Sampling { min_p: Some(0.1), ..top_p(0.99, 2.0) },
        Sampling { repetition_penalty: 3.0, ..warm(6.0) },
        Sampling { repetition_penalty: 0.7, ..top_p(0.8, 1.0) },
        Sampling { repetition_penalty: 2.0, ..Sampling::default() },
    ];
    let mut cases = Vec::new();
    for (i, vocab) in [5, 300, 4096, 4200, 9000, 155_136].into_iter().enumerate() {
        for (j, kind) in kinds.iter().enumerate() {
            let number = cases.len();
            let sampling = Sampling { seed: (7 + number as u64) << 40, ..kind.clone() };
            let (shape, forbidden) = (SHAPES[(i + j) % SHAPES.len()], forbidden(j, vocab));
            cases.push(Case { shape, vocab, number, sampling, forbidden });
        }
        for edge in [Edge::TopK, Edge::TopP, Edge::Both, Edge::MinP] {
            cases.extend(around_an_edge(edge, cases.len(), vocab));
        }
        let peak = vec![vocab as u32 / 3];
        let plain = |shape, number, forbidden| Case {
            shape,
            vocab,
            number,
            sampling: warm(1.0),
            forbidden,
        };
        cases.push(plain("Peaked", cases.len(), peak));
        cases.push(overtaking(plain(PAIR, cases.len(), vec![])));
    }
    cases
}

/// The filters that end somewhere.
#[derive(Clone, Copy)]
enum Edge {
    TopK,
    TopP,
    /// Top-p of what top-k leaves.
    Both,
    MinP,
}

/// Two draws of one row whose filter ends before and behind a token that wins if it is kept.
///
/// Shares and weights are 1e-10 to both sides of the edge: so a device's total has to be this sampler's own, which is
/// up to 1e-6 off the exact one.
fn around_an_edge(edge: Edge, number: usize, vocab: usize) -> [Case; 2] {
    let (shape, temperature, kept) = match edge {
        Edge::TopK => ("Ties", 30.0, (vocab / 5).min(60)),
        _ => ("Uniform", 4.0, 2),
    };
    let sampling = Sampling { temperature, ..Sampling::default() };
    let case = Case { shape, vocab, number, sampling, forbidden: forbidden(1, vocab) };
    let logits = case.row();
    let mut order: Vec<_> =
        (0..vocab).filter(|&token| !is_member(&case.forbidden, token)).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
    let max = logits[order[0]];
    let weight = |token: usize| ((f64::from(logits[token]) - f64::from(max)) / temperature).exp();
    let sum = |tokens: &[usize]| tokens.iter().map(|&token| weight(token)).sum::<f64>();
    let pieces = rows::pieces(&logits, &case.forbidden);
    let sums = pieces.map(|(_, piece)| rows::exp_sums::<false>(piece, max, scale(temperature)).0);
    let total = match edge {
        Edge::Both => sum(&order[..order.len().min(50)]),
        _ => sums.sum(),
    };
    let share = sum(&order[..kept]) / total;
    let with = |more: bool, seed| {
        let mut case = case.clone();
        let by = if more { 1e-10 } else { -1e-10 };
        case.sampling.seed = seed;
        match edge {
            Edge::TopK => case.sampling.top_k = NonZeroUsize::new(kept + usize::from(more)),
            Edge::TopP | Edge::Both => case.sampling.top_p = Some(rounded(share * (1.0 + by))),
            Edge::MinP => case.sampling.min_p = Some(rounded(weight(order[kept]) * (1.0 - by))),
        }
        if let Edge::Both = edge {
            case.sampling.top_k = NonZeroUsize::new(50);
        }
        case
    };
    let wins = |&seed: &u64| with(true, seed).pick(&logits).token as usize == order[kept];
    let seed = (0..).find(wins).expect("a token of weight wins sooner or later");
    [with(false, seed), with(true, seed)]
}

/// To thirteen digits, that another platform's last bit of an exponential gives the same line.
fn rounded(x: f64) -> f64 {
    format!("{x:.12e}").parse().expect("it is a number")
}

/// A draw that a token wins whose score has not the highest bound (with E ≥ v): rare but for few tokens.
fn overtaking(mut case: Case) -> Case {
    let logits = case.row();
    let overtakes = |&seed: &u64| {
        let mut words =
            Words::new(stream(seed, Purpose::Token, case.position(), case.refinement()));
        let mut bound = |token: usize| {
            f64::from(logits[token]) - (f64::from(words.word(token)) / 4_294_967_296.0).ln()
        };
        let leader = if bound(3) > bound(4) { 3 } else { 4 };
        let sampling = Sampling { seed, ..case.sampling.clone() };
        Case { sampling, ..case.clone() }.pick(&logits).token != leader
    };
    case.sampling.seed = (0..).find(overtakes).expect("some draws are won so");
    case
}

/// Forbids tokens in the middle of chunks and at both ends, every second case.
fn forbidden(case: usize, vocab: usize) -> Vec<u32> {
    let mut tokens = match case % 4 {
        1 => vec![2, vocab / 3],
        3 => vec![0, vocab / 2, vocab / 2 + 70, vocab - 1, vocab + 9],
        _ => vec![],
    };
    tokens.sort_unstable();
    tokens.into_iter().map(|token| token as u32).collect()
}

/// The numbers behind a line's last four commas, and what stands before them.
fn numbers(line: &str) -> Option<(&str, Vec<f64>)> {
    let (at, _) = line.rmatch_indices(", ").nth(3)?;
    let numbers = line[at + 2..].trim_end_matches("},").split(", ");
    Some((line[..at].trim_start_matches('{'), numbers.map(|x| x.parse().unwrap()).collect()))
}

#[test]
fn devices_are_held_to_the_candidates_that_are_picked_here() {
    let picked = cases().into_iter().map(|case| {
        let picked = case.pick(&case.row());
        let numbers = [picked.confidence, picked.margin, picked.entropy, picked.uniform];
        (case.line(picked.token), numbers)
    });
    let picked: Vec<_> = picked.collect();
    if std::env::var_os("LACUNA_RECORD").is_some() {
        let text = picked.iter().map(|(line, numbers)| {
            format!("{{{line}, {}}},\n", numbers.map(|x| format!("{x:?}")).join(", "))
        });
        std::fs::write(RECORD, text.collect::<String>()).unwrap();
    }
    let record = std::fs::read_to_string(RECORD).unwrap();
    assert_eq!(record.lines().count(), picked.len(), "LACUNA_RECORD=1 records anew");
    for (recorded, (line, now)) in record.lines().zip(picked) {
        let (recorded_line, then) = numbers(recorded).unwrap();
        assert_eq!(recorded_line, line, "LACUNA_RECORD=1 records anew");
        // The exponential and the logarithm are the platform's: an ulp or two.
        let near = |a: f64, b: f64| (a - b).abs() <= 1e-13 * (1.0 + b.abs());
        assert!(then.iter().zip(now).all(|(a, b)| near(*a, b)), "{recorded}, now {now:?}");
    }
}

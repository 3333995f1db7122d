use super::*;
use lacuna_kernels::{AttentionMask, Backend, Spans, attention, attention_by_token, reference};
use std::num::NonZeroUsize;

pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) spans: Spans,
    /// batch, heads, kv heads, d
    pub(crate) sizes: (usize, usize, usize, usize),
}

impl Case {
    fn new(name: &str, spans: Spans, sizes: (usize, usize, usize, usize)) -> Self {
        Self { name: format!("{name} {sizes:?}"), spans, sizes }
    }

    pub(crate) fn inputs(&self) -> [Tensor; 3] {
        let (b, heads, kv_heads, d) = self.sizes;
        let mut draw = Numbers::new(7);
        let (q_len, kv_len) = (self.spans.q_len(), self.spans.kv_len());
        let kv = [b, kv_heads, kv_len, d];
        [draw.tensor(&[b, heads, q_len, d]), draw.tensor(&kv), draw.tensor(&kv)]
    }

    pub(crate) fn scale(&self) -> f64 {
        1. / (self.sizes.3 as f64).sqrt()
    }
}

pub(crate) fn block(size: usize) -> NonZeroUsize {
    NonZeroUsize::new(size).unwrap()
}

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![];
    let l = 40;
    for (b, heads, kv_heads, d) in [(2, 2, 2, 16), (1, 6, 2, 8), (2, 3, 1, 20)] {
        let sizes = (b, heads, kv_heads, d);
        cases.push(Case::new("causal", Spans::new(AttentionMask::Causal, l, l, 0), sizes));
        cases.push(Case::new("full", Spans::new(AttentionMask::Full, l, l, 0), sizes));
        for size in [1, 2, 4, 8, l] {
            let block_size = block(size);
            let causal = AttentionMask::BlockCausal { block_size };
            cases.push(Case::new("block causal", Spans::new(causal, l, l, 0), sizes));
            let diffusion = AttentionMask::BlockDiffusion { block_size, seq_len: l };
            let spans = Spans::new(diffusion, 2 * l, 2 * l, 0);
            cases.push(Case::new("noisy half", spans.first_queries(l), sizes));
            cases.push(Case::new("block diffusion", spans, sizes));
        }
    }
    // Decoding: few queries, a long cache, more keys than one piece of the split.
    for q_len in [1, 2, 3, 4, 5, 8, 16] {
        for (heads, kv_heads) in [(4, 4), (9, 3)] {
            let spans = Spans::new(AttentionMask::Full, q_len, 700 + q_len, 700);
            cases.push(Case::new(&format!("decode {q_len}"), spans, (1, heads, kv_heads, 16)));
        }
    }
    // The fused commit: the finished block and the next one.
    let mask = AttentionMask::BlockCausal { block_size: block(4) };
    cases.push(Case::new("commit", Spans::new(mask, 8, 33, 25), (2, 6, 3, 24)));
    // Ragged documents, a tail that ends in the middle of a block, a document of one token.
    let documents = [vec![7, 1, 18, 14], vec![40], vec![3, 37]];
    let diffusion = AttentionMask::BlockDiffusion { block_size: block(4), seq_len: 40 };
    for mask in [
        AttentionMask::Causal,
        AttentionMask::Full,
        AttentionMask::BlockCausal { block_size: block(4) },
        diffusion,
    ] {
        let spans = Spans::documents(mask, &documents).unwrap();
        cases.push(Case::new("documents", spans, (3, 4, 2, 16)));
    }
    // Larger than a tile in both directions; 130 = 2 tiles and a bit.
    let diffusion = AttentionMask::BlockDiffusion { block_size: block(4), seq_len: 130 };
    cases.push(Case::new("tiles", Spans::new(diffusion, 260, 260, 0), (1, 2, 1, 64)));
    cases.push(Case::new("tiles", Spans::new(diffusion, 260, 260 + 70, 70), (1, 3, 1, 128)));
    cases
}

pub(crate) fn every_case_agrees_with_the_reference(backend: Backend) {
    for case in cases() {
        let f = |x: &[Tensor]| attention(backend, &x[0], &x[1], &x[2], &case.spans, case.scale());
        agrees_with_f64(&case.name, &case.inputs(), &f).unwrap();
    }
}

/// The token-major entry, on views with strides of their own.
pub(crate) fn order_of_dimensions_does_not_matter(backend: Backend) {
    for case in cases() {
        let swap = |x: &Tensor| x.transpose(1, 2).unwrap();
        let f = |x: &[Tensor]| {
            let (q, k, v) = (swap(&x[0]), swap(&x[1]), swap(&x[2]));
            swap_result(attention_by_token(backend, &q, &k, &v, &case.spans, case.scale()))
        };
        agrees_with_f64(&case.name, &case.inputs(), &f).unwrap();
        let g = |x: &[Tensor]| {
            let (q, k, v) = (swap(&x[0]), swap(&x[1]), swap(&x[2]));
            let (q, k, v) = (q.contiguous()?, k.contiguous()?, v.contiguous()?);
            swap_result(attention_by_token(backend, &q, &k, &v, &case.spans, case.scale()))
        };
        agrees_with_f64(&case.name, &case.inputs(), &g).unwrap();
    }
    fn swap_result(y: Result<Tensor>) -> Result<Tensor> {
        y?.transpose(1, 2)
    }
}

/// A cache holds more rows than are filled: keys come as a narrowed, strided view.
pub(crate) fn narrowed_caches_are_read_in_place(backend: Backend) {
    let mut draw = Numbers::new(3);
    let q = draw.tensor(&[2, 4, 4, 16]);
    let (k, v) = (draw.tensor(&[2, 2, 90, 16]), draw.tensor(&[2, 2, 90, 16]));
    let spans = Spans::new(AttentionMask::Full, 4, 70, 66);
    let f = |x: &[Tensor]| {
        let (k, v) = (x[1].narrow(2, 0, 70)?, x[2].narrow(2, 0, 70)?);
        attention(backend, &x[0], &k, &v, &spans, 0.25)
    };
    agrees_with_f64("narrowed", &[q, k, v], &f).unwrap();
}

/// softmax is taken of large scores without overflow, and of hidden rows without NaN.
pub(crate) fn extreme_scores_stay_finite(backend: Backend) {
    let mut draw = Numbers::new(11);
    let inputs = [(); 3].map(|()| draw.tensor(&[1, 2, 33, 8]));
    let spans = Spans::new(AttentionMask::Causal, 33, 33, 0);
    let y = attention(backend, &inputs[0], &inputs[1], &inputs[2], &spans, 1e3).unwrap();
    let wide = inputs.map(|x| x.to_dtype(DType::F64).unwrap());
    let want = reference::attention(&wide[0], &wide[1], &wide[2], &spans, 1e3).unwrap();
    // Scores of size 1e4 carry rounding of 1e-3 each.
    assert!(error(&y, &want) < 2e-2);
}

/// A query without keys yields zeros and passes no gradient.
pub(crate) fn blind_queries_yield_zeros(backend: Backend) {
    // Only the first noisy key is there, and only the first noisy query may see it.
    let mask = AttentionMask::BlockDiffusion { block_size: block(1), seq_len: 3 };
    let spans = Spans::new(mask, 3, 1, 0);
    let mut draw = Numbers::new(13);
    let (q, v) = (draw.tensor(&[1, 1, 3, 8]), draw.tensor(&[1, 1, 1, 8]));
    let run = run(&[q, v.clone(), v], DType::F32, &|x| {
        attention(backend, &x[0], &x[1], &x[2], &spans, 0.3)
    })
    .unwrap();
    let y = numbers(&run.value);
    assert!(y[8..].iter().all(|x| *x == 0.) && y[..8].iter().any(|x| *x != 0.));
    for gradient in &run.gradients {
        assert!(numbers(gradient).iter().all(|x| x.is_finite()));
    }
}

/// A NaN reaches every query that sees it; in a key, no other. (Hidden values count 0 times.) The
/// definition adds hidden keys times 0, so that there it reaches all.
pub(crate) fn nan_comes_through(backend: Backend) {
    if backend == Backend::Reference {
        return;
    }
    let mut draw = Numbers::new(17);
    for len in [6usize, 70] {
        let spans = Spans::new(AttentionMask::Causal, len, len, 0);
        let [q, k, v] = [(); 3].map(|()| draw.tensor(&[1, 1, len, 8]));
        let bad = numbers(&v).into_iter().enumerate();
        let bad =
            bad.map(|(i, x)| if i == 8 * 3 { f32::NAN } else { x as f32 }).collect::<Vec<_>>();
        let bad = Tensor::from_vec(bad, v.shape(), &Device::Cpu).unwrap();
        let is_nan = |k, v| {
            let y = numbers(&attention(backend, &q, k, v, &spans, 0.3).unwrap());
            y.chunks(8).map(|row| row[0].is_nan()).collect::<Vec<_>>()
        };
        let sees = (0..len).map(|query| query >= 3).collect::<Vec<_>>();
        assert_eq!(is_nan(&bad, &v), sees);
        assert_eq!(is_nan(&k, &bad)[3..], sees[3..]);
    }
}

pub(crate) fn gradients_of_the_reference_are_slopes(backend: Backend) {
    for case in cases().into_iter().filter(|c| c.spans.kv_len() < 100) {
        let f = |x: &[Tensor]| attention(backend, &x[0], &x[1], &x[2], &case.spans, case.scale());
        gradients_are_slopes(&case.name, &case.inputs(), &f).unwrap();
    }
}

pub(crate) fn thread_count_does_not_matter(backend: Backend) {
    for case in cases() {
        let f = || {
            let f =
                |x: &[Tensor]| attention(backend, &x[0], &x[1], &x[2], &case.spans, case.scale());
            let run = run(&case.inputs(), DType::F32, &f).unwrap();
            let all = std::iter::once(&run.value).chain(&run.gradients);
            all.flat_map(numbers).collect::<Vec<_>>()
        };
        same_for_any_thread_count(&case.name, &f);
    }
}

//! Compares the elementwise and row-wise operations with their definitions, and checks their refusals.

use super::*;
use lacuna_kernels::{
    Backend, Rope, embedding, linear, linear_cross_entropy, reference, rms_norm, rope, swiglu,
    token_nll,
};

/// Each elementwise or row-wise operation runs on odd sizes: one row, no multiple of any vector, more rows than a
/// task takes, strided views.
pub(crate) fn every_case_agrees_with_the_reference(backend: Backend) {
    each_case(backend, &|name, inputs, f| agrees_with_f64(name, inputs, f).unwrap());
}

pub(crate) fn gradients_of_the_reference_are_slopes(backend: Backend) {
    each_case(backend, &|name, inputs, f| {
        // Larger sums round by more than the slope's tolerance.
        if inputs.iter().all(|x| x.elem_count() < 5000) {
            gradients_are_slopes(name, inputs, f).unwrap();
        }
    });
}

pub(crate) fn thread_count_does_not_matter(backend: Backend) {
    each_case(backend, &|name, inputs, f| {
        same_for_any_thread_count(name, &|| {
            let run = run(inputs, DType::F32, f).unwrap();
            std::iter::once(&run.value).chain(&run.gradients).flat_map(numbers).collect::<Vec<_>>()
        });
    });
}

type Operation<'a> = &'a (dyn Fn(&[Tensor]) -> Result<Tensor> + Sync);

fn each_case(backend: Backend, check: &dyn Fn(&str, &[Tensor], Operation<'_>)) {
    let mut draw = Numbers::new(21);
    // There is no h = 1: a norm of one number is its sign, and its gradient nothing but rounding.
    for (rows, h) in [(1, 2), (3, 7), (2, 64), (130, 33), (200, 96)] {
        let (x, w) = (draw.tensor(&[rows, h]), draw.tensor(&[h]));
        check("rms norm", &[x.clone(), w], &|x| rms_norm(backend, &x[0], &x[1], 1e-6));
        let up = draw.tensor(&[rows, h]);
        check("swiglu", &[x.clone(), up], &|x| swiglu(backend, &x[0], &x[1]));
        for out in [1, 5, 48] {
            let w = draw.tensor(&[out, h]);
            check("linear", &[x.clone(), w], &|x| linear(backend, &x[0], &x[1]));
        }
    }
    let x = draw.tensor(&[2, 3, 20]);
    let w = draw.tensor(&[20, 9]);
    check("strided linear", &[x, w], &|x| linear(backend, &x[0].transpose(0, 1)?, &x[1].t()?));
    let (gate, up) = (draw.tensor(&[40, 500]), draw.tensor(&[500, 40]));
    check("strided swiglu", &[gate, up], &|x| swiglu(backend, &x[0], &x[1].t()?));

    for (rows, heads, d) in [(1, 1, 2), (5, 3, 8), (34, 2, 20), (200, 3, 8)] {
        let positions: Vec<u32> = (0..rows as u32).map(|i| (7 * i + i / 17) % 40).collect();
        let x = draw.tensor(&[rows, heads, d]);
        let f = |x: &[Tensor]| rope(backend, &x[0], &table(x[0].dtype(), d)?, &positions);
        check("rope", std::slice::from_ref(&x), &f);
        let x = draw.tensor(&[heads, rows, d]);
        let f = |x: &[Tensor]| {
            rope(backend, &x[0].transpose(0, 1)?, &table(x[0].dtype(), d)?, &positions)
        };
        check("strided rope", &[x], &f);
    }

    let table = draw.tensor(&[150, 10]);
    let ids = (0..300).map(|_| draw.below(150) as u32 / 3 * 3).collect::<Vec<_>>();
    let ids = Tensor::from_vec(ids, (3, 100), &Device::Cpu).unwrap();
    check("embedding", &[table], &|x| embedding(backend, &x[0], &ids));

    // 300 rows of 9000 logits take two chunks; 33 of 7 are smaller than any vector.
    for (n, h, v) in [(1, 4, 3), (33, 12, 7), (300, 8, 9000)] {
        let (hidden, head) = (draw.tensor(&[n, h]), draw.tensor(&[v, h]));
        let targets = (0..n).map(|_| draw.below(v) as u32).collect::<Vec<_>>();
        let weights = (0..n).map(|i| [0.5, 4., 0., 1.3][i % 4]).collect::<Vec<_>>();
        check("cross-entropy", &[hidden, head], &|x| {
            Ok(linear_cross_entropy(backend, &x[0], &x[1], &targets, &weights)?.loss)
        });
    }
}

fn table(dtype: DType, d: usize) -> Result<Rope> {
    Rope::new(&Rope::frequencies(1e4, d), 64, dtype, &Device::Cpu)
}

pub(crate) fn nll_of_every_row_agrees_with_the_reference(backend: Backend) {
    let mut draw = Numbers::new(31);
    let (hidden, head) = (draw.tensor(&[40, 16]), draw.tensor(&[5000, 16]));
    let targets = (0..40).map(|_| draw.below(5000) as u32).collect::<Vec<_>>();
    let wide = |x: &Tensor| x.to_dtype(DType::F64).unwrap();
    let want = reference::token_nll(&wide(&hidden), &wide(&head), &targets).unwrap();
    let got = token_nll(backend, &hidden, &head, &targets).unwrap();
    let with_loss = linear_cross_entropy(backend, &hidden, &head, &targets, &[1.; 40]).unwrap();
    assert_eq!(got, with_loss.nll);
    for (got, want) in got.iter().zip(&want) {
        assert!((got - want).abs() < 4e-6 * (1. + want.abs()), "{got} {want}");
    }
    assert!(token_nll(backend, &hidden, &head, &[5000; 40]).is_err());
}

/// The loss is one term of many, so its gradients scale with the gradient that comes from above.
pub(crate) fn an_upstream_gradient_scales_both_gradients(backend: Backend) {
    let mut draw = Numbers::new(41);
    let inputs = [draw.tensor(&[9, 8]), draw.tensor(&[20, 8])];
    let f = |x: &[Tensor]| {
        let ce = linear_cross_entropy(backend, &x[0], &x[1], &[3; 9], &[1.; 9])?;
        ce.loss.affine(0.25, 0.)?.sqr()
    };
    agrees_with_f64("scaled", &inputs, &f).unwrap();
}

/// Half-precision operands go to the reference and come back in their own type.
pub(crate) fn half_precision_is_computed_in_single(backend: Backend) {
    let mut draw = Numbers::new(51);
    for dtype in [DType::BF16, DType::F16] {
        let half = |x: Tensor| x.to_dtype(dtype).unwrap();
        let (x, w) = (half(draw.tensor(&[4, 16])), half(draw.tensor(&[16])));
        let y = rms_norm(backend, &x, &w, 1e-6).unwrap();
        assert_eq!(y.dtype(), dtype);
        let wide = |x: &Tensor| x.to_dtype(DType::F64).unwrap();
        let want = reference::rms_norm(&wide(&x), &wide(&w), 1e-6).unwrap();
        // The result is rounded once, to 8 or 11 bits.
        assert!(error(&y, &want) < if dtype == DType::BF16 { 4e-3 } else { 5e-4 });
    }
}

pub(crate) fn wrong_shapes_are_refused_in_words(backend: Backend) {
    let mut draw = Numbers::new(61);
    let x = draw.tensor(&[2, 6]);
    let says = |result: Result<Tensor>, words: &str| {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    };
    says(linear(backend, &x, &draw.tensor(&[3, 5])), "expected [.., 5]");
    says(rms_norm(backend, &x, &draw.tensor(&[5]), 1e-6), "expected [.., 5]");
    says(swiglu(backend, &x, &draw.tensor(&[6, 2])), "expected [2, 6]");
    let ids = Tensor::new(&[1u32, 2], &Device::Cpu).unwrap();
    says(embedding(backend, &x, &ids), "expected one below 2");
    let q = draw.tensor(&[4, 1, 8]);
    let table = table(DType::F32, 8).unwrap();
    says(rope(backend, &q, &table, &[61, 62, 64, 63]), "position 64, expected one below 64");
    says(rope(backend, &q, &table, &[1, 2]), "2 positions for 4 rows");
}

//! Compares the gradients that are functions, in f32, with their definitions in f64.

use candle_core::{DType, Device, Tensor};
use lacuna_kernels::{
    AttentionMask, Backend, KeyRanges, Rope, Segments, add_rms_norm, attention_backward,
    attention_kept, embedding_backward, linear, linear_cross_entropy_gradients,
    linear_input_gradient, linear_weight_gradient, reference, rms_norm_backward, rope_backward,
    swiglu_backward,
};

fn tensor(shape: &[usize], salt: u64) -> Tensor {
    let n = shape.iter().product::<usize>() as u64;
    let value = |i: u64| {
        let x = (i + (salt << 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        ((x ^ (x >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    Tensor::from_vec((0..n).map(value).collect::<Vec<_>>(), shape, &Device::Cpu).unwrap()
}

fn wide(x: &Tensor) -> Tensor {
    x.to_dtype(DType::F64).unwrap()
}

/// Sums of at most a few thousand terms near 1, in f32 and another order: the largest seen is 1e-6.
fn assert_near(found: &Tensor, expected: &Tensor, what: &str) {
    assert_eq!(found.dims(), expected.dims(), "{what}");
    let top = |x: Tensor| {
        x.abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar::<f64>().unwrap()
    };
    let off = top((wide(found) - expected).unwrap()) / top(expected.clone());
    assert!(off <= 5e-6, "{what}: {off:.1e} off");
}

pub(crate) fn the_gradients_of_dense_layers_are_their_products(backend: Backend) {
    let (rows, inner) = (70, 33);
    let x = tensor(&[2, rows / 2, inner], 1);
    let layers = [(40, 2), (9, 3), (40, 4)];
    let dy = layers.map(|(out, salt)| tensor(&[2, rows / 2, out], salt));
    let weights = layers.map(|(out, salt)| tensor(&[out, inner], salt + 9));
    let (wide_dy, wide_weights) = (dy.each_ref().map(wide), weights.each_ref().map(wide));
    for n in 1..=3 {
        let terms: Vec<_> = dy.iter().zip(&weights).take(n).collect();
        let wide_terms: Vec<_> = wide_dy.iter().zip(&wide_weights).take(n).collect();
        let expected = reference::linear_input_gradient(&wide_terms).unwrap();
        let expected = expected.reshape((2, rows / 2, inner)).unwrap();
        assert_near(&linear_input_gradient(backend, &terms).unwrap(), &expected, "input");
    }
    for (dy, wide_dy) in dy.iter().zip(&wide_dy) {
        let expected = reference::linear_weight_gradient(wide_dy, &wide(&x)).unwrap();
        assert_near(&linear_weight_gradient(backend, dy, &x).unwrap(), &expected, "weight");
    }
    assert!(linear_input_gradient(backend, &[]).is_err());
    assert!(linear_input_gradient(backend, &[(&dy[0], &weights[1])]).is_err());
    assert!(linear_weight_gradient(backend, &dy[0], &tensor(&[3, inner], 1)).is_err());
}

/// There are so many rows that sums are formed in halves and products are split into tasks.
pub(crate) fn products_of_many_rows_are_the_same_for_any_number_of_threads(backend: Backend) {
    let (rows, inner, out) = (1700, 33, 40);
    let (x, dy, weight) =
        (tensor(&[rows, inner], 1), tensor(&[rows, out], 2), tensor(&[out, inner], 3));
    let products = || {
        [
            linear(backend, &x, &weight).unwrap(),
            linear_input_gradient(backend, &[(&dy, &weight), (&dy, &weight)]).unwrap(),
            linear_weight_gradient(backend, &dy, &x).unwrap(),
        ]
    };
    let expected = [
        reference::linear(&wide(&x), &wide(&weight)).unwrap(),
        (reference::linear_input_gradient(&[(&wide(&dy), &wide(&weight))]).unwrap() * 2.).unwrap(),
        reference::linear_weight_gradient(&wide(&dy), &wide(&x)).unwrap(),
    ];
    let values = |products: &[Tensor]| -> Vec<Vec<f32>> {
        products.iter().map(|t| t.flatten_all().unwrap().to_vec1().unwrap()).collect()
    };
    let with = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(products)
    };
    let one = with(1);
    for (found, expected) in one.iter().zip(&expected) {
        assert_near(found, expected, "product");
    }
    for threads in 2..=5 {
        assert!(values(&one) == values(&with(threads)), "{threads} threads");
    }
}

/// 300 rows of 9000 logits are two chunks.
pub(crate) fn the_gradients_of_the_loss_come_with_it(backend: Backend) {
    for (rows, vocab) in [(5, 11), (300, 9000)] {
        let (hidden, head) = (tensor(&[rows, 16], 1), tensor(&[vocab, 16], 2));
        let targets: Vec<u32> = (0..rows).map(|i| (i * 7 % vocab) as u32).collect();
        let weights: Vec<f32> = (0..rows).map(|i| [0.5, 2., 0., 1.][i % 4]).collect();
        let found =
            linear_cross_entropy_gradients(backend, &hidden, &head, &targets, &weights).unwrap();
        let (hidden, head) = (wide(&hidden), wide(&head));
        let expected =
            reference::linear_cross_entropy_gradients(&hidden, &head, &targets, &weights).unwrap();
        assert!((found.loss - expected.loss).abs() < 1e-6 * expected.loss);
        assert_near(&found.hidden, &expected.hidden, "hidden");
        assert_near(&found.head, &expected.head, "head");
        let off = found.nll.iter().zip(&expected.nll).map(|(a, b)| (a - b).abs());
        assert!(off.fold(0., f32::max) < 1e-5);
    }
}

pub(crate) fn the_gradients_of_norms_take_what_is_carried_along(backend: Backend) {
    // More rows than one task takes, and a last task that is not full.
    let (x, dy, carried) = (tensor(&[150, 40], 1), tensor(&[150, 40], 2), tensor(&[150, 40], 3));
    let weight = tensor(&[40], 4);
    for carried in [None, Some(&carried)] {
        let (dx, dw) = rms_norm_backward(backend, &x, &weight, 1e-5, &dy, carried).unwrap();
        let wide_carried = carried.map(wide);
        let (ex, ew) = reference::rms_norm_backward(
            &wide(&x),
            &wide(&weight),
            1e-5,
            &wide(&dy),
            wide_carried.as_ref(),
        )
        .unwrap();
        assert_near(&dx, &ex, "input");
        assert_near(&dw, &ew, "weight");
    }
    let (sum, normed) = add_rms_norm(backend, &x, &carried, &weight, 1e-5).unwrap();
    let exact = (wide(&x) + wide(&carried)).unwrap();
    assert_near(&sum, &exact, "sum");
    assert_near(&normed, &reference::rms_norm(&exact, &wide(&weight), 1e-5).unwrap(), "normed");
    assert!(rms_norm_backward(backend, &x, &weight, 1e-5, &tensor(&[150, 41], 1), None).is_err());
    assert!(add_rms_norm(backend, &x, &tensor(&[149, 40], 1), &weight, 1e-5).is_err());
}

pub(crate) fn the_gradients_of_elementwise_operations(backend: Backend) {
    let (gate, up, dy) = (tensor(&[9, 4000], 1), tensor(&[9, 4000], 2), tensor(&[9, 4000], 3));
    let found = swiglu_backward(backend, &gate, &up, &dy).unwrap();
    let expected = reference::swiglu_backward(&wide(&gate), &wide(&up), &wide(&dy)).unwrap();
    for (found, expected) in found.iter().zip(&expected) {
        assert_near(found, expected, "swiglu");
    }
    let positions: Vec<u32> = (0..5).chain(0..5).collect();
    let frequencies = Rope::frequencies(1e4, 8);
    let table = |dtype| Rope::new(&frequencies, 16, dtype, &Device::Cpu).unwrap();
    let dy = tensor(&[10, 3, 8], 4);
    let found = rope_backward(backend, &dy, &table(DType::F32), &positions).unwrap();
    let exact = table(DType::F64);
    let expected = reference::rope_backward(&wide(&dy), &exact, &positions).unwrap();
    assert_near(&found, &expected, "rope");
    let ids = Tensor::new(&[[3u32, 0, 3], [99, 3, 7]], &Device::Cpu).unwrap();
    let (dy, onto) = (tensor(&[2, 3, 6], 5), tensor(&[100, 6], 6));
    let found = embedding_backward(backend, &ids, &dy, &onto).unwrap();
    let flat = [3, 0, 3, 99, 3, 7];
    let expected = reference::embedding_backward(&flat, &wide(&dy), &wide(&onto)).unwrap();
    assert_near(&found, &expected, "embedding");
    assert!(
        embedding_backward(backend, &ids, &dy, &tensor(&[99, 6], 6)).is_err(),
        "id 99 of 99 rows"
    );
}

pub(crate) fn the_gradients_of_attention_from_what_was_kept(backend: Backend) {
    let block_size = 4.try_into().unwrap();
    let mask = AttentionMask::BlockDiffusion { block_size, seq_len: 26 };
    let segments = Segments::end_to_end(vec![KeyRanges::new(mask, 52, 52, 0); 2]);
    let qkv = [(6, 1), (2, 2), (2, 3)].map(|(heads, salt)| tensor(&[104, heads, 8], salt));
    let d_out = tensor(&[104, 6, 8], 4);
    let exact = qkv.each_ref().map(wide);
    let expected =
        reference::attention_backward(exact.each_ref(), &wide(&d_out), &segments, 0.35).unwrap();
    let kept = attention_kept(backend, qkv.each_ref(), &segments, 0.35).unwrap();
    let found =
        attention_backward(backend, qkv.each_ref(), &kept, &d_out, &segments, 0.35).unwrap();
    for (found, expected) in found.iter().zip(&expected) {
        assert_near(found, expected, "attention");
    }
    let wrong = tensor(&[103, 6, 8], 4);
    assert!(attention_backward(backend, qkv.each_ref(), &kept, &wrong, &segments, 0.35).is_err());
}

//! Checks stored weights: the layouts against candle's independent implementation, the products against f64, and that
//! neither the batch nor the threads change a bit.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::borrow::Cow;
use std::sync::Arc;

use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{DType, Device, Tensor, Var};
use lacuna_kernels::{Activations, Backend, Bytes, Isa, StorageDtype, WeightMatrix};
use proptest::prelude::*;

const CPU: Device = Device::Cpu;

/// candle's name of a format; none for f64, which it knows as a dtype alone.
fn ggml(dtype: StorageDtype) -> Option<GgmlDType> {
    Some(match dtype {
        StorageDtype::F64 => return None,
        StorageDtype::F32 => GgmlDType::F32,
        StorageDtype::F16 => GgmlDType::F16,
        StorageDtype::BF16 => GgmlDType::BF16,
        StorageDtype::Q4_0 => GgmlDType::Q4_0,
        StorageDtype::Q4_1 => GgmlDType::Q4_1,
        StorageDtype::Q5_0 => GgmlDType::Q5_0,
        StorageDtype::Q5_1 => GgmlDType::Q5_1,
        StorageDtype::Q8_0 => GgmlDType::Q8_0,
        StorageDtype::Q2K => GgmlDType::Q2K,
        StorageDtype::Q3K => GgmlDType::Q3K,
        StorageDtype::Q4K => GgmlDType::Q4K,
        StorageDtype::Q5K => GgmlDType::Q5K,
        StorageDtype::Q6K => GgmlDType::Q6K,
    })
}

/// Values in −1..1 with some structure, the same for the same seed.
fn values(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..count).map(|i| next() * next() * (1.0 + (i / 16 % 5) as f32) / 5.0).collect()
}

/// A matrix packed by candle, which writes every quantized format.
fn packed(dtype: StorageDtype, rows: usize, cols: usize, seed: u64) -> WeightMatrix {
    let plain = values(rows * cols, seed);
    let Some(ggml) = ggml(dtype) else {
        return WeightMatrix::quantize(&plain, rows, cols, dtype).unwrap();
    };
    let plain = Tensor::from_vec(plain, (rows, cols), &CPU).unwrap();
    let packed = QTensor::quantize(&plain, ggml).unwrap();
    let bytes = packed.data().unwrap().into_owned();
    WeightMatrix::new(dtype, rows, cols, bytes.into()).unwrap()
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn bits(tensor: &Tensor) -> Vec<u32> {
    flat(tensor).into_iter().map(f32::to_bits).collect()
}

fn times(matrix: &WeightMatrix, x: &Tensor, isa: Isa) -> Tensor {
    matrix.matmul(Backend::Cpu(isa), x).unwrap()
}

/// Compares a product with that of the unpacked weights in f64. A sum of n products in eight lanes: each term meets
/// at most n/8 + 4 roundings of 2^-24, twice that where multiplication rounds too.
fn assert_product(matrix: &WeightMatrix, x: &[f32], y: &[f32], context: &str) {
    let weights = flat(&matrix.to_tensor(Backend::cpu()).unwrap());
    let cols = matrix.cols();
    let roundings = 2.0 * (cols as f64 / 8.0 + 4.0) * 2f64.powi(-24);
    for (x, y) in x.chunks_exact(cols).zip(y.chunks_exact(matrix.rows())) {
        for (w, &y) in weights.chunks_exact(cols).zip(y) {
            let terms = x.iter().zip(w).map(|(&x, &w)| f64::from(x) * f64::from(w));
            let (sum, size) = terms.fold((0.0, 0.0), |(s, a), t| (s + t, a + t.abs()));
            let allowed = roundings * size + 1e-30;
            assert!((f64::from(y) - sum).abs() <= allowed, "{context}: {y} instead of {sum}");
        }
    }
}

#[test]
fn every_format_unpacks_to_the_bits_that_candle_unpacks() {
    for dtype in StorageDtype::ALL {
        // Arbitrary bytes, so that every bit of every field counts.
        let (rows, cols) = (9, 512);
        let count = dtype.row_bytes(cols).unwrap() * rows;
        let raw: Vec<u8> = values(count, 5).iter().map(|v| (v.to_bits() >> 7) as u8).collect();
        let matrix = WeightMatrix::new(dtype, rows, cols, raw.clone().into()).unwrap();
        let theirs = match ggml(dtype) {
            Some(ggml) => {
                let storage = QStorage::from_data(Cow::Owned(raw), &CPU, ggml).unwrap();
                QTensor::new(storage, (rows, cols)).unwrap().dequantize(&CPU).unwrap()
            }
            None => Tensor::from_raw_buffer(&raw, DType::F64, &[rows, cols], &CPU)
                .and_then(|doubles| doubles.to_dtype(DType::F32))
                .unwrap(),
        };
        for isa in Isa::here() {
            let ours = flat(&matrix.to_tensor(Backend::Cpu(isa)).unwrap());
            for (at, (ours, theirs)) in ours.iter().zip(flat(&theirs)).enumerate() {
                let same = ours.to_bits() == theirs.to_bits() || ours.is_nan() && theirs.is_nan();
                assert!(same || *ours == theirs, "{dtype:?} {isa:?} {at}: {ours}, not {theirs}");
            }
        }
    }
}

#[test]
fn what_we_pack_is_as_near_as_what_candle_packs() {
    for dtype in StorageDtype::ALL {
        let (rows, cols) = (16, 512);
        let plain = values(rows * cols, 11);
        let Ok(ours) = WeightMatrix::quantize(&plain, rows, cols, dtype) else {
            assert!(matches!(dtype, StorageDtype::Q2K | StorageDtype::Q3K | StorageDtype::Q5K));
            continue;
        };
        let error = |matrix: &WeightMatrix| -> f64 {
            let unpacked = flat(&matrix.to_tensor(Backend::cpu()).unwrap());
            unpacked.iter().zip(&plain).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>()
        };
        let (ours, theirs) = (error(&ours), error(&packed(dtype, rows, cols, 11)));
        // The small formats leave no choice but ties; the fits of Q4K and Q6K differ a little.
        assert!(ours <= theirs * 1.05, "{dtype:?}: squared error {ours} against {theirs}");
    }
}

#[test]
fn zeros_and_constants_survive_packing() {
    for dtype in StorageDtype::ALL {
        for value in [0.0, 1.0, -1.0, 1e-30] {
            let Ok(matrix) = WeightMatrix::quantize(&[value; 512], 2, 256, dtype) else { continue };
            for got in flat(&matrix.to_tensor(Backend::cpu()).unwrap()) {
                let near = (got - value).abs() <= value.abs() / 100.0 || value.abs() < 1e-7;
                assert!(
                    near && got.is_finite() && got.abs() <= 2.0,
                    "{dtype:?}: {got}, not {value}"
                );
            }
        }
    }
}

#[test]
fn a_row_has_the_same_bits_alone_and_in_any_batch() {
    for dtype in StorageDtype::ALL {
        // More columns than one panel takes, rows that fill no register block.
        let (rows, cols) = (37, 1280);
        let matrix = packed(dtype, rows, cols, 3);
        // Two formats, one multiplied as it lies and one not, meet more rows of x than are multiplied in one go.
        let many = matches!(dtype, StorageDtype::F32 | StorageDtype::Q4_0);
        let x_rows = if many { 300 } else { 70 };
        let x = Tensor::from_vec(values(x_rows * cols, 4), (x_rows, cols), &CPU).unwrap();
        for isa in Isa::here() {
            let alone: Vec<u32> = (0..x_rows)
                .flat_map(|row| bits(&times(&matrix, &x.narrow(0, row, 1).unwrap(), isa)))
                .collect();
            for batch in [2, 3, 4, 5, 7, 8, 11, 16, 17, 70, 128, 129, 300] {
                if batch > x_rows {
                    continue;
                }
                let y = times(&matrix, &x.narrow(0, 0, batch).unwrap(), isa);
                assert_eq!(bits(&y), alone[..batch * rows], "{dtype:?} {isa:?}, batch of {batch}");
            }
        }
    }
}

/// The formats whose weights are multiplied as integers where activations are rounded.
const WITH_CODES: [StorageDtype; 5] = [
    StorageDtype::Q4_0,
    StorageDtype::Q4_1,
    StorageDtype::Q8_0,
    StorageDtype::Q4K,
    StorageDtype::Q6K,
];

fn times_rounded(backend: Backend, matrix: &WeightMatrix, x: &Tensor) -> Tensor {
    WeightMatrix::matmul_many_with(backend, &[matrix], x, Activations::Int8).unwrap().remove(0)
}

#[test]
fn rounding_activations_errs_by_no_more_than_is_stated() {
    for dtype in WITH_CODES {
        // Rows that fill no vector, columns beyond one panel, rows of x beyond a group.
        let (rows, cols, batch) = (37, 1280, 23);
        let matrix = packed(dtype, rows, cols, 3);
        let plain = values(batch * cols, 4);
        let x = Tensor::from_vec(plain.clone(), (batch, cols), &CPU).unwrap();
        let weights = flat(&matrix.to_tensor(Backend::cpu()).unwrap());
        let defined = flat(&times_rounded(Backend::Reference, &matrix, &x));
        for backend in Backend::here() {
            let y = flat(&times_rounded(backend, &matrix, &x));
            for (at, &y) in y.iter().enumerate() {
                let (x, w) =
                    (&plain[at / rows * cols..][..cols], &weights[at % rows * cols..][..cols]);
                let (mut exact, mut allowed, mut roundings) = (0., 0., 0.);
                for (x, w) in x.chunks(32).zip(w.chunks(32)) {
                    let largest = |of: &[f32]| of.iter().fold(0f32, |a, v| a.max(v.abs()));
                    let a = f64::from(largest(x));
                    for (&x, &w) in x.iter().zip(w) {
                        exact += f64::from(x) * f64::from(w);
                        allowed += f64::from(w.abs()) * a / 254.;
                    }
                    // A code's offset is up to 128 times the step of weights.
                    roundings += 32. * f64::from(largest(x)) * f64::from(largest(w)) * 200.;
                }
                let roundings = roundings * 2f64.powi(-24);
                let context = format!("{dtype:?} {backend:?} {at}");
                assert!(
                    (f64::from(y) - exact).abs() <= allowed + roundings,
                    "{context}: {y}, {exact}"
                );
                let off = (f64::from(y) - f64::from(defined[at])).abs();
                assert!(off <= roundings, "{context}: {y}, by definition {}", defined[at]);
            }
        }
    }
}

#[test]
fn a_rounded_row_has_the_same_bits_alone_and_in_any_batch() {
    for dtype in WITH_CODES {
        let (rows, cols) = (37, 1280);
        let matrix = packed(dtype, rows, cols, 3);
        let x = Tensor::from_vec(values(530 * cols, 4), (530, cols), &CPU).unwrap();
        for backend in Isa::here().into_iter().map(Backend::Cpu) {
            let all = bits(&times_rounded(backend, &matrix, &x));
            for (first, batch) in [(0, 1), (17, 1), (0, 5), (515, 15), (100, 70)] {
                let y = times_rounded(backend, &matrix, &x.narrow(0, first, batch).unwrap());
                assert_eq!(bits(&y), all[first * rows..][..batch * rows], "{dtype:?} {backend:?}");
            }
            let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
            assert_eq!(pool.install(|| bits(&times_rounded(backend, &matrix, &x))), all);
        }
    }
}

#[test]
fn rounding_keeps_a_row_that_is_no_number_to_itself() {
    let matrix = packed(StorageDtype::Q4K, 5, 256, 3);
    let mut plain = values(3 * 256, 4);
    (plain[256 + 40], plain[7]) = (f32::NAN, 1e30);
    let x = Tensor::from_vec(plain, (3, 256), &CPU).unwrap();
    for backend in Backend::here() {
        let y = flat(&times_rounded(backend, &matrix, &x));
        assert!(y[..5].iter().chain(&y[10..]).all(|y| y.is_finite()), "{backend:?} {y:?}");
        assert!(y[5..10].iter().all(|y| y.is_nan()), "{backend:?} {y:?}");
    }
}

#[test]
fn formats_without_codes_are_multiplied_exactly_beside_rounded_ones() {
    let dtypes = [StorageDtype::BF16, StorageDtype::Q4K, StorageDtype::Q5K, StorageDtype::Q8_0];
    let matrices: Vec<_> = (0..).zip(dtypes).map(|(i, dtype)| packed(dtype, 9, 256, i)).collect();
    let x = Tensor::from_vec(values(3 * 256, 4), (3, 256), &CPU).unwrap();
    let all: Vec<_> = matrices.iter().collect();
    for backend in Backend::here() {
        let many = WeightMatrix::matmul_many_with(backend, &all, &x, Activations::Int8).unwrap();
        for (matrix, y) in matrices.iter().zip(&many) {
            let exact = bits(&matrix.matmul(backend, &x).unwrap());
            assert_eq!(bits(y), bits(&times_rounded(backend, matrix, &x)));
            assert_eq!(bits(y) == exact, !WITH_CODES.contains(&matrix.dtype()), "{backend:?}");
        }
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let matrix = packed(StorageDtype::Q4_1, 1536, 576, 3);
    let x = Tensor::from_vec(values(4 * 576, 4), (4, 576), &CPU).unwrap();
    let outside = bits(&matrix.matmul(Backend::cpu(), &x).unwrap());
    for threads in [1, 2, 3, 8] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let inside = pool.install(|| bits(&matrix.matmul(Backend::cpu(), &x).unwrap()));
        assert_eq!(inside, outside, "{threads} threads");
    }
}

#[test]
fn several_matrices_at_once_give_what_each_gives() {
    let (q, k) = (packed(StorageDtype::Q8_0, 576, 512, 1), packed(StorageDtype::Q6K, 192, 512, 2));
    let v = packed(StorageDtype::BF16, 191, 512, 2);
    let x = Tensor::from_vec(values(5 * 512, 4), (1, 5, 512), &CPU).unwrap();
    let many = WeightMatrix::matmul_many(Backend::cpu(), &[&q, &k, &v], &x).unwrap();
    for (matrix, y) in [&q, &k, &v].into_iter().zip(&many) {
        assert_eq!(y.dims(), [1, 5, matrix.rows()]);
        assert_eq!(bits(y), bits(&matrix.matmul(Backend::cpu(), &x).unwrap()));
    }
}

#[test]
fn unaligned_bytes_and_strided_rows_give_the_same_product() {
    for dtype in StorageDtype::ALL {
        let matrix = packed(dtype, 7, 256, 9);
        let mut shifted = vec![0xff; 3];
        shifted.extend_from_slice(matrix.as_bytes());
        shifted.push(0xff);
        let range = 3..shifted.len() - 1;
        let bytes = Bytes::new(Arc::new(shifted), range).unwrap();
        let unaligned = WeightMatrix::new(dtype, 7, 256, bytes).unwrap();
        let x = Tensor::from_vec(values(256 * 4, 8), (256, 4), &CPU).unwrap().t().unwrap();
        let expected = bits(&matrix.matmul(Backend::cpu(), &x.contiguous().unwrap()).unwrap());
        assert_eq!(bits(&unaligned.matmul(Backend::cpu(), &x).unwrap()), expected, "{dtype:?}");
    }
}

#[test]
fn rows_are_the_tensors_rows_and_an_id_beyond_them_is_refused() {
    for dtype in StorageDtype::ALL {
        let matrix = packed(dtype, 6, 256, 2);
        let ids = Tensor::new(&[5u32, 0, 5, 2], &CPU).unwrap();
        let expected = matrix.to_tensor(Backend::cpu()).unwrap().index_select(&ids, 0).unwrap();
        assert_eq!(bits(&matrix.rows_f32(Backend::cpu(), &[5, 0, 5, 2]).unwrap()), bits(&expected));
        for id in [6, u32::MAX] {
            let error = matrix.rows_f32(Backend::cpu(), &[0, id]).unwrap_err().to_string();
            assert!(error.contains(&format!("id {id} at 1 is beyond the 6 rows")), "{error}");
        }
    }
}

#[test]
fn hostile_shapes_are_errors() {
    let huge = usize::MAX;
    for dtype in StorageDtype::ALL {
        let block = dtype.block_len();
        for (rows, cols, bytes) in [
            (0, block, 0),
            (1, 0, 0),
            (huge, huge, 0),
            (huge, block, 0),
            (1, huge - huge % block, 0),
            (1 << 33, 1 << 33, 0),
            (1, block, dtype.block_bytes() - 1),
            (1, block, dtype.block_bytes() + 1),
            (2, block, dtype.block_bytes()),
        ] {
            let result = WeightMatrix::new(dtype, rows, cols, vec![0; bytes].into());
            assert!(result.is_err(), "{dtype:?} [{rows}, {cols}] over {bytes} bytes");
            assert!(WeightMatrix::quantize(&[0.0; 3], rows, cols, dtype).is_err());
        }
        if block > 1 {
            let error = WeightMatrix::new(dtype, 1, block + 1, vec![].into()).unwrap_err();
            assert!(error.to_string().contains("not whole blocks"), "{error}");
        }
    }
    let owner: Arc<Vec<u8>> = Arc::new(vec![0; 8]);
    #[expect(clippy::reversed_empty_ranges, reason = "hostile on purpose")]
    for range in [0..9, 9..9, 5..4, huge..huge, 4..huge] {
        assert!(Bytes::new(owner.clone(), range).is_err());
    }
}

#[test]
fn values_that_a_format_cannot_hold_are_errors() {
    for value in [f32::NAN, f32::INFINITY, 65536.0] {
        let mut values = [0.0; 256];
        values[70] = value;
        let error = WeightMatrix::quantize(&values, 4, 64, StorageDtype::Q8_0).unwrap_err();
        assert!(error.to_string().contains("at [1, 6] does not fit Q8_0"), "{error}");
        assert!(WeightMatrix::quantize(&values, 4, 64, StorageDtype::F32).is_ok());
    }
}

#[test]
fn wrong_inputs_are_errors() {
    let matrix = packed(StorageDtype::Q8_0, 4, 32, 1);
    let scalar = Tensor::new(1f32, &CPU).unwrap();
    let wrong_cols = Tensor::zeros((2, 31), DType::F32, &CPU).unwrap();
    let wrong_dtype = Tensor::zeros((2, 32), DType::F64, &CPU).unwrap();
    let tracked = Var::zeros((2, 32), DType::F32, &CPU).unwrap();
    for x in [&scalar, &wrong_cols, &wrong_dtype, tracked.as_tensor()] {
        assert!(matrix.matmul(Backend::cpu(), x).is_err());
    }
    let empty = Tensor::zeros((0, 32), DType::F32, &CPU).unwrap();
    assert_eq!(matrix.matmul(Backend::cpu(), &empty).unwrap().dims(), [0, 4]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn products_are_right_in_every_shape(
        dtype in prop::sample::select(StorageDtype::ALL.to_vec()),
        rows in 1usize..70, blocks in 1usize..6, batch in 1usize..20, seed in 0u64..1000,
    ) {
        // The plain formats take any number of columns.
        let cols = if dtype.block_len() == 1 { blocks * 211 + seed as usize % 211 } else { blocks * dtype.block_len() };
        let matrix = packed(dtype, rows, cols, seed);
        let plain = values(batch * cols, seed + 1);
        let x = Tensor::from_vec(plain.clone(), (batch, cols), &CPU).unwrap();
        for isa in Isa::here() {
            let y = flat(&times(&matrix, &x, isa));
            assert_product(&matrix, &plain, &y, &format!("{dtype:?} {isa:?} [{rows}, {cols}]"));
        }
    }
}

//! Measures how fast stored weights are multiplied with 1 to 128 rows, beside the time that memory allows.
//!
//! Run it as `cargo run --release -p lacuna-kernels --example weight_matrix [-- DTYPE [avx2]]`, with
//! `RAYON_NUM_THREADS=2` for the figures in the docs. A pass multiplies every matrix of a model in SmolLM2-135M's
//! shape once (30 layers and the head, so the weights come from memory), or one matrix of 4096². Each answer is
//! checked against f64 first.

use std::hint::black_box;
use std::time::Instant;

use candle_core::{Device, Result, Tensor};
use lacuna_kernels::{Backend, Isa, StorageDtype, WeightMatrix};
use rayon::prelude::*;

const REPEATS: usize = 15;
const BATCHES: [usize; 10] = [1, 2, 4, 8, 9, 12, 16, 24, 32, 128];

fn main() -> Result<()> {
    let wanted = std::env::args().nth(1);
    // Lets a processor with AVX-512 do what one without it would do.
    let backend = match std::env::args().nth(2).as_deref() {
        Some("avx2") => Backend::Cpu(Isa::Avx2),
        _ => Backend::cpu(),
    };
    let floor = bandwidth();
    println!("{} threads, memory reads {floor:.1} GB/s", rayon::current_num_threads());
    println!("ms per pass (GB/s of weights) for {BATCHES:?} rows; floor = bytes over bandwidth");
    // No model is kept in f64.
    for dtype in StorageDtype::ALL.into_iter().filter(|dtype| *dtype != StorageDtype::F64) {
        let name = format!("{dtype:?}");
        if wanted.as_ref().is_some_and(|wanted| *wanted != name) {
            continue;
        }
        // Rows of 576 weights are no whole number of blocks of 256.
        let hidden = if dtype.block_len() == 256 { 512 } else { 576 };
        let layers: Vec<[WeightMatrix; 7]> = (0..30).map(|_| layer(dtype, hidden)).collect();
        let head = matrix(dtype, 49152, hidden);
        let (layers, head) = (&layers, &head);
        check(&layers[0][0])?;
        let bytes: usize = layers.iter().flatten().chain([head]).map(|m| m.as_bytes().len()).sum();
        report(&format!("{name} SmolLM2"), bytes, floor, |rows| {
            let (x, wide) = (input(rows, hidden)?, input(rows, 1536)?);
            Ok(move || {
                for [q, k, v, o, gate, up, down] in layers {
                    black_box(products(&[q, k, v], &x, backend)?);
                    black_box(products(&[o], &x, backend)?);
                    black_box(products(&[gate, up], &x, backend)?);
                    black_box(products(&[down], &wide, backend)?);
                }
                black_box(products(&[head], &x, backend)?);
                Ok(())
            })
        })?;
        let square = matrix(dtype, 4096, 4096);
        report(&format!("{name} 4096²"), square.as_bytes().len(), floor, |rows| {
            let (x, square) = (input(rows, 4096)?, square.clone());
            Ok(move || products(&[&square], &x, backend).map(|y| drop(black_box(y))))
        })?;
    }
    Ok(())
}

fn products(matrices: &[&WeightMatrix], x: &Tensor, backend: Backend) -> Result<Vec<Tensor>> {
    WeightMatrix::matmul_many(backend, matrices, x)
}

/// Prints one line: the best of several passes for each number of rows.
fn report<F: FnMut() -> Result<()>>(
    name: &str,
    bytes: usize,
    floor: f64,
    mut pass: impl FnMut(usize) -> Result<F>,
) -> Result<()> {
    print!("{name:13} {:5.1} MB, floor {:5.2} ms:", bytes as f64 / 1e6, bytes as f64 / floor / 1e6);
    for rows in BATCHES {
        let mut pass = pass(rows)?;
        let mut best_ms = f64::MAX;
        for _ in 0..REPEATS {
            let start = Instant::now();
            pass()?;
            best_ms = best_ms.min(start.elapsed().as_secs_f64() * 1e3);
        }
        print!("  {best_ms:6.2} ({:4.1})", bytes as f64 / best_ms / 1e6);
    }
    println!();
    Ok(())
}

fn layer(dtype: StorageDtype, hidden: usize) -> [WeightMatrix; 7] {
    [(hidden, hidden), (192, hidden), (192, hidden), (hidden, hidden)]
        .into_iter()
        .chain([(1536, hidden), (1536, hidden), (hidden, 1536)])
        .map(|(rows, cols)| matrix(dtype, rows, cols))
        .collect::<Vec<_>>()
        .try_into()
        .expect("seven shapes")
}

/// A matrix of one stored block, repeated: the formats that are only read need no writer, and speed does not depend
/// on the values as long as they are ordinary numbers.
fn matrix(dtype: StorageDtype, rows: usize, cols: usize) -> WeightMatrix {
    let values: Vec<f32> = (0..256).map(|i| ((i * 37 % 101) as f32 - 50.0) / 500.0).collect();
    let block = match WeightMatrix::quantize(&values, 1, 256, dtype) {
        Ok(packed) => packed.as_bytes().to_vec(),
        // Bytes 0x2b read as a half are 0.056.
        Err(_) => vec![0x2b; dtype.block_bytes()],
    };
    let len = dtype.row_bytes(cols).expect("whole blocks") * rows;
    let bytes: Vec<u8> = block.into_iter().cycle().take(len).collect();
    WeightMatrix::new(dtype, rows, cols, bytes.into()).expect("as many bytes as the shape needs")
}

fn input(rows: usize, cols: usize) -> Result<Tensor> {
    let values: Vec<f32> = (0..rows * cols).map(|i| (i % 89) as f32 / 89.0 - 0.5).collect();
    Tensor::from_vec(values, (rows, cols), &Device::Cpu)
}

/// Checks the product of every number of rows against the unpacked weights in f64.
fn check(matrix: &WeightMatrix) -> Result<()> {
    let (rows, cols) = (matrix.rows(), matrix.cols());
    let weights = matrix.to_tensor(Backend::cpu())?.flatten_all()?.to_vec1::<f32>()?;
    for batch in BATCHES {
        let x = input(batch, cols)?;
        let y = matrix.matmul(Backend::cpu(), &x)?.flatten_all()?.to_vec1::<f32>()?;
        let x = x.flatten_all()?.to_vec1::<f32>()?;
        for (at, y) in y.iter().enumerate() {
            let (x, w) = (&x[at / rows * cols..][..cols], &weights[at % rows * cols..][..cols]);
            let terms = x.iter().zip(w).map(|(&x, &w)| f64::from(x) * f64::from(w));
            let (sum, size) = terms.fold((0.0, 0.0), |(s, a), t| (s + t, a + t.abs()));
            assert!((f64::from(*y) - sum).abs() <= 1e-5 * size, "{y} instead of {sum}");
        }
    }
    Ok(())
}

/// The GB/s that all threads together read from 256 MB.
fn bandwidth() -> f64 {
    let values = vec![1f32; 64 << 20];
    let mut best_s = f64::MAX;
    for _ in 0..REPEATS {
        let start = Instant::now();
        let sums = values.par_chunks(1 << 16).map(|chunk| {
            let mut lanes = [0f32; 32];
            for chunk in chunk.as_chunks::<32>().0 {
                for (lane, value) in lanes.iter_mut().zip(chunk) {
                    *lane += value;
                }
            }
            lanes.iter().sum::<f32>()
        });
        black_box(sums.sum::<f32>());
        best_s = best_s.min(start.elapsed().as_secs_f64());
    }
    (256 << 20) as f64 / best_s / 1e9
}

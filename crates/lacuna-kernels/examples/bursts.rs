//! Multiplies the stored matrices of a decoding pass once for each line that it reads, and prints the nanoseconds.
//!
//! `bursts FORMAT ROWS [HIDDEN [LAYERS]]`: matrices shaped like those of SmolLM2-135M (HIDDEN 576), ten layers of them
//! and the head. On a machine that other programs share, two builds can be told apart to a few percent if they
//! take turns of some ten milliseconds: `scripts/peers/bursts.py` starts both and compares them pair by pair.

use std::io::{BufRead, Write};
use std::time::Instant;

use candle_core::{Device, Result, Tensor, bail};
use lacuna_kernels::{Backend, StorageDtype, WeightMatrix};

/// The numbers that weights and x are made of, enough for the largest matrix.
const VALUES: usize = 49_152 * 576;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default| args.get(at).map_or(Ok(default), |text| text.parse());
    let (Some(dtype), Ok(rows), Ok(hidden), Ok(layers)) = (
        args.first().and_then(|name| StorageDtype::from_name(name)),
        number(1, 4),
        number(2, 576),
        number(3, 10),
    ) else {
        bail!("FORMAT ROWS [HIDDEN [LAYERS]]")
    };
    let mut state = 1u64;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    let values: Vec<f32> = (0..VALUES).map(|_| next()).collect();
    let matrix = |rows: usize, cols: usize, from: usize| {
        WeightMatrix::quantize(&values[from..from + rows * cols], rows, cols, dtype)
    };
    let (wide, few) = (hidden * 8 / 3, hidden / 3);
    let mut products = Vec::new();
    for layer in 0..layers {
        let from = 1000 * layer;
        products.push((
            hidden,
            vec![
                matrix(hidden, hidden, from)?,
                matrix(few, hidden, from + 32)?,
                matrix(few, hidden, from + 64)?,
            ],
        ));
        products.push((hidden, vec![matrix(hidden, hidden, from + 96)?]));
        products.push((
            hidden,
            vec![matrix(wide, hidden, from + 128)?, matrix(wide, hidden, from + 160)?],
        ));
        products.push((wide, vec![matrix(hidden, wide, from + 192)?]));
    }
    products.push((hidden, vec![matrix(VALUES / hidden, hidden, 0)?]));
    let x = |cols: usize| Tensor::from_slice(&values[..rows * cols], (rows, cols), &Device::Cpu);
    let (narrow_x, wide_x) = (x(hidden)?, x(wide)?);
    let mut out = std::io::stdout();
    for line in std::iter::once(Ok(String::new())).chain(std::io::stdin().lock().lines()) {
        line?;
        let start = Instant::now();
        for (cols, matrices) in &products {
            let matrices: Vec<&WeightMatrix> = matrices.iter().collect();
            let x = if *cols == hidden { &narrow_x } else { &wide_x };
            std::hint::black_box(WeightMatrix::matmul_many(Backend::cpu(), &matrices, x)?);
        }
        writeln!(out, "{}", start.elapsed().as_nanos())?;
        out.flush()?;
    }
    Ok(())
}

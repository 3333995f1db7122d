//! Multiplies a stored matrix again and again, for a program that counts instructions.
//!
//! `instructions FORMAT ROWS ISA REPEATS`: the difference between two numbers of repeats is the cost of
//! that many products. `scripts/arm/instructions.sh` counts them on an emulated ARM processor.

use std::hint::black_box;

use candle_core::{Device, Result, Tensor, bail};
use lacuna_kernels::{Backend, Isa, StorageDtype, WeightMatrix};

const ROWS: usize = 240;
const COLS: usize = 1536;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [format, rows, isa, repeats] = &args[..] else { bail!("FORMAT ROWS ISA REPEATS") };
    let named = |dtype: &StorageDtype| format!("{dtype:?}") == *format;
    let Some(dtype) = StorageDtype::ALL.into_iter().find(named) else {
        bail!("no format {format}")
    };
    let Some(isa) = Isa::here().into_iter().find(|here| format!("{here:?}") == *isa) else {
        bail!("{isa} does not run here, only {:?}", Isa::here())
    };
    let (Ok(rows), Ok(repeats)) = (rows.parse::<usize>(), repeats.parse::<usize>()) else {
        bail!("ROWS and REPEATS are numbers")
    };
    let values: Vec<f32> = (0..ROWS * COLS).map(|i| (i * 37 % 101) as f32 / 500. - 0.1).collect();
    let matrix = WeightMatrix::quantize(&values, ROWS, COLS, dtype)?;
    let x: Vec<f32> = (0..rows * COLS).map(|i| (i % 89) as f32 / 89. - 0.5).collect();
    let x = Tensor::from_vec(x, (rows, COLS), &Device::Cpu)?;
    for _ in 0..repeats {
        black_box(matrix.matmul(Backend::Cpu(isa), black_box(&x))?);
    }
    Ok(())
}

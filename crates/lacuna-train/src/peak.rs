//! Measures what a machine does at its best, to have something to hold a step's speed against.

use candle_core::{Device, Tensor};
use lacuna_kernels::{Backend, linear};
use std::time::{Duration, Instant};

use crate::error::Result;

/// The most floating-point operations a second that this machine does now: the fastest of the f32 products of two
/// matrices of 1024 × 1024 that it can take in a seventh of a second (two at least), on all threads of the pool.
///
/// A machine that is busy with something else is measured as it is: lower. A step's share of it can then pass 1.
///
/// # Errors
/// Errors if the device fails.
pub fn measured_peak(device: &Device) -> Result<f64> {
    const SIDE: usize = 1024;
    const LONG: Duration = Duration::from_millis(140);
    let backend = Backend::of(device);
    let matrix = Tensor::ones((SIDE, SIDE), candle_core::DType::F32, device)?;
    let began = Instant::now();
    let mut best = f64::INFINITY;
    let mut taken = 0;
    while taken < 2 || began.elapsed() < LONG {
        let one = Instant::now();
        let product = linear(backend, &matrix, &matrix)?;
        // A card computes behind our back: reading one value waits for it.
        product.narrow(0, 0, 1)?.narrow(1, 0, 1)?.flatten_all()?.to_vec1::<f32>()?;
        best = best.min(one.elapsed().as_secs_f64());
        taken += 1;
    }
    Ok(2.0 * (SIDE * SIDE * SIDE) as f64 / best.max(1e-9))
}

//! Writes Q4_K and Q6_K by a least-squares fit of each part's scale, then of the block's.
//!
//! Any fit is a valid file; this one is our own and is held to the error of candle's in the tests.

use super::to_half;

/// The stretches that are tried when a part is fitted: each is added to the number of steps that the part's range is
/// laid over.
const STRETCHES: [f32; 9] = [0.0, -0.9, -0.7, -0.5, -0.3, -0.1, 0.1, 0.3, 0.5];

/// Packs Q4_K, in the layout that `dequantize_q4k` reads.
pub(super) fn quantize_q4k(weights: &[f32; 256], block: &mut [u8; 144]) {
    let parts = weights.as_chunks::<32>().0;
    let fits: [(f32, f32); 8] = std::array::from_fn(|part| fit_with_min(&parts[part]));
    let step = |largest: f32| to_half(largest / 63.0);
    let (d_bytes, d) = step(fits.iter().fold(0.0, |best: f32, fit| best.max(fit.0)));
    let (dmin_bytes, dmin) = step(fits.iter().fold(0.0, |best: f32, fit| best.max(fit.1)));
    block[..2].copy_from_slice(&d_bytes);
    block[2..4].copy_from_slice(&dmin_bytes);
    let (mut scales, mut quants) = ([0; 12], [0; 128]);
    for (part, values) in parts.iter().enumerate() {
        let (scale, min) = (nearest(fits[part].0, d, 63), nearest(fits[part].1, dmin, 63));
        if part < 4 {
            scales[part] |= scale;
            scales[part + 4] |= min;
        } else {
            scales[part + 4] = scale & 15 | min << 4;
            scales[part - 4] |= (scale >> 4) << 6;
            scales[part] |= (min >> 4) << 6;
        }
        let (scale, min) = (d * f32::from(scale), dmin * f32::from(min));
        for (i, value) in values.iter().enumerate() {
            quants[part / 2 * 32 + i] |= nearest(value + min, scale, 15) << (part % 2 * 4);
        }
    }
    block[4..16].copy_from_slice(&scales);
    block[16..].copy_from_slice(&quants);
}

/// Packs Q6_K, in the layout that `dequantize_q6k` reads.
pub(super) fn quantize_q6k(weights: &[f32; 256], block: &mut [u8; 210]) {
    let parts = weights.as_chunks::<16>().0;
    let fits: [f32; 16] = std::array::from_fn(|part| fit_symmetric(&parts[part]));
    let largest =
        fits.iter().fold(0.0, |best: f32, &s| if s.abs() > best.abs() { s } else { best });
    // −128 is the largest magnitude that a signed byte holds.
    let (d_bytes, d) = to_half(largest / -128.0);
    let (mut lows, mut highs, mut scales) = ([0; 128], [0; 64], [0; 16]);
    for (part, values) in parts.iter().enumerate() {
        let steps = if d == 0.0 { 0.0 } else { (fits[part] / d).round() };
        let scale = steps.clamp(-128.0, 127.0) as i8;
        scales[part] = scale as u8;
        let scale = d * f32::from(scale);
        let (half, run, side) = (part / 8, part % 8 / 2, part % 2 * 16);
        for (i, &value) in values.iter().enumerate() {
            let q = nearest(value + 32.0 * scale, scale, 63);
            lows[half * 64 + run % 2 * 32 + side + i] |= (q & 15) << (run / 2 * 4);
            highs[half * 32 + side + i] |= (q >> 4) << (run * 2);
        }
    }
    block[..128].copy_from_slice(&lows);
    block[128..192].copy_from_slice(&highs);
    block[192..208].copy_from_slice(&scales);
    block[208..].copy_from_slice(&d_bytes);
}

/// The best (scale, min ≥ 0) for value ≈ scale·q − min, with q in 0..=15.
fn fit_with_min(values: &[f32; 32]) -> (f32, f32) {
    let low = values.iter().fold(0.0, |low: f32, &v| low.min(v));
    let high = values.iter().fold(f32::MIN, |high: f32, &v| high.max(v)).max(low);
    if high == low {
        return (0.0, -low);
    }
    let mut best = ((0.0, 0.0), f32::INFINITY);
    for stretch in STRETCHES {
        let first = (high - low) / (15.0 + stretch);
        let (scale, min) = refit_with_min(values, first, -low);
        for (scale, min) in [(first, -low), (scale, min), refit_with_min(values, scale, min)] {
            let error = error(values, scale, min, 15);
            if error < best.1 {
                best = ((scale, min), error);
            }
        }
    }
    best.0
}

/// The least-squares (scale, min) for the whole numbers q that the given (scale, min) leads to.
fn refit_with_min(values: &[f32; 32], scale: f32, min: f32) -> (f32, f32) {
    let (mut q1, mut q2, mut v1, mut vq) = (0.0, 0.0, 0.0, 0.0);
    for &value in values {
        let q = f32::from(nearest(value + min, scale, 15));
        (q1, q2, v1, vq) = (q1 + q, q2 + q * q, v1 + value, vq + value * q);
    }
    let n = values.len() as f32;
    let determinant = n * q2 - q1 * q1;
    if determinant <= 0.0 {
        return (scale, min);
    }
    let fitted = ((n * vq - q1 * v1) / determinant, (q1 * vq - q2 * v1) / determinant);
    match fitted {
        (scale, min) if scale > 0.0 && min >= 0.0 => (scale, min),
        // The format has no positive offset: fit the scale alone.
        _ if q2 > 0.0 && vq > 0.0 => (vq / q2, 0.0),
        _ => (scale, min),
    }
}

/// The best scale (of either sign) for value ≈ scale·q, with q in −32..=31.
fn fit_symmetric(values: &[f32; 16]) -> f32 {
    let largest =
        values.iter().fold(0.0, |best: f32, &v| if v.abs() > best.abs() { v } else { best });
    if largest == 0.0 {
        return 0.0;
    }
    let mut best = (0.0, f32::INFINITY);
    for stretch in STRETCHES {
        let first = largest / -(32.0 + stretch);
        let (mut vq, mut q2) = (0.0, 0.0);
        for &value in values {
            let q = f32::from(nearest(value + 32.0 * first, first, 63)) - 32.0;
            (vq, q2) = (vq + value * q, q2 + q * q);
        }
        let fitted = if q2 > 0.0 { vq / q2 } else { first };
        for scale in [first, fitted] {
            let error = error(values, scale, 32.0 * scale, 63);
            if error < best.1 {
                best = (scale, error);
            }
        }
    }
    best.0
}

fn error(values: &[f32], scale: f32, min: f32, max: u8) -> f32 {
    let squared = |&v: &f32| (scale * f32::from(nearest(v + min, scale, max)) - min - v).powi(2);
    values.iter().map(squared).sum()
}

/// The whole number nearest to value/scale within 0..=max.
fn nearest(value: f32, scale: f32, max: u8) -> u8 {
    let steps = if scale == 0.0 { 0.0 } else { value / scale };
    ((steps + 0.5) as u8).min(max)
}

//! Defines how weights are stored: the GGML block formats, byte for byte, as plain scalar code.
//!
//! The unpackers in `weights/formats.rs` give the same bits.

mod k_dequantize;
mod k_quantize;
mod small;

use rayon::prelude::*;

use super::dtype::StorageDtype;
use crate::simd::f16_to_f32;

pub(crate) use k_dequantize::{six_bits, three_bit_scales};

/// Unpacks whole blocks: `src` holds the bytes of `dst.len()` weights.
#[inline(always)]
pub(crate) fn dequantize(dtype: StorageDtype, src: &[u8], dst: &mut [f32]) {
    debug_assert_eq!(Some(src.len()), dtype.row_bytes(dst.len()));
    match dtype {
        StorageDtype::F64 => {
            each(src, dst, |&w, y: &mut [f32; 1]| y[0] = f64::from_le_bytes(w) as f32);
        }
        StorageDtype::F32 => each(src, dst, |&w, y: &mut [f32; 1]| y[0] = f32::from_le_bytes(w)),
        StorageDtype::F16 => {
            each(src, dst, |&w, y: &mut [f32; 1]| y[0] = f16_to_f32(u16::from_le_bytes(w)));
        }
        StorageDtype::BF16 => each(src, dst, |&w, y: &mut [f32; 1]| {
            y[0] = f32::from_bits(u32::from(u16::from_le_bytes(w)) << 16);
        }),
        StorageDtype::Q4_0 => each(src, dst, small::dequantize_q4_0),
        StorageDtype::Q4_1 => each(src, dst, small::dequantize_q4_1),
        StorageDtype::Q5_0 => each(src, dst, small::dequantize_q5_0),
        StorageDtype::Q5_1 => each(src, dst, small::dequantize_q5_1),
        StorageDtype::Q8_0 => each(src, dst, small::dequantize_q8_0),
        StorageDtype::Q2K => each(src, dst, k_dequantize::dequantize_q2k),
        StorageDtype::Q3K => each(src, dst, k_dequantize::dequantize_q3k),
        StorageDtype::Q4K => each(src, dst, k_dequantize::dequantize_q4k),
        StorageDtype::Q5K => each(src, dst, k_dequantize::dequantize_q5k),
        StorageDtype::Q6K => each(src, dst, k_dequantize::dequantize_q6k),
    }
}

/// Weights that one thread packs at a time.
const WEIGHTS_OF_A_TASK: usize = 1 << 14;

/// Packs whole blocks of finite values that are no larger than an f16 holds; `None` for the formats that are read
/// only: Q2K, Q3K, Q5K.
pub(crate) fn quantize(dtype: StorageDtype, src: &[f32]) -> Option<Vec<u8>> {
    let mut bytes = vec![0; dtype.row_bytes(src.len())?];
    let dst = &mut bytes[..];
    match dtype {
        StorageDtype::F64 => each_back(src, dst, |&x: &[f32; 1], y| {
            *y = f64::from(x[0]).to_le_bytes();
        }),
        StorageDtype::F32 => each_back(src, dst, |&x: &[f32; 1], y| *y = x[0].to_le_bytes()),
        StorageDtype::F16 => each_back(src, dst, |&x: &[f32; 1], y| {
            *y = half::f16::from_f32(x[0]).to_le_bytes();
        }),
        StorageDtype::BF16 => each_back(src, dst, |&x: &[f32; 1], y| {
            *y = half::bf16::from_f32(x[0]).to_le_bytes();
        }),
        StorageDtype::Q4_0 => each_back(src, dst, small::quantize_q4_0),
        StorageDtype::Q4_1 => each_back(src, dst, small::quantize_q4_1),
        StorageDtype::Q5_0 => each_back(src, dst, small::quantize_q5_0),
        StorageDtype::Q5_1 => each_back(src, dst, small::quantize_q5_1),
        StorageDtype::Q8_0 => each_back(src, dst, small::quantize_q8_0),
        StorageDtype::Q4K => each_back(src, dst, k_quantize::quantize_q4k),
        StorageDtype::Q6K => each_back(src, dst, k_quantize::quantize_q6k),
        StorageDtype::Q2K | StorageDtype::Q3K | StorageDtype::Q5K => return None,
    }
    Some(bytes)
}

#[inline(always)]
fn each<const BYTES: usize, const LEN: usize>(
    src: &[u8],
    dst: &mut [f32],
    block: impl Fn(&[u8; BYTES], &mut [f32; LEN]),
) {
    let (src, dst) = (src.as_chunks::<BYTES>().0, dst.as_chunks_mut::<LEN>().0);
    for (block_bytes, weights) in src.iter().zip(dst) {
        block(block_bytes, weights);
    }
}

fn each_back<const LEN: usize, const BYTES: usize>(
    src: &[f32],
    dst: &mut [u8],
    block: impl Fn(&[f32; LEN], &mut [u8; BYTES]) + Sync,
) {
    let (src, dst) = (src.as_chunks::<LEN>().0, dst.as_chunks_mut::<BYTES>().0);
    // Threads share what is large: a search for the best scales takes far longer than reading the weights.
    let of_a_task = WEIGHTS_OF_A_TASK.div_ceil(LEN);
    src.par_chunks(of_a_task).zip(dst.par_chunks_mut(of_a_task)).for_each(|(src, dst)| {
        for (weights, block_bytes) in src.iter().zip(dst) {
            block(weights, block_bytes);
        }
    });
}

/// Reads the IEEE half at byte `at` of a block.
#[inline(always)]
fn half_at<const N: usize>(block: &[u8; N], at: usize) -> f32 {
    f16_to_f32(u16::from_le_bytes([block[at], block[at + 1]]))
}

/// `value` as the two bytes of a half, and as the reader will see it.
fn to_half(value: f32) -> ([u8; 2], f32) {
    let half = half::f16::from_f32(value);
    (half.to_le_bytes(), half.to_f32())
}

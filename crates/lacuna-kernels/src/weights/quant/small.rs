//! Reads and writes blocks of 32 weights with one scale: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0.
//!
//! The first sixteen weights of a block are the low nibbles, the other sixteen the high ones;
//! the fifth bits lie apart, as one little-endian word.

use super::{half_at, to_half};

/// Unpacks Q4_0: w = d·(q − 8). A block is d and 16 bytes of nibbles.
#[inline(always)]
pub(super) fn dequantize_q4_0(block: &[u8; 18], weights: &mut [f32; 32]) {
    let d = half_at(block, 0);
    for i in 0..16 {
        let byte = i32::from(block[2 + i]);
        weights[i] = ((byte & 15) - 8) as f32 * d;
        weights[i + 16] = ((byte >> 4) - 8) as f32 * d;
    }
}

/// Unpacks Q4_1: w = d·q + m. A block is d, m and 16 bytes of nibbles.
#[inline(always)]
pub(super) fn dequantize_q4_1(block: &[u8; 20], weights: &mut [f32; 32]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    for i in 0..16 {
        let byte = i32::from(block[4 + i]);
        weights[i] = (byte & 15) as f32 * d + m;
        weights[i + 16] = (byte >> 4) as f32 * d + m;
    }
}

/// Unpacks Q5_0: w = d·(q − 16). A block is d, 32 fifth bits and 16 bytes of nibbles.
#[inline(always)]
pub(super) fn dequantize_q5_0(block: &[u8; 22], weights: &mut [f32; 32]) {
    let d = half_at(block, 0);
    let high = u32::from_le_bytes([block[2], block[3], block[4], block[5]]);
    for i in 0..16 {
        let (low, up) = five_bits(block[6 + i], high, i);
        weights[i] = (low - 16) as f32 * d;
        weights[i + 16] = (up - 16) as f32 * d;
    }
}

/// Unpacks Q5_1: w = d·q + m. A block is d, m, 32 fifth bits and 16 bytes of nibbles.
#[inline(always)]
pub(super) fn dequantize_q5_1(block: &[u8; 24], weights: &mut [f32; 32]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    let high = u32::from_le_bytes([block[4], block[5], block[6], block[7]]);
    for i in 0..16 {
        let (low, up) = five_bits(block[8 + i], high, i);
        weights[i] = low as f32 * d + m;
        weights[i + 16] = up as f32 * d + m;
    }
}

/// Unpacks Q8_0: w = d·q. A block is d and 32 signed bytes.
#[inline(always)]
pub(super) fn dequantize_q8_0(block: &[u8; 34], weights: &mut [f32; 32]) {
    let d = half_at(block, 0);
    for i in 0..32 {
        weights[i] = f32::from(block[2 + i] as i8) * d;
    }
}

/// Packs Q4_0. d is the value of largest magnitude divided by −8, so that this value is met exactly.
pub(super) fn quantize_q4_0(weights: &[f32; 32], block: &mut [u8; 18]) {
    let d = largest(weights) / -8.0;
    block[..2].copy_from_slice(&to_half(d).0);
    for i in 0..16 {
        let [low, high] = [weights[i], weights[i + 16]].map(|w| nearest(w, d, 8.0, 15));
        block[2 + i] = low | high << 4;
    }
}

/// Packs Q4_1: the block's range is laid over 15 steps.
pub(super) fn quantize_q4_1(weights: &[f32; 32], block: &mut [u8; 20]) {
    let (min, max) = range(weights);
    let d = (max - min) / 15.0;
    block[..2].copy_from_slice(&to_half(d).0);
    block[2..4].copy_from_slice(&to_half(min).0);
    for i in 0..16 {
        let [low, high] = [weights[i], weights[i + 16]].map(|w| nearest(w - min, d, 0.0, 15));
        block[4 + i] = low | high << 4;
    }
}

/// Packs Q5_0. d is the value of largest magnitude divided by −16.
pub(super) fn quantize_q5_0(weights: &[f32; 32], block: &mut [u8; 22]) {
    let d = largest(weights) / -16.0;
    block[..2].copy_from_slice(&to_half(d).0);
    let mut fifth = 0u32;
    for i in 0..16 {
        let [low, high] = [weights[i], weights[i + 16]].map(|w| nearest(w, d, 16.0, 31));
        block[6 + i] = (low & 15) | high << 4;
        fifth |= u32::from(low >> 4) << i | u32::from(high >> 4) << (i + 16);
    }
    block[2..6].copy_from_slice(&fifth.to_le_bytes());
}

/// Packs Q5_1: the block's range is laid over 31 steps.
pub(super) fn quantize_q5_1(weights: &[f32; 32], block: &mut [u8; 24]) {
    let (min, max) = range(weights);
    let d = (max - min) / 31.0;
    block[..2].copy_from_slice(&to_half(d).0);
    block[2..4].copy_from_slice(&to_half(min).0);
    let mut fifth = 0u32;
    for i in 0..16 {
        let [low, high] = [weights[i], weights[i + 16]].map(|w| nearest(w - min, d, 0.0, 31));
        block[8 + i] = (low & 15) | high << 4;
        fifth |= u32::from(low >> 4) << i | u32::from(high >> 4) << (i + 16);
    }
    block[4..8].copy_from_slice(&fifth.to_le_bytes());
}

/// Packs Q8_0. d is the largest magnitude divided by 127.
pub(super) fn quantize_q8_0(weights: &[f32; 32], block: &mut [u8; 34]) {
    let d = largest(weights).abs() / 127.0;
    block[..2].copy_from_slice(&to_half(d).0);
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    for i in 0..32 {
        block[2 + i] = (weights[i] * inverse).round() as i8 as u8;
    }
}

#[inline(always)]
fn five_bits(byte: u8, high: u32, i: usize) -> (i32, i32) {
    let fifth = |at: usize| ((high >> at) & 1) << 4;
    let (low, up) = (u32::from(byte & 15) | fifth(i), u32::from(byte >> 4) | fifth(i + 16));
    (low as i32, up as i32)
}

/// The step nearest to w/d + offset, halves upwards, within 0..=max.
fn nearest(w: f32, d: f32, offset: f32, max: u8) -> u8 {
    let steps = if d == 0.0 { 0.0 } else { w * (1.0 / d) };
    ((steps + (offset + 0.5)) as u8).min(max)
}

/// The value of largest magnitude, with its sign; the first of several.
fn largest(weights: &[f32; 32]) -> f32 {
    weights.iter().fold(0.0, |best: f32, &w| if w.abs() > best.abs() { w } else { best })
}

fn range(weights: &[f32; 32]) -> (f32, f32) {
    weights.iter().fold((f32::MAX, f32::MIN), |(min, max), &w| (min.min(w), max.max(w)))
}

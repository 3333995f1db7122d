//! Reads keys and values that a cache keeps in fewer bits.

use std::ops::Range;

use super::CachePrecision;
use crate::simd::{Halves, Kernel, Vector};

/// One head's keys or values, as a cache packs them, and the bytes from row to row.
#[derive(Clone, Copy)]
pub(super) struct Packed<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) row: usize,
    pub(super) precision: CachePrecision,
}

impl Packed<'_> {
    /// Unpacks some rows of `d` values, laid end to end.
    #[inline(always)]
    pub(super) fn unpack<V: Vector>(self, rows: Range<usize>, d: usize, to: &mut [f32]) {
        let halves = Halves::table();
        for (row, to) in rows.zip(to.chunks_exact_mut(d)) {
            let bytes = &self.bytes[row * self.row..];
            match self.precision {
                CachePrecision::BF16 => bf16::<V>(bytes, to),
                CachePrecision::Q8_0 => q8_0::<V>(bytes, halves, to),
                CachePrecision::F32 => unreachable!("exact rows are read as they lie"),
            }
        }
    }
}

#[inline(always)]
fn bf16<V: Vector>(bytes: &[u8], to: &mut [f32]) {
    let whole = to.len() / V::LANES * V::LANES;
    let (vectors, rest) = to.split_at_mut(whole);
    for (bytes, to) in bytes.chunks_exact(2 * V::LANES).zip(vectors.chunks_exact_mut(V::LANES)) {
        V::load_bf16(bytes).store(to);
    }
    for (bytes, to) in bytes[2 * whole..].as_chunks().0.iter().zip(rest) {
        *to = f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16);
    }
}

#[inline(always)]
fn q8_0<V: Vector>(bytes: &[u8], halves: &Halves, to: &mut [f32]) {
    for (block, to) in bytes.as_chunks::<34>().0.iter().zip(to.as_chunks_mut::<32>().0) {
        let scale = V::splat(halves.at(block));
        for (codes, to) in block[2..].chunks_exact(V::LANES).zip(to.chunks_exact_mut(V::LANES)) {
            V::from_i8(codes).mul(scale).store(to);
        }
    }
}

/// Unpacks all rows from the first one on.
pub(super) struct UnpackAll<'a, 'b> {
    pub(super) rows: Packed<'a>,
    pub(super) d: usize,
    pub(super) to: &'b mut [f32],
}

impl Kernel for UnpackAll<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        self.rows.unpack::<V>(0..self.to.len() / self.d, self.d, self.to);
    }
}

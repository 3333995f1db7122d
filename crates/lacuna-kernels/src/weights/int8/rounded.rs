//! Rounds activations to eight bits.

use super::{FEW, GROUP};
use crate::simd::{Detected, Kernel, Vector, run};
use crate::spin;

/// The number of columns that share a scale.
pub(super) const BLOCK: usize = 32;

/// Rows of x, each block of 32 values as whole numbers times a scale: the value of largest magnitude is
/// ±127 of them, so every value is off by at most half a scale, 1/254 of the block's largest.
///
/// Rows are in groups of sixteen, each `[block][row]`; the last one's are filled up with zeros.
pub(in crate::weights) struct Rounded {
    pub(super) rows: usize,
    /// The number of blocks in each row.
    pub(super) blocks: usize,
    groups: Vec<Block>,
}

/// Thirty-two activations of a row, rounded to bytes: value i is about scale · qᵢ.
#[derive(Clone, Copy, Default)]
pub(super) struct Block {
    pub(super) q: [[i8; 4]; 8],
    pub(super) scale: f32,
    /// scale · Σ q, which is multiplied with a weight block's offset.
    pub(super) sum: f32,
    /// scale · Σ q over the first sixteen values, and over the others.
    pub(super) half_sums: [f32; 2],
}

impl Rounded {
    /// Rounds `x`, rows of `cols` values; `cols` is a multiple of 32.
    pub(in crate::weights) fn new(x: &[f32], cols: usize, isa: Detected) -> Self {
        assert!(cols.is_multiple_of(BLOCK), "rows of whole blocks");
        let (rows, blocks) = (x.len() / cols, cols / BLOCK);
        let mut groups = vec![Block::default(); rows.next_multiple_of(FEW) * blocks];
        let parts: Vec<_> = x.chunks(GROUP * cols).zip(groups.chunks_mut(GROUP * blocks)).collect();
        spin::each(parts, |(x, group)| run(isa, RoundGroup { x, cols, group }));
        Self { rows, blocks, groups }
    }

    /// The group that begins with row `first`, and what follows it.
    pub(super) fn group(&self, first: usize) -> &[Block] {
        &self.groups[first * self.blocks..]
    }
}

/// Rounds the rows of a group; a kernel so that the compiler has vectors for it.
struct RoundGroup<'a> {
    x: &'a [f32],
    cols: usize,
    group: &'a mut [Block],
}

impl Kernel for RoundGroup<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let rows = self.group.len() / (self.cols / BLOCK);
        for (i, row) in self.x.chunks_exact(self.cols).enumerate() {
            let blocks = self.group[i..].iter_mut().step_by(rows);
            for (block, values) in blocks.zip(row.as_chunks().0) {
                *block = Block::new(values);
            }
        }
    }
}

/// 1.5 · 2²³: adding it to a small number rounds that to a whole one, ties to even.
const TO_WHOLE: f32 = 12_582_912.;

impl Block {
    #[inline(always)]
    fn new(values: &[f32; BLOCK]) -> Self {
        let largest = values.iter().fold(0f32, |largest, value| largest.max(value.abs()));
        // One value that is not finite spoils its whole block: scale and sums are NaN.
        let finite = values.iter().fold(true, |finite, value| finite & value.is_finite());
        let scale = if finite { largest / 127. } else { f32::NAN };
        let by = if largest > 0. { 127. / largest } else { 0. };
        let (mut q, mut half_sums) = ([0; BLOCK], [0; 2]);
        for i in 0..BLOCK {
            q[i] = ((values[i] * by + TO_WHOLE) - TO_WHOLE) as i8;
            half_sums[i / 16] += i32::from(q[i]);
        }
        let sum = scale * (half_sums[0] + half_sums[1]) as f32;
        let half_sums = half_sums.map(|sum| scale * sum as f32);
        let fours = *q.as_chunks().0.first_chunk().expect("thirty-two values");
        Self { q: fours, scale, sum, half_sums }
    }
}

/// The values of x after rounding, as floats, for the definition.
pub(in crate::weights) fn rounded_values(x: &[f32]) -> Vec<f32> {
    let of_block = |values: &[f32; BLOCK]| {
        let Block { q, scale, .. } = Block::new(values);
        q.into_iter().flatten().map(move |q| scale * f32::from(q))
    };
    x.as_chunks().0.iter().flat_map(of_block).collect()
}

//! Reads blocks of 256 weights in parts of 16 or 32, each with a small integer scale.

use super::{Format, blocks};
use crate::simd::{Halves, Vector};
use crate::weights::quant::{six_bits, three_bit_scales};

/// The factors and offsets that turn a block's small integers q into weights: scale · q + offset.
#[derive(Clone, Copy)]
pub(in crate::weights) struct Scales {
    /// The factor of each part of 16 or 32.
    scale: [f32; 16],
    /// The offset of each part; those of eight parts of 32 lie in the second half.
    offset: [f32; 16],
}

impl Scales {
    /// Factors d · scale and offsets −dmin · min, from integers side by side.
    #[inline(always)]
    fn new<V: Vector>(d: f32, scales: [u8; 16], dmin: f32, mins: [u8; 16]) -> Self {
        let (mut scale, mut offset) = ([0.; 16], [0.; 16]);
        for at in (0..16).step_by(V::LANES) {
            V::to_f32(V::load_u8(&scales[at..])).mul(V::splat(d)).store(&mut scale[at..]);
            V::to_f32(V::load_u8(&mins[at..])).mul(V::splat(-dmin)).store(&mut offset[at..]);
        }
        Self { scale, offset }
    }

    /// The factors and offsets of Q4_K and Q5_K, from eight scales and minima of six bits.
    #[inline(always)]
    fn of_eight<V: Vector>(d: f32, dmin: f32, (scales, mins): ([u8; 8], [u8; 8])) -> Self {
        let [low, high] = [scales, mins].map(|eight| u128::from(u64::from_le_bytes(eight)));
        let both = (low | high << 64).to_le_bytes();
        Self::new::<V>(d, both, dmin, both)
    }

    /// Factors d · scale from signed integers; there are no offsets.
    #[inline(always)]
    fn signed<V: Vector>(d: f32, scales: &[u8]) -> Self {
        let mut scale = [0.; 16];
        for at in (0..16).step_by(V::LANES) {
            V::from_i8(&scales[at..]).mul(V::splat(d)).store(&mut scale[at..]);
        }
        Self { scale, offset: [0.; 16] }
    }
}

/// w = (d·scale)·q − dmin·min, parts of 16: four on top of each other in each half of the bytes.
/// Sixteen bytes of scales and minima, 64 of quants, d, dmin.
pub(in crate::weights) struct Q2K;

impl Format for Q2K {
    type Scales<V: Vector> = Scales;
    blocks!(8, 84);

    #[inline(always)]
    fn scales<V: Vector>(block: &[u8; 84], halves: &Halves) -> Scales {
        let both: &[u8; 16] = block.first_chunk().expect("sixteen of 84 bytes");
        let (d, dmin) = (halves.at(&block[80..]), halves.at(&block[82..]));
        Scales::new::<V>(d, both.map(|byte| byte & 15), dmin, both.map(|byte| byte >> 4))
    }

    #[inline(always)]
    fn weights<V: Vector>(block: &[u8; 84], scales: &Scales, part: usize, at: usize) -> V {
        let bytes = V::load_u8(&block[16 + part / 4 * 32 + at..]);
        let q = V::to_f32(V::and(V::shr(bytes, part % 4 * 2), 3));
        let of = 2 * part + at / 16;
        q.mul_add(V::splat(scales.scale[of]), V::splat(scales.offset[of]))
    }
}

/// w = d·(scale − 32)·(q − 4), parts of 16: 32 bytes of third bits, 64 of two low bits, 12 of
/// scales, d.
pub(in crate::weights) struct Q3K;

impl Format for Q3K {
    type Scales<V: Vector> = Scales;
    blocks!(8, 110);

    #[inline(always)]
    fn scales<V: Vector>(block: &[u8; 110], halves: &Halves) -> Scales {
        let scales = three_bit_scales(block).map(|scale| scale as u8);
        Scales::signed::<V>(halves.at(&block[108..]), &scales)
    }

    #[inline(always)]
    fn weights<V: Vector>(block: &[u8; 110], scales: &Scales, part: usize, at: usize) -> V {
        let low = V::shr(V::load_u8(&block[32 + part / 4 * 32 + at..]), part % 4 * 2);
        let third = V::and(V::shr(V::load_u8(&block[at..]), part), 1);
        let q = V::to_f32(V::or(V::and(low, 3), V::shl(third, 2)));
        q.sub(V::splat(4.)).mul(V::splat(scales.scale[2 * part + at / 16]))
    }
}

/// w = (d·scale)·q − dmin·min, parts of 32: two lie in the low and the high halves of the same
/// bytes.
pub(in crate::weights) struct Q4K;

impl Format for Q4K {
    type Scales<V: Vector> = Scales;
    const TWO_IN_BYTES: bool = true;
    blocks!(8, 144);

    #[inline(always)]
    fn scales<V: Vector>(block: &[u8; 144], halves: &Halves) -> Scales {
        let (d, dmin) = (halves.at(&block[0..]), halves.at(&block[2..]));
        Scales::of_eight::<V>(d, dmin, six_bits(block))
    }

    #[inline(always)]
    fn weights<V: Vector>(block: &[u8; 144], scales: &Scales, part: usize, at: usize) -> V {
        let values = V::nibbles(scales.scale[part], scales.offset[8 + part]);
        V::look_up(&block[16 + part / 2 * 32 + at..], part % 2, values)
    }
}

/// As [`Q4K`], with 32 bytes of fifth bits before the nibbles.
pub(in crate::weights) struct Q5K;

impl Format for Q5K {
    type Scales<V: Vector> = Scales;
    blocks!(8, 176);

    #[inline(always)]
    fn scales<V: Vector>(block: &[u8; 176], halves: &Halves) -> Scales {
        let (d, dmin) = (halves.at(&block[0..]), halves.at(&block[2..]));
        Scales::of_eight::<V>(d, dmin, six_bits(block))
    }

    #[inline(always)]
    fn weights<V: Vector>(block: &[u8; 176], scales: &Scales, part: usize, at: usize) -> V {
        let low = V::shr(V::load_u8(&block[48 + part / 2 * 32 + at..]), part % 2 * 4);
        let fifth = V::and(V::shr(V::load_u8(&block[16 + at..]), part), 1);
        let q = V::to_f32(V::or(V::and(low, 15), V::shl(fifth, 4)));
        q.mul_add(V::splat(scales.scale[part]), V::splat(scales.offset[8 + part]))
    }
}

/// w = (d·scale)·(q − 32), parts of 16: four parts of 32 on top of each other in each side of the
/// block, two scales to a part.
pub(in crate::weights) struct Q6K;

impl Format for Q6K {
    type Scales<V: Vector> = Scales;
    blocks!(8, 210);

    #[inline(always)]
    fn scales<V: Vector>(block: &[u8; 210], halves: &Halves) -> Scales {
        Scales::signed::<V>(halves.at(&block[208..]), &block[192..208])
    }

    #[inline(always)]
    fn weights<V: Vector>(block: &[u8; 210], scales: &Scales, part: usize, at: usize) -> V {
        let (side, level) = (part / 4, part % 4);
        let low = V::shr(V::load_u8(&block[side * 64 + level % 2 * 32 + at..]), level / 2 * 4);
        let high = V::shr(V::load_u8(&block[128 + side * 32 + at..]), level * 2);
        let q = V::to_f32(V::or(V::and(low, 15), V::shl(V::and(high, 3), 4)));
        q.sub(V::splat(32.)).mul(V::splat(scales.scale[2 * part + at / 16]))
    }
}

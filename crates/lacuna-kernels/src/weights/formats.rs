//! Reads each format for the register block, a vector of weights at a time, with the same bits as [`super::quant`]
//! defines.

mod k;

pub(super) use k::{Q2K, Q3K, Q4K, Q5K, Q6K};

use super::matmul::PART;
use crate::simd::{BlockOf, Halves, Vector};

/// A format of stored weights. What is generic over V is `#[inline(always)]`.
pub(super) trait Format {
    /// The element that a row is a slice of: a byte, or a float that has been unpacked.
    type Unit;
    /// A block as an array of units.
    type Block: BlockOf<Self::Unit>;
    /// The numbers that turn a block's small integers into weights.
    type Scales<V: Vector>: Copy;
    /// Parts of [`PART`] weights in a block.
    const PARTS: usize;
    /// True if vectors of scales take registers from the running sums.
    const SCALED: bool = true;
    /// True if the same bytes hold an even part and the next one, so that both are best read together.
    const TWO_IN_BYTES: bool = false;
    /// True if the weights are floats already.
    const UNPACKED: bool = false;

    /// The whole blocks that begin a row.
    fn blocks(row: &[Self::Unit]) -> &[Self::Block];

    fn scales<V: Vector>(block: &Self::Block, halves: &Halves) -> Self::Scales<V>;

    /// The weights `at`.. of a block's `part`; `at` is a multiple of the lanes, below [`PART`].
    fn weights<V: Vector>(
        block: &Self::Block,
        scales: &Self::Scales<V>,
        part: usize,
        at: usize,
    ) -> V;
}

/// Writes the part of an implementation that all packed formats share, for blocks of so many parts and bytes.
macro_rules! blocks {
    ($parts:expr, $bytes:expr) => {
        type Unit = u8;
        type Block = [u8; $bytes];
        const PARTS: usize = $parts;

        #[inline(always)]
        fn blocks(row: &[u8]) -> &[[u8; $bytes]] {
            row.as_chunks().0
        }
    };
}
use blocks;

/// Defines a format of plain floats, which one method of the vector reads.
macro_rules! floats {
    ($(#[$meta:meta])* $name:ident, $bytes:literal, $load:ident) => {
        $(#[$meta])*
        pub(super) struct $name;

        impl Format for $name {
            type Scales<V: Vector> = ();
            const SCALED: bool = false;
            blocks!(1, $bytes * PART);

            #[inline(always)]
            fn scales<V: Vector>(_: &Self::Block, _: &Halves) {}

            #[inline(always)]
            fn weights<V: Vector>(block: &Self::Block, (): &(), _: usize, at: usize) -> V {
                V::$load(&block[$bytes * at..])
            }
        }
    };
}

floats!(F32, 4, load_f32);
floats!(F16, 2, load_f16);
floats!(BF16, 2, load_bf16);

/// The format of weights that have been unpacked to f32 already.
pub(super) struct Unpacked;

impl Format for Unpacked {
    type Unit = f32;
    type Block = [f32; PART];
    type Scales<V: Vector> = ();
    const PARTS: usize = 1;
    const SCALED: bool = false;
    const UNPACKED: bool = true;

    #[inline(always)]
    fn blocks(row: &[f32]) -> &[[f32; PART]] {
        row.as_chunks().0
    }

    #[inline(always)]
    fn scales<V: Vector>(_: &Self::Block, _: &Halves) {}

    #[inline(always)]
    fn weights<V: Vector>(block: &Self::Block, (): &(), _: usize, at: usize) -> V {
        V::load(&block[at..])
    }
}

/// Q8_0: a weight is w = d·q, with q a signed byte.
pub(super) struct Q8_0;

impl Format for Q8_0 {
    type Scales<V: Vector> = V;
    blocks!(1, 34);

    #[inline(always)]
    fn scales<V: Vector>(block: &[u8; 34], halves: &Halves) -> V {
        V::splat(halves.at(&block[0..]))
    }

    #[inline(always)]
    fn weights<V: Vector>(block: &[u8; 34], d: &V, _: usize, at: usize) -> V {
        V::from_i8(&block[2 + at..]).mul(*d)
    }
}

/// Q4_0: a weight is w = d·(q − 8), with q a nibble.
pub(super) struct Q4_0;

impl Format for Q4_0 {
    type Scales<V: Vector> = V::Nibbles;
    blocks!(1, 18);

    #[inline(always)]
    fn scales<V: Vector>(block: &[u8; 18], halves: &Halves) -> V::Nibbles {
        V::nibbles_from(-8., halves.at(&block[0..]))
    }

    #[inline(always)]
    fn weights<V: Vector>(block: &[u8; 18], values: &V::Nibbles, _: usize, at: usize) -> V {
        V::look_up(&block[2 + at % 16..], at / 16, *values)
    }
}

/// Q4_1: a weight is w = d·q + m, with q a nibble.
pub(super) struct Q4_1;

impl Format for Q4_1 {
    type Scales<V: Vector> = V::Nibbles;
    blocks!(1, 20);

    #[inline(always)]
    fn scales<V: Vector>(block: &[u8; 20], halves: &Halves) -> V::Nibbles {
        V::nibbles(halves.at(&block[0..]), halves.at(&block[2..]))
    }

    #[inline(always)]
    fn weights<V: Vector>(block: &[u8; 20], values: &V::Nibbles, _: usize, at: usize) -> V {
        V::look_up(&block[4 + at % 16..], at / 16, *values)
    }
}

/// Q5_0: a weight is w = d·(q − 16), with q of five bits.
pub(super) struct Q5_0;

impl Format for Q5_0 {
    type Scales<V: Vector> = V;
    blocks!(1, 22);

    #[inline(always)]
    fn scales<V: Vector>(block: &[u8; 22], halves: &Halves) -> V {
        V::splat(halves.at(&block[0..]))
    }

    #[inline(always)]
    fn weights<V: Vector>(block: &[u8; 22], d: &V, _: usize, at: usize) -> V {
        let fifths = [block[2], block[3], block[4], block[5]];
        five_bits::<V>(&block[6..], fifths, at).sub(V::splat(16.)).mul(*d)
    }
}

/// Q5_1: a weight is w = d·q + m, with q of five bits.
pub(super) struct Q5_1;

impl Format for Q5_1 {
    type Scales<V: Vector> = (V, V);
    blocks!(1, 24);

    #[inline(always)]
    fn scales<V: Vector>(block: &[u8; 24], halves: &Halves) -> (V, V) {
        (V::splat(halves.at(&block[0..])), V::splat(halves.at(&block[2..])))
    }

    #[inline(always)]
    fn weights<V: Vector>(block: &[u8; 24], (d, m): &(V, V), _: usize, at: usize) -> V {
        let fifths = [block[4], block[5], block[6], block[7]];
        five_bits::<V>(&block[8..], fifths, at).mul_add(*d, *m)
    }
}

/// The values of five bits at `at`: sixteen low nibbles, then the sixteen high ones, each with its fifth bit from a
/// word.
#[inline(always)]
fn five_bits<V: Vector>(nibbles: &[u8], fifths: [u8; 4], at: usize) -> V {
    let nibbles = V::and(V::shr(V::load_u8(&nibbles[at % 16..]), at / 16 * 4), 15);
    let fifths = V::shl(V::bits_of(u32::from_le_bytes(fifths), at), 4);
    V::to_f32(V::or(nibbles, fifths))
}

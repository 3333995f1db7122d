//! Implements the vector with NEON, which every processor for AArch64 has: eight lanes in two registers of four.

use std::arch::aarch64::*;
use std::arch::asm;

use super::dot::{ByteKernel, Dot};
use super::vector::{Kernel, Vector};

/// Eight floats.
#[derive(Clone, Copy)]
pub(super) struct Neon([float32x4_t; 2]);

pub(super) fn enter<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<Neon>()
}

/// Tells whether this processor multiplies bytes.
pub(super) fn multiplies_bytes() -> bool {
    std::arch::is_aarch64_feature_detected!("dotprod")
}

/// # Safety
/// [`multiplies_bytes`].
#[target_feature(enable = "dotprod")]
pub(super) unsafe fn enter_bytes<K: ByteKernel>(kernel: K) -> K::Output {
    kernel.run::<Neon>()
}

/// Gives the address of the first `N` elements, after a check that there are as many.
#[inline(always)]
fn read<const N: usize, T>(from: &[T]) -> *const T {
    assert!(from.len() >= N, "a vector's elements");
    from.as_ptr()
}

/// Applies `f` to both registers of a vector.
#[inline(always)]
fn each<A: Copy, B>([low, high]: [A; 2], f: impl Fn(A) -> B) -> [B; 2] {
    [f(low), f(high)]
}

#[inline(always)]
fn both<A: Copy, B: Copy, C>(a: [A; 2], b: [B; 2], f: impl Fn(A, B) -> C) -> [C; 2] {
    [f(a[0], b[0]), f(a[1], b[1])]
}

/// Four halves as floats, each exactly. (The intrinsic is younger than the oldest compiler we serve.)
#[inline(always)]
fn wide(halves: uint16x4_t) -> float32x4_t {
    let floats: float32x4_t;
    // SAFETY: an instruction of every AArch64, on registers alone.
    unsafe {
        asm!(
            "fcvtl {floats:v}.4s, {halves:v}.4h",
            floats = out(vreg) floats,
            halves = in(vreg) halves,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    floats
}

/// Adds to each of four sums the products of its four pairs of signed bytes. (The intrinsic is as young.)
///
/// # Safety
/// [`multiplies_bytes`].
#[inline]
#[target_feature(enable = "dotprod")]
unsafe fn add_products(mut sums: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: an instruction that the processor has, on registers alone.
    unsafe {
        asm!(
            "sdot {sums:v}.4s, {a:v}.16b, {b:v}.16b",
            sums = inout(vreg) sums,
            a = in(vreg) a,
            b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sums
}

/// The four bytes in each lane.
#[inline(always)]
fn in_each_lane(x: [i8; 4]) -> int8x16_t {
    // SAFETY: NEON is part of AArch64.
    unsafe { vreinterpretq_s8_s32(vdupq_n_s32(i32::from_le_bytes(x.map(|x| x as u8)))) }
}

/// For each lane, the places that its bytes come from when bytes become integers of 32 bits; an index out of range
/// makes a zero.
const LOW: [[u8; 16]; 2] = spread(0);
/// The same with each byte at the top of its lane.
const HIGH: [[u8; 16]; 2] = spread(3);

const fn spread(place: usize) -> [[u8; 16]; 2] {
    let mut from = [[0xff; 16]; 2];
    let mut lane = 0;
    while lane < 8 {
        from[lane / 4][lane % 4 * 4 + place] = lane as u8;
        lane += 1;
    }
    from
}

/// Eight bytes as integers of 32 bits, placed as `from` says.
#[inline(always)]
fn placed(bytes: uint8x8_t, from: &[[u8; 16]; 2]) -> [uint32x4_t; 2] {
    // SAFETY: NEON is part of AArch64; each load takes the sixteen bytes of an array.
    unsafe {
        let bytes = vcombine_u8(bytes, vdup_n_u8(0));
        [0, 1].map(|i| vreinterpretq_u32_u8(vqtbl1q_u8(bytes, vld1q_u8(from[i].as_ptr()))))
    }
}

// SAFETY, of every block below: NEON is part of AArch64; addresses are those of slices just checked
// to be long enough.
#[allow(clippy::undocumented_unsafe_blocks, reason = "the one comment above holds for them all")]
impl Vector for Neon {
    const LANES: usize = 8;
    const REGISTERS: usize = 16;
    const READS_STORED: bool = true;
    const FUSED: bool = true;
    type Eight = Self;
    type Bits = [uint32x4_t; 2];
    type Nibbles = [float32x4_t; 2];

    #[inline(always)]
    fn splat(value: f32) -> Self {
        Self([unsafe { vdupq_n_f32(value) }; 2])
    }

    #[inline(always)]
    fn load(from: &[f32]) -> Self {
        let from = read::<8, _>(from);
        Self(unsafe { [vld1q_f32(from), vld1q_f32(from.add(4))] })
    }

    #[inline(always)]
    fn store(self, to: &mut [f32]) {
        assert!(to.len() >= 8, "room for a vector's floats");
        unsafe {
            vst1q_f32(to.as_mut_ptr(), self.0[0]);
            vst1q_f32(to.as_mut_ptr().add(4), self.0[1]);
        }
    }

    #[inline(always)]
    fn mul_add(self, by: Self, plus: Self) -> Self {
        Self([0, 1].map(|i| unsafe { vfmaq_f32(plus.0[i], self.0[i], by.0[i]) }))
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        Self(both(self.0, other.0, |a, b| unsafe { vsubq_f32(a, b) }))
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        Self(both(self.0, other.0, |a, b| unsafe { vmulq_f32(a, b) }))
    }

    /// ((0+4)+(1+5)) + ((2+6)+(3+7)) of each.
    #[inline(always)]
    fn sums(four: [Self; 4]) -> [f32; 4] {
        let mut folded = [0.0; 4];
        unsafe {
            let [a, b, c, d] = four.map(|Self([low, high])| vaddq_f32(low, high));
            let sums = vpaddq_f32(vpaddq_f32(a, b), vpaddq_f32(c, d));
            vst1q_f32(folded.as_mut_ptr(), sums);
        }
        folded
    }

    #[inline(always)]
    fn load_f32(from: &[u8]) -> Self {
        let from = read::<32, _>(from);
        let four = |from| unsafe { vreinterpretq_f32_u8(vld1q_u8(from)) };
        Self([four(from), four(from.wrapping_add(16))])
    }

    #[inline(always)]
    fn load_f16(from: &[u8]) -> Self {
        let from = read::<16, _>(from);
        Self([0, 8].map(|at| wide(unsafe { vreinterpret_u16_u8(vld1_u8(from.add(at))) })))
    }

    #[inline(always)]
    fn load_u8(from: &[u8]) -> [uint32x4_t; 2] {
        placed(unsafe { vld1_u8(read::<8, _>(from)) }, &LOW)
    }

    #[inline(always)]
    fn load_i8(from: &[u8]) -> [uint32x4_t; 2] {
        unsafe {
            let wide = vmovl_s8(vreinterpret_s8_u8(vld1_u8(read::<8, _>(from))));
            let lanes = [vmovl_s16(vget_low_s16(wide)), vmovl_high_s16(wide)];
            each(lanes, |lanes| vreinterpretq_u32_s32(lanes))
        }
    }

    /// The bytes become the top bytes of integers, which are converted as multiples of 2^-24.
    #[inline(always)]
    fn from_i8(from: &[u8]) -> Self {
        let tops = placed(unsafe { vld1_u8(read::<8, _>(from)) }, &HIGH);
        Self(each(tops, |top| unsafe { vcvtq_n_f32_s32::<24>(vreinterpretq_s32_u32(top)) }))
    }

    #[inline(always)]
    fn load_u16(from: &[u8]) -> [uint32x4_t; 2] {
        unsafe {
            let eight = vreinterpretq_u16_u8(vld1q_u8(read::<16, _>(from)));
            [vmovl_u16(vget_low_u16(eight)), vmovl_high_u16(eight)]
        }
    }

    #[inline(always)]
    fn bits_of(word: u32, first: usize) -> [uint32x4_t; 2] {
        let right = -(first as i32);
        let by = [[0, -1, -2, -3], [-4, -5, -6, -7]];
        by.map(|by: [i32; 4]| unsafe {
            let by = vaddq_s32(vld1q_s32(by.as_ptr()), vdupq_n_s32(right));
            vandq_u32(vshlq_u32(vdupq_n_u32(word), by), vdupq_n_u32(1))
        })
    }

    #[inline(always)]
    fn and(bits: [uint32x4_t; 2], mask: u32) -> [uint32x4_t; 2] {
        each(bits, |bits| unsafe { vandq_u32(bits, vdupq_n_u32(mask)) })
    }

    #[inline(always)]
    fn or(bits: [uint32x4_t; 2], other: [uint32x4_t; 2]) -> [uint32x4_t; 2] {
        both(bits, other, |a, b| unsafe { vorrq_u32(a, b) })
    }

    #[inline(always)]
    fn shl(bits: [uint32x4_t; 2], by: usize) -> [uint32x4_t; 2] {
        each(bits, |bits| unsafe { vshlq_u32(bits, vdupq_n_s32(by as i32)) })
    }

    #[inline(always)]
    fn shr(bits: [uint32x4_t; 2], by: usize) -> [uint32x4_t; 2] {
        each(bits, |bits| unsafe { vshlq_u32(bits, vdupq_n_s32(-(by as i32))) })
    }

    #[inline(always)]
    fn to_f32(bits: [uint32x4_t; 2]) -> Self {
        Self(each(bits, |bits| unsafe { vcvtq_f32_s32(vreinterpretq_s32_u32(bits)) }))
    }

    #[inline(always)]
    fn from_bits(bits: [uint32x4_t; 2]) -> Self {
        Self(each(bits, |bits| unsafe { vreinterpretq_f32_u32(bits) }))
    }

    #[inline(always)]
    fn nibbles(scale: f32, offset: f32) -> [float32x4_t; 2] {
        unsafe { [vdupq_n_f32(scale), vdupq_n_f32(offset)] }
    }

    #[inline(always)]
    fn look_up(bytes: &[u8], which: usize, [scale, offset]: [float32x4_t; 2]) -> Self {
        let q = unsafe {
            let bytes = vld1_u8(read::<8, _>(bytes));
            let shifted = vshl_u8(bytes, vdup_n_s8(-4 * which as i8));
            placed(vand_u8(shifted, vdup_n_u8(15)), &LOW)
        };
        Self(each(q, |q| unsafe { vfmaq_f32(offset, vcvtq_f32_u32(q), scale) }))
    }

    #[inline(always)]
    fn prefetch(at: *const u8) {
        unsafe {
            asm!("prfm pldl1keep, [{at}]", at = in(reg) at, options(readonly, nostack, preserves_flags));
        }
    }

    #[inline(always)]
    fn prefetch_second(at: *const u8) {
        unsafe {
            asm!("prfm pldl2keep, [{at}]", at = in(reg) at, options(readonly, nostack, preserves_flags));
        }
    }
}

// SAFETY, of every block below: as above, within `enter_bytes`.
#[allow(clippy::undocumented_unsafe_blocks, reason = "the one comment above holds for them all")]
impl Dot for Neon {
    type Bytes = [uint8x16_t; 2];

    #[inline(always)]
    fn none() -> [uint32x4_t; 2] {
        [unsafe { vdupq_n_u32(0) }; 2]
    }

    #[inline(always)]
    fn load_bytes(from: &[u32]) -> [uint8x16_t; 2] {
        let from = read::<8, _>(from);
        unsafe {
            [vreinterpretq_u8_u32(vld1q_u32(from)), vreinterpretq_u8_u32(vld1q_u32(from.add(4)))]
        }
    }

    /// Codes below 128 are the same as signed bytes.
    #[inline(always)]
    fn dot(sum: [uint32x4_t; 2], codes: [uint8x16_t; 2], x: [i8; 4]) -> [uint32x4_t; 2] {
        let x = in_each_lane(x);
        both(sum, codes, |sum, codes| unsafe {
            let sum = vreinterpretq_s32_u32(sum);
            vreinterpretq_u32_s32(add_products(sum, vreinterpretq_s8_u8(codes), x))
        })
    }

    /// As signed bytes that are 128 less, and 128 · x apart.
    #[inline(always)]
    fn dot_wide(sum: [uint32x4_t; 2], codes: [uint8x16_t; 2], x: [i8; 4]) -> [uint32x4_t; 2] {
        let less = each(codes, |codes| unsafe { veorq_u8(codes, vdupq_n_u8(128)) });
        let taken = unsafe { add_products(vdupq_n_s32(0), vdupq_n_s8(-128), in_each_lane(x)) };
        let sum = each(sum, |sum| unsafe { vsubq_u32(sum, vreinterpretq_u32_s32(taken)) });
        Self::dot(sum, less, x)
    }
}

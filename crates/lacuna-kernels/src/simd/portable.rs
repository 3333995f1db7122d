//! Implements the vector in plain Rust over arrays of eight, which compilers turn into whatever the target has.

use super::dot::{ByteKernel, Dot};
use super::vector::{Kernel, Vector};

/// Eight floats.
#[derive(Clone, Copy)]
pub(super) struct Portable([f32; 8]);

pub(super) fn enter<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<Portable>()
}

pub(super) fn enter_bytes<K: ByteKernel>(kernel: K) -> K::Output {
    kernel.run::<Portable>()
}

/// The first bytes of `from` in groups of `N`, one for each lane.
#[inline(always)]
fn groups<const N: usize>(from: &[u8]) -> &[[u8; N]; 8] {
    from.as_chunks().0.first_chunk().expect("eight lanes of bytes")
}

/// Applies `f` to every lane.
#[inline(always)]
fn each<A: Copy, B>(lanes: [A; 8], f: impl Fn(A) -> B) -> [B; 8] {
    lanes.map(f)
}

#[inline(always)]
fn both<A: Copy, B>(a: [A; 8], b: [A; 8], f: impl Fn(A, A) -> B) -> [B; 8] {
    std::array::from_fn(|lane| f(a[lane], b[lane]))
}

impl Vector for Portable {
    const LANES: usize = 8;
    const REGISTERS: usize = 8;
    const READS_STORED: bool = false;
    const FUSED: bool = cfg!(any(target_arch = "aarch64", target_feature = "fma"));
    type Eight = Self;
    type Bits = [u32; 8];
    type Nibbles = (f32, f32);

    #[inline(always)]
    fn splat(value: f32) -> Self {
        Self([value; 8])
    }

    #[inline(always)]
    fn load(from: &[f32]) -> Self {
        Self(*from.first_chunk().expect("eight floats"))
    }

    #[inline(always)]
    fn store(self, to: &mut [f32]) {
        *to.first_chunk_mut().expect("eight floats") = self.0;
    }

    /// Fused where the target always has the instruction; elsewhere it would be a library call.
    #[inline(always)]
    fn mul_add(self, by: Self, plus: Self) -> Self {
        let one = |a: f32, b: f32, c: f32| if Self::FUSED { a.mul_add(b, c) } else { a * b + c };
        Self(std::array::from_fn(|lane| one(self.0[lane], by.0[lane], plus.0[lane])))
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        Self(both(self.0, other.0, |a, b| a - b))
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        Self(both(self.0, other.0, |a, b| a * b))
    }

    #[inline(always)]
    fn sums(four: [Self; 4]) -> [f32; 4] {
        four.map(|Self([a, b, c, d, e, f, g, h])| ((a + b) + (c + d)) + ((e + f) + (g + h)))
    }

    #[inline(always)]
    fn load_f32(from: &[u8]) -> Self {
        Self(each(*groups(from), f32::from_le_bytes))
    }

    #[inline(always)]
    fn load_f16(from: &[u8]) -> Self {
        Self(each(*groups(from), |bytes| super::f16_to_f32(u16::from_le_bytes(bytes))))
    }

    #[inline(always)]
    fn load_u8(from: &[u8]) -> [u32; 8] {
        each(*groups(from), |[byte]| u32::from(byte))
    }

    #[inline(always)]
    fn load_i8(from: &[u8]) -> [u32; 8] {
        each(*groups(from), |[byte]| byte as i8 as u32)
    }

    #[inline(always)]
    fn load_u16(from: &[u8]) -> [u32; 8] {
        each(*groups(from), |bytes| u32::from(u16::from_le_bytes(bytes)))
    }

    #[inline(always)]
    fn bits_of(word: u32, first: usize) -> [u32; 8] {
        std::array::from_fn(|lane| word >> (first + lane) & 1)
    }

    #[inline(always)]
    fn and(bits: [u32; 8], mask: u32) -> [u32; 8] {
        each(bits, |bits| bits & mask)
    }

    #[inline(always)]
    fn or(bits: [u32; 8], other: [u32; 8]) -> [u32; 8] {
        both(bits, other, |a, b| a | b)
    }

    #[inline(always)]
    fn shl(bits: [u32; 8], by: usize) -> [u32; 8] {
        each(bits, |bits| bits << by)
    }

    #[inline(always)]
    fn shr(bits: [u32; 8], by: usize) -> [u32; 8] {
        each(bits, |bits| bits >> by)
    }

    #[inline(always)]
    fn to_f32(bits: [u32; 8]) -> Self {
        Self(each(bits, |bits| bits as i32 as f32))
    }

    #[inline(always)]
    fn from_bits(bits: [u32; 8]) -> Self {
        Self(each(bits, f32::from_bits))
    }

    #[inline(always)]
    fn nibbles(scale: f32, offset: f32) -> (f32, f32) {
        (scale, offset)
    }

    #[inline(always)]
    fn look_up(bytes: &[u8], which: usize, (scale, offset): (f32, f32)) -> Self {
        let q = Self::to_f32(Self::and(Self::shr(Self::load_u8(bytes), 4 * which), 15));
        Self(each(q.0, |q| q * scale + offset))
    }

    #[inline(always)]
    fn prefetch(_at: *const u8) {}

    #[inline(always)]
    fn prefetch_second(_at: *const u8) {}
}

impl Dot for Portable {
    type Bytes = [[u8; 4]; 8];

    #[inline(always)]
    fn none() -> [u32; 8] {
        [0; 8]
    }

    #[inline(always)]
    fn load_bytes(from: &[u32]) -> [[u8; 4]; 8] {
        let words: &[u32; 8] = from.first_chunk().expect("eight lanes of bytes");
        words.map(u32::to_le_bytes)
    }

    #[inline(always)]
    fn dot(mut sum: [u32; 8], codes: [[u8; 4]; 8], x: [i8; 4]) -> [u32; 8] {
        for lane in 0..8 {
            let terms = (0..4).map(|i| i32::from(codes[lane][i]) * i32::from(x[i]));
            sum[lane] = sum[lane].wrapping_add_signed(terms.sum());
        }
        sum
    }

    #[inline(always)]
    fn dot_wide(sum: [u32; 8], codes: [[u8; 4]; 8], x: [i8; 4]) -> [u32; 8] {
        Self::dot(sum, codes, x)
    }
}

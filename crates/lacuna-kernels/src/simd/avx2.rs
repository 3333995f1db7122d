//! Implements the vector with AVX2, FMA and F16C: eight lanes.

use std::arch::asm;
use std::arch::x86_64::*;

use super::dot::{ByteKernel, Dot};
use super::vector::{Kernel, Vector};

/// Eight floats.
#[derive(Clone, Copy)]
pub(super) struct Avx2(__m256);

/// # Safety
/// The processor has AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn enter<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<Avx2>()
}

/// # Safety
/// As [`enter`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn enter_bytes<K: ByteKernel>(kernel: K) -> K::Output {
    kernel.run::<Avx2>()
}

/// Gives the address of the first `N` elements, after a check that there are as many.
#[inline(always)]
pub(super) fn read<const N: usize, T>(from: &[T]) -> *const T {
    assert!(from.len() >= N, "a vector's elements");
    from.as_ptr()
}

/// The address of room for `N` floats.
#[inline(always)]
pub(super) fn write<const N: usize>(to: &mut [f32]) -> *mut f32 {
    assert!(to.len() >= N, "room for a vector's floats");
    to.as_mut_ptr()
}

/// Keeps the compiler from seeing that each lane holds a byte. It would take nibbles out of the bytes before it widens
/// them, and so widen twice for the two nibbles of one byte, and mask what a shift of bytes lets in.
#[target_feature(enable = "avx2")]
#[inline]
fn as_words(mut bytes: __m256i) -> __m256i {
    // SAFETY: there is no instruction.
    unsafe {
        asm!("/* {0} */", inout(ymm_reg) bytes, options(pure, nomem, nostack, preserves_flags));
    }
    bytes
}

// SAFETY, of every block below: code with this type runs within `enter` alone, whose caller has seen
// that the instructions exist (see `vector`); addresses are those of slices just checked to be long
// enough.
#[allow(clippy::undocumented_unsafe_blocks, reason = "the one comment above holds for them all")]
impl Vector for Avx2 {
    const LANES: usize = 8;
    const REGISTERS: usize = 16;
    const READS_STORED: bool = true;
    const FUSED: bool = true;
    type Eight = Self;
    type Bits = __m256i;
    type Nibbles = (__m256, __m256);

    #[inline(always)]
    fn splat(value: f32) -> Self {
        Self(unsafe { _mm256_set1_ps(value) })
    }

    #[inline(always)]
    fn load(from: &[f32]) -> Self {
        Self(unsafe { _mm256_loadu_ps(read::<8, _>(from)) })
    }

    #[inline(always)]
    fn store(self, to: &mut [f32]) {
        unsafe { _mm256_storeu_ps(write::<8>(to), self.0) }
    }

    #[inline(always)]
    fn mul_add(self, by: Self, plus: Self) -> Self {
        Self(unsafe { _mm256_fmadd_ps(self.0, by.0, plus.0) })
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        Self(unsafe { _mm256_sub_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        Self(unsafe { _mm256_mul_ps(self.0, other.0) })
    }

    /// ((0+1)+(2+3)) + ((4+5)+(6+7)) of each.
    #[inline(always)]
    fn sums([a, b, c, d]: [Self; 4]) -> [f32; 4] {
        let mut folded = [0.0; 4];
        unsafe {
            let pairs = _mm256_hadd_ps(_mm256_hadd_ps(a.0, b.0), _mm256_hadd_ps(c.0, d.0));
            let low = _mm256_castps256_ps128(pairs);
            let four = _mm_add_ps(low, _mm256_extractf128_ps::<1>(pairs));
            _mm_storeu_ps(folded.as_mut_ptr(), four);
        }
        folded
    }

    #[inline(always)]
    fn load_f32(from: &[u8]) -> Self {
        Self(unsafe { _mm256_loadu_ps(read::<32, _>(from).cast()) })
    }

    #[inline(always)]
    fn load_f16(from: &[u8]) -> Self {
        Self(unsafe { _mm256_cvtph_ps(_mm_loadu_si128(read::<16, _>(from).cast())) })
    }

    #[inline(always)]
    fn load_u8(from: &[u8]) -> __m256i {
        unsafe { _mm256_cvtepu8_epi32(_mm_loadl_epi64(read::<8, _>(from).cast())) }
    }

    #[inline(always)]
    fn load_i8(from: &[u8]) -> __m256i {
        unsafe { _mm256_cvtepi8_epi32(_mm_loadl_epi64(read::<8, _>(from).cast())) }
    }

    #[inline(always)]
    fn load_u16(from: &[u8]) -> __m256i {
        unsafe { _mm256_cvtepu16_epi32(_mm_loadu_si128(read::<16, _>(from).cast())) }
    }

    #[inline(always)]
    fn bits_of(word: u32, first: usize) -> __m256i {
        unsafe {
            let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            let by = _mm256_add_epi32(lanes, _mm256_set1_epi32(first as i32));
            let shifted = _mm256_srlv_epi32(_mm256_set1_epi32(word as i32), by);
            _mm256_and_si256(shifted, _mm256_set1_epi32(1))
        }
    }

    #[inline(always)]
    fn and(bits: __m256i, mask: u32) -> __m256i {
        unsafe { _mm256_and_si256(bits, _mm256_set1_epi32(mask as i32)) }
    }

    #[inline(always)]
    fn or(bits: __m256i, other: __m256i) -> __m256i {
        unsafe { _mm256_or_si256(bits, other) }
    }

    #[inline(always)]
    fn shl(bits: __m256i, by: usize) -> __m256i {
        unsafe { _mm256_sllv_epi32(bits, _mm256_set1_epi32(by as i32)) }
    }

    #[inline(always)]
    fn shr(bits: __m256i, by: usize) -> __m256i {
        unsafe { _mm256_srlv_epi32(bits, _mm256_set1_epi32(by as i32)) }
    }

    #[inline(always)]
    fn to_f32(bits: __m256i) -> Self {
        Self(unsafe { _mm256_cvtepi32_ps(bits) })
    }

    #[inline(always)]
    fn from_bits(bits: __m256i) -> Self {
        Self(unsafe { _mm256_castsi256_ps(bits) })
    }

    #[inline(always)]
    fn nibbles(scale: f32, offset: f32) -> (__m256, __m256) {
        unsafe { (_mm256_set1_ps(scale), _mm256_set1_ps(offset)) }
    }

    #[inline(always)]
    fn look_up(bytes: &[u8], which: usize, (scale, offset): (__m256, __m256)) -> Self {
        let bytes = unsafe { as_words(Self::load_u8(bytes)) };
        let q = if which == 0 { Self::and(bytes, 15) } else { Self::shr(bytes, 4) };
        Self(unsafe { _mm256_fmadd_ps(_mm256_cvtepi32_ps(q), scale, offset) })
    }

    #[inline(always)]
    fn prefetch(at: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }

    #[inline(always)]
    fn prefetch_second(at: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
    }
}

// SAFETY, of every block below: as above.
#[allow(clippy::undocumented_unsafe_blocks, reason = "the one comment above holds for them all")]
impl Dot for Avx2 {
    type Bytes = __m256i;

    #[inline(always)]
    fn none() -> __m256i {
        unsafe { _mm256_setzero_si256() }
    }

    #[inline(always)]
    fn load_bytes(from: &[u32]) -> __m256i {
        unsafe { _mm256_loadu_si256(read::<8, _>(from).cast()) }
    }

    /// Two products of less than 2¹⁴ are summed in sixteen bits, which hold them.
    #[inline(always)]
    fn dot(sum: __m256i, codes: __m256i, x: [i8; 4]) -> __m256i {
        unsafe {
            let x = _mm256_set1_epi32(i32::from_le_bytes(x.map(|x| x as u8)));
            let pairs = _mm256_maddubs_epi16(codes, x);
            _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
        }
    }

    /// Multiplies the low seven bits and the eighth apart, because the instruction takes codes below 128.
    #[inline(always)]
    fn dot_wide(sum: __m256i, codes: __m256i, x: [i8; 4]) -> __m256i {
        unsafe {
            let low = _mm256_and_si256(codes, _mm256_set1_epi8(127));
            let high = _mm256_and_si256(_mm256_srli_epi16::<7>(codes), _mm256_set1_epi8(1));
            let eighth = Self::dot(Self::none(), high, x);
            Self::dot(_mm256_add_epi32(sum, _mm256_slli_epi32::<7>(eighth)), low, x)
        }
    }
}

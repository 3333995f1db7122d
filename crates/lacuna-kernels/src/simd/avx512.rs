//! Implements the vector with AVX-512: sixteen lanes.

use std::arch::asm;
use std::arch::x86_64::*;

use super::avx2::{Avx2, read, write};
use super::dot::{ByteKernel, Dot};
use super::vector::{Kernel, Vector};

/// Sixteen floats.
#[derive(Clone, Copy)]
pub(super) struct Avx512(__m512);

/// # Safety
/// The processor has AVX-512 F, DQ and VL beside what AVX2's vectors need. (VL, because without it the
/// compiler keeps out of half of the registers.)
#[target_feature(enable = "avx512f,avx512dq,avx512vl,avx2,fma,f16c")]
pub(super) unsafe fn enter<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<Avx512>()
}

/// Tells whether this processor, which has what [`enter`] needs, can also multiply bytes.
pub(super) fn multiplies_bytes() -> bool {
    is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512vnni")
}

/// # Safety
/// As [`enter`], and [`multiplies_bytes`].
#[target_feature(enable = "avx512f,avx512dq,avx512vl,avx512bw,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn enter_bytes<K: ByteKernel>(kernel: K) -> K::Output {
    kernel.run::<Avx512>()
}

/// Gives sixteen numbers, each one more than the last.
#[inline(always)]
fn counted(first: f32) -> [f32; 16] {
    [0., 1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11., 12., 13., 14., 15.].map(|i: f32| first + i)
}

/// Shifts integers to the right by four bits. The compiler would rather shift bytes and widen them a second time
/// than shift what has been widened for low nibbles anyway, so it is not told what this does.
#[inline]
#[target_feature(enable = "avx512f")]
fn four_right(from: __m512i) -> __m512i {
    let to: __m512i;
    // SAFETY: an instruction of AVX-512 F, on registers alone.
    unsafe {
        asm!(
            "vpsrld {to}, {from}, 4",
            to = lateout(zmm_reg) to,
            from = in(zmm_reg) from,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    to
}

// SAFETY, of every block below: code with this type runs within `enter` alone, whose caller has seen
// that the instructions exist (see `vector`); addresses are those of slices just checked to be long
// enough.
#[allow(clippy::undocumented_unsafe_blocks, reason = "the one comment above holds for them all")]
impl Vector for Avx512 {
    const LANES: usize = 16;
    const REGISTERS: usize = 32;
    const READS_STORED: bool = true;
    const FUSED: bool = true;
    type Eight = Avx2;
    type Bits = __m512i;
    type Nibbles = __m512;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        Self(unsafe { _mm512_set1_ps(value) })
    }

    #[inline(always)]
    fn load(from: &[f32]) -> Self {
        Self(unsafe { _mm512_loadu_ps(read::<16, _>(from)) })
    }

    #[inline(always)]
    fn store(self, to: &mut [f32]) {
        unsafe { _mm512_storeu_ps(write::<16>(to), self.0) }
    }

    #[inline(always)]
    fn mul_add(self, by: Self, plus: Self) -> Self {
        Self(unsafe { _mm512_fmadd_ps(self.0, by.0, plus.0) })
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        Self(unsafe { _mm512_sub_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        Self(unsafe { _mm512_mul_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn sums([a, b, c, d]: [Self; 4]) -> [f32; 4] {
        let mut folded = [0.0; 4];
        unsafe {
            let ab = _mm512_add_ps(_mm512_unpacklo_ps(a.0, b.0), _mm512_unpackhi_ps(a.0, b.0));
            let cd = _mm512_add_ps(_mm512_unpacklo_ps(c.0, d.0), _mm512_unpackhi_ps(c.0, d.0));
            let (ab, cd) = (_mm512_castps_pd(ab), _mm512_castps_pd(cd));
            let (low, high) = (_mm512_unpacklo_pd(ab, cd), _mm512_unpackhi_pd(ab, cd));
            let all = _mm512_add_ps(_mm512_castpd_ps(low), _mm512_castpd_ps(high));
            let half = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps::<1>(all));
            let low = _mm256_castps256_ps128(half);
            let four = _mm_add_ps(low, _mm256_extractf128_ps::<1>(half));
            _mm_storeu_ps(folded.as_mut_ptr(), four);
        }
        folded
    }

    #[inline(always)]
    fn load_f32(from: &[u8]) -> Self {
        Self(unsafe { _mm512_loadu_ps(read::<64, _>(from).cast()) })
    }

    #[inline(always)]
    fn load_f16(from: &[u8]) -> Self {
        Self(unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(read::<32, _>(from).cast())) })
    }

    #[inline(always)]
    fn load_u8(from: &[u8]) -> __m512i {
        unsafe { _mm512_cvtepu8_epi32(_mm_loadu_si128(read::<16, _>(from).cast())) }
    }

    #[inline(always)]
    fn load_i8(from: &[u8]) -> __m512i {
        unsafe { _mm512_cvtepi8_epi32(_mm_loadu_si128(read::<16, _>(from).cast())) }
    }

    #[inline(always)]
    fn load_u16(from: &[u8]) -> __m512i {
        unsafe { _mm512_cvtepu16_epi32(_mm256_loadu_si256(read::<32, _>(from).cast())) }
    }

    #[inline(always)]
    fn bits_of(word: u32, first: usize) -> __m512i {
        unsafe {
            let lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
            let by = _mm512_add_epi32(lanes, _mm512_set1_epi32(first as i32));
            let shifted = _mm512_srlv_epi32(_mm512_set1_epi32(word as i32), by);
            _mm512_and_si512(shifted, _mm512_set1_epi32(1))
        }
    }

    #[inline(always)]
    fn and(bits: __m512i, mask: u32) -> __m512i {
        unsafe { _mm512_and_si512(bits, _mm512_set1_epi32(mask as i32)) }
    }

    #[inline(always)]
    fn or(bits: __m512i, other: __m512i) -> __m512i {
        unsafe { _mm512_or_si512(bits, other) }
    }

    #[inline(always)]
    fn shl(bits: __m512i, by: usize) -> __m512i {
        unsafe { _mm512_sllv_epi32(bits, _mm512_set1_epi32(by as i32)) }
    }

    #[inline(always)]
    fn shr(bits: __m512i, by: usize) -> __m512i {
        unsafe { _mm512_srlv_epi32(bits, _mm512_set1_epi32(by as i32)) }
    }

    #[inline(always)]
    fn to_f32(bits: __m512i) -> Self {
        Self(unsafe { _mm512_cvtepi32_ps(bits) })
    }

    #[inline(always)]
    fn from_bits(bits: __m512i) -> Self {
        Self(unsafe { _mm512_castsi512_ps(bits) })
    }

    #[inline(always)]
    fn nibbles(scale: f32, offset: f32) -> __m512 {
        Self::load(&counted(0.)).mul_add(Self::splat(scale), Self::splat(offset)).0
    }

    #[inline(always)]
    fn nibbles_from(first: f32, scale: f32) -> __m512 {
        Self::load(&counted(first)).mul(Self::splat(scale)).0
    }

    /// The permutation reads four bits of an index, so nibbles need no masking.
    #[inline(always)]
    fn look_up(bytes: &[u8], which: usize, values: __m512) -> Self {
        let bytes = Self::load_u8(bytes);
        let index = if which == 0 { bytes } else { unsafe { four_right(bytes) } };
        Self(unsafe { _mm512_permutexvar_ps(index, values) })
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

// SAFETY, of every block below: as above, within `enter_bytes`.
#[allow(clippy::undocumented_unsafe_blocks, reason = "the one comment above holds for them all")]
impl Dot for Avx512 {
    type Bytes = __m512i;

    #[inline(always)]
    fn none() -> __m512i {
        unsafe { _mm512_setzero_si512() }
    }

    #[inline(always)]
    fn load_bytes(from: &[u32]) -> __m512i {
        unsafe { _mm512_loadu_si512(read::<16, _>(from).cast()) }
    }

    #[inline(always)]
    fn dot(sum: __m512i, codes: __m512i, x: [i8; 4]) -> __m512i {
        unsafe {
            let x = _mm512_set1_epi32(i32::from_le_bytes(x.map(|x| x as u8)));
            _mm512_dpbusd_epi32(sum, codes, x)
        }
    }

    #[inline(always)]
    fn dot_wide(sum: __m512i, codes: __m512i, x: [i8; 4]) -> __m512i {
        Self::dot(sum, codes, x)
    }
}

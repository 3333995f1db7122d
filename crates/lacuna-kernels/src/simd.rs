//! Compiles one source of each inner loop for every instruction set of the architecture, and chooses among them at
//! run time: on x86-64 AVX-512, AVX2 with FMA, or portable code; on AArch64 NEON, or portable code. Loops are written
//! with [`Vector`]s, or over single floats, generic over `FMA`, so that the compiler vectorises them ([`simd`]).
#![allow(unsafe_code, reason = "code compiled for instructions that were detected")]

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod dot;
mod half;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
mod rows;
mod vector;

use crate::backend::Isa;

pub(crate) use dot::{ByteKernel, Dot};
pub(crate) use half::{Halves, f16_to_f32};
pub(crate) use rows::{BlockOf, Rows};
pub(crate) use vector::{Kernel, Vector};

/// Instructions that were found on this machine, so that a loop over small pieces need not ask each time.
#[derive(Clone, Copy)]
pub(crate) struct Detected(Isa);

impl From<Isa> for Detected {
    /// The set itself if the machine has it, else the widest narrower one.
    fn from(isa: Isa) -> Self {
        Self(isa.runnable())
    }
}

/// Runs a loop with the widest vectors up to `isa` that this machine has.
#[inline]
pub(crate) fn run<K: Kernel>(isa: impl Into<Detected>, kernel: K) -> K::Output {
    match isa.into().0 {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: what `enter` needs was detected when the value was made.
        Isa::Avx512 => unsafe { avx512::enter(kernel) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 => unsafe { avx2::enter(kernel) },
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => neon::enter(kernel),
        _ => portable::enter(kernel),
    }
}

/// [`run`] for loops that multiply bytes. AVX-512 without VNNI has nothing that AVX2 lacks here.
pub(crate) fn run_bytes<K: ByteKernel>(isa: impl Into<Detected>, kernel: K) -> K::Output {
    match isa.into().0 {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: what `enter` needs was detected when the value was made, and the rest just now.
        Isa::Avx512 if avx512::multiplies_bytes() => unsafe { avx512::enter_bytes(kernel) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: what AVX2's vectors need was detected when the value was made, alone or with AVX-512's.
        Isa::Avx2 | Isa::Avx512 => unsafe { avx2::enter_bytes(kernel) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: what it needs was detected just now.
        Isa::Neon if neon::multiplies_bytes() => unsafe { neon::enter_bytes(kernel) },
        _ => portable::enter_bytes(kernel),
    }
}

/// Defines a function that takes an [`Isa`](crate::Isa) first, and runs `body::<true>` compiled with AVX-512,
/// or with AVX2 and FMA, or with NEON, as far as that and the machine allow, and `body::<false>` where a product and a
/// sum are not fused.
macro_rules! simd {
    ($(#[$meta:meta])* $vis:vis fn $name:ident$(<$life:lifetime>)?(
        $($arg:ident: $ty:ty),* $(,)?
    ) $(-> $ret:ty)? = $body:ident) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments, reason = "an inner loop takes what it touches")]
        $vis fn $name$(<$life>)?(isa: crate::Isa, $($arg: $ty),*) $(-> $ret)? {
            struct Arguments<T>(T);
            impl$(<$life>)? crate::simd::Kernel for Arguments<($($ty,)*)> {
                type Output = crate::simd::simd!(@output $($ret)?);

                #[inline(always)]
                fn run<V: crate::simd::Vector>(self) -> Self::Output {
                    let ($($arg,)*) = self.0;
                    if V::FUSED { $body::<true>($($arg),*) } else { $body::<false>($($arg),*) }
                }
            }
            crate::simd::run(isa, Arguments(($($arg,)*)))
        }
    };
    (@output) => { () };
    (@output $ret:ty) => { $ret };
}
pub(crate) use simd;

/// a · b + c, fused where the instruction exists.
#[inline(always)]
pub(crate) fn madd<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// e^x within 2 ulp, from −104 (0) to beyond 88.73 (∞); NaN stays NaN.
///
/// x = n·ln 2 + r with |r| ≤ ln 2 / 2, see [`e_to_rest`].
#[inline(always)]
pub(crate) fn exp<const FMA: bool>(x: f32) -> f32 {
    /// 1.5 · 2²³: adding it rounds to an integer, which the low bits then hold.
    const MAGIC: f32 = 12_582_912.;
    let x = x.clamp(-104., 89.);
    let shifted = madd::<FMA>(x, std::f32::consts::LOG2_E, MAGIC);
    let n = shifted - MAGIC;
    let e = e_to_rest::<FMA>(x, n);
    // 2^n as a product of two, so that both ends of the range (denormals, 2^128) come out right.
    let n = (shifted.to_bits() as i32).wrapping_sub(MAGIC.to_bits() as i32);
    let half = n >> 1;
    e * power_of_two(half) * power_of_two(n.wrapping_sub(half))
}

/// e^x for x ≤ 0 within 2 ulp, 0 below −87 (softmax has no use for what is smaller); NaN stays NaN.
/// The same as [`exp`] with fewer steps.
#[inline(always)]
pub(crate) fn exp_below_zero<const FMA: bool>(x: f32) -> f32 {
    /// 1.5 · 2²³ + 127: the low bits then hold the exponent as a float has it.
    const MAGIC: f32 = 12_583_039.;
    let shifted = madd::<FMA>(x, std::f32::consts::LOG2_E, MAGIC);
    let n = shifted - MAGIC;
    let e = e_to_rest::<FMA>(x, n);
    let e = e * f32::from_bits(shifted.to_bits() << 23);
    if x < -87. { 0. } else { e }
}

/// e^(x − n·ln 2), for a difference of at most ln 2 / 2: 1 + r + r²·p(r), p interpolated at
/// Chebyshev nodes (relative error 1.1e-8).
#[inline(always)]
fn e_to_rest<const FMA: bool>(x: f32, n: f32) -> f32 {
    /// ln 2 in two parts, the first short enough for n · LN2_HIGH to be exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let r = madd::<FMA>(n, -LN2_LOW, madd::<FMA>(n, -LN2_HIGH, x));
    let p = madd::<FMA>(r, 1.392_621_3e-3, 8.363_203e-3);
    let p = madd::<FMA>(r, p, 4.166_655_6e-2);
    let p = madd::<FMA>(r, p, 0.166_665_76);
    let p = madd::<FMA>(r, p, 0.5);
    madd::<FMA>(r * r, p, r) + 1.
}

#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) << 23) as u32)
}

/// The largest element; NaN if one is NaN.
#[inline(always)]
pub(crate) fn max_body(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 16];
    let (whole, rest) = x.as_chunks::<16>();
    for x in whole {
        for lane in 0..16 {
            // Not `>`: NaN must stay once it is there or comes.
            lanes[lane] = if x[lane] <= lanes[lane] { lanes[lane] } else { x[lane] };
        }
    }
    let larger = |a: f32, b: f32| if b <= a || a.is_nan() { a } else { b };
    lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, larger)
}

/// Σ x · y, in sixteen sums.
#[inline(always)]
pub(crate) fn dot_body<const FMA: bool>(x: &[f32], y: &[f32]) -> f32 {
    let mut lanes = [0f32; 16];
    let ((x, x_rest), (y, y_rest)) = (x.as_chunks::<16>(), y.as_chunks::<16>());
    for (x, y) in x.iter().zip(y) {
        for lane in 0..16 {
            lanes[lane] = madd::<FMA>(x[lane], y[lane], lanes[lane]);
        }
    }
    let rest = x_rest.iter().zip(y_rest).map(|(x, y)| x * y).sum::<f32>();
    lanes.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    #[inline(always)]
    fn exp_all_body<const FMA: bool>(values: &mut [f32]) {
        values.iter_mut().for_each(|v| *v = exp::<FMA>(*v));
    }
    simd!(fn exp_all(values: &mut [f32]) = exp_all_body);

    #[inline(always)]
    fn below_zero_body<const FMA: bool>(values: &mut [f32]) {
        values.iter_mut().for_each(|v| *v = exp_below_zero::<FMA>(*v));
    }
    simd!(fn below_zero(values: &mut [f32]) = below_zero_body);

    /// Checks e^x from `first` up, in steps of 9.6e-5.
    fn is_within_two_ulp(first: f32, steps: usize, exp: impl Fn(&mut [f32])) {
        let inputs = (0..steps).map(|i| first + i as f32 * 9.6e-5).collect::<Vec<_>>();
        let mut outputs = inputs.clone();
        exp(&mut outputs);
        for (x, y) in inputs.iter().zip(&outputs) {
            let exact = f64::from(*x).exp();
            let rounded = exact as f32;
            if rounded.is_infinite() {
                // The last half ulp before overflow may round either way.
                assert!(*y >= f32::MAX * 0.999_999, "exp({x}) = {y}");
                continue;
            }
            let ulp = f64::from(f32::from_bits(rounded.to_bits() + 1)) - f64::from(rounded);
            let error = (f64::from(*y) - exact).abs() / ulp;
            assert!(error <= 2., "exp({x}) = {y}, {error} ulp off");
        }
    }

    #[test]
    fn exp_is_within_two_ulp_of_the_double() {
        for isa in Isa::here() {
            is_within_two_ulp(-103.9, 2_000_000, |values| exp_all(isa, values));
            is_within_two_ulp(-87., 906_250, |values| below_zero(isa, values));
        }
    }

    #[test]
    fn exp_keeps_the_special_values() {
        let mut values = [0., f32::NEG_INFINITY, -1e30, f32::INFINITY, 1e30, f32::NAN];
        exp_all(Isa::best(), &mut values);
        assert_eq!(values[..5], [1., 0., 0., f32::INFINITY, f32::INFINITY]);
        assert!(values[5].is_nan());
        let mut values = [0., f32::NEG_INFINITY, -1e30, -87.1, f32::NAN];
        below_zero(Isa::best(), &mut values);
        assert_eq!(values[..4], [1., 0., 0., 0.]);
        assert!(values[4].is_nan());
    }

    /// The sums of a block's products, a lane each, as floats that hold them exactly.
    struct Sums<'a> {
        codes: &'a [u32],
        x: &'a [[i8; 4]],
        wide: bool,
    }

    impl ByteKernel for Sums<'_> {
        type Output = Vec<f32>;

        #[inline(always)]
        fn run<V: Dot>(self) -> Vec<f32> {
            let mut sums = V::none();
            for (codes, &x) in self.codes.chunks_exact(16).zip(self.x) {
                let codes = V::load_bytes(codes);
                sums = if self.wide { V::dot_wide(sums, codes, x) } else { V::dot(sums, codes, x) };
            }
            let mut lanes = vec![0.; V::LANES];
            V::to_f32(sums).store(&mut lanes);
            lanes
        }
    }

    #[test]
    fn sums_of_bytes_are_exact() {
        let mut state = 1u64;
        let mut byte = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        };
        for (wide, most) in [(false, 127u8), (true, 255)] {
            for extreme in [false, true] {
                let mut code = || if extreme { most } else { byte() & most };
                let codes: Vec<[u8; 4]> = (0..8 * 16).map(|_| [0; 4].map(|_| code())).collect();
                let x = [0; 8].map(|_| [-127, 127, 1, byte() as i8].map(|x: i8| x.max(-127)));
                let words: Vec<u32> = codes.iter().map(|code| u32::from_le_bytes(*code)).collect();
                let sum = |lane: usize| -> i32 {
                    let fours = codes[lane..].iter().step_by(16).zip(&x);
                    let terms = fours.flat_map(|(codes, x)| codes.iter().zip(x));
                    terms.map(|(code, x)| i32::from(*code) * i32::from(*x)).sum()
                };
                for isa in Isa::here() {
                    let sums = run_bytes(isa, Sums { codes: &words, x: &x, wide });
                    let expected: Vec<f32> = (0..sums.len()).map(|lane| sum(lane) as f32).collect();
                    assert_eq!(sums, expected, "{isa:?}, wide: {wide}, extreme: {extreme}");
                }
            }
        }
    }
}

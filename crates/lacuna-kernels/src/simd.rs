//! One source for each inner loop, compiled twice: for AVX2 with FMA, chosen at run time, and
//! portably. The bodies are generic over `FMA` and written so that the compiler vectorises them.

use std::sync::atomic::{AtomicBool, Ordering};

static PORTABLE: AtomicBool = AtomicBool::new(false);

/// Switches the machine-specific loops off (or on again) for the whole process, so that tests can
/// compare them with the portable ones on one machine.
#[doc(hidden)]
pub fn force_portable(portable: bool) {
    PORTABLE.store(portable, Ordering::Relaxed);
}

/// Whether loops compiled for AVX2 and FMA may run.
#[cfg(target_arch = "x86_64")]
pub(crate) fn has_fma() -> bool {
    !PORTABLE.load(Ordering::Relaxed)
        && std::is_x86_feature_detected!("avx2")
        && std::is_x86_feature_detected!("fma")
}

/// Defines a function that runs `body::<true>` compiled with AVX2 and FMA where the machine has
/// them and `body::<false>` elsewhere.
macro_rules! simd {
    ($(#[$meta:meta])* $vis:vis fn $name:ident$(<const $n:ident: usize>)?(
        $($arg:ident: $ty:ty),* $(,)?
    ) $(-> $ret:ty)? = $body:ident) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments, reason = "an inner loop takes what it touches")]
        $vis fn $name$(<const $n: usize>)?($($arg: $ty),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            if crate::simd::has_fma() {
                #[target_feature(enable = "avx2,fma")]
                #[allow(clippy::too_many_arguments, reason = "as above")]
                fn fast$(<const $n: usize>)?($($arg: $ty),*) $(-> $ret)? {
                    $body::<true $(, $n)?>($($arg),*)
                }
                // SAFETY: AVX2 and FMA were detected just above.
                return unsafe { fast$(::<$n>)?($($arg),*) };
            }
            $body::<false $(, $n)?>($($arg),*)
        }
    };
}
pub(crate) use simd;

/// a · b + c, fused where the instruction exists.
#[inline(always)]
pub(crate) fn madd<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// e^x within 2 ulp, from −104 (0) to beyond 88.73 (∞); NaN stays NaN.
///
/// x = n·ln 2 + r with |r| ≤ ln 2 / 2; e^r = 1 + r + r²·p(r), p interpolated at Chebyshev nodes
/// (relative error 1.1e-8).
#[inline(always)]
pub(crate) fn exp<const FMA: bool>(x: f32) -> f32 {
    /// 1.5 · 2²³: adding it rounds to an integer, which the low bits then hold.
    const MAGIC: f32 = 12_582_912.;
    /// ln 2 in two parts, the first short enough for n · LN2_HIGH to be exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = x.clamp(-104., 89.);
    let shifted = madd::<FMA>(x, std::f32::consts::LOG2_E, MAGIC);
    let n = shifted - MAGIC;
    let r = madd::<FMA>(n, -LN2_LOW, madd::<FMA>(n, -LN2_HIGH, x));
    let p = madd::<FMA>(r, 1.392_621_3e-3, 8.363_203e-3);
    let p = madd::<FMA>(r, p, 4.166_655_6e-2);
    let p = madd::<FMA>(r, p, 0.166_665_76);
    let p = madd::<FMA>(r, p, 0.5);
    let e = madd::<FMA>(r * r, p, r) + 1.;
    // 2^n as a product of two, so that both ends of the range (denormals, 2^128) come out right.
    let n = (shifted.to_bits() as i32).wrapping_sub(MAGIC.to_bits() as i32);
    let half = n >> 1;
    e * power_of_two(half) * power_of_two(n.wrapping_sub(half))
}

#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) << 23) as u32)
}

/// Largest element, NaN if there is one.
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

    #[inline(always)]
    fn exp_all_body<const FMA: bool>(values: &mut [f32]) {
        values.iter_mut().for_each(|v| *v = exp::<FMA>(*v));
    }
    simd!(fn exp_all(values: &mut [f32]) = exp_all_body);

    #[test]
    fn exp_is_within_two_ulp_of_the_double() {
        let inputs = (0..2_000_000).map(|i| -103.9 + i as f32 * 9.6e-5).collect::<Vec<_>>();
        for portable in [false, true] {
            let mut outputs = inputs.clone();
            if portable {
                exp_all_body::<false>(&mut outputs)
            } else {
                exp_all(&mut outputs)
            };
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
    }

    #[test]
    fn exp_keeps_the_special_values() {
        let mut values = [0., f32::NEG_INFINITY, -1e30, f32::INFINITY, 1e30, f32::NAN];
        exp_all(&mut values);
        assert_eq!(values[..5], [1., 0., 0., f32::INFINITY, f32::INFINITY]);
        assert!(values[5].is_nan());
    }
}

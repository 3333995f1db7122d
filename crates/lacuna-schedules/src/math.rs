//! Computes the few transcendental functions that schedules need, from additions, multiplications
//! and divisions alone.
//!
//! `core` has none, and the platform's own differ in their last bits. These give the same bits
//! everywhere, so a training run's noise does too. Relative error is below 1e-15 (tests below).

use core::f64::consts::FRAC_PI_2;

/// ln 2 in two parts; the first has 33 significant bits, so that its product with an exponent is exact.
const LN_2_HI: f64 = f64::from_bits(0x3FE6_2E42_FEE0_0000);
const LN_2_LO: f64 = 1.908_214_929_270_587_7e-10;

/// 1/k! for k = 0..20, each correctly rounded: every one of these factorials is an exact f64.
const INVERSE_FACTORIAL: [f64; 20] = {
    let mut table = [1.0; 20];
    let (mut k, mut factorial) = (1, 1.0);
    while k < 20 {
        factorial *= k as f64;
        table[k] = 1.0 / factorial;
        k += 1;
    }
    table
};

/// e^x.
pub(crate) fn exp(x: f64) -> f64 {
    if x > 709.79 {
        return f64::INFINITY;
    }
    if x < -745.2 {
        return 0.0;
    }
    let exponent = round(x / core::f64::consts::LN_2);
    let k = f64::from(exponent);
    let r = (x - k * LN_2_HI) - k * LN_2_LO;
    scale(1.0 + r * exp_m1_over_x(r), exponent)
}

/// e^x − 1, without the loss of digits near 0.
pub(crate) fn exp_m1(x: f64) -> f64 {
    if x.abs() < 0.35 { x * exp_m1_over_x(x) } else { exp(x) - 1.0 }
}

/// ln x for x > 0.
pub(crate) fn ln(x: f64) -> f64 {
    let (hi, lo) = ln_parts(x);
    hi + lo
}

/// ln(1 + x) for x ≥ 0, without the loss of digits near 0.
pub(crate) fn ln_1p(x: f64) -> f64 {
    if x < 0.4 { atanh_doubled(x / (2.0 + x)) } else { ln(1.0 + x) }
}

/// base^exponent for base ≥ 0, through a logarithm of twice the precision.
pub(crate) fn pow(base: f64, exponent: f64) -> f64 {
    if exponent == 0.0 || base == 1.0 {
        return 1.0;
    }
    if exponent == 1.0 {
        return base;
    }
    if base == 0.0 {
        return if exponent > 0.0 { 0.0 } else { f64::INFINITY };
    }
    let (hi, lo) = ln_parts(base);
    let (product, error) = two_product(exponent, hi);
    exp(product) * (1.0 + (error + exponent * lo))
}

/// sin(π·t/2) for t in [0, 1]; exactly 0 and 1 at the ends.
pub(crate) fn sin_half_pi(t: f64) -> f64 {
    if t <= 0.5 { sin_kernel(t * FRAC_PI_2) } else { cos_kernel((1.0 - t) * FRAC_PI_2) }
}

/// cos(π·t/2) for t in [0, 1]; exactly 1 and 0 at the ends, because 1 − t is exact for t ≥ ½.
pub(crate) fn cos_half_pi(t: f64) -> f64 {
    if t <= 0.5 { cos_kernel(t * FRAC_PI_2) } else { sin_kernel((1.0 - t) * FRAC_PI_2) }
}

/// sin x = x − x³/3! + … for |x| ≤ π/4; the first term left out is below 2e-22.
fn sin_kernel(x: f64) -> f64 {
    let z = x * x;
    let tail = (1..10).rev().fold(0.0, |sum, k| INVERSE_FACTORIAL[2 * k + 1] - z * sum);
    x - x * z * tail
}

/// cos x = 1 − x²/2! + … for |x| ≤ π/4; the first term left out is below 4e-21.
fn cos_kernel(x: f64) -> f64 {
    let z = x * x;
    let tail = (1..10).rev().fold(0.0, |sum, k| INVERSE_FACTORIAL[2 * k] - z * sum);
    1.0 - z * tail
}

/// (e^x − 1)/x = 1 + x/2! + x²/3! + … for |x| ≤ 0.35; the first term left out is below 1e-22.
fn exp_m1_over_x(x: f64) -> f64 {
    (1..17).rev().fold(0.0, |sum, k| INVERSE_FACTORIAL[k] + x * sum)
}

/// 2·atanh(s) = 2·(s + s³/3 + …) for |s| ≤ 0.18; the first term left out is below 1e-22.
fn atanh_doubled(s: f64) -> f64 {
    2.0 * s + s * atanh_tail(s * s)
}

/// 2·(z/3 + z²/5 + …).
fn atanh_tail(z: f64) -> f64 {
    z * (1..14).rev().fold(0.0, |sum, k| 2.0 / f64::from(2 * k + 1) + z * sum)
}

/// ln x = k·ln 2 + 2·atanh((m − 1)/(m + 1)) for x = m·2^k, as a sum of two numbers (relative error near 1e-18).
fn ln_parts(x: f64) -> (f64, f64) {
    let (mantissa, exponent) = split_exponent(x);
    let k = f64::from(exponent);
    let numerator = mantissa - 1.0;
    let (denominator, denominator_lo) = two_sum(mantissa, 1.0);
    let s = numerator / denominator;
    let (product, product_lo) = two_product(s, denominator);
    let s_lo = (((numerator - product) - product_lo) - s * denominator_lo) / denominator;
    let (hi, lo) = two_sum(k * LN_2_HI, 2.0 * s);
    two_sum(hi, lo + (2.0 * s_lo + s * atanh_tail(s * s) + k * LN_2_LO))
}

/// x = m·2^k with m in [√½, √2).
fn split_exponent(x: f64) -> (f64, i32) {
    const MANTISSA: u64 = (1 << 52) - 1;
    if x < f64::MIN_POSITIVE {
        let (mantissa, exponent) = split_exponent(x * 18_014_398_509_481_984.0);
        return (mantissa, exponent - 54);
    }
    let exponent = ((x.to_bits() >> 52) & 0x7FF) as i32 - 1023;
    let mantissa = f64::from_bits((x.to_bits() & MANTISSA) | (1023 << 52));
    if mantissa > core::f64::consts::SQRT_2 {
        (mantissa / 2.0, exponent + 1)
    } else {
        (mantissa, exponent)
    }
}

/// x·2^k, in two factors so that neither overflows on the way to a subnormal or to the largest numbers.
fn scale(x: f64, k: i32) -> f64 {
    let power = |k: i32| f64::from_bits(((k + 1023) as u64) << 52);
    let half = k / 2;
    x * power(half) * power(k - half)
}

fn round(x: f64) -> i32 {
    (if x < 0.0 { x - 0.5 } else { x + 0.5 }) as i32
}

/// a + b = sum + error, exactly (Knuth).
fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let sum = a + b;
    let b_seen = sum - a;
    (sum, (a - (sum - b_seen)) + (b - b_seen))
}

/// a·b = product + error, exactly (Dekker; no fused multiply-add, which not every target has).
fn two_product(a: f64, b: f64) -> (f64, f64) {
    let halves = |x: f64| {
        let scaled = 134_217_729.0 * x;
        let hi = scaled - (scaled - x);
        (hi, x - hi)
    };
    let ((a_hi, a_lo), (b_hi, b_lo)) = (halves(a), halves(b));
    let product = a * b;
    (product, ((a_hi * b_hi - product) + a_hi * b_lo + a_lo * b_hi) + a_lo * b_lo)
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use std::f64::consts::PI;

    /// Both sides may be off by half a unit in the last place, std's by a little more.
    const TOLERANCE: f64 = 1e-15;

    fn assert_near(ours: f64, std: f64, what: &str, x: f64) {
        let error = if std == 0.0 { ours.abs() } else { (ours / std - 1.0).abs() };
        assert!(error < TOLERANCE, "{what}({x}): {ours} against {std}, relative error {error:e}");
    }

    fn grid(min: f64, max: f64) -> impl Iterator<Item = f64> {
        (0..=20_000).map(move |i| min + (max - min) * f64::from(i) / 20_000.0)
    }

    #[test]
    fn exponentials_agree_with_std() {
        for x in grid(-700.0, 709.0) {
            assert_near(exp(x), x.exp(), "exp", x);
        }
        for x in grid(-2.0, 25.0) {
            assert_near(exp_m1(x), x.exp_m1(), "exp_m1", x);
            assert_near(exp_m1(x * 1e-9), (x * 1e-9).exp_m1(), "exp_m1", x * 1e-9);
        }
        assert_eq!((exp(0.0), exp(-1000.0), exp(1000.0)), (1.0, 0.0, f64::INFINITY));
    }

    #[test]
    fn logarithms_agree_with_std() {
        for x in grid(1e-6, 4.0).chain(grid(4.0, 1e6)).chain([5e-324, 1e-310, 1e-300, 1e300]) {
            assert_near(ln(x), x.ln(), "ln", x);
        }
        for x in grid(0.0, 1.0) {
            assert_near(ln_1p(x), x.ln_1p(), "ln_1p", x);
            assert_near(ln_1p(x * 1e-9), (x * 1e-9).ln_1p(), "ln_1p", x * 1e-9);
        }
        assert_eq!(ln_1p(1.0), core::f64::consts::LN_2);
    }

    #[test]
    fn powers_agree_with_std() {
        for exponent in [0.1, 0.5, 1.0, 2.0, 3.3, 32.0, 100.0] {
            for base in grid(0.0, 2.0) {
                let expected = base.powf(exponent);
                if expected > f64::MIN_POSITIVE || expected == 0.0 {
                    assert_near(pow(base, exponent), expected, "pow", base);
                }
            }
        }
        assert_eq!((pow(0.0, 0.0), pow(0.0, 3.0), pow(0.3, 1.0)), (1.0, 0.0, 0.3));
    }

    #[test]
    fn quarter_turns_agree_with_std_and_are_exact_at_the_ends() {
        // std is given the rounded angle, so near t = 1 its cosine is that of a slightly different angle.
        for t in grid(0.0, 1.0) {
            assert_near(sin_half_pi(t), (t * PI / 2.0).sin(), "sin", t);
            if t < 0.8 {
                assert_near(cos_half_pi(t), (t * PI / 2.0).cos(), "cos", t);
            }
            let circle = sin_half_pi(t).powi(2) + cos_half_pi(t).powi(2);
            assert!((circle - 1.0).abs() < TOLERANCE, "sin² + cos² at {t} is {circle}");
        }
        assert_eq!((sin_half_pi(0.0), sin_half_pi(1.0)), (0.0, 1.0));
        assert_eq!((cos_half_pi(0.0), cos_half_pi(1.0)), (1.0, 0.0));
    }
}

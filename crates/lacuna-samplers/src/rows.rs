//! Reads rows of logits in place, swept once or twice, four or eight values to an instruction.
//!
//! Sweeps are plain loops over fixed-size chunks that the compiler turns into vector code on every
//! platform. e^x is a polynomial in f32; sums run in f64. With p the exact softmax, the relative
//! error of the normaliser is at most `EXP_ERROR` + 2⁻²² + 2⁻²⁴·E_p|ℓ − max|, under 1e-6 for
//! any row whose expected gap is below 5 nats; tests hold it to that against plain f64.

use crate::denoiser::Row;
use crate::error::{Error, Result, denoiser};

/// Runs a pass whose rows are handed to `take` with their number. `pass` gets the function that a
/// denoiser calls for each.
pub(crate) fn read<E: std::error::Error + Send + Sync + 'static>(
    expected: usize,
    pass: impl FnOnce(&mut dyn FnMut(Row<'_>)) -> Result<(), E>,
    mut take: impl FnMut(usize, Row<'_>),
) -> Result<()> {
    let (mut found, mut whole) = (0, true);
    let mut next = |row: Row<'_>| {
        whole &= !matches!(row, Row::Logits([]));
        if whole {
            if found < expected {
                take(found, row);
            }
            found += 1;
        }
    };
    pass(&mut next).map_err(denoiser)?;
    if whole && found == expected { Ok(()) } else { Err(Error::Rows { expected, found }) }
}

/// Relative error of [`exp_nonpositive`] for −87 ≤ x ≤ 0 (tested): two units in the last place.
#[cfg(test)]
pub(crate) const EXP_ERROR: f64 = 2.4e-7;

const LANES: usize = 16;

/// The largest value of a row, its first index, and the largest value of every [`CHUNK`].
pub(crate) struct Max {
    pub(crate) value: f32,
    pub(crate) index: usize,
}

/// Values whose maximum is kept, to bound the k-th largest of the row from below.
pub(crate) const CHUNK: usize = 64;

/// The first largest value; `Err(value)` for a row that holds NaN or +∞.
/// `chunk_max` receives the maximum of every [`CHUNK`] values.
pub(crate) fn max(row: &[f32], chunk_max: &mut Vec<f32>) -> std::result::Result<Max, f32> {
    chunk_max.clear();
    let (chunks, tail) = row.as_chunks::<CHUNK>();
    let mut nan = [0u32; LANES];
    for chunk in chunks {
        let mut best = [f32::NEG_INFINITY; LANES];
        for group in chunk.as_chunks::<LANES>().0 {
            for lane in 0..LANES {
                let x = group[lane];
                best[lane] = if x > best[lane] { x } else { best[lane] };
                nan[lane] |= u32::from(x.is_nan());
            }
        }
        chunk_max.push(fold_max(&best));
    }
    if !tail.is_empty() {
        nan[0] |= u32::from(tail.iter().any(|x| x.is_nan()));
        chunk_max.push(fold_max(tail));
    }
    let value = fold_max(chunk_max);
    if nan.iter().any(|&lane| lane != 0) {
        return Err(f32::NAN);
    }
    if value == f32::INFINITY {
        return Err(value);
    }
    let chunk = chunk_max.iter().position(|&x| x == value).unwrap_or(0);
    let start = chunk * CHUNK;
    let index = start + row[start..].iter().position(|&x| x == value).unwrap_or(0);
    Ok(Max { value, index })
}

fn fold_max(values: &[f32]) -> f32 {
    values.iter().fold(f32::NEG_INFINITY, |best, &x| if x > best { x } else { best })
}

/// The pieces of a row between `excluded` ids (ascending), each with its first index.
pub(crate) fn pieces<'a>(
    row: &'a [f32],
    excluded: &'a [u32],
) -> impl Iterator<Item = (usize, &'a [f32])> {
    let mut start = 0;
    let ends = excluded.iter().map(|&id| id as usize).filter(|&id| id < row.len());
    ends.chain([row.len()]).filter_map(move |end| {
        let piece = (start < end).then(|| (start, &row[start..end]));
        start = start.max(end + 1);
        piece
    })
}

/// The first largest value outside `excluded` (ascending ids); None if that is -∞ everywhere.
pub(crate) fn max_excluding(row: &[f32], excluded: &[u32]) -> Option<(usize, f32)> {
    let mut best: Option<(usize, f32)> = None;
    for (start, piece) in pieces(row, excluded) {
        let value = lanes_max(piece);
        if value > best.map_or(f32::NEG_INFINITY, |(_, value)| value) {
            let offset = piece.iter().position(|&x| x == value).unwrap_or(0);
            best = Some((start + offset, value));
        }
    }
    best
}

fn lanes_max(row: &[f32]) -> f32 {
    let (groups, tail) = row.as_chunks::<LANES>();
    let mut best = [f32::NEG_INFINITY; LANES];
    for group in groups {
        for lane in 0..LANES {
            best[lane] = if group[lane] > best[lane] { group[lane] } else { best[lane] };
        }
    }
    fold_max(&best).max(fold_max(tail))
}

/// Σ e^((ℓ − max)·scale), and, if `MOMENT`, Σ (ℓ − max)·scale · e^(…): Z and Z·E[d].
pub(crate) fn exp_sums<const MOMENT: bool>(row: &[f32], max: f32, scale: f32) -> (f64, f64) {
    let mut sum = [0f64; LANES];
    let mut moment = [0f64; LANES];
    let (chunks, tail) = row.as_chunks::<CHUNK>();
    for chunk in chunks {
        let mut part = [0f32; LANES];
        let mut part_moment = [0f32; LANES];
        for group in chunk.as_chunks::<LANES>().0 {
            for lane in 0..LANES {
                let d = clamped((group[lane] - max) * scale);
                let e = exp_nonpositive(d);
                part[lane] += e;
                if MOMENT {
                    part_moment[lane] += d * e;
                }
            }
        }
        for lane in 0..LANES {
            sum[lane] += f64::from(part[lane]);
            if MOMENT {
                moment[lane] += f64::from(part_moment[lane]);
            }
        }
    }
    for &x in tail {
        let d = clamped((x - max) * scale);
        let e = exp_nonpositive(d);
        sum[0] += f64::from(e);
        moment[0] += f64::from(d * e);
    }
    (sum.iter().sum(), moment.iter().sum())
}

#[inline(always)]
pub(crate) fn clamped(x: f32) -> f32 {
    if x > -87.0 { x } else { -87.0 }
}

/// e^x for −87 ≤ x ≤ 0: 2^n·e^r with n the nearest integer to x/ln 2 and e^r a Taylor polynomial
/// of degree 7 (its remainder, 0.347⁸/8!, is 5e-9). e^0 is exactly 1.
#[inline(always)]
pub(crate) fn exp_nonpositive(x: f32) -> f32 {
    // Adding 1.5·2²³ rounds to an integer and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    // ln 2 in two parts; the first has few enough bits for n·LN2_HIGH to be exact.
    const LN2_HIGH: f32 = 355.0 / 512.0;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * LN2_HIGH - n * LN2_LOW;
    let mut e = 1.0 / 5040.0;
    e = e * r + 1.0 / 720.0;
    e = e * r + 1.0 / 120.0;
    e = e * r + 1.0 / 24.0;
    e = e * r + 1.0 / 6.0;
    e = e * r + 0.5;
    e = e * r * r + r + 1.0;
    f32::from_bits(e.to_bits().wrapping_add(shifted.to_bits() << 23))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn exp_is_within_its_stated_error() {
        let mut worst = 0f64;
        for i in 0..=8_700_000u32 {
            let x = -(i as f32) * 1e-5;
            let exact = f64::from(x).exp();
            worst = worst.max((f64::from(exp_nonpositive(x)) / exact - 1.0).abs());
        }
        println!("worst relative error {worst:e}");
        assert!(worst < EXP_ERROR, "{worst:e}");
        assert_eq!(exp_nonpositive(0.0), 1.0);
    }

    #[test]
    fn not_a_number_and_infinity_are_refused_and_minus_infinity_is_not() {
        for length in [1, 15, 64, 65, 200] {
            for at in [0, length / 2, length - 1] {
                let mut row = vec![0.5f32; length];
                row[at] = f32::NAN;
                assert!(max(&row, &mut Vec::new()).is_err_and(f32::is_nan));
                row[at] = f32::INFINITY;
                assert_eq!(max(&row, &mut Vec::new()).err(), Some(f32::INFINITY));
                row[at] = f32::NEG_INFINITY;
                assert!(max(&row, &mut Vec::new()).is_ok());
            }
        }
    }

    #[test]
    fn impossible_tokens_add_nothing_to_the_sums() {
        let mut row = vec![f32::NEG_INFINITY; 130];
        row[77] = -3.0;
        let (sum, moment) = exp_sums::<true>(&row, -3.0, 1.0);
        assert!((sum - 1.0).abs() < 1e-30 && moment.abs() < 1e-30);
    }

    proptest! {
        #[test]
        fn the_sweeps_equal_plain_f64(
            row in prop::collection::vec(-20f32..20.0, 1..400), scale in 0.2f32..3.0,
            excluded in prop::collection::btree_set(0u32..450, 0..6),
        ) {
            let found = max(&row, &mut Vec::new()).unwrap();
            let first = (0..row.len()).rev().max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap();
            prop_assert_eq!((found.index, found.value), (first, row[first]));

            let d = |x: f32| (f64::from(x) - f64::from(found.value)) * f64::from(scale);
            let sum: f64 = row.iter().map(|&x| d(x).exp()).sum();
            let moment: f64 = row.iter().map(|&x| d(x) * d(x).exp()).sum();
            let (fast_sum, fast_moment) = exp_sums::<true>(&row, found.value, scale);
            // E_p|d| ≤ ln(400) + 1; two roundings of d at 2⁻²⁴ each.
            prop_assert!((fast_sum / sum - 1.0).abs() < 1.4e-6, "{} {}", fast_sum, sum);
            prop_assert!((fast_moment - moment).abs() < 4e-6 * sum, "{} {}", fast_moment, moment);
            prop_assert_eq!(exp_sums::<false>(&row, found.value, scale).0, fast_sum);

            let excluded: Vec<u32> = excluded.into_iter().collect();
            let allowed = (0..row.len()).rev().filter(|&i| !excluded.contains(&(i as u32)))
                .max_by(|&a, &b| row[a].total_cmp(&row[b]));
            prop_assert_eq!(max_excluding(&row, &excluded).map(|m| m.0), allowed);
        }
    }
}

//! Makes curves of numbers that are too many, or too restless, to be drawn as they are.

/// Steps and values.
pub(crate) type Points = Vec<(f64, f64)>;

/// A curve has at most this many points: more are not seen, and a plot of a long run stays small.
pub(super) const MOST_POINTS: usize = 800;

/// Column means of rows with holes.
pub(super) fn mean_columns<'a>(rows: impl Iterator<Item = &'a [Option<f64>]>) -> Vec<Option<f64>> {
    let mut sums: Vec<(f64, usize)> = Vec::new();
    for row in rows {
        sums.resize(sums.len().max(row.len()), (0.0, 0));
        for (sum, value) in sums.iter_mut().zip(row) {
            if let Some(value) = value {
                *sum = (sum.0 + value, sum.1 + 1);
            }
        }
    }
    sums.into_iter().map(|(sum, n)| (n > 0).then(|| sum / n as f64)).collect()
}

/// Centred moving average over about a hundredth of the points.
pub(super) fn smoothed(points: &Points) -> Points {
    averaged(points, (points.len() / 200).min(25))
}

/// Centred moving average over about a tenth of the points of a short run, and a hundredth of a long one: curves of
/// several runs are told apart by their trends alone.
pub(super) fn calm(points: &Points) -> Points {
    averaged(points, (points.len() / 20).min(4).max(points.len() / 200).min(50))
}

fn averaged(points: &Points, half: usize) -> Points {
    let mean = |i: usize| {
        let window = &points[i.saturating_sub(half)..(i + half + 1).min(points.len())];
        window.iter().map(|p| p.1).sum::<f64>() / window.len() as f64
    };
    (0..points.len()).map(|i| (points[i].0, mean(i))).collect()
}

/// The highest of each of a few hundred parts, so that no peak is lost when a curve is thinned.
pub(super) fn highest(points: &Points) -> Points {
    let part = points.len().div_ceil(MOST_POINTS / 2).max(1);
    let top = |part: &[(f64, f64)]| {
        let first = part[0];
        part.iter().copied().fold(first, |best, point| if point.1 > best.1 { point } else { best })
    };
    points.chunks(part).map(top).collect()
}

/// At most [`MOST_POINTS`]: means of neighbours.
pub(super) fn thinned(points: &Points) -> Points {
    let part = points.len().div_ceil(MOST_POINTS).max(1);
    let mean = |part: &[(f64, f64)]| {
        let sum = part.iter().fold((0.0, 0.0), |sum, point| (sum.0 + point.0, sum.1 + point.1));
        (sum.0 / part.len() as f64, sum.1 / part.len() as f64)
    };
    points.chunks(part).map(mean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thinning_keeps_ends_means_and_peaks() {
        let points: Points = (0..100_000).map(|i| (f64::from(i), f64::from(i % 10))).collect();
        let thin = thinned(&points);
        assert!(thin.len() <= MOST_POINTS && thin.len() > MOST_POINTS / 2);
        assert!(thin.iter().all(|(_, y)| (y - 4.5).abs() < 0.1));
        let mut spiked = points.clone();
        spiked[54_321].1 = 1e6;
        let peaks = highest(&spiked);
        assert!(peaks.len() <= MOST_POINTS && peaks.contains(&(54_321.0, 1e6)));
        assert_eq!(thinned(&points[..5].to_vec()), points[..5]);
    }

    #[test]
    fn curves_that_are_compared_are_calm_in_short_runs_too() {
        let jump = |points: &Points| {
            points.windows(2).map(|pair| (pair[1].1 - pair[0].1).abs()).fold(0.0, f64::max)
        };
        for length in [60, 600, 6000] {
            let points: Points = (0..length).map(|i| (f64::from(i), f64::from(i % 2))).collect();
            assert_eq!(jump(&points), 1.0);
            assert!(jump(&calm(&points)) <= 0.5, "{length}: {}", jump(&calm(&points)));
        }
        assert_eq!(calm(&vec![(1.0, 2.0)]), [(1.0, 2.0)]);
    }
}

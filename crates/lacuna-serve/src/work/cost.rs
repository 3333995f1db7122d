//! Knows what a pass costs by its rows, and so how many requests are worth decoding at once.

use lacuna_engine::{Model, pass_seconds};
use std::num::NonZeroUsize;
use std::time::Duration;

/// Passes that a request with a deadline should get before it, with all that are decoded beside it.
const PASSES_MIN: u32 = 8;

/// Seconds of a pass at some numbers of rows, rising.
#[derive(Clone, Debug)]
pub(crate) struct Costs(Vec<(usize, f64)>);

impl Costs {
    /// Rows at which a pass is measured.
    const ROWS: [usize; 5] = [1, 4, 8, 16, 32];

    /// Measures this model on this machine.
    pub(crate) fn measure(model: &Model, block_size: NonZeroUsize) -> lacuna_engine::Result<Self> {
        let mut points = Vec::new();
        for rows in Self::ROWS {
            points.push((rows, pass_seconds(model, rows, block_size)?));
        }
        Ok(Self::new(points))
    }

    /// A curve through these points, made to rise: a pass with more rows is not cheaper.
    pub(crate) fn new(mut points: Vec<(usize, f64)>) -> Self {
        for at in 1..points.len() {
            points[at].1 = points[at].1.max(points[at - 1].1);
        }
        Self(points)
    }

    /// The points of the curve.
    pub(crate) fn points(&self) -> &[(usize, f64)] {
        &self.0
    }

    /// Seconds of a pass over so many rows: on the line between two points, or beyond the last on that of the last two.
    pub(crate) fn seconds(&self, rows: usize) -> f64 {
        let points = &self.0;
        let Some((last, _)) = points.last() else { return 0.0 };
        let pair = match points.iter().position(|(at, _)| *at >= rows) {
            Some(0) => return points[0].1,
            Some(at) => [points[at - 1], points[at]],
            None if points.len() < 2 => return points[0].1 * rows as f64 / *last as f64,
            None => [points[points.len() - 2], points[points.len() - 1]],
        };
        let [(from, low), (to, high)] = pair;
        low + (high - low) * (rows as f64 - from as f64) / (to - from) as f64
    }

    /// The number of requests that are decoded at once: as long as another one adds to the tokens a second, and, where
    /// one of them has a deadline, a pass of all leaves it [`PASSES_MIN`] passes. At least 1, at most `most`.
    pub(crate) fn at_once(
        &self,
        block_size: NonZeroUsize,
        deadline: Option<Duration>,
        most: usize,
    ) -> usize {
        let pass = |requests: usize| self.seconds(requests * block_size.get());
        let slowest = deadline.map(|deadline| deadline.as_secs_f64() / f64::from(PASSES_MIN));
        let mut requests = 1;
        while requests < most {
            let (now, more) = (pass(requests), pass(requests + 1));
            // Tokens a second rise where the next request's share is less than those before it have.
            let gains = more * (requests as f64) < now * (requests + 1) as f64;
            if !gains || slowest.is_some_and(|slowest| more > slowest) {
                break;
            }
            requests += 1;
        }
        requests
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOUR: NonZeroUsize = NonZeroUsize::new(4).unwrap();

    #[test]
    fn a_curve_is_followed_between_its_points_and_beyond() {
        let costs = Costs::new(vec![(1, 1.0), (4, 4.0), (8, 3.0), (16, 12.0)]);
        assert_eq!(costs.seconds(1), 1.0);
        assert_eq!(costs.seconds(2), 2.0);
        assert_eq!(costs.seconds(8), 4.0, "more rows are not cheaper");
        assert_eq!(costs.seconds(24), 20.0);
    }

    #[test]
    fn requests_are_added_while_they_add_to_the_tokens_a_second() {
        // A row costs as much as the pass itself.
        let shared = Costs::new(vec![(1, 2.0), (32, 33.0)]);
        assert_eq!(shared.at_once(FOUR, None, 16), 16);
        // Nothing is shared.
        let apart = Costs::new(vec![(1, 1.0), (32, 32.0)]);
        assert_eq!(apart.at_once(FOUR, None, 16), 1);
        // Until the machine is full.
        let filled = Costs::new(vec![(1, 1.0), (16, 1.5), (32, 9.0)]);
        assert_eq!(filled.at_once(FOUR, None, 16), 4);
    }

    #[test]
    fn a_deadline_leaves_room_for_its_passes() {
        let costs = Costs::new(vec![(1, 0.1), (32, 0.41)]);
        assert_eq!(costs.at_once(FOUR, Some(Duration::from_secs(60)), 16), 16);
        assert_eq!(costs.at_once(FOUR, Some(Duration::from_millis(1600)), 16), 2);
        assert_eq!(
            costs.at_once(FOUR, Some(Duration::from_millis(1)), 16),
            1,
            "it runs all the same"
        );
    }
}

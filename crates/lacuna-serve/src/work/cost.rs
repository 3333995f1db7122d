//! Knows what a pass costs by its rows, and so which requests are worth decoding at once.

use lacuna_engine::{Model, pass_seconds};
use std::num::NonZeroUsize;

/// Seconds of a pass at some numbers of rows, rising.
#[derive(Clone, Debug)]
pub(crate) struct Costs(Vec<(usize, f64)>);

/// A number of requests together: the rows of a pass over them, and the tokens that it is likely to write.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Load {
    pub(super) rows: usize,
    pub(super) tokens: f64,
}

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
    /// No pass is over none.
    pub(crate) fn seconds(&self, rows: usize) -> f64 {
        let points = &self.0;
        let Some((last, _)) = points.last().filter(|_| rows > 0) else { return 0.0 };
        let pair = match points.iter().position(|(at, _)| *at >= rows) {
            Some(0) => return points[0].1,
            Some(at) => [points[at - 1], points[at]],
            None if points.len() < 2 => return points[0].1 * rows as f64 / *last as f64,
            None => [points[points.len() - 2], points[points.len() - 1]],
        };
        let [(from, low), (to, high)] = pair;
        low + (high - low) * (rows as f64 - from as f64) / (to - from) as f64
    }

    /// The most rows, up to `most`, of a pass that takes no longer than so many seconds; at least one.
    pub(super) fn rows_within(&self, seconds: f64, most: usize) -> usize {
        let (mut fits, mut above) = (1, most + 1);
        while fits + 1 < above {
            let middle = fits.midpoint(above);
            match self.seconds(middle) <= seconds {
                true => fits = middle,
                false => above = middle,
            }
        }
        fits
    }

    /// Tells whether a pass with `more` in it writes more tokens a second than one without.
    pub(super) fn gains(&self, load: Load, more: Load) -> bool {
        let (now, then) = (self.seconds(load.rows), self.seconds(load.rows + more.rows));
        load.rows == 0 || then * load.tokens < now * (load.tokens + more.tokens)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_is_followed_between_its_points_and_beyond() {
        let costs = Costs::new(vec![(1, 1.0), (4, 4.0), (8, 3.0), (16, 12.0)]);
        assert_eq!(costs.seconds(0), 0.0);
        assert_eq!(costs.seconds(1), 1.0);
        assert_eq!(costs.seconds(2), 2.0);
        assert_eq!(costs.seconds(8), 4.0, "more rows are not cheaper");
        assert_eq!(costs.seconds(24), 20.0);
        let rows = [0.0, 1.0, 2.9, 4.0, 12.0, 20.0, 1e9].map(|most| costs.rows_within(most, 128));
        assert_eq!(rows, [1, 1, 2, 8, 16, 24, 128]);
    }

    /// The number of texts in blocks of four, all alike, that are worth decoding at once.
    fn at_once(costs: &Costs) -> usize {
        let load = |texts: usize| Load { rows: 4 * texts, tokens: texts as f64 };
        (0..16).take_while(|texts| costs.gains(load(*texts), load(1))).count()
    }

    #[test]
    fn requests_are_added_while_they_add_to_the_tokens_a_second() {
        // A row costs as much as the pass itself.
        let shared = Costs::new(vec![(1, 2.0), (32, 33.0)]);
        assert_eq!(at_once(&shared), 16);
        // Nothing is shared.
        let apart = Costs::new(vec![(1, 1.0), (32, 32.0)]);
        assert_eq!(at_once(&apart), 1);
        // Until the machine is full.
        let filled = Costs::new(vec![(1, 1.0), (16, 1.5), (32, 9.0)]);
        assert_eq!(at_once(&filled), 4);
    }
}

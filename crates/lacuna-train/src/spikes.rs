//! Tells losses that stand out from those before them, so that one bad batch does not throw the weights.

use serde::{Deserialize, Serialize};

/// The losses of the steps before, as far as a limit for the next one needs them: their mean and variance, older ones
/// counting less and less.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LossWatch {
    /// Steps that it has seen.
    seen: u64,
    /// Their mean loss, in nats.
    mean: f64,
    /// The variance about it.
    variance: f64,
    /// Steps in a row that were left out.
    in_a_row: u64,
    /// Steps that were left out, in the whole run.
    pub(crate) skipped: u64,
}

/// A loss weighs half as much as the next after some seventy steps.
const DECAY: f64 = 0.99;
/// Before so many steps nobody knows what is usual.
const FIRST: u64 = 50;
/// After so many in a row the level has changed, and it is no spike.
const MOST_IN_A_ROW: u64 = 5;

impl LossWatch {
    /// The loss above which the next step is left out: `z` standard deviations over the mean. `None` while too little is
    /// known, after five steps left out in a row, and if `z` is 0.
    pub fn limit(&self, z: f64) -> Option<f64> {
        let knows = z > 0.0 && self.seen >= FIRST && self.in_a_row < MOST_IN_A_ROW;
        knows.then(|| self.mean + z * self.variance.sqrt())
    }

    /// Takes a step's loss in, which was left out or not.
    pub fn saw(&mut self, loss: f64, skipped: bool) {
        if skipped {
            self.skipped += 1;
            self.in_a_row += 1;
            return;
        }
        if self.in_a_row >= MOST_IN_A_ROW {
            *self = Self { skipped: self.skipped, ..Self::default() };
        }
        self.in_a_row = 0;
        self.seen += 1;
        // The first ones weigh alike.
        let keep = DECAY.min(1.0 - 1.0 / self.seen as f64);
        let off = loss - self.mean;
        self.mean += (1.0 - keep) * off;
        self.variance = keep * (self.variance + (1.0 - keep) * off * off);
    }

    /// Forgets the losses, as where another objective begins.
    pub fn begin_stage(&mut self) {
        *self = Self { skipped: self.skipped, ..Self::default() };
    }

    pub(crate) fn is_new(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A loss about 3 with a spread of 0.1.
    fn usual(step: u64) -> f64 {
        3.0 + 0.1 * if step.is_multiple_of(2) { 1.0 } else { -1.0 }
    }

    #[test]
    fn a_loss_that_stands_out_is_above_the_limit_and_usual_ones_are_below() {
        let mut watch = LossWatch::default();
        for step in 0..200 {
            let limit = watch.limit(4.0);
            assert_eq!(limit.is_some(), step >= FIRST, "{step}");
            if let Some(limit) = limit {
                assert!((usual(0)..3.6).contains(&limit), "{limit}");
            }
            watch.saw(usual(step), false);
        }
        assert_eq!(watch.limit(0.0), None, "off");
        // A spike that is left out moves nothing, one that is not would.
        let before = watch.limit(4.0);
        watch.saw(9.0, true);
        assert_eq!((watch.limit(4.0), watch.skipped), (before, 1));
    }

    #[test]
    fn a_level_that_stays_is_taken_for_the_new_one() {
        let mut watch = LossWatch::default();
        (0..100).for_each(|step| watch.saw(usual(step), false));
        for _ in 0..MOST_IN_A_ROW {
            assert!(watch.limit(4.0).is_some_and(|limit| limit < 5.0));
            watch.saw(5.0, true);
        }
        assert_eq!(watch.limit(4.0), None);
        watch.saw(5.0, false);
        assert_eq!((watch.seen, watch.skipped, watch.limit(4.0)), (1, MOST_IN_A_ROW, None));
        (0..FIRST).for_each(|step| watch.saw(2.0 + usual(step), false));
        assert!(watch.limit(4.0).is_some_and(|limit| (5.0..5.6).contains(&limit)));
    }
}

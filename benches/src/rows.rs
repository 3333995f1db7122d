//! Holds one measured comparison, for the table and for the picture.

use crate::measure::Pair;

/// One measured comparison.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) pair: Pair,
    /// Seconds below which this machine can't go.
    pub(crate) floor: f64,
    pub(crate) error: f64,
}

impl Row {
    /// The share of the machine that is used: floor over the best time.
    pub(crate) fn of_floor(&self) -> f64 {
        self.floor / self.pair.fast.best()
    }
}

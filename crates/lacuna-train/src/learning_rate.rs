//! Computes the learning rate over a stage: it warms up, stays, and decays.

use serde::{Deserialize, Serialize};

/// The shape of a learning rate behind its warmup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LearningRateShape {
    /// It stays at the peak, and falls linearly in the last steps.
    #[default]
    WarmupStableDecay,
    /// It falls along half a cosine, from the end of the warmup to the last step.
    Cosine,
    /// It stays at the peak.
    Constant,
}

/// A learning rate that rises linearly to the peak and goes on from there by its shape.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LearningRate {
    /// The highest rate.
    pub peak: f64,
    /// Its shape behind the warmup.
    pub shape: LearningRateShape,
    /// Steps in which it rises from 0.
    pub warmup: u64,
    /// Steps at the end in which it falls (warmup-stable-decay alone).
    pub decay: u64,
    /// The rate of the last step, as a part of the peak; a constant rate has none.
    pub last: f64,
}

impl LearningRate {
    /// The rate of a step of `steps`, counted from 0.
    ///
    /// ```
    /// use lacuna_train::{LearningRate, LearningRateShape};
    /// let rate = LearningRate { peak: 2.0, warmup: 10, decay: 20, last: 0.1, ..LearningRate::default() };
    /// assert_eq!((rate.at(0, 100), rate.at(50, 100)), (0.2, 2.0));
    /// let cosine = LearningRate { shape: LearningRateShape::Cosine, decay: 0, ..rate };
    /// assert_eq!(cosine.at(99, 100), 0.2);
    /// ```
    pub fn at(self, step: u64, steps: u64) -> f64 {
        let Self { peak, shape, warmup, decay, last } = self;
        if step < warmup {
            return peak * (step + 1) as f64 / warmup as f64;
        }
        let left = steps.saturating_sub(step + 1);
        match shape {
            LearningRateShape::WarmupStableDecay if left < decay => {
                peak * (last + (1.0 - last) * left as f64 / decay as f64)
            }
            LearningRateShape::Cosine => {
                let way = left as f64 / steps.saturating_sub(warmup).max(1) as f64;
                let height = 0.5 - 0.5 * (std::f64::consts::PI * way).cos();
                peak * (last + (1.0 - last) * height)
            }
            LearningRateShape::WarmupStableDecay | LearningRateShape::Constant => peak,
        }
    }

    /// Tells whether it has fallen when the stage ends, so that more steps would raise it again.
    pub fn falls(self) -> bool {
        self.shape == LearningRateShape::Cosine || self.decay > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_learning_rate_rises_holds_and_falls_to_its_last_value() {
        let rate =
            LearningRate { peak: 2.0, warmup: 10, decay: 20, last: 0.1, ..LearningRate::default() };
        let at = |step| rate.at(step, 100);
        assert_eq!(at(0), 0.2);
        assert_eq!(at(9), 2.0);
        assert_eq!(at(50), 2.0);
        assert_eq!(at(79), 2.0);
        assert!((at(99) - 0.2).abs() < 1e-12);
        assert!((10..99).all(|s| at(s + 1) <= at(s)));
        let flat = LearningRate { peak: 1.0, ..LearningRate::default() };
        assert_eq!(flat.at(3, 10), 1.0);
    }

    #[test]
    fn a_cosine_falls_from_the_warmup_s_end_to_its_last_value_and_is_half_way_in_the_middle() {
        let shape = LearningRateShape::Cosine;
        let rate = LearningRate { peak: 2.0, shape, warmup: 10, decay: 0, last: 0.1 };
        let at = |step| rate.at(step, 110);
        assert_eq!(at(9), 2.0);
        assert!((at(10) - 2.0).abs() < 1e-3 && (at(59) - 1.1).abs() < 1e-12);
        assert_eq!(at(109), 0.2);
        assert!((9..109).all(|s| at(s + 1) < at(s)));
        // By its definition: last + (1 − last) · (1 + cos(π · k / n)) / 2 for the k-th of n steps behind the warmup.
        let defined =
            |k: f64| 2.0 * (0.1 + 0.9 * (1.0 + (std::f64::consts::PI * k / 100.0).cos()) / 2.0);
        assert!((10..110).all(|s| (at(s) - defined(s as f64 - 9.0)).abs() < 1e-12));
    }

    #[test]
    fn a_constant_rate_stays_at_its_peak_behind_the_warmup() {
        let shape = LearningRateShape::Constant;
        let rate = LearningRate { peak: 2.0, shape, warmup: 4, decay: 0, last: 0.0 };
        assert_eq!([0, 3, 4, 9].map(|step| rate.at(step, 10)), [0.5, 2.0, 2.0, 2.0]);
        assert!(!rate.falls() && LearningRate { decay: 1, ..LearningRate::default() }.falls());
    }
}

//! Computes the learning rate over a stage: it warms up, stays, and decays.

/// A learning rate that rises linearly to the peak, stays there, and falls linearly to a part of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LearningRate {
    /// The highest rate.
    pub peak: f64,
    /// Steps in which it rises from 0.
    pub warmup: u64,
    /// Steps at the end in which it falls.
    pub decay: u64,
    /// The rate of the last step, as a part of the peak.
    pub last: f64,
}

impl LearningRate {
    /// The rate of a step of `steps`, counted from 0.
    ///
    /// ```
    /// let rate = lacuna_train::LearningRate { peak: 2.0, warmup: 10, decay: 20, last: 0.1 };
    /// assert_eq!((rate.at(0, 100), rate.at(50, 100)), (0.2, 2.0));
    /// ```
    pub fn at(self, step: u64, steps: u64) -> f64 {
        let Self { peak, warmup, decay, last } = self;
        if step < warmup {
            return peak * (step + 1) as f64 / warmup as f64;
        }
        let left = steps.saturating_sub(step + 1);
        if left < decay {
            return peak * (last + (1.0 - last) * left as f64 / decay as f64);
        }
        peak
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_learning_rate_rises_holds_and_falls_to_its_last_value() {
        let rate = LearningRate { peak: 2.0, warmup: 10, decay: 20, last: 0.1 };
        let at = |step| rate.at(step, 100);
        assert_eq!(at(0), 0.2);
        assert_eq!(at(9), 2.0);
        assert_eq!(at(50), 2.0);
        assert_eq!(at(79), 2.0);
        assert!((at(99) - 0.2).abs() < 1e-12);
        assert!((10..99).all(|s| at(s + 1) <= at(s)));
        let flat = LearningRate { peak: 1.0, warmup: 0, decay: 0, last: 0.0 };
        assert_eq!(flat.at(3, 10), 1.0);
    }
}

//! Reckons how long the rest of a run takes.

use lacuna::train::StepMetrics;
use std::time::Instant;

/// The pace of the steps so far, by the clock: what is done between them, saving above all, counts too.
///
/// A step in which nothing was masked takes hardly any time and says nothing about those to come, so it is left out.
#[derive(Debug)]
pub(super) struct Pace {
    last: Instant,
    /// Seconds of a step, newer ones counting more.
    seconds: f64,
    steps: u64,
    tokens_per_second: f64,
}

impl Pace {
    pub(super) fn begin() -> Self {
        Self { last: Instant::now(), seconds: 0.0, steps: 0, tokens_per_second: 0.0 }
    }

    /// Takes a step in that was just taken.
    pub(super) fn step(&mut self, metrics: &StepMetrics) {
        let now = Instant::now();
        let seconds = now.duration_since(std::mem::replace(&mut self.last, now)).as_secs_f64();
        self.took(seconds, metrics);
    }

    fn took(&mut self, seconds: f64, metrics: &StepMetrics) {
        if metrics.supervised == 0 {
            return;
        }
        self.steps += 1;
        // The first twenty weigh alike.
        let fresh = (1.0 / self.steps as f64).max(0.05);
        self.seconds += fresh * (seconds - self.seconds);
        self.tokens_per_second += fresh * (metrics.tokens_per_second - self.tokens_per_second);
    }

    /// Tokens a second; `None` before a step that says it.
    pub(super) fn tokens_per_second(&self) -> Option<f64> {
        (self.steps > 0).then_some(self.tokens_per_second)
    }

    /// The time that so many steps take, in words; `None` while nobody can know, and at the end.
    pub(super) fn left(&self, steps: u64) -> Option<String> {
        (self.steps > 1 && steps > 0).then(|| duration(self.seconds * steps as f64))
    }
}

/// `40 s`, `12 min`, `5 h 20 min`, `3 d 4 h`.
pub(crate) fn duration(seconds: f64) -> String {
    let seconds = seconds.max(1.0).round().min(1e15) as u64;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match () {
        () if seconds < 90 => format!("{seconds} s"),
        () if minutes < 90 => format!("{minutes} min"),
        () if hours < 48 => format!("{hours} h {} min", minutes % 60),
        () => format!("{days} d {} h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(supervised: u64) -> StepMetrics {
        StepMetrics { supervised, tokens_per_second: 1000.0, ..StepMetrics::default() }
    }

    #[test]
    fn steps_without_a_masked_token_say_nothing_about_the_rest() {
        let mut pace = Pace::begin();
        for _ in 0..5 {
            pace.took(1e-6, &step(0));
            assert_eq!((pace.left(1000), pace.tokens_per_second()), (None, None));
        }
        (0..5).for_each(|_| pace.took(2.0, &step(8)));
        (0..5).for_each(|_| pace.took(1e-6, &step(0)));
        assert_eq!(pace.left(1000).as_deref(), Some("33 min"));
        assert_eq!(pace.left(0), None, "at the end nothing is left");
        assert_eq!(pace.tokens_per_second(), Some(1000.0));
    }

    #[test]
    fn times_are_told_in_two_units_at_most() {
        for (seconds, words) in [
            (0.0, "1 s"),
            (0.2, "1 s"),
            (89.4, "89 s"),
            (90.0, "1 min"),
            (5399.0, "89 min"),
            (5400.0, "1 h 30 min"),
            (172_799.0, "47 h 59 min"),
            (172_800.0, "2 d 0 h"),
            (f64::INFINITY, "11574074074 d 1 h"),
        ] {
            assert_eq!(duration(seconds), words);
        }
    }
}

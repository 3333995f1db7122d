//! Reads what a run has measured, and sums up what several seeds did.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

/// The scores by which objectives are compared with themselves: the bound of a diffusion model, the likelihood of an
/// autoregressive one.
const OWN: [&str; 3] = ["exact-nelbo", "monte-carlo-nelbo", "autoregressive"];

/// The numbers of one run.
#[derive(Clone, Debug, Default)]
pub(super) struct Measured {
    /// Nats a token on held-out text after the last stage, by the score's name, and other measures by theirs.
    pub(super) scores: BTreeMap<String, f64>,
    /// The lines of its metrics that are about steps.
    steps: Vec<Value>,
    /// The held-out score of the run's objective on the way: step, nats a token.
    pub(super) tracked: Vec<(f64, f64)>,
}

impl Measured {
    pub(super) fn read(run: &Path) -> Result<Self> {
        let read = |name: &str| {
            let path = run.join(name);
            std::fs::read_to_string(&path).with_context(|| path.display().to_string())
        };
        let results: Value = serde_json::from_str(&read("results.json")?)?;
        let last = results["stages"].as_array().and_then(|stages| stages.last());
        let last = last.context("results.json has no stage")?;
        let scores = last["scores"].as_array().context("a stage without scores")?;
        let score = |score: &Value| {
            Some((score["name"].as_str()?.to_owned(), score["nats_per_token"].as_f64()?))
        };
        let mut scores: BTreeMap<_, _> = scores.iter().filter_map(score).collect();
        // The same bound, exact where blocks can be enumerated and estimated where not.
        let nelbo = scores.get("exact-nelbo").or_else(|| scores.get("monte-carlo-nelbo")).copied();
        scores.extend(nelbo.map(|nelbo| ("nelbo".to_owned(), nelbo)));
        let own = OWN.iter().find_map(|name| scores.get(*name)).copied();
        scores.extend(own.map(|own| ("own".to_owned(), own)));
        let metrics = read("metrics.jsonl")?;
        let lines = metrics.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
        let point = |line: &Value| {
            let scores = line.get("nats_per_token")?;
            let own = OWN.iter().find_map(|name| scores[*name].as_f64())?;
            Some((line["step"].as_f64()?, own))
        };
        let tracked: Vec<_> = lines.iter().filter_map(point).collect();
        let best = tracked.iter().min_by(|a, b| a.1.total_cmp(&b.1));
        scores.extend(best.map(|(_, nats)| ("own, best".to_owned(), *nats)));
        scores.extend(best.map(|(step, _)| ("step of the best".to_owned(), *step)));
        let steps = lines.into_iter().filter(|line| line.get("loss").is_some()).collect();
        Ok(Self { scores, steps, tracked })
    }

    /// A number of every step, by its key.
    pub(super) fn curve(&self, key: &str) -> Vec<(f64, f64)> {
        let point = |line: &Value| Some((line["step"].as_f64()?, line[key].as_f64()?));
        self.steps.iter().filter_map(point).collect()
    }

    /// The scatter of the loss over the last half of the steps, as a part of its mean.
    pub(super) fn loss_noise(&self) -> f64 {
        let losses: Vec<f64> = self.curve("loss").into_iter().map(|(_, loss)| loss).collect();
        let late = Sample::of(&losses[losses.len() / 2..]);
        late.deviation / late.mean
    }

    pub(super) fn norms(&self) -> Vec<f64> {
        self.curve("grad_norm").into_iter().map(|(_, norm)| norm).collect()
    }
}

/// The mean of some numbers and their scatter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sample {
    pub(super) mean: f64,
    /// Standard deviation of one of them; 0 of a single one.
    pub(super) deviation: f64,
    count: usize,
}

impl Sample {
    pub(super) fn of(values: &[f64]) -> Self {
        let count = values.len();
        let mean = values.iter().sum::<f64>() / count.max(1) as f64;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let deviation = if count > 1 { (squares / (count - 1) as f64).sqrt() } else { 0.0 };
        Self { mean, deviation, count }
    }

    /// Half the width of the interval that holds the true mean nineteen times of twenty (Student's t).
    pub(super) fn interval(&self) -> f64 {
        const T: [f64; 9] = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262];
        match self.count {
            0 | 1 => 0.0,
            n => T.get(n - 2).unwrap_or(&2.0) * self.deviation / (n as f64).sqrt(),
        }
    }
}

pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_has_the_scatter_of_one_and_the_interval_of_its_mean() {
        let sample = Sample::of(&[1.0, 2.0, 3.0]);
        assert_eq!((sample.mean, sample.deviation), (2.0, 1.0));
        assert!((sample.interval() - 4.303 / 3f64.sqrt()).abs() < 1e-12);
        let one = Sample::of(&[5.0]);
        assert_eq!((one.mean, one.deviation, one.interval()), (5.0, 0.0, 0.0));
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
    }

    #[test]
    fn a_run_s_numbers_are_those_of_its_last_stage() {
        let folder = std::env::temp_dir().join(format!("lacuna-measures-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let results = r#"{"stages": [{"scores": [{"name": "unigram", "nats_per_token": 9.0}]},
            {"scores": [{"name": "monte-carlo-nelbo", "nats_per_token": 2.5}]}]}"#;
        std::fs::write(folder.join("results.json"), results).unwrap();
        let metrics = "{\"step\": 1, \"loss\": 2.0, \"grad_norm\": 4.0}\n{\"step\": 1, \"nats_per_token\": {\"monte-carlo-nelbo\": 2.25}}\n\
                       {\"step\": 2, \"loss\": 1.0, \"grad_norm\": 3.0}\n";
        std::fs::write(folder.join("metrics.jsonl"), metrics).unwrap();
        let measured = Measured::read(&folder).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(measured.scores["nelbo"], 2.5);
        assert_eq!((measured.scores["own"], measured.scores["own, best"]), (2.5, 2.25));
        assert!(!measured.scores.contains_key("unigram"));
        assert_eq!(measured.curve("loss"), [(1.0, 2.0), (2.0, 1.0)]);
        assert_eq!(measured.norms(), [4.0, 3.0]);
    }
}

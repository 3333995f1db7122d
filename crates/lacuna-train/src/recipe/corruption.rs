//! Reads from `[stage.corruption]` how tokens are masked and weighted.

use lacuna_objective::{CorruptionRule, MaskSampler, RateTransform, Weighting};
use lacuna_schedules::{Error as ScheduleError, Schedule, TimeSampling, Warmup};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt::Display;
use std::str::FromStr;

/// The corruption of a stage: times → mask rate → transform → mask sampler → weight, one key each (paper §3).
///
/// The values are the names of `lacuna-objective` and `lacuna-schedules`, which say what each does.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CorruptionRecipe {
    /// `permuted-stratified` (default), `stratified`, `independent`.
    #[serde(serialize_with = "name", deserialize_with = "times")]
    pub times: TimeSampling,
    /// `linear` (default), `cosine-mask-heavy`, `cosine-mask-light`, `polynomial-P`, `log`,
    /// `geometric-MIN-MAX`.
    #[serde(serialize_with = "name", deserialize_with = "schedule")]
    pub schedule: Schedule,
    /// `block-clip` (the paper's, the default), `identity` (the default where a window is corrupted at once, unless `mask`
    /// is `bernoulli-forced`), `band-MIN-MAX`.
    #[serde(serialize_with = "name", deserialize_with = "transform")]
    pub transform: RateTransform,
    /// `bernoulli-forced` (the paper's, the default), `bernoulli` (the default where a window is corrupted at once),
    /// `exact-count`, `complementary-pairs`.
    #[serde(serialize_with = "name", deserialize_with = "mask")]
    pub mask: MaskSampler,
    /// `paper` (default), `unbiased`, `exact-count`, `none`.
    #[serde(serialize_with = "name", deserialize_with = "weight")]
    pub weight: Weighting,
    /// Steps in which the largest mask rate grows from `warmup_start` to 1 and the weight is dropped.
    pub warmup_steps: u64,
    /// Largest mask rate of the first step.
    pub warmup_start: f64,
    /// True to keep transform and mask sampler during warmup (choice 5's option).
    pub transform_during_warmup: bool,
}

impl Default for CorruptionRecipe {
    /// The paper's rule for blocks.
    fn default() -> Self {
        Self {
            times: TimeSampling::PermutedStratified,
            schedule: Schedule::default(),
            transform: RateTransform::BlockClip,
            mask: MaskSampler::BernoulliForced,
            weight: Weighting::Paper,
            warmup_steps: 0,
            warmup_start: 1e-3,
            transform_during_warmup: false,
        }
    }
}

impl CorruptionRecipe {
    /// The rule, with its parts checked against each other.
    ///
    /// # Errors
    /// Errors name the key.
    pub fn rule(&self, mask_id: u32) -> Result<CorruptionRule, String> {
        let rule = CorruptionRule {
            schedule: self.schedule,
            transform: self.transform,
            mask_sampler: self.mask,
            weighting: self.weight,
            warmup: Warmup::new(self.warmup_steps)
                .with_rate_init(self.warmup_start)
                .map_err(|e| format!("corruption.warmup_start: {e}"))?,
            transform_during_warmup: self.transform_during_warmup,
            mask_id,
        };
        rule.validate().map_err(|e| format!("corruption: {e}"))?;
        Ok(rule)
    }
}

/// Writes out the defaults of stages whose whole window is corrupted at once: plain Eq. 4, in which every token is masked
/// with probability t and weighs 1/t. The clip and the forced mask belong to blocks (paper §3.3). A stage that forces
/// masks by its own words is left with the rates that go with that.
pub(super) fn fill_in(table: &mut toml::Table) {
    let stages = table.get_mut("stage").and_then(toml::Value::as_array_mut);
    for stage in stages.into_iter().flatten().filter_map(toml::Value::as_table_mut) {
        let objective = stage.get("objective").and_then(toml::Value::as_str);
        if !matches!(objective, Some("full-diffusion" | "causal-diffusion")) {
            continue;
        }
        let nothing = || toml::Value::Table(toml::Table::new());
        let corruption = stage.entry("corruption").or_insert_with(nothing);
        let Some(corruption) = corruption.as_table_mut() else { continue };
        let forced =
            corruption.get("mask").and_then(toml::Value::as_str) == Some("bernoulli-forced");
        if !forced && !corruption.contains_key("transform") {
            corruption.insert("transform".into(), "identity".into());
        }
        corruption.entry("mask").or_insert_with(|| "bernoulli".into());
    }
}

const TIMES: &[&str] = &["permuted-stratified", "stratified", "independent"];
const SCHEDULES: &[&str] = &[
    "linear",
    "cosine-mask-heavy",
    "cosine-mask-light",
    "polynomial-P",
    "log",
    "geometric-MIN-MAX",
];
const TRANSFORMS: &[&str] = &["block-clip", "identity", "band-MIN-MAX"];
const MASKS: &[&str] = &["bernoulli-forced", "bernoulli", "exact-count", "complementary-pairs"];
const WEIGHTS: &[&str] = &["paper", "unbiased", "exact-count", "none"];

fn name<T: Display, S: Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(value)
}

/// Reads a value by its name, with serde's own error if no value has that name.
fn named<'de, T: FromStr<Err: Display>, D: Deserializer<'de>>(
    from: D,
    known: &'static [&'static str],
    is_unknown: fn(&T::Err) -> bool,
) -> Result<T, D::Error> {
    let name = String::deserialize(from)?;
    name.parse().map_err(|error| match is_unknown(&error) {
        true => D::Error::unknown_variant(&name, known),
        false => D::Error::custom(error),
    })
}

fn times<'de, D: Deserializer<'de>>(from: D) -> Result<TimeSampling, D::Error> {
    named(from, TIMES, |_| true)
}

fn schedule<'de, D: Deserializer<'de>>(from: D) -> Result<Schedule, D::Error> {
    named(from, SCHEDULES, |error| *error == ScheduleError::UnknownName)
}

fn transform<'de, D: Deserializer<'de>>(from: D) -> Result<RateTransform, D::Error> {
    named(from, TRANSFORMS, is_unknown)
}

fn mask<'de, D: Deserializer<'de>>(from: D) -> Result<MaskSampler, D::Error> {
    named(from, MASKS, is_unknown)
}

fn weight<'de, D: Deserializer<'de>>(from: D) -> Result<Weighting, D::Error> {
    named(from, WEIGHTS, is_unknown)
}

fn is_unknown(error: &lacuna_objective::Error) -> bool {
    matches!(error, lacuna_objective::Error::UnknownName { .. })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<CorruptionRecipe, String> {
        toml::from_str(line).map_err(|error| error.message().to_owned())
    }

    #[test]
    fn a_window_that_is_corrupted_at_once_is_so_by_plain_eq_4_unless_the_recipe_says_otherwise() {
        let filled = |lines: &str| -> toml::Table {
            let mut table: toml::Table = format!("[[stage]]\n{lines}").parse().unwrap();
            fill_in(&mut table);
            let stage = table["stage"][0].as_table().unwrap();
            stage.get("corruption").map_or_else(toml::Table::new, |c| c.as_table().unwrap().clone())
        };
        let text =
            |table: &toml::Table, key: &str| table.get(key).map(|v| v.as_str().unwrap().to_owned());
        let both = |lines: &str| {
            let table = filled(lines);
            (text(&table, "transform"), text(&table, "mask"))
        };
        let some = |a: &str, b: &str| (Some(a.to_owned()), Some(b.to_owned()));
        for objective in ["full-diffusion", "causal-diffusion"] {
            let begin = format!("objective = \"{objective}\"\n");
            assert_eq!(both(&begin), some("identity", "bernoulli"));
            let own = format!("{begin}corruption.mask = \"exact-count\"");
            assert_eq!(both(&own), some("identity", "exact-count"));
            let own = format!("{begin}corruption.transform = \"block-clip\"");
            assert_eq!(both(&own), some("block-clip", "bernoulli"));
            let own = format!("{begin}corruption.mask = \"bernoulli-forced\"");
            assert_eq!(both(&own), (None, Some("bernoulli-forced".to_owned())));
            assert!(
                read("transform = \"identity\"\nmask = \"bernoulli\"").unwrap().rule(5).is_ok()
            );
        }
        assert_eq!(both("objective = \"block-diffusion\""), (None, None));
        assert_eq!(both("objective = \"autoregressive\""), (None, None));
    }

    #[test]
    fn every_known_name_is_read_and_written_back() {
        let numbers =
            |name: &str| name.replace("MIN-MAX", "0.1-0.9").replace("-P", "-2").to_owned();
        for (key, known) in [
            ("times", TIMES),
            ("schedule", SCHEDULES),
            ("transform", TRANSFORMS),
            ("mask", MASKS),
            ("weight", WEIGHTS),
        ] {
            for name in known {
                let line = format!("{key} = \"{}\"", numbers(name));
                let written = toml::to_string(&read(&line).unwrap()).unwrap();
                assert!(written.lines().any(|written| written == line), "{line}: {written}");
            }
            let error = read(&format!("{key} = \"nope\"")).unwrap_err();
            assert!(error.starts_with("unknown variant `nope`"), "{error}");
            assert!(known.iter().all(|name| error.contains(&format!("`{name}`"))), "{error}");
        }
        let error = read("schedule = \"polynomial-0\"").unwrap_err();
        assert!(error.contains("exponent is 0"), "{error}");
        let error = read("transform = \"band-0.9-0.1\"").unwrap_err();
        assert!(error.contains("[0.9, 0.1]"), "{error}");
    }
}

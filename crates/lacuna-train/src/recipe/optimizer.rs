//! Reads from `[optimizer]` and `[lora]` what is trained, and by which rule.

use lacuna_checkpoint::{AdapterConfig, Field, target_module, targeted_field};
use lacuna_model::Transformer;
use serde::{Deserialize, Serialize};

use crate::adamw::{AdamW, AdamWConfig, Parameter, sizes};
use crate::collective::Collective;
use crate::collective::shards::Ranks;
use crate::error::Result;
use crate::groups::ParameterGroup;
use crate::recipe::{Precision, Recipe, Stage};

/// The settings of AdamW (choice 11).
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OptimizerRecipe {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled decay of the groups in `decay`.
    pub weight_decay: f64,
    /// The groups of parameters that decay.
    pub decay: Vec<ParameterGroup>,
    /// Largest norm of the whole gradient.
    pub clip: f64,
    /// A step whose loss lies so many standard deviations over the mean of those before it updates nothing (0: every
    /// step does).
    pub spike_z_score: f64,
    /// Decay of the running mean of the weights, which is saved as a model of its own; 0: none is kept.
    pub ema_decay: f64,
    /// The form in which both moments are kept.
    pub moments: MomentsForm,
}

/// The form in which the moments are kept between steps.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum MomentsForm {
    /// As numbers of 32 bits.
    #[default]
    #[serde(rename = "f32")]
    F32,
    /// As a byte each, with a factor for 256 of them, rounded by chance: a quarter of the memory.
    #[serde(rename = "8-bit")]
    EightBit,
}

impl Default for OptimizerRecipe {
    fn default() -> Self {
        Self {
            beta1: 0.9,
            beta2: 0.95,
            epsilon: 1e-8,
            weight_decay: 0.1,
            decay: ParameterGroup::MATRICES.into(),
            clip: 1.0,
            spike_z_score: 0.0,
            ema_decay: 0.0,
            moments: MomentsForm::F32,
        }
    }
}

impl Recipe {
    /// A rank's optimizer of what is trained of a model.
    pub(crate) fn optimizer_of(&self, model: &Transformer, ranks: &Collective) -> Result<AdamW> {
        let optimizer = &self.optimizer;
        let config = AdamWConfig {
            beta1: optimizer.beta1,
            beta2: optimizer.beta2,
            eps: optimizer.epsilon,
            weight_decay: optimizer.weight_decay,
            clip_norm: Some(optimizer.clip),
            eight_bit: (optimizer.moments == MomentsForm::EightBit).then_some(self.seed),
        };
        let parameters = model.trained()?.into_iter().map(|(name, var)| Parameter {
            var: var.clone(),
            decay: optimizer.decay.contains(&ParameterGroup::of(name.parameter())),
            rounds: self.model.precision == Precision::Bf16,
        });
        let parameters: Vec<_> = parameters.collect();
        let own = Ranks::of(ranks, &sizes(&parameters)).own();
        Ok(AdamW::of_rank(parameters, own, config)?)
    }
}

impl Recipe {
    /// The first thing that the recipe asks for and that planned launches do not do.
    pub(crate) fn beyond_machines(&self) -> Option<&'static str> {
        let (model, optimizer) = (&self.model, &self.optimizer);
        let any = |of: &dyn Fn(&Stage) -> bool| self.stage.iter().any(of);
        // Whatever their order, and how often one is named.
        let decays = |group| optimizer.decay.contains(group);
        let is_usual = |group| decays(group) == ParameterGroup::MATRICES.contains(group);
        let asked = [
            (self.lora.is_some(), "training adapters ([lora])"),
            (
                !model.frozen.is_empty() || model.frozen_layers > 0,
                "frozen parameters (model.frozen)",
            ),
            (
                model.precision != Precision::F32,
                "model.precision (a card has bf16 and f32 masters)",
            ),
            (optimizer.moments != MomentsForm::F32, "moments in eight bits (optimizer.moments)"),
            (optimizer.ema_decay > 0.0, "a running mean of the weights (optimizer.ema_decay)"),
            (optimizer.spike_z_score > 0.0, "leaving out spikes (optimizer.spike_z_score)"),
            (
                optimizer.weight_decay != 0.0 && !ParameterGroup::ALL.iter().all(is_usual),
                "groups that decay, other than the matrices (optimizer.decay)",
            ),
            (any(&|stage| stage.dropout > 0.0), "dropout (stage.dropout)"),
            (any(&|stage| stage.reset_optimizer), "a fresh optimizer (stage.reset_optimizer)"),
        ];
        asked.into_iter().find(|(is_asked, _)| *is_asked).map(|(_, what)| what)
    }
}

/// The largest factor's numerator. What is used lies below some hundreds; with 1e40 the factor is no number in f32.
const MOST_ALPHA: f64 = 1e6;

/// Low-rank adapters (LoRA): they alone are trained, beside the matrices of `model.from`, which stay as they are.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraRecipe {
    /// Rows of A and columns of B.
    pub rank: usize,
    /// The numerator of the factor in alpha / rank · B · A, which is added to a matrix; default: twice the rank.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f64>,
    /// The projections that have an adapter in every layer.
    #[serde(default = "all_targets")]
    pub targets: Vec<String>,
}

fn all_targets() -> Vec<String> {
    use Field::{Down, Gate, K, O, Q, Up, V};
    [Q, K, V, O, Gate, Up, Down].into_iter().filter_map(target_module).collect()
}

impl LoraRecipe {
    /// The factor's numerator.
    pub fn alpha(&self) -> f64 {
        self.alpha.unwrap_or(2.0 * self.rank as f64)
    }

    /// The description that is written beside adapters trained on the checkpoint `base`, whose weights have this hash.
    pub(crate) fn config(&self, base: Option<String>, base_hash: Option<String>) -> AdapterConfig {
        let targets = self.targets.iter().filter_map(|module| targeted_field(module)).collect();
        AdapterConfig { rank: self.rank, alpha: self.alpha(), targets, base, base_hash }
    }

    /// Names the first value that no adapter can have.
    pub(super) fn check(&self) -> std::result::Result<(), String> {
        if self.rank == 0 || self.rank > 1 << 16 {
            return Err(format!("lora.rank is {}, expected 1 to {}", self.rank, 1 << 16));
        }
        if !(self.alpha() > 0.0 && self.alpha() <= MOST_ALPHA) {
            return Err(format!(
                "lora.alpha is {:e}, expected a number above 0, at most {MOST_ALPHA:e}",
                self.alpha()
            ));
        }
        if self.targets.is_empty() {
            return Err("lora.targets is empty: nothing would be trained".into());
        }
        match self.targets.iter().find(|module| targeted_field(module).is_none()) {
            None => Ok(()),
            Some(module) => Err(format!(
                "lora.targets: `{}` is no projection of a layer; expected some of {}",
                lacuna_files::printable(module),
                all_targets().join(", ")
            )),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test panics where it fails")]
mod tests {
    use super::*;

    #[test]
    fn matrices_decay_on_a_card_in_whatever_order_they_are_named() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../recipes/smoke.toml");
        let beyond = |keys: &[&str]| {
            let keys: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
            Recipe::load(path.as_ref(), &keys).unwrap().beyond_machines()
        };
        assert_eq!(beyond(&[]), None);
        let reordered =
            "optimizer.decay=[\"head\", \"feed-forward\", \"attention\", \"embedding\"]";
        assert_eq!(beyond(&[reordered]), None);
        let fewer = "optimizer.decay=[\"head\"]";
        assert!(beyond(&[fewer]).unwrap().contains("optimizer.decay"));
        assert_eq!(beyond(&[fewer, "optimizer.weight_decay=0.0"]), None, "nothing decays");
    }
}

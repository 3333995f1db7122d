//! Defines what is known of a checkpoint: sizes, special ids, and the mode that it was trained for.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use lacuna_kernels::StorageDtype;
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::families::Family;
use crate::parameters::{Name, Parts};

mod announced;
pub(crate) mod attention;
mod fields;
mod json;
pub(crate) mod predicts;

pub use attention::Attention;
pub use predicts::Predicts;

/// The mode that a checkpoint was trained for, which decides how it may be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Causal attention; the logits at a position predict the next token.
    Autoregressive,
    /// Bidirectional inside a block, causal between blocks; logits predict their own position.
    BlockDiffusion {
        /// Tokens of a block.
        block_size: NonZeroUsize,
        /// The id that stands for a token not yet written; `None` if the files name none, and whoever decodes must.
        mask_token_id: Option<u32>,
    },
}

/// The way in which rotary frequencies are stretched beyond the context they were trained at.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum RopeScaling {
    /// Frequencies are not stretched.
    None,
    /// Every frequency divided by `factor`.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Llama 3: long wavelengths divided by `factor`, short ones kept, a smooth ramp between.
    Llama3 {
        /// The divisor of the longest wavelengths.
        factor: f64,
        /// Wavelengths above `original_max_position_embeddings / low_freq_factor` are divided.
        low_freq_factor: f64,
        /// Wavelengths below `original_max_position_embeddings / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// The context length of the pretraining.
        original_max_position_embeddings: usize,
    },
}

/// The shape of a Llama-like model, and all else that `config.json` says of it.
///
/// ```
/// use lacuna_checkpoint::{Config, Mode};
/// let config = Config { num_layers: 2, vocab_size: 4096, ..Config::default() };
/// assert!(config.validate().is_ok());
/// let text = config.to_json();
/// assert_eq!(Config::from_json(&text)?, config);
/// assert_eq!(config.mode, Mode::Autoregressive);
/// # Ok::<(), lacuna_checkpoint::Error>(())
/// ```
#[derive(Clone, PartialEq, Debug)]
pub struct Config {
    /// Rows of the embedding; every token id is below it.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the gated feed-forward layer.
    pub intermediate_size: usize,
    /// Decoder layers.
    pub num_layers: usize,
    /// Query heads.
    pub num_heads: usize,
    /// Key and value heads; divides `num_heads`.
    pub num_kv_heads: usize,
    /// Width of a head; even.
    pub head_dim: usize,
    /// Longest context that the checkpoint was trained for.
    pub max_position_embeddings: usize,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// The stretching of these frequencies.
    pub rope_scaling: RopeScaling,
    /// Added to the mean square in every norm.
    pub rms_norm_eps: f64,
    /// True if the head is the embedding.
    pub tie_word_embeddings: bool,
    /// Biases and norms that not every model has.
    pub parts: Parts,
    /// The id of the token that begins a text.
    pub bos_token_id: Option<u32>,
    /// The id of the token that fills a batch.
    pub pad_token_id: Option<u32>,
    /// The ids of the tokens that end a text, each by itself.
    pub eos_token_ids: Vec<u32>,
    /// The mode: autoregressive or block diffusion.
    pub mode: Mode,
    /// The family of a block-diffusion model, if it is another than the released one's.
    pub family: Option<Family>,
    /// The token that the logits at a masked position predict; with [`Predicts::Next`] the head is shifted.
    pub predicts: Predicts,
    /// The tokens that a masked position sees, in a diffusion model.
    pub attention: Attention,
    /// The dtype that the checkpoint declares, if it does.
    pub dtype: Option<StorageDtype>,
    /// Ids in the files that name no token and are left out, as `eos_token_id = 70000`.
    pub ignored_ids: Vec<String>,
    /// Fields that this crate does not interpret; written back as they came.
    pub extra: Map<String, Value>,
}

impl Default for Config {
    /// A tiny autoregressive model, for tests and struct update syntax.
    fn default() -> Self {
        Self {
            vocab_size: 512,
            hidden_size: 64,
            intermediate_size: 160,
            num_layers: 4,
            num_heads: 8,
            num_kv_heads: 2,
            head_dim: 8,
            max_position_embeddings: 2048,
            rope_theta: 10_000.0,
            rope_scaling: RopeScaling::None,
            rms_norm_eps: 1e-6,
            tie_word_embeddings: false,
            parts: Parts::NONE,
            bos_token_id: Some(0),
            pad_token_id: Some(1),
            eos_token_ids: vec![2],
            mode: Mode::Autoregressive,
            family: None,
            predicts: Predicts::Same,
            attention: Attention::BlockCausal,
            dtype: None,
            ignored_ids: Vec::new(),
            extra: Map::new(),
        }
    }
}

impl Config {
    /// Reads `config.json` of a directory; ids in `generation_config.json` override its own.
    ///
    /// # Errors
    /// If a file can't be read, is no strict JSON, or fails [`Config::validate`].
    pub fn open(dir: &Path) -> Result<Self> {
        json::open(dir)
    }

    /// Parses the text of a `config.json`.
    ///
    /// # Errors
    /// If it is no strict JSON object, or fails [`Config::validate`].
    pub fn from_json(text: &str) -> Result<Self> {
        json::parse(text.as_bytes(), None, Path::new("config.json"), &announced::Beside::default())
    }

    /// The `config.json` of this configuration: keys sorted, two spaces of indent.
    pub fn to_json(&self) -> String {
        json::write(self)
    }

    /// The name under which `config.json` announces this model.
    pub fn architecture(&self) -> &'static str {
        json::architecture(self).0.0
    }

    /// The first of the ids that end a text.
    pub fn eos_token_id(&self) -> Option<u32> {
        self.eos_token_ids.first().copied()
    }

    /// The id that stands for a token not yet written, in a block-diffusion checkpoint.
    pub fn mask_token_id(&self) -> Option<u32> {
        match self.mode {
            Mode::Autoregressive => None,
            Mode::BlockDiffusion { mask_token_id, .. } => mask_token_id,
        }
    }

    /// Tokens of a block, in a block-diffusion checkpoint.
    pub fn block_size(&self) -> Option<NonZeroUsize> {
        match self.mode {
            Mode::Autoregressive => None,
            Mode::BlockDiffusion { block_size, .. } => Some(block_size),
        }
    }

    /// Checks every field against what a model can have.
    ///
    /// # Errors
    /// Names the first field that is out of bounds, its value and the bounds.
    pub fn validate(&self) -> Result<()> {
        self.validate_in(Path::new("config.json"))
    }

    pub(crate) fn validate_in(&self, origin: &Path) -> Result<()> {
        let fault = |field: &str, value: &dyn std::fmt::Display, reason: &str| {
            Err(Error::config(origin, field, value, reason))
        };
        let sizes = [
            ("vocab_size", self.vocab_size, 1 << 24),
            ("hidden_size", self.hidden_size, 1 << 18),
            ("intermediate_size", self.intermediate_size, 1 << 20),
            ("num_hidden_layers", self.num_layers, 1 << 12),
            ("num_attention_heads", self.num_heads, 1 << 12),
            ("num_key_value_heads", self.num_kv_heads, 1 << 12),
            ("head_dim", self.head_dim, 1 << 12),
            ("max_position_embeddings", self.max_position_embeddings, 1 << 24),
        ];
        for (field, value, most) in sizes {
            if value == 0 || value > most {
                return fault(field, &value, &format!("expected 1..={most}"));
            }
        }
        if !self.num_heads.is_multiple_of(self.num_kv_heads) {
            let reason = format!("must divide num_attention_heads = {}", self.num_heads);
            return fault("num_key_value_heads", &self.num_kv_heads, &reason);
        }
        if !self.head_dim.is_multiple_of(2) {
            return fault("head_dim", &self.head_dim, "must be even: rotary pairs halves");
        }
        if !(self.rope_theta.is_finite() && self.rope_theta >= 1.0) {
            return fault("rope_theta", &self.rope_theta, "expected a finite number of at least 1");
        }
        if !(self.rms_norm_eps > 0.0 && self.rms_norm_eps < 1.0) {
            return fault("rms_norm_eps", &self.rms_norm_eps, "expected a number in (0, 1)");
        }
        self.validate_scaling(origin)?;
        self.validate_ids(origin)?;
        if self.checked_parameter_count().is_none() {
            return fault("hidden_size", &self.hidden_size, "the model has over 2^48 parameters");
        }
        Ok(())
    }

    fn validate_scaling(&self, origin: &Path) -> Result<()> {
        let factors: &[(&str, f64)] = match &self.rope_scaling {
            RopeScaling::None => &[],
            RopeScaling::Linear { factor } => &[("factor", *factor)],
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, .. } => &[
                ("factor", *factor),
                ("low_freq_factor", *low_freq_factor),
                ("high_freq_factor", *high_freq_factor),
            ],
        };
        for (name, factor) in factors {
            if !(factor.is_finite() && *factor > 0.0) {
                let field = format!("rope_scaling.{name}");
                return Err(Error::config(origin, &field, factor, "expected a number above 0"));
            }
        }
        if let RopeScaling::Llama3 {
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings: original,
            ..
        } = self.rope_scaling
        {
            if high_freq_factor <= low_freq_factor {
                let field = "rope_scaling.high_freq_factor";
                let reason = format!("must exceed low_freq_factor = {low_freq_factor}");
                return Err(Error::config(origin, field, high_freq_factor, reason));
            }
            if original == 0 || original > 1 << 24 {
                let field = "rope_scaling.original_max_position_embeddings";
                return Err(Error::config(origin, field, original, "expected 1..=16777216"));
            }
        }
        Ok(())
    }

    fn validate_ids(&self, origin: &Path) -> Result<()> {
        let ids = [
            ("bos_token_id", self.bos_token_id),
            ("pad_token_id", self.pad_token_id),
            ("mask_token_id", self.mask_token_id()),
        ];
        let eos = self.eos_token_ids.iter().map(|&id| ("eos_token_id", Some(id)));
        for (field, id) in ids.into_iter().chain(eos) {
            if let Some(id) = id.filter(|&id| id as usize >= self.vocab_size) {
                let reason = format!("no such row: vocab_size is {}", self.vocab_size);
                return Err(Error::config(origin, field, id, reason));
            }
        }
        if let Some(block_size) = self.block_size()
            && block_size.get() > self.max_position_embeddings
        {
            let most = self.max_position_embeddings;
            let reason = format!("longer than max_position_embeddings = {most}");
            return Err(Error::config(origin, "block_size", block_size, reason));
        }
        Ok(())
    }

    /// Tells whether logits are made with a tensor of a file: the head, or the embedding if both are one.
    pub(crate) fn makes_logits(&self, name: &str) -> bool {
        let is = |known: Name| name == known.to_string();
        is(Name::HEAD) || (self.tie_word_embeddings && is(Name::EMBED))
    }

    /// The number of values in all [`parameters`](Config::shapes).
    pub fn parameter_count(&self) -> u64 {
        self.checked_parameter_count().unwrap_or(u64::MAX)
    }

    /// The number of values; `None` above 2^48, which no model has, so that byte sizes stay far from overflow.
    fn checked_parameter_count(&self) -> Option<u64> {
        let count =
            |shape: &Vec<usize>| shape.iter().try_fold(1u64, |n, &dim| n.checked_mul(dim as u64));
        let layer = self.layer_shapes();
        let layer = layer.iter().map(|(.., shape)| count(shape)).sum::<Option<u64>>()?;
        let head = if self.tie_word_embeddings { 1u64 } else { 2 };
        let hidden = self.hidden_size as u64;
        let outside = head.checked_mul(self.vocab_size as u64)?.checked_mul(hidden)?;
        let layers = layer.checked_mul(self.num_layers as u64)?;
        let total = layers.checked_add(outside)?.checked_add(hidden)?;
        (total <= 1 << 48).then_some(total)
    }

    /// The rotary frequencies in radians a token: θ_i = theta^(−2i/d) for i in 0..d/2, stretched as `rope_scaling`
    /// says.
    pub fn inverse_frequencies(&self) -> Vec<f64> {
        let half = self.head_dim / 2;
        let plain =
            (0..half).map(|i| self.rope_theta.powf(-(2.0 * i as f64) / self.head_dim as f64));
        plain.map(|frequency| frequency / self.rope_scaling.divisor(frequency)).collect()
    }

    pub(crate) fn config_file(dir: &Path) -> PathBuf {
        dir.join("config.json")
    }
}

impl RopeScaling {
    /// The number that the frequency `frequency` (radians a token) is divided by.
    pub fn divisor(&self, frequency: f64) -> f64 {
        match *self {
            RopeScaling::None => 1.0,
            RopeScaling::Linear { factor } => factor,
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            } => {
                let turns = original_max_position_embeddings as f64 * frequency
                    / (2.0 * std::f64::consts::PI);
                let kept = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor))
                    .clamp(0.0, 1.0);
                1.0 / ((1.0 - kept) / factor + kept)
            }
        }
    }
}

#[cfg(test)]
mod tests;

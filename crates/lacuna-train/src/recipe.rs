//! Defines recipes: everything a run depends on, as TOML. Unknown keys are errors that name the nearest known one.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

use lacuna_checkpoint::{Attention, Predicts};

use crate::groups::ParameterGroup;
use crate::learning_rate::{LearningRate, LearningRateShape};

mod bounds;
mod corruption;
mod data;
pub(crate) mod keys;
mod load;
mod optimizer;
mod overrides;
mod words;

pub use corruption::CorruptionRecipe;
pub use data::{FimOrderKey, FimRecipe, SamplePacking, SourceRecipe};
pub use optimizer::{LoraRecipe, MomentsForm, OptimizerRecipe};

/// A whole run: model, data, optimizer, stages.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Names the run's directory.
    pub name: String,
    /// The one source of all randomness.
    pub seed: u64,
    /// Checkpoints that are kept: the newest so many, those of stage ends, the one with the best held-out score, and the
    /// newest whose weights are known to be good. 0: all.
    #[serde(default = "default_keep_checkpoints")]
    pub keep_checkpoints: usize,
    /// True to write the run's numbers for TensorBoard as well.
    #[serde(default)]
    pub tensorboard: bool,
    /// The model to start from.
    pub model: ModelRecipe,
    /// Tokenizer and text.
    pub data: DataRecipe,
    /// Chat-formatted samples for stages with `data = "sft"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sft: Option<SftRecipe>,
    /// Adapters that are trained in place of the weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraRecipe>,
    /// AdamW's settings.
    #[serde(default)]
    pub optimizer: OptimizerRecipe,
    /// The stages, which run one after the other on the same weights.
    pub stage: Vec<Stage>,
    /// The measurements on held-out text, and the prompts that are completed.
    #[serde(default)]
    pub evaluation: EvaluationRecipe,
    /// The file it was read from, to name in errors.
    #[serde(skip)]
    pub(crate) file: PathBuf,
}

/// A fresh model's shape, or a checkpoint.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelRecipe {
    /// A checkpoint to go on from (a Hugging Face directory, a `.gguf` file or a model on the hub); then the shape is the
    /// checkpoint's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<PathBuf>,
    /// Width of the residual stream.
    #[serde(default)]
    pub hidden_size: usize,
    /// Width of the feed-forward layer (SwiGLU).
    #[serde(default)]
    pub intermediate_size: usize,
    /// Number of layers.
    #[serde(default)]
    pub layers: usize,
    /// Attention heads.
    #[serde(default)]
    pub heads: usize,
    /// Key/value heads (grouped-query attention); default: `heads`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_heads: Option<usize>,
    /// Rotary base.
    #[serde(default = "default_rope_theta")]
    pub rope_theta: f64,
    /// Longest context of a fresh model; default: four windows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_positions: Option<usize>,
    /// The token of an AR checkpoint's tokenizer that becomes MASK, by name; default: the checkpoint's own
    /// mask token, else the tokenizer's `<[MASK_TOKEN]>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask_token: Option<String>,
    /// True if the output head is the embedding.
    #[serde(default = "yes")]
    pub tie_word_embeddings: bool,
    /// The start of the MASK row of an AR checkpoint (choice 10).
    #[serde(default)]
    pub mask_embedding: MaskEmbedding,
    /// The groups of parameters that are not trained.
    #[serde(default)]
    pub frozen: Vec<ParameterGroup>,
    /// The number of first layers that are not trained.
    #[serde(default)]
    pub frozen_layers: usize,
    /// The values that passes read, and that checkpoints hold.
    #[serde(default)]
    pub precision: Precision,
    /// True to start an autoregressive stage from a block-diffusion checkpoint, or one with another MASK.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_mode_mismatch: bool,
}

/// The values that the MASK embedding starts with when training goes on from an AR checkpoint (paper choice 10).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MaskEmbedding {
    /// The row as the checkpoint holds it.
    #[default]
    Checkpoint,
    /// The mean of all rows plus noise of a hundredth of their spread.
    Mean,
    /// The one of some rows (the checkpoint's own, the mean, those of special tokens) under which masked tokens of the
    /// first training windows cost least.
    Measured,
}

/// The precision of the parameters that passes read. Sums are formed in f32 in either.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Precision {
    /// The parameters as updates left them.
    #[default]
    F32,
    /// Their roundings to bf16; updates add up in an f32 copy. Models are written in bf16, in half the bytes, and
    /// checkpoints hold the f32 copy besides.
    Bf16,
}

/// Text and how it is cut.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataRecipe {
    /// A `tokenizer.json`, a model's folder, or a GGUF file.
    pub tokenizer: PathBuf,
    /// Source trees, text files, `.jsonl[.gz|.zst]`, `.parquet`; packed when a run first asks for them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub corpus: Vec<PathBuf>,
    /// Only files with these endings, without the dot; empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extensions: Vec<String>,
    /// Only files of these languages, by the endings and names of files; empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub languages: Vec<String>,
    /// The most bytes of a document: larger files of folders, members of archives and JSON lines are passed over.
    #[serde(default = "data::max_document_bytes")]
    pub max_document_bytes: usize,
    /// The fields of a JSON line that may hold its text.
    #[serde(default = "data::text_fields")]
    pub text_fields: Vec<String>,
    /// True to take texts that hold a zero byte.
    #[serde(default)]
    pub take_binary: bool,
    /// True to take files and folders whose names begin with a dot.
    #[serde(default)]
    pub take_hidden: bool,
    /// True to take files and folders that a `.gitignore` or `.ignore` names.
    #[serde(default)]
    pub take_ignored: bool,
    /// True to take equal texts as often as they come; else the first is taken.
    #[serde(default)]
    pub take_duplicates: bool,
    /// True to pass over texts whose first lines say that a program wrote them.
    #[serde(default)]
    pub skip_generated: bool,
    /// True to pass over texts with lines longer than people write, or of which few characters are letters or digits.
    #[serde(default)]
    pub skip_minified: bool,
    /// The token that ends every document, by name; default: the one that the checkpoint read in pretraining, else the
    /// tokenizer's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub document_end: Option<String>,
    /// A directory that `lacuna pack` wrote, in place of `corpus`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shards: Option<PathBuf>,
    /// True if every shard is compared with its hash before the first step.
    #[serde(default = "yes")]
    pub verify_shards: bool,
    /// Tokens in a packed window.
    pub window: usize,
    /// Part of the documents kept out of training, chosen by the hash of a file's path or of a record's text.
    #[serde(default = "default_held_out")]
    pub held_out: f64,
    /// True to keep packed documents apart: no attention across, positions restart (choice 8's option).
    #[serde(default)]
    pub document_mask: bool,
    /// The documents that are rewritten for filling in the middle; default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fim: Option<FimRecipe>,
    /// Several texts that are mixed by weight, in place of `corpus` and `shards`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub source: Vec<SourceRecipe>,
}

/// Chat samples, one JSON object with `messages` a line.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SftRecipe {
    /// `.jsonl[.gz|.zst]` and `.parquet` files.
    pub samples: Vec<PathBuf>,
    /// The format that conversations are written in: `model`, as the checkpoint that the run starts from has it;
    /// `seed-coder`; or a `.jinja` file. Default: the checkpoint's, else Seed-Coder's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// The way in which samples share windows.
    #[serde(default)]
    pub packing: SamplePacking,
    /// The fewest and the most end tokens behind a sample; each number between them is drawn as often as another
    /// (choice 9).
    #[serde(default = "data::closing_eos")]
    pub closing_eos: [u32; 2],
    /// Part of the conversations kept out of training, chosen by the hash of what is said in them.
    #[serde(default = "data::sft_held_out")]
    pub held_out: f64,
}

/// The objective that a stage learns by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ObjectiveKind {
    /// Next token, causal attention.
    Autoregressive,
    /// Masked tokens in place, blocks of `block_size`, causal between blocks (the paper's).
    BlockDiffusion,
    /// Masked tokens in place, everything sees everything (BiDLLM).
    FullDiffusion,
    /// Masked tokens in place under causal attention (ARDLLM).
    CausalDiffusion,
}

/// The source of a stage's windows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StageData {
    /// The corpus of `[data]`.
    #[default]
    Corpus,
    /// The samples of `[sft]`, of which only responses are supervised.
    Sft,
}

/// A stretch of training with one objective.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// Names the stage in metrics and checkpoints.
    pub name: String,
    /// The objective.
    pub objective: ObjectiveKind,
    /// Optimizer steps.
    pub steps: u64,
    /// Windows in an optimizer step; or give `batch_tokens`.
    #[serde(default)]
    pub batch_size: usize,
    /// Tokens in an optimizer step, a whole number of windows, in place of `batch_size`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch_tokens: Option<usize>,
    /// Windows in a forward pass; gradients of a step's micro-batches add up. Default: `batch_size`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub micro_batch_size: Option<usize>,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// The shape of the learning rate behind its warmup.
    #[serde(default)]
    pub learning_rate_shape: LearningRateShape,
    /// Steps in which the learning rate rises from 0.
    #[serde(default)]
    pub learning_rate_warmup: u64,
    /// Steps at the end in which it falls to `learning_rate_final`.
    #[serde(default)]
    pub learning_rate_decay: u64,
    /// Learning rate of the last step, as a part of the peak.
    #[serde(default)]
    pub learning_rate_final: f64,
    /// True to begin the stage with an optimizer that has seen nothing.
    #[serde(default)]
    pub reset_optimizer: bool,
    /// The part of the values that is dropped from what attention and feed-forward parts add to the residual stream.
    #[serde(default)]
    pub dropout: f64,
    /// True to keep packed documents apart in this stage; default: `data.document_mask`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub document_mask: Option<bool>,
    /// The source of the windows.
    #[serde(default)]
    pub data: StageData,
    /// Tokens in a block (block diffusion only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_size: Option<usize>,
    /// True if the logits at position i predict token i + 1, as an AR head's do (off in the paper).
    #[serde(default)]
    pub logit_shift: bool,
    /// The rule by which tokens are masked and weighted (diffusion only).
    #[serde(default)]
    pub corruption: CorruptionRecipe,
    /// True to keep only each layer's input in the forward pass and compute its activations again when its turn in
    /// the backward pass comes: less memory, about a third more work, the same gradients.
    #[serde(default)]
    pub recompute_activations: bool,
    /// Measure the next-token loss on the step's own batch every so many steps (0: never).
    #[serde(default)]
    pub autoregressive_loss_every: u64,
    /// Write a resumable checkpoint every so many steps (0: not by steps).
    #[serde(default = "default_checkpoint_every")]
    pub checkpoint_every: u64,
    /// Write one as well when so many minutes have passed since the last (0: not by the clock).
    #[serde(default = "default_checkpoint_minutes")]
    pub checkpoint_minutes: f64,
}

impl Recipe {
    /// True if the documents of a stage's windows see nothing of each other.
    pub fn document_mask(&self, stage: &Stage) -> bool {
        stage.document_mask.unwrap_or(self.data.document_mask)
    }
}

impl Stage {
    /// Its place in the recipe as `--set` has it, with its name: ``stage.1 (`diffusion`)``.
    pub(crate) fn place(&self, index: usize) -> String {
        format!("stage.{index} (`{}`)", lacuna_files::printable(&self.name))
    }

    /// The token that the logits at a masked position predict.
    pub fn predicts(&self) -> Predicts {
        if self.logit_shift { Predicts::Next } else { Predicts::Same }
    }

    /// The tokens that a masked position learns to see.
    pub fn attention(&self) -> Attention {
        match self.objective {
            ObjectiveKind::Autoregressive | ObjectiveKind::BlockDiffusion => Attention::BlockCausal,
            ObjectiveKind::FullDiffusion => Attention::Full,
            ObjectiveKind::CausalDiffusion => Attention::Causal,
        }
    }

    /// Its learning rate, step by step.
    pub fn learning_rate(&self) -> LearningRate {
        LearningRate {
            peak: self.learning_rate,
            shape: self.learning_rate_shape,
            warmup: self.learning_rate_warmup,
            decay: self.learning_rate_decay,
            last: self.learning_rate_final,
        }
    }
}

/// The measurements on held-out windows, on the way and at the end of each stage, and the completions on the way and at
/// the end of the run.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EvaluationRecipe {
    /// Held-out windows scored (0: none).
    pub windows: usize,
    /// True to score them before the first step too, as the first stage is scored at its end.
    pub at_start: bool,
    /// Prompts completed at the end of the run, and on the way where `sample_every` says so.
    pub prompts: Vec<String>,
    /// Tokens of each completion.
    pub max_new_tokens: usize,
    /// Score the windows every so many steps of a stage (0: at its end alone), and keep the best checkpoint.
    pub evaluate_every: u64,
    /// Complete the prompts every so many steps of a stage (0: at the end of the run alone).
    pub sample_every: u64,
}

impl Default for EvaluationRecipe {
    fn default() -> Self {
        Self {
            windows: 32,
            at_start: false,
            prompts: Vec::new(),
            max_new_tokens: 64,
            evaluate_every: 0,
            sample_every: 0,
        }
    }
}

fn default_rope_theta() -> f64 {
    10_000.0
}

/// If one is damaged, two are left; with three times the model's size each, a disk should have room for that.
fn default_keep_checkpoints() -> usize {
    3
}

fn default_held_out() -> f64 {
    0.08
}

fn default_checkpoint_every() -> u64 {
    500
}

fn default_checkpoint_minutes() -> f64 {
    5.0
}

fn yes() -> bool {
    true
}

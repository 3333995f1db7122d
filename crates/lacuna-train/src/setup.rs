//! Prepares what a run starts from: packed text, tokenizer, model.

use candle_core::{DType, Device};
use lacuna_checkpoint::{Config, Mode, Weights};
use lacuna_data::cache::Step as Packing;
use lacuna_data::corpus::Skipped;
use lacuna_data::{Batches, Dataset};
use lacuna_model::Transformer;
use lacuna_text::{ModelFiles, Tokenizer};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use crate::error::{Result, TrainError};
use crate::objective::StageObjective;
use crate::recipe::{ObjectiveKind, Recipe, Stage, StageData};

mod mask_row;
mod side;
mod text;
mod trained;

pub use side::{ends_of_text, open_template, open_tokenizer};
use text::{Samples, Text};

/// The type that training computes in.
const DTYPE: DType = DType::F32;

/// The special ids that training needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpecialIds {
    /// Begins a text, if the tokenizer has such a token.
    pub bos: Option<u32>,
    /// Pads the last window.
    pub pad: u32,
    /// Ends a text that the model writes, and each sample of a conversation.
    pub eos: u32,
    /// Ends each document: what the checkpoint read in pretraining, or what the recipe names.
    pub document_end: u32,
    /// MASK, which stands in place of a hidden token. Only diffusion stages need it.
    pub mask: Option<u32>,
}

/// A run's text, packed.
#[derive(Debug)]
pub struct RunData {
    /// Training windows, dealt out in a seeded order.
    pub train: Batches,
    /// Held-out windows, in order; the last one padded.
    pub held_out: Dataset,
    /// SFT windows, if the recipe names samples.
    pub sft: Option<Batches>,
    /// Windows of the conversations that were held out; none without samples.
    pub sft_held_out: Dataset,
    /// The tokenizer.
    pub tokenizer: Tokenizer,
    /// Its special tokens.
    pub special: SpecialIds,
    /// The parts of the corpus that were passed over, a line for each reason.
    pub skipped: Vec<String>,
    /// The conversations that were passed over.
    pub sft_skipped: Skipped,
    window: usize,
    tokenizer_file: PathBuf,
    side_files: ModelFiles,
}

impl RunData {
    /// Reads the tokenizer, opens shards, and packs what is not packed yet into the folder `cache`, where the next run
    /// finds it. `tell` hears how far that is.
    ///
    /// # Errors
    /// Errors if a file is missing, damaged or empty of text, or the tokenizer lacks a token that is needed.
    pub fn open(recipe: &Recipe, cache: &Path, tell: &mut dyn FnMut(Packing)) -> Result<Self> {
        let tokenizer = side::open_tokenizer(&recipe.data.tokenizer)?;
        let special = special_ids(recipe, &tokenizer)?;
        let (side_files, format) = side::side_files(recipe, &tokenizer, special)?;
        let samples = match recipe.sft.as_ref().zip(format) {
            Some((sft, format)) => Some(Samples::pack(recipe, sft, &format, &tokenizer, special)?),
            None => None,
        };
        let sources = recipe.data.sources();
        let text = match &samples {
            // There are conversations alone: they are the run's text.
            Some(samples) if sources.is_empty() => samples.as_text(recipe)?,
            _ => Text::open(recipe, &tokenizer, special, cache, tell)?,
        };
        let nothing = || text::no_windows(recipe, &tokenizer);
        let (sft, sft_held_out, sft_skipped) = match samples {
            Some(Samples { train, held_out, skipped }) => {
                (Some(Batches::new(train, recipe.seed)?), held_out, skipped)
            }
            None => (None, nothing()?, Skipped::default()),
        };
        Ok(Self {
            train: text.train,
            held_out: text.held_out,
            sft,
            sft_held_out,
            side_files,
            window: recipe.data.window,
            tokenizer_file: recipe.data.tokenizer.clone(),
            tokenizer,
            special,
            skipped: text.passed_over,
            sft_skipped,
        })
    }

    /// The windows that a stage is scored on, and those that it learnt from: those of conversations after a stage on
    /// conversations, if some are held out, else those of the corpus.
    pub(crate) fn scored(&self, stage: &Stage) -> (&Dataset, &Dataset) {
        match &self.sft {
            Some(sft) if stage.data == StageData::Sft && self.sft_held_out.windows() > 0 => {
                (&self.sft_held_out, sft.dataset())
            }
            _ => (&self.held_out, self.train.dataset()),
        }
    }

    /// The files that every checkpoint of the run has beside its weights: the tokenizer, and those that came with
    /// `model.from`.
    pub fn side_files(&self) -> &ModelFiles {
        &self.side_files
    }

    /// The mode that a model's checkpoint declares after a stage.
    ///
    /// # Errors
    /// Errors if a diffusion stage has no MASK token.
    pub fn mode(&self, stage: &Stage) -> Result<Mode> {
        let block_size = match stage.objective {
            ObjectiveKind::Autoregressive => return Ok(Mode::Autoregressive),
            // Under causal attention every position is a block of its own, if nobody asks for longer ones.
            ObjectiveKind::CausalDiffusion => NonZeroUsize::MIN,
            ObjectiveKind::BlockDiffusion | ObjectiveKind::FullDiffusion => {
                self.corrupted_block(stage)
            }
        };
        Ok(Mode::BlockDiffusion { block_size, mask_token_id: Some(self.mask_id()?) })
    }

    /// The objective that a stage learns by.
    ///
    /// # Errors
    /// Errors if the corruption is no valid rule or the tokenizer has no MASK.
    pub fn objective(&self, recipe: &Recipe, stage: &Stage) -> Result<StageObjective> {
        let corruption = match stage.objective {
            ObjectiveKind::Autoregressive => None,
            _ => {
                let rule = stage.corruption.rule(self.mask_id()?);
                Some((rule.map_err(|reason| recipe.fault(reason))?, stage.corruption.times))
            }
        };
        Ok(StageObjective {
            kind: stage.objective,
            block_size: self.corrupted_block(stage),
            corruption,
            predicts: stage.predicts(),
            document_mask: recipe.document_mask(stage),
            recompute: stage.recompute_activations,
            dropout: stage.dropout,
        })
    }

    /// The number of tokens that are corrupted as one block: the recipe's, or all of a window.
    fn corrupted_block(&self, stage: &Stage) -> NonZeroUsize {
        NonZeroUsize::new(stage.block_size.unwrap_or(self.window)).expect("validated: at least 1")
    }

    /// The MASK id.
    ///
    /// # Errors
    /// Errors if the tokenizer has none and the recipe names none.
    pub fn mask_id(&self) -> Result<u32> {
        self.special.mask.ok_or_else(|| TrainError::File {
            path: self.tokenizer_file.clone(),
            reason: "the tokenizer has no MASK token; name the token that becomes it with model.mask_token"
                .into(),
        })
    }
}

fn special_ids(recipe: &Recipe, tokenizer: &Tokenizer) -> Result<SpecialIds> {
    let [bos, pad, eos, _, _, mask, _] = lacuna_text::SPECIAL_TOKENS;
    let config = |from: &Path| Weights::inspect(from).map(|weights| weights.config().clone());
    let of_checkpoint = recipe.model.from.as_deref().map(config).transpose()?;
    let id = |name: &str| tokenizer.token_to_id(name);
    let eos_id = of_checkpoint.as_ref().and_then(Config::eos_token_id);
    let eos_id = eos_id.or_else(|| lacuna_data::packing::end_of_text(tokenizer));
    let Some(eos_id) = eos_id else {
        return Err(TrainError::File {
            path: recipe.data.tokenizer.clone(),
            reason: format!("no token `{eos}` and no checkpoint that names an end of text"),
        });
    };
    let mask = match &recipe.model.mask_token {
        Some(name) => {
            let fault = |reason: &str| {
                let (name, file) = (lacuna_files::printable(name), recipe.data.tokenizer.display());
                recipe.fault(format!("model.mask_token is `{name}`, {reason} ({file})"))
            };
            let id = id(name).ok_or_else(|| fault("a token that the tokenizer does not have"))?;
            if !tokenizer.is_special(id) {
                return Err(fault(
                    "which ordinary text contains: the model could not tell it from what it hides; name a special token, or \
                     append one with `lacuna convert --to block-diffusion --mask-token append`",
                ));
            }
            if id == eos_id {
                return Err(fault("which ends texts and can't also hide tokens; name another"));
            }
            Some(id)
        }
        None => of_checkpoint.as_ref().and_then(Config::mask_token_id).or_else(|| id(mask)),
    };
    let bos = of_checkpoint.as_ref().and_then(|c| c.bos_token_id).or_else(|| id(bos));
    let pad =
        of_checkpoint.as_ref().and_then(|c| c.pad_token_id).or_else(|| id(pad)).unwrap_or(eos_id);
    let document_end = match &recipe.data.document_end {
        Some(name) => id(name).ok_or_else(|| {
            let tokenizer = recipe.data.tokenizer.display();
            recipe.fault(format!(
                "data.document_end is `{name}`, a token that {tokenizer} does not have"
            ))
        })?,
        None => {
            let ends = of_checkpoint.as_ref().map_or(&[][..], |config| &config.eos_token_ids);
            lacuna_data::packing::document_end(tokenizer, ends).unwrap_or(eos_id)
        }
    };
    Ok(SpecialIds { bos, pad, eos: eos_id, document_end, mask })
}

/// The model a run starts with: a checkpoint of the run itself, one that the recipe names, or a fresh one. Where
/// adapters are trained, the run's own checkpoints hold them alone, and the model is the recipe's. `notice` hears what a
/// user may want to know of it.
///
/// # Errors
/// Errors if a checkpoint is damaged or its vocabulary is not the tokenizer's.
pub(crate) fn build_model(
    recipe: &Recipe,
    data: &RunData,
    resumed: Option<&Path>,
    device: &Device,
    notice: &mut dyn FnMut(String),
) -> Result<Transformer> {
    let own = resumed.filter(|_| recipe.lora.is_none());
    let model = match own.or(recipe.model.from.as_deref()) {
        Some(from) => model_from(recipe, data, from, (own.is_some(), device), notice)?,
        None => Transformer::init(fresh_config(recipe, data)?, recipe.seed, DTYPE, device)?,
    };
    match &recipe.lora {
        Some(lora) => trained::adapted(model, lora, resumed, recipe.seed),
        None => trained::frozen(model, &recipe.model),
    }
}

/// The model of a checkpoint, which is the run's own, or the one that the recipe names.
fn model_from(
    recipe: &Recipe,
    data: &RunData,
    from: &Path,
    (resumed, device): (bool, &Device),
    notice: &mut dyn FnMut(String),
) -> Result<Transformer> {
    if !resumed {
        // A run's own checkpoints were compared when one was chosen.
        lacuna_checkpoint::verify(from)?;
    }
    let weights = Weights::open(from)?;
    let (rows, ids) = (weights.config().vocab_size, data.tokenizer.vocab_size());
    let refuse = |reason| Err(TrainError::File { path: from.to_owned(), reason });
    if rows < ids {
        return refuse(format!(
            "the model embeds {rows} tokens, the tokenizer {} has {ids}; use the model's own tokenizer",
            recipe.data.tokenizer.display()
        ));
    }
    if !resumed
        && let Ok(own) = open_tokenizer(from)
        && let Some(id) = first_difference(&own, &data.tokenizer)
    {
        let shown = |tokenizer: &Tokenizer| {
            let token = tokenizer.id_to_token(id).unwrap_or_default();
            lacuna_files::printable(&token).into_owned()
        };
        return refuse(format!(
            "has another tokenizer than {}: token {id} is `{}` in the model and `{}` there; use the model's own",
            recipe.data.tokenizer.display(),
            shown(&own),
            shown(&data.tokenizer)
        ));
    }
    let max = weights.config().max_position_embeddings;
    if max < recipe.data.window {
        return refuse(format!(
            "the model has {max} positions, data.window is {}",
            recipe.data.window
        ));
    }
    if !resumed
        && !recipe.model.allow_mode_mismatch
        && let Err(reason) = check_mode(recipe, data, weights.config().mode)
    {
        return refuse(reason);
    }
    let model = Transformer::trainable(&weights, DTYPE, device)?;
    if !resumed && let Some(told) = mask_row::start(&model, recipe, data)? {
        notice(told);
    }
    Ok(model)
}

/// The first of some ids that are another token in the other tokenizer. Either may have more tokens than the other, as one
/// to which a MASK was appended.
fn first_difference(one: &Tokenizer, other: &Tokenizer) -> Option<u32> {
    const STEP: usize = 61;
    let both = one.vocab_size().min(other.vocab_size()) as u32;
    let mut ids = (0..both).step_by(STEP);
    ids.find(|id| one.id_to_token(*id) != other.id_to_token(*id))
}

/// Refuses a start from a block-diffusion checkpoint for an autoregressive stage, or with another MASK, which is a
/// mistake as a rule. The way from autoregressive to diffusion is what training is for.
fn check_mode(recipe: &Recipe, data: &RunData, mode: Mode) -> std::result::Result<(), String> {
    let Mode::BlockDiffusion { mask_token_id, .. } = mode else { return Ok(()) };
    let insist = "model.allow_mode_mismatch = true does it all the same";
    let first = &recipe.stage[0];
    if first.objective == ObjectiveKind::Autoregressive {
        return Err(format!(
            "a block-diffusion checkpoint, but stage `{}` is autoregressive; start with a diffusion stage, or {insist}",
            first.name
        ));
    }
    match (data.special.mask, mask_token_id) {
        (Some(mask), Some(trained)) if mask != trained => Err(format!(
            "the checkpoint was trained with MASK = {trained}, model.mask_token is {mask}; leave it out, or {insist}"
        )),
        _ => Ok(()),
    }
}

/// The configuration of a fresh model.
pub(crate) fn fresh_config(recipe: &Recipe, data: &RunData) -> Result<Config> {
    let m = &recipe.model;
    let config = Config {
        vocab_size: data.tokenizer.vocab_size(),
        hidden_size: m.hidden_size,
        intermediate_size: m.intermediate_size,
        num_layers: m.layers,
        num_heads: m.heads,
        num_kv_heads: m.kv_heads.unwrap_or(m.heads),
        head_dim: m.hidden_size / m.heads,
        max_position_embeddings: m
            .max_positions
            .unwrap_or(4 * recipe.data.window)
            .max(recipe.data.window),
        rope_theta: m.rope_theta,
        tie_word_embeddings: m.tie_word_embeddings,
        bos_token_id: data.special.bos,
        pad_token_id: Some(data.special.pad),
        eos_token_ids: vec![data.special.eos],
        mode: data.mode(&recipe.stage[0])?,
        ..Config::default()
    };
    config.validate().map_err(|error| match error {
        lacuna_checkpoint::Error::Config { field, value, reason, .. } => {
            let key = match field.as_str() {
                "num_hidden_layers" => "layers",
                "num_attention_heads" => "heads",
                "num_key_value_heads" => "kv_heads",
                "max_position_embeddings" => "max_positions",
                other => other,
            };
            recipe.fault(format!("model.{key} = {value}: {reason}"))
        }
        other => other.into(),
    })?;
    Ok(config)
}

#[cfg(test)]
mod tests;

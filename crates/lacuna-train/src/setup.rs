//! Prepares what a run starts from: packed text, tokenizer, model.

use candle_core::{DType, Device};
use lacuna_checkpoint::{Config, Mode, Weights, mean_row};
use lacuna_data::corpus::Skipped;
use lacuna_data::{Batches, Corpus, Dataset, Document, Packer, Remainder, pack};
use lacuna_model::Transformer;
use lacuna_random::{Purpose, stream, uniform_f32};
use lacuna_text::{ModelFiles, Tokenizer};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use crate::error::{Result, TrainError};
use crate::objective::StageObjective;
use crate::recipe::{MaskEmbedding, ObjectiveKind, Recipe, Stage};

mod side;

pub use side::open_tokenizer;

/// The special ids that training needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpecialIds {
    /// Begins a text, if the tokenizer has such a token.
    pub bos: Option<u32>,
    /// Pads the last window.
    pub pad: u32,
    /// Ends each document.
    pub eos: u32,
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
    /// The tokenizer.
    pub tokenizer: Tokenizer,
    /// Its special tokens.
    pub special: SpecialIds,
    /// The parts of the corpus that were passed over.
    pub skipped: Skipped,
    /// The conversations that were passed over.
    pub sft_skipped: Skipped,
    window: usize,
    tokenizer_file: PathBuf,
    side_files: ModelFiles,
}

impl RunData {
    /// Reads the tokenizer and the corpus (or opens shards) and packs.
    ///
    /// # Errors
    /// Errors if a file is missing, damaged or empty of text, or the tokenizer lacks a token that is needed.
    pub fn open(recipe: &Recipe) -> Result<Self> {
        let tokenizer = side::open_tokenizer(&recipe.data.tokenizer)?;
        let special = special_ids(recipe, &tokenizer)?;
        let window = NonZeroUsize::new(recipe.data.window).expect("validated: at least 2");
        let mut skipped = Skipped::default();
        let (side_files, format) = side::side_files(recipe, &tokenizer, special)?;
        let mut sft_skipped = Skipped::default();
        let packed = match recipe.sft.as_ref().zip(format) {
            Some((sft, format)) => {
                let (packed, passed_over) = lacuna_data::pack_chat(
                    &sft.samples,
                    &format,
                    &tokenizer,
                    special.eos,
                    recipe.seed,
                    Packer::new(window, Remainder::Pad(special.pad)),
                )?;
                sft_skipped = passed_over;
                Some(packed)
            }
            None => None,
        };
        let in_memory = |packed| Dataset::from_packed(packed, tokenizer.vocab_size());
        let (train, held_out) = match (&recipe.data.shards, &packed) {
            (Some(dir), _) => open_shards(dir, &tokenizer, window, recipe.data.verify_shards)?,
            // There are conversations alone: they are the run's text, and none of them is kept out.
            (None, Some(packed)) if recipe.data.corpus.is_empty() => {
                let nothing = Packer::new(window, Remainder::Drop).finish();
                (in_memory(packed.clone())?, in_memory(nothing)?)
            }
            (None, _) => {
                let corpus = Corpus::read(&recipe.data.corpus, &recipe.data.corpus_options())?;
                skipped = corpus.skipped.clone();
                let (train, held_out) = corpus.split(recipe.data.held_out);
                if train.is_empty() {
                    return Err(lacuna_data::Error::Packing(format!(
                        "all {} documents are held out, by the hash of their paths; data.held_out = 0 takes them",
                        held_out.len()
                    ))
                    .into());
                }
                let pack_all = |documents: &[Document], remainder| -> Result<Dataset> {
                    let packer = Packer::new(window, remainder);
                    let packed = pack(documents, &tokenizer, special.eos, packer)?;
                    Ok(in_memory(packed)?)
                };
                (
                    pack_all(&train, Remainder::Drop)?,
                    pack_all(&held_out, Remainder::Pad(special.pad))?,
                )
            }
        };
        let sft = packed.map(|packed| Batches::new(in_memory(packed)?, recipe.seed)).transpose()?;
        Ok(Self {
            train: Batches::new(train, recipe.seed)?,
            held_out,
            sft,
            side_files,
            window: recipe.data.window,
            tokenizer_file: recipe.data.tokenizer.clone(),
            tokenizer,
            special,
            skipped,
            sft_skipped,
        })
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
            document_mask: recipe.data.document_mask,
            recompute: stage.recompute_activations,
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

fn open_shards(
    dir: &Path,
    tokenizer: &Tokenizer,
    window: NonZeroUsize,
    verify: bool,
) -> Result<(Dataset, Dataset)> {
    let open = |part: &str| -> Result<Dataset> {
        let path = dir.join(part);
        let dataset = Dataset::open(&path)?;
        let refuse = |reason| lacuna_data::Error::Corpus { path: path.clone(), reason };
        if dataset.window_len() != window {
            return Err(refuse(format!(
                "windows hold {} tokens, data.window says {window}; pack again with --window {window}, or change it",
                dataset.window_len()
            ))
            .into());
        }
        let packed_with = dataset.manifest().map(|m| m.tokenizer.as_str()).unwrap_or_default();
        if packed_with != tokenizer.fingerprint() {
            let reason = "packed with another tokenizer than data.tokenizer; pack again";
            return Err(refuse(reason.to_owned()).into());
        }
        if verify {
            dataset.verify()?;
        }
        Ok(dataset)
    };
    // If nothing was held out, there is no folder, or, from earlier versions, an empty one.
    let something = |folder: &Path| folder.read_dir().is_ok_and(|mut files| files.next().is_some());
    let held_out = if something(&dir.join("held-out")) {
        open("held-out")?
    } else {
        let nothing = Packer::new(window, Remainder::Drop).finish();
        Dataset::from_packed(nothing, tokenizer.vocab_size())?
    };
    Ok((open("train")?, held_out))
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
        Some(name) => Some(id(name).ok_or_else(|| {
            let tokenizer = recipe.data.tokenizer.display();
            recipe.fault(format!(
                "model.mask_token is `{name}`, a token that {tokenizer} does not have"
            ))
        })?),
        None => of_checkpoint.as_ref().and_then(Config::mask_token_id).or_else(|| id(mask)),
    };
    let bos = of_checkpoint.as_ref().and_then(|c| c.bos_token_id).or_else(|| id(bos));
    let pad =
        of_checkpoint.as_ref().and_then(|c| c.pad_token_id).or_else(|| id(pad)).unwrap_or(eos_id);
    Ok(SpecialIds { bos, pad, eos: eos_id, mask })
}

/// The model a run starts with: a checkpoint of the run itself, one that the recipe names, or a fresh one.
///
/// # Errors
/// Errors if a checkpoint is damaged or its vocabulary is not the tokenizer's.
pub(crate) fn build_model(
    recipe: &Recipe,
    data: &RunData,
    resumed: Option<&Path>,
    device: &Device,
) -> Result<Transformer> {
    const DTYPE: DType = DType::F32;
    let Some(from) = resumed.or(recipe.model.from.as_deref()) else {
        return Ok(Transformer::init(fresh_config(recipe, data)?, recipe.seed, DTYPE, device)?);
    };
    if resumed.is_none() {
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
    let max = weights.config().max_position_embeddings;
    if max < recipe.data.window {
        return refuse(format!(
            "the model has {max} positions, data.window is {}",
            recipe.data.window
        ));
    }
    if resumed.is_none()
        && !recipe.model.allow_mode_mismatch
        && let Err(reason) = check_mode(recipe, data, weights.config().mode)
    {
        return refuse(reason);
    }
    let model = Transformer::trainable(&weights, DTYPE, device)?;
    if resumed.is_none()
        && recipe.model.mask_embedding == MaskEmbedding::Mean
        && let Some(mask) = data.special.mask
    {
        set_mask_embedding(&model, mask, recipe.seed)?;
    }
    Ok(model)
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

fn fresh_config(recipe: &Recipe, data: &RunData) -> Result<Config> {
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

/// Lets the MASK row start as [`mean_row`], which is choice 10's option.
fn set_mask_embedding(model: &Transformer, mask: u32, seed: u64) -> Result<()> {
    let table = &model.parameters()?.embed;
    let (_, width) = table.dims2()?;
    let mut values = table.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    let mut rng = stream(seed, Purpose::MaskEmbedding, 0, 0);
    let row = mean_row(width, [Ok(values.clone())], || uniform_f32(&mut rng) - 0.5)?;
    values[mask as usize * width..][..width].copy_from_slice(&row);
    let filled = candle_core::Tensor::from_vec(values, table.shape(), &Device::Cpu)?;
    Ok(table.set(&filled.to_dtype(table.dtype())?.to_device(table.device())?)?)
}

#[cfg(test)]
mod tests;

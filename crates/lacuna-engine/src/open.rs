//! Opens a checkpoint for use: weights, tokenizer, mode, device.

use candle_core::Device;
use lacuna_checkpoint::{
    Attention, CachePrecision, Config, Mode, Predicts, StorageDtype, Weights, Workload,
};
use lacuna_model::Transformer;
use lacuna_samplers::{Sampling, Vocabulary};
use lacuna_text::{ChatTemplate, ModelFiles, Settings, Tokenizer};
use serde_json::Value;
use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use crate::advice::{Advice, Knob};
use crate::error::{Error, Result, unsupported};
use crate::memory::{self, MemoryLimit};
use crate::session::SharedDecoding;

/// Settings for opening a checkpoint.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// The format in which matrices are kept in memory; default: as the file stores them. Formats
    /// that the file does not have are made while it opens. Activations are f32 on the CPU, of this
    /// type elsewhere.
    pub dtype: Option<StorageDtype>,
    /// The device that it runs on; default: the CPU.
    pub device: Option<Device>,
    /// The memory that it may take on the CPU.
    pub memory: MemoryLimit,
    /// The precision in which a decode keeps keys and values (as they are computed, so that tokens are exact).
    pub cache: CachePrecision,
    /// The work that memory is planned for, whose `cache` is taken from here; default: decoding in 2048 tokens, or in all that the
    /// model has.
    pub work: Option<Workload>,
}

/// Spellings of the token that stands for one not yet written.
const MASK_NAMES: [&str; 8] = [
    "<[MASK_TOKEN]>",
    "<[MASK▁TOKEN]>",
    "<|mask|>",
    "<|MASK|>",
    "|<MASK>|",
    "<mask>",
    "[MASK]",
    "<|mdm_mask|>",
];

/// Spellings of the end of a turn.
const END_OF_TURN_NAMES: [&str; 7] = [
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end|>",
    "<end_of_turn>",
    "<|end_of_turn|>",
    "<|EOT|>",
];

/// The id of a token with one of the usual names of MASK, without opening the model.
pub fn usual_mask(weights: &Weights) -> Option<u32> {
    let rows = weights.config().vocab_size;
    weights.token_ids(&MASK_NAMES).into_iter().flatten().find(|id| (*id as usize) < rows)
}

/// A checkpoint opened for use.
#[derive(Clone, Debug)]
pub struct Model {
    /// The network.
    pub transformer: Arc<Transformer>,
    /// The machine that its passes are computed on, where they are not by tensors.
    pub(crate) decoding: Option<SharedDecoding>,
    /// The tokenizer, if the checkpoint brings one.
    pub tokenizer: Option<Arc<Tokenizer>>,
    path: PathBuf,
    settings: Settings,
    fallbacks: BTreeMap<StorageDtype, Vec<String>>,
    notes: Vec<Advice>,
    /// Bytes of everything but keys and values, as planned.
    taken: u64,
    /// The bytes of the tokens, once a constraint asked for them.
    pub(crate) vocabulary: Arc<OnceLock<Arc<Vocabulary>>>,
}

impl Model {
    /// Opens a Hugging Face directory or a `.gguf` file.
    ///
    /// # Errors
    /// Errors name the file and what is wrong: missing, damaged, of another architecture, or a tokenizer with
    /// more tokens than the model embeds.
    pub fn open(path: &Path, options: &OpenOptions) -> Result<Self> {
        Self::exists(path)?;
        let weights = Weights::open(path)?;
        let device = options.device.clone().unwrap_or(Device::Cpu);
        let mut taken = 0;
        let transformer = if device.is_cpu() {
            let most = weights.config().max_position_embeddings;
            let mut work = options.work.unwrap_or(Workload::decoding(2048.min(most)));
            // One text is never longer than the model's positions: it is refused, or shown in part. A batch may be.
            if work.rows <= work.context {
                work.rows = work.rows.min(most);
            }
            work.context = work.context.min(most);
            if weights.config().attention == Attention::Full {
                // All of a canvas may be masked.
                work.logit_rows = work.logit_rows.max(work.context);
            }
            work.logit_rows = work.logit_rows.min(2 * most.max(256));
            work.cache = options.cache;
            memory::check(path, &weights, options.dtype, work, options.memory)?;
            let planned = weights.memory(options.dtype, work);
            taken = planned.total().saturating_sub(planned.cache);
            match options.dtype {
                None => Transformer::mapped(&weights)?,
                Some(dtype) => Transformer::mapped_in(&weights, dtype)?,
            }
        } else {
            let wanted = options.dtype.unwrap_or(StorageDtype::BF16);
            let dtype = wanted.to_candle().ok_or_else(|| {
                unsupported(format!(
                    "{} {wanted}: quantized weights run on the CPU; use bf16, f16 or f32 here",
                    Knob::Dtype
                ))
            })?;
            Transformer::resident(&weights, dtype, &device)?
        };
        let transformer = transformer.with_cache_precision(options.cache)?;
        let wanted = options.dtype.filter(|_| device.is_cpu());
        let fallbacks = wanted.map(|dtype| weights.fallbacks(dtype)).unwrap_or_default();
        let model = Self::assembled(path, &weights, transformer, None)?;
        Ok(Self { fallbacks, taken, ..model })
    }

    /// Errors where there is nothing, and says what a model is.
    pub(crate) fn exists(path: &Path) -> Result<()> {
        if path.exists() {
            return Ok(());
        }
        let reason = "no such file or directory; a model is a folder with config.json, \
                      model.safetensors and tokenizer.json, or a .gguf file";
        Err(Error::NotFound { path: path.to_owned(), reason: reason.into() })
    }

    /// A model with what its files say besides weights.
    pub(crate) fn assembled(
        path: &Path,
        weights: &Weights,
        transformer: Transformer,
        note: Option<Advice>,
    ) -> Result<Self> {
        let settings = open_settings(path, weights)?;
        let tokenizer = open_tokenizer(path, weights, &settings)?;
        let (transformer, tokenizer) = (Arc::new(transformer), tokenizer.map(Arc::new));
        let notes = tokenizer.iter().flat_map(|tokenizer| tokenizer.notes());
        let mut notes: Vec<Advice> = notes.map(|note| note.as_str().into()).collect();
        notes.extend(half_named(transformer.config(), tokenizer.as_deref()));
        notes.extend(note);
        Ok(Self {
            transformer,
            decoding: None,
            tokenizer,
            path: path.to_owned(),
            settings,
            fallbacks: BTreeMap::new(),
            notes,
            taken: 0,
            vocabulary: Arc::default(),
        })
    }

    /// A model that is in memory already, such as one that is being trained, with its tokenizer and none of the settings
    /// that files would bring.
    pub fn in_memory(transformer: Transformer, tokenizer: Arc<Tokenizer>) -> Self {
        Self {
            transformer: Arc::new(transformer),
            decoding: None,
            tokenizer: Some(tokenizer),
            path: PathBuf::new(),
            settings: Settings::default(),
            fallbacks: BTreeMap::new(),
            notes: Vec::new(),
            taken: 0,
            vocabulary: Arc::default(),
        }
    }

    /// Matrices that are not kept in the format asked for, by the format that they have instead: their rows are no
    /// whole number of its blocks.
    pub fn fallbacks(&self) -> &BTreeMap<StorageDtype, Vec<String>> {
        &self.fallbacks
    }

    /// The id of MASK: the configuration's, else that of a special token of the tokenizer with one of the usual names.
    pub fn mask_id(&self) -> Option<u32> {
        let config = self.config();
        // An autoregressive checkpoint may name one although it is not used.
        let extra = config.extra.get("mask_token_id").and_then(Value::as_u64);
        let extra = extra.and_then(|id| u32::try_from(id).ok());
        let tokenizer = self.tokenizer.as_deref();
        let named = MASK_NAMES.iter().filter_map(|name| {
            let tokenizer = tokenizer?;
            tokenizer.token_to_id(name).filter(|id| tokenizer.is_special(*id))
        });
        let mut found = config.mask_token_id().into_iter().chain(extra).chain(named);
        found.find(|id| (*id as usize) < config.vocab_size)
    }

    /// The folder or file that it was opened from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The part of a limit that is left for keys and values, once the model itself and a pass have
    /// what they need.
    pub fn memory_left(&self, limit: MemoryLimit) -> MemoryLimit {
        match limit {
            MemoryLimit::Bytes(bytes) => MemoryLimit::Bytes(bytes.saturating_sub(self.taken)),
            other => other,
        }
    }

    /// The model's configuration.
    pub fn config(&self) -> &Config {
        self.transformer.config()
    }

    /// Tells whether the checkpoint says it is a block-diffusion model.
    pub fn is_block_diffusion(&self) -> bool {
        matches!(self.config().mode, Mode::BlockDiffusion { .. })
    }

    /// Tells whether the model reads a token off the position before it, also where it fills in masked ones: such a one
    /// verifies no drafts.
    pub fn is_shifted(&self) -> bool {
        self.config().predicts == Predicts::Next
    }

    /// The chat template that the checkpoint brings: in its folder or its GGUF metadata.
    ///
    /// # Errors
    /// Errors if a file holds no template.
    pub fn chat_template(&self) -> Result<Option<ChatTemplate>> {
        let mut settings = self.settings.clone();
        if !self.path.is_dir() {
            let config = self.config();
            let ids = [
                ("bos_token", config.bos_token_id),
                ("eos_token", config.eos_token_ids.first().copied()),
                ("pad_token", config.pad_token_id),
            ];
            let spelling = |id: Option<u32>| self.tokenizer.as_ref()?.id_to_token(id?);
            for (name, id) in ids {
                if let Some(token) = spelling(id) {
                    settings.tokens.entry(name).or_insert_with(|| token.into());
                }
            }
        }
        Ok(ChatTemplate::from_settings(&settings)?)
    }

    /// The ids that end a text: the ends that the configuration names, else the `eos_token` of the
    /// tokenizer's files.
    pub fn ends_of_text(&self) -> Vec<u32> {
        let config = self.config();
        if !config.eos_token_ids.is_empty() {
            return config.eos_token_ids.clone();
        }
        let spellings = self.settings.eos_spellings.iter();
        let ids = spellings.filter_map(|spelling| self.tokenizer.as_ref()?.token_to_id(spelling));
        ids.filter(|id| (*id as usize) < config.vocab_size).collect()
    }

    /// The ids that end an answer in a conversation: the ends of text of `config.json` and
    /// `generation_config.json`, the `eos_token` of the tokenizer's files, and the token that the
    /// chat template writes after what an assistant said. In a GGUF file also a special token with
    /// one of the names that ends of turns have, as in llama.cpp.
    pub fn answer_ends(&self, format: &ChatTemplate) -> Vec<u32> {
        let config = self.config();
        let mut ends = config.eos_token_ids.clone();
        ends.extend(&self.settings.generation.eos);
        ends.extend(self.eos_of_config());
        if let Some(tokenizer) = &self.tokenizer {
            let named = self.settings.eos_spellings.iter();
            ends.extend(named.filter_map(|spelling| tokenizer.token_to_id(spelling)));
            ends.extend(format.end_of_turn(tokenizer));
            let usual = END_OF_TURN_NAMES.iter().filter(|_| !self.path.is_dir());
            let usual = usual.filter_map(|name| tokenizer.token_to_id(name));
            ends.extend(usual.filter(|id| tokenizer.is_special(*id)));
        }
        let mut seen = std::collections::HashSet::new();
        ends.retain(|id| (*id as usize) < config.vocab_size && seen.insert(*id));
        ends
    }

    /// The ends of text of a folder's own `config.json`, which those of `generation_config.json` hide elsewhere.
    fn eos_of_config(&self) -> Vec<u32> {
        let text = lacuna_files::read_text(&self.path.join("config.json"), 1 << 20);
        let text = text.unwrap_or_default();
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        match &serde_json::from_str::<Value>(&text).unwrap_or_default()["eos_token_id"] {
            Value::Array(ids) => ids.iter().filter_map(id).collect(),
            one => id(one).into_iter().collect(),
        }
    }

    /// The law by which the checkpoint wants its text drawn, if its `generation_config.json` asks
    /// for anything else than the most probable token each time. As in transformers: without
    /// `do_sample` only the repetition penalty counts, with it the 50 most probable tokens are
    /// drawn from where the file does not say how many.
    ///
    /// # Errors
    /// Errors if a value is out of its range; names the file.
    pub fn sampling(&self) -> Result<Option<Sampling>> {
        let generation = &self.settings.generation;
        let part = |key: &str, value: Option<f64>| match value {
            Some(value) if value > 1.0 => {
                let path = self.path.join("generation_config.json");
                let reason = format!("{key} is {value}, expected 0 to 1");
                Err(Error::from(lacuna_text::Error::SideFile { path, reason }))
            }
            value => Ok(value.filter(|value| *value > 0.0)),
        };
        let mut sampling = Sampling::default();
        if let Some(penalty) = generation.repetition_penalty {
            sampling.repetition_penalty = penalty;
        }
        if generation.do_sample {
            sampling.temperature = generation.temperature.unwrap_or(1.0);
            let most = usize::try_from(generation.top_k.unwrap_or(50)).unwrap_or(usize::MAX);
            sampling.top_k = NonZeroUsize::new(most);
            sampling.top_p = part("top_p", generation.top_p)?.filter(|p| *p < 1.0);
            sampling.min_p = part("min_p", generation.min_p)?;
        }
        Ok(Some(sampling).filter(|sampling| *sampling != Sampling::default()))
    }

    /// Things that the checkpoint's files say and that could not be followed, a sentence each.
    pub fn notes(&self) -> &[Advice] {
        &self.notes
    }

    /// The form in which conversations with this model are written: the checkpoint's own template,
    /// else, for block diffusion, the format of Seed-Coder and Stable-DiffCoder.
    ///
    /// # Errors
    /// Errors if the checkpoint's template is damaged, or if there is none and the built-in format is not for
    /// this model.
    pub fn chat_format(&self) -> Result<ChatTemplate> {
        if let Some(template) = self.chat_template()? {
            return Ok(template);
        }
        let named = self.tokenizer()?.token_to_id("<[end▁of▁sentence]>").is_some();
        if self.is_block_diffusion() && named {
            return Ok(ChatTemplate::seed_coder());
        }
        Err(unsupported(format!(
            "the checkpoint has no chat template (chat_template.jinja, or in tokenizer_config.json); it is not made \
             to converse: use {}",
            Knob::Generate
        )))
    }

    /// The tokenizer.
    ///
    /// # Errors
    /// Errors if the checkpoint has none.
    pub fn tokenizer(&self) -> Result<&Tokenizer> {
        self.tokenizer.as_deref().ok_or_else(|| {
            unsupported(format!(
                "the checkpoint has no tokenizer.json; give token ids with {}",
                Knob::PromptIds
            ))
        })
    }
}

/// The note about an autoregressive checkpoint that names MASK, as if it were made to fill it in.
fn half_named(config: &Config, tokenizer: Option<&Tokenizer>) -> Option<Advice> {
    /// Names that only diffusion models have; those of a model trained here say what they are.
    const OF_DIFFUSION: [&str; 3] = ["<|MASK|>", "|<MASK>|", "<|mask|>"];
    let rows = config.vocab_size as u64;
    let named = config.extra.get("mask_token_id").and_then(Value::as_u64).filter(|id| *id < rows);
    let spelt = || {
        let tokenizer = tokenizer?;
        let id = |name: &&str| tokenizer.token_to_id(name).filter(|id| tokenizer.is_special(*id));
        OF_DIFFUSION.iter().find_map(id).map(u64::from)
    };
    let id = named.or_else(spelt)?;
    (config.mode == Mode::Autoregressive).then(|| {
        format!(
            "the checkpoint names MASK ({id}) and no block size, and is decoded token by token; if it was trained on \
             blocks of B, {} B {} decodes it so",
            Knob::BlockSize,
            Knob::AllowModeMismatch
        )
        .into()
    })
}

/// A checkpoint's tokenizer, with the tokens that its other files name.
pub(crate) fn open_tokenizer(
    path: &Path,
    weights: &Weights,
    settings: &Settings,
) -> Result<Option<Tokenizer>> {
    let Some(json) = weights.tokenizer_json()? else { return Ok(None) };
    let (rows, file) = (weights.config().vocab_size, tokenizer_file(path));
    Ok(Some(Tokenizer::of_checkpoint(json.as_bytes(), rows, settings, &file)?))
}

/// The settings in the files beside the weights, or those that a GGUF file carries.
pub(crate) fn open_settings(path: &Path, weights: &Weights) -> Result<Settings> {
    let files = if path.is_dir() {
        ModelFiles::of_tokenizer(path)?
    } else {
        let mut files = ModelFiles::default();
        for (name, text) in weights.carried_files()? {
            files.insert(name, text);
        }
        if let Some(template) = weights.chat_template() {
            files.insert("chat_template.jinja", template);
        }
        files
    };
    Ok(Settings::read(&files, path)?)
}

/// The place of a checkpoint's tokenizer.
pub(crate) fn tokenizer_file(checkpoint: &Path) -> PathBuf {
    if checkpoint.is_dir() { checkpoint.join("tokenizer.json") } else { checkpoint.to_owned() }
}

/// The device called `cpu`, `cuda` or `metal`.
///
/// # Errors
/// Errors if this build has no CUDA or Metal or the machine no device, and says which.
pub fn select_device(name: &str) -> Result<Device> {
    let device = |message: String| Error::Device(message.into());
    let kind = if name == "cuda" { "CUDA" } else { "Metal" };
    let opened = match name {
        "cpu" => return Ok(Device::Cpu),
        "cuda" if cfg!(feature = "cuda") => Device::new_cuda(0),
        "metal" if cfg!(feature = "metal") => Device::new_metal(0),
        "cuda" | "metal" => {
            return Err(device(format!(
                "{0} {name}: this build has no {kind}; {1}, or use {0} cpu",
                Knob::Device,
                match name {
                    "cuda" => {
                        "`cargo xtask cuda build` makes one with kernels for NVIDIA's cards, --features cuda one with candle's"
                    }
                    _ => "build with --features metal",
                }
            )));
        }
        other => {
            return Err(device(format!("{} {other}: expected cpu, cuda or metal", Knob::Device)));
        }
    };
    opened.map_err(|e| {
        let reason = lacuna_kernels::message(&e);
        device(format!("{} {name}: no {kind} device could be opened: {reason}", Knob::Device))
    })
}

//! Opening a checkpoint: weights, tokenizer, mode, device.

use candle_core::Device;
use lacuna_data::{ChatTemplate, Tokenizer};
use lacuna_model::{Config, Mode, StorageDtype, Transformer, Weights, Work};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::memory::{self, MemoryLimit};

/// How a checkpoint is opened.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// How matrices are kept in memory; default: as the file stores them. Formats that the file does not have
    /// are made while it opens. Activations are f32 on the CPU, of this type elsewhere.
    pub dtype: Option<StorageDtype>,
    /// Where it runs; default: the CPU.
    pub device: Option<Device>,
    /// What it may take on the CPU.
    pub memory: MemoryLimit,
    /// What memory is planned for; default: decoding in 2048 tokens, or in all that the model has.
    pub work: Option<Work>,
}

/// How tokenizers spell the token that stands for one not yet written.
const MASK_NAMES: [&str; 7] = [
    "<[MASK_TOKEN]>",
    "<[MASK▁TOKEN]>",
    "<|mask|>",
    "<|MASK|>",
    "<mask>",
    "[MASK]",
    "<|mdm_mask|>",
];

/// A checkpoint opened for use.
#[derive(Clone, Debug)]
pub struct Model {
    /// The network.
    pub transformer: Arc<Transformer>,
    /// The tokenizer, if the checkpoint brings one.
    pub tokenizer: Option<Arc<Tokenizer>>,
    path: PathBuf,
    fallbacks: BTreeMap<StorageDtype, Vec<String>>,
}

impl Model {
    /// Opens a Hugging Face directory or a `.gguf` file.
    ///
    /// # Errors
    /// Errors name the file and what is wrong: missing, damaged, of another architecture, or a tokenizer with
    /// more tokens than the model embeds.
    pub fn open(path: &Path, options: &OpenOptions) -> Result<Self> {
        if !path.exists() {
            let reason = "no such file or directory; a model is a folder with config.json, \
                          model.safetensors and tokenizer.json, or a .gguf file";
            return Err(Error::NoModel { path: path.to_owned(), reason: reason.into() });
        }
        let weights = Weights::open(path)?;
        let device = options.device.clone().unwrap_or(Device::Cpu);
        let transformer = if device.is_cpu() {
            let most = weights.config().max_position_embeddings;
            let mut work = options.work.unwrap_or(Work::decoding(2048.min(most)));
            work.context = work.context.min(most);
            memory::check(path, &weights, options.dtype, work, options.memory)?;
            match options.dtype {
                None => Transformer::mapped(&weights)?,
                Some(dtype) => Transformer::mapped_in(&weights, dtype)?,
            }
        } else {
            let wanted = options.dtype.unwrap_or(StorageDtype::BF16);
            let dtype = wanted.to_candle().ok_or_else(|| {
                Error::Request(format!(
                    "--dtype {wanted}: quantized weights run on the CPU; use bf16, f16 or f32 here"
                ))
            })?;
            Transformer::resident(&weights, dtype, &device)?
        };
        let tokenizer = open_tokenizer(path, &weights)?;
        let (transformer, tokenizer) = (Arc::new(transformer), tokenizer.map(Arc::new));
        let wanted = options.dtype.filter(|_| device.is_cpu());
        let fallbacks = wanted.map(|dtype| weights.fallbacks(dtype)).unwrap_or_default();
        Ok(Self { transformer, tokenizer, path: path.to_owned(), fallbacks })
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

    /// What the model is.
    pub fn config(&self) -> &Config {
        self.transformer.config()
    }

    /// Whether the checkpoint says it is a block-diffusion model.
    pub fn is_block_diffusion(&self) -> bool {
        matches!(self.config().mode, Mode::BlockDiffusion { .. })
    }

    /// The chat template that the checkpoint brings: in its folder or its GGUF metadata.
    ///
    /// # Errors
    /// Errors if a file is unreadable or holds no template.
    pub fn chat_template(&self) -> Result<Option<ChatTemplate>> {
        if self.path.is_dir() {
            return Ok(ChatTemplate::from_folder(&self.path)?);
        }
        let Some(source) = Weights::inspect(&self.path)?.chat_template() else { return Ok(None) };
        let config = self.config();
        let ids = [
            ("bos_token", config.bos_token_id),
            ("eos_token", config.eos_token_ids.first().copied()),
            ("pad_token", config.pad_token_id),
        ];
        let spelling = |id: Option<u32>| self.tokenizer.as_ref()?.id_to_token(id?);
        let tokens: Map<String, Value> = ids
            .into_iter()
            .filter_map(|(name, id)| Some((name.to_owned(), Value::from(spelling(id)?))))
            .collect();
        let template = ChatTemplate::from_source(&source, tokens);
        Ok(Some(template.map_err(|error| error.in_file(&self.path))?))
    }

    /// How conversations with this model are written: the checkpoint's own template, else, for block
    /// diffusion, the format of Seed-Coder and Stable-DiffCoder.
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
        let message = "the checkpoint has no chat template (chat_template.jinja, or in \
                       tokenizer_config.json); it is not made to converse: use `lacuna generate`";
        Err(Error::Request(message.into()))
    }

    /// The tokenizer.
    ///
    /// # Errors
    /// Errors if the checkpoint has none.
    pub fn tokenizer(&self) -> Result<&Tokenizer> {
        self.tokenizer.as_deref().ok_or_else(|| {
            Error::Request(
                "the checkpoint has no tokenizer.json; give token ids with --prompt-ids".into(),
            )
        })
    }
}

fn open_tokenizer(path: &Path, weights: &Weights) -> Result<Option<Tokenizer>> {
    let Some(json) = weights.tokenizer_json()? else { return Ok(None) };
    let rows = weights.config().vocab_size;
    Ok(Some(Tokenizer::of_model(json.as_bytes(), rows, &tokenizer_file(path))?))
}

/// Where a checkpoint's tokenizer stands.
pub(crate) fn tokenizer_file(checkpoint: &Path) -> PathBuf {
    if checkpoint.is_dir() { checkpoint.join("tokenizer.json") } else { checkpoint.to_owned() }
}

/// The device called `cpu` or `cuda`.
///
/// # Errors
/// Errors if this build has no CUDA or the machine no device, and says which.
pub fn select_device(name: &str) -> Result<Device> {
    match name {
        "cpu" => Ok(Device::Cpu),
        "cuda" if cfg!(feature = "cuda") => Device::new_cuda(0)
            .map_err(|e| Error::Device(format!("--device cuda: no CUDA device could be opened: {}", lacuna_kernels::message(&e)))),
        "cuda" => Err(Error::Device(
            "--device cuda: this build has no CUDA; build with --features cuda, or use --device cpu".into(),
        )),
        other => Err(Error::Device(format!("--device {other}: expected cpu or cuda"))),
    }
}

//! Opening a checkpoint: weights, tokenizer, mode, device.

use candle_core::{DType, Device};
use lacuna_data::Tokenizer;
use lacuna_model::{Config, Mode, Transformer, Weights};
use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, Result};

/// How a checkpoint is opened.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// Element type of the weights; default: kept as the file stores them.
    pub dtype: Option<DType>,
    /// Where it runs; default: the CPU.
    pub device: Option<Device>,
}

/// A checkpoint opened for use.
#[derive(Clone, Debug)]
pub struct Model {
    /// The network.
    pub transformer: Arc<Transformer>,
    /// The tokenizer, if the checkpoint brings one.
    pub tokenizer: Option<Arc<Tokenizer>>,
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
        let transformer = match (options.dtype, &device) {
            (None, Device::Cpu) => Transformer::mapped(&weights)?,
            (dtype, device) => {
                let default = if device.is_cpu() { DType::F32 } else { DType::BF16 };
                Transformer::resident(&weights, dtype.unwrap_or(default), device)?
            }
        };
        let tokenizer = open_tokenizer(path, &weights)?;
        Ok(Self { transformer: Arc::new(transformer), tokenizer: tokenizer.map(Arc::new) })
    }

    /// What the model is.
    pub fn config(&self) -> &Config {
        self.transformer.config()
    }

    /// Whether the checkpoint says it is a block-diffusion model.
    pub fn is_block_diffusion(&self) -> bool {
        matches!(self.config().mode, Mode::BlockDiffusion { .. })
    }

    /// The tokenizer.
    ///
    /// # Errors
    /// Errors if the checkpoint has none.
    pub fn tokenizer(&self) -> Result<&Tokenizer> {
        self.tokenizer.as_deref().ok_or_else(|| {
            Error::Request("the checkpoint has no tokenizer.json; give token ids with --prompt-ids".into())
        })
    }
}

fn open_tokenizer(path: &Path, weights: &Weights) -> Result<Option<Tokenizer>> {
    let (file, tokenizer) = if path.is_dir() {
        let file = path.join("tokenizer.json");
        if !file.exists() {
            return Ok(None);
        }
        let tokenizer = Tokenizer::from_file(&file)?;
        (file, tokenizer)
    } else {
        let Some(json) = weights.tokenizer_json()? else { return Ok(None) };
        (path.to_owned(), Tokenizer::from_bytes(json.as_bytes())?)
    };
    let (rows, ids) = (weights.config().vocab_size, tokenizer.vocab_size());
    if ids > rows {
        let reason = format!(
            "the tokenizer has {ids} tokens, the model embeds {rows}: they do not belong together"
        );
        return Err(Error::Tokenizer { path: file, reason });
    }
    Ok(Some(tokenizer))
}

/// The device called `cpu` or `cuda`.
///
/// # Errors
/// Errors if this build has no CUDA or the machine no device, and says which.
pub fn select_device(name: &str) -> Result<Device> {
    match name {
        "cpu" => Ok(Device::Cpu),
        "cuda" if cfg!(feature = "cuda") => Device::new_cuda(0)
            .map_err(|e| Error::Device(format!("--device cuda: no CUDA device could be opened: {e}"))),
        "cuda" => Err(Error::Device(
            "--device cuda: this build has no CUDA; build with --features cuda, or use --device cpu".into(),
        )),
        other => Err(Error::Device(format!("--device {other}: expected cpu or cuda"))),
    }
}

//! Holds the flags of every command that opens a model.

use anyhow::Result;
use candle_core::Device;
use lacuna::checkpoint::{StorageDtype, Weights, Workload};
use lacuna::{CachePrecision, MemoryLimit, Model, OnMachine, OpenOptions, select_device};
use lacuna_device::Opened;
use std::path::PathBuf;

use super::Usage;
use super::flags::flag;
use super::progress::{Progress, downloads, shows_progress};
use super::sizes::ByteSize;

/// Flags that say where the model is and how it is loaded.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Model")]
pub(crate) struct ModelArgs {
    /// A folder in Hugging Face layout, a .gguf file, or hf:OWNER/NAME[@REVISION]
    #[arg(long, short, value_name = "M", env = "LACUNA_MODEL")]
    pub(crate) model: PathBuf,
    /// Format of weights in memory: f32, bf16, f16, q8_0, q6_k, q5_1, q5_0, q4_1, q4_k, q4_0;
    /// default: as the file stores them
    #[arg(long, value_name = "DTYPE", value_parser = kept_dtype)]
    pub(crate) dtype: Option<StorageDtype>,
    /// Device that the model runs on
    #[arg(long, default_value = "cpu", value_parser = ["cpu", "cuda", "metal"])]
    pub(crate) device: String,
    /// Memory to plan with: 8GB, or unlimited for no check; default: what the machine has available
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true, value_parser = memory_limit)]
    pub(crate) memory: Option<MemoryLimit>,
}

impl ModelArgs {
    /// The positions of the model, for planning its work; of one that can't be opened, opening it says why.
    pub(crate) fn positions(&self) -> Result<usize> {
        let path = lacuna::locate(&self.model, &downloads(shows_progress()))?;
        let weights = Weights::inspect(&path);
        Ok(weights.map_or(usize::MAX, |weights| weights.config().max_position_embeddings))
    }

    /// Opens the model for decoding, and says on stderr which matrices could not take `--dtype`. With kernels of our own in
    /// this build a card decodes by them.
    pub(crate) fn open(&self, work: Workload) -> Result<Model> {
        let card = (self.device == "cuda" && lacuna_device::has_kernels())
            .then(|| lacuna_device::open(0))
            .transpose()?;
        let tensors = if card.is_some() { "cpu" } else { &self.device };
        self.open_on(work, select_device(tensors)?, card)
    }

    /// Opens the model for work that tensors alone do.
    pub(crate) fn open_tensors(&self, work: Workload, command: &str) -> Result<Model> {
        if self.device == "cuda" && lacuna_device::has_kernels() && !cfg!(feature = "cuda") {
            let message = format!(
                "--device cuda: `lacuna {command}` computes by tensors, and this program has kernels for decoding and \
                 training alone; leave it out, or build with --features cuda"
            );
            return Err(Usage(message).into());
        }
        self.open_on(work, select_device(&self.device)?, None)
    }

    fn open_on(&self, work: Workload, device: Device, card: Option<Opened>) -> Result<Model> {
        let options = OpenOptions {
            dtype: self.dtype,
            device: Some(device),
            memory: self.memory.unwrap_or_default(),
            cache: work.cache,
            work: Some(work),
        };
        let path = lacuna::locate(&self.model, &downloads(shows_progress()))?;
        let opening = Progress::spinning(format!("opening {}", path.display()));
        let model = match card {
            None => Model::open(&path, &options)?,
            Some(Opened { machine, card, name: _ }) => {
                Model::open_on(&path, &options, OnMachine { machine, card, cache_tokens: None })?
            }
        };
        drop(opening);
        for ignored in &model.config().ignored_ids {
            let ignored = lacuna_files::printable(ignored);
            note!("note: {ignored} is no token of this model and is ignored");
        }
        for note in model.notes() {
            note!("note: {}", lacuna_files::printable(&note.spelled(flag)));
        }
        for (kept, names) in model.fallbacks() {
            let wanted = self.dtype.map_or("", StorageDtype::name);
            note!(
                "note: {} of the matrices are {kept} and not {wanted}: their rows are no whole number of its blocks \
                 ({} …)",
                names.len(),
                names[0]
            );
        }
        Ok(model)
    }
}

/// The formats that weights can be kept in.
pub(crate) fn kept_dtype(text: &str) -> Result<StorageDtype, String> {
    let known = || StorageDtype::ALL.into_iter().filter(|dtype| dtype.is_packable());
    let found = StorageDtype::from_name(text).filter(|dtype| dtype.is_packable());
    found.ok_or_else(|| {
        let names: Vec<_> = known().map(StorageDtype::name).collect();
        format!("expected one of {}", names.join(", "))
    })
}

/// The formats that keys and values can be kept in.
pub(crate) fn cache_precision(text: &str) -> Result<CachePrecision, String> {
    CachePrecision::from_name(text).ok_or_else(|| {
        let names = CachePrecision::ALL.map(CachePrecision::name);
        format!("expected one of {}", names.join(", "))
    })
}

pub(crate) fn memory_limit(text: &str) -> Result<MemoryLimit, String> {
    match text {
        "unlimited" => Ok(MemoryLimit::Unlimited),
        size => Ok(MemoryLimit::Bytes(size.parse::<ByteSize>()?.0)),
    }
}

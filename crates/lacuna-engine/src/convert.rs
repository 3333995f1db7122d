//! Converts checkpoints from one format into another, and from autoregressive to a start for block
//! diffusion.

use lacuna_checkpoint::{
    Config, Format, GgufOptions, Outgoing, SaveOptions, StorageDtype, Weights, save_gguf,
    save_safetensors,
};
use lacuna_files::{Manifest, WholeFolder};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

mod adapter;
mod block_diffusion;
mod files;
pub(crate) mod place;

pub use block_diffusion::{MaskStart, MaskToken, ToBlockDiffusion};
pub(crate) use files::CarriedFiles;

/// Settings of what [`convert`] writes.
#[derive(Clone, Debug)]
pub struct ConvertOptions {
    /// The format; default: GGUF where the target's name ends in `.gguf`, else safetensors.
    pub format: Option<Format>,
    /// The format in which matrices are stored; default: as they are (quantized ones become f32 in
    /// safetensors).
    pub dtype: Option<StorageDtype>,
    /// Safetensors with more bytes are split into shards of at most this size.
    pub max_shard_bytes: u64,
    /// Make the checkpoint a start for block-diffusion training.
    pub block_diffusion: Option<ToBlockDiffusion>,
    /// The folder of a LoRA adapter to merge into the checkpoint's matrices.
    pub adapter: Option<PathBuf>,
    /// Merge an adapter into other weights than those that it was trained beside.
    pub any_base: bool,
    /// Replace a checkpoint that stands at the target.
    pub force: bool,
}

impl Default for ConvertOptions {
    fn default() -> Self {
        let max_shard_bytes = SaveOptions::default().max_shard_bytes;
        Self {
            format: None,
            dtype: None,
            max_shard_bytes,
            block_diffusion: None,
            adapter: None,
            any_base: false,
            force: false,
        }
    }
}

/// A report of what [`convert`] wrote.
#[derive(Clone, Debug)]
pub struct Converted {
    /// The directory or the `.gguf` file.
    pub path: PathBuf,
    /// Its format.
    pub format: Format,
    /// A description of the new checkpoint.
    pub config: Config,
    /// Bytes of its tensors.
    pub bytes: u64,
    /// Matrices that could not take the format asked for, by the format that they took.
    pub fallbacks: BTreeMap<StorageDtype, Vec<String>>,
    /// Files of others in a folder that was replaced, under the names that they have now; those that kept theirs are
    /// not told.
    pub renamed: Vec<PathBuf>,
}

/// Writes the checkpoint at `from` to `to`, complete or not at all.
///
/// Tensors pass through a few rows at a time, and bit for bit where their format stays; those that an adapter is merged
/// into are computed in f32, one at a time. The tokenizer, the chat
/// template and the generation settings go along, whichever way. `progress` gets bytes written and bytes in all.
///
/// # Errors
/// If the source is damaged, something stands at the target, the target's format can't hold what is asked for,
/// or the disk refuses; nothing half written is left then.
pub fn convert(
    from: &Path,
    to: &Path,
    options: &ConvertOptions,
    progress: &dyn Fn(u64, u64),
) -> Result<Converted> {
    let format = options.format.unwrap_or_else(|| format_of(to));
    if let (Format::Safetensors, Some(dtype)) = (format, options.dtype)
        && dtype.is_quantized()
    {
        let reason = format!("safetensors hold no {dtype}; write a .gguf file, or use bf16 or f16");
        return Err(Error::Request(reason));
    }
    place::check(from, to, format, options.force)?;
    let weights = Weights::open(from)?;
    let mut config = weights.config().clone();
    let mut side = CarriedFiles::read(from, &weights)?;
    if format == Format::Gguf {
        side.check_tokenizer()?;
    }
    let adapter = options.adapter.as_deref();
    let adapter = adapter
        .map(|dir| adapter::open(dir, &weights, &mut config, options.any_base))
        .transpose()?;
    let rows = match &options.block_diffusion {
        Some(to) => block_diffusion::apply(&weights, &mut config, &mut side, to)?,
        None => Vec::new(),
    };
    let tensors: Vec<Outgoing<'_>> = weights
        .outgoing()
        .map(|tensor| match &adapter {
            Some(adapter) => adapter::merged(tensor, &weights, adapter),
            None => tensor,
        })
        .map(|tensor| block_diffusion::with_rows(tensor, &rows))
        .collect::<Result<_>>()?;

    let size = |tensor: &Outgoing<'_>| {
        tensor.stored_as(format, options.dtype).bytes_of(tensor.shape()).unwrap_or(0) as u64
    };
    let total = tensors.iter().map(size).sum();
    let fallbacks = fallbacks(&tensors, format, options.dtype);
    let written = Cell::new(0u64);
    let observer = |bytes: usize| {
        written.set(written.get() + bytes as u64);
        progress(written.get(), total);
    };
    let observed = tensors.into_iter().map(|tensor| tensor.observed(&observer));
    let mut renamed = Vec::new();
    match format {
        Format::Gguf => {
            let name = place::name(from, to);
            let (carried, tokenizer) = (side.for_gguf(), side.tokenizer_for_gguf()?);
            let gguf = GgufOptions {
                dtype: options.dtype,
                name: &name,
                tokenizer_json: tokenizer.as_deref(),
                chat_template: side.chat_template.as_deref(),
                files: &carried,
                metadata: side.metadata.as_ref(),
            };
            save_gguf(to, &config, observed, &gguf)?;
        }
        Format::Safetensors => {
            let place = WholeFolder::beside(to)?;
            side.write(place.path(), &config)?;
            let dtype = options.dtype.map(|d| d.to_candle().expect("quantized ones are refused"));
            let save = SaveOptions { dtype, max_shard_bytes: options.max_shard_bytes };
            save_safetensors(place.path(), &config, observed, &save)?;
            Manifest::of(place.path())?.write(place.path())?;
            match options.force {
                true => renamed = place.replace(place::is_of_a_checkpoint)?,
                false => place.publish()?,
            }
        }
    }
    Ok(Converted { path: to.to_owned(), format, config, bytes: total, fallbacks, renamed })
}

fn format_of(to: &Path) -> Format {
    match to.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf")) {
        true => Format::Gguf,
        false => Format::Safetensors,
    }
}

fn fallbacks(
    tensors: &[Outgoing<'_>],
    format: Format,
    wanted: Option<StorageDtype>,
) -> BTreeMap<StorageDtype, Vec<String>> {
    let mut fallbacks: BTreeMap<StorageDtype, Vec<String>> = BTreeMap::new();
    for tensor in tensors.iter().filter(|tensor| tensor.shape().len() == 2) {
        let stored = tensor.stored_as(format, wanted);
        if wanted.is_some_and(|wanted| tensor.wanted(wanted) != stored) {
            fallbacks.entry(stored).or_default().push(tensor.name().to_owned());
        }
    }
    fallbacks
}

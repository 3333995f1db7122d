//! Writes checkpoints in Hugging Face layout.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Tensor};
use lacuna_files::{FinishedFile, WholeFile};
use lacuna_kernels::StorageDtype;
use serde_json::json;

use crate::config::Config;
use crate::directory;
use crate::error::{Error, Result};
use crate::index::Format;
use crate::outgoing::{Outgoing, checked};

/// The options of [`save_safetensors`].
#[derive(Clone, Copy, Debug)]
pub struct SaveOptions {
    /// The dtype of every tensor; `None` keeps each tensor's own, and makes quantized ones f32.
    pub dtype: Option<DType>,
    /// A checkpoint with more bytes is split into shards of at most this size.
    pub max_shard_bytes: u64,
}

impl Default for SaveOptions {
    fn default() -> Self {
        Self { dtype: None, max_shard_bytes: 5_000_000_000 }
    }
}

/// Writes `config.json` and `model.safetensors` (or shards and their index) into `dir`.
///
/// The same tensors give the same bytes. Every file is written under a temporary name, synced and
/// renamed; the weights get their names first, the configuration last. Tensors are pulled one at a
/// time, so that converting a checkpoint never holds it whole. Returns the files written.
///
/// # Errors
/// If the tensors are not exactly those of the configuration, if reading one fails, or if the disk
/// is full or refuses; nothing half written is left then.
pub fn save_safetensors<'a, T: Into<Outgoing<'a>>>(
    dir: &Path,
    config: &Config,
    tensors: impl IntoIterator<Item = T>,
    options: &SaveOptions,
) -> Result<Vec<PathBuf>> {
    let tensors = checked(dir, config, tensors)?;
    let wanted = options.dtype.map(StorageDtype::from_candle);
    let mut planned = Vec::with_capacity(tensors.len());
    for tensor in tensors {
        let floats = tensor.dtype.is_some() && wanted.is_none_or(|dtype| dtype.is_some());
        if !floats {
            let reason = "safetensors hold f64, f32, f16 or bf16: choose one of them";
            return Err(Error::tensor(dir, &tensor.name, reason));
        }
        planned.push((tensor.stored_as(Format::Safetensors, wanted.flatten()), tensor));
    }
    lacuna_files::create_folder(dir)?;
    let mut config = config.clone();
    config.dtype = most_common(planned.iter().map(|(dtype, _)| *dtype));
    let finished = write_shards(dir, planned, options.max_shard_bytes)?;
    let config = write_file(&Config::config_file(dir), config.to_json().as_bytes())?;
    publish(dir, finished, config)
}

/// A file that is complete, before it has its name.
struct Finished {
    file: FinishedFile,
    path: PathBuf,
}

impl Finished {
    fn publish(self) -> Result<PathBuf> {
        self.file.publish()?;
        Ok(self.path)
    }
}

/// Writes a small file whole.
fn write_file(path: &Path, bytes: &[u8]) -> Result<Finished> {
    let mut file = WholeFile::beside(path)?;
    file.write(bytes)?;
    Ok(Finished { file: file.finish()?, path: path.to_owned() })
}

fn most_common(dtypes: impl Iterator<Item = StorageDtype>) -> Option<StorageDtype> {
    let mut counts = BTreeMap::new();
    dtypes.for_each(|dtype| *counts.entry(dtype).or_insert(0usize) += 1);
    counts.into_iter().max_by_key(|&(_, count)| count).map(|(dtype, _)| dtype)
}

/// Splits the tensors, in the order of their names, into shards of at most `most` bytes.
fn write_shards(
    dir: &Path,
    planned: Vec<(StorageDtype, Outgoing<'_>)>,
    most: u64,
) -> Result<Vec<Finished>> {
    let size = |dtype: StorageDtype, tensor: &Outgoing<'_>| {
        dtype.bytes_of(&tensor.shape).expect("validated: below 2^48 values") as u64
    };
    let mut shards: Vec<Vec<(StorageDtype, Outgoing<'_>)>> = vec![Vec::new()];
    let (mut filled, mut total) = (0, 0);
    for (dtype, tensor) in planned {
        let bytes = size(dtype, &tensor);
        if filled > 0 && filled + bytes > most {
            shards.push(Vec::new());
            filled = 0;
        }
        (filled, total) = (filled + bytes, total + bytes);
        shards.last_mut().expect("starts with one").push((dtype, tensor));
    }
    if let [_] = shards.as_slice() {
        let shard = shards.pop().expect("there is one");
        return Ok(vec![write_shard(&dir.join(directory::SINGLE), shard)?]);
    }
    let count = shards.len();
    let mut weight_map = BTreeMap::new();
    let mut finished = Vec::with_capacity(count + 1);
    for (place, shard) in shards.into_iter().enumerate() {
        let name = format!("model-{:05}-of-{count:05}.safetensors", place + 1);
        weight_map.extend(shard.iter().map(|(_, tensor)| (tensor.name.clone(), name.clone())));
        finished.push(write_shard(&dir.join(name), shard)?);
    }
    // This is a BTreeMap and not `json!`, so that keys are sorted whatever features serde_json was built with.
    let metadata = BTreeMap::from([("total_size", total)]);
    let index = BTreeMap::from([("metadata", json!(metadata)), ("weight_map", json!(weight_map))]);
    let mut text = serde_json::to_string_pretty(&index).expect("maps of strings serialise");
    text.push('\n');
    finished.push(write_file(&dir.join(directory::INDEX), text.as_bytes())?);
    Ok(finished)
}

/// Writes one safetensors file: larger dtypes first, so that every tensor is aligned, then by name.
fn write_shard(path: &Path, shard: Vec<(StorageDtype, Outgoing<'_>)>) -> Result<Finished> {
    let shard = shard.into_iter().map(|(dtype, tensor)| (Element::Float(dtype), tensor));
    write_tensors(path, shard.collect(), r#""__metadata__":{"format":"pt"}"#)
}

/// Writes tensors that are no model's, an optimizer's state above all, as one safetensors file, whole or not at all.
///
/// # Errors
/// If a tensor is neither of a floating type nor of bytes, or the disk is full or refuses.
pub fn save_tensors(path: &Path, tensors: Vec<(String, Tensor)>) -> Result<()> {
    save_described(path, tensors, "")
}

/// [`save_tensors`] with a header that begins with `metadata`, which is JSON.
pub(crate) fn save_described(
    path: &Path,
    tensors: Vec<(String, Tensor)>,
    metadata: &str,
) -> Result<()> {
    let mut shard = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        let element = match (tensor.dtype(), StorageDtype::from_candle(tensor.dtype())) {
            (DType::U8, _) => Element::Byte,
            (_, Some(dtype)) => Element::Float(dtype),
            (other, None) => {
                let reason = format!("is of {other:?}: written are f64, f32, f16, bf16 and bytes");
                return Err(Error::tensor(path, &name, reason));
            }
        };
        shard.push((element, Outgoing::from((name, tensor))));
    }
    write_tensors(path, shard, metadata)?.publish().map(drop)
}

/// The type of a tensor's elements in a safetensors file.
#[derive(Clone, Copy)]
enum Element {
    Float(StorageDtype),
    Byte,
}

impl Element {
    fn name(self) -> String {
        match self {
            Self::Float(dtype) => dtype.name().to_ascii_uppercase(),
            Self::Byte => "U8".into(),
        }
    }

    /// Bytes of an element.
    fn width(self) -> usize {
        match self {
            Self::Float(dtype) => dtype.block().1,
            Self::Byte => 1,
        }
    }
}

fn write_tensors(
    path: &Path,
    mut shard: Vec<(Element, Outgoing<'_>)>,
    metadata: &str,
) -> Result<Finished> {
    shard.sort_by(|(a, x), (b, y)| b.width().cmp(&a.width()).then_with(|| x.name.cmp(&y.name)));
    let mut header = format!("{{{metadata}");
    let mut start = 0;
    for (element, tensor) in &shard {
        let bytes = element.width() * tensor.shape.iter().product::<usize>();
        let (name, shape) = (json!(tensor.name), json!(tensor.shape));
        let dtype = element.name();
        let comma = if header.len() > 1 { "," } else { "" };
        header.push_str(&format!(
            r#"{comma}{name}:{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{start},{}]}}"#,
            start + bytes
        ));
        start += bytes;
    }
    header.push('}');
    let padded = header.len().next_multiple_of(8);
    header.extend(std::iter::repeat_n(' ', padded - header.len()));

    let mut file = WholeFile::beside(path)?;
    file.write(&(header.len() as u64).to_le_bytes())?;
    file.write(header.as_bytes())?;
    for (element, tensor) in shard {
        match element {
            Element::Float(dtype) => {
                tensor.write(path, dtype, None, |chunk| Ok(file.write(chunk)?))?;
            }
            Element::Byte => file.write(&tensor.into_bytes()?)?,
        }
    }
    Ok(Finished { file: file.finish()?, path: path.to_owned() })
}

/// Gives the finished files their names, the configuration last, and removes an older layout beside them.
fn publish(dir: &Path, weights: Vec<Finished>, config: Finished) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::with_capacity(weights.len() + 1);
    for file in weights {
        paths.push(file.publish()?);
    }
    for stale in [directory::SINGLE, directory::INDEX].map(|name| dir.join(name)) {
        // Both layouts in one directory would name two different checkpoints.
        if !paths.contains(&stale) && stale.exists() {
            lacuna_files::remove_file(&stale)
                .map_err(|e| Error::io(&stale, "remove the older layout", e))?;
        }
    }
    paths.push(config.publish()?);
    Ok(paths)
}

//! Reads, converts and writes tensors on their way into a file, each when its turn comes.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use lacuna_kernels::StorageDtype;

use crate::config::Config;
use crate::error::{Error, Result, listed};
use crate::index::Format;
use crate::permute::permute_rows;

pub(crate) mod packed;
mod rows;

pub(crate) use rows::Rows;

/// A tensor on its way into a file, read only when its turn comes.
pub struct Outgoing<'a> {
    pub(crate) name: String,
    /// The format of its values now; `None` for integers, which no weight is.
    pub(crate) dtype: Option<StorageDtype>,
    pub(crate) shape: Vec<usize>,
    /// True if logits are made with it.
    pub(crate) makes_logits: bool,
    source: Source<'a>,
    observer: Option<&'a dyn Fn(usize)>,
}

enum Source<'a> {
    /// A tensor that is read whole.
    Tensor(Box<dyn FnOnce() -> Result<Tensor> + 'a>),
    /// A tensor of a file, read a few rows at a time.
    Stored(Rows<'a>),
}

impl<'a> Outgoing<'a> {
    /// A tensor that `read` will produce with this dtype and shape.
    pub fn new(
        name: impl Into<String>,
        dtype: StorageDtype,
        shape: impl Into<Vec<usize>>,
        read: impl FnOnce() -> Result<Tensor> + 'a,
    ) -> Self {
        let (name, shape) = (name.into(), shape.into());
        let source = Source::Tensor(Box::new(read));
        Self { name, dtype: Some(dtype), shape, makes_logits: false, source, observer: None }
    }

    pub(crate) fn stored(rows: Rows<'a>) -> Self {
        let (name, dtype, shape) = (rows.name.to_owned(), rows.entry.dtype, rows.shape());
        let source = Source::Stored(rows);
        Self { name, dtype: Some(dtype), shape, makes_logits: false, source, observer: None }
    }

    /// The tensor's Hugging Face name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its shape: `[out, in]` or `[len]`.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The format that its values are stored in now; `None` for integers.
    pub fn dtype(&self) -> Option<StorageDtype> {
        self.dtype
    }

    /// The format that a file of this kind stores it in if `wanted` is asked for; `None` keeps its own.
    ///
    /// Safetensors hold no quantized values: they become f32. GGUF holds vectors in f32, nothing in f64, and
    /// matrices in [`StorageDtype::fitting`], the one that makes logits in [`StorageDtype::for_logits`].
    pub fn stored_as(&self, format: Format, wanted: Option<StorageDtype>) -> StorageDtype {
        let wanted = wanted.map(|wanted| self.wanted(wanted));
        let dtype = wanted.or(self.dtype).unwrap_or(StorageDtype::F32);
        match format {
            Format::Safetensors if dtype.is_quantized() => StorageDtype::F32,
            Format::Safetensors => dtype,
            Format::Gguf if self.shape.len() == 1 || dtype == StorageDtype::F64 => {
                StorageDtype::F32
            }
            Format::Gguf => dtype.fitting(&self.shape),
        }
    }

    /// The format that this tensor is to have if matrices are to have `wanted`.
    pub fn wanted(&self, wanted: StorageDtype) -> StorageDtype {
        if self.makes_logits { wanted.for_logits() } else { wanted }
    }

    /// Calls `observer` with the number of bytes after each chunk that is written.
    #[must_use]
    pub fn observed(mut self, observer: &'a dyn Fn(usize)) -> Self {
        self.observer = Some(observer);
        self
    }

    /// Has row `row` written (or appended, if it is the first behind the last) with these values.
    ///
    /// # Errors
    /// If the tensor is no matrix of a file, or the row does not fit it.
    pub fn with_row(mut self, row: usize, values: Vec<f32>) -> Result<Self> {
        let fits = matches!(self.shape[..], [rows, cols] if row <= rows && cols == values.len());
        let Source::Stored(rows) = &mut self.source else {
            return Err(Error::Input("only rows of stored tensors are replaced".into()));
        };
        if !fits {
            let reason = format!("{row} of {} values is no row of {:?}", values.len(), self.shape);
            return Err(Error::Input(reason));
        }
        rows.replaced.retain(|(other, _)| *other != row);
        rows.replaced.push((row, values));
        rows.replaced.sort_by_key(|(row, _)| *row);
        self.shape = rows.shape();
        Ok(self)
    }

    /// The bytes of a tensor of them; of a file's there are none.
    pub(crate) fn into_bytes(self) -> Result<Vec<u8>> {
        match self.source {
            Source::Tensor(read) => Ok(read()?.flatten_all()?.to_vec1()?),
            Source::Stored(_) => Err(Error::Input(format!("{}: is no tensor of bytes", self.name))),
        }
    }

    /// Gives `write` the bytes in `dtype`. `permute` is the number of heads to store for interleaved rotary pairs.
    pub(crate) fn write(
        self,
        file: &Path,
        dtype: StorageDtype,
        permute: Option<usize>,
        mut write: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let observer = self.observer;
        let mut write = |bytes: &[u8]| {
            write(bytes)?;
            observer.iter().for_each(|observer| observer(bytes.len()));
            Ok(())
        };
        let read = match self.source {
            Source::Stored(rows) => return rows.write(dtype, permute, write),
            Source::Tensor(read) => read,
        };
        let fault = |reason: String| Error::tensor(file, &self.name, reason);
        let values = read()?;
        if values.dims() != self.shape {
            let (dims, shape) = (values.dims(), &self.shape);
            return Err(fault(format!("was read as {dims:?}, announced as {shape:?}")));
        }
        let bytes = encoded(&values, dtype)?.map_err(fault)?;
        match permute {
            Some(heads) => write(&permute_rows(&bytes, self.shape[0], heads)),
            None => bytes.chunks(1 << 20).try_for_each(write),
        }
    }
}

impl From<(String, Tensor)> for Outgoing<'_> {
    fn from((name, tensor): (String, Tensor)) -> Self {
        let dtype = StorageDtype::from_candle(tensor.dtype());
        let shape = tensor.dims().to_vec();
        let source = Source::Tensor(Box::new(move || Ok(tensor)));
        Outgoing { name, dtype, shape, makes_logits: false, source, observer: None }
    }
}

/// The tensors sorted by name, if they are those of the configuration.
pub(crate) fn checked<'a, T: Into<Outgoing<'a>>>(
    path: &Path,
    config: &Config,
    tensors: impl IntoIterator<Item = T>,
) -> Result<Vec<Outgoing<'a>>> {
    config.validate()?;
    let mut by_name = BTreeMap::new();
    for tensor in tensors {
        let mut tensor: Outgoing<'a> = tensor.into();
        tensor.makes_logits = config.makes_logits(&tensor.name);
        if let Some(twice) = by_name.insert(tensor.name.clone(), tensor) {
            return Err(Error::tensor(path, &twice.name, "is given twice"));
        }
    }
    let mut sorted = Vec::with_capacity(by_name.len());
    let mut missing = Vec::new();
    for (name, shape) in config.expected_tensors() {
        match by_name.remove(&name) {
            Some(tensor) if tensor.shape == shape => sorted.push(tensor),
            Some(tensor) => {
                let reason =
                    format!("has shape {:?}, the configuration implies {shape:?}", tensor.shape);
                return Err(Error::tensor(path, &name, reason));
            }
            None => missing.push(name),
        }
    }
    if !missing.is_empty() {
        let reason = format!("can't be written without {}", listed(&missing));
        return Err(Error::file(path, reason));
    }
    let extra: Vec<String> = by_name.into_keys().collect();
    if !extra.is_empty() {
        let reason = format!("{} are not of this configuration", listed(&extra));
        return Err(Error::file(path, reason));
    }
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(sorted)
}

/// A tensor's values in `dtype`; f64 stays exact, everything else goes through f32.
fn encoded(values: &Tensor, dtype: StorageDtype) -> Result<std::result::Result<Vec<u8>, String>> {
    let flat = values.to_device(&Device::Cpu)?.flatten_all()?;
    if dtype == StorageDtype::F64 {
        let values = flat.to_dtype(DType::F64)?.to_vec1::<f64>()?;
        return Ok(Ok(values.into_iter().flat_map(f64::to_le_bytes).collect()));
    }
    let cols = values.dims().last().copied().unwrap_or(1);
    let flat = flat.to_dtype(DType::F32)?.to_vec1::<f32>()?;
    Ok(packed::pack(&flat, cols, dtype))
}

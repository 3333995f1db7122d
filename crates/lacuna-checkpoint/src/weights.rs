//! Opens a checkpoint: every name, shape and byte range is validated, the bytes are mapped.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use lacuna_kernels::{Bytes, StorageDtype, WeightMatrix};

use lacuna_files::MappedFile;

use crate::config::Config;
use crate::directory::{self, Layout};
use crate::error::{Error, Result, listed, printable};
use crate::families::{ROPE_FACTORS, of_gguf_name};
use crate::gguf::{self, CarriedMetadata, Gguf};
use crate::header::HeaderEntry;
use crate::index::{Entry, Format, Index};
use crate::outgoing::{Outgoing, Rows, packed};
use crate::parameters::Name;
use crate::permute::unpermute_rows;
use crate::safetensors;

mod plan;
mod verify;

pub use verify::{Verified, verify};

/// The weights of a checkpoint, in Hugging Face names, mapped and not copied.
///
/// Nothing of the file is trusted: a header that does not describe exactly the bytes that follow it,
/// or tensors that are not those of the configuration, give an error that names file, tensor and
/// reason before any weight is read.
#[derive(Clone, Debug)]
pub struct Weights {
    /// The directory or file, as it was opened.
    path: PathBuf,
    config: Config,
    files: Vec<Arc<MappedFile>>,
    /// The header of a GGUF file, read once.
    header: Option<Arc<gguf::Header>>,
    /// The places of the configuration's tensors, and the names of those that are known not to matter.
    index: Index,
    missing: Vec<String>,
    extra: Vec<String>,
}

/// A report of a checkpoint's files, for `lacuna inspect`.
#[derive(Clone, PartialEq, Debug)]
pub struct Report {
    /// The kind of file that the weights came from.
    pub format: Format,
    /// The files that hold them.
    pub files: Vec<PathBuf>,
    /// The dtype that most bytes are stored in.
    pub dtype: Option<StorageDtype>,
    /// Bytes by dtype.
    pub bytes_by_dtype: BTreeMap<StorageDtype, u64>,
    /// Bytes of all tensors.
    pub bytes: u64,
    /// Values in all tensors.
    pub parameters: u64,
    /// Tensors that the configuration implies and no file holds.
    pub missing: Vec<String>,
    /// Tensors that the configuration does not imply.
    pub extra: Vec<String>,
    /// Tensors that are known not to matter: old rotary tables, causal masks, a tied head.
    pub ignored: Vec<String>,
}

impl Weights {
    /// Opens a directory in Hugging Face layout or a `.gguf` file, whole.
    ///
    /// # Errors
    /// If a file can't be read or is malformed, and if the tensors are not exactly those that the
    /// configuration implies. A missing head means that it is the embedding.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::inspect(path)?.complete()
    }

    /// Itself, if its files hold exactly the tensors that the configuration implies. [`Weights::open`] asks this of
    /// what [`Weights::inspect`] found.
    ///
    /// # Errors
    /// Names what is missing, or what the configuration does not imply.
    pub fn complete(self) -> Result<Self> {
        if !self.missing.is_empty() {
            return Err(Error::file(&self.path, format!("lacks {}", listed(&self.missing))));
        }
        if !self.extra.is_empty() {
            let reason =
                format!("holds {}, which its configuration does not imply", listed(&self.extra));
            return Err(Error::file(&self.path, reason));
        }
        Ok(self)
    }

    /// Like [`Weights::open`], but missing and extra tensors are reported and not refused.
    ///
    /// # Errors
    /// If a file can't be read or is malformed, or a tensor has a shape that the configuration
    /// does not give it.
    pub fn inspect(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        if path.is_dir() {
            return Self::inspect_directory(path);
        }
        if path.extension().is_some_and(|extension| extension == "safetensors") {
            let reason =
                "is one file of a checkpoint: give the directory that also has config.json";
            return Err(Error::file(path, reason));
        }
        Self::inspect_gguf(path)
    }

    fn inspect_gguf(path: &Path) -> Result<Self> {
        let file = MappedFile::open(path)?;
        let mut header = parse_gguf(file.bytes(), path)?;
        let gguf = header.over(file.bytes());
        let config = gguf::read_config(gguf, path)?;
        let (_, architecture) = gguf::architecture(gguf, path)?;
        let mut index = Index::default();
        for mut entry in std::mem::take(&mut header.tensors) {
            if entry.name == ROPE_FACTORS {
                index.ignored.push(entry.name);
                continue;
            }
            // A name of no known tensor stays as it is and is reported as extra.
            let known = of_gguf_name(&entry.name);
            entry.name = known.map_or(entry.name, |name| name.to_string());
            let permuted = gguf::permuted_heads(architecture, known, &config);
            index.insert(entry, 0, path, permuted)?;
        }
        let weights = Self::assemble(path, config, vec![Arc::new(file)], index)?;
        Ok(Self { header: Some(Arc::new(header)), ..weights })
    }

    fn inspect_directory(dir: &Path) -> Result<Self> {
        if let Some(advice) = directory::advice_on_run(dir) {
            return Err(Error::file(dir, advice));
        }
        let config = Config::open(dir)?;
        let mut files = Vec::new();
        let mut index = Index::default();
        match directory::layout(dir)? {
            Layout::Single(path) => {
                let file = MappedFile::open(&path)?;
                for entry in parse_safetensors(&file)? {
                    index.insert(entry, 0, &path, None)?;
                }
                files.push(Arc::new(file));
            }
            Layout::Sharded { index: list, shards, mut shard_of } => {
                for (place, path) in shards.iter().enumerate() {
                    let file = MappedFile::open(path)?;
                    for entry in parse_safetensors(&file)? {
                        if shard_of.remove(&entry.name) != Some(place) {
                            let reason = "is not what the index says of this shard";
                            return Err(Error::tensor(path, &entry.name, reason));
                        }
                        index.insert(entry, place, path, None)?;
                    }
                    files.push(Arc::new(file));
                }
                if let Some((tensor, place)) = shard_of.first_key_value() {
                    let reason = format!("is not in {}", printable_path(&shards[*place]));
                    return Err(Error::tensor(&list, tensor, reason));
                }
            }
        }
        Self::assemble(dir, config, files, index)
    }

    /// Compares the tensors that were found with those that the configuration implies.
    fn assemble(
        path: &Path,
        mut config: Config,
        files: Vec<Arc<MappedFile>>,
        found: Index,
    ) -> Result<Self> {
        let Index { tensors: mut found, ignored } = found;
        let mut index = Index { tensors: BTreeMap::new(), ignored };
        let head = Name::HEAD.to_string();
        if config.tie_word_embeddings {
            // Loaders take the embedding, whatever the file holds, and so does this one.
            index.ignored.extend(found.remove(&head).map(|_| head));
        } else if !found.contains_key(&head) {
            config.tie_word_embeddings = true;
        }
        let mut missing = Vec::new();
        for (name, shape) in config.expected_tensors() {
            let Some(entry) = found.remove(&name) else {
                missing.push(name);
                continue;
            };
            if entry.shape != shape {
                let path = files[entry.file].path();
                let reason =
                    format!("has shape {:?}, the configuration implies {shape:?}", entry.shape);
                return Err(Error::tensor(path, &name, reason));
            }
            index.tensors.insert(name, entry);
        }
        let (path, extra) = (path.to_path_buf(), found.into_keys().collect());
        Ok(Self { path, config, files, header: None, index, missing, extra })
    }

    /// The configuration, with `tie_word_embeddings` set if the head is missing.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.index.tensors.keys().map(String::as_str)
    }

    /// The format that a tensor is stored in, if it exists. A tied head is stored as its embedding.
    pub fn dtype(&self, name: &str) -> Option<StorageDtype> {
        self.entry(name).ok().map(|entry| entry.dtype)
    }

    /// A tensor's shape, if it exists: `[out, in]` or `[len]`.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.entry(name).ok().map(|entry| entry.shape.as_slice())
    }

    /// A copy of a tensor in `dtype` on `device`.
    ///
    /// # Errors
    /// If there is no such tensor, the file was shortened since it was opened, or memory ran out.
    pub fn tensor(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        let entry = self.entry(name)?;
        let file = &self.files[entry.file];
        let mut bytes = file.read(entry.range.clone())?;
        if let Some(heads) = entry.permuted {
            bytes = unpermute_rows(&bytes, entry.shape[0], heads);
        }
        let tensor = match entry.dtype.to_candle() {
            Some(float) => Tensor::from_raw_buffer(&bytes, float, &entry.shape, &Device::Cpu)?,
            None => packed::unpack(bytes, entry.dtype, &entry.shape)?,
        };
        Ok(tensor.to_dtype(dtype)?.to_device(device)?)
    }

    /// A matrix as the file stores it, mapped. It is copied only if it can't be used in place: queries and keys of a
    /// GGUF file of architecture `llama`, whose rows are put in order, and f64.
    ///
    /// # Errors
    /// If there is no such matrix, or the file was shortened since it was opened.
    pub fn matrix(&self, name: &str) -> Result<WeightMatrix> {
        let entry = self.entry(name)?;
        let file = &self.files[entry.file];
        let &[rows, cols] = entry.shape.as_slice() else {
            let reason = format!("has shape {:?}, expected a matrix", entry.shape);
            return Err(Error::tensor(file.path(), name, reason));
        };
        if entry.dtype == StorageDtype::F64 {
            let values = self.tensor(name, DType::F32, &Device::Cpu)?.flatten_all()?.to_vec1()?;
            return Ok(WeightMatrix::quantize(&values, rows, cols, StorageDtype::F32)?);
        }
        file.check_length()?;
        let bytes = match entry.permuted {
            Some(heads) => {
                let stored = file.read(entry.range.clone())?;
                Bytes::from(unpermute_rows(&stored, rows, heads))
            }
            None => Bytes::new(file.clone(), entry.range.clone())?,
        };
        Ok(WeightMatrix::new(entry.dtype, rows, cols, bytes)?)
    }

    /// A matrix in `dtype`, kept so in memory: mapped if the file stores it so, else converted. A row that is no
    /// whole number of the format's blocks takes the format of [`StorageDtype::fitting`], the matrix that makes
    /// logits that of [`StorageDtype::for_logits`].
    ///
    /// # Errors
    /// As [`Weights::matrix`], and if the format can't be written or a value does not fit it.
    pub fn matrix_in(&self, name: &str, dtype: StorageDtype) -> Result<WeightMatrix> {
        let entry = self.entry(name)?;
        let dtype = self.kept_as(name, entry, dtype);
        let [rows, cols] = entry.shape[..] else { return self.matrix(name) };
        if entry.dtype == dtype || dtype == StorageDtype::F64 {
            return self.matrix(name);
        }
        let mut bytes = Vec::with_capacity(dtype.bytes_of(&entry.shape).unwrap_or(0));
        self.rows(name, entry).write(dtype, None, |chunk| {
            bytes.extend_from_slice(chunk);
            Ok(())
        })?;
        Ok(WeightMatrix::new(dtype, rows, cols, Bytes::from(bytes))?)
    }

    /// The text of `tokenizer.json`: the directory's own, or one made from the metadata of a GGUF file. `None` if
    /// there is none.
    ///
    /// # Errors
    /// If the metadata describe a tokenizer that has no such form, or the file can't be read.
    pub fn tokenizer_json(&self) -> Result<Option<String>> {
        match self.gguf()? {
            Some((gguf, file)) => gguf::tokenizer_json(gguf, file, self.config.vocab_size),
            None => directory::tokenizer(&self.path),
        }
    }

    /// The ids of tokens by their text, found without building the tokenizer.
    pub fn token_ids(&self, names: &[&str]) -> Vec<Option<u32>> {
        match self.gguf() {
            Ok(Some((gguf, _))) => gguf::token_ids(gguf, names),
            Ok(None) => directory::token_ids_in(&self.path, names),
            Err(_) => vec![None; names.len()],
        }
    }

    /// The chat template in the metadata of a GGUF file.
    pub fn chat_template(&self) -> Option<String> {
        let (gguf, _) = self.gguf().ok()??;
        gguf.text("tokenizer.chat_template").map(str::to_owned)
    }

    /// The small files that travel with a checkpoint beside weights, `config.json` and `tokenizer.json`, name and text:
    /// those of [`MODEL_FILES`](crate::MODEL_FILES), chat templates, licence and card in a directory, and those that
    /// [`save_gguf`](crate::save_gguf) put into a GGUF file.
    ///
    /// # Errors
    /// If one can't be read, is longer than 16 MiB or no UTF-8, or is a link that leads out of the directory.
    pub fn carried_files(&self) -> Result<Vec<(String, String)>> {
        match self.gguf()? {
            Some((gguf, _)) => Ok(companions_of(gguf)),
            None => directory::companions(&self.path),
        }
    }

    /// Licence, origin and names in the metadata of a GGUF file, which go along into another; `None` for a directory.
    ///
    /// # Errors
    /// If the file was shortened since it was opened.
    pub fn carried_metadata(&self) -> Result<Option<CarriedMetadata>> {
        let rows = self.config.vocab_size;
        Ok(self.gguf()?.map(|(gguf, _)| CarriedMetadata::of(gguf, rows)))
    }

    /// The files, for a model that goes on reading them.
    pub fn files(&self) -> &[Arc<MappedFile>] {
        &self.files
    }

    /// The kept header over the bytes of its file, and that file's path, if this is a GGUF file.
    fn gguf(&self) -> Result<Option<(Gguf<'_>, &Path)>> {
        let (Some(header), Some(file)) = (&self.header, self.files.first()) else {
            return Ok(None);
        };
        file.check_length()?;
        Ok(Some((header.over(file.bytes()), file.path())))
    }

    /// The kind of file that it was opened from.
    fn format(&self) -> Format {
        if self.header.is_some() { Format::Gguf } else { Format::Safetensors }
    }

    /// Every tensor, read a few rows at a time when its turn comes, for [`save_safetensors`](crate::save_safetensors)
    /// and [`save_gguf`](crate::save_gguf).
    pub fn outgoing(&self) -> impl Iterator<Item = Outgoing<'_>> {
        self.index.tensors.iter().map(|(name, entry)| {
            let mut tensor = Outgoing::stored(self.rows(name, entry));
            tensor.makes_logits = self.config.makes_logits(name);
            tensor
        })
    }

    /// The BLAKE3 hash of all weights in f32, with their names and shapes, as 64 hexadecimal digits. It is the same
    /// whatever file of the same values they are read from: in one or in several, safetensors or GGUF.
    ///
    /// # Errors
    /// If a file was shortened since it was opened.
    pub fn hash(&self) -> Result<String> {
        let mut tensors: Vec<_> = self.outgoing().collect();
        tensors.sort_by(|one, other| one.name.cmp(&other.name));
        let mut hasher = blake3::Hasher::new();
        for tensor in tensors {
            let (name, shape) = (tensor.name.clone(), tensor.shape.clone());
            hasher.update(format!("{name} {shape:?}\n").as_bytes());
            tensor.write(Path::new(""), StorageDtype::F32, None, |bytes| {
                hasher.update(bytes);
                Ok(())
            })?;
        }
        Ok(hasher.finalize().to_hex().to_string())
    }

    fn rows<'a>(&'a self, name: &'a str, entry: &'a Entry) -> Rows<'a> {
        Rows { name, file: &self.files[entry.file], entry, replaced: Vec::new() }
    }

    fn entry(&self, name: &str) -> Result<&Entry> {
        let is_tied = self.config.tie_word_embeddings && name == Name::HEAD.to_string();
        let stored = match is_tied {
            true => self.index.tensors.get(&Name::EMBED.to_string()),
            false => self.index.tensors.get(name),
        };
        stored.ok_or_else(|| {
            let file = self.files.first().map_or(Path::new(""), |file| file.path());
            Error::tensor(file, name, "no such tensor in the checkpoint")
        })
    }
}

/// The files in a GGUF file's metadata; those with other names than the ones that are carried along are left out.
fn companions_of(gguf: Gguf<'_>) -> Vec<(String, String)> {
    let file = |name: &&str| {
        let text = gguf.text(&format!("{}{name}", gguf::CARRIED))?;
        Some(((*name).to_owned(), text.to_owned()))
    };
    directory::MODEL_FILES.iter().chain(&directory::DOCUMENTS).filter_map(file).collect()
}

fn parse_gguf(file: &[u8], path: &Path) -> Result<gguf::Header> {
    gguf::Header::parse(file).map_err(|fault| fault.in_file(path))
}

fn parse_safetensors(file: &MappedFile) -> Result<Vec<HeaderEntry>> {
    safetensors::parse_safetensors(file.bytes()).map_err(|fault| fault.in_file(file.path()))
}

/// Validates a whole safetensors file in memory: its header, and that it describes these bytes.
///
/// # Errors
/// Names the tensor and the reason.
pub fn check_safetensors(file: &[u8]) -> Result<()> {
    match safetensors::parse_safetensors(file) {
        Ok(_) => Ok(()),
        Err(fault) => Err(fault.in_file(Path::new("safetensors"))),
    }
}

/// Validates a whole GGUF file in memory: its header, its configuration, and its tokenizer.
///
/// # Errors
/// Names the tensor or the metadata key and the reason.
pub fn check_gguf(file: &[u8]) -> Result<()> {
    let path = Path::new("gguf");
    let header = parse_gguf(file, path)?;
    let gguf = header.over(file);
    let config = gguf::read_config(gguf, path)?;
    gguf::tokenizer_json(gguf, path, config.vocab_size).map(|_| ())
}

fn printable_path(path: &Path) -> String {
    printable(&path.display().to_string())
}

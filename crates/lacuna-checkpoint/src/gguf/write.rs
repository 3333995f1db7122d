//! Writes GGUF files, as llama.cpp expects them.

use std::path::Path;

use lacuna_files::WholeFile;
use lacuna_kernels::StorageDtype;

use super::carried::CarriedMetadata;
use super::config::{CARRIED, permuted_heads};
use super::metadata::{Metadata, put_text};
use super::mode;
use super::parse::ggml_id;
use super::{ALIGNMENT_BYTES, hash, vocabulary};
use crate::config::{Attention, Config, Mode, Predicts, RopeScaling};
use crate::error::{Error, Result};
use crate::families::{Architecture, ROPE_FACTORS, gguf_name, of_hugging_face_name};
use crate::index::Format;
use crate::outgoing::{Outgoing, checked};

/// The options of [`save_gguf`].
#[derive(Clone, Copy, Debug, Default)]
pub struct GgufOptions<'a> {
    /// The format of the matrices: f32, f16, bf16, or any quantized one but q2_k, q3_k and q5_k; matrices whose
    /// rows do not divide into its blocks take [`StorageDtype::fitting`]. `None` keeps each as it is stored.
    /// Norms and biases are f32.
    pub dtype: Option<StorageDtype>,
    /// The model's name, which becomes `general.name`.
    pub name: &'a str,
    /// The text of a `tokenizer.json`; without it the file has no tokenizer.
    pub tokenizer_json: Option<&'a str>,
    /// A chat template to carry along.
    pub chat_template: Option<&'a str>,
    /// Small files of a Hugging Face directory to carry along, name and text. They come back from
    /// [`Weights::carried_files`](crate::Weights::carried_files).
    pub files: &'a [(String, String)],
    /// Licence, origin and names from the metadata of another GGUF file; its `general.name` wins over `name`.
    pub metadata: Option<&'a CarriedMetadata>,
}

/// Writes a checkpoint as one GGUF file, complete or not at all.
///
/// The architecture is `llama` (queries and keys permuted as llama.cpp's converter does), `qwen2`
/// for biases or `qwen3` for normed heads. A block-diffusion model keeps its mode in
/// `lacuna.block_size` and `lacuna.mask_token_id`. The `tokenizer.json` is carried twice: as
/// llama.cpp reads it, and whole, so that nothing of it is lost when the file is read back. `lacuna.hash` is the
/// file's own hash, which [`verify`](crate::verify) compares.
///
/// # Errors
/// If the tensors are not those of the configuration, the configuration or tokenizer has no such
/// form, reading a tensor fails, or the disk refuses.
pub fn save_gguf<'a, T: Into<Outgoing<'a>>>(
    path: &Path,
    config: &Config,
    tensors: impl IntoIterator<Item = T>,
    options: &GgufOptions<'_>,
) -> Result<()> {
    let (announced, architecture) = architecture(config, path)?;
    let tensors = checked(path, config, tensors)?;
    if let Some(dtype) = options.dtype.filter(|dtype| !dtype.is_packable()) {
        let known = StorageDtype::ALL.into_iter().filter(|dtype| dtype.is_packable());
        let known = known.map(StorageDtype::name).collect::<Vec<_>>().join(", ");
        return Err(Error::file(path, format!("{dtype} is not written; choose one of {known}")));
    }
    let mut metadata = Metadata::default();
    let mostly = options.dtype.or_else(|| largest_dtype(&tensors)).unwrap_or(StorageDtype::F32);
    describe(&mut metadata, config, announced, (options, mostly));
    if let Some(text) = options.tokenizer_json {
        vocabulary::describe(&mut metadata, config, text)
            .map_err(|reason| Error::file(path, format!("tokenizer: {reason}")))?;
    }
    hash::announce(&mut metadata);
    let factors = rope_factors(config);

    let mut infos = Vec::new();
    let mut offset = 0u64;
    let mut info = |name: &str, shape: &[usize], dtype: StorageDtype| {
        put_text(&mut infos, name);
        infos.extend_from_slice(&(shape.len() as u32).to_le_bytes());
        shape.iter().rev().for_each(|&n| infos.extend_from_slice(&(n as u64).to_le_bytes()));
        infos.extend_from_slice(&ggml_id(dtype).to_le_bytes());
        infos.extend_from_slice(&offset.to_le_bytes());
        let bytes = dtype.bytes_of(shape).expect("validated: below 2^48 values, whole blocks");
        offset = (offset + bytes as u64).next_multiple_of(ALIGNMENT_BYTES);
    };
    if let Some(factors) = &factors {
        info(ROPE_FACTORS, &[factors.len()], StorageDtype::F32);
    }
    for tensor in &tensors {
        let name = of_hugging_face_name(tensor.name());
        let name = gguf_name(name.expect("every tensor of a configuration has a name"));
        info(&name, tensor.shape(), tensor.stored_as(Format::Gguf, options.dtype));
    }
    let count = tensors.len() as u64 + u64::from(factors.is_some());

    let mut file =
        Aligned { file: WholeFile::beside(path)?, position: 0, hash: hash::Running::default() };
    file.write(b"GGUF\x03\0\0\0")?;
    file.write(&count.to_le_bytes())?;
    file.write(&metadata.count.to_le_bytes())?;
    file.write(&metadata.bytes)?;
    file.hash.metadata_end(file.position);
    file.write(&infos)?;
    file.align()?;
    if let Some(factors) = &factors {
        let bytes: Vec<u8> = factors.iter().flat_map(|factor| factor.to_le_bytes()).collect();
        file.write(&bytes)?;
        file.align()?;
    }
    for tensor in tensors {
        let dtype = tensor.stored_as(Format::Gguf, options.dtype);
        let heads = permuted_heads(architecture, of_hugging_face_name(tensor.name()), config);
        tensor.write(path, dtype, heads, |bytes| file.write(bytes))?;
        file.align()?;
    }
    let Aligned { mut file, hash, .. } = file;
    let (at, digits) = hash.finish();
    file.overwrite(at, digits.as_bytes())?;
    Ok(file.publish()?)
}

/// The format that holds the most values.
fn largest_dtype(tensors: &[Outgoing<'_>]) -> Option<StorageDtype> {
    let mut values = std::collections::BTreeMap::new();
    for tensor in tensors {
        let count = tensor.shape().iter().product::<usize>();
        *values.entry(tensor.stored_as(Format::Gguf, None)).or_insert(0) += count;
    }
    values.into_iter().max_by_key(|&(_, count)| count).map(|(dtype, _)| dtype)
}

fn architecture(config: &Config, path: &Path) -> Result<(&'static str, &'static Architecture)> {
    let found = Architecture::in_gguf().find(|(_, one)| one.implied == config.parts);
    found.ok_or_else(|| {
        let reason = "no GGUF architecture has this combination of biases and normed heads";
        Error::file(path, reason)
    })
}

/// The divisors of Llama 3's scaling, as llama.cpp's converter stores them.
fn rope_factors(config: &Config) -> Option<Vec<f32>> {
    if !matches!(config.rope_scaling, RopeScaling::Llama3 { .. }) {
        return None;
    }
    let plain = Config { rope_scaling: RopeScaling::None, ..config.clone() };
    let frequencies = plain.inverse_frequencies();
    Some(frequencies.iter().map(|&f| config.rope_scaling.divisor(f) as f32).collect())
}

/// Writes all metadata about a model but its vocabulary and the hash.
fn describe(
    metadata: &mut Metadata,
    config: &Config,
    architecture: &str,
    (options, mostly): (&GgufOptions<'_>, StorageDtype),
) {
    describe_origin(metadata, architecture, options);
    metadata.number("general.file_type", file_type(mostly));
    metadata.number("general.quantization_version", 2);
    describe_shape(metadata, config, architecture);
    describe_use(metadata, config);
    if let Some(template) = options.chat_template {
        metadata.text("tokenizer.chat_template", template);
    }
    if config.predicts == Predicts::Next {
        metadata.truth("lacuna.logit_shift", true);
    }
    if config.attention != Attention::BlockCausal {
        metadata.text(mode::ATTENTION, config.attention.name());
    }
    for (name, text) in options.files {
        metadata.text(&format!("{CARRIED}{name}"), text);
    }
}

/// llama.cpp's number of a file that is mostly in one format.
fn file_type(mostly: StorageDtype) -> u32 {
    match mostly {
        StorageDtype::F64 | StorageDtype::F32 => 0,
        StorageDtype::F16 => 1,
        StorageDtype::Q4_0 => 2,
        StorageDtype::Q4_1 => 3,
        StorageDtype::Q8_0 => 7,
        StorageDtype::Q5_0 => 8,
        StorageDtype::Q5_1 => 9,
        StorageDtype::Q2K => 10,
        StorageDtype::Q3K => 11,
        StorageDtype::Q4K => 14,
        StorageDtype::Q5K => 16,
        StorageDtype::Q6K => 18,
        StorageDtype::BF16 => 32,
    }
}

/// Writes the model's name, and its licence.
fn describe_origin(metadata: &mut Metadata, architecture: &str, options: &GgufOptions<'_>) {
    metadata.text("general.architecture", architecture);
    metadata.text("general.type", "model");
    let carried = options.metadata;
    carried.iter().for_each(|carried| carried.write(metadata));
    let has = |key: &str| carried.is_some_and(|carried| carried.has(key));
    if !has("general.name") {
        metadata.text("general.name", options.name);
    }
    if let Some(license) = license(options.files).filter(|_| !has("general.license")) {
        metadata.text("general.license", license);
    }
}

/// Writes sizes, normalization and rotary positions.
fn describe_shape(metadata: &mut Metadata, config: &Config, architecture: &str) {
    for (key, value) in [
        ("block_count", config.num_layers),
        ("context_length", config.max_position_embeddings),
        ("embedding_length", config.hidden_size),
        ("feed_forward_length", config.intermediate_size),
        ("attention.head_count", config.num_heads),
        ("attention.head_count_kv", config.num_kv_heads),
        ("attention.key_length", config.head_dim),
        ("attention.value_length", config.head_dim),
        ("rope.dimension_count", config.head_dim),
        ("vocab_size", config.vocab_size),
    ] {
        metadata.number(&format!("{architecture}.{key}"), bounded(value));
    }
    metadata.float(&format!("{architecture}.rope.freq_base"), config.rope_theta as f32);
    let eps = config.rms_norm_eps as f32;
    metadata.float(&format!("{architecture}.attention.layer_norm_rms_epsilon"), eps);
    if let RopeScaling::Linear { factor } = config.rope_scaling {
        metadata.text(&format!("{architecture}.rope.scaling.type"), "linear");
        metadata.float(&format!("{architecture}.rope.scaling.factor"), factor as f32);
    }
    if let RopeScaling::Llama3 {
        factor,
        low_freq_factor,
        high_freq_factor,
        original_max_position_embeddings,
    } = config.rope_scaling
    {
        // llama.cpp takes the divisors, which are a tensor; these keys say where they come from.
        metadata.float("lacuna.rope.factor", factor as f32);
        metadata.float("lacuna.rope.low_freq_factor", low_freq_factor as f32);
        metadata.float("lacuna.rope.high_freq_factor", high_freq_factor as f32);
        let original = bounded(original_max_position_embeddings);
        metadata.number("lacuna.rope.original_context_length", original);
    }
}

/// Writes what decoding needs to know: the mode and special ids.
fn describe_use(metadata: &mut Metadata, config: &Config) {
    match config.mode {
        Mode::Autoregressive => metadata.text(mode::MODE, mode::AUTOREGRESSIVE),
        Mode::BlockDiffusion { block_size, mask_token_id } => {
            metadata.number("lacuna.block_size", bounded(block_size.get()));
            metadata.number(mode::MASK, mask_token_id.unwrap_or(u32::MAX));
            if let Some(id) = mask_token_id {
                metadata.number("tokenizer.ggml.mask_token_id", id);
            }
        }
    }
    let ids = [
        ("bos_token_id", config.bos_token_id),
        ("eos_token_id", config.eos_token_id()),
        ("padding_token_id", config.pad_token_id),
    ];
    for (key, id) in ids {
        if let Some(id) = id {
            metadata.number(&format!("tokenizer.ggml.{key}"), id);
        }
    }
    if config.eos_token_ids.len() > 1 {
        metadata.numbers("lacuna.eos_token_ids", &config.eos_token_ids);
    }
}

/// The licence that a model card names in its front matter.
fn license(files: &[(String, String)]) -> Option<&str> {
    let (_, card) = files.iter().find(|(name, _)| name == "README.md")?;
    let mut lines = card.lines();
    lines.next().filter(|line| line.trim_end() == "---")?;
    let mut matter = lines.take_while(|line| line.trim_end() != "---");
    let license = matter.find_map(|line| line.strip_prefix("license:"))?;
    let license = license.trim().trim_matches(['"', '\'']);
    (!license.is_empty() && license.len() < 64).then_some(license)
}

fn bounded(value: usize) -> u32 {
    u32::try_from(value).expect("validated: at most 2^24")
}

/// A file that knows its length so far and its hash.
struct Aligned {
    file: WholeFile,
    position: u64,
    hash: hash::Running,
}

impl Aligned {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.position += bytes.len() as u64;
        self.hash.add(bytes);
        Ok(self.file.write(bytes)?)
    }

    fn align(&mut self) -> Result<()> {
        let padding = self.position.next_multiple_of(ALIGNMENT_BYTES) - self.position;
        self.write(&vec![0; padding as usize])
    }
}

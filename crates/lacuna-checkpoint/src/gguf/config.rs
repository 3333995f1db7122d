//! Reads a model's configuration from GGUF metadata and the names of the tensors.

use std::path::Path;

use super::fields::{Fields, shown};
use super::mode::{Found, attention, mode};
use super::parse::Gguf;
use super::reader::Value;
use crate::config::{Config, RopeScaling};
use crate::error::{Error, Result};
use crate::families::{Architecture, ROPE_FACTORS, flags, gguf_name, refusal};
use crate::parameters::{Field, Name, Parts};

/// The beginning of the keys under which small files of a Hugging Face directory travel; the rest is the file's name.
pub(crate) const CARRIED: &str = "lacuna.file.";

/// The number of heads whose rows a file of this architecture holds for interleaved rotary pairs; others hold them as
/// Hugging Face does.
pub(crate) fn permuted_heads(
    architecture: &Architecture,
    name: Option<Name>,
    config: &Config,
) -> Option<usize> {
    match name.filter(|_| architecture.interleaved)?.field {
        Field::Q => Some(config.num_heads),
        Field::K => Some(config.num_kv_heads),
        _ => None,
    }
}

/// The architecture and its name in the file, if this crate computes it.
pub(crate) fn architecture(
    gguf: Gguf<'_>,
    file: &Path,
) -> Result<(&'static str, &'static Architecture)> {
    let fields = Fields::new(gguf, file, "general");
    let name = gguf.text("general.architecture").unwrap_or("");
    if let Some(known) = Architecture::in_gguf().find(|(known, _)| *known == name) {
        return Ok(known);
    }
    let known: Vec<_> = Architecture::in_gguf().map(|(known, _)| known).collect();
    let reason = refusal(name).unwrap_or_else(|| format!("known: {}", known.join(", ")));
    Err(fields.fault("general.architecture", name, reason))
}

/// The configuration that the metadata and the tensors' names describe.
pub(crate) fn read_config(gguf: Gguf<'_>, file: &Path) -> Result<Config> {
    let (prefix, layers) = architecture(gguf, file)?;
    let mut fields = Fields::new(gguf, file, prefix);
    let find = |name: &str| gguf.tensors().iter().find(|tensor| tensor.name == name);
    let has = |name: Name| find(&gguf_name(name)).is_some();

    let hidden_size = fields.required("embedding_length")?;
    let num_heads = fields.required("attention.head_count")?;
    let head_dim = match fields.size("attention.key_length")? {
        Some(head_dim) => head_dim,
        None if num_heads == 0 => {
            return Err(fields.fault("attention.head_count", 0, "expected at least 1"));
        }
        None if !hidden_size.is_multiple_of(num_heads) => {
            let reason = format!("not divisible by attention.head_count = {num_heads}");
            return Err(fields.fault("embedding_length", hidden_size, reason));
        }
        None => hidden_size / num_heads,
    };
    fields.refuse_unless("attention.value_length", head_dim)?;
    fields.refuse_unless("rope.dimension_count", head_dim)?;
    fields.refuse_unless("expert_count", 0)?;
    let embedding = gguf_name(Name::EMBED);
    let Some(&[vocab_size, _]) = find(&embedding).map(|tensor| tensor.shape.as_slice()) else {
        let reason = "is missing or no matrix; the vocabulary is its rows";
        return Err(Error::tensor(file, &embedding, reason));
    };
    fields.refuse_unless("vocab_size", vocab_size)?;
    fields.vocab_size = vocab_size;
    let Found { mode, family, predicts } = mode(&fields, layers)?;
    let attention = attention(&fields)?;
    let eos_token_ids = eos(&fields)?;
    let mut parts = Parts::NONE;
    for flag in flags() {
        let (field, kind) = flag.shown_by;
        *(flag.of)(&mut parts) = has(Name { layer: Some(0), field, kind });
    }

    let mut config = Config {
        vocab_size,
        hidden_size,
        intermediate_size: fields.required("feed_forward_length")?,
        num_layers: fields.required("block_count")?,
        num_heads,
        num_kv_heads: fields.size("attention.head_count_kv")?.unwrap_or(num_heads),
        head_dim,
        max_position_embeddings: fields.size("context_length")?.unwrap_or(2048),
        rope_theta: fields.number("rope.freq_base")?.unwrap_or(10_000.0),
        rope_scaling: scaling(&fields)?,
        rms_norm_eps: fields.number("attention.layer_norm_rms_epsilon")?.unwrap_or(1e-5),
        tie_word_embeddings: !has(Name::HEAD),
        parts,
        bos_token_id: fields.id("tokenizer.ggml.bos_token_id"),
        pad_token_id: fields.id("tokenizer.ggml.padding_token_id"),
        eos_token_ids,
        mode,
        family,
        predicts,
        attention,
        dtype: None,
        ignored_ids: fields.ignored.take(),
        extra: serde_json::Map::new(),
    };
    config.validate_in(file)?;
    if let Some(factors) = rope_factors(gguf, file)? {
        config.rope_scaling = llama3_of(&fields, &config, &factors)?.ok_or_else(|| {
            Error::tensor(file, ROPE_FACTORS, "holds divisors of no known rope scaling")
        })?;
    }
    Ok(config)
}

fn eos(fields: &Fields<'_>) -> Result<Vec<u32>> {
    let mut ids = Vec::new();
    for key in ["eos", "eot", "eom"].map(|end| format!("tokenizer.ggml.{end}_token_id")) {
        let key = key.as_str();
        ids.extend(fields.id(key).filter(|id| !ids.contains(id)));
    }
    if let Some(array) = fields.gguf.array("lacuna.eos_token_ids") {
        let listed: Option<Vec<u32>> =
            array.integers().and_then(|ids| ids.map(|id| u32::try_from(id).ok()).collect());
        ids = listed.filter(|ids| ids.len() <= 64).ok_or_else(|| {
            fields.fault("lacuna.eos_token_ids", "a list", "expected at most 64 token ids")
        })?;
        ids.retain(|id| fields.names_a_token("lacuna.eos_token_ids", i64::from(*id)));
    }
    Ok(ids)
}

#[cfg(test)]
pub(super) fn scaling_of(gguf: Gguf<'_>, file: &Path) -> Result<RopeScaling> {
    scaling(&Fields::new(gguf, file, architecture(gguf, file)?.0))
}

/// Reads the rotary scaling as llama.cpp does: a factor alone is a linear one, in either spelling, and 0 is none.
fn scaling(fields: &Fields<'_>) -> Result<RopeScaling> {
    let factor = match fields.number("rope.scaling.factor")? {
        None => fields.number("rope.scale_linear")?,
        factor => factor,
    };
    let kind = fields.get("rope.scaling.type").map(|(_, value)| value);
    match (kind, factor) {
        (Some(Value::Text("none")), _) | (None, None) => Ok(RopeScaling::None),
        (None | Some(Value::Text("linear")), Some(factor)) => Ok(match factor {
            0.0 | 1.0 => RopeScaling::None,
            factor => RopeScaling::Linear { factor },
        }),
        (Some(Value::Text("linear")), None) => {
            Err(fields.fault("rope.scaling.factor", "nothing", "it is required"))
        }
        (Some(other), _) => {
            Err(fields.fault("rope.scaling.type", shown(&other), "known: none, linear"))
        }
    }
}

/// The rotary divisors that the file stores, no more than the largest head has.
fn rope_factors(gguf: Gguf<'_>, file: &Path) -> Result<Option<Vec<f64>>> {
    let Some(tensor) = gguf.tensors().iter().find(|tensor| tensor.name == ROPE_FACTORS) else {
        return Ok(None);
    };
    if tensor.dtype_name != "f32" || tensor.shape.len() != 1 || tensor.shape[0] > 1 << 11 {
        return Err(Error::tensor(file, ROPE_FACTORS, "expected f32 divisors, one a pair"));
    }
    let bytes = gguf.file_bytes(tensor.range.clone());
    let values = bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("four")));
    Ok(Some(values.map(f64::from).collect()))
}

/// The Llama 3 scaling that gives these divisors. If the file does not say, it is that of all published models: a
/// ramp from 1 to 4 over 8192.
fn llama3_of(fields: &Fields<'_>, config: &Config, factors: &[f64]) -> Result<Option<RopeScaling>> {
    let Some(&last) = factors.last().filter(|last| last.is_finite() && **last > 0.0) else {
        return Ok(None);
    };
    let number =
        |key: &str, default: f64| -> Result<f64> { Ok(fields.number(key)?.unwrap_or(default)) };
    let scaling = RopeScaling::Llama3 {
        factor: number("lacuna.rope.factor", last)?,
        low_freq_factor: number("lacuna.rope.low_freq_factor", 1.0)?,
        high_freq_factor: number("lacuna.rope.high_freq_factor", 4.0)?,
        original_max_position_embeddings: fields
            .size("lacuna.rope.original_context_length")?
            .unwrap_or(8192),
    };
    let scaled = Config { rope_scaling: scaling, ..config.clone() };
    scaled.validate_in(fields.file)?;
    let plain = Config { rope_scaling: RopeScaling::None, ..config.clone() };
    let frequencies = plain.inverse_frequencies();
    let agrees = |(frequency, stored): (&f64, &f64)| {
        (scaling.divisor(*frequency) - stored).abs() <= 1e-4 * stored.abs()
    };
    let same = frequencies.len() == factors.len() && frequencies.iter().zip(factors).all(agrees);
    Ok(same.then_some(scaling))
}

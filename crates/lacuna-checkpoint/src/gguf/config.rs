//! A model's configuration from GGUF metadata, and the names of its tensors.

use std::path::Path;

use super::fields::{Fields, shown};
use super::mode::{Found, mode};
use super::parse::Gguf;
use super::reader::Value;
use crate::config::family::refusal;
use crate::config::{Config, RopeScaling};
use crate::error::{Error, Result};

/// GGUF's names within a layer, and Hugging Face's.
const LAYER_NAMES: [(&str, &str); 11] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

const OUTER_NAMES: [(&str, &str); 3] = [
    ("token_embd.weight", "model.embed_tokens.weight"),
    ("output_norm.weight", "model.norm.weight"),
    ("output.weight", "lm_head.weight"),
];

/// Rotary divisors that llama.cpp's converter stores for Llama 3.1 and later.
pub(crate) const ROPE_FACTORS: &str = "rope_freqs.weight";

/// The field of `config.json` that says that logits predict the next position.
pub(crate) const LOGIT_SHIFT: &str = "logit_shift";

/// Begins the keys under which small files of a Hugging Face directory travel; the rest is the file's name.
pub(crate) const CARRIED: &str = "lacuna.file.";

/// The Hugging Face name of a GGUF tensor.
pub(crate) fn hugging_face_name(name: &str) -> Option<String> {
    if let Some((_, outer)) = OUTER_NAMES.iter().find(|(gguf, _)| *gguf == name) {
        return Some((*outer).to_owned());
    }
    let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
    // Written back the same, so that two spellings of a number never name one tensor.
    let layer = layer.parse::<usize>().ok().filter(|n| n.to_string() == layer)?;
    let (stem, kind) =
        rest.rsplit_once('.').filter(|(_, kind)| ["weight", "bias"].contains(kind))?;
    let (_, found) = LAYER_NAMES.iter().find(|(gguf, _)| *gguf == stem)?;
    Some(format!("model.layers.{layer}.{found}.{kind}"))
}

/// The GGUF name of a Hugging Face tensor.
pub(crate) fn gguf_name(name: &str) -> Option<String> {
    if let Some((gguf, _)) = OUTER_NAMES.iter().find(|(_, outer)| *outer == name) {
        return Some((*gguf).to_owned());
    }
    let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
    let (stem, kind) = rest.rsplit_once('.')?;
    let (gguf, _) = LAYER_NAMES.iter().find(|(_, found)| *found == stem)?;
    Some(format!("blk.{layer}.{gguf}.{kind}"))
}

/// The number of heads whose rows are permuted in a tensor: files of architecture "llama" store
/// queries and keys for interleaved rotary pairs, all others as Hugging Face does.
pub(crate) fn permuted_heads(architecture: &str, name: &str, config: &Config) -> Option<usize> {
    let is = |projection: &str| {
        name.strip_suffix(".weight")
            .or(name.strip_suffix(".bias"))
            .is_some_and(|stem| stem.ends_with(projection))
    };
    match architecture {
        "llama" if is("self_attn.q_proj") => Some(config.num_heads),
        "llama" if is("self_attn.k_proj") => Some(config.num_kv_heads),
        _ => None,
    }
}

/// The architecture's name, if this crate computes it.
pub(crate) fn architecture(gguf: Gguf<'_>, file: &Path) -> Result<&'static str> {
    let fields = Fields::new(gguf, file, "general");
    let name = gguf.text("general.architecture").unwrap_or("");
    if let Some(known) = ["llama", "qwen2", "qwen3"].into_iter().find(|known| *known == name) {
        return Ok(known);
    }
    let reason = refusal(name).unwrap_or_else(|| "known: llama, qwen2, qwen3".to_owned());
    Err(fields.fault("general.architecture", name, reason))
}

/// The configuration that the metadata and the tensors' names describe.
pub(crate) fn read_config(gguf: Gguf<'_>, file: &Path) -> Result<Config> {
    let architecture = architecture(gguf, file)?;
    let mut fields = Fields::new(gguf, file, architecture);
    let has = |name: &str| gguf.tensors().iter().any(|tensor| tensor.name == name);

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
    let embedding = gguf.tensors().iter().find(|tensor| tensor.name == "token_embd.weight");
    let Some(&[vocab_size, _]) = embedding.map(|tensor| tensor.shape.as_slice()) else {
        let reason = "is missing or no matrix; the vocabulary is its rows";
        return Err(Error::tensor(file, "token_embd.weight", reason));
    };
    fields.refuse_unless("vocab_size", vocab_size)?;
    fields.vocab_size = vocab_size;
    let Found { mode, family, shifted } = mode(&fields)?;
    let eos_token_ids = eos(&fields)?;

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
        tie_word_embeddings: !has("output.weight"),
        attention_bias: has("blk.0.attn_q.bias"),
        attention_output_bias: has("blk.0.attn_output.bias"),
        mlp_bias: has("blk.0.ffn_gate.bias"),
        qk_norm: has("blk.0.attn_q_norm.weight"),
        bos_token_id: fields.id("tokenizer.ggml.bos_token_id"),
        pad_token_id: fields.id("tokenizer.ggml.padding_token_id"),
        eos_token_ids,
        mode,
        family,
        dtype: None,
        ignored_ids: fields.ignored.take(),
        extra: serde_json::Map::new(),
    };
    if shifted {
        config.extra.insert(LOGIT_SHIFT.to_owned(), true.into());
    }
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
    scaling(&Fields::new(gguf, file, architecture(gguf, file)?))
}

/// As llama.cpp reads it: a factor alone is a linear one, in either spelling, and 0 is none.
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

/// The stored divisors, bounded by the largest head.
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

/// The Llama 3 scaling that gives these divisors. Where the file does not say, it is the one of all published
/// models: a ramp from 1 to 4 over 8192.
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

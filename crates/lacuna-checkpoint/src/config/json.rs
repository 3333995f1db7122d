//! Reads and writes `config.json`.

use std::path::Path;

use lacuna_kernels::StorageDtype;
use serde_json::{Map, Value, json};

use super::announced::{Announced, Beside, announced, mode};
use super::attention::{ATTENTION, Attention};
use super::fields::Fields;
use super::predicts::{LOGIT_SHIFT, Predicts};
use super::{Config, Mode, RopeScaling};
use crate::directory::contained;
use crate::error::Result;
use crate::families::{Architecture, DIFFCODER, Family, flags, names_of};
use crate::parameters::Parts;

/// The most bytes of a configuration, which bounds what parsing can allocate; none in use comes near it.
const LONGEST_CONFIG: u64 = 1 << 20;

/// The field with the number of experts in a layer, as the families spell it.
const EXPERTS: [&str; 3] = ["num_experts", "num_local_experts", "n_routed_experts"];

pub(super) fn open(dir: &Path) -> Result<Config> {
    let file = contained(dir, "config.json")?;
    let text = lacuna_files::read_file(&file, LONGEST_CONFIG)?;
    let beside = Beside { names: names_of(dir), dir: Some(dir) };
    let generation_file = "generation_config.json";
    if !dir.join(generation_file).exists() {
        return parse(&text, None, &file, &beside);
    }
    let generation_file = contained(dir, generation_file)?;
    let generation = lacuna_files::read_file(&generation_file, LONGEST_CONFIG)?;
    parse(&text, Some((&generation, &generation_file)), &file, &beside)
}

pub(super) fn parse(
    text: &[u8],
    generation: Option<(&[u8], &Path)>,
    file: &Path,
    beside: &Beside<'_>,
) -> Result<Config> {
    let mut fields = Fields::parse(text, file)?;
    let mut names = beside.names.clone();
    names.extend(fields.map.get("_name_or_path").and_then(Value::as_str).map(str::to_owned));
    let Announced { layers, family, released } = announced(&mut fields, &names, beside)?;
    refuse_unsupported(&mut fields, layers)?;

    let hidden_size = fields.required("hidden_size")?;
    let num_heads = fields.required("num_attention_heads")?;
    let head_dim = match fields.size("head_dim")? {
        Some(head_dim) => head_dim,
        None if num_heads == 0 => {
            return Err(fields.fault("num_attention_heads", "0", "expected at least 1"));
        }
        None if !hidden_size.is_multiple_of(num_heads) => {
            let reason = format!("not divisible by num_attention_heads = {num_heads}");
            return Err(fields.fault("hidden_size", hidden_size, reason));
        }
        None => hidden_size / num_heads,
    };
    let (rope_theta, rope_scaling) = rope(&mut fields)?;
    let mut parts = Parts::NONE;
    for flag in flags() {
        let implied = (flag.implied)(layers.implied, parts);
        *(flag.of)(&mut parts) = fields.flag(flag.key)?.unwrap_or(implied);
    }
    let vocab_size = fields.required("vocab_size")?;
    fields.vocab_size = vocab_size;
    let (eos_token_ids, _) = fields.ids("eos_token_id");
    let mut config = Config {
        vocab_size,
        hidden_size,
        intermediate_size: fields.required("intermediate_size")?,
        num_layers: fields.required("num_hidden_layers")?,
        num_heads,
        num_kv_heads: fields.size("num_key_value_heads")?.unwrap_or(num_heads),
        head_dim,
        max_position_embeddings: fields.size("max_position_embeddings")?.unwrap_or(2048),
        rope_theta,
        rope_scaling,
        rms_norm_eps: fields.number("rms_norm_eps")?.unwrap_or(1e-6),
        tie_word_embeddings: fields.flag("tie_word_embeddings")?.unwrap_or(false),
        parts,
        bos_token_id: fields.id("bos_token_id"),
        pad_token_id: fields.id("pad_token_id"),
        eos_token_ids,
        mode: mode(&mut fields, family, released, &names, beside)?,
        family,
        predicts: predicts(&mut fields, family),
        attention: attention(&mut fields)?,
        dtype: dtype(&mut fields),
        ignored_ids: Vec::new(),
        extra: Map::new(),
    };
    (config.extra, config.ignored_ids) = (fields.map, fields.ignored);
    config.validate_in(file)?;
    if let Some((text, generation_file)) = generation {
        override_ids(&mut config, text, generation_file)?;
    }
    Ok(config)
}

/// The token that logits predict: as the file says, else as the family is known for. A key that says nothing new is
/// written back as it came.
fn predicts(fields: &mut Fields, family: Option<Family>) -> Predicts {
    let is_shifted = family.is_some_and(|family| family.table().shifted);
    let said = fields.map.get(LOGIT_SHIFT).map(|value| value == &json!(true));
    if said == Some(true) || is_shifted {
        fields.map.remove(LOGIT_SHIFT);
    }
    if said.unwrap_or(is_shifted) { Predicts::Next } else { Predicts::Same }
}

/// The attention that the file names; block-causal where it names none.
fn attention(fields: &mut Fields) -> Result<Attention> {
    match fields.map.remove(ATTENTION).filter(|value| !value.is_null()) {
        None => Ok(Attention::BlockCausal),
        Some(Value::String(name)) => {
            name.parse().map_err(|expected| fields.fault(ATTENTION, &name, expected))
        }
        Some(other) => {
            let expected = "expected the name of an attention, a text";
            Err(fields.fault(ATTENTION, other, expected))
        }
    }
}

/// Takes the ids of `generation_config.json` before those of `config.json`.
fn override_ids(config: &mut Config, text: &[u8], file: &Path) -> Result<()> {
    let mut fields = Fields::parse(text, file)?;
    fields.vocab_size = config.vocab_size;
    config.bos_token_id = fields.id("bos_token_id").or(config.bos_token_id);
    config.pad_token_id = fields.id("pad_token_id").or(config.pad_token_id);
    match fields.ids("eos_token_id") {
        // A list of nothing but ids that no token has says nothing.
        (eos, _) if !eos.is_empty() => config.eos_token_ids = eos,
        (_, true) => config.eos_token_ids = Vec::new(),
        (_, false) => {}
    }
    config.ignored_ids.append(&mut fields.ignored);
    config.validate_in(file)
}

/// Refuses fields that change the forward pass in ways this crate does not compute.
fn refuse_unsupported(fields: &mut Fields, layers: &Architecture) -> Result<()> {
    for name in ["hidden_act", "hidden_activation"] {
        match fields.map.remove(name) {
            None | Some(Value::Null) => {}
            Some(Value::String(act)) if act == "silu" || act == "swish" => {}
            Some(other) => return Err(fields.fault(name, other, "only silu is supported")),
        }
    }
    let windowed = match fields.map.get("use_sliding_window") {
        Some(Value::Bool(used)) => *used,
        _ => layers.windowed,
    };
    if windowed && fields.map.get("sliding_window").is_some_and(|v| !v.is_null()) {
        let window = fields.map["sliding_window"].clone();
        return Err(fields.fault("sliding_window", window, "sliding windows are not supported"));
    }
    if let Some(factor) = fields.number("partial_rotary_factor")?
        && factor != 1.0
    {
        return Err(fields.fault("partial_rotary_factor", factor, "only 1 is supported"));
    }
    for name in EXPERTS {
        if let Some(experts) = fields.map.get(name).filter(|v| !v.is_null() && **v != 0) {
            let experts = experts.clone();
            let reason = "a mixture of experts is another model; only dense ones are computed";
            return Err(fields.fault(name, experts, reason));
        }
    }
    match fields.map.get("quantization_config") {
        None | Some(Value::Null) => Ok(()),
        Some(Value::Object(_)) => {
            let reason = "quantized Hugging Face checkpoints are not read; use the GGUF file";
            Err(fields.fault("quantization_config", "{…}", reason))
        }
        Some(other) => {
            let other = other.clone();
            Err(fields.fault("quantization_config", other, "expected an object or null"))
        }
    }
}

/// The rotary base and its scaling, from the top level or, in newer files, from `rope_parameters`.
fn rope(fields: &mut Fields) -> Result<(f64, RopeScaling)> {
    let mut theta = fields.number("rope_theta")?;
    let mut scaling = RopeScaling::None;
    for parent in ["rope_scaling", "rope_parameters"] {
        let map = match fields.map.remove(parent) {
            None | Some(Value::Null) => continue,
            Some(Value::Object(map)) => map,
            Some(other) => return Err(fields.fault(parent, other, "expected an object or null")),
        };
        let mut inner = Fields::of(map, &fields.file, Some(parent));
        theta = inner.number("rope_theta")?.or(theta);
        scaling = rope_scaling(&mut inner)?;
    }
    Ok((theta.unwrap_or(10_000.0), scaling))
}

fn rope_scaling(fields: &mut Fields) -> Result<RopeScaling> {
    let kind = fields.map.remove("rope_type").or_else(|| fields.map.remove("type"));
    let kind = match kind {
        None | Some(Value::Null) => "default".to_owned(),
        Some(Value::String(kind)) => kind,
        Some(other) => return Err(fields.fault("rope_type", other, "expected a string")),
    };
    match kind.as_str() {
        "default" if fields.map.values().any(Value::is_object) => {
            Err(fields.fault("rope_type", "per layer", "one rope for all layers is supported"))
        }
        "default" => Ok(RopeScaling::None),
        "linear" => Ok(RopeScaling::Linear { factor: fields.required_number("factor")? }),
        "llama3" => Ok(RopeScaling::Llama3 {
            factor: fields.required_number("factor")?,
            low_freq_factor: fields.required_number("low_freq_factor")?,
            high_freq_factor: fields.required_number("high_freq_factor")?,
            original_max_position_embeddings: fields
                .required("original_max_position_embeddings")?,
        }),
        other => Err(fields.fault("rope_type", other, "known: default, linear, llama3")),
    }
}

fn dtype(fields: &mut Fields) -> Option<StorageDtype> {
    let old = fields.map.remove("torch_dtype");
    let new = fields.map.remove("dtype");
    new.or(old).and_then(|value| StorageDtype::from_name(value.as_str()?))
}

/// The architecture and the model type that announce `config` to other loaders, and the layers that they imply.
pub(super) fn architecture(
    config: &Config,
) -> ((&'static str, &'static str), &'static Architecture) {
    match (config.mode, config.family) {
        (Mode::BlockDiffusion { .. }, Some(family)) => {
            let table = family.table();
            (table.announced, table.layers)
        }
        (mode, _) => {
            let layers = match mode {
                Mode::BlockDiffusion { .. } => &DIFFCODER,
                Mode::Autoregressive => Architecture::announcing(config.parts),
            };
            ((layers.announced, layers.model_type), layers)
        }
    }
}

pub(super) fn write(config: &Config) -> String {
    let ((architecture, model_type), layers) = architecture(config);
    let mut map = config.extra.clone();
    // This key names Python files, which do not go along: loaders take the architecture that they know.
    map.remove("auto_map");
    let mut set = |name: &str, value: Value| map.insert(name.to_owned(), value);
    set("architectures", json!([architecture]));
    set("model_type", json!(model_type));
    set("vocab_size", json!(config.vocab_size));
    set("hidden_size", json!(config.hidden_size));
    set("intermediate_size", json!(config.intermediate_size));
    set("num_hidden_layers", json!(config.num_layers));
    set("num_attention_heads", json!(config.num_heads));
    set("num_key_value_heads", json!(config.num_kv_heads));
    set("head_dim", json!(config.head_dim));
    set("max_position_embeddings", json!(config.max_position_embeddings));
    set("rope_theta", json!(config.rope_theta));
    set("rope_scaling", write_scaling(config.rope_scaling));
    set("rms_norm_eps", json!(config.rms_norm_eps));
    set("tie_word_embeddings", json!(config.tie_word_embeddings));
    set("hidden_act", json!("silu"));
    set("bos_token_id", json!(config.bos_token_id));
    set("pad_token_id", json!(config.pad_token_id));
    match config.eos_token_ids.as_slice() {
        [] => set("eos_token_id", Value::Null),
        [one] => set("eos_token_id", json!(one)),
        many => set("eos_token_id", json!(many)),
    };
    let (mut parts, mut so_far) = (config.parts, Parts::NONE);
    for flag in flags() {
        let value = *(flag.of)(&mut parts);
        let implied = (flag.implied)(layers.implied, so_far);
        if flag.always_written || value != implied {
            set(flag.key, json!(value));
        }
        *(flag.of)(&mut so_far) = value;
    }
    if let Mode::BlockDiffusion { block_size, mask_token_id } = config.mode {
        set("block_size", json!(block_size));
        if let Some(id) = mask_token_id {
            set("mask_token_id", json!(id));
        }
    }
    let in_blocks = config.family.filter(|_| config.block_size().is_some());
    match config.predicts {
        Predicts::Next => set(LOGIT_SHIFT, json!(true)),
        // Without the key, the family's head would be taken to be shifted.
        Predicts::Same if in_blocks.is_some_and(|family| family.table().shifted) => {
            set(LOGIT_SHIFT, json!(false))
        }
        Predicts::Same => None,
    };
    if config.attention != Attention::BlockCausal {
        set(ATTENTION, json!(config.attention.name()));
    }
    if let Some(name) = config.dtype.and_then(torch_name) {
        set("torch_dtype", json!(name));
    }
    // Keys are sorted here whether or not some crate of the build makes serde_json keep insertion order.
    let sorted: std::collections::BTreeMap<String, Value> = map.into_iter().collect();
    let mut text = serde_json::to_string_pretty(&sorted).expect("a map of strings serialises");
    text.push('\n');
    text
}

/// PyTorch's name of a float type.
const fn torch_name(dtype: StorageDtype) -> Option<&'static str> {
    match dtype {
        StorageDtype::F64 => Some("float64"),
        StorageDtype::F32 => Some("float32"),
        StorageDtype::F16 => Some("float16"),
        StorageDtype::BF16 => Some("bfloat16"),
        _ => None,
    }
}

fn write_scaling(scaling: RopeScaling) -> Value {
    match scaling {
        RopeScaling::None => Value::Null,
        RopeScaling::Linear { factor } => json!({ "rope_type": "linear", "factor": factor }),
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        } => json!({
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": low_freq_factor,
            "high_freq_factor": high_freq_factor,
            "original_max_position_embeddings": original_max_position_embeddings,
        }),
    }
}

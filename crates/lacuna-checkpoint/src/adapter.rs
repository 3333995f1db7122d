//! Reads and writes LoRA adapters as PEFT does: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! An adapter stands beside a matrix W of a layer, and means W + scale · B · A.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use lacuna_files::MappedFile;
use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::families::of_hugging_face_name;
use crate::header::HeaderEntry;
use crate::parameters::{Field, Kind, Name};
use crate::safetensors::{parse_described, save_described};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
/// The metadata that names the weights which an adapter was trained beside.
const BASE: &str = "lacuna.base";
const PREFIX: &str = "base_model.model.";
const LONGEST_CONFIG: u64 = 1 << 20;
const MOST_RANK: u64 = 1 << 16;

/// The fields of a layer that an adapter may stand beside.
const TARGETS: [Field; 7] =
    [Field::Q, Field::K, Field::V, Field::O, Field::Gate, Field::Up, Field::Down];

/// The name that PEFT has for the matrices of a field in `target_modules`: `q_proj`, `down_proj`; `None` for those that
/// no adapter stands beside.
pub fn target_module(field: Field) -> Option<String> {
    if !TARGETS.contains(&field) {
        return None;
    }
    let name = Name { layer: Some(0), field, kind: Kind::Weight }.to_string();
    name.trim_end_matches(".weight").rsplit('.').next().map(str::to_owned)
}

/// The field whose matrices PEFT calls so.
pub fn targeted_field(module: &str) -> Option<Field> {
    TARGETS.into_iter().find(|field| target_module(*field).as_deref() == Some(module))
}

/// PEFT's name of one of the two matrices, `A` or `B`, of the adapter beside a matrix:
/// `base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight`.
pub fn adapter_tensor(beside: Name, matrix: char) -> String {
    let name = beside.to_string();
    let stem = name.trim_end_matches(".weight");
    format!("{PREFIX}{stem}.lora_{matrix}.weight")
}

/// The description of an adapter, as its `adapter_config.json` has it.
#[derive(Clone, PartialEq, Debug)]
pub struct AdapterConfig {
    /// Rows of every A, columns of every B.
    pub rank: usize,
    /// The scale times the rank.
    pub alpha: f64,
    /// The fields whose matrices have an adapter, in every layer.
    pub targets: Vec<Field>,
    /// The name or the path of the checkpoint that it was trained on.
    pub base: Option<String>,
    /// The [hash](crate::Weights::hash) of that checkpoint's weights, which stands beside the adapter's own; PEFT keeps none.
    pub base_hash: Option<String>,
}

impl AdapterConfig {
    /// The factor of B · A.
    pub fn scale(&self) -> f64 {
        self.alpha / self.rank as f64
    }

    fn to_json(&self) -> String {
        let mut targets: Vec<_> = self.targets.iter().filter_map(|f| target_module(*f)).collect();
        targets.sort();
        // Whole numbers stand without a point, as PEFT writes them.
        let alpha = match self.alpha.fract() == 0.0 && self.alpha.abs() < 1e15 {
            true => json!(self.alpha as i64),
            false => json!(self.alpha),
        };
        let fields: BTreeMap<&str, Value> = BTreeMap::from([
            ("alpha_pattern", json!({})),
            ("base_model_name_or_path", json!(self.base)),
            ("bias", json!("none")),
            ("fan_in_fan_out", json!(false)),
            ("inference_mode", json!(true)),
            ("init_lora_weights", json!(true)),
            ("lora_alpha", alpha),
            ("lora_dropout", json!(0.0)),
            ("modules_to_save", Value::Null),
            ("peft_type", json!("LORA")),
            ("r", json!(self.rank)),
            ("rank_pattern", json!({})),
            ("target_modules", json!(targets)),
            ("task_type", json!("CAUSAL_LM")),
            ("use_dora", json!(false)),
            ("use_rslora", json!(false)),
        ]);
        let mut text = serde_json::to_string_pretty(&fields).expect("plain values serialise");
        text.push('\n');
        text
    }
}

/// Writes an adapter into `dir`: its description, and its tensors under the names of [`adapter_tensor`].
///
/// # Errors
/// If a tensor is of no floating type, or the disk is full or refuses.
pub fn save_adapter(
    dir: &Path,
    config: &AdapterConfig,
    tensors: Vec<(String, Tensor)>,
) -> Result<()> {
    lacuna_files::create_folder(dir)?;
    // PEFT refuses keys of its description that it does not know; metadata is read by nobody but us.
    let base = config.base_hash.iter().map(|hash| format!(",{}:{}", json!(BASE), json!(hash)));
    let metadata = format!(r#""__metadata__":{{"format":"pt"{}}}"#, base.collect::<String>());
    save_described(&dir.join(WEIGHTS), tensors, &metadata)?;
    Ok(lacuna_files::write_file(&dir.join(CONFIG), config.to_json().as_bytes())?)
}

/// An opened adapter. Nothing of its files is trusted: what is not exactly pairs of matrices that fit each other and
/// the description is refused, by name.
#[derive(Debug)]
pub struct AdapterWeights {
    config: AdapterConfig,
    file: MappedFile,
    path: PathBuf,
    pairs: BTreeMap<String, (Name, [HeaderEntry; 2])>,
}

impl AdapterWeights {
    /// Opens a folder that PEFT or lacuna wrote.
    ///
    /// # Errors
    /// Names the file and the field or tensor that is missing, damaged, or of a kind of adapter that is not read.
    pub fn open(dir: &Path) -> Result<Self> {
        let mut config = read_config(&dir.join(CONFIG))?;
        let path = dir.join(WEIGHTS);
        let file = MappedFile::open(&path)?;
        let (entries, mut metadata) =
            parse_described(file.bytes()).map_err(|fault| fault.in_file(&path))?;
        config.base_hash = metadata.remove(BASE);
        let mut found: BTreeMap<String, (Name, [Option<HeaderEntry>; 2])> = BTreeMap::new();
        for entry in entries {
            let refuse = |reason: &str| Error::tensor(&path, &entry.name, reason);
            let place = place_of(&entry.name)
                .ok_or_else(|| refuse("is no lora_A or lora_B beside a matrix of a layer"))?;
            if entry.dtype.is_none_or(|dtype| dtype.to_candle().is_none()) {
                return Err(refuse("has no floating type"));
            }
            let (name, matrix) = place;
            // A is [rank, in], B is [out, rank].
            if entry.shape.len() != 2 || entry.shape[matrix] != config.rank {
                let rank = config.rank;
                let reason = format!("has shape {:?}; {CONFIG} says r = {rank}", entry.shape);
                return Err(refuse(&reason));
            }
            let pair = found.entry(name.to_string()).or_insert((name, [None, None]));
            pair.1[matrix] = Some(entry);
        }
        let mut pairs = BTreeMap::new();
        for (text, (name, [a, b])) in found {
            let (Some(a), Some(b)) = (a, b) else {
                let reason = format!("has one of lora_A and lora_B beside {text}, not both");
                return Err(Error::file(&path, reason));
            };
            pairs.insert(text, (name, [a, b]));
        }
        if pairs.is_empty() {
            return Err(Error::file(&path, "holds no adapter"));
        }
        Ok(Self { config, file, path, pairs })
    }

    /// Its description.
    pub fn config(&self) -> &AdapterConfig {
        &self.config
    }

    /// The matrices that have an adapter.
    pub fn names(&self) -> impl Iterator<Item = Name> + '_ {
        self.pairs.values().map(|(name, _)| *name)
    }

    /// A, \[rank, in\], and B, \[out, rank\], of the adapter beside a matrix, in f32; `None` if it has none.
    ///
    /// # Errors
    /// If the file was shortened since it was opened.
    pub fn factors(&self, beside: Name) -> Result<Option<[Tensor; 2]>> {
        let Some((_, [a, b])) = self.pairs.get(&beside.to_string()) else { return Ok(None) };
        let read = |entry: &HeaderEntry| -> Result<Tensor> {
            let dtype = entry.dtype.and_then(lacuna_kernels::StorageDtype::to_candle);
            let dtype = dtype.expect("checked when it was opened");
            let bytes = self.file.read(entry.range.clone())?;
            let tensor = Tensor::from_raw_buffer(&bytes, dtype, &entry.shape, &Device::Cpu)?;
            Ok(tensor.to_dtype(DType::F32)?)
        };
        Ok(Some([read(a)?, read(b)?]))
    }

    /// The matrix `weight`, \[out, in\], merged with its adapter: W + scale · B · A in f32; as it is if it has none.
    ///
    /// # Errors
    /// If the adapter does not fit the matrix, or gives values that are no numbers.
    pub fn merged(&self, name: Name, weight: &Tensor) -> Result<Tensor> {
        let Some([a, b]) = self.factors(name)? else { return Ok(weight.clone()) };
        let (rows, cols) = weight.dims2()?;
        if a.dim(1)? != cols || b.dim(0)? != rows {
            let reason = format!(
                "the adapter beside it is of a matrix [{}, {}], the checkpoint's is [{rows}, {cols}]",
                b.dim(0)?,
                a.dim(1)?
            );
            return Err(Error::tensor(&self.path, &name.to_string(), reason));
        }
        let update = (b.matmul(&a)? * self.config.scale())?;
        let merged = (weight.to_dtype(DType::F32)? + update)?;
        let values = merged.flatten_all()?.to_vec1::<f32>()?;
        if let Some(value) = values.into_iter().find(|value| !value.is_finite()) {
            let (alpha, rank) = (self.config.alpha, self.config.rank);
            let reason = format!(
                "merged with its adapter (alpha {alpha:e}, r {rank}), would hold {value}: the adapter or its alpha is too large"
            );
            return Err(Error::tensor(&self.path, &name.to_string(), reason));
        }
        Ok(merged)
    }
}

/// The matrix that a tensor's adapter stands beside, and 0 for A, 1 for B.
fn place_of(tensor: &str) -> Option<(Name, usize)> {
    let inner = tensor.strip_prefix(PREFIX)?;
    let (stem, matrix) =
        [("lora_A", 0), ("lora_B", 1)].into_iter().find_map(|(word, matrix)| {
            let stem = inner.strip_suffix(&format!(".{word}.weight"))?;
            Some((stem, matrix))
        })?;
    let name = of_hugging_face_name(&format!("{stem}.weight"))?;
    (name.layer.is_some() && TARGETS.contains(&name.field)).then_some((name, matrix))
}

fn read_config(path: &Path) -> Result<AdapterConfig> {
    let text = lacuna_files::read_file(path, LONGEST_CONFIG)?;
    let map = lacuna_files::json::object(&text).map_err(|reason| Error::file(path, reason))?;
    let fault = |field: &str, reason: &str| {
        let value = map.get(field).unwrap_or(&Value::Null);
        Err(Error::config(path, field, value, reason))
    };
    if map.get("peft_type").and_then(Value::as_str) != Some("LORA") {
        return fault("peft_type", "only LORA adapters are read");
    }
    // Each of these changes what is computed; silence, null, false and nothing in a list mean that it is off.
    let off = |value: &Value| match value {
        Value::Null | Value::Bool(false) => true,
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    };
    const UNREAD: [&str; 9] = [
        "use_dora",
        "fan_in_fan_out",
        "lora_bias",
        "modules_to_save",
        "rank_pattern",
        "alpha_pattern",
        "layer_replication",
        "trainable_token_indices",
        "target_parameters",
    ];
    if let Some(field) = UNREAD.into_iter().find(|f| map.get(*f).is_some_and(|v| !off(v))) {
        return fault(field, "an adapter with this option is not read");
    }
    if map.get("bias").is_some_and(|bias| bias != "none") {
        return fault("bias", "expected none: trained biases are not read");
    }
    let rank = map.get("r").and_then(Value::as_u64).filter(|r| (1..=MOST_RANK).contains(r));
    let Some(rank) = rank else { return fault("r", "expected a rank from 1") };
    let alpha = map.get("lora_alpha").and_then(Value::as_f64).filter(|a| a.is_finite());
    let Some(mut alpha) = alpha else { return fault("lora_alpha", "expected a number") };
    if map.get("use_rslora").and_then(Value::as_bool) == Some(true) {
        // There the scale is alpha / √r.
        alpha *= (rank as f64).sqrt();
    }
    let base = map.get("base_model_name_or_path").and_then(Value::as_str).map(str::to_owned);
    let (rank, targets) = (rank as usize, targets(&map));
    let config = AdapterConfig { rank, alpha, targets, base, base_hash: None };
    if !(config.scale() as f32).is_finite() {
        return fault("lora_alpha", "divided by r is no number in f32");
    }
    Ok(config)
}

/// The target modules that are known; what is there beside them is known by the tensors.
fn targets(map: &Map<String, Value>) -> Vec<Field> {
    let listed = map.get("target_modules").and_then(Value::as_array);
    let listed = listed.into_iter().flatten().filter_map(Value::as_str);
    listed.filter_map(targeted_field).collect()
}

#[cfg(test)]
mod tests;

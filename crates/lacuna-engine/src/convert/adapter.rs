//! Merges a LoRA adapter into the matrices that it stands beside.

use candle_core::{DType, Device};
use lacuna_checkpoint::{AdapterWeights, Config, Name, Outgoing, StorageDtype, Weights};
use std::path::Path;

use crate::advice::Knob;
use crate::error::{Error, Result};

/// Opens an adapter, and makes the configuration declare what training declared beside it: a run's own adapters say
/// which mode and which attention they were trained for. One that was trained beside other weights is refused, unless
/// any will do.
pub(super) fn open(
    dir: &Path,
    weights: &Weights,
    config: &mut Config,
    any_base: bool,
) -> Result<AdapterWeights> {
    let adapter = AdapterWeights::open(dir)?;
    if let Some(other) = adapter.names().find(|name| weights.shape(&name.to_string()).is_none()) {
        let reason = format!("has an adapter beside {other}, which the checkpoint does not have");
        return Err(Error::Place { path: dir.to_owned(), reason: reason.into() });
    }
    if dir.join("config.json").exists() {
        let trained = Config::open(dir)?;
        if trained.expected_tensors().ne(config.expected_tensors()) {
            let reason = "was trained beside a checkpoint of another shape; name that one";
            return Err(Error::Place { path: dir.to_owned(), reason: reason.into() });
        }
        config.mode = trained.mode;
        config.predicts = trained.predicts;
        config.attention = trained.attention;
        config.family = trained.family;
    }
    if let Some(hash) = adapter.config().base_hash.as_ref().filter(|_| !any_base)
        && weights.hash()? != *hash
    {
        let base = adapter.config().base.as_deref().unwrap_or("another checkpoint");
        let reason = format!(
            "was trained beside other weights than these: those of {}; name that checkpoint, or merge it all the same with {}",
            lacuna_files::printable(base),
            Knob::AnyBase
        );
        return Err(Error::Place { path: dir.to_owned(), reason: reason.into() });
    }
    Ok(adapter)
}

/// A tensor with its adapter merged, if it has one: W + alpha / rank · B · A, computed in f32 when its turn comes.
pub(super) fn merged<'a>(
    tensor: Outgoing<'a>,
    weights: &'a Weights,
    adapter: &'a AdapterWeights,
) -> Outgoing<'a> {
    let beside = |name: &Name| name.to_string() == tensor.name();
    let Some(name) = adapter.names().find(beside) else { return tensor };
    // A merged matrix that was quantized is no longer on its format's grid: it becomes f32, unless a format is asked for.
    let dtype = tensor.dtype().filter(|dtype| !dtype.is_quantized()).unwrap_or(StorageDtype::F32);
    let shape = tensor.shape().to_vec();
    Outgoing::new(name.to_string(), dtype, shape, move || {
        let weight = weights.tensor(&name.to_string(), DType::F32, &Device::Cpu)?;
        adapter.merged(name, &weight)
    })
}

//! Averages checkpoints of one model: the last ones of a run often score better together than the last one alone.

use candle_core::{DType, Device, Tensor};
use lacuna_checkpoint::{Format, Outgoing, SaveOptions, StorageDtype, Weights, save_safetensors};
use lacuna_files::{Manifest, WholeFolder};
use std::path::{Path, PathBuf};

use crate::convert::{CarriedFiles, place};
use crate::error::{Error, Result};

/// Writes the mean of some checkpoints' weights to the folder `to`, complete or not at all, with the configuration and
/// the files of the last one. Every value is the mean in f64 of those in the files, rounded once to the last one's
/// format (quantized ones to f32). Tensors pass through one at a time. Returns the files of others in a folder that
/// was replaced, under the names that they have now.
///
/// # Errors
/// If a checkpoint is missing, damaged, or of another shape than the last one, something stands at `to` and `force` is
/// false, or the disk refuses; nothing half written is left then.
pub fn average(checkpoints: &[PathBuf], to: &Path, force: bool) -> Result<Vec<PathBuf>> {
    let Some(last) = checkpoints.last() else {
        return Err(Error::Request("an average needs at least one checkpoint".into()));
    };
    place::check(last, to, Format::Safetensors, force)?;
    let mut opened = Vec::with_capacity(checkpoints.len());
    for path in checkpoints {
        lacuna_checkpoint::verify(path)?;
        opened.push(Weights::open(path)?);
    }
    let newest = opened.last().expect("there is a last one");
    for (path, weights) in checkpoints.iter().zip(&opened) {
        if weights.config().expected_tensors().ne(newest.config().expected_tensors()) {
            let reason = format!("has other tensors than {}: they have no mean", last.display());
            return Err(Error::Place { path: path.clone(), reason: reason.into() });
        }
    }
    let trained_as = |weights: &Weights| {
        let config = weights.config();
        (config.mode, config.attention, config.predicts)
    };
    for (path, weights) in checkpoints.iter().zip(&opened) {
        if trained_as(weights) != trained_as(newest) {
            let reason = format!(
                "was trained for something else than {}: another mode, block size, attention or head; average the \
                 checkpoints of one stage",
                last.display()
            );
            return Err(Error::Place { path: path.clone(), reason: reason.into() });
        }
    }
    let side = CarriedFiles::read(last, newest)?;
    let mean = |name: &str| -> lacuna_checkpoint::Result<Tensor> {
        let mut sum: Option<Tensor> = None;
        for weights in &opened {
            let values = weights.tensor(name, DType::F64, &Device::Cpu)?;
            sum = Some(match sum {
                Some(sum) => (sum + values)?,
                None => values,
            });
        }
        let sum = sum.expect("there is at least one checkpoint");
        Ok((sum / opened.len() as f64)?)
    };
    let mean = &mean;
    let tensors = newest.outgoing().map(|tensor| {
        let float = tensor.dtype().filter(|dtype| !dtype.is_quantized());
        let (name, shape) = (tensor.name().to_owned(), tensor.shape().to_vec());
        let dtype = float.unwrap_or(StorageDtype::F32);
        Outgoing::new(name.clone(), dtype, shape, move || mean(&name))
    });
    let folder = WholeFolder::beside(to)?;
    side.write(folder.path(), newest.config())?;
    save_safetensors(folder.path(), newest.config(), tensors, &SaveOptions::default())?;
    Manifest::of(folder.path())?.write(folder.path())?;
    match force {
        true => Ok(folder.replace(place::is_of_a_checkpoint)?),
        false => {
            folder.publish()?;
            Ok(Vec::new())
        }
    }
}

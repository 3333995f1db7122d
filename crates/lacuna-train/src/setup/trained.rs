//! Prepares what of a model is trained: all but what is frozen, or adapters beside it.

use candle_core::{DType, Device, Tensor, Var};
use lacuna_checkpoint::{AdapterWeights, Kind, Name, target_module};
use lacuna_model::{Adapter, Transformer};
use lacuna_random::{Purpose, stream, uniform_f32};
use std::collections::HashMap;
use std::path::Path;

use crate::checkpoint::Form;
use crate::error::{Result, TrainError};
use crate::groups::ParameterGroup;
use crate::recipe::{LoraRecipe, ModelRecipe, Precision, Recipe};

/// The model without the parameters that the recipe freezes among what is trained.
pub(super) fn frozen(model: Transformer, recipe: &ModelRecipe) -> Result<Transformer> {
    if recipe.frozen.is_empty() && recipe.frozen_layers == 0 {
        return Ok(model);
    }
    let is_frozen = |name: Name| {
        recipe.frozen.contains(&ParameterGroup::of(name))
            || name.layer.is_some_and(|layer| layer < recipe.frozen_layers)
    };
    Ok(model.frozen(is_frozen)?)
}

/// The model with adapters: those of a checkpoint of the run, or fresh ones, which change nothing yet. A is uniform in
/// ±1/√in, as PEFT draws it; B is 0.
pub(super) fn adapted(
    model: Transformer,
    lora: &LoraRecipe,
    resumed: Option<&Path>,
    seed: u64,
) -> Result<Transformer> {
    let saved = resumed.map(AdapterWeights::open).transpose()?;
    let scale = lora.config(None).scale();
    let device = model.device().clone();
    let mut adapters = HashMap::new();
    for (name, shape) in model.config().shapes().iter() {
        let wanted = target_module(name.field).is_some_and(|m| lora.targets.contains(&m));
        let (true, Kind::Weight, &[rows, cols]) = (wanted, name.kind, shape.as_slice()) else {
            continue;
        };
        let [a, b] = match &saved {
            Some(saved) => saved.factors(name)?.ok_or_else(|| TrainError::File {
                path: resumed.unwrap_or(Path::new("")).to_owned(),
                reason: format!("holds no adapter beside {name}; go on from another checkpoint"),
            })?,
            None => fresh((rows, cols), lora.rank, (seed, adapters.len() as u64))?,
        };
        let var = |tensor: Tensor| Var::from_tensor(&tensor.to_device(&device)?);
        adapters.insert(name, Adapter { a: var(a)?, b: var(b)?, scale });
    }
    Ok(model.adapted(|name| adapters.get(&name).cloned())?)
}

fn fresh((rows, cols): (usize, usize), rank: usize, (seed, n): (u64, u64)) -> Result<[Tensor; 2]> {
    let mut rng = stream(seed, Purpose::Adapter, n, 0);
    let bound = 1.0 / (cols as f32).sqrt();
    let values = (0..rank * cols).map(|_| (2.0 * uniform_f32(&mut rng) - 1.0) * bound).collect();
    let a = Tensor::from_vec::<_, f32>(values, (rank, cols), &Device::Cpu)?;
    Ok([a, Tensor::zeros((rows, rank), DType::F32, &Device::Cpu)?])
}

impl Recipe {
    /// Rounds every parameter to bf16, if the recipe has passes read them so.
    pub(crate) fn round_parameters(&self, model: &Transformer) -> Result<()> {
        if self.model.precision == Precision::Bf16 {
            for (_, var) in model.parameters()?.iter() {
                var.set(&var.as_tensor().detach().to_dtype(DType::BF16)?.to_dtype(DType::F32)?)?;
            }
        }
        Ok(())
    }

    /// The form in which the run writes its models.
    pub(crate) fn form(&self) -> Form {
        let base = self.model.from.as_ref().map(|from| from.display().to_string());
        let dtype = match self.model.precision {
            Precision::F32 => DType::F32,
            Precision::Bf16 => DType::BF16,
        };
        Form { dtype, adapter: self.lora.as_ref().map(|lora| lora.config(base)) }
    }
}

//! Prepares what of a model is trained: all but what is frozen, or adapters beside it.

use candle_core::{DType, Device, Tensor, Var};
use lacuna_checkpoint::{AdapterWeights, Config, Kind, Name, Trained, Weights, target_module};
use lacuna_model::{Adapter, Transformer};
use lacuna_random::{Purpose, stream, uniform_f32};
use std::collections::HashMap;
use std::path::Path;

use crate::checkpoint::Form;
use crate::error::{Result, TrainError};
use crate::groups::ParameterGroup;
use crate::recipe::{LoraRecipe, ModelRecipe, MomentsForm, Precision, Recipe};

/// The model without the parameters that the recipe freezes among what is trained.
pub(super) fn frozen(model: Transformer, recipe: &ModelRecipe) -> Result<Transformer> {
    if recipe.frozen.is_empty() && recipe.frozen_layers == 0 {
        return Ok(model);
    }
    Ok(model.frozen(|name| is_frozen(recipe, name))?)
}

fn is_frozen(recipe: &ModelRecipe, name: Name) -> bool {
    recipe.frozen.contains(&ParameterGroup::of(name))
        || name.layer.is_some_and(|layer| layer < recipe.frozen_layers)
}

/// The rows and columns of a matrix that has an adapter; `None` for what has none.
fn beside_adapter(lora: &LoraRecipe, name: Name, shape: &[usize]) -> Option<(usize, usize)> {
    let wanted = target_module(name.field).is_some_and(|m| lora.targets.contains(&m));
    match (wanted, name.kind, shape) {
        (true, Kind::Weight, &[rows, cols]) => Some((rows, cols)),
        _ => None,
    }
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
    let scale = lora.config(None, None).scale();
    let device = model.device().clone();
    let mut adapters = HashMap::new();
    for (name, shape) in model.config().shapes().iter() {
        let Some((rows, cols)) = beside_adapter(lora, name, shape) else { continue };
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
    /// The numbers of a model that the recipe trains, and the copies that it keeps of them.
    pub(crate) fn trained(&self, config: &Config) -> Trained {
        let shapes = config.shapes();
        let copies = u64::from(self.model.precision == Precision::Bf16)
            + u64::from(self.optimizer.ema_decay > 0.0);
        let eight_bit_moments = self.optimizer.moments == MomentsForm::EightBit;
        let Some(lora) = &self.lora else {
            let trained = shapes.iter().filter(|(name, _)| !is_frozen(&self.model, *name));
            let numbers = trained.map(|(_, shape)| shape.iter().product::<usize>() as u64).sum();
            return Trained { numbers, copies, eight_bit_moments, ..Trained::default() };
        };
        let (mut adapters, mut merged) = (0, 0);
        for (name, shape) in shapes.iter() {
            let Some((rows, cols)) = beside_adapter(lora, name, shape) else { continue };
            adapters += (lora.rank * (rows + cols)) as u64;
            merged += if name.layer == Some(0) { (rows * cols) as u64 } else { 0 };
        }
        Trained { numbers: adapters, adapters, merged, copies, eight_bit_moments }
    }

    /// Rounds every parameter to bf16, if the recipe has passes read them so.
    pub(crate) fn round_parameters(&self, model: &Transformer) -> Result<()> {
        if self.model.precision == Precision::Bf16 {
            for (_, var) in model.parameters()?.iter() {
                var.set(&var.as_tensor().detach().to_dtype(DType::BF16)?.to_dtype(DType::F32)?)?;
            }
        }
        Ok(())
    }

    /// The type of the weights in the models that the run writes.
    pub(crate) fn written_dtype(&self) -> DType {
        match self.model.precision {
            Precision::F32 => DType::F32,
            Precision::Bf16 => DType::BF16,
        }
    }

    /// The form in which the run writes its models. Adapters are written with the hash of the weights beside them.
    ///
    /// # Errors
    /// Errors if these can't be read.
    pub(crate) fn form(&self) -> Result<Form> {
        let dtype = self.written_dtype();
        let Some((lora, from)) = self.lora.as_ref().zip(self.model.from.as_ref()) else {
            return Ok(Form { dtype, adapter: None });
        };
        let hash = Weights::open(from)?.hash()?;
        let adapter = lora.config(Some(from.display().to_string()), Some(hash));
        Ok(Form { dtype, adapter: Some(adapter) })
    }
}

//! Makes a [`Transformer`]: fresh, from parameters, or from a checkpoint to train or to run.

use candle_core::{DType, Device, Tensor, Var};
use lacuna_checkpoint::{
    Config, Outgoing, Parameters, SaveOptions, StorageDtype, Weights, save_safetensors,
};
use lacuna_kernels::{Backend, CachePrecision, Rope, WeightMatrix};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::role::Role;
use crate::transformer::Transformer;
use crate::weight::Weight;

impl Transformer {
    /// A fresh model: weights ~ N(0, 0.02²), the two projections that write to the residual stream scaled by
    /// 1/√(2·layers), norms 1, biases 0. The same seed gives the same weights.
    ///
    /// # Errors
    /// Errors if the configuration is impossible or memory runs out on the device.
    pub fn init(config: Config, seed: u64, dtype: DType, device: &Device) -> Result<Self> {
        let residual_scale = 1.0 / (2.0 * config.num_layers as f64).sqrt();
        // A tensor's place in the order of names is part of its random stream.
        let mut place = 0;
        let parameters = config.shapes().try_map(|name, shape| {
            let n: usize = shape.iter().product();
            let values = if name.is_norm() {
                vec![1f32; n]
            } else if name.is_bias() {
                vec![0f32; n]
            } else {
                let std = 0.02 * if name.writes_residual() { residual_scale } else { 1.0 };
                crate::init::normal(seed, place, n, std)
            };
            place += 1;
            let values = Tensor::from_vec(values, shape.as_slice(), &Device::Cpu)?;
            Var::from_tensor(&values.to_dtype(dtype)?.to_device(device)?)
        })?;
        Self::from_parameters(config, parameters)
    }

    /// A trainable model over given parameters.
    ///
    /// # Errors
    /// Errors if a parameter is missing or misshapen.
    pub fn from_parameters(config: Config, parameters: Parameters<Var>) -> Result<Self> {
        check(&config, &parameters)?;
        let device = parameters.embed.device().clone();
        let weights = parameters.map(|_, var| Weight::from(var));
        Ok(Self { parameters: Some(parameters), ..Self::assemble(config, weights, &device)? })
    }

    /// A trainable model with a checkpoint's parameters, converted to `dtype`.
    ///
    /// # Errors
    /// Errors if a tensor is missing, misshapen or unreadable.
    pub fn trainable(weights: &Weights, dtype: DType, device: &Device) -> Result<Self> {
        let config = weights.config().clone();
        let parameters = config.shapes().try_map(|name, _| {
            Ok::<_, Error>(Var::from_tensor(&weights.tensor(&name.to_string(), dtype, device)?)?)
        })?;
        Self::from_parameters(config, parameters)
    }

    /// A model for inference on the CPU whose weights stay as the file stores them, mapped, not copied.
    ///
    /// # Errors
    /// Errors if a tensor is missing, misshapen or unreadable.
    pub fn mapped(weights: &Weights) -> Result<Self> {
        Self::over_files(weights, |name| weights.matrix(name))
    }

    /// A model for inference on the CPU with matrices kept in `dtype`: mapped where the file stores them so,
    /// converted and held in memory otherwise. Norms, biases and activations are f32.
    ///
    /// # Errors
    /// As [`mapped`](Self::mapped), and if `dtype` can't be written or a value does not fit it.
    pub fn mapped_in(weights: &Weights, dtype: StorageDtype) -> Result<Self> {
        if !dtype.is_packable() {
            return Err(Error::Unsupported { dtype });
        }
        Self::over_files(weights, |name| weights.matrix_in(name, dtype))
    }

    /// A model for inference with every weight as a tensor of `dtype` on `device`.
    ///
    /// # Errors
    /// Errors if a tensor is missing, misshapen, unreadable, or does not fit the device.
    pub fn resident(weights: &Weights, dtype: DType, device: &Device) -> Result<Self> {
        let config = weights.config().clone();
        let read = config.shapes().try_map(|name, _| {
            Ok::<_, Error>(Weight::Tensor(weights.tensor(&name.to_string(), dtype, device)?))
        })?;
        Self::assemble(config, read, device)
    }

    /// A model whose matrices `matrix` keeps as a file has them.
    fn over_files(
        weights: &Weights,
        matrix: impl Fn(&str) -> lacuna_checkpoint::Result<WeightMatrix>,
    ) -> Result<Self> {
        let config = weights.config().clone();
        let read = config.shapes().try_map(|name, shape| {
            let text = name.to_string();
            Ok::<_, Error>(match shape.len() {
                1 => Weight::Tensor(weights.tensor(&text, DType::F32, &Device::Cpu)?),
                _ => Weight::Stored(Arc::new(matrix(&text)?)),
            })
        })?;
        let files = weights.files().to_vec();
        Ok(Self { files, ..Self::assemble(config, read, &Device::Cpu)? })
    }

    fn assemble(config: Config, weights: Parameters<Weight>, device: &Device) -> Result<Self> {
        let dtype = weights.norm.tensor()?.dtype();
        let rope = Rope::new(
            &config.inverse_frequencies(),
            config.max_position_embeddings,
            dtype,
            device,
        )?;
        let roles = Arc::new(weights.map(|_, _| Role::default()));
        Ok(Self {
            config,
            weights,
            parameters: None,
            roles,
            backend: Backend::of(device),
            dtype,
            rope,
            device: device.clone(),
            cache: CachePrecision::default(),
            files: Vec::new(),
            layers_done: Arc::default(),
        })
    }

    /// Writes `config.json` and `model.safetensors` into `dir`, which others (transformers among them) load. Adapters
    /// are merged into their matrices.
    ///
    /// # Errors
    /// Errors if the model has no parameters (it was opened for inference) or the disk refuses.
    pub fn save(&self, dir: &std::path::Path) -> Result<()> {
        self.save_in(dir, self.dtype)
    }

    /// [`save`](Self::save) with every tensor in `dtype`.
    ///
    /// # Errors
    /// As [`save`](Self::save).
    pub fn save_in(&self, dir: &std::path::Path, dtype: DType) -> Result<()> {
        let tensors = self.parameters()?.iter().zip(self.roles.iter());
        let tensors = tensors.map(|((name, var), (_, role))| {
            let stored = StorageDtype::from_candle(var.dtype()).unwrap_or(StorageDtype::F32);
            // One at a time, when its turn comes: there is never a second model in memory.
            Outgoing::new(name.to_string(), stored, var.dims(), move || match role {
                Role::Adapted(adapter) => Ok(adapter.merged(var.as_tensor())?.detach()),
                Role::Trained | Role::Frozen => Ok(var.as_tensor().detach()),
            })
        });
        let options = SaveOptions { dtype: Some(dtype), ..SaveOptions::default() };
        save_safetensors(dir, &self.config, tensors, &options)?;
        Ok(())
    }
}

/// Checks that the parameters are those of the configuration, in shape too.
fn check(config: &Config, parameters: &Parameters<Var>) -> Result<()> {
    let mut given = parameters.iter();
    for (name, shape) in config.shapes().iter() {
        let found = given.next().filter(|(found, _)| *found == name);
        let (_, var) = found.ok_or(Error::Missing { name })?;
        if var.dims() != shape {
            return Err(Error::Input(format!(
                "parameter {name} has shape {:?}, the configuration implies {shape:?}",
                var.dims()
            )));
        }
    }
    if let Some((name, _)) = given.next() {
        return Err(Error::Input(format!("the configuration implies no parameter {name}")));
    }
    Ok(())
}

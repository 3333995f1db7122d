//! Ways to come by a [`Transformer`]: fresh, from parameters, from a checkpoint to train or to run.

use candle_core::{DType, Device, Tensor, Var};
use lacuna_checkpoint::{Config, SaveOptions, StorageDtype, Weights, save_safetensors};
use lacuna_kernels::{Backend, Rope};
use std::sync::Arc;

use crate::error::{ModelError, Result};
use crate::transformer::{Layer, Linear, Transformer, Weight};

impl Transformer {
    /// A fresh model: weights ~ N(0, 0.02²), the two projections that write to the residual stream scaled by
    /// 1/√(2·layers), norms 1, biases 0. The same seed gives the same weights.
    ///
    /// # Errors
    /// Errors if the configuration is impossible or memory runs out on the device.
    pub fn init(config: Config, seed: u64, dtype: DType, device: &Device) -> Result<Self> {
        let residual_scale = 1.0 / (2.0 * config.num_layers as f64).sqrt();
        let mut vars = Vec::new();
        for (index, (name, shape)) in config.expected_tensors().enumerate() {
            let n: usize = shape.iter().product();
            let values = if name.ends_with("norm.weight") {
                vec![1f32; n]
            } else if name.ends_with(".bias") {
                vec![0f32; n]
            } else {
                let writes_residual =
                    name.ends_with("o_proj.weight") || name.ends_with("down_proj.weight");
                let std = 0.02 * if writes_residual { residual_scale } else { 1.0 };
                crate::init::normal(seed, index as u64, n, std)
            };
            let tensor = Tensor::from_vec(values, shape, &Device::Cpu)?
                .to_dtype(dtype)?
                .to_device(device)?;
            vars.push((name, Var::from_tensor(&tensor)?));
        }
        Self::from_parameters(config, vars)
    }

    /// A trainable model over given parameters, in Hugging Face names.
    ///
    /// # Errors
    /// Errors if a parameter is missing or misshapen.
    pub fn from_parameters(config: Config, parameters: Vec<(String, Var)>) -> Result<Self> {
        let device = parameters
            .first()
            .map(|(_, v)| v.device().clone())
            .ok_or_else(|| ModelError::Input("a model needs parameters".into()))?;
        let find = |name: &str| -> Result<Tensor> {
            let var = parameters.iter().find(|(n, _)| n == name);
            Ok(var
                .ok_or_else(|| ModelError::Input(format!("parameter {name} is missing")))?
                .1
                .as_tensor()
                .clone())
        };
        for (name, shape) in config.expected_tensors() {
            let found = find(&name)?;
            if found.dims() != shape {
                return Err(ModelError::Input(format!(
                    "parameter {name} has shape {:?}, the configuration implies {shape:?}",
                    found.dims()
                )));
            }
        }
        let mut model =
            Self::assemble(config, &device, find, |name| find(name).map(Weight::Tensor))?;
        model.parameters = parameters;
        Ok(model)
    }

    /// Trainable parameters from a checkpoint, converted to `dtype`.
    ///
    /// # Errors
    /// Errors if a tensor is missing, misshapen or unreadable.
    pub fn trainable(weights: &Weights, dtype: DType, device: &Device) -> Result<Self> {
        let config = weights.config().clone();
        let mut vars = Vec::new();
        for (name, _) in config.expected_tensors() {
            vars.push((name.clone(), Var::from_tensor(&weights.tensor(&name, dtype, device)?)?));
        }
        Self::from_parameters(config, vars)
    }

    /// For inference on the CPU: weights stay as the file stores them, mapped, not copied.
    ///
    /// # Errors
    /// Errors if a tensor is missing, misshapen or unreadable.
    pub fn mapped(weights: &Weights) -> Result<Self> {
        let mut model = Self::assemble(
            weights.config().clone(),
            &Device::Cpu,
            |name| Ok(weights.tensor(name, DType::F32, &Device::Cpu)?),
            |name| Ok(Weight::Stored(Arc::new(weights.matrix(name)?))),
        )?;
        model.files = weights.files().to_vec();
        Ok(model)
    }

    /// For inference on the CPU with matrices kept in `dtype`: mapped where the file stores them so, converted
    /// and held in memory otherwise. Norms, biases and activations are f32.
    ///
    /// # Errors
    /// As [`mapped`](Self::mapped), and if `dtype` can't be written or a value does not fit it.
    pub fn mapped_in(weights: &Weights, dtype: StorageDtype) -> Result<Self> {
        if !(dtype.is_packable()) {
            let reason = format!("weights can't be kept in {dtype}; choose another --dtype");
            return Err(ModelError::Input(reason));
        }
        let mut model = Self::assemble(
            weights.config().clone(),
            &Device::Cpu,
            |name| Ok(weights.tensor(name, DType::F32, &Device::Cpu)?),
            |name| Ok(Weight::Stored(Arc::new(weights.matrix_in(name, dtype)?))),
        )?;
        model.files = weights.files().to_vec();
        Ok(model)
    }

    /// For inference with every weight as a tensor of `dtype` on `device`.
    ///
    /// # Errors
    /// Errors if a tensor is missing, misshapen, unreadable, or does not fit the device.
    pub fn resident(weights: &Weights, dtype: DType, device: &Device) -> Result<Self> {
        Self::assemble(
            weights.config().clone(),
            device,
            |name| Ok(weights.tensor(name, dtype, device)?),
            |name| Ok(Weight::Tensor(weights.tensor(name, dtype, device)?)),
        )
    }

    fn assemble(
        config: Config,
        device: &Device,
        vector: impl Fn(&str) -> Result<Tensor>,
        matrix: impl Fn(&str) -> Result<Weight>,
    ) -> Result<Self> {
        let linear = |name: String, bias: bool| -> Result<Linear> {
            let weight = matrix(&format!("{name}.weight"))?;
            let bias = bias.then(|| vector(&format!("{name}.bias"))).transpose()?;
            Ok(Linear { weight, bias })
        };
        let mut layers = Vec::with_capacity(config.num_layers);
        for i in 0..config.num_layers {
            let attn =
                |name: &str, bias| linear(format!("model.layers.{i}.self_attn.{name}"), bias);
            let mlp = |name: &str| linear(format!("model.layers.{i}.mlp.{name}"), config.mlp_bias);
            let norm = |name: &str| vector(&format!("model.layers.{i}.{name}.weight"));
            let qk_norm = match config.qk_norm {
                true => Some((norm("self_attn.q_norm")?, norm("self_attn.k_norm")?)),
                false => None,
            };
            layers.push(Layer {
                input_norm: norm("input_layernorm")?,
                q_proj: attn("q_proj", config.attention_bias)?,
                k_proj: attn("k_proj", config.attention_bias)?,
                v_proj: attn("v_proj", config.attention_bias)?,
                o_proj: attn("o_proj", config.attention_output_bias)?,
                qk_norm,
                post_attention_norm: norm("post_attention_layernorm")?,
                gate_proj: mlp("gate_proj")?,
                up_proj: mlp("up_proj")?,
                down_proj: mlp("down_proj")?,
            });
        }
        let norm = vector("model.norm.weight")?;
        let rope = Rope::new(
            &config.inverse_frequencies(),
            config.max_position_embeddings,
            norm.dtype(),
            device,
        )?;
        Ok(Self {
            embed: matrix("model.embed_tokens.weight")?,
            head: (!config.tie_word_embeddings).then(|| matrix("lm_head.weight")).transpose()?,
            layers,
            norm,
            rope,
            parameters: Vec::new(),
            device: device.clone(),
            backend: Backend::of(device),
            files: Vec::new(),
            layers_done: Arc::default(),
            config,
        })
    }

    /// Writes `config.json` and `model.safetensors` into `dir`, which others (transformers among them) load.
    ///
    /// # Errors
    /// Errors if the model has no parameters (it was opened for inference) or the disk refuses.
    pub fn save(&self, dir: &std::path::Path) -> Result<()> {
        if self.parameters.is_empty() {
            return Err(ModelError::Input(
                "a model opened for inference is converted, not saved".into(),
            ));
        }
        let tensors =
            self.parameters.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone()));
        save_safetensors(dir, &self.config, tensors, &SaveOptions::default())?;
        Ok(())
    }
}

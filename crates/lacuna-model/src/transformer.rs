//! Holds the model: its configuration, its weights, and the head that makes logits of hidden states.

use candle_core::{DType, Device, Tensor, Var};
use lacuna_checkpoint::{Attention, Config, MappedFile, Mode, Parameters, Predicts};
use lacuna_kernels::{Activations, Backend, CachePrecision, Rope};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use crate::cache::KvCache;
use crate::error::{Error, Result};
use crate::weight::Weight;

/// A Llama-shaped decoder with every attention mask that block diffusion needs.
#[derive(Clone, Debug)]
pub struct Transformer {
    pub(crate) config: Config,
    pub(crate) weights: Parameters<Weight>,
    /// The trainable parameters, which `weights` share; `None` in a model opened for inference.
    pub(crate) parameters: Option<Parameters<Var>>,
    /// The implementation that computes its operations.
    pub(crate) backend: Backend,
    pub(crate) dtype: DType,
    pub(crate) rope: Rope,
    pub(crate) device: Device,
    /// The precision of the keys and values in new caches.
    pub(crate) cache: CachePrecision,
    /// Files that weights are read from while it runs.
    pub(crate) files: Vec<Arc<MappedFile>>,
    /// Layers computed so far, by all passes.
    pub(crate) layers_done: Arc<AtomicU64>,
}

impl Transformer {
    /// The model's configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The number of layers that all passes together have computed so far. Another thread that reads it now and then
    /// knows how far a long pass is.
    pub fn layers_done(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.layers_done)
    }

    /// The implementation that computes the model's operations: the best for its device, unless
    /// [`with_backend`](Self::with_backend) has said otherwise.
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// The same model on another backend, sharing weights and parameters.
    #[must_use]
    pub fn with_backend(self, backend: Backend) -> Self {
        Self { backend, ..self }
    }

    /// The same model with keys and values kept in `precision` by the caches that it makes from now on.
    ///
    /// # Errors
    /// Errors if heads are no whole number of its blocks, or it is not for the model's device.
    pub fn with_cache_precision(self, precision: CachePrecision) -> Result<Self> {
        let model = Self { cache: precision, ..self };
        model.new_cache(0)?;
        Ok(model)
    }

    /// The precision of the keys and values in new caches: as they are computed, unless
    /// [`with_cache_precision`](Self::with_cache_precision) has said otherwise.
    pub fn cache_precision(&self) -> CachePrecision {
        self.cache
    }

    /// An empty cache for a sequence of this model, with room for `capacity` tokens at first.
    ///
    /// # Errors
    /// Errors if the device has no room.
    pub fn new_cache(&self, capacity: usize) -> Result<KvCache> {
        KvCache::in_precision(self.cache, &self.config, capacity, (self.dtype, &self.device))
    }

    /// Bytes that a token takes in such a cache.
    pub fn cache_bytes_per_token(&self) -> u64 {
        let floats = 2 * self.config.num_layers * self.config.num_kv_heads * self.config.head_dim;
        match self.cache {
            CachePrecision::F32 => (floats * self.dtype.size_in_bytes()) as u64,
            packed => self.config.cache_bytes_per_token(packed),
        }
    }

    /// The precision that one asked for in a [`Batch`](crate::Batch) comes to: f32, unless some projection of a layer is
    /// stored in a format that is multiplied with rounded activations.
    pub fn precision(&self, asked: Activations) -> Activations {
        let mut weights = self.weights.layers.iter().flat_map(|layer| layer.iter());
        let takes_it = weights.any(|(.., weight)| weight.precision(asked) == asked);
        if takes_it { asked } else { Activations::F32 }
    }

    /// Declares the mode that the weights have been trained for; the next checkpoint will say so.
    pub fn set_mode(&mut self, mode: Mode) {
        self.config.mode = mode;
    }

    /// Declares which token the logits at a masked position predict; the next checkpoint will say so.
    pub fn set_predicts(&mut self, predicts: Predicts) {
        self.config.predicts = predicts;
    }

    /// Declares which tokens a masked position has learnt to see; the next checkpoint will say so.
    pub fn set_attention(&mut self, attention: Attention) {
        self.config.attention = attention;
    }

    /// The element type of activations.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The device that the model lives on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The trainable parameters.
    ///
    /// # Errors
    /// Errors if the model was opened for inference.
    pub fn parameters(&self) -> Result<&Parameters<Var>> {
        self.parameters.as_ref().ok_or(Error::NotTrainable)
    }

    /// The matrix that makes the logits, tied or not.
    fn logit_weight(&self) -> &Weight {
        self.weights.head.as_ref().unwrap_or(&self.weights.embed)
    }

    /// The output head as a tensor [vocab, hidden], tied or not.
    ///
    /// # Errors
    /// Errors if a stored head can't be dequantized.
    pub fn head(&self) -> Result<Tensor> {
        match self.logit_weight() {
            Weight::Tensor(head) => Ok(head.clone()),
            Weight::Stored(head) => Ok(head.to_tensor(self.backend)?),
        }
    }

    /// Logits [rows, vocab] in f32 of hidden rows [rows, hidden].
    ///
    /// # Errors
    /// Errors on a shape that is not the model's.
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        self.logit_weight().product(self.backend, hidden)
    }

    /// −log p(target) of hidden rows [rows, hidden], in nats, without a gradient.
    ///
    /// # Errors
    /// Errors if shapes disagree or a target is outside the vocabulary.
    pub fn token_nll(&self, hidden: &Tensor, targets: &[u32]) -> Result<Vec<f32>> {
        const ROWS_AT_ONCE: usize = 256;
        let hidden = hidden.detach();
        if let Weight::Tensor(head) = self.logit_weight() {
            return Ok(lacuna_kernels::token_nll(self.backend, &hidden, &head.detach(), targets)?);
        }
        let mut nll = Vec::with_capacity(targets.len());
        for (i, targets) in targets.chunks(ROWS_AT_ONCE).enumerate() {
            let rows = hidden.narrow(0, i * ROWS_AT_ONCE, targets.len())?;
            for (row, target) in self.logits(&rows)?.to_vec2::<f32>()?.iter().zip(targets) {
                let Some(own) = row.get(*target as usize) else {
                    return Err(Error::Input(format!("token {target} is outside the vocabulary")));
                };
                let highest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let sum: f64 = row.iter().map(|l| f64::from(l - highest).exp()).sum();
                nll.push((sum.ln() + f64::from(highest - own)) as f32);
            }
        }
        Ok(nll)
    }

    pub(crate) fn scale(&self) -> f64 {
        1.0 / (self.config.head_dim as f64).sqrt()
    }
}

//! Updates a list of parameters by AdamW, with decoupled weight decay and clipping by the global norm.

use candle_core::backprop::GradStore;
use candle_core::{DType, Result, Tensor, Var, bail};
use lacuna_kernels::{AdamWUpdate, Backend, Moments, adamw, global_norm};

/// Hyper-parameters that stay the same over a run; the learning rate comes with each step.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct AdamWConfig {
    /// Decay of the first moment, β₁.
    pub beta1: f64,
    /// Decay of the second moment, β₂.
    pub beta2: f64,
    /// Added to the root of the second moment, outside of it.
    pub eps: f64,
    /// Decoupled weight decay: p ← p · (1 − lr · weight_decay) before the update.
    pub weight_decay: f64,
    /// Gradients are scaled by min(1, clip / (norm + 1e-6)); `None` leaves them.
    pub clip_norm: Option<f64>,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, clip_norm: Some(1.) }
    }
}

/// One parameter and whether weight decay applies to it.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// The trained tensor: f32, f64, or bf16/f16 with an f32 master copy kept inside.
    pub var: Var,
    /// True if weight decay applies to it.
    pub decay: bool,
}

impl Parameter {
    /// A parameter that decays if it is a matrix, and does not if it is a vector (norm weights and biases).
    pub fn new(var: Var) -> Self {
        let decay = var.rank() > 1;
        Self { var, decay }
    }
}

/// The optimizer's state: all that a checkpoint must hold besides the parameters.
#[derive(Clone, Debug)]
pub struct AdamWState {
    /// Steps taken.
    pub step: u64,
    /// (first moment, second moment) of each parameter, in the parameter's shape.
    pub moments: Vec<(Tensor, Tensor)>,
    /// The f32 master copy of each half-precision parameter; `None` for the others.
    pub masters: Vec<Option<Tensor>>,
}

/// AdamW over a fixed list of parameters.
///
/// m ← β₁m + (1−β₁)g, v ← β₂v + (1−β₂)g², p ← p(1 − lr·wd) − lr · m̂ / (√v̂ + eps), with
/// m̂ = m/(1−β₁ᵗ), v̂ = v/(1−β₂ᵗ), as in PyTorch.
#[derive(Debug)]
pub struct AdamW {
    config: AdamWConfig,
    step: u64,
    slots: Vec<Slot>,
}

#[derive(Debug)]
struct Slot {
    parameter: Parameter,
    moments: Moments,
}

impl AdamW {
    /// An optimizer before its first step, with moments of zero.
    ///
    /// # Errors
    /// If a parameter is not a float tensor.
    pub fn new(parameters: Vec<Parameter>, config: AdamWConfig) -> Result<Self> {
        let slot =
            |parameter: Parameter| Ok(Slot { moments: Moments::zeros(&parameter.var)?, parameter });
        let slots = parameters.into_iter().map(slot).collect::<Result<_>>()?;
        Ok(Self { config, step: 0, slots })
    }

    /// Makes one update; returns the global gradient norm before clipping.
    ///
    /// # Errors
    /// If a parameter has no gradient: then it would silently never be trained.
    pub fn step(
        &mut self,
        backend: Backend,
        gradients: &GradStore,
        learning_rate: f64,
    ) -> Result<f64> {
        let gradients = self.collect(gradients)?;
        self.step_tensors(backend, &gradients, learning_rate)
    }

    /// [`AdamW::step`] on gradients given in the order of the parameters.
    ///
    /// # Errors
    /// If the number or a shape differs from the parameters'.
    pub fn step_tensors(
        &mut self,
        backend: Backend,
        gradients: &[Tensor],
        learning_rate: f64,
    ) -> Result<f64> {
        let norm = global_norm(backend, gradients)?;
        self.step_with_norm(backend, gradients, norm, learning_rate)?;
        Ok(norm)
    }

    /// [`AdamW::step_tensors`] for a caller that has looked at the [`global_norm`] of the gradients.
    ///
    /// # Errors
    /// If the number or a shape differs from the parameters'.
    pub fn step_with_norm(
        &mut self,
        backend: Backend,
        gradients: &[Tensor],
        norm: f64,
        learning_rate: f64,
    ) -> Result<()> {
        if gradients.len() != self.slots.len() {
            let (got, want) = (gradients.len(), self.slots.len());
            bail!("adamw: {got} gradients, expected {want}, one per parameter")
        }
        for (i, (slot, grad)) in self.slots.iter().zip(gradients).enumerate() {
            let want = slot.parameter.var.dims();
            if grad.dims() != want {
                bail!("adamw: gradient {i} is {:?}, expected {want:?}", grad.dims())
            }
        }
        self.step += 1;
        let update = update_of(&self.config, self.step, norm, learning_rate);
        for (Slot { parameter, moments }, gradient) in self.slots.iter_mut().zip(gradients) {
            let shrink = if parameter.decay { update.shrink } else { 1. };
            let update = AdamWUpdate { shrink, ..update };
            adamw(backend, &parameter.var, gradient, moments, &update)?;
        }
        Ok(())
    }

    /// The hyper-parameters.
    pub fn config(&self) -> AdamWConfig {
        self.config
    }

    /// Steps taken so far.
    pub fn steps(&self) -> u64 {
        self.step
    }

    /// The parameters, in order.
    pub fn parameters(&self) -> impl Iterator<Item = &Parameter> {
        self.slots.iter().map(|slot| &slot.parameter)
    }

    /// A copy of the state, for a checkpoint.
    ///
    /// # Errors
    /// If a copy fails on the device.
    pub fn state(&self) -> Result<AdamWState> {
        let (mut moments, mut masters) = (vec![], vec![]);
        for slot in &self.slots {
            let Moments { first, second, master } = slot.moments.copied()?;
            moments.push((first, second));
            masters.push(master);
        }
        Ok(AdamWState { step: self.step, moments, masters })
    }

    /// Continues from a saved state.
    ///
    /// # Errors
    /// If the number or a shape differs from the parameters'.
    pub fn restore(&mut self, state: AdamWState) -> Result<()> {
        let n = self.slots.len();
        if state.moments.len() != n || state.masters.len() != n {
            bail!("adamw: state of {} parameters, expected {n}", state.moments.len())
        }
        for (i, (slot, (m, v))) in self.slots.iter().zip(&state.moments).enumerate() {
            let want = slot.parameter.var.dims();
            let master = state.masters[i].as_ref().map_or(want, Tensor::dims);
            if m.dims() != want || v.dims() != want || master != want {
                bail!("adamw: moments {i} are {:?}, {:?}, expected {want:?}", m.dims(), v.dims())
            }
            if is_half(&slot.parameter.var) != state.masters[i].is_some() {
                bail!("adamw: master copy {i} is missing or superfluous")
            }
        }
        self.step = state.step;
        for ((slot, (m, v)), master) in self.slots.iter_mut().zip(state.moments).zip(state.masters)
        {
            let var = &slot.parameter.var;
            let dtype = slot.moments.first.dtype();
            let place = |x: Tensor| x.to_dtype(dtype)?.to_device(var.device());
            let master = master.map(place).transpose()?;
            slot.moments = Moments { first: place(m)?, second: place(v)?, master }.copied()?;
        }
        Ok(())
    }

    fn collect(&self, gradients: &GradStore) -> Result<Vec<Tensor>> {
        let mut found = Vec::with_capacity(self.slots.len());
        for (i, slot) in self.slots.iter().enumerate() {
            let var = &slot.parameter.var;
            let Some(grad) = gradients.get(var) else {
                bail!("adamw: parameter {i} of shape {:?} got no gradient", var.dims())
            };
            found.push(grad.clone());
        }
        Ok(found)
    }
}

fn update_of(config: &AdamWConfig, step: u64, norm: f64, learning_rate: f64) -> AdamWUpdate {
    let t = step as f64;
    AdamWUpdate {
        beta1: config.beta1,
        beta2: config.beta2,
        eps: config.eps,
        grad_scale: config.clip_norm.map_or(1., |clip| (clip / (norm + 1e-6)).min(1.)),
        step_size: learning_rate / (1. - config.beta1.powf(t)),
        root_scale: 1. / (1. - config.beta2.powf(t)).sqrt(),
        shrink: 1. - learning_rate * config.weight_decay,
    }
}

fn is_half(x: &Tensor) -> bool {
    matches!(x.dtype(), DType::BF16 | DType::F16)
}

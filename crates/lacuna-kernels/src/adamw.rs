//! AdamW with decoupled weight decay and clipping by the global norm.

use candle_core::backprop::GradStore;
use candle_core::{DType, Result, Tensor, Var, bail};

/// Hyper-parameters that stay the same over a run; the learning rate comes with each step.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct AdamWConfig {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment, outside of it.
    pub eps: f64,
    /// Decoupled: p ← p · (1 − lr · weight_decay) before the update.
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
    /// Weight decay on or off.
    pub decay: bool,
}

impl Parameter {
    /// Decay for matrices, none for vectors (norm weights and biases).
    pub fn new(var: Var) -> Self {
        let decay = var.rank() > 1;
        Self { var, decay }
    }
}

/// Everything a checkpoint must hold besides the parameters.
#[derive(Clone, Debug)]
pub struct AdamWState {
    /// Steps taken.
    pub step: u64,
    /// (first moment, second moment) of each parameter, in the parameter's shape.
    pub moments: Vec<(Tensor, Tensor)>,
    /// f32 master copy of each half-precision parameter.
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
    m: Tensor,
    v: Tensor,
    master: Option<Tensor>,
}

impl AdamW {
    /// Zero moments, step 0.
    ///
    /// # Errors
    /// If a parameter is not a float tensor.
    pub fn new(parameters: Vec<Parameter>, config: AdamWConfig) -> Result<Self> {
        let slots = parameters.into_iter().map(Slot::new).collect::<Result<_>>()?;
        Ok(Self { config, step: 0, slots })
    }

    /// One update; returns the global gradient norm before clipping.
    ///
    /// # Errors
    /// If a parameter has no gradient: then it would silently never be trained.
    pub fn step(&mut self, gradients: &GradStore, learning_rate: f64) -> Result<f64> {
        let gradients = self.collect(gradients)?;
        self.step_tensors(&gradients, learning_rate)
    }

    /// [`AdamW::step`] on gradients given in the order of the parameters.
    ///
    /// # Errors
    /// If the number or a shape differs from the parameters'.
    pub fn step_tensors(&mut self, gradients: &[Tensor], learning_rate: f64) -> Result<f64> {
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
        let norm = global_norm(gradients)?;
        self.step += 1;
        let update = Update::new(&self.config, self.step, norm, learning_rate);
        for (slot, grad) in self.slots.iter_mut().zip(gradients) {
            slot.update(grad, &update)?;
        }
        Ok(norm)
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
        let moments = self.slots.iter().map(|s| Ok((s.m.copy()?, s.v.copy()?)));
        let masters = self.slots.iter().map(|s| s.master.as_ref().map(Tensor::copy).transpose());
        Ok(AdamWState {
            step: self.step,
            moments: moments.collect::<Result<_>>()?,
            masters: masters.collect::<Result<_>>()?,
        })
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
            let want = slot.m.dims();
            if m.dims() != want || v.dims() != want {
                bail!("adamw: moments {i} are {:?}, {:?}, expected {want:?}", m.dims(), v.dims())
            }
            if slot.master.is_some() != state.masters[i].is_some() {
                bail!("adamw: master copy {i} is missing or superfluous")
            }
        }
        self.step = state.step;
        for ((slot, (m, v)), master) in self.slots.iter_mut().zip(state.moments).zip(state.masters)
        {
            slot.load(&m, &v, master.as_ref())?;
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

/// sqrt(Σ g²) over all tensors: the norm that clipping uses.
///
/// # Errors
/// If a tensor is not of a float dtype.
pub fn global_norm(gradients: &[Tensor]) -> Result<f64> {
    let mut sum = 0.;
    for grad in gradients {
        sum += grad.to_dtype(DType::F64)?.sqr()?.sum_all()?.to_scalar::<f64>()?;
    }
    Ok(sum.sqrt())
}

/// The scalars of one step.
#[derive(Clone, Copy, Debug)]
struct Update {
    beta1: f64,
    beta2: f64,
    eps: f64,
    grad_scale: f64,
    /// lr / (1 − β₁ᵗ)
    step_size: f64,
    /// 1 / sqrt(1 − β₂ᵗ)
    root_scale: f64,
    /// 1 − lr · weight_decay
    shrink: f64,
}

impl Update {
    fn new(config: &AdamWConfig, step: u64, norm: f64, learning_rate: f64) -> Self {
        let t = step as f64;
        Self {
            beta1: config.beta1,
            beta2: config.beta2,
            eps: config.eps,
            grad_scale: config.clip_norm.map_or(1., |clip| (clip / (norm + 1e-6)).min(1.)),
            step_size: learning_rate / (1. - config.beta1.powf(t)),
            root_scale: 1. / (1. - config.beta2.powf(t)).sqrt(),
            shrink: 1. - learning_rate * config.weight_decay,
        }
    }
}

impl Slot {
    fn new(parameter: Parameter) -> Result<Self> {
        let var = &parameter.var;
        let (state, master) = match var.dtype() {
            DType::F64 => (DType::F64, None),
            DType::F32 => (DType::F32, None),
            DType::BF16 | DType::F16 => (DType::F32, Some(var.to_dtype(DType::F32)?)),
            other => bail!("adamw: parameter is {other:?}, expected a float type"),
        };
        let m = Tensor::zeros(var.shape(), state, var.device())?;
        let v = Tensor::zeros(var.shape(), state, var.device())?;
        Ok(Self { parameter, m, v, master })
    }

    fn load(&mut self, m: &Tensor, v: &Tensor, master: Option<&Tensor>) -> Result<()> {
        let place = |t: &Tensor| t.to_dtype(self.m.dtype())?.to_device(self.m.device())?.copy();
        let (m, v) = (place(m)?, place(v)?);
        let master = master.map(place).transpose()?;
        (self.m, self.v, self.master) = (m, v, master);
        Ok(())
    }

    /// The reference: plain candle operations, any float dtype, any device.
    fn update(&mut self, grad: &Tensor, update: &Update) -> Result<()> {
        let var = &self.parameter.var;
        let p = self.master.as_ref().unwrap_or(var.as_tensor()).detach();
        let g = (grad.detach().to_dtype(p.dtype())? * update.grad_scale)?;
        self.m = ((&self.m * update.beta1)? + (&g * (1. - update.beta1))?)?;
        self.v = ((&self.v * update.beta2)? + (g.sqr()? * (1. - update.beta2))?)?;
        let shrink = if self.parameter.decay { update.shrink } else { 1. };
        let root = ((self.v.sqrt()? * update.root_scale)? + update.eps)?;
        let p = ((p * shrink)? - (self.m.div(&root)? * update.step_size)?)?;
        if self.master.is_some() {
            self.master = Some(p.clone());
        }
        var.set(&p.to_dtype(var.dtype())?)
    }
}

//! Updates a list of parameters by AdamW, with decoupled weight decay and clipping by the global norm.

use candle_core::backprop::GradStore;
use candle_core::{DType, Result, Tensor, Var, bail};
use lacuna_kernels::{
    AdamWUpdate, Backend, EIGHT_BIT_BLOCK, Moments, adamw, adamw_eight_bit, eight_bit_len,
    global_norm,
};
use lacuna_random::{Purpose, RngCore, stream};
use std::ops::Range;

use crate::collective::Collective;
use crate::collective::shards::Ranks;

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
    /// The seed of the roundings of moments that are kept in eight bits; `None` keeps them in f32 (f64 for f64).
    pub eight_bit: Option<u64>,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self {
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            weight_decay: 0.1,
            clip_norm: Some(1.),
            eight_bit: None,
        }
    }
}

/// One parameter and whether weight decay applies to it.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// The trained tensor: f32, f64, or bf16/f16 with an f32 master copy kept inside.
    pub var: Var,
    /// True if weight decay applies to it.
    pub decay: bool,
    /// True if passes read it rounded to bf16, while an f32 copy kept inside adds up the updates.
    pub rounds: bool,
}

impl Parameter {
    /// A parameter that decays if it is a matrix, and does not if it is a vector (norm weights and biases).
    pub fn new(var: Var) -> Self {
        let decay = var.rank() > 1;
        Self { var, decay, rounds: false }
    }

    /// True if updates add up in an f32 copy of it.
    pub(crate) fn has_master(&self) -> bool {
        self.rounds || matches!(self.var.dtype(), DType::BF16 | DType::F16)
    }
}

/// The optimizer's state: all that a checkpoint must hold besides the parameters.
#[derive(Clone, Debug)]
pub struct AdamWState {
    /// Steps taken.
    pub step: u64,
    /// (first moment, second moment) of each parameter, in the parameter's shape, or the bytes of those in eight bits.
    pub moments: Vec<(Tensor, Tensor)>,
    /// The f32 master copy of each half-precision or rounded parameter; `None` for the others.
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
    parameters: Vec<Parameter>,
    /// The parameters that this optimizer updates, and their moments: all, unless ranks share them out.
    own: Range<usize>,
    moments: Vec<Moments>,
}

impl AdamW {
    /// An optimizer before its first step, with moments of zero.
    ///
    /// # Errors
    /// If a parameter is not a float tensor.
    pub fn new(parameters: Vec<Parameter>, config: AdamWConfig) -> Result<Self> {
        let own = 0..parameters.len();
        Self::of_rank(parameters, own, config)
    }

    /// An optimizer that updates some of the parameters and keeps no moments of the others, which are other ranks'.
    ///
    /// # Errors
    /// As [`AdamW::new`].
    pub(crate) fn of_rank(
        parameters: Vec<Parameter>,
        own: Range<usize>,
        config: AdamWConfig,
    ) -> Result<Self> {
        let fresh = |parameter| fresh(parameter, &config);
        let moments = parameters[own.clone()].iter().map(fresh).collect::<Result<_>>()?;
        Ok(Self { config, step: 0, parameters, own, moments })
    }

    /// Forgets what it has seen: moments of zero, before the first step. The parameters stay as they are, and so do the
    /// f32 copies of rounded ones.
    ///
    /// # Errors
    /// If the device has no room.
    pub fn reset(&mut self) -> Result<()> {
        for (parameter, moments) in self.parameters[self.own.clone()].iter().zip(&mut self.moments)
        {
            let master = moments.master.take();
            let plain = Parameter { rounds: false, ..parameter.clone() };
            let zeros = fresh(&plain, &self.config)?;
            *moments = Moments { master, ..zeros };
        }
        self.step = 0;
        Ok(())
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

    /// [`AdamW::step`] on gradients given in the order of the parameters that it updates.
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
        let own = &self.parameters[self.own.clone()];
        if gradients.len() != own.len() {
            let (got, want) = (gradients.len(), own.len());
            bail!("adamw: {got} gradients, expected {want}, one per parameter")
        }
        for (i, (parameter, grad)) in own.iter().zip(gradients).enumerate() {
            let want = parameter.var.dims();
            if grad.dims() != want {
                bail!("adamw: gradient {i} is {:?}, expected {want:?}", grad.dims())
            }
        }
        self.step += 1;
        let update = update_of(&self.config, self.step, norm, learning_rate);
        let mut block = self.parameters[..self.own.start].iter().map(blocks).sum::<u64>();
        for ((parameter, moments), gradient) in own.iter().zip(&mut self.moments).zip(gradients) {
            let shrink = if parameter.decay { update.shrink } else { 1. };
            let update = AdamWUpdate { shrink, ..update };
            let Some(seed) = self.config.eight_bit else {
                adamw(backend, &parameter.var, gradient, moments, &update)?;
                continue;
            };
            let words = |number: usize, words: &mut [u32; EIGHT_BIT_BLOCK]| {
                let mut draws = stream(seed, Purpose::Rounding, self.step, block + number as u64);
                words.fill_with(|| draws.next_u32());
            };
            adamw_eight_bit(backend, &parameter.var, gradient, moments, &update, &words)?;
            block += blocks(parameter);
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
        self.parameters.iter()
    }

    /// The tensors of the parameters, in order.
    pub(crate) fn tensors(&self) -> Vec<&Tensor> {
        self.parameters.iter().map(|parameter| parameter.var.as_tensor()).collect()
    }

    /// The parameters that it updates, and that it has moments of.
    pub(crate) fn own(&self) -> Range<usize> {
        self.own.clone()
    }

    /// The ranks that share out its parameters.
    pub(crate) fn ranks<'a>(&self, collective: &'a Collective) -> Ranks<'a> {
        Ranks::of(collective, &sizes(&self.parameters))
    }

    /// The values that updates add up in, of the parameters that it updates and in their order: the f32 copy where there
    /// is one, else the parameter itself.
    pub fn values(&self) -> impl Iterator<Item = &Tensor> {
        let own = self.parameters[self.own.clone()].iter();
        own.zip(&self.moments).map(|(parameter, moments)| {
            moments.master.as_ref().unwrap_or(parameter.var.as_tensor())
        })
    }

    /// The state itself and no copy of it, for a caller that is done with it before the next step.
    pub(crate) fn shared_state(&self) -> AdamWState {
        let moments = self.moments.iter().map(|m| (m.first.clone(), m.second.clone())).collect();
        let masters = self.moments.iter().map(|moments| moments.master.clone()).collect();
        AdamWState { step: self.step, moments, masters }
    }

    /// A copy of the state of the parameters that it updates, for a checkpoint.
    ///
    /// # Errors
    /// If a copy fails on the device.
    pub fn state(&self) -> Result<AdamWState> {
        let (mut moments, mut masters) = (vec![], vec![]);
        for own in &self.moments {
            let Moments { first, second, master } = own.copied()?;
            moments.push((first, second));
            masters.push(master);
        }
        Ok(AdamWState { step: self.step, moments, masters })
    }

    /// Continues from a saved state, which is that of all parameters.
    ///
    /// # Errors
    /// If the number or a shape differs from the parameters'.
    pub fn restore(&mut self, state: AdamWState) -> Result<()> {
        let n = self.parameters.len();
        if state.moments.len() != n || state.masters.len() != n {
            bail!("adamw: state of {} parameters, expected {n}", state.moments.len())
        }
        for (i, (parameter, (m, v))) in self.parameters.iter().zip(&state.moments).enumerate() {
            let shape = parameter.var.dims();
            let master = state.masters[i].as_ref().map_or(shape, Tensor::dims);
            let bytes = [eight_bit_len(parameter.var.elem_count())];
            let want = if self.config.eight_bit.is_some() { &bytes[..] } else { shape };
            if m.dims() != want || v.dims() != want || master != shape {
                bail!("adamw: moments {i} are {:?}, {:?}, expected {want:?}", m.dims(), v.dims())
            }
            let is_bytes = |moment: &Tensor| moment.dtype() == DType::U8;
            if [m, v].into_iter().any(|one| is_bytes(one) != self.config.eight_bit.is_some()) {
                bail!("adamw: moments {i} are {:?}, of another form than is kept", m.dtype())
            }
            if parameter.has_master() != state.masters[i].is_some() {
                bail!("adamw: master copy {i} is missing or superfluous")
            }
        }
        self.step = state.step;
        let states = state.moments.into_iter().zip(state.masters).skip(self.own.start);
        for ((i, moments), ((m, v), master)) in self.own.clone().zip(&mut self.moments).zip(states)
        {
            let var = &self.parameters[i].var;
            let place = |x: Tensor, dtype| x.to_dtype(dtype)?.to_device(var.device());
            let of_masters = moments.master.as_ref().map_or(DType::F32, Tensor::dtype);
            let master = master.map(|master| place(master, of_masters)).transpose()?;
            let dtype = moments.first.dtype();
            *moments =
                Moments { first: place(m, dtype)?, second: place(v, dtype)?, master }.copied()?;
        }
        Ok(())
    }

    fn collect(&self, gradients: &GradStore) -> Result<Vec<Tensor>> {
        let mut found = Vec::with_capacity(self.own.len());
        for i in self.own.clone() {
            let var = &self.parameters[i].var;
            let Some(grad) = gradients.get(var) else {
                bail!("adamw: parameter {i} of shape {:?} got no gradient", var.dims())
            };
            found.push(grad.clone());
        }
        Ok(found)
    }
}

/// The number of values of each parameter.
pub(crate) fn sizes(parameters: &[Parameter]) -> Vec<usize> {
    parameters.iter().map(|parameter| parameter.var.elem_count()).collect()
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

/// The blocks that have a factor of their own, and draws of their own, where moments are kept in eight bits.
fn blocks(parameter: &Parameter) -> u64 {
    parameter.var.elem_count().div_ceil(EIGHT_BIT_BLOCK) as u64
}

/// The moments before the first step, and the f32 copy.
fn fresh(parameter: &Parameter, config: &AdamWConfig) -> Result<Moments> {
    match (config.eight_bit, parameter.rounds) {
        (Some(_), rounds) => Moments::eight_bit(&parameter.var, rounds),
        (None, true) => Moments::rounding(&parameter.var),
        (None, false) => Moments::zeros(&parameter.var),
    }
}

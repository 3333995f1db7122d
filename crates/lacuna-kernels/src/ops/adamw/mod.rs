//! Computes one parameter's share of a step of AdamW, and the norm that all gradients are clipped by.

use candle_core::{DType, Result, Tensor, Var, bail};

use crate::backend::{Backend, Serving};

mod cpu;
mod eight_bit;
pub(crate) mod reference;

pub use eight_bit::{EIGHT_BIT_BLOCK, RoundingWords, adamw_eight_bit, eight_bit_len};

/// The state that AdamW keeps for a parameter from step to step. Every tensor has the parameter's shape, but moments of
/// [eight bits](Moments::eight_bit) are bytes.
#[derive(Clone, Debug)]
pub struct Moments {
    /// The running mean of the gradient.
    pub first: Tensor,
    /// The running mean of the gradient's square.
    pub second: Tensor,
    /// The f32 copy of a half-precision parameter, which small steps add up in; of an f32 parameter, the copy that it
    /// is a rounding to bf16 of.
    pub master: Option<Tensor>,
}

impl Moments {
    /// The moments before the first step: zeros in f32 (for f64 parameters in f64), and the f32 copy of a
    /// half-precision parameter.
    ///
    /// # Errors
    /// If the parameter is not a float tensor.
    pub fn zeros(parameter: &Tensor) -> Result<Self> {
        let dtype = match parameter.dtype() {
            DType::F64 => DType::F64,
            DType::F32 | DType::BF16 | DType::F16 => DType::F32,
            other => bail!("adamw: parameter is {other:?}, expected a float type"),
        };
        let zeros = || Tensor::zeros(parameter.shape(), dtype, parameter.device());
        let half = matches!(parameter.dtype(), DType::BF16 | DType::F16);
        let master = half.then(|| parameter.to_dtype(DType::F32)?.copy()).transpose()?;
        Ok(Self { first: zeros()?, second: zeros()?, master })
    }

    /// [`zeros`](Self::zeros) of an f32 parameter whose values passes read rounded to bf16: it has a copy too, of the
    /// values as they are now, and is their rounding behind every update.
    ///
    /// # Errors
    /// As [`zeros`](Self::zeros).
    pub fn rounding(parameter: &Tensor) -> Result<Self> {
        let zeros = Self::zeros(parameter)?;
        let copied = (parameter.dtype() == DType::F32).then(|| parameter.detach().copy());
        Ok(Self { master: zeros.master.or(copied.transpose()?), ..zeros })
    }

    /// Contiguous copies that share no memory with these.
    ///
    /// # Errors
    /// If a copy fails on the device.
    pub fn copied(&self) -> Result<Self> {
        let copy = |x: &Tensor| x.force_contiguous();
        let master = self.master.as_ref().map(copy).transpose()?;
        Ok(Self { first: copy(&self.first)?, second: copy(&self.second)?, master })
    }
}

/// The scalars of one step, the same for all parameters but `shrink`.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct AdamWUpdate {
    /// Decay of the first moment, β₁.
    pub beta1: f64,
    /// Decay of the second moment, β₂.
    pub beta2: f64,
    /// Added to the root of the second moment, outside of it.
    pub eps: f64,
    /// The factor that clips the gradient; the gradient is multiplied with it before anything else.
    pub grad_scale: f64,
    /// Learning rate with the correction of the first moment's bias in step t: lr / (1 − β₁ᵗ).
    pub step_size: f64,
    /// Correction of the second moment's bias in step t, for its root: 1 / sqrt(1 − β₂ᵗ).
    pub root_scale: f64,
    /// Weight decay as a factor of the parameter: 1 − lr · weight_decay, or 1 for a parameter without decay.
    pub shrink: f64,
}

/// Updates a parameter and its moments by one step: m ← β₁m + (1−β₁)g, v ← β₂v + (1−β₂)g²,
/// p ← p · shrink − step_size · m / (√v · root_scale + eps), for the gradient g after clipping. Moments are
/// overwritten in place, so they must share no memory with others ([`Moments::copied`]).
///
/// # Errors
/// If shapes or dtypes disagree.
pub fn adamw(
    backend: Backend,
    parameter: &Var,
    gradient: &Tensor,
    moments: &mut Moments,
    update: &AdamWUpdate,
) -> Result<()> {
    let Moments { first, second, master } = &*moments;
    let stepped = master.as_ref().unwrap_or(parameter);
    for (what, x) in
        [("gradient", gradient), ("moment", first), ("moment", second), ("master", stepped)]
    {
        if x.dims() != parameter.dims() {
            bail!("adamw: a {what} is {:?}, expected {:?}", x.dims(), parameter.dims())
        }
    }
    let in_place = [parameter, first, second, stepped].into_iter().all(Tensor::is_contiguous);
    match backend.serving(&[first, second, stepped]) {
        Serving::Cpu(isa) if in_place => cpu::adamw(isa, parameter, gradient, moments, update),
        _ => reference::adamw(parameter, gradient, moments, update),
    }
}

/// sqrt(Σ g²) over all tensors: the norm that clipping uses. It does not depend on the number of threads.
///
/// # Errors
/// If a tensor is not of a float dtype.
pub fn global_norm(backend: Backend, gradients: &[Tensor]) -> Result<f64> {
    Ok(sums_of_squares(backend, gradients)?.iter().sum::<f64>().sqrt())
}

/// Σ g² of each tensor, of which [`global_norm`] is the root of the sum.
///
/// # Errors
/// If a tensor is not of a float dtype.
pub fn sums_of_squares(backend: Backend, gradients: &[Tensor]) -> Result<Vec<f64>> {
    let of_one = |gradient: &Tensor| match backend.serving(&[gradient]) {
        Serving::Reference => reference::sum_of_squares(gradient),
        Serving::Cpu(isa) => cpu::sum_of_squares(isa, gradient),
    };
    gradients.iter().map(of_one).collect()
}

/// Lets `mean` take in `value`: mean ← decay · mean + (1 − decay) · value. The mean is overwritten in place, so it must
/// share no memory with others.
///
/// # Errors
/// If the shapes differ.
pub fn moving_average(
    backend: Backend,
    mean: &mut Tensor,
    value: &Tensor,
    decay: f64,
) -> Result<()> {
    if mean.dims() != value.dims() {
        bail!("average: a value is {:?}, expected {:?}", value.dims(), mean.dims())
    }
    let in_place = mean.is_contiguous() && value.is_contiguous();
    match backend.serving(&[mean, value]) {
        Serving::Cpu(_) if in_place => cpu::moving_average(mean, value, decay),
        _ => {
            *mean = reference::moving_average(mean, value, decay)?;
            Ok(())
        }
    }
}

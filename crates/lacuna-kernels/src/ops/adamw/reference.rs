//! Defines AdamW's update by plain candle operations, for any float dtype and any device.

use candle_core::{DType, Result, Tensor, Var};

use super::{AdamWUpdate, Moments};

/// See [`crate::adamw`].
///
/// # Errors
/// If shapes or dtypes disagree.
pub fn adamw(
    parameter: &Var,
    gradient: &Tensor,
    moments: &mut Moments,
    update: &AdamWUpdate,
) -> Result<()> {
    let Moments { first: m, second: v, master } = moments;
    let p = master.as_ref().unwrap_or(parameter.as_tensor()).detach();
    let g = (gradient.detach().to_dtype(p.dtype())? * update.grad_scale)?;
    *m = ((&*m * update.beta1)? + (&g * (1. - update.beta1))?)?;
    *v = ((&*v * update.beta2)? + (g.sqr()? * (1. - update.beta2))?)?;
    let root = ((v.sqrt()? * update.root_scale)? + update.eps)?;
    let p = ((p * update.shrink)? - (m.div(&root)? * update.step_size)?)?;
    let read = match (&master, parameter.dtype()) {
        (Some(_), DType::F32) => p.to_dtype(DType::BF16)?.to_dtype(DType::F32)?,
        (_, dtype) => p.to_dtype(dtype)?,
    };
    parameter.set(&read)?;
    if master.is_some() {
        *master = Some(p);
    }
    Ok(())
}

/// decay · mean + (1 − decay) · value.
///
/// # Errors
/// If shapes disagree.
pub fn moving_average(mean: &Tensor, value: &Tensor, decay: f64) -> Result<Tensor> {
    let value = value.detach().to_dtype(mean.dtype())?;
    (mean * decay)? + (value * (1. - decay))?
}

/// sqrt(Σ g²) over all tensors.
///
/// # Errors
/// If a tensor is not of a float dtype.
pub fn global_norm(gradients: &[Tensor]) -> Result<f64> {
    let squares = gradients.iter().map(sum_of_squares);
    Ok(squares.sum::<Result<f64>>()?.sqrt())
}

pub(super) fn sum_of_squares(x: &Tensor) -> Result<f64> {
    x.to_dtype(DType::F64)?.sqr()?.sum_all()?.to_scalar::<f64>()
}

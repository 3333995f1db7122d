//! Defines the dense layer.

use candle_core::{Result, Tensor};

/// x · weightᵀ. x: `[.., in]`, weight: `[out, in]` → `[.., out]`.
///
/// # Errors
/// If the inner dimensions differ.
pub fn linear(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let (rows, shape) = super::check(x, weight)?;
    let (_, inner) = weight.dims2()?;
    x.reshape((rows, inner))?.matmul(&weight.t()?)?.reshape(shape)
}

/// Σ dy · weight.
///
/// # Errors
/// If shapes disagree.
pub fn linear_input_gradient(terms: &[(&Tensor, &Tensor)]) -> Result<Tensor> {
    let mut sum: Option<Tensor> = None;
    for (dy, weight) in terms {
        let dy = dy.detach().flatten_to(dy.rank().saturating_sub(2))?;
        let term = dy.matmul(&weight.detach())?;
        sum = Some(match sum {
            Some(sum) => (sum + term)?,
            None => term,
        });
    }
    sum.ok_or_else(|| candle_core::Error::msg("linear: no layer, no gradient"))
}

/// dyᵀ · x.
///
/// # Errors
/// If the numbers of rows differ.
pub fn linear_weight_gradient(dy: &Tensor, x: &Tensor) -> Result<Tensor> {
    let rows = |t: &Tensor| t.detach().flatten_to(t.rank().saturating_sub(2));
    rows(dy)?.t()?.matmul(&rows(x)?)
}

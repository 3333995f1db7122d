//! Collects the definitions: every operation in plain candle operations that have a backward pass, for any float
//! dtype (f64 too) and any device. The fast versions are tested against them; [`Backend::Reference`](crate::Backend)
//! calls them.
//!
//! candle's fused `rms_norm`, `rope`, `softmax_last_dim` and `slice_set` are avoided on purpose: candle gives them no
//! gradient, and no error either.

use candle_core::backprop::GradStore;
use candle_core::{DType, Result, Tensor, Var};

pub use crate::ops::adamw::reference::{adamw, global_norm, moving_average};
pub use crate::ops::attention::reference::{attention, attention_backward, attention_over};
pub use crate::ops::cross_entropy::reference::{
    linear_cross_entropy, linear_cross_entropy_gradients, token_nll,
};
pub use crate::ops::embedding::reference::{embedding, embedding_backward};
pub use crate::ops::linear::reference::{linear, linear_input_gradient, linear_weight_gradient};
pub use crate::ops::rms_norm::reference::{add_rms_norm, rms_norm, rms_norm_backward};
pub use crate::ops::rope::reference::{rope, rope_backward};
pub use crate::ops::swiglu::reference::{swiglu, swiglu_backward};

/// The operand in the type that is computed in: half precision becomes f32; f32 and f64 stay as they are.
pub(crate) fn widen(x: &Tensor) -> Result<Tensor> {
    match x.dtype() {
        DType::F16 | DType::BF16 => x.to_dtype(DType::F32),
        _ => Ok(x.clone()),
    }
}

/// The gradients of Σ f(inputs) · dy in each input: records f on the spot and walks it back.
pub(crate) fn gradients<const N: usize>(
    inputs: [&Tensor; N],
    dy: &Tensor,
    f: impl Fn([&Tensor; N]) -> Result<Tensor>,
) -> Result<[Tensor; N]> {
    let mut vars = Vec::with_capacity(N);
    for input in inputs {
        vars.push(Var::from_tensor(&input.detach())?);
    }
    let store = f(std::array::from_fn(|i| vars[i].as_tensor()))?.mul(&dy.detach())?.backward()?;
    let found = vars.iter().map(|var| found(&store, var)).collect::<Result<Vec<_>>>()?;
    Ok(found.try_into().expect("one gradient for each input"))
}

/// A variable's gradient, or zeros if the store has none.
pub(crate) fn found(store: &GradStore, var: &Var) -> Result<Tensor> {
    match store.get(var) {
        Some(gradient) => Ok(gradient.detach()),
        None => var.zeros_like(),
    }
}

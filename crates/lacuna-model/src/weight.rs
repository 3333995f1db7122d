//! Holds weights as a pass reads them, and multiplies with them.

use candle_core::{Tensor, Var};
use lacuna_checkpoint::Linear;
use lacuna_kernels::{Backend, WeightMatrix, linear};
use std::sync::Arc;

use crate::error::{Error, Result};

/// A weight: a tensor that gradients reach, or a matrix kept as the checkpoint stores it.
#[derive(Clone, Debug)]
pub(crate) enum Weight {
    Tensor(Tensor),
    Stored(Arc<WeightMatrix>),
}

impl From<&Var> for Weight {
    fn from(var: &Var) -> Self {
        Self::Tensor(var.as_tensor().clone())
    }
}

impl Weight {
    /// The tensor of a norm, a bias, or any weight of a model that can be trained.
    pub(crate) fn tensor(&self) -> Result<&Tensor> {
        match self {
            Self::Tensor(weight) => Ok(weight),
            Self::Stored(_) => Err(Error::NotTrainable),
        }
    }

    /// The product x · weightᵀ. x: [rows, in] to [rows, out].
    pub(crate) fn product(&self, backend: Backend, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Tensor(weight) => Ok(linear(backend, x, weight)?),
            Self::Stored(weight) => Ok(weight.matmul(backend, x)?),
        }
    }
}

/// x · weightᵀ + bias. x: [rows, in] to [rows, out].
pub(crate) fn project(backend: Backend, layer: &Linear<Weight>, x: &Tensor) -> Result<Tensor> {
    with_bias(layer, layer.weight.product(backend, x)?)
}

/// Several projections of the same input; stored weights share one parallel region.
pub(crate) fn project_all<const N: usize>(
    backend: Backend,
    layers: [&Linear<Weight>; N],
    x: &Tensor,
) -> Result<[Tensor; N]> {
    let mut stored = Vec::with_capacity(N);
    for layer in layers {
        if let Weight::Stored(weight) = &layer.weight {
            stored.push(weight.as_ref());
        }
    }
    let outputs = if stored.len() == N {
        let products = WeightMatrix::matmul_many(backend, &stored, x)?;
        layers.iter().zip(products).map(|(l, y)| with_bias(l, y)).collect::<Result<Vec<_>>>()?
    } else {
        layers.iter().map(|l| project(backend, l, x)).collect::<Result<Vec<_>>>()?
    };
    Ok(outputs.try_into().expect("one output for each layer"))
}

fn with_bias(layer: &Linear<Weight>, y: Tensor) -> Result<Tensor> {
    match &layer.bias {
        Some(bias) => Ok(y.broadcast_add(bias.tensor()?)?),
        None => Ok(y),
    }
}

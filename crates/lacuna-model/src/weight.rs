//! Holds weights as a pass reads them, and multiplies with them.

use candle_core::{Tensor, Var};
use lacuna_checkpoint::Linear;
use lacuna_kernels::{Activations, Backend, WeightMatrix, linear};
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

    /// The precision that one asked for comes to: tensors are multiplied exactly, and so are some stored formats.
    pub(crate) fn precision(&self, asked: Activations) -> Activations {
        match self {
            Self::Tensor(_) => Activations::F32,
            Self::Stored(weight) => asked.of(weight.dtype()),
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

/// x · weightᵀ + bias for several projections of the same input, of which stored ones share one parallel region.
/// x: [rows, in] to [rows, out].
pub(crate) fn project<const N: usize>(
    backend: Backend,
    layers: [&Linear<Weight>; N],
    x: &Tensor,
    precision: Activations,
) -> Result<[Tensor; N]> {
    let mut stored = Vec::with_capacity(N);
    for layer in layers {
        if let Weight::Stored(weight) = &layer.weight {
            stored.push(weight.as_ref());
        }
    }
    let products = match stored[..] {
        [] => Vec::new(),
        _ => WeightMatrix::matmul_many_with(backend, &stored, x, precision)?,
    };
    let mut products = products.into_iter();
    let outputs = layers.iter().map(|layer| {
        let product = match &layer.weight {
            Weight::Tensor(weight) => linear(backend, x, weight)?,
            Weight::Stored(_) => products.next().expect("a product for each matrix"),
        };
        with_bias(layer, product)
    });
    let outputs = outputs.collect::<Result<Vec<_>>>()?;
    Ok(outputs.try_into().expect("one output for each layer"))
}

fn with_bias(layer: &Linear<Weight>, y: Tensor) -> Result<Tensor> {
    match &layer.bias {
        Some(bias) => Ok(y.broadcast_add(bias.tensor()?)?),
        None => Ok(y),
    }
}

//! The forward pass that training takes, and its backward pass, written out.
//!
//! The same function as [`Transformer::forward`], whose graph candle walks back; that one is the definition,
//! and the tests hold this one against it. Written out it keeps less (norms and activations are computed again
//! where that is cheaper than keeping them), adds gradients while they are formed, and can forget a layer's
//! activations altogether, to compute them anew from the layer's input when its turn comes.

mod layer;
mod rows;

use candle_core::Tensor;
use lacuna_checkpoint::{Layer, Parameters};
use lacuna_kernels::{add_rms_norm, embedding, embedding_backward, rms_norm, rms_norm_backward};

use crate::error::{Error, Result};
use crate::transformer::Transformer;
use crate::weight::Weight;
use crate::windows::Windows;
use layer::Activations;
use rows::Rows;

/// What a backward pass needs of the forward pass before it.
#[derive(Debug)]
pub struct Record {
    windows: Windows,
    /// The distinct tokens, which the first layer reads.
    tokens: Tensor,
    layers: Vec<(Rows, Kept)>,
    /// What the final norm read.
    last: Tensor,
}

/// A layer's activations, or its input alone.
#[derive(Debug)]
enum Kept {
    Activations(Box<Activations>),
    Input(Tensor),
}

impl Transformer {
    /// [`forward`](Self::forward) without a graph: hidden states after the final norm, and what
    /// [`backward`](Self::backward) needs. With `recompute`, of each layer only its input is kept.
    ///
    /// # Errors
    /// Errors if the model was opened for inference, no row is wanted, or a tensor operation fails.
    pub fn record(&self, windows: &Windows, recompute: bool) -> Result<(Tensor, Record)> {
        if windows.wants_nothing() {
            return Err(Error::Input("a pass of which no row is wanted has no gradient".into()));
        }
        let eps = self.config.rms_norm_eps;
        let table = self.weights.embed.tensor()?.detach();
        let (tokens, rows) = Rows::of_layers(windows, self.weights.layers.len())?;
        let mut x = embedding(self.backend, &table, &tokens)?;
        // What the last layer adds to the residual stream: summed where the next norm reads it.
        let mut delta: Option<Tensor> = None;
        let add_norm = |x: Tensor, delta: Option<Tensor>, weight: &Tensor| match delta {
            None => rms_norm(self.backend, &x, weight, eps).map(|normed| (x, normed)),
            Some(delta) => add_rms_norm(self.backend, &x, &delta, weight, eps),
        };
        let mut kept = Vec::with_capacity(self.weights.layers.len());
        for (layer, rows) in self.weights.layers.iter().zip(rows) {
            let layer = detached(layer)?;
            let (input, normed) = add_norm(x, delta, &layer.input_norm)?;
            let (activations, left) =
                self.layer_forward(&layer, input.clone(), &normed, windows, &rows)?;
            let own = match recompute {
                true => Kept::Input(input),
                false => Kept::Activations(Box::new(activations)),
            };
            kept.push((rows, own));
            let [middle, fed] = left;
            (x, delta) = (middle, Some(fed));
        }
        let (last, hidden) = add_norm(x, delta, &self.weights.norm.tensor()?.detach())?;
        Ok((hidden, Record { windows: windows.clone(), tokens, layers: kept, last }))
    }

    /// The gradient of every parameter, given that of the hidden states, [rows, hidden], and that of
    /// [`head`](Self::head), [vocab, hidden].
    ///
    /// # Errors
    /// Errors if a tensor operation fails.
    pub fn backward(
        &self,
        record: Record,
        d_hidden: &Tensor,
        d_head: &Tensor,
    ) -> Result<Parameters<Tensor>> {
        let Record { windows, tokens, mut layers, last } = record;
        let eps = self.config.rms_norm_eps;
        let norm = self.weights.norm.tensor()?.detach();
        let (mut d_x, norm) = rms_norm_backward(self.backend, &last, &norm, eps, d_hidden, None)?;
        let mut d_layers = Vec::with_capacity(layers.len());
        for layer in self.weights.layers.iter().rev() {
            let layer = detached(layer)?;
            let (rows, kept) = layers.pop().ok_or_else(|| {
                Error::Input("the record belongs to a model with fewer layers".into())
            })?;
            let activations = match kept {
                Kept::Activations(activations) => *activations,
                Kept::Input(x) => {
                    let normed = rms_norm(self.backend, &x, &layer.input_norm, eps)?;
                    self.layer_forward(&layer, x, &normed, &windows, &rows)?.0
                }
            };
            let d_layer;
            (d_x, d_layer) = self.layer_backward(&layer, activations, &windows, &rows, &d_x)?;
            d_layers.push(d_layer);
        }
        d_layers.reverse();
        // A tied embedding has the head's gradient and its own.
        let (onto, head) = match self.weights.head {
            None => (d_head.clone(), None),
            Some(_) => (d_head.zeros_like()?, Some(d_head.clone())),
        };
        let embed = embedding_backward(self.backend, &tokens, &d_x, &onto)?;
        Ok(Parameters { embed, layers: d_layers, norm, head })
    }
}

/// The same weights without a graph.
fn detached(layer: &Layer<Weight>) -> Result<Layer<Tensor>> {
    layer.try_map(|_, _, weight| Ok(weight.tensor()?.detach()))
}

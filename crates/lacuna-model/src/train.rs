//! Runs the forward pass that training takes, and its backward pass, written out.
//!
//! The forward pass is the same function as [`Transformer::forward`], whose graph candle walks back; that one is the
//! definition, and the tests hold this one against it. Both walk the same block. Written out, a pass keeps less
//! (norms and activations are computed again where that is cheaper than keeping them), adds gradients while they are
//! formed, and can forget a layer's activations altogether, to compute them anew from the layer's input when its turn
//! comes.

use candle_core::Tensor;
use lacuna_checkpoint::Parameters;
use lacuna_kernels::{embedding, embedding_backward, rms_norm_backward};

use crate::batch::Batch;
use crate::block::{Activations, Pass, Stream};
use crate::error::{Error, Result};
use crate::keys::Keys;
use crate::rows::{Plan, Purpose};
use crate::transformer::Transformer;
use crate::weight::Weight;

/// The activations of a forward pass that [`Transformer::backward`] needs.
#[derive(Debug)]
pub struct SavedActivations {
    plan: Plan,
    layers: Vec<Saved>,
    /// The final norm's input.
    last: Tensor,
}

/// A layer's activations, or its input alone.
#[derive(Debug)]
enum Saved {
    Activations(Box<Activations>),
    Input(Tensor),
}

impl Transformer {
    /// [`forward`](Self::forward) without a graph: hidden states after the final norm, and what
    /// [`backward`](Self::backward) needs. With `recompute`, of each layer only its input is kept.
    ///
    /// # Errors
    /// Errors if the model was opened for inference, no row is wanted, or a tensor operation fails.
    pub fn forward_train(
        &self,
        batch: &Batch,
        recompute: bool,
    ) -> Result<(Tensor, SavedActivations)> {
        if batch.wanted().is_empty() {
            let reason = "a pass of which no row is wanted has no gradient";
            return Err(Error::Input(reason.into()));
        }
        self.check_positions(batch)?;
        let weights = self.without_graph()?;
        let plan = Plan::new(batch, Purpose::Train, self)?;
        let tokens = Tensor::new(plan.tokens.as_slice(), self.device())?;
        let mut x = Stream::new(embedding(self.backend, weights.embed.tensor()?, &tokens)?);
        let mut pass = self.pass_back(&weights, &plan);
        let mut layers = Vec::with_capacity(weights.layers.len());
        for i in 0..weights.layers.len() {
            let saved;
            (x, saved) = pass.block(i, x)?;
            layers.push(match recompute {
                true => Saved::Input(activations(saved).x),
                false => Saved::Activations(Box::new(activations(saved))),
            });
        }
        let hidden = x.norm(self, &weights.norm)?;
        Ok((hidden, SavedActivations { plan, layers, last: x.into_sum() }))
    }

    /// The gradient of every parameter, given that of the hidden states, [wanted, hidden], and that of
    /// [`head`](Self::head), [vocab, hidden].
    ///
    /// # Errors
    /// Errors if the activations are another model's, or a tensor operation fails.
    pub fn backward(
        &self,
        saved: SavedActivations,
        d_hidden: &Tensor,
        d_head: &Tensor,
    ) -> Result<Parameters<Tensor>> {
        let SavedActivations { plan, layers: saved, last } = saved;
        let weights = self.without_graph()?;
        if saved.len() != weights.layers.len() {
            let reason = "the saved activations belong to a model with another number of layers";
            return Err(Error::Input(reason.into()));
        }
        let eps = self.config.rms_norm_eps;
        let (mut d_x, norm) =
            rms_norm_backward(self.backend, &last, weights.norm.tensor()?, eps, d_hidden, None)?;
        let mut pass = self.pass_back(&weights, &plan);
        let mut layers = Vec::with_capacity(saved.len());
        for (i, saved) in saved.into_iter().enumerate().rev() {
            let saved = match saved {
                Saved::Activations(saved) => *saved,
                Saved::Input(x) => activations(pass.block(i, Stream::new(x))?.1),
            };
            let layer;
            (d_x, layer) = pass.block_backward(i, saved, &d_x)?;
            layers.push(layer);
        }
        layers.reverse();
        // An embedding that is the head too has the gradients of both.
        let (onto, head) = match weights.head {
            None => (d_head.clone(), None),
            Some(_) => (d_head.zeros_like()?, Some(d_head.clone())),
        };
        let tokens = Tensor::new(plan.tokens.as_slice(), self.device())?;
        let embed = embedding_backward(self.backend, &tokens, &d_x, &onto)?;
        Ok(Parameters { embed, layers, norm, head })
    }

    /// The same model, sharing every weight, for passes that nobody walks back: no graph is recorded behind what they
    /// compute, so their memory goes as soon as it is not needed. A step that updates the weights updates this model's.
    ///
    /// # Errors
    /// Errors if the model was opened for inference: then it is so already.
    pub fn frozen(&self) -> Result<Self> {
        Ok(Self { weights: self.without_graph()?, parameters: None, ..self.clone() })
    }

    fn pass_back<'a>(&'a self, weights: &'a Parameters<Weight>, plan: &'a Plan) -> Pass<'a> {
        Pass { model: self, weights, plan, keys: Keys::Own, saves: true }
    }

    fn without_graph(&self) -> Result<Parameters<Weight>> {
        self.weights.try_map(|_, weight| Ok(Weight::Tensor(weight.tensor()?.detach())))
    }
}

fn activations(saved: Option<Activations>) -> Activations {
    saved.expect("a pass that saves gives every layer's activations")
}

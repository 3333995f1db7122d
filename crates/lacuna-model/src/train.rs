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
use crate::dropout::Dropout;
use crate::error::{Error, Result};
use crate::keys::Keys;
use crate::role::{Gradient, Role};
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
    dropout: Option<Dropout>,
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
        self.forward_dropping(batch, recompute, None)
    }

    /// [`forward_train`](Self::forward_train) with dropout.
    ///
    /// # Errors
    /// As [`forward_train`](Self::forward_train), and if the dropout does not number each sequence of the batch.
    pub fn forward_dropping(
        &self,
        batch: &Batch,
        recompute: bool,
        dropout: Option<Dropout>,
    ) -> Result<(Tensor, SavedActivations)> {
        if let Some(Dropout { rate, samples, .. }) = &dropout
            && (samples.len() != batch.parts().len() || !(0.0..1.0).contains(rate))
        {
            let (found, expected) = (samples.len(), batch.parts().len());
            let reason = format!(
                "dropout of {rate} for {found} samples, expected 0 to below 1 for {expected}"
            );
            return Err(Error::Input(reason));
        }
        if batch.wanted().is_empty() {
            let reason = "a pass of which no row is wanted has no gradient";
            return Err(Error::Input(reason.into()));
        }
        self.check_positions(batch)?;
        let weights = self.without_graph()?;
        let plan = Plan::new(batch, Purpose::Train, self)?;
        let tokens = Tensor::new(plan.tokens.as_slice(), self.device())?;
        let mut x = Stream::new(embedding(self.backend, weights.embed.tensor()?, &tokens)?);
        let mut pass = self.pass_back(&weights, &plan, dropout.as_ref());
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
        Ok((hidden, SavedActivations { plan, layers, last: x.into_sum(), dropout }))
    }

    /// The gradient of every parameter, given that of the hidden states, [wanted, hidden], and that of
    /// [`head`](Self::head), [vocab, hidden].
    ///
    /// # Errors
    /// Errors if the activations are another model's, some parameter is not trained, or a tensor operation fails.
    pub fn backward(
        &self,
        saved: SavedActivations,
        d_hidden: &Tensor,
        d_head: &Tensor,
    ) -> Result<Parameters<Tensor>> {
        self.walk_back(saved, d_hidden, d_head)?.try_map(|name, gradient| match gradient {
            Gradient::Of(gradient) => Ok(gradient.clone()),
            Gradient::OfAdapter(..) | Gradient::Nothing => {
                let reason = format!("{name} is not trained; `gradients` gives those of what is");
                Err(Error::Input(reason))
            }
        })
    }

    /// The gradients of what is trained, in the order of [`trained`](Self::trained), given those of the hidden states,
    /// [wanted, hidden], and of [`head`](Self::head), [vocab, hidden].
    ///
    /// # Errors
    /// Errors if the activations are another model's, or a tensor operation fails.
    pub fn gradients(
        &self,
        saved: SavedActivations,
        d_hidden: &Tensor,
        d_head: &Tensor,
    ) -> Result<Vec<Tensor>> {
        let tree = self.walk_back(saved, d_hidden, d_head)?;
        let mut gradients = Vec::new();
        for (_, gradient) in tree.iter() {
            match gradient {
                Gradient::Of(gradient) => gradients.push(gradient.clone()),
                Gradient::OfAdapter(a, b) => gradients.extend([a.clone(), b.clone()]),
                Gradient::Nothing => {}
            }
        }
        Ok(gradients)
    }

    fn walk_back(
        &self,
        saved: SavedActivations,
        d_hidden: &Tensor,
        d_head: &Tensor,
    ) -> Result<Parameters<Gradient>> {
        let SavedActivations { plan, layers: saved, last, dropout } = saved;
        let weights = self.without_graph()?;
        if saved.len() != weights.layers.len() {
            let reason = "the saved activations belong to a model with another number of layers";
            return Err(Error::Input(reason.into()));
        }
        let eps = self.config.rms_norm_eps;
        let (mut d_x, norm) =
            rms_norm_backward(self.backend, &last, weights.norm.tensor()?, eps, d_hidden, None)?;
        let mut pass = self.pass_back(&weights, &plan, dropout.as_ref());
        let mut layers = Vec::with_capacity(saved.len());
        let lowest = self.lowest_trained_layer();
        for (i, saved) in saved.into_iter().enumerate().rev() {
            if i < lowest {
                // Nothing below has a gradient.
                let nothing = |_, _, _: &Role| Ok::<_, Error>(Gradient::Nothing);
                layers.push(self.roles.layers[i].try_map(nothing)?);
                continue;
            }
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
        let onto = match weights.head {
            None => d_head.clone(),
            Some(_) => d_head.zeros_like()?,
        };
        let embed = match &self.roles.embed {
            Role::Trained => {
                let tokens = Tensor::new(plan.tokens.as_slice(), self.device())?;
                Gradient::Of(embedding_backward(self.backend, &tokens, &d_x, &onto)?)
            }
            Role::Frozen | Role::Adapted(_) => Gradient::Nothing,
        };
        let norm = Gradient::unless_frozen(&self.roles.norm, norm);
        let head = self.roles.head.as_ref();
        let head = head.map(|role| Gradient::unless_frozen(role, d_head.clone()));
        Ok(Parameters { embed, layers, norm, head })
    }

    fn pass_back<'a>(
        &'a self,
        weights: &'a Parameters<Weight>,
        plan: &'a Plan,
        dropout: Option<&'a Dropout>,
    ) -> Pass<'a> {
        Pass { model: self, weights, plan, keys: Keys::Own, saves: true, dropout }
    }

    pub(crate) fn without_graph(&self) -> Result<Parameters<Weight>> {
        self.weights.try_map(|_, weight| Ok(Weight::Tensor(weight.tensor()?.detach())))
    }
}

fn activations(saved: Option<Activations>) -> Activations {
    saved.expect("a pass that saves gives every layer's activations")
}

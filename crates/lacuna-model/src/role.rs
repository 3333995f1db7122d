//! Says what training does with each parameter: it is trained, it is left as it is, or an adapter is trained beside it.

use candle_core::{Tensor, Var};
use lacuna_checkpoint::{Kind, Layer, Name, Parameters};
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::transformer::Transformer;
use crate::weight::Weight;

/// A low-rank update of a matrix (LoRA): passes read W + scale · B · A in place of W, and A and B alone are trained.
#[derive(Clone, Debug)]
pub struct Adapter {
    /// A, \[rank, in\].
    pub a: Var,
    /// B, \[out, rank\]; an adapter whose B is 0 changes nothing.
    pub b: Var,
    /// The factor of the product: alpha / rank.
    pub scale: f64,
}

impl Adapter {
    /// W + scale · B · A, [out, in].
    pub(crate) fn merged(&self, weight: &Tensor) -> candle_core::Result<Tensor> {
        let (a, b) = (self.a.as_tensor(), self.b.as_tensor());
        weight + (b.matmul(a)? * self.scale)?
    }
}

/// The part that a parameter has in training.
#[derive(Clone, Debug, Default)]
pub(crate) enum Role {
    /// It is trained.
    #[default]
    Trained,
    /// It stays as it is.
    Frozen,
    /// It stays as it is, and its adapter is trained.
    Adapted(Adapter),
}

/// The name of something that is trained: a parameter, or one of the two matrices of its adapter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TrainedName {
    /// A parameter of the model.
    Parameter(Name),
    /// A of the adapter beside a matrix.
    A(Name),
    /// B of the adapter beside a matrix.
    B(Name),
}

impl TrainedName {
    /// The parameter itself, or the one that the adapter stands beside.
    pub fn parameter(self) -> Name {
        let (Self::Parameter(name) | Self::A(name) | Self::B(name)) = self;
        name
    }
}

/// As Hugging Face spells parameters, and PEFT adapters: `base_model.model.model.layers.0.….lora_A.weight`.
impl fmt::Display for TrainedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Parameter(name) => write!(f, "{name}"),
            Self::A(name) => f.write_str(&lacuna_checkpoint::adapter_tensor(*name, 'A')),
            Self::B(name) => f.write_str(&lacuna_checkpoint::adapter_tensor(*name, 'B')),
        }
    }
}

/// The gradient that a parameter has by its role.
#[derive(Clone, Debug)]
pub(crate) enum Gradient {
    Of(Tensor),
    /// Of the adapter's A and B.
    OfAdapter(Tensor, Tensor),
    Nothing,
}

impl Gradient {
    /// `gradient`, unless the parameter has none.
    pub(crate) fn unless_frozen(role: &Role, gradient: Tensor) -> Self {
        match role {
            Role::Trained => Self::Of(gradient),
            Role::Frozen | Role::Adapted(_) => Self::Nothing,
        }
    }
}

impl Transformer {
    /// The same model, of which the parameters that `is_frozen` names are not trained.
    ///
    /// # Errors
    /// Errors if nothing is left to train, or the model was opened for inference.
    pub fn frozen(mut self, is_frozen: impl Fn(Name) -> bool) -> Result<Self> {
        let parameters = self.parameters()?;
        let role = |name, _: &Var| match is_frozen(name) {
            true => Role::Frozen,
            false => Role::Trained,
        };
        let roles = parameters.map(role);
        if roles.iter().all(|(_, role)| matches!(role, Role::Frozen)) {
            return Err(Error::Input("every parameter is frozen: nothing is left to train".into()));
        }
        self.roles = Arc::new(roles);
        Ok(self)
    }

    /// The same model with adapters beside the matrices that `adapter` names one for; they alone are trained from then
    /// on. They are read in every pass.
    ///
    /// # Errors
    /// Errors if there is none at all, one stands beside a vector, the embedding or the head, its shape does not fit, or
    /// the model was opened for inference.
    pub fn adapted(mut self, adapter: impl Fn(Name) -> Option<Adapter>) -> Result<Self> {
        let parameters = self.parameters()?;
        let roles = parameters.try_map(|name, var| {
            let Some(adapter) = adapter(name) else { return Ok(Role::Frozen) };
            let fits = |(rows, cols): (usize, usize)| {
                let rank = adapter.a.dim(0).unwrap_or(0);
                rank > 0 && adapter.a.dims() == [rank, cols] && adapter.b.dims() == [rows, rank]
            };
            let in_layer = name.layer.is_some() && name.kind == Kind::Weight && !name.is_norm();
            match var.dims2() {
                Ok(shape) if in_layer && fits(shape) => Ok(Role::Adapted(adapter)),
                _ => {
                    let (a, b) = (adapter.a.dims(), adapter.b.dims());
                    let reason = format!(
                        "an adapter of {a:?} and {b:?} does not fit {name}, {:?}; adapters stand beside the matrices of layers",
                        var.dims()
                    );
                    Err(Error::Input(reason))
                }
            }
        })?;
        if !roles.iter().any(|(_, role)| matches!(role, Role::Adapted(_))) {
            return Err(Error::Input("no matrix has an adapter: nothing is left to train".into()));
        }
        self.roles = Arc::new(roles);
        Ok(self)
    }

    /// Everything that is trained, in the order in which [`gradients`](Self::gradients) gives its gradients: the parameters that
    /// are not frozen, or the adapters.
    ///
    /// # Errors
    /// Errors if the model was opened for inference.
    pub fn trained(&self) -> Result<Vec<(TrainedName, &Var)>> {
        let mut trained = Vec::new();
        for ((name, var), (_, role)) in self.parameters()?.iter().zip(self.roles.iter()) {
            match role {
                Role::Trained => trained.push((TrainedName::Parameter(name), var)),
                Role::Adapted(Adapter { a, b, .. }) => {
                    trained.extend([(TrainedName::A(name), a), (TrainedName::B(name), b)]);
                }
                Role::Frozen => {}
            }
        }
        Ok(trained)
    }

    /// The lowest layer that a backward pass has to come to; the number of layers if it need not enter any.
    pub(crate) fn lowest_trained_layer(&self) -> usize {
        let is_frozen = |role: &Role| matches!(role, Role::Frozen);
        let layers = &self.roles.layers;
        let first = layers.iter().position(|layer| !layer.iter().all(|(.., r)| is_frozen(r)));
        if is_frozen(&self.roles.embed) { first.unwrap_or(layers.len()) } else { 0 }
    }

    /// A copy of the model with these values in place of what is trained, in the order of [`trained`](Self::trained).
    /// What is not trained is shared with this one.
    ///
    /// # Errors
    /// Errors if the number or a shape differs.
    pub fn with_trained(&self, values: &[Tensor]) -> Result<Self> {
        let mut values = values.iter();
        let mut next = |like: &Var| -> Result<Var> {
            match values.next() {
                Some(value) if value.dims() == like.dims() => {
                    Ok(Var::from_tensor(&value.to_dtype(like.dtype())?)?)
                }
                _ => Err(Error::Input("values of another model than this one".into())),
            }
        };
        let mut roles = self.roles.iter();
        let mut new_roles = Vec::new();
        let parameters = self.parameters()?.try_map(|_, var| {
            let (_, role) = roles.next().expect("a role for each parameter");
            let (var, role) = match role {
                Role::Trained => (next(var)?, Role::Trained),
                Role::Frozen => (var.clone(), Role::Frozen),
                Role::Adapted(Adapter { a, b, scale }) => {
                    let (a, b, scale) = (next(a)?, next(b)?, *scale);
                    (var.clone(), Role::Adapted(Adapter { a, b, scale }))
                }
            };
            new_roles.push(role);
            Ok::<_, Error>(var)
        })?;
        let mut model = Self::from_parameters(self.config.clone(), parameters)?;
        let mut new_roles = new_roles.into_iter();
        let role = |_, _: &Role| new_roles.next().expect("a role for each parameter");
        model.roles = Arc::new(self.roles.map(role));
        Ok(Self { backend: self.backend, ..model })
    }

    /// The same model, with the same storage, whose passes record nothing for a backward pass: to score or to write with
    /// while it is being trained.
    ///
    /// # Errors
    /// Errors if weights are kept as a file stores them: those record nothing anyway.
    pub fn unrecorded(&self) -> Result<Self> {
        Ok(Self { weights: self.without_graph()?, parameters: None, ..self.clone() })
    }

    /// The weights of layer `i` as a pass reads them: those of `weights`, with adapters merged.
    pub(crate) fn layer<'a>(
        &self,
        weights: &'a Parameters<Weight>,
        (i, recorded): (usize, bool),
    ) -> Result<Cow<'a, Layer<Weight>>> {
        let (layer, roles) = (&weights.layers[i], &self.roles.layers[i]);
        if !roles.iter().any(|(.., role)| matches!(role, Role::Adapted(_))) {
            return Ok(Cow::Borrowed(layer));
        }
        let mut roles = roles.iter();
        let merged = layer.try_map(|_, _, weight| {
            let (.., role) = roles.next().expect("a role for each parameter");
            let Role::Adapted(adapter) = role else { return Ok(weight.clone()) };
            let merged = adapter.merged(weight.tensor()?)?;
            let recorded = recorded && self.parameters.is_some();
            Ok::<_, Error>(Weight::Tensor(if recorded { merged } else { merged.detach() }))
        })?;
        Ok(Cow::Owned(merged))
    }
}

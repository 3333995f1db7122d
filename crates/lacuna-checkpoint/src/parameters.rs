//! Holds the parameters of a model as one typed tree, so that nothing finds one by the text of its name.
//!
//! Shapes, weights, gradients and an optimizer's moments are all [`Parameters`] of something. If a file or an error
//! needs a text, a [`Name`] gives it, as the tables in `families` spell it.

use std::convert::Infallible;

use crate::config::Config;
use crate::families;

/// One value for each parameter of a model.
///
/// ```
/// use lacuna_checkpoint::Config;
/// let shapes = Config { num_layers: 2, ..Config::default() }.shapes();
/// assert_eq!(shapes.layers[1].down.weight, [64, 160]);
/// let sizes = shapes.map(|_, shape| shape.iter().product::<usize>());
/// let (name, size) = sizes.iter().next().expect("the embedding is the first");
/// assert_eq!((name.to_string().as_str(), *size), ("model.embed_tokens.weight", 512 * 64));
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Parameters<T> {
    /// The embedding, with a row for each token.
    pub embed: T,
    /// The decoder layers, the first one first.
    pub layers: Vec<Layer<T>>,
    /// The norm behind the last layer.
    pub norm: T,
    /// The matrix that makes the logits; `None` if it is the embedding.
    pub head: Option<T>,
}

/// One value for each parameter of a layer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Layer<T> {
    /// The norm before the attention.
    pub input_norm: T,
    /// The projection that makes the queries.
    pub q: Linear<T>,
    /// The projection that makes the keys.
    pub k: Linear<T>,
    /// The projection that makes the values.
    pub v: Linear<T>,
    /// The projection from what the heads gathered back to the residual stream.
    pub o: Linear<T>,
    /// The norm of each query head ([`Parts::qk_norm`]).
    pub q_norm: Option<T>,
    /// The norm of each key head ([`Parts::qk_norm`]).
    pub k_norm: Option<T>,
    /// The norm before the gated feed-forward part.
    pub mlp_norm: T,
    /// The projection whose result goes through the activation function.
    pub gate: Linear<T>,
    /// The projection whose result the gate is multiplied with.
    pub up: Linear<T>,
    /// The projection from their product back to the residual stream.
    pub down: Linear<T>,
}

/// One value for the weight of a projection, \[out, in\], and one for its bias, \[out\], if it has one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Linear<T> {
    /// The value for the matrix.
    pub weight: T,
    /// The value for the vector that is added behind it.
    pub bias: Option<T>,
}

/// Flags for the parameters that not every model has: true if they are there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Parts {
    /// Query, key and value projections carry a bias (Llama's option, Qwen2).
    pub attention_bias: bool,
    /// The attention's output projection carries a bias (Llama's option).
    pub attention_output_bias: bool,
    /// The three feed-forward projections carry a bias.
    pub mlp_bias: bool,
    /// Queries and keys are normed per head before the rotation (Qwen3, SDAR).
    pub qk_norm: bool,
}

impl Parts {
    /// A model without any of them.
    pub const NONE: Self = Self {
        attention_bias: false,
        attention_output_bias: false,
        mlp_bias: false,
        qk_norm: false,
    };
}

/// A parameter's place in the tree.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Name {
    /// The layer, if it belongs to one.
    pub layer: Option<usize>,
    /// The field of [`Layer`] or [`Parameters`].
    pub field: Field,
    /// Weight or bias.
    pub kind: Kind,
}

/// A field of [`Parameters`] (the first three) or of [`Layer`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[expect(missing_docs, reason = "they are the fields of the same names, which say what they are")]
pub enum Field {
    Embed,
    Norm,
    Head,
    InputNorm,
    Q,
    K,
    V,
    O,
    QNorm,
    KNorm,
    MlpNorm,
    Gate,
    Up,
    Down,
}

/// The kind of a parameter, of which a field may have two.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    /// The matrix of a projection, or all there is of a norm.
    Weight,
    /// The vector that is added.
    Bias,
}

impl Name {
    /// The embedding.
    pub const EMBED: Self = Self::weight(None, Field::Embed);
    /// The norm behind the last layer.
    pub const NORM: Self = Self::weight(None, Field::Norm);
    /// The head, if it is not the embedding.
    pub const HEAD: Self = Self::weight(None, Field::Head);

    const fn weight(layer: Option<usize>, field: Field) -> Self {
        Self { layer, field, kind: Kind::Weight }
    }

    const fn in_layer(layer: usize, field: Field, kind: Kind) -> Self {
        Self { layer: Some(layer), field, kind }
    }

    /// Tells whether it is a norm's: such weights start at 1, and are vectors.
    pub fn is_norm(self) -> bool {
        use Field::{InputNorm, KNorm, MlpNorm, Norm, QNorm};
        matches!(self.field, Norm | InputNorm | QNorm | KNorm | MlpNorm)
    }

    /// Tells whether it is added behind a product: such vectors start at 0.
    pub fn is_bias(self) -> bool {
        self.kind == Kind::Bias
    }

    /// Tells whether its product is added to the residual stream: such matrices start smaller.
    pub fn writes_residual(self) -> bool {
        matches!(self.field, Field::O | Field::Down) && !self.is_bias()
    }
}

/// The name as Hugging Face spells it, which stands in every file and message that is not a GGUF file's.
impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&families::hugging_face_name(*self))
    }
}

impl<T> Parameters<T> {
    /// All parameters with their names, in the order of names: it decides which random numbers a fresh weight gets,
    /// and must not change. A layer's weights come before its biases, those before its norms.
    pub fn iter(&self) -> impl Iterator<Item = (Name, &T)> {
        let layers = self.layers.iter().enumerate().flat_map(|(i, layer)| {
            layer.iter().map(move |(field, kind, value)| (Name::in_layer(i, field, kind), value))
        });
        std::iter::once((Name::EMBED, &self.embed))
            .chain(layers)
            .chain(std::iter::once((Name::NORM, &self.norm)))
            .chain(self.head.as_ref().map(|head| (Name::HEAD, head)))
    }

    /// The same tree with the values that `f` makes of these, called in the order of names.
    pub fn map<'a, U>(&'a self, mut f: impl FnMut(Name, &'a T) -> U) -> Parameters<U> {
        let Ok(mapped) = self.try_map(|name, value| Ok::<U, Infallible>(f(name, value)));
        mapped
    }

    /// [`map`](Self::map) by a function that can fail, up to its first failure.
    ///
    /// # Errors
    /// As `f`.
    pub fn try_map<'a, U, E>(
        &'a self,
        mut f: impl FnMut(Name, &'a T) -> Result<U, E>,
    ) -> Result<Parameters<U>, E> {
        let embed = f(Name::EMBED, &self.embed)?;
        let mut layers = Vec::with_capacity(self.layers.len());
        for (i, layer) in self.layers.iter().enumerate() {
            let named = |field, kind, value| f(Name::in_layer(i, field, kind), value);
            layers.push(layer.try_map(named)?);
        }
        let norm = f(Name::NORM, &self.norm)?;
        let head = self.head.as_ref().map(|head| f(Name::HEAD, head)).transpose()?;
        Ok(Parameters { embed, layers, norm, head })
    }

    /// Pairs of the values that two trees hold in the same places; `None` if one has a place that the other lacks.
    pub fn zip<'a, U>(&'a self, other: &'a Parameters<U>) -> Option<Parameters<(&'a T, &'a U)>> {
        let mut others = other.iter();
        let pairs = self.try_map(|name, value| match others.next() {
            Some((found, other)) if found == name => Ok((value, other)),
            _ => Err(()),
        });
        pairs.ok().filter(|_| others.next().is_none())
    }
}

impl<T> Layer<T> {
    /// Its parameters in the order of names: weights, biases, norms.
    pub fn iter(&self) -> impl Iterator<Item = (Field, Kind, &T)> {
        let projections = [
            (Field::Q, &self.q),
            (Field::K, &self.k),
            (Field::V, &self.v),
            (Field::O, &self.o),
            (Field::Gate, &self.gate),
            (Field::Up, &self.up),
            (Field::Down, &self.down),
        ];
        let norms = [
            (Field::InputNorm, Some(&self.input_norm)),
            (Field::MlpNorm, Some(&self.mlp_norm)),
            (Field::QNorm, self.q_norm.as_ref()),
            (Field::KNorm, self.k_norm.as_ref()),
        ];
        let weights =
            projections.map(|(field, linear)| (field, Kind::Weight, Some(&linear.weight)));
        let biases = projections.map(|(field, linear)| (field, Kind::Bias, linear.bias.as_ref()));
        let norms = norms.map(|(field, norm)| (field, Kind::Weight, norm));
        let all = weights.into_iter().chain(biases).chain(norms);
        all.filter_map(|(field, kind, value)| Some((field, kind, value?)))
    }

    /// The same layer with the values that `f` makes of these, called in the order of names, up to its first failure.
    ///
    /// # Errors
    /// As `f`.
    pub fn try_map<'a, U, E>(
        &'a self,
        mut f: impl FnMut(Field, Kind, &'a T) -> Result<U, E>,
    ) -> Result<Layer<U>, E> {
        let mut weight = |field, linear: &'a Linear<T>| f(field, Kind::Weight, &linear.weight);
        let (q, k, v) =
            (weight(Field::Q, &self.q)?, weight(Field::K, &self.k)?, weight(Field::V, &self.v)?);
        let o = weight(Field::O, &self.o)?;
        let (gate, up) = (weight(Field::Gate, &self.gate)?, weight(Field::Up, &self.up)?);
        let down = weight(Field::Down, &self.down)?;
        let mut biased = |weight, field, linear: &'a Linear<T>| {
            let bias = linear.bias.as_ref().map(|bias| f(field, Kind::Bias, bias)).transpose()?;
            Ok(Linear { weight, bias })
        };
        let (q, k) = (biased(q, Field::Q, &self.q)?, biased(k, Field::K, &self.k)?);
        let (v, o) = (biased(v, Field::V, &self.v)?, biased(o, Field::O, &self.o)?);
        let (gate, up) = (biased(gate, Field::Gate, &self.gate)?, biased(up, Field::Up, &self.up)?);
        let down = biased(down, Field::Down, &self.down)?;
        let mut norm = |field, value: &'a T| f(field, Kind::Weight, value);
        let input_norm = norm(Field::InputNorm, &self.input_norm)?;
        let mlp_norm = norm(Field::MlpNorm, &self.mlp_norm)?;
        let q_norm = self.q_norm.as_ref().map(|value| norm(Field::QNorm, value)).transpose()?;
        let k_norm = self.k_norm.as_ref().map(|value| norm(Field::KNorm, value)).transpose()?;
        Ok(Layer { input_norm, q, k, v, o, q_norm, k_norm, mlp_norm, gate, up, down })
    }
}

impl Config {
    /// The shape of every parameter: \[out, in\] or \[len\]. There is no head if the embedding is the head too.
    pub fn shapes(&self) -> Parameters<Vec<usize>> {
        let table = || vec![self.vocab_size, self.hidden_size];
        Parameters {
            embed: table(),
            layers: vec![self.layer_shapes(); self.num_layers],
            norm: vec![self.hidden_size],
            head: (!self.tie_word_embeddings).then(table),
        }
    }

    pub(crate) fn layer_shapes(&self) -> Layer<Vec<usize>> {
        let (hidden, inner) = (self.hidden_size, self.intermediate_size);
        let (q, kv) = (self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim);
        let Parts { attention_bias, attention_output_bias, mlp_bias, qk_norm } = self.parts;
        let linear = |rows: usize, cols: usize, has_bias: bool| Linear {
            weight: vec![rows, cols],
            bias: has_bias.then(|| vec![rows]),
        };
        let head_norm = || qk_norm.then(|| vec![self.head_dim]);
        Layer {
            input_norm: vec![hidden],
            q: linear(q, hidden, attention_bias),
            k: linear(kv, hidden, attention_bias),
            v: linear(kv, hidden, attention_bias),
            o: linear(hidden, q, attention_output_bias),
            q_norm: head_norm(),
            k_norm: head_norm(),
            mlp_norm: vec![hidden],
            gate: linear(inner, hidden, mlp_bias),
            up: linear(inner, hidden, mlp_bias),
            down: linear(hidden, inner, mlp_bias),
        }
    }

    /// Every tensor that the checkpoint must hold, by Hugging Face name, with its shape: [`shapes`](Self::shapes) for
    /// those who write or read files.
    pub fn expected_tensors(&self) -> impl Iterator<Item = (String, Vec<usize>)> {
        let shapes = self.shapes();
        let named = shapes.iter().map(|(name, shape)| (name.to_string(), shape.clone()));
        named.collect::<Vec<_>>().into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_of_different_models_do_not_pair() {
        let all = Config { parts: Parts { qk_norm: true, ..Parts::NONE }, ..Config::default() };
        let tied = Config { tie_word_embeddings: true, ..all.clone() };
        let pairs = all.shapes().zip(&all.shapes()).map(|pairs| pairs.iter().count());
        assert_eq!(pairs, Some(all.shapes().iter().count()));
        assert!(
            all.shapes().zip(&tied.shapes()).is_none()
                && tied.shapes().zip(&all.shapes()).is_none()
        );
        let plain = Config { parts: Parts::NONE, ..all.clone() };
        assert!(all.shapes().zip(&plain.shapes()).is_none());
    }
}

//! Sorts parameters into groups, by which a recipe says what decays and what is frozen, and metrics tell gradient norms.

use lacuna_checkpoint::{Field, Name};
use serde::{Deserialize, Serialize};

/// A group of a model's parameters. Every parameter belongs to one; an adapter belongs to its matrix's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ParameterGroup {
    /// The embedding, which is the head too where the two are tied.
    Embedding,
    /// The four projections of attention.
    Attention,
    /// The three projections of the feed-forward part.
    FeedForward,
    /// The weights of all norms.
    Norms,
    /// The vectors that are added behind products.
    Biases,
    /// The matrix that makes the logits, where it is not the embedding.
    Head,
}

impl ParameterGroup {
    /// All groups, in the order in which metrics have them.
    pub const ALL: [Self; 6] = [
        Self::Embedding,
        Self::Attention,
        Self::FeedForward,
        Self::Norms,
        Self::Biases,
        Self::Head,
    ];

    /// The groups of matrices, which decay if a recipe says nothing.
    pub const MATRICES: [Self; 4] =
        [Self::Embedding, Self::Attention, Self::FeedForward, Self::Head];

    /// The group of a parameter.
    ///
    /// ```
    /// use lacuna_checkpoint::Name;
    /// use lacuna_train::ParameterGroup;
    /// assert_eq!(ParameterGroup::of(Name::EMBED), ParameterGroup::Embedding);
    /// assert_eq!(ParameterGroup::of(Name::NORM), ParameterGroup::Norms);
    /// ```
    pub fn of(name: Name) -> Self {
        match name.field {
            _ if name.is_bias() => Self::Biases,
            Field::Embed => Self::Embedding,
            Field::Head => Self::Head,
            Field::Q | Field::K | Field::V | Field::O => Self::Attention,
            Field::Gate | Field::Up | Field::Down => Self::FeedForward,
            Field::Norm | Field::InputNorm | Field::MlpNorm | Field::QNorm | Field::KNorm => {
                Self::Norms
            }
        }
    }
}

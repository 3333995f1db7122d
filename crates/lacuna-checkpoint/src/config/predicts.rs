//! Says which token the logits at a position predict.

/// The position that a row of logits predicts, if a model reads under a mask of blocks.
///
/// Under the causal view the logits at a position always predict the token after it, whatever the head learnt: there,
/// ask [`Predicts::Next`].
///
/// ```
/// use lacuna_checkpoint::Predicts;
/// assert_eq!(Predicts::Same.row_of(3), Some(3));
/// assert_eq!(Predicts::Next.row_of(3), Some(2));
/// assert_eq!(Predicts::Next.row_of(0), None, "nothing stands before a text's first token");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Predicts {
    /// The token at the position itself, as in the released models; the default.
    #[default]
    Same,
    /// The token after it, as the head of an autoregressive model does: a shifted head, `logit_shift` in `config.json`.
    Next,
}

impl Predicts {
    /// The row whose logits predict the token at `position`; `None` if it would stand before the first.
    pub fn row_of(self, position: usize) -> Option<usize> {
        match self {
            Self::Same => Some(position),
            Self::Next => position.checked_sub(1),
        }
    }
}

/// The key in `config.json` that says whether the head is shifted.
pub(crate) const LOGIT_SHIFT: &str = "logit_shift";

//! Reads noisy versions of a text with a model: the one place that knows in which of three ways it sees them.

use candle_core::Tensor;
use lacuna_model::{AttentionMask, Batch, CleanKeys, Sequence, Transformer};
use lacuna_objective::{Pass, PassRows, Predicts, Row, Target, Targets, rows_of};
use std::num::NonZeroUsize;

use crate::error::Result;

/// A text whose noisy versions are read.
pub(crate) struct NoisyReader<'a> {
    model: &'a Transformer,
    row: Row<'a>,
    clean: Sequence<'a>,
    way: Way,
}

/// The clean text that a masked token sees.
enum Way {
    /// The blocks before its own, whose keys and values were read once for all passes.
    Against(CleanKeys),
    /// The same, read in every pass: a shifted head reads the first token of a block off a clean row.
    Beside(NonZeroUsize),
    /// None but what the noisy version shows under this mask, as in training under it.
    Alone(AttentionMask),
}

impl<'a> NoisyReader<'a> {
    /// `clean` is the text of `row`, with its documents where they are read apart. `alone` is the mask under which noisy
    /// text is all that is read; without it, blocks see clean text before them.
    ///
    /// # Errors
    /// Errors if the model fails.
    pub(crate) fn new(
        model: &'a Transformer,
        row: Row<'a>,
        clean: Sequence<'a>,
        block_size: NonZeroUsize,
        alone: Option<AttentionMask>,
    ) -> Result<Self> {
        let way = match (alone, model.config().predicts) {
            (Some(mask), _) => Way::Alone(mask),
            (None, Predicts::Next) => Way::Beside(block_size),
            (None, Predicts::Same) => Way::Against(model.read_clean(&[clean], block_size)?),
        };
        Ok(Self { model, row, clean, way })
    }

    /// Hidden states of every scored position of every pass, [positions, hidden], and what each is to predict. The
    /// passes are the rows of one batch.
    ///
    /// # Errors
    /// Errors if the model fails.
    pub(crate) fn hidden(&self, passes: &[Pass]) -> Result<(Tensor, Vec<Target>)> {
        let rows = PassRows {
            window: self.row.clean().len(),
            predicts: self.model.config().predicts,
            clean_half: matches!(self.way, Way::Beside(_)),
        };
        let (mut batch, mut targets) = (Batch::default(), Vec::new());
        for pass in passes {
            let own = pass.targets(self.row, rows);
            let wanted = rows_of(&own);
            let noisy = Sequence { tokens: &pass.noisy, wanted: Some(&wanted), ..self.clean };
            match &self.way {
                // The documents count that the clean text was read with.
                Way::Against(read) => {
                    batch.push_noisy_against(Sequence { documents: None, ..noisy }, read, 0)?;
                }
                Way::Beside(block_size) => {
                    batch.push_noisy_and_clean(noisy, self.clean.tokens, *block_size)?;
                }
                Way::Alone(mask) => batch.push(noisy, *mask)?,
            }
            targets.extend(own);
        }
        let hidden = match &self.way {
            Way::Against(read) => self.model.forward_against(&batch, read)?,
            Way::Beside(_) | Way::Alone(_) => self.model.forward(&batch)?,
        };
        Ok((hidden, targets))
    }

    /// −log p of every scored position of every pass, in nats.
    ///
    /// # Errors
    /// Errors if the model fails.
    pub(crate) fn nll(&self, passes: &[Pass]) -> Result<Vec<Vec<f32>>> {
        // With the clean text beside it, a pass has twice the rows.
        let at_once = if matches!(self.way, Way::Beside(_)) { 1 } else { passes.len().max(1) };
        let mut all = Vec::with_capacity(passes.len());
        for passes in passes.chunks(at_once) {
            let (hidden, targets) = self.hidden(passes)?;
            let nll = self.model.token_nll(&hidden, &Targets::of(&targets).ids)?;
            let mut rest = nll.as_slice();
            for pass in passes {
                let (own, after) = rest.split_at(pass.scored.len());
                all.push(own.to_vec());
                rest = after;
            }
        }
        Ok(all)
    }
}

//! Verifies drafts: many masked blocks are denoised in one pass, each behind the draft's blocks before it.

use lacuna_model::{Activations, Predicts};
use lacuna_samplers::{Speculative, View};

use super::{Pending, Sequence, Session, Share, each_row};
use crate::error::{Error, Result};

impl Speculative for Session {
    fn speculate(
        &mut self,
        sequence: usize,
        draft: &[u32],
        mask_id: u32,
        read: &mut dyn FnMut(&[f32]),
    ) -> Result<()> {
        let at = self.place(sequence)?;
        let Sequence { queued, view, .. } = &self.sequences[at];
        let View::Blocks { block_size } = *view else {
            let reason = "drafts are verified under block-causal attention only";
            return Err(Error::Request(reason.into()));
        };
        if draft.is_empty() || !draft.len().is_multiple_of(block_size.get()) {
            let (tokens, size) = (draft.len(), block_size);
            let reason =
                format!("a draft of {tokens} tokens is no whole number of blocks of {size}");
            return Err(Error::Request(reason));
        }
        if self.model.config().predicts == Predicts::Next {
            let reason = "drafts are not verified under a shifted head; decode without a draft";
            return Err(Error::Request(reason.into()));
        }
        let masks = std::iter::repeat_n(mask_id, draft.len());
        let finished = [queued, draft].concat();
        let tokens = masks.chain(finished.iter().copied()).collect();
        let (draft, rows) = (draft.len(), (0..draft.len() as u32).collect());
        let share = Share { at, tokens, rows, view: *view, draft };
        let logits = self.pass(&[share], Activations::F32)?;
        let state = &mut self.sequences[at];
        state.queued.clear();
        state.pending = Some(Pending { draft, finished });
        logits.map_or(Ok(()), |logits| each_row(&logits, read))
    }

    fn accept(&mut self, sequence: usize, tokens: usize) -> Result<()> {
        let at = self.place(sequence)?;
        let state = &mut self.sequences[at];
        match state.pending.take() {
            Some(Pending { draft, finished }) if tokens <= draft => {
                let kept = finished.len() - draft + tokens;
                state.cache.keep(draft..draft + kept)?;
                state.cached.extend_from_slice(&finished[..kept]);
                Ok(())
            }
            Some(Pending { draft, .. }) => Err(Error::Request(format!(
                "{tokens} tokens of a draft of {draft} can't be accepted"
            ))),
            None => {
                let reason = "nothing was speculated, so nothing can be accepted";
                Err(Error::Request(reason.into()))
            }
        }
    }
}

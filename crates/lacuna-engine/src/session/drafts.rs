//! Runs the passes of a decode: over open blocks, and over drafts, whose blocks are each denoised behind those before
//! them.

use candle_core::Tensor;
use lacuna_model::{Activations, Predicts};
use lacuna_samplers::{Draft, Draw, Row, Segment, Speculative, View};
use std::time::Instant;

use super::{Passes, Pending, Sequence, Session, Share, each_row};
use crate::error::{Error, Result};

impl Speculative for Session {
    fn speculate(
        &mut self,
        segments: &[Segment<'_>],
        drafts: &[Draft<'_>],
        read: &mut dyn FnMut(&[f32]),
    ) -> Result<()> {
        let mut given = Ok(());
        self.speculate_drawing(segments, drafts, &[], &mut |row| match row {
            Row::Logits(logits) => read(logits),
            Row::Drawn(_) => given = Err(Error::Request("a draw that nobody asked for".into())),
        })?;
        given
    }

    fn draws(&self) -> bool {
        matches!(self.on, Passes::Machine(_))
    }

    fn speculate_drawing(
        &mut self,
        segments: &[Segment<'_>],
        drafts: &[Draft<'_>],
        draws: &[Option<Draw<'_>>],
        read: &mut dyn FnMut(Row<'_>),
    ) -> Result<()> {
        let began = Instant::now();
        let head = self.model.config().predicts;
        if self.draws() {
            let firsts = segments.iter().map(|one| (one.sequence, one.rows.first().copied()));
            let firsts = firsts.chain(drafts.iter().map(|one| (one.sequence, Some(0))));
            for (sequence, first) in firsts {
                let at = self.place(sequence)?;
                self.sequences[at].read_again(first, head);
            }
        }
        let mut shares = Vec::with_capacity(segments.len() + drafts.len());
        for segment in segments {
            let at = self.place(segment.sequence)?;
            shares.push(self.sequences[at].share(at, segment, head)?);
        }
        for draft in drafts {
            let at = self.place(draft.sequence)?;
            shares.push(self.sequences[at].draft_share(at, draft, head)?);
        }
        let only_prompts = shares.iter().all(|share| !self.sequences[share.at].begun);
        let logits = self.pass(&shares, Activations::F32, draws, read)?;
        if only_prompts {
            self.prefill_seconds += began.elapsed().as_secs_f64();
        }

        let mut first = 0;
        for (number, share) in shares.iter().enumerate() {
            let state = &mut self.sequences[share.at];
            let count = share.rows.len();
            let rows = match &logits {
                Some(logits) if count > 0 => Some(logits.narrow(0, first, count)?),
                _ => None,
            };
            first += count;
            let (wanted, starts) = match segments.get(number) {
                Some(segment) => (segment.rows.len(), segment.rows.first() == Some(&0)),
                None => (drafts[number - segments.len()].tokens.len(), true),
            };
            if count < wanted
                && let Some(boundary) = &state.boundary
            {
                each_row(boundary, &mut |logits| read(Row::Logits(logits)))?;
            }
            if let Some(rows) = &rows {
                each_row(rows, &mut |logits| read(Row::Logits(logits)))?;
            }
            if let Some(draft) = number.checked_sub(segments.len()).map(|number| &drafts[number]) {
                state.hold(draft, rows);
                continue;
            }
            // The row at the last finished token is the first that was read, if its successor was asked for.
            let is_read = state.predicts(head) == Predicts::Next && starts;
            let boundary = rows.filter(|_| is_read).map(|rows| rows.narrow(0, 0, 1)).transpose()?;
            state.keep_queued(boundary)?;
        }
        Ok(())
    }

    fn accept(&mut self, sequence: usize, tokens: usize) -> Result<()> {
        let at = self.place(sequence)?;
        self.sequences[at].accept(tokens)
    }
}

impl Sequence {
    /// Its request to a pass over its queue and a draft.
    fn draft_share(&self, at: usize, draft: &Draft<'_>, head: Predicts) -> Result<Share> {
        let Draft { view, tokens, mask_id, .. } = *draft;
        if self.view != view {
            let reason = format!("sequence {} was begun under another view", self.number);
            return Err(Error::Request(reason));
        }
        let size = view.block_size();
        if tokens.is_empty() || !tokens.len().is_multiple_of(size.get()) {
            let reason = format!(
                "a draft of {} tokens is no whole number of blocks of {size}",
                tokens.len()
            );
            return Err(Error::Request(reason));
        }
        if view == View::Causal {
            // The token behind the draft's last one is not asked for, so that one need not be read.
            let read = &tokens[..tokens.len() - 1];
            let positions: Vec<usize> = (0..tokens.len()).collect();
            let segment = Segment { sequence: self.number, view, block: read, rows: &positions };
            return self.share(at, &segment, head);
        }
        if head == Predicts::Next {
            let reason = "drafts are not verified under a shifted head; decode without a draft";
            return Err(Error::Request(reason.into()));
        }
        let masks = std::iter::repeat_n(mask_id, tokens.len());
        let finished = self.queued.iter().chain(tokens).copied();
        let all = masks.chain(finished).collect();
        let rows = (0..tokens.len() as u32).collect();
        Ok(Share { at, tokens: all, rows, view, draft: tokens.len() })
    }

    /// Keeps what a pass read of a draft, until it is known how much of it holds.
    fn hold(&mut self, draft: &Draft<'_>, rows: Option<Tensor>) {
        let is_causal = draft.view == View::Causal;
        let queued = self.queued.len();
        let mut tokens = std::mem::take(&mut self.queued);
        tokens.extend_from_slice(draft.tokens);
        self.begun = true;
        self.pending = Some(Pending {
            masks: if is_causal { 0 } else { draft.tokens.len() },
            queued,
            read: tokens.len() - usize::from(is_causal),
            tokens,
            logits: rows.filter(|_| is_causal),
        });
    }

    /// See [`Speculative::accept`].
    fn accept(&mut self, accepted: usize) -> Result<()> {
        let Some(Pending { masks, tokens, queued, read, logits }) = self.pending.take() else {
            let reason = "nothing was speculated, so nothing can be accepted";
            return Err(Error::Request(reason.into()));
        };
        let (finished, draft) = (queued + accepted, tokens.len() - queued);
        if accepted > draft {
            let reason = format!("{accepted} tokens of a draft of {draft} can't be accepted");
            return Err(Error::Request(reason));
        }
        let kept = finished.min(read);
        self.cache.keep(masks..masks + kept)?;
        self.cached.extend_from_slice(&tokens[..kept]);
        self.queued.extend_from_slice(&tokens[kept..finished]);
        // The first row of the logits is at the last token that was queued; without one, at the first of the draft.
        if let (Some(logits), Some(row)) = (logits, kept.checked_sub(queued.max(1))) {
            self.boundary = Some(logits.narrow(0, row, 1)?);
        }
        Ok(())
    }
}

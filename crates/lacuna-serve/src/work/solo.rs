//! Decodes edits, whose drafts are verified many blocks at a time, and scores texts: each by itself, with a pass of all
//! others after each of its own, so that nobody waits for the whole of it.

use lacuna_engine::{Attention, DecodeEvent, Model, Session, edit_in};
use lacuna_likelihood::{Blocks, Method, token_scores};
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::time::Instant;

use super::job::{Job, Reply, Written};
use super::news::{finished, seen};
use super::worker::{Opening, Solo, Worker};

/// The number of the only sequence of a session that decodes one text.
const ONLY: usize = 0;

impl Worker<'_> {
    /// Decodes a request by itself.
    pub(super) fn alone(&mut self, solo: Solo) {
        let outer = self.solo.replace(solo.job().class);
        match solo {
            Solo::Edit { opening, draft } => self.edit(*opening, &draft),
            Solo::Score { job, tokens, best } => self.score(&job, &tokens, best),
        }
        self.solo = outer;
    }

    fn edit(&mut self, opening: Opening, draft: &[u32]) {
        let model = self.model;
        let (job, reading, mut times) = opening.into_parts();
        let remembered = reading.remembered();
        let (request, prefix) = reading.into_parts();
        let mut session = Session::of(model).remembering();
        session.seat(ONLY, prefix);
        let prompt_tokens = request.prompt.len();
        let (joined, mut blocks, mut late, mut told) = (Instant::now(), 0, false, true);
        let mut since = joined;
        let edited = edit_in(&mut session, model, &request, draft, |event| {
            match event {
                DecodeEvent::Refinement(refinement) => {
                    if job.watch {
                        told &= job.tell(Reply::Seen(seen(model, refinement, prompt_tokens)));
                    }
                    let pass = since.elapsed();
                    self.after_solo_pass(job.class, pass);
                    times.held += (since.elapsed() - pass).as_secs_f64();
                    since = Instant::now();
                }
                DecodeEvent::Block(block) => {
                    blocks += 1;
                    if job.watch {
                        let start = block.block_start.saturating_sub(prompt_tokens);
                        told &= job.tell(Reply::Seen(finished(model, start, block.tokens)));
                    }
                }
            }
            late = blocks > 0 && job.deadline.is_some_and(|most| joined.elapsed() >= most);
            match !told || late || job.is_gone() || self.is_ending() {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        });
        self.solo_passes += session.passes();
        self.engine.put_away(session.unseat(ONLY), job.slot);
        match edited {
            Ok(completion) => {
                self.solo_done(&job, &completion, remembered);
                times.passes = completion.forwards;
                job.tell(Reply::Done(Box::new(Written { completion, remembered, times, late })));
            }
            Err(error) => {
                job.tell(Reply::Failed(error.to_string()));
            }
        }
    }

    fn score(&mut self, job: &Job, tokens: &[u32], best: usize) {
        let model = self.model;
        let method = match (model.is_block_diffusion(), model.mask_id()) {
            (true, Some(mask_id)) => {
                let block_size = match model.config().attention {
                    Attention::BlockCausal => model.block_size(None),
                    // The text is one block.
                    Attention::Full => NonZeroUsize::new(tokens.len()).unwrap_or(NonZeroUsize::MIN),
                    // Each token sees clean ones alone.
                    Attention::Causal => NonZeroUsize::MIN,
                };
                (Method::LeftToRight, Some(Blocks { block_size, mask_id }))
            }
            _ => (Method::Autoregressive, None),
        };
        let mut since = Instant::now();
        let scores = token_scores(&model.transformer, tokens, method, best, &mut || {
            self.solo_passes += 1;
            self.after_solo_pass(job.class, since.elapsed());
            since = Instant::now();
            !job.is_gone() && !self.is_ending()
        });
        let last = match scores {
            Ok(Some(scores)) => Reply::Scored(scores),
            Ok(None) => return,
            Err(error) => Reply::Failed(error.to_string()),
        };
        job.tell(last);
    }
}

/// The likelihood that [`Worker::score`] tells of a model, by its name.
pub(crate) fn likelihood_name(model: &Model) -> &'static str {
    match model.is_block_diffusion() {
        true => "left-to-right",
        false => "autoregressive",
    }
}

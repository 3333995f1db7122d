//! Decodes block by block over any denoiser: fill rules, batches, and the released algorithm line
//! by line.
//!
//! ```
//! use std::{convert::Infallible, num::NonZeroUsize, ops::ControlFlow};
//! use lacuna_samplers::{Denoiser, Request, Segment, View, generate};
//!
//! struct Counting(usize); // a model that knows how to count: token n stands at position n
//!
//! impl Denoiser for Counting {
//!     type Error = Infallible;
//!     fn prefill(&mut self, _: usize, tokens: &[u32], _: View) -> Result<(), Infallible> {
//!         self.commit(0, tokens)
//!     }
//!     fn denoise(&mut self, segments: &[Segment], read: &mut dyn FnMut(&[f32])) -> Result<(), Infallible> {
//!         for row in segments[0].rows {
//!             let mut logits = [0.0; 16];
//!             logits[self.0 + row] = 5.0;
//!             read(&logits);
//!         }
//!         Ok(())
//!     }
//!     fn commit(&mut self, _: usize, tokens: &[u32]) -> Result<(), Infallible> {
//!         self.0 += tokens.len();
//!         Ok(())
//!     }
//!     fn release(&mut self, _: usize) {
//!         self.0 = 0;
//!     }
//! }
//!
//! let four = NonZeroUsize::new(4).expect("not zero");
//! let request = Request::new(vec![0, 1, 2, 3, 4], 8, four, 15);
//! let generation = generate(&mut Counting(0), request, |_event| ControlFlow::Continue(()))?;
//! assert_eq!(generation.tokens, [5, 6, 7, 8, 9, 10, 11, 12]);
//! assert_eq!(generation.forwards, 8); // one token a refinement; commits ride along
//! # Ok::<(), lacuna_samplers::Error>(())
//! ```
//!
//! A text is filled block by block, left to right. Each pass over a block proposes a
//! [`Candidate`] for every masked position; a [`FillRule`] says which of them are taken; a full
//! block is committed and the next one opened.
//!
//! - [`Denoiser`] is the model, as far as a sampler can see it; [`Speculative`] is one that takes drafts, and may draw where
//!   its logits are ([`Draw`]).
//! - A [`Request`] has the prompt and says how to decode it ([`Sampling`]); a [`Generation`] is what comes of it.
//! - [`Decoder`] is the loop, for many requests at once, block diffusion and autoregressive ones side by side, each of
//!   which may fail alone; [`generate_batch`] and [`generate`] run it to the end.
//! - [`reference`](mod@reference) is the released algorithm, faults included, to compare with.
//! - A request may bring [`Guidance`] along ([`generate_with`]): a [`Drafter`] saves passes with drafts from an old
//!   version of the text ([`edit`]) or from wherever its newest tokens stood before; a [`Constraint`] holds the text to
//!   an automaton, in whatever order its positions are filled.
//! - A [`Proposer`] makes candidates of logits for whoever measures a fill rule outside of a decoder.
//! - An [`Event`] tells an observer what happened, for streaming, stop strings and [`trace`]s.
//!
//! Randomness is counter-based: a draw depends on the request's seed, the position and the
//! refinement, never on the batch. This crate knows no model, no tensor, no tokenizer and no text:
//! logits are slices of f32, stop strings are the observer's business.

#![forbid(unsafe_code)]

mod candidates;
mod constraint;
mod decoder;
mod denoiser;
mod drafts;
mod error;
mod fill;
mod keyed;
pub mod reference;
mod request;
mod rows;
mod sequence;
pub mod trace;

pub use candidates::{Proposer, Sampling};
pub use constraint::{ByteAutomaton, Constraint, Vocabulary};
pub use decoder::{Decoder, Failure, Guidance, Step, generate, generate_batch};
pub use denoiser::{Denoiser, Draft, Draw, NoToken, Row, Segment, Speculative, View};
pub use drafts::{DraftCounts, Drafter, Drafting, edit, generate_with};
pub use error::{Error, Result};
pub use fill::{Candidate, FillRule, quota};
pub use request::{BlockEvent, Event, FinishReason, Generation, Refinement, Request};

/// The guide, compiled and run as a documentation test.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/guides/decode-with-your-own-model.md")]
struct Guide;

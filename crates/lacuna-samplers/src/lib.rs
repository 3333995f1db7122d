//! Block decoding over any denoiser: fill rules, batches, and the released algorithm line by line.
//!
//! ```
//! use std::{num::NonZeroUsize, ops::ControlFlow};
//! use lacuna_samplers::{Request, generate};
//! # use candle_core::{Device, Result, Tensor};
//! # use lacuna_samplers::{Denoiser, Lane};
//! # struct Counting(usize); // a model that knows how to count
//! # impl Denoiser for Counting {
//! #     fn prefill(&mut self, _: usize, tokens: &[u32], _: usize) -> Result<()> { self.0 += tokens.len(); Ok(()) }
//! #     fn denoise(&mut self, lanes: &[Lane<'_>]) -> Result<Tensor> {
//! #         let next = lanes[0].rows.iter().map(|row| (self.0 + row) as u32);
//! #         Tensor::new(next.map(|t| (0..16).map(|id| (id == t) as u8 as f32).collect()).collect::<Vec<Vec<f32>>>(), &Device::Cpu)
//! #     }
//! #     fn commit(&mut self, _: usize, block: &[u32]) -> Result<()> { self.0 += block.len(); Ok(()) }
//! #     fn speculate(&mut self, _: usize, _: &[u32], _: usize, _: u32) -> Result<Tensor> { candle_core::bail!("no") }
//! #     fn accept(&mut self, _: usize, _: usize) -> Result<()> { Ok(()) }
//! #     fn release(&mut self, _: usize) {}
//! # }
//! let mut model = Counting(0); // anything that implements `Denoiser`
//! let four = NonZeroUsize::new(4).expect("not zero");
//! let request = Request::new(vec![0, 1, 2, 3, 4], 8, four, 15);
//! let generation = generate(&mut model, request, |_event| ControlFlow::Continue(()))?;
//! assert_eq!(generation.tokens, [5, 6, 7, 8, 9, 10, 11, 12]);
//! assert_eq!(generation.forwards, 8); // one token a refinement; commits ride along
//! # Ok::<(), lacuna_samplers::SamplerError>(())
//! ```
//!
//! A text is filled block by block, left to right. Each pass over a block proposes a
//! [`Candidate`] for every masked position; a [`FillRule`] says which of them are taken; a full
//! block is committed and the next one opened.
//!
//! - [`Denoiser`]: the model, as far as a sampler can see it.
//! - [`Request`], [`Sampling`], [`Generation`]: what goes in and what comes out.
//! - [`Decoder`]: the loop, for many requests at once; [`generate`] for one.
//! - [`reference`](mod@reference): the released algorithm, faults included, to compare with.
//! - [`edit`]: the same text in fewer passes, with an old version of it as draft.
//! - [`generate_autoregressive`]: next-token decoding with the same requests and draws.
//! - [`Event`]: what an observer sees, for streaming, stop strings and [`trace`]s.
//!
//! Randomness is counter-based: a draw depends on the request's seed, the position and the
//! refinement, never on the batch. This crate knows no model, no tokenizer and no text: stop
//! strings are the observer's business.

#![forbid(unsafe_code)]

mod autoregressive;
mod candidates;
mod decoder;
mod denoiser;
mod error;
mod fill;
mod keyed;
pub mod reference;
mod request;
mod rows;
mod sequence;
mod speculative;
pub mod trace;

pub use autoregressive::generate_autoregressive;
pub use candidates::Sampling;
pub use decoder::{Decoder, generate, generate_batch};
pub use denoiser::{Denoiser, Lane};
pub use error::{Result, SamplerError};
pub use fill::{Candidate, FillRule, Needs, quota};
pub use request::{BlockEvent, Event, FinishReason, Generation, Refinement, Request};
pub use speculative::{Drafting, Edit, edit};

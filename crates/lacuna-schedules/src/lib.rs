//! Says how much to mask, and what a masked token's loss counts for, in masked diffusion over
//! blocks of text.
//!
//! ```
//! use core::num::NonZeroUsize;
//! use lacuna_schedules::{BlockClipped, Linear, NoiseSchedule, TimeSampling};
//!
//! let schedule = BlockClipped::new(Linear, NonZeroUsize::new(4).unwrap());
//! let mut times = [0.0; 3]; // one per block of four tokens
//! TimeSampling::Stratified.fill(&mut times, &mut || 0.5); // your random numbers here
//! for t in times {
//!     let (rate, weight) = (schedule.mask_rate(t), schedule.loss_weight(t));
//!     assert!(rate >= 0.25 && weight <= 4.0); // mask each token with `rate`, weigh its loss
//! }
//! ```
//!
//! - [`NoiseSchedule`] gives u(t), the probability that a token is masked at time t, and w(t), the weight of its loss.
//!   [`Linear`], [`CosineMaskHeavy`], [`CosineMaskLight`], [`Polynomial`], [`Log`] and [`Geometric`] are families of
//!   schedules; [`Schedule`] is any of them by name.
//! - [`BlockClipped`] and [`Band`] keep the rates of any schedule away from 0 (and 1).
//! - [`Warmup`] starts training with almost no masks.
//! - [`TimeSampling`] draws the times of a batch.
//! - [`BlockMasking`], [`Estimator`] and the functions beside them say in closed form what a rule does.
//!
//! Times run from 0, clean, to 1, fully masked. "SDC" is the paper
//! [Stable-DiffCoder](https://arxiv.org/abs/2601.15892).
//!
//! The crate masks nothing itself and knows neither tokens, nor tensors, nor any source of random numbers:
//! `lacuna-objective` does that for [candle](https://docs.rs/candle-core); in another framework it is
//! three lines of your own. It needs no `std` and has no dependencies; all results are the same to the
//! bit on every platform.

#![no_std]
#![forbid(unsafe_code)]

mod clipped;
mod closed_forms;
mod error;
mod math;
mod schedule;
mod times;
mod warmup;

pub use clipped::{Band, BlockClipped};
pub use closed_forms::{
    BlockMasking, Estimator, forced_mask_probability, mean_clipped_rate, mean_inverse_clipped_rate,
};
pub use error::Error;
pub use schedule::{
    CosineMaskHeavy, CosineMaskLight, Geometric, Linear, Log, NoiseSchedule, Polynomial, Schedule,
};
pub use times::TimeSampling;
pub use warmup::{Capped, Warmup};

/// The guide's code runs with the tests.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/guides/use-the-schedules-alone.md")]
struct Guide;

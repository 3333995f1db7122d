//! The model from outside: the test that is the paper, recorded figures, gradients, every variant of a configuration.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod contexts;
mod golden;
mod mapped;
mod training;
mod variants;

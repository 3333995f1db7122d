//! Tests the model from outside: the claim that the paper rests on, recorded figures, gradients, every variant of a
//! configuration.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod contexts;
mod golden;
mod mapped;
mod training;
mod variants;

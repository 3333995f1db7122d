//! Tests training: recorded figures, and laws of a step and of a likelihood.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod adamw;
mod golden;
mod laws;
mod memory;
mod order;
mod ranks;
mod stops;
mod trained;
mod watching;

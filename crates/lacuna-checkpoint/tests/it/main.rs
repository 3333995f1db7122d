//! Tests checkpoints from outside: what is written is read again, and a real model is.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod smollm2;
mod weights;

//! Tests this crate from outside, in one program: a module is a subject.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod conversations;
mod corpora;
mod golden;
mod hostile;
mod laws;
mod samples;

//! Tests this crate from outside, in one program: a module is a subject.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod cache;
mod columns;
mod conversations;
mod corpora;
mod golden;
mod hostile;
mod laws;
mod mixtures;
mod packs;
mod samples;
mod windows;

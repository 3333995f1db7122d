//! Tests this crate from outside, in one program: a module is a subject.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod batches;
mod constraints;
mod drafts;
mod editing;
mod laws;
mod scripted;
mod semantics;
mod traces;

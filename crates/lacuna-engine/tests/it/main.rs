//! Tests this crate from outside, in one program: a module is a subject.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod attention;
mod batches;
mod constraints;
mod conversation;
mod decoding;
mod editing;
mod reading;
mod released_tokenizer;
mod sessions;
mod smollm2;
mod support;

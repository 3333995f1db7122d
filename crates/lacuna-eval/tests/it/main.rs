//! Tests claims about the judge, the benchmarks' files, and runs from a model to its score.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test panics where it fails")]

mod cases;
mod exercises;
mod files;
mod forgeries;
mod humaneval;
mod judging;
mod languages;
mod runs;
mod support;

//! Checks the laws of corruption, targets, loss and likelihood.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod corruption;
mod likelihood;
mod loss;
mod targets;

use lacuna_objective::{Corruption, Row, StepRule};
use rand_chacha::ChaCha8Rng;

/// A row of one block, corrupted at one time.
fn corrupt_block(
    rule: &StepRule,
    clean: &[u32],
    eligible: &[bool],
    (time, rng): (f64, &mut ChaCha8Rng),
) -> Corruption {
    let block = 0..clean.len();
    let row = Row::new(clean, eligible, core::slice::from_ref(&block)).expect("one block");
    rule.corrupt_row(row, &[time], rng).expect("one time")
}

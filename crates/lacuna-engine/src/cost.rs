//! Measures what a pass costs by the number of its rows: what a server admits requests by.

use lacuna_samplers::{Denoiser, Draw, Sampling, Segment, Speculative, View};
use std::num::NonZeroUsize;
use std::time::Instant;

use crate::error::Result;
use crate::open::Model;
use crate::session::Session;

/// The seconds that a pass over so many rows takes on this machine, logits of each included: the shortest of three, once
/// one has gone before. A row is a token whose logits are wanted; each block of `block_size` rows is a text of its own.
///
/// # Errors
/// The model's.
pub fn pass_seconds(model: &Model, rows: usize, block_size: NonZeroUsize) -> Result<f64> {
    const TIMES: usize = 3;
    let mut session = Session::of(model);
    let lengths = (0..rows).step_by(block_size.get()).map(|at| block_size.get().min(rows - at));
    let view = View::Blocks { block_size };
    let (tokens, all): (Vec<u32>, Vec<usize>) =
        (vec![0; block_size.get()], (0..block_size.get()).collect());
    // A shifted head reads a block's first token off the one before it.
    let before: &[u32] = if model.is_shifted() { &tokens } else { &[] };
    let mut segments = Vec::new();
    for (sequence, length) in lengths.enumerate() {
        session.prefill(sequence, before, view)?;
        let (block, rows) = (&tokens[..length], &all[..length]);
        segments.push(Segment { sequence, view, block, rows });
    }
    let mut shortest = f64::INFINITY;
    for time in 0..=TIMES {
        let began = Instant::now();
        greedy_pass(&mut session, &segments)?;
        if time > 0 {
            shortest = shortest.min(began.elapsed().as_secs_f64());
        }
    }
    Ok(shortest)
}

/// A pass over open blocks as a greedy decode asks for it, of which nothing is kept: tokens are drawn where the logits are.
///
/// # Errors
/// The model's.
pub fn greedy_pass(session: &mut Session, segments: &[Segment<'_>]) -> Result<()> {
    let sampling = Sampling::default();
    let draw = |position: &usize| {
        let position = *position;
        Some(Draw { sampling: &sampling, position, refinement: 0, forbidden: &[], seen: &[] })
    };
    let draws: Vec<_> = match session.draws() {
        true => segments.iter().flat_map(|one| one.rows.iter().map(draw)).collect(),
        false => Vec::new(),
    };
    session.speculate_drawing(segments, &[], &draws, &mut |row| {
        std::hint::black_box(&row);
    })
}

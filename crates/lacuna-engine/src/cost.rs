//! Measures what a pass costs by the number of its rows: what a server admits requests by.

use lacuna_kernels::AttentionMask;
use lacuna_model::{Batch, KvCache, Sequence};
use std::num::NonZeroUsize;
use std::time::Instant;

use crate::error::Result;
use crate::open::Model;

/// The seconds that a pass over so many rows takes on this machine, logits of each included: the shortest of three, once
/// one has gone before. A row is a token whose logits are wanted; each block of `block_size` rows is a text of its own.
///
/// # Errors
/// The model's.
pub fn pass_seconds(model: &Model, rows: usize, block_size: NonZeroUsize) -> Result<f64> {
    const TIMES: usize = 3;
    let transformer = &model.transformer;
    let wanted: Vec<u32> = (0..block_size.get() as u32).collect();
    let lengths = (0..rows).step_by(block_size.get()).map(|at| block_size.get().min(rows - at));
    let lengths: Vec<usize> = lengths.collect();
    let tokens = vec![0; block_size.get()];
    let mut caches = Vec::new();
    for _ in &lengths {
        caches.push(transformer.new_cache(block_size.get())?);
    }
    let mut shortest = f64::INFINITY;
    for time in 0..=TIMES {
        let mut batch = Batch::default();
        for length in &lengths {
            let (tokens, wanted) = (&tokens[..*length], Some(&wanted[..*length]));
            let read = Sequence { tokens, past: 0, wanted, ..Sequence::default() };
            batch.push(read, AttentionMask::BlockCausal { block_size })?;
        }
        let mut held: Vec<&mut KvCache> = caches.iter_mut().collect();
        let began = Instant::now();
        transformer.logits(&transformer.forward_cached(&batch, &mut held)?)?;
        if time > 0 {
            shortest = shortest.min(began.elapsed().as_secs_f64());
        }
    }
    Ok(shortest)
}

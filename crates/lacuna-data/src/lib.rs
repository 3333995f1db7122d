//! Text to tokens to packed, memory-mapped training windows, with resumable batches.

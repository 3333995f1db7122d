//! Mask rates, loss weights, block clipping and warmup for masked diffusion: no_std, no dependencies.

//! Corruption, weighted cross-entropy and exact block likelihood for masked diffusion.

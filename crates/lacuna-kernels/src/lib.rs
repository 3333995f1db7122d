//! Attention masks and the hot operations of block diffusion: slow reference first, fast CPU and CUDA beside it.

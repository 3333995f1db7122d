//! A Llama-shaped transformer with causal, full and block-diffusion passes, a KV cache and safe weight files.

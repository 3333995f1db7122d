//! Block-diffusion code language models: train, measure, write, fill in and edit code.

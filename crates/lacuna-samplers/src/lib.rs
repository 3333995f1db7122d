//! Block decoding over any denoiser: fill rules, fused commits, the released algorithm line by line.

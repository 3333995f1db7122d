//! Describes Fast-dLLM v2: block diffusion with the layers of Qwen2.5, whose head still predicts the next position.

use super::{Diffusion, Family, qwen2::QWEN2};

pub(crate) const FAST_DLLM: Diffusion = Diffusion {
    family: Family::FastDllm,
    announced: ("Fast_dLLM_QwenForCausalLM", "Fast_dLLM_Qwen"),
    layers: &QWEN2,
    signs: &[&["fast", "dllm"], &["fastdllm"]],
    shares_signs: false,
    block_fields: &["bd_size", "block_size"],
    own_field: Some("bd_size"),
    block_size: 32,
    named_block: false,
    mask: ("|<MASK>|", Some(151_665)),
    known_by_mask: true,
    shifted: true,
};

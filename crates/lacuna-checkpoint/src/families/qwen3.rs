//! Describes Qwen3, which is Llama with a norm on every query and key head; and SDAR, block diffusion with its
//! layers.

use super::{Architecture, Diffusion, Family, Flag, LLAMA, Tensor};
use crate::parameters::{Field, Kind, Parts};

pub(crate) const QWEN3: Architecture = Architecture {
    announced: "Qwen3ForCausalLM",
    model_type: "qwen3",
    gguf: Some("qwen3"),
    implied: Parts { qk_norm: true, ..Parts::NONE },
    announces: |parts| parts.qk_norm,
    interleaved: false,
    tensors: &[
        Tensor(Field::QNorm, "self_attn.q_norm", "attn_q_norm"),
        Tensor(Field::KNorm, "self_attn.k_norm", "attn_k_norm"),
    ],
    flags: &[Flag {
        key: "qk_norm",
        of: |parts| &mut parts.qk_norm,
        shown_by: (Field::QNorm, Kind::Weight),
        implied: |implied, _| implied.qk_norm,
        always_written: false,
    }],
    ..LLAMA
};

pub(crate) const SDAR: Diffusion = Diffusion {
    family: Family::Sdar,
    announced: ("SDARForCausalLM", "sdar"),
    layers: &QWEN3,
    signs: &[&["sdar"]],
    shares_signs: false,
    block_fields: &["block_size", "block_length"],
    own_field: None,
    block_size: 4,
    named_block: true,
    mask: ("<|MASK|>", Some(151_669)),
    known_by_mask: true,
    shifted: false,
};

//! Describes Qwen2 and Qwen2.5: Llama with biases on queries, keys and values.

use super::{Architecture, LLAMA};
use crate::parameters::Parts;

pub(crate) const QWEN2: Architecture = Architecture {
    announced: "Qwen2ForCausalLM",
    model_type: "qwen2",
    gguf: Some("qwen2"),
    implied: Parts { attention_bias: true, ..Parts::NONE },
    announces: |parts| parts.attention_bias && !parts.attention_output_bias,
    interleaved: false,
    tensors: &[],
    flags: &[],
    ..LLAMA
};

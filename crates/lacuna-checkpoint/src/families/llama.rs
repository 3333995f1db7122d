//! Describes Llama, and models that are Llama under another name: Mistral without its window, and Stable-DiffCoder,
//! the released block-diffusion model. All other tables begin with its tensors and flags.

use super::{Architecture, Flag, Tensor};
use crate::parameters::{Field, Kind, Parts};

pub(crate) const LLAMA: Architecture = Architecture {
    announced: "LlamaForCausalLM",
    model_type: "llama",
    gguf: Some("llama"),
    implied: Parts::NONE,
    announces: |_| true,
    windowed: false,
    interleaved: true,
    tensors: &[
        Tensor(Field::Embed, "model.embed_tokens", "token_embd"),
        Tensor(Field::Norm, "model.norm", "output_norm"),
        Tensor(Field::Head, "lm_head", "output"),
        Tensor(Field::InputNorm, "input_layernorm", "attn_norm"),
        Tensor(Field::Q, "self_attn.q_proj", "attn_q"),
        Tensor(Field::K, "self_attn.k_proj", "attn_k"),
        Tensor(Field::V, "self_attn.v_proj", "attn_v"),
        Tensor(Field::O, "self_attn.o_proj", "attn_output"),
        Tensor(Field::MlpNorm, "post_attention_layernorm", "ffn_norm"),
        Tensor(Field::Gate, "mlp.gate_proj", "ffn_gate"),
        Tensor(Field::Up, "mlp.up_proj", "ffn_up"),
        Tensor(Field::Down, "mlp.down_proj", "ffn_down"),
    ],
    flags: &[
        Flag {
            key: "attention_bias",
            of: |parts| &mut parts.attention_bias,
            shown_by: (Field::Q, Kind::Bias),
            implied: |implied, _| implied.attention_bias,
            always_written: true,
        },
        Flag {
            key: "attention_output_bias",
            of: |parts| &mut parts.attention_output_bias,
            shown_by: (Field::O, Kind::Bias),
            // Llama's option is for all four projections; an architecture that implies biases has three.
            implied: |implied, so_far| so_far.attention_bias && !implied.attention_bias,
            always_written: false,
        },
        Flag {
            key: "mlp_bias",
            of: |parts| &mut parts.mlp_bias,
            shown_by: (Field::Gate, Kind::Bias),
            implied: |implied, _| implied.mlp_bias,
            always_written: true,
        },
    ],
};

pub(crate) const DIFFCODER: Architecture =
    Architecture { announced: "StableDiffcoderForCausalLM", ..ALIKE };

pub(crate) const MISTRAL: Architecture = Architecture {
    announced: "MistralForCausalLM",
    model_type: "mistral",
    windowed: true,
    ..ALIKE
};

/// Llama without its GGUF name, its tensors and its flags, which no second table may list.
const ALIKE: Architecture =
    Architecture { gguf: None, announces: |_| false, tensors: &[], flags: &[], ..LLAMA };

/// The text of MASK in the released tokenizer, and in Stable-DiffCoder's alone: a GGUF file with it is that model.
pub(crate) const RELEASED_MASK: &str = "<[MASK_TOKEN]>";
/// The id of MASK in the released tokenizer.
pub(crate) const RELEASED_MASK_ID: u32 = 5;

/// The tensor of rotary divisors that llama.cpp's converter stores for Llama 3.1 and later.
pub(crate) const ROPE_FACTORS: &str = "rope_freqs.weight";

//! Describes Tiny-A2D: autoregressive models of three architectures, trained on as block diffusion.

use super::{Architecture, Diffusion, Family, LLAMA, qwen2::QWEN2, qwen3::QWEN3};

pub(crate) const LLAMA_A2D: Diffusion = Diffusion {
    // Autoregressive models with Llama's layers have tokenizers with this MASK too.
    known_by_mask: false,
    ..table(Family::A2dLlama, ("A2DLlamaLMHeadModel", "a2d-llama"), &LLAMA)
};

pub(crate) const QWEN2_A2D: Diffusion =
    table(Family::A2dQwen2, ("A2DQwen2LMHeadModel", "a2d-qwen2"), &QWEN2);

pub(crate) const QWEN3_A2D: Diffusion =
    table(Family::A2dQwen3, ("A2DQwen3LMHeadModel", "a2d-qwen3"), &QWEN3);

const fn table(
    family: Family,
    announced: (&'static str, &'static str),
    layers: &'static Architecture,
) -> Diffusion {
    Diffusion {
        family,
        announced,
        layers,
        signs: &[&["bd3lm"], &["a2d"]],
        shares_signs: true,
        block_fields: &["block_size", "block_length"],
        own_field: None,
        block_size: 32,
        named_block: false,
        mask: ("<|mask|>", None),
        known_by_mask: true,
        shifted: false,
    }
}

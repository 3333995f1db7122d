//! Describes Seed-OSS, a larger sibling of the model that Stable-DiffCoder starts from: Llama with biases on queries,
//! keys and values.

use super::{Architecture, LLAMA};
use crate::parameters::Parts;

pub(crate) const SEED_OSS: Architecture = Architecture {
    announced: "SeedOssForCausalLM",
    model_type: "seed_oss",
    // Its GGUF files call the norm before the feed-forward part by another name.
    gguf: None,
    implied: Parts { attention_bias: true, ..Parts::NONE },
    announces: |_| false,
    interleaved: false,
    tensors: &[],
    flags: &[],
    ..LLAMA
};

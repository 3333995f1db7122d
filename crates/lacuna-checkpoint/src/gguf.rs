//! Reads and writes GGUF files, with a reader of our own: nothing of the file is used before it is checked.

mod carried;
mod config;
mod fields;
mod hash;
mod metadata;
mod mode;
mod parse;
mod pre;
mod reader;
mod tokenizer;
mod vocabulary;
mod write;

pub use carried::CarriedMetadata;
pub(crate) use config::{CARRIED, architecture, permuted_heads, read_config};
pub(crate) use hash::whole;
pub(crate) use parse::{Gguf, Header};
pub(crate) use tokenizer::{token_ids, tokenizer_json};
pub use write::{GgufOptions, save_gguf};

/// The multiple of bytes at which tensors start in the files that are written; the format's default.
const ALIGNMENT_BYTES: u64 = 32;

#[cfg(test)]
mod tests;

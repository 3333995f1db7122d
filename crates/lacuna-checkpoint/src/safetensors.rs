//! Reads and writes safetensors files.

mod header;
mod save;

pub(crate) use header::{parse_described, parse_safetensors};
pub(crate) use save::save_described;
pub use save::{SaveOptions, save_safetensors, save_tensors};

//! Reads and writes safetensors files.

mod header;
mod save;

pub(crate) use header::parse_safetensors;
pub use save::{SaveOptions, save_safetensors, save_tensors};

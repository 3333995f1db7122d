//! safetensors files in and out.

mod header;
mod save;

pub(crate) use header::parse_safetensors;
pub use save::{SaveOptions, save_safetensors, save_tensors};

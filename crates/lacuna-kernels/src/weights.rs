//! Keeps weights as they are stored, and multiplies with them.

mod block;
mod dtype;
mod formats;
mod int8;
mod matmul;
mod matrix;
pub(crate) mod quant;

pub use dtype::StorageDtype;
pub use matrix::{Activations, Bytes, WeightMatrix};

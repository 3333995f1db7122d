//! The operations, a folder each: `mod.rs` has what callers see and one `match` on the backend, `reference.rs`
//! the definition, `cpu.rs` the fused loops.

pub(crate) mod adamw;
pub(crate) mod attention;
pub(crate) mod cross_entropy;
pub(crate) mod embedding;
pub(crate) mod linear;
pub(crate) mod rms_norm;
pub(crate) mod rope;
pub(crate) mod swiglu;

//! Computes the costly operations of block-diffusion models, attention masks included. Each has a slow definition,
//! and fast CPU code that is tested against it. Kernels for NVIDIA stand in the folder `cuda`; no function here calls
//! them yet.
//!
//! ```
//! use candle_core::{Device, Tensor};
//! use lacuna_kernels::{AttentionMask, Backend, KeyRanges, Segments, attention};
//!
//! // Two noisy and two clean positions, blocks of one token, one head of size 2.
//! let mask = AttentionMask::BlockDiffusion { block_size: 1.try_into().unwrap(), seq_len: 2 };
//! let segments = Segments::end_to_end([KeyRanges::new(mask, 4, 4, 0)]);
//! let x = Tensor::arange(0f32, 8., &Device::Cpu)?.reshape((4, 1, 2))?;
//! let y = attention(Backend::cpu(), &x, &x, &x, &segments, 1.0)?;
//! // The first noisy block sees nothing but itself.
//! assert_eq!(y.get(0)?.get(0)?.to_vec1::<f32>()?, [0., 1.]);
//! # Ok::<(), candle_core::Error>(())
//! ```
//!
//! - [`AttentionMask`] says which key a query sees; [`KeyRanges`] lays that out for the queries of one sequence,
//!   and [`Segments`] lay the sequences of a pass end to end.
//! - [`attention`], [`rms_norm`], [`rope`], [`swiglu`], [`embedding`], [`linear`] and
//!   [`linear_cross_entropy`] are a transformer's parts, all differentiable.
//! - Their gradients are functions too ([`rms_norm_backward`], [`linear_cross_entropy_gradients`], …), for a
//!   caller who keeps what they need instead of letting candle record a graph. They record nothing themselves.
//! - [`adamw`] is one parameter's share of a training step, [`adamw_eight_bit`] the same with moments of a byte a number.
//! - [`mod@reference`] holds the definition of each; every fast form is tested against it.
//!
//! Every operation takes as its first argument the [`Backend`] that computes it: fused loops for f32 tensors on the
//! CPU, the reference for anything else. Results do not depend on the number of threads.
//!
//! Models, caches, noise schedules, files and random numbers are the business of other crates.

// Unsafe code is allowed in five modules alone: `simd`, `raw`, `spin`, `ops::attention::cpu`, `ffi`.
#![deny(unsafe_code)]

mod backend;
mod ffi;
mod gemm;
mod message;
mod ops;
mod raw;
pub mod reference;
mod simd;
mod spin;
mod weights;

pub use backend::{Backend, Isa};
pub use ffi::{give_back_freed_memory, keep_freed_memory};
pub use message::message;
pub use ops::adamw::{
    AdamWUpdate, EIGHT_BIT_BLOCK, Moments, RoundingWords, adamw, adamw_eight_bit, eight_bit_len,
    global_norm, moving_average, sums_of_squares,
};
pub use ops::attention::{
    AttentionMask, AttentionOutput, CachePrecision, KeyRanges, Segment, Segments, StoredRows,
    attention, attention_backward, attention_kept, attention_over,
};
pub use ops::cross_entropy::{
    CrossEntropy, CrossEntropyGradients, linear_cross_entropy, linear_cross_entropy_gradients,
    token_nll,
};
pub use ops::embedding::{embedding, embedding_backward};
pub use ops::linear::{linear, linear_input_gradient, linear_weight_gradient};
pub use ops::rms_norm::{add_rms_norm, rms_norm, rms_norm_backward};
pub use ops::rope::{Rope, rope, rope_backward};
pub use ops::swiglu::{swiglu, swiglu_backward};
pub use weights::{Activations, Bytes, StorageDtype, WeightMatrix};

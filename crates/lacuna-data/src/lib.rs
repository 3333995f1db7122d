//! Text to tokens to packed, memory-mapped training windows, with resumable batches.

#![deny(unsafe_op_in_unsafe_fn)]

mod atomic;
pub mod batch;
pub mod corpus;
mod dataset;
mod error;
pub mod packing;
mod seed;
pub mod shard;
mod stream;
mod tokenizer;

pub use batch::{Batches, Cursor, Row};
pub use corpus::{Corpus, CorpusOptions, Document};
pub use dataset::{Dataset, Window};
pub use error::{Error, Result};
pub use packing::{Packed, Packer, Remainder, Sample, pack};
pub use shard::{Manifest, ShardOptions, ShardWriter};
pub use stream::TextStream;
pub use tokenizer::{SPECIAL_TOKENS, Tokenizer};

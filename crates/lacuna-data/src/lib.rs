//! Turns corpora into packed, memory-mapped training windows, with resumable batches.
//!
//! ```
//! use lacuna_data::{Batches, Corpus, CorpusOptions, Dataset, Packer, Remainder, pack};
//! use lacuna_text::Tokenizer;
//! # let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures");
//! # let (folder, file) = (format!("{root}/corpus/python/toolz-1.2.0"), format!("{root}/tokenizer/tokenizer.json"));
//! let corpus = Corpus::read(&[folder], &CorpusOptions::default())?;
//! let (training, _held_out) = corpus.split(0.1);
//! let tokenizer = Tokenizer::from_file(file)?;
//! let packer = Packer::new(256.try_into()?, Remainder::Drop);
//! let packed = pack(&training, &tokenizer, /* end of document */ 2, packer)?;
//! let batches = Batches::new(Dataset::from_packed(packed, tokenizer.vocab_size())?, /* seed */ 7)?;
//! for row in batches.rows(/* step */ 0, 4.try_into()?)? {
//!     assert_eq!(row.window.tokens.len(), 256);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # The nouns
//! - A [`Document`] is one text of a [`Corpus`]; a hash of its path, or of the text of a record, decides whether it is
//!   held out. Equal texts are taken once.
//! - A [`Packer`] joins documents, or the [`Sample`]s of conversations, into [`Window`]s of one
//!   length, which know where documents begin and which tokens may be supervised.
//! - A [`Dataset`] is windows in memory or in mapped shards, which a [`ShardWriter`] writes and which
//!   are [checked](shard) before they are used.
//! - [`pack_corpus`] packs a corpus of any size into shards, on all cores; a [`PackCache`] keeps what it packed and
//!   finds it again. [`Holes`] rewrite documents for filling in the middle.
//! - A [`Mixture`] takes several datasets in fixed shares.
//! - [`Batches`] deal windows out, every one once an epoch; the rows of a step are a pure function of
//!   the seed and the step. A [`Cursor`] is all that a checkpoint keeps.
//! - [`pack_chat`] makes samples of conversations, written as a chat template says.
//! - [`stats`] has the unigram and bigram baselines that a model must beat.
//!
//! # What it does not do
//! It knows no tensors, no masks and no models; it downloads nothing; texts that are nearly equal are different texts
//! to it, and of a text's worth it judges no more than the length of its lines. Tokenizers and chat templates are
//! `lacuna-text`'s.

#![forbid(unsafe_code)]

pub mod batch;
pub mod cache;
pub mod corpus;
mod dataset;
mod error;
mod holes;
pub mod mixture;
pub mod packing;
mod packs;
mod parallel;
mod records;
mod sft;
pub mod shard;
pub mod stats;
mod window;

pub use batch::{Batches, Cursor, Row};
pub use cache::{PackCache, PackedCorpus};
pub use corpus::{Corpus, CorpusOptions, Document};
pub use dataset::Dataset;
pub use error::{Error, Result};
pub use holes::{HOLE_TOKENS, HoleOrder, Holes};
pub use mixture::Mixture;
pub use packing::{Packed, Packer, Remainder, Sample, pack};
pub use packs::{PackOptions, PackReport, Packing, SHARD_TOKENS, pack_corpus};
pub use sft::{ChatOptions, ChatPacking, PackedChat, pack_chat, pack_chat_shards};
pub use shard::{Manifest, ShardFolders, ShardOptions, ShardWriter};
pub use window::Window;

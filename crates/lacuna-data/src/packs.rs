//! Packs a corpus into a folder of shards: read, split, tokenized on all cores, written as it comes.

use crate::corpus::{CorpusOptions, Document, Reading, Skipped, for_each_document};
use crate::error::{Error, Result};
use crate::holes::Holes;
use crate::packing::Remainder;
use crate::parallel::in_order;
use crate::shard::{Manifest, ShardFolders, ShardOptions, ShardWriter};
use lacuna_text::Tokenizer;
use std::cell::Cell;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

/// The tokens of a shard, where nobody says otherwise: files of 64 MiB with 16-bit tokens, of 128 MiB with more.
pub const SHARD_TOKENS: usize = 1 << 25;

/// Settings by which a corpus becomes windows.
#[derive(Debug)]
pub struct PackOptions<'a> {
    /// Turns text into ids; special tokens spelt out in the text stay ordinary text.
    pub tokenizer: &'a Tokenizer,
    /// The token that ends every document.
    pub document_end: u32,
    /// The token that fills the last held-out window.
    pub pad: u32,
    /// The number of tokens that every window holds.
    pub window_len: NonZeroUsize,
    /// The part of the documents that is kept out of training.
    pub held_out: f64,
    /// The rule by which training documents are rewritten for filling in the middle. Held-out text stays as it is.
    pub holes: Option<Holes<'a>>,
    /// A shard is closed when it holds this many tokens.
    pub shard_tokens: usize,
    /// The threads that tokenize. The shards are the same for any number.
    pub threads: NonZeroUsize,
}

impl<'a> PackOptions<'a> {
    /// Settings without holes, with [`SHARD_TOKENS`] and a thread for each processor.
    pub fn new(tokenizer: &'a Tokenizer, document_end: u32, window_len: NonZeroUsize) -> Self {
        Self {
            tokenizer,
            document_end,
            pad: document_end,
            window_len,
            held_out: 0.0,
            holes: None,
            shard_tokens: SHARD_TOKENS,
            threads: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
        }
    }

    /// The settings by which one part of the corpus is written.
    pub(crate) fn shards(&self, remainder: Remainder) -> ShardOptions {
        ShardOptions {
            window_len: self.window_len,
            remainder,
            vocab_size: self.tokenizer.vocab_size(),
            tokenizer: self.tokenizer.fingerprint(),
            shard_tokens: self.shard_tokens,
        }
    }
}

/// Progress in packing a corpus.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Packing {
    /// The reading of the corpus, which is a little ahead of the rest.
    pub reading: Reading,
    /// Tokens written, ends of documents included.
    pub tokens: u64,
}

/// The outcome of a packing.
#[derive(Debug)]
pub struct PackReport {
    /// Documents of both parts.
    pub documents: usize,
    /// Those that were held out.
    pub held_out_documents: usize,
    /// Those that were rewritten for filling in the middle.
    pub rewritten_documents: usize,
    /// Tokens of both parts, ends of documents included, padding not.
    pub tokens: u64,
    /// Bytes of all texts.
    pub text_bytes: u64,
    /// The things that were passed over.
    pub skipped: Skipped,
    /// The training part.
    pub train: Manifest,
    /// The held-out part, if anything was held out.
    pub held_out: Option<Manifest>,
    /// Files of others that stood in the way of the held-out part and have another name now.
    pub renamed: Vec<PathBuf>,
}

/// Packs all documents of the inputs into the folders `train` and `held-out` of `out`, which get their names when both
/// are whole.
///
/// The same inputs and options give the same bytes, on any number of threads. What is held in memory is a few documents
/// for each thread, a few windows, and of each document a beginning of its hash: a document is held whole, a corpus
/// never.
///
/// # Errors
/// When pieces with holes do not fit a window, the inputs cannot be read (as [`for_each_document`]), everything is held out, the text does not fill one
/// window, or the disk refuses. Then nothing of the packing is left.
pub fn pack_corpus(
    inputs: &[impl AsRef<Path>],
    corpus: &CorpusOptions,
    options: &PackOptions<'_>,
    out: &Path,
    progress: &mut dyn FnMut(Packing),
) -> Result<PackReport> {
    options.holes.as_ref().map_or(Ok(()), |holes| holes.check_window(options.window_len))?;
    let folders = ShardFolders::begin(out)?;
    let mut parts = Parts::begin(&folders, options)?;
    let tokens = Cell::new(0);
    let mut told = |reading| progress(Packing { reading, tokens: tokens.get() });
    let skipped = in_order(
        options.threads,
        |push| {
            for_each_document(inputs, corpus, &mut told, |document| {
                let bytes = document.text.len();
                push(document, bytes)
            })
        },
        |document| encode(&document, options),
        |encoded| {
            let more = encoded.documents.iter().map(|document| document.len() as u64 + 1);
            tokens.set(tokens.get() + more.sum::<u64>());
            parts.take(&encoded, options.document_end)
        },
    )?;
    parts.finish(folders, skipped, tokens.get())
}

/// A document as tokens.
struct Encoded {
    /// The document, or those that stand in for it.
    documents: Vec<Vec<u32>>,
    text_bytes: usize,
    is_held_out: bool,
    is_rewritten: bool,
}

fn encode(document: &Document, options: &PackOptions<'_>) -> Result<Encoded> {
    let is_held_out = document.is_held_out(options.held_out);
    let holes = options.holes.as_ref().filter(|_| !is_held_out);
    let rewritten = holes.map(|holes| holes.rewritten(document)).transpose()?.flatten();
    let is_rewritten = rewritten.is_some();
    let documents = match rewritten {
        Some(documents) => documents,
        None => vec![options.tokenizer.encode_ordinary(&document.text)?],
    };
    Ok(Encoded { documents, text_bytes: document.text.len(), is_held_out, is_rewritten })
}

/// Both parts of a packing under way.
struct Parts {
    train: ShardWriter,
    held_out: ShardWriter,
    documents: usize,
    held_out_documents: usize,
    rewritten_documents: usize,
    text_bytes: u64,
}

impl Parts {
    fn begin(folders: &ShardFolders, options: &PackOptions<'_>) -> Result<Self> {
        Ok(Self {
            train: ShardWriter::create(folders.train(), options.shards(Remainder::Drop))?,
            held_out: ShardWriter::create(
                folders.held_out(),
                options.shards(Remainder::Pad(options.pad)),
            )?,
            documents: 0,
            held_out_documents: 0,
            rewritten_documents: 0,
            text_bytes: 0,
        })
    }

    fn take(&mut self, encoded: &Encoded, document_end: u32) -> Result<()> {
        let Encoded { documents, text_bytes, is_held_out, is_rewritten } = encoded;
        self.documents += 1;
        self.held_out_documents += usize::from(*is_held_out);
        self.rewritten_documents += usize::from(*is_rewritten);
        self.text_bytes += *text_bytes as u64;
        let part = if *is_held_out { &mut self.held_out } else { &mut self.train };
        // The text is counted once, with the first of the documents that stand in for it.
        let bytes = std::iter::once(*text_bytes).chain(std::iter::repeat(0));
        documents
            .iter()
            .zip(bytes)
            .try_for_each(|(tokens, bytes)| part.push(tokens, document_end, bytes))
    }

    fn finish(
        mut self,
        folders: ShardFolders,
        skipped: Skipped,
        tokens: u64,
    ) -> Result<PackReport> {
        let Self { documents, held_out_documents, rewritten_documents, text_bytes, .. } = self;
        if held_out_documents == documents {
            return Err(Error::Packing(format!(
                "all {documents} documents are held out, by the hash of their paths (of their texts, where they are \
                 records); --held-out 0, data.held_out = 0 takes them"
            )));
        }
        self.train.note_passed_over(skipped.lines());
        let train = self.train.finish()?;
        let held_out = match held_out_documents {
            0 => None,
            _ => Some(self.held_out.finish()?),
        };
        let renamed = folders.publish(held_out.is_some())?;
        Ok(PackReport {
            documents,
            held_out_documents,
            rewritten_documents,
            tokens,
            text_bytes,
            skipped,
            train,
            held_out,
            renamed,
        })
    }
}

//! Takes the keys and values of a text out of a session and puts them back, so that another text with the same beginning
//! is read from where it differs.

use lacuna_kernels::AttentionMask;
use lacuna_model::{Activations, Batch, Sequence as Rows};
use lacuna_samplers::View;

use super::passes::Cache;
use super::{FIRST_CAPACITY, Sequence, Session};
use crate::error::Result;

/// The beginning of a text that a model has read: its tokens, with their keys and values.
///
/// Under block-causal attention only whole blocks can be shared, since the keys of a token depend on all of its block;
/// under causal attention every token can.
#[derive(Debug)]
pub struct Prefix {
    view: View,
    precision: Activations,
    tokens: Vec<u32>,
    cache: Cache,
}

impl Prefix {
    /// The tokens that were read.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The number of its tokens with which `tokens` begins, in whole blocks where keys depend on those; none of them
    /// where it was read under another view or in another precision.
    pub fn shared(&self, tokens: &[u32], view: View, precision: Activations) -> usize {
        match (self.view, self.precision) == (view, precision) {
            true => view.settled(shared(&self.tokens, tokens)),
            false => 0,
        }
    }

    /// A copy of its first `len` tokens.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn copied(&self, len: usize) -> Result<Self> {
        let cache = self.cache.copied(len)?;
        let tokens = self.tokens[..cache.len()].to_vec();
        Ok(Self { tokens, cache, ..*self })
    }

    /// Forgets all but the first `len` tokens.
    pub fn truncate(&mut self, len: usize) {
        self.tokens.truncate(len);
        self.cache.truncate(len);
    }

    /// The number of tokens that it takes memory for.
    pub(crate) fn capacity(&self) -> usize {
        self.cache.capacity()
    }
}

fn shared(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

fn whole_blocks(tokens: usize, view: View) -> usize {
    tokens / view.block_size() * view.block_size().get()
}

impl Session {
    /// The beginning of a text of which nothing was read.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn prefix(&self, view: View, precision: Activations) -> Result<Prefix> {
        let cache = self.on.new_cache(FIRST_CAPACITY)?;
        Ok(Prefix { view, precision, tokens: Vec::new(), cache })
    }

    /// Reads on in a prompt, in one pass of at most `rows` tokens (or one block), and says whether all of it is read
    /// that can be read ahead: its whole blocks; under the causal view all but the last token, which is read again for
    /// what follows it.
    ///
    /// # Errors
    /// The model's; the prefix stays as it was.
    pub fn read_on(&mut self, prefix: &mut Prefix, prompt: &[u32], rows: usize) -> Result<bool> {
        let end = match prefix.view {
            View::Blocks { .. } | View::CausalBlocks { .. } => {
                whole_blocks(prompt.len(), prefix.view)
            }
            View::Causal => prompt.len().saturating_sub(1),
        };
        let from = prefix.tokens.len();
        let rows = whole_blocks(rows, prefix.view).max(prefix.view.block_size().get());
        let to = end.min(from.saturating_add(rows));
        if to > from {
            let tokens = &prompt[from..to];
            let read = Rows { tokens, past: from, wanted: Some(&[]), ..Rows::default() };
            let mask = match prefix.view {
                View::Blocks { block_size } => AttentionMask::BlockCausal { block_size },
                View::CausalBlocks { .. } | View::Causal => AttentionMask::Causal,
            };
            let batch = Batch::of(read, mask)?.in_precision(prefix.precision);
            self.passes += 1;
            self.on.read(&batch, &mut [&mut prefix.cache])?;
            prefix.cache.keep(0..tokens.len())?;
            self.prompt_rows += tokens.len();
            prefix.tokens.extend_from_slice(tokens);
        }
        Ok(to >= end)
    }

    /// Gives a sequence that a sampler is about to begin under this number what was read of its prompt, in the
    /// precision of the prefix.
    pub fn seat(&mut self, sequence: usize, prefix: Prefix) {
        let Prefix { view, precision, tokens, cache } = prefix;
        self.read_prompt_in(sequence, precision);
        let read = Sequence { precision, cached: tokens, ..Sequence::with(sequence, cache, view) };
        match self.find(sequence) {
            Ok(at) => self.sequences[at] = read,
            Err(at) => self.sequences.insert(at, read),
        }
    }

    /// Takes what is remembered of a sequence that a sampler has released; `None` where there is nothing.
    pub fn unseat(&mut self, sequence: usize) -> Option<Prefix> {
        let at = self.find(sequence).ok().filter(|at| !self.sequences[*at].in_use)?;
        let Sequence { view, precision, cached, cache, .. } = self.sequences.remove(at);
        Some(Prefix { view, precision, tokens: cached, cache })
    }

    /// A copy of what the sequences under way have read of this prompt, where it is more than `most` tokens.
    pub(crate) fn copied_beginning(
        &self,
        prompt: &[u32],
        view: View,
        precision: Activations,
        most: usize,
    ) -> Result<Option<Prefix>> {
        let alike =
            self.sequences.iter().filter(|one| (one.view, one.precision) == (view, precision));
        let lengths = alike.map(|one| (view.settled(shared(&one.cached, prompt)), one));
        let Some((len, longest)) = lengths.max_by_key(|(len, _)| *len) else { return Ok(None) };
        if len <= most {
            return Ok(None);
        }
        let cache = longest.cache.copied(len)?;
        Ok(Some(Prefix { view, precision, tokens: prompt[..len].to_vec(), cache }))
    }
}

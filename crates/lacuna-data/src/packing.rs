//! Packs documents and conversations into windows of one length.

use crate::corpus::Document;
use crate::error::{Error, Result};
use crate::window::{Window, lengths};
use lacuna_random::{Purpose, below, stream};
use lacuna_text::{ChatTemplate, Message, RenderOptions, SPECIAL_TOKENS, Tokenizer};
use std::num::NonZeroUsize;

/// The fate of the last tokens when they do not fill a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remainder {
    /// They are dropped: every token of every window is real. For training.
    Drop,
    /// They are padded with this id; the padding is ineligible. For held-out text, of which no token
    /// may be lost, and for conversations.
    Pad(u32),
}

/// Joins documents with an end token and cuts the stream into windows of one length.
///
/// Documents run on from one window into the next; nothing is lost but, with [`Remainder::Drop`],
/// what is left at the very end (choice 8).
///
/// ```
/// use lacuna_data::{Packer, Remainder};
/// let mut packer = Packer::new(4.try_into()?, Remainder::Pad(1));
/// packer.push(&[10, 11, 12], 2);
/// packer.push(&[20, 21], 2);
/// let packed = packer.finish();
/// assert_eq!(packed.window(0).tokens, [10, 11, 12, 2]);
/// assert_eq!(packed.window(1).tokens, [20, 21, 2, 1]);
/// assert_eq!(packed.window(1).eligible, [true, true, true, false]);
/// # Ok::<(), std::num::TryFromIntError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Packer {
    window_len: NonZeroUsize,
    remainder: Remainder,
    stream: Stream,
    /// The number of windows that were filled before their end.
    paddings: usize,
}

impl Packer {
    /// A packer without tokens.
    pub fn new(window_len: NonZeroUsize, remainder: Remainder) -> Self {
        Self { window_len, remainder, stream: Stream::default(), paddings: 0 }
    }

    /// Adds a document and its end token, all eligible.
    pub fn push(&mut self, tokens: &[u32], eos: u32) {
        self.stream.begin();
        self.stream.extend(tokens, true);
        self.stream.extend(&[eos], true);
    }

    /// Adds a conversation: the flagged tokens are eligible, the others only seen (choice 9).
    ///
    /// # Errors
    /// When there are not as many flags as tokens.
    pub fn push_sample(&mut self, sample: &Sample) -> Result<()> {
        let (tokens, flags) = (sample.tokens.len(), sample.supervised.len());
        if tokens != flags {
            return Err(Error::Packing(format!("a sample of {tokens} tokens has {flags} flags")));
        }
        self.stream.begin();
        for (&token, &supervised) in sample.tokens.iter().zip(&sample.supervised) {
            self.stream.extend(&[token], supervised);
        }
        Ok(())
    }

    /// Fills the window that is begun with padding, which is ineligible and a document of its own.
    pub fn fill_window(&mut self, pad: u32) {
        let begun = self.stream.tokens.len() % self.window_len;
        if begun > 0 {
            self.stream.begin();
            self.stream.extend(&vec![pad; self.window_len.get() - begun], false);
            self.paddings += 1;
        }
    }

    /// The tokens held, whole windows or not.
    pub fn tokens(&self) -> usize {
        self.stream.tokens.len()
    }

    /// Takes out the first `windows` windows, or as many as are full.
    pub(crate) fn take_full(&mut self, windows: usize) -> Packed {
        let full = (self.stream.tokens.len() / self.window_len).min(windows);
        let rest = self.stream.split_off(full * self.window_len.get());
        let stream = std::mem::replace(&mut self.stream, rest);
        Packed { window_len: self.window_len, stream, padding: 0, paddings: 0 }
    }

    /// Deals with the remainder and gives all windows.
    pub fn finish(mut self) -> Packed {
        let rest = self.stream.tokens.len() % self.window_len;
        let (mut padding, mut paddings) = (0, self.paddings);
        match self.remainder {
            Remainder::Drop => drop(self.stream.split_off(self.stream.tokens.len() - rest)),
            Remainder::Pad(pad) if rest > 0 => {
                padding = self.window_len.get() - rest;
                // Padding is a document of its own, so that no text sees it.
                self.stream.begin();
                self.stream.extend(&vec![pad; padding], false);
                paddings += 1;
            }
            Remainder::Pad(_) => {}
        }
        Packed { window_len: self.window_len, stream: self.stream, padding, paddings }
    }
}

/// Tokens end to end, where documents begin in them, and which are ineligible.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Stream {
    pub(crate) tokens: Vec<u32>,
    /// Ascending, each below `tokens.len()`.
    pub(crate) starts: Vec<usize>,
    /// One flag a token, or none at all while every token is eligible.
    pub(crate) eligible: Option<Vec<bool>>,
}

impl Stream {
    fn begin(&mut self) {
        self.starts.push(self.tokens.len());
    }

    fn extend(&mut self, tokens: &[u32], eligible: bool) {
        if !eligible && self.eligible.is_none() {
            self.eligible = Some(vec![true; self.tokens.len()]);
        }
        self.tokens.extend(tokens);
        if let Some(flags) = &mut self.eligible {
            flags.resize(self.tokens.len(), eligible);
        }
    }

    fn split_off(&mut self, at: usize) -> Self {
        let first = self.starts.partition_point(|&start| start < at);
        let mut starts = self.starts.split_off(first);
        starts.iter_mut().for_each(|start| *start -= at);
        let mut rest = Self {
            tokens: self.tokens.split_off(at),
            starts,
            eligible: self.eligible.as_mut().map(|flags| flags.split_off(at)),
        };
        for part in [self, &mut rest] {
            part.eligible.take_if(|flags| flags.iter().all(|&eligible| eligible));
        }
        rest
    }
}

/// Packs documents in their order; special tokens spelt out in their text stay ordinary text.
///
/// # Errors
/// When the tokenizer fails on a text.
pub fn pack<'a>(
    documents: impl IntoIterator<Item = &'a Document>,
    tokenizer: &Tokenizer,
    eos: u32,
    mut packer: Packer,
) -> Result<Packed> {
    for document in documents {
        packer.push(&tokenizer.encode_ordinary(&document.text)?, eos);
    }
    Ok(packer.finish())
}

/// The tokens by which families of models end a document in pretraining, as opposed to a turn of a conversation.
const DOCUMENT_ENDS: [&str; 6] = [
    SPECIAL_TOKENS[2],
    "<|endoftext|>",
    "<|end_of_text|>",
    "<｜end▁of▁sentence｜>",
    "<eos>",
    "</s>",
];

/// The token that ends a document, where nobody names one; `ends` are the tokens at which the checkpoint ends a text,
/// if there is a checkpoint.
///
/// A checkpoint that was taught conversations ends a text where a turn ends (`<|im_end|>`), and read its documents with
/// another end before that. So the first of these counts: a token of `ends` that is known to end documents; such a
/// token of the tokenizer; the first of `ends`; the tokenizer's `<|im_end|>`.
pub fn document_end(tokenizer: &Tokenizer, ends: &[u32]) -> Option<u32> {
    let known = DOCUMENT_ENDS.iter().filter_map(|name| tokenizer.token_to_id(name));
    let special = known.clone().find(|id| tokenizer.is_special(*id));
    let of_checkpoint = known.clone().find(|id| ends.contains(id));
    let of_tokenizer = special.or_else(|| known.clone().next().filter(|_| ends.is_empty()));
    of_checkpoint
        .or(of_tokenizer)
        .or_else(|| ends.first().copied())
        .or_else(|| tokenizer.token_to_id("<|im_end|>"))
}

/// The token that ends a text, where no checkpoint names one: the paper's, else the first of those of other families
/// that the tokenizer has.
pub fn end_of_text(tokenizer: &Tokenizer) -> Option<u32> {
    let known = [SPECIAL_TOKENS[2], "<|endoftext|>", "<|im_end|>", "</s>"];
    known.iter().find_map(|name| tokenizer.token_to_id(name))
}

/// Windows in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    window_len: NonZeroUsize,
    pub(crate) stream: Stream,
    padding: usize,
    /// The number of documents that are padding.
    paddings: usize,
}

impl Packed {
    /// The number of tokens that every window holds.
    pub fn window_len(&self) -> NonZeroUsize {
        self.window_len
    }

    /// The number of windows.
    pub fn windows(&self) -> usize {
        self.stream.tokens.len() / self.window_len
    }

    /// The number of documents that begin here.
    pub fn documents(&self) -> usize {
        self.stream.starts.len() - self.paddings
    }

    /// The number of last tokens that are padding.
    pub fn padding(&self) -> usize {
        self.padding
    }

    /// Window number `index`.
    ///
    /// # Panics
    /// When there are not that many windows.
    pub fn window(&self, index: usize) -> Window {
        let begin = index * self.window_len.get();
        let end = begin + self.window_len.get();
        let eligible = match &self.stream.eligible {
            Some(flags) => flags[begin..end].to_vec(),
            None => vec![true; end - begin],
        };
        let starts = &self.stream.starts;
        let first = starts.partition_point(|&start| start <= begin);
        let inside = starts[first..].iter().copied().take_while(|&start| start < end);
        Window {
            tokens: self.stream.tokens[begin..end].to_vec(),
            eligible,
            documents: lengths(begin, end, inside),
        }
    }
}

/// A conversation as tokens: what the model answers is supervised, the rest only seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sample {
    /// Prompts and responses in order.
    pub tokens: Vec<u32>,
    /// One flag a token.
    pub supervised: Vec<bool>,
}

impl Sample {
    /// A sample from turns of tokens, each supervised or not.
    pub fn from_turns<'a>(turns: impl IntoIterator<Item = (&'a [u32], bool)>) -> Self {
        let mut sample = Self::default();
        for (tokens, supervised) in turns {
            sample.tokens.extend(tokens);
            sample.supervised.resize(sample.tokens.len(), supervised);
        }
        sample
    }

    /// The sample of a conversation: what the assistant says is supervised, with the end of its turn; everything else
    /// is only seen.
    ///
    /// # Errors
    /// As [`ChatTemplate::pieces`].
    pub fn from_chat(
        template: &ChatTemplate,
        tokenizer: &Tokenizer,
        messages: &[Message],
        options: &RenderOptions,
    ) -> Result<Self> {
        Self::from_chat_where(template, tokenizer, messages, options, &|_| true)
    }

    /// As [`from_chat`](Self::from_chat), with the assistant's turns supervised that `learnt` says, by their numbers
    /// from 0.
    ///
    /// # Errors
    /// As [`from_chat`](Self::from_chat).
    pub(crate) fn from_chat_where(
        template: &ChatTemplate,
        tokenizer: &Tokenizer,
        messages: &[Message],
        options: &RenderOptions,
        learnt: &dyn Fn(usize) -> bool,
    ) -> Result<Self> {
        let pieces = template.pieces(tokenizer, messages, options)?;
        let turns = pieces.iter().map(|piece| {
            let supervised = piece.response.is_some_and(learnt);
            (piece.tokens.as_slice(), supervised)
        });
        Ok(Self::from_turns(turns))
    }

    /// Ends the sample with one to four supervised end tokens, uniformly, in place of those it ends
    /// with (choice 9). The number depends on `seed` and the sample's `number` alone.
    pub fn end(&mut self, eos: u32, seed: u64, number: u64) {
        self.end_with(eos, (1, 4), seed, number);
    }

    /// As [`end`](Self::end), with from `least` to `most` end tokens.
    ///
    /// # Panics
    /// If `most` is below `least`.
    pub fn end_with(&mut self, eos: u32, (least, most): (u32, u32), seed: u64, number: u64) {
        assert!(least <= most, "from {least} to {most} end tokens");
        let mut rng = stream(seed, Purpose::SampleEnd, number, 0);
        let count = least as usize + below(&mut rng, u64::from(most - least) + 1) as usize;
        while self.tokens.last() == Some(&eos) {
            self.tokens.pop();
        }
        self.supervised.truncate(self.tokens.len());
        self.tokens.resize(self.tokens.len() + count, eos);
        self.supervised.resize(self.tokens.len(), true);
    }
}

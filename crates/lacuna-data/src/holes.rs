//! Writes documents anew, so that a model learns to fill in the middle of a text.

use crate::corpus::Document;
use crate::error::{Error, Result};
use lacuna_random::{Purpose, stream, uniform};
use lacuna_text::{Fim, FimOrder, Tokenizer};
use std::num::NonZeroUsize;

/// The tokens that a piece with a hole takes beside its text: three marks and an end.
pub const HOLE_TOKENS: usize = 4;

/// The order in which the parts of rewritten documents stand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum HoleOrder {
    /// The order that the tokenizer's family is asked in, which is how `lacuna fill` asks.
    #[default]
    Model,
    /// Prefix, suffix, middle.
    PrefixSuffix,
    /// Suffix, prefix, middle.
    SuffixPrefix,
    /// One of the two for each document, equally often.
    Both,
}

/// The rule by which documents are rewritten for filling in the middle (FIM).
///
/// A part `rate` of the documents is cut in three at two uniformly drawn characters, and written as the family of the
/// tokenizer marks it, the middle last. Which documents, and where they are cut, depends on the seed and the document's
/// own text: not on its place, nor on the documents beside it.
///
/// A document that is longer than a window has its three parts in different windows, and a model never sees a middle
/// together with what stands around it. [`in_pieces`](Self::in_pieces) cuts rewritten documents first (the *context-level
/// FIM* of Bavarian et al., arXiv 2207.14255).
#[derive(Debug)]
pub struct Holes<'a> {
    tokenizer: &'a Tokenizer,
    marks: Fim,
    rate: f64,
    order: HoleOrder,
    seed: u64,
    /// The most tokens of a piece; none where a document is one piece.
    piece: Option<NonZeroUsize>,
}

impl<'a> Holes<'a> {
    /// The rule for a tokenizer.
    ///
    /// # Errors
    /// When the tokenizer has no marks for holes, none before the middle although the order asks for one, or the rate
    /// is no part.
    pub fn new(tokenizer: &'a Tokenizer, rate: f64, order: HoleOrder, seed: u64) -> Result<Self> {
        if !(0.0..=1.0).contains(&rate) {
            return Err(Error::Packing(format!(
                "the rate of documents with a hole is {rate}, expected 0 to 1"
            )));
        }
        let marks = Fim::from_tokenizer(tokenizer)?;
        let needs_middle = matches!(order, HoleOrder::PrefixSuffix | HoleOrder::Both);
        if needs_middle && marks.middle.is_none() {
            return Err(Error::Packing(format!(
                "the tokenizer has the marks of {}, none of which stands before the middle: the order of the parts can \
                 only be {}",
                marks.format.name,
                marks.format.order_in_words()
            )));
        }
        Ok(Self { tokenizer, marks, rate, order, seed, piece: None })
    }

    /// The rule that cuts a rewritten document into pieces first, each of which is given a hole and becomes a document of
    /// its own; without a length a document is one piece.
    ///
    /// Pieces end where lines end, or within a line that is longer, and hold at most `tokens` tokens, counted line by
    /// line (more only where a single character has more). A piece with its marks and its end takes at most four tokens
    /// more, and a few where a token is cut by a hole.
    #[must_use]
    pub fn in_pieces(self, tokens: Option<NonZeroUsize>) -> Self {
        Self { piece: tokens, ..self }
    }

    /// The documents that stand in for a document that is rewritten, as tokens; none if it stays as it is.
    ///
    /// # Errors
    /// When the tokenizer fails on a part.
    pub fn rewritten(&self, document: &Document) -> Result<Option<Vec<Vec<u32>>>> {
        let hash = blake3::hash(document.text.as_bytes());
        let name = u64::from_le_bytes(*hash.as_bytes().first_chunk().expect("32 bytes"));
        let mut rng = stream(self.seed, Purpose::Hole, name, 0);
        if uniform(&mut rng) >= self.rate {
            return Ok(None);
        }
        let mut examples = Vec::new();
        for piece in self.pieces(&document.text)? {
            let order = match self.order {
                HoleOrder::Model => self.marks.format.order,
                HoleOrder::PrefixSuffix => FimOrder::PrefixSuffix,
                HoleOrder::SuffixPrefix => FimOrder::SuffixPrefix,
                HoleOrder::Both if uniform(&mut rng) < 0.5 => FimOrder::PrefixSuffix,
                HoleOrder::Both => FimOrder::SuffixPrefix,
            };
            examples.push(self.marks.example_in(order, self.tokenizer, piece, &mut rng)?);
        }
        Ok(Some(examples))
    }

    /// Refuses pieces that no window holds with their marks and their end.
    pub(crate) fn check_window(&self, window: NonZeroUsize) -> Result<()> {
        let most = window.get().saturating_sub(HOLE_TOKENS);
        match self.piece {
            Some(piece) if piece.get() > most => Err(Error::Packing(format!(
                "pieces of {piece} tokens with a hole do not fit into windows of {window}; with marks and end there is room \
                 for {most}"
            ))),
            _ => Ok(()),
        }
    }

    /// The pieces of a text, one at least, which joined are the text.
    fn pieces<'t>(&self, text: &'t str) -> Result<Vec<&'t str>> {
        let Some(most) = self.piece.map(NonZeroUsize::get) else { return Ok(vec![text]) };
        let (mut pieces, mut rest) = (Vec::new(), text);
        let (mut bytes, mut tokens) = (0, 0);
        let mut take = |part: &str, more: usize| {
            if bytes > 0 && tokens + more > most {
                let (piece, behind) = rest.split_at(bytes);
                pieces.push(piece);
                (rest, bytes, tokens) = (behind, 0, 0);
            }
            bytes += part.len();
            tokens += more;
        };
        for line in text.split_inclusive('\n') {
            let count = self.tokenizer.encode_ordinary(line)?.len();
            if count <= most {
                take(line, count);
                continue;
            }
            // No token is shorter than a byte.
            let mut left = line;
            while !left.is_empty() {
                let first = left.chars().next().map_or(0, char::len_utf8);
                let end =
                    (first..=most.min(left.len())).rev().find(|at| left.is_char_boundary(*at));
                let (part, behind) = left.split_at(end.unwrap_or(first));
                take(part, self.tokenizer.encode_ordinary(part)?.len());
                left = behind;
            }
        }
        pieces.push(rest);
        Ok(pieces)
    }

    /// Everything that the rule depends on but the tokenizer, in words.
    pub(crate) fn description(&self) -> String {
        let Self { rate, order, seed, piece, .. } = self;
        let pieces = piece.map(|tokens| format!(" in pieces of {tokens}"));
        format!("holes {rate:?} {order:?} {seed}{}", pieces.unwrap_or_default())
    }
}

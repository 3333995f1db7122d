//! Turns tokens into text while they come.

use crate::error::Result;
use crate::tokenizer::Tokenizer;

/// Turns a growing list of token ids into text that only ever grows.
///
/// A character cut between two tokens is held back until it is whole, so every piece is valid
/// UTF-8 and the pieces joined, [`finish`](Self::finish) included, equal
/// [`Tokenizer::decode`] of all ids.
#[derive(Debug)]
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    skip_special: bool,
    /// Byte-level: bytes not yet given out.
    pending: Vec<u8>,
    /// Other decoders: all ids so far, and the bytes given out.
    ids: Vec<u32>,
    given: usize,
}

impl<'a> TextStream<'a> {
    /// A stream without text, which leaves special tokens out.
    pub fn new(tokenizer: &'a Tokenizer) -> Self {
        Self { tokenizer, skip_special: true, pending: vec![], ids: vec![], given: 0 }
    }

    /// A stream without text, which spells special tokens out.
    pub fn with_special_tokens(tokenizer: &'a Tokenizer) -> Self {
        Self { skip_special: false, ..Self::new(tokenizer) }
    }

    /// A stream of the text that continues `prompt`, special tokens left out: what the tokens say after it.
    ///
    /// Decoders of SentencePiece vocabularies take a space off the beginning of a text; a continuation is no
    /// beginning. A character that `prompt` leaves unfinished is the continuation's.
    ///
    /// # Errors
    /// When the tokenizer's own decoder fails.
    pub fn after(tokenizer: &'a Tokenizer, prompt: &[u32]) -> Result<Self> {
        let mut stream = Self::new(tokenizer);
        let text = |id: &&u32| !tokenizer.is_special(**id);
        // A character has at most four bytes.
        let mut last: Vec<u32> = prompt.iter().rev().filter(text).take(3).copied().collect();
        last.reverse();
        let pieces = tokenizer.pieces();
        if pieces.joinable {
            let bytes: Vec<u8> =
                last.iter().flat_map(|&id| pieces.get(id as usize)).copied().collect();
            stream.pending = bytes[bytes.len() - unfinished(&bytes)..].to_vec();
            return Ok(stream);
        }
        // One token that stands for more than white space is as good a beginning as the whole prompt.
        let visible = |id: u32| {
            let open = pieces.open.get(id as usize).is_none_or(|&open| open);
            !open && pieces.get(id as usize).iter().any(|byte| !byte.is_ascii_whitespace())
        };
        let shown: Vec<u32> = prompt.iter().filter(text).copied().collect();
        let from = shown.iter().rposition(|&id| visible(id));
        stream.ids = match from {
            Some(at) => vec![shown[at]],
            None => shown.iter().copied().filter(|id| tokenizer.byte(*id).is_none()).collect(),
        };
        stream.given = stream.decode(&stream.ids)?.len();
        let bytes: Vec<Option<u8>> = last.iter().map(|&id| tokenizer.byte(id)).collect();
        let run = bytes.iter().rev().take_while(|byte| byte.is_some()).count();
        let bytes: Vec<u8> = bytes[bytes.len() - run..].iter().flatten().copied().collect();
        stream.ids.extend(&last[last.len() - unfinished(&bytes)..]);
        Ok(stream)
    }

    /// The text that is held back, as [`finish`](Self::finish) would give it.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn held(&self) -> Result<String> {
        if self.tokenizer.pieces().joinable {
            return Ok(String::from_utf8_lossy(&self.pending).into_owned());
        }
        Ok(self.decode(&self.ids)?.get(self.given..).unwrap_or_default().to_owned())
    }

    /// Takes the next ids and gives the text that is now certain.
    ///
    /// # Errors
    /// When the tokenizer's own decoder fails.
    pub fn push(&mut self, ids: &[u32]) -> Result<String> {
        let pieces = self.tokenizer.pieces();
        if !pieces.joinable {
            self.ids.extend(ids);
            // Byte-fallback decoders turn a run of bytes into text only if all of it is valid, so a
            // run is certain when it has ended.
            let open = |id: &u32| {
                pieces.open.get(*id as usize).is_none_or(|&open| open)
                    || (self.skip_special && self.tokenizer.is_special(*id))
            };
            let closed = self.ids.iter().rposition(|id| !open(id)).map_or(0, |last| last + 1);
            let text = self.decode(&self.ids[..closed])?;
            // Bytes of an unfinished character decode as replacement characters at the end.
            let certain = text.trim_end_matches(char::REPLACEMENT_CHARACTER).len();
            return Ok(self.give(&text, certain));
        }
        for &id in ids {
            if !(self.skip_special && self.tokenizer.is_special(id)) {
                self.pending.extend(pieces.get(id as usize));
            }
        }
        let mut text = String::new();
        loop {
            match std::str::from_utf8(&self.pending) {
                Ok(valid) => {
                    text.push_str(valid);
                    self.pending.clear();
                    return Ok(text);
                }
                Err(error) => {
                    let valid = error.valid_up_to();
                    text.push_str(&String::from_utf8_lossy(&self.pending[..valid]));
                    let Some(broken) = error.error_len() else {
                        self.pending.drain(..valid);
                        return Ok(text);
                    };
                    text.push(char::REPLACEMENT_CHARACTER);
                    self.pending.drain(..valid + broken);
                }
            }
        }
    }

    /// Gives what was held back: an unfinished character comes out as U+FFFD.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn finish(mut self) -> Result<String> {
        if self.tokenizer.pieces().joinable {
            return Ok(String::from_utf8_lossy(&self.pending).into_owned());
        }
        let text = self.decode(&self.ids)?;
        Ok(self.give(&text, text.len()))
    }

    fn decode(&self, ids: &[u32]) -> Result<String> {
        if self.skip_special {
            self.tokenizer.decode(ids)
        } else {
            self.tokenizer.decode_with_special_tokens(ids)
        }
    }

    fn give(&mut self, text: &str, certain: usize) -> String {
        if certain <= self.given {
            return String::new();
        }
        let piece = text.get(self.given..certain).unwrap_or_default().to_owned();
        if !piece.is_empty() {
            self.given = certain;
        }
        piece
    }
}

/// The number of bytes at the end that begin a character that is not whole.
fn unfinished(bytes: &[u8]) -> usize {
    let begins = |n: &usize| {
        let tail = &bytes[bytes.len() - n..];
        std::str::from_utf8(tail).is_err_and(|e| e.valid_up_to() == 0 && e.error_len().is_none())
    };
    (1..=bytes.len().min(3)).find(begins).unwrap_or(0)
}

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

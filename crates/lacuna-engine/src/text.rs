//! Turns the tokens of a continuation into text, and finds stop texts in it.

use lacuna_samplers::Event;
use lacuna_text::{TextStream, Tokenizer};
use std::borrow::Cow;
use std::ops::ControlFlow;

use crate::error::{Error, Result};
use crate::open::Model;

/// Turns the tokens of a continuation into text as they come: what the tokens say after the prompt, so that prompt and
/// text joined are the text of all tokens.
///
/// Characters that are cut between two tokens are held back until they are whole. Special tokens are no text, but stop
/// texts see them: a stop text is looked for in the text as it is shown and in the text with special tokens spelt out.
#[derive(Debug)]
pub struct TokenText<'a> {
    tokenizer: &'a Tokenizer,
    stream: TextStream<'a>,
    stop: Cow<'a, [String]>,
    /// The text that is shown.
    text: String,
    /// The same with special tokens spelt out; they stand at `special`, as (start, length).
    spelled: String,
    special: Vec<(usize, usize)>,
    /// Bytes of `text` that were given out.
    given: usize,
    /// The byte of `text` at which a stop text cuts it.
    cut: Option<usize>,
}

impl<'a> TokenText<'a> {
    /// The text that follows a prompt and ends before the first stop text.
    ///
    /// # Errors
    /// When the tokenizer's own decoder fails.
    pub fn new(
        tokenizer: &'a Tokenizer,
        prompt: &[u32],
        stop: impl Into<Cow<'a, [String]>>,
    ) -> Result<Self> {
        Ok(Self {
            tokenizer,
            stream: TextStream::after(tokenizer, prompt)?,
            stop: stop.into(),
            text: String::new(),
            spelled: String::new(),
            special: Vec::new(),
            given: 0,
            cut: None,
        })
    }

    /// Takes tokens up to the one that completes a stop text, and says how many those are. After that it takes none.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn push(&mut self, tokens: &[u32]) -> Result<Option<usize>> {
        for (n, &id) in tokens.iter().enumerate() {
            if self.cut.is_some() {
                return Ok(Some(n));
            }
            let (text, spelled) = (self.text.len(), self.spelled.len());
            if self.tokenizer.is_special(id) {
                let name = self.tokenizer.id_to_token(id).unwrap_or_default();
                self.special.push((spelled, name.len()));
                self.spelled.push_str(&name);
            } else {
                let piece = self.stream.push(&[id])?;
                self.text.push_str(&piece);
                self.spelled.push_str(&piece);
            }
            self.look_for_stop(text, spelled)?;
        }
        Ok(self.cut.map(|_| tokens.len()))
    }

    /// The text that has become certain: no stop text can take it back.
    pub fn certain(&mut self) -> &str {
        let end = self.cut.unwrap_or_else(|| {
            let text = self.text.len() - begun(&self.text, &self.stop);
            text.min(self.shown_at(self.spelled.len() - begun(&self.spelled, &self.stop)))
        });
        let start = self.given.min(end);
        self.given = self.given.max(end);
        &self.text[start..end]
    }

    /// Bytes of the text that [`certain`](Self::certain) has given.
    pub(crate) fn given(&self) -> usize {
        self.given
    }

    /// The whole text; the part that [`certain`](Self::certain) has not given yet begins at the byte that comes
    /// with it.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn finish(mut self) -> Result<(String, usize)> {
        self.text.push_str(&self.stream.finish()?);
        self.text.truncate(self.cut.unwrap_or(usize::MAX));
        Ok((self.text, self.given))
    }

    /// Looks for a stop text that ends in what is new, and takes the one that comes first: the one
    /// that ends first, of those the longest.
    fn look_for_stop(&mut self, text: usize, spelled: usize) -> Result<()> {
        let longest = self.stop.iter().map(String::len).max().unwrap_or(0);
        if longest == 0 {
            return Ok(());
        }
        let held = self.stream.held()?;
        let texts = Tail::new(&self.text, &held, text, longest);
        let spellings = Tail::new(&self.spelled, &held, spelled, longest);
        let seen = self.stop.iter().filter_map(|stop| texts.find(stop));
        let read = self.stop.iter().filter_map(|stop| spellings.find(stop));
        let read = read.map(|(end, start)| (self.shown_at(end), self.shown_at(start)));
        self.cut = seen.chain(read).min().map(|(_, start)| start);
        Ok(())
    }

    /// The place in the text that a place of the spelling stands for.
    fn shown_at(&self, place: usize) -> usize {
        let before = self.special.iter().take_while(|(start, _)| *start < place);
        place - before.map(|(start, length)| (*length).min(place - start)).sum::<usize>()
    }
}

/// The end of a text in which a stop text may have become whole, so that a token costs its own length and not that of
/// all before it.
struct Tail {
    /// The byte of the whole text at which this part begins, and the bytes of the part that were searched before.
    start: usize,
    known: usize,
    text: String,
}

impl Tail {
    /// The part of a text, with what is held back behind it, in which a stop text of `longest` bytes may end after the
    /// byte `known`.
    fn new(text: &str, held: &str, known: usize, longest: usize) -> Self {
        let start = floor(text, known.saturating_sub(longest));
        Self { start, known: known - start, text: [&text[start..], held].concat() }
    }

    /// End and start, in the whole text, of the first `stop` that ends after the byte `known`, before which there is
    /// none.
    fn find(&self, stop: &str) -> Option<(usize, usize)> {
        let from = floor(&self.text, self.known.saturating_sub(stop.len()));
        let start = self.start + from + self.text[from..].find(stop)?;
        Some((start + stop.len(), start))
    }
}

/// The nearest place at or before `at` that is between two characters.
fn floor(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// The length of the longest end of a text with which a stop text begins.
fn begun(text: &str, stop: &[String]) -> usize {
    let begins = |stop: &String| {
        let lengths = (1..stop.len()).rev().filter(|n| stop.is_char_boundary(*n));
        lengths.into_iter().find(|n| text.ends_with(&stop[..*n])).unwrap_or(0)
    };
    stop.iter().map(begins).max().unwrap_or(0)
}

/// Refuses stop texts that nothing could go before.
pub(crate) fn check_stops(stop: &[String]) -> Result<()> {
    if stop.iter().any(String::is_empty) {
        let message = "an empty stop text would end everything; expected at least one character";
        return Err(Error::Request(message.into()));
    }
    Ok(())
}

/// Looks for stop texts in finished blocks.
pub(crate) struct Stops<'a> {
    text: Option<TokenText<'a>>,
    taken: usize,
}

impl<'a> Stops<'a> {
    pub(crate) fn new(model: &'a Model, prompt: &[u32], stop: &'a [String]) -> Result<Self> {
        check_stops(stop)?;
        let text = match stop.is_empty() {
            true => None,
            false => Some(TokenText::new(model.tokenizer()?, prompt, stop)?),
        };
        Ok(Self { text, taken: 0 })
    }

    /// At a finished block that completes a stop text: end after the token that completes it.
    pub(crate) fn end(&mut self, event: Event<'_>) -> ControlFlow<usize> {
        let (Event::Block(block), Some(text)) = (event, &mut self.text) else {
            return ControlFlow::Continue(());
        };
        let new = block.generated.get(self.taken..block.text_len).unwrap_or_default();
        let before = self.taken;
        self.taken += new.len();
        // Tokens that can't be decoded hold no stop text.
        match text.push(new) {
            Ok(Some(n)) => ControlFlow::Break(before + n),
            Ok(None) | Err(_) => ControlFlow::Continue(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn fixture(name: &str) -> Tokenizer {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/tokenizer");
        Tokenizer::from_file(folder.join(name)).expect("a fixture")
    }

    /// The text and how many tokens it took, with pieces of so many tokens.
    fn written(
        tokenizer: &Tokenizer,
        ids: &[u32],
        stop: &[&str],
        pieces: usize,
    ) -> (String, usize) {
        let stop: Vec<String> = stop.iter().map(|stop| (*stop).to_owned()).collect();
        let mut text = TokenText::new(tokenizer, &[], &stop).expect("a decoder");
        let (mut shown, mut taken) = (String::new(), 0);
        for piece in ids.chunks(pieces) {
            let ended = text.push(piece).expect("a decoder");
            shown += text.certain();
            taken += ended.unwrap_or(piece.len());
            if ended.is_some() {
                break;
            }
        }
        let (whole, given) = text.finish().expect("a decoder");
        assert!(whole.starts_with(&shown), "{shown:?} was shown of {whole:?}");
        assert_eq!(given, shown.len());
        (whole, taken)
    }

    #[test]
    fn a_stop_text_ends_at_the_same_token_whatever_the_blocks_are() {
        let tokenizer = fixture("tokenizer.json");
        let encoded = |text: &str| tokenizer.encode(text).expect("a text");
        let ids = encoded("yes ok<[fim-prefix]>abcabd\n\nend é🦀.");
        for (stop, text) in [
            (&["<[fim-prefix]>"][..], "yes ok"),
            (&["k<[fim-prefix]>ab"], "yes o"),
            (&["okab"], "yes "),
            (&["abd"], "yes okabc"),
            (&["abd", "ab"], "yes ok"),
            (&["abx", "\n\n"], "yes okabcabd"),
            (&["🦀"], "yes okabcabd\n\nend é"),
            (&["nothing of it"], "yes okabcabd\n\nend é🦀."),
        ] {
            let alone = written(&tokenizer, &ids, stop, 1);
            assert_eq!(alone.0, text, "{stop:?}");
            for pieces in [2, 3, 4, 7, 100] {
                assert_eq!(written(&tokenizer, &ids, stop, pieces), alone, "{stop:?} by {pieces}");
            }
        }
    }

    #[test]
    fn nothing_is_held_back_that_no_stop_text_begins_with() {
        let tokenizer = fixture("tokenizer.json");
        let stop = ["<|end|>".to_owned()];
        let mut text = TokenText::new(&tokenizer, &[], &stop).expect("a decoder");
        text.push(&tokenizer.encode("a < b <").expect("a text")).expect("a decoder");
        assert_eq!(text.certain(), "a < b ");
        text.push(&tokenizer.encode("= c").expect("a text")).expect("a decoder");
        assert_eq!(text.certain(), "<= c");
    }
}

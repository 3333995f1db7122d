//! Turns what is to be scored into tokens, and says which of them count.

use anyhow::{Context, Result};
use lacuna::text::Fim;
use lacuna::{Attention, Model};
use serde_json::Value;
use std::str::FromStr;

use super::super::decode_args::in_vocabulary;
use super::input::{Body, Source};

/// The reason why a text has nothing that could be scored.
#[derive(Debug)]
pub(super) struct TooShort(String);

impl std::fmt::Display for TooShort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TooShort {}

/// One thing to score, as its tokens, or the reason why it has none.
pub(super) struct Prepared {
    /// Its id, or the path of a document.
    pub(super) id: Value,
    pub(super) tokens: Result<Tokens, String>,
}

/// Tokens of which some are scored.
#[derive(Clone, Debug)]
pub(super) struct Tokens {
    pub(super) tokens: Vec<u32>,
    /// A flag for each token: true if it counts.
    pub(super) eligible: Vec<bool>,
    /// Bytes of the tokens that count; `None` where no tokenizer says.
    pub(super) bytes: Option<u64>,
    /// True if it can't be scored by windows, because its parts stand in a form of their own.
    pub(super) is_whole: bool,
    /// The form in which a middle stands among what is around it.
    pub(super) form: Option<String>,
}

impl Tokens {
    /// The number of tokens that count.
    pub(super) fn scored(&self) -> usize {
        self.eligible.iter().skip(1).filter(|counts| **counts).count()
    }
}

/// The way in which a middle stands among what is around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Infill {
    /// Behind prefix and suffix, with the marks and in the order of the model's family.
    Fim,
    /// Between prefix and suffix.
    InPlace,
}

impl FromStr for Infill {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "fim" => Ok(Self::Fim),
            "in-place" => Ok(Self::InPlace),
            _ => Err("expected fim or in-place".into()),
        }
    }
}

/// Makes tokens of sources.
pub(super) struct Encoder<'m> {
    model: &'m Model,
    /// Bytes of each token.
    bytes: Option<Vec<u32>>,
    infill: Infill,
}

impl<'m> Encoder<'m> {
    pub(super) fn new(model: &'m Model, infill: Option<Infill>, attention: Attention) -> Self {
        let usual = if attention == Attention::Full { Infill::InPlace } else { Infill::Fim };
        let bytes = model.tokenizer.as_ref().map(|tokenizer| tokenizer.token_bytes());
        Self { model, bytes, infill: infill.unwrap_or(usual) }
    }

    /// True if middles stand between what is around them.
    pub(super) fn is_in_place(&self) -> bool {
        self.infill == Infill::InPlace
    }

    /// The tokens of a source.
    pub(super) fn tokens(&self, source: &Source) -> Result<Tokens> {
        let (mut is_whole, mut form) = (false, None);
        let (tokens, first, end) = match &source.body {
            Body::Ids(ids) => all(ids.clone()),
            Body::Text(text) => all(self.model.tokenizer()?.encode(text)?),
            Body::Document(text) => all(self.model.tokenizer()?.encode_ordinary(text)?),
            Body::Answer { prompt, response } => {
                let tokenizer = self.model.tokenizer()?;
                let mut tokens = tokenizer.encode(prompt)?;
                let first = tokens.len();
                let response = match prompt.is_empty() {
                    true => tokenizer.encode_ordinary(response)?,
                    false => tokenizer.encode_behind(response)?,
                };
                tokens.extend(response);
                let end = tokens.len();
                (tokens, first, end)
            }
            Body::Hole { prefix, middle, suffix } => {
                is_whole = true;
                let (words, tokens, scored) = self.hole(prefix, middle, suffix)?;
                form = Some(words);
                (tokens, scored.start, scored.end)
            }
        };
        in_vocabulary("--ids", &tokens, self.model.config().vocab_size)?;
        let eligible: Vec<bool> = (0..tokens.len()).map(|at| at >= first && at < end).collect();
        if !eligible.iter().skip(1).any(|counts| *counts) {
            let (count, what) = (tokens.len(), source.body.scored_part());
            let reason =
                format!("{what} has no token to score: of {count} in all the first is context");
            return Err(TooShort(reason).into());
        }
        let bytes = self.scored_bytes(&tokens, &eligible);
        Ok(Tokens { tokens, eligible, bytes, is_whole, form })
    }

    /// The bytes of the tokens that count: all eligible ones but the first of all.
    fn scored_bytes(&self, tokens: &[u32], eligible: &[bool]) -> Option<u64> {
        let lengths = self.bytes.as_ref()?;
        let scored = tokens.iter().zip(eligible).skip(1).filter(|(_, scored)| **scored);
        let length = |token: u32| lengths.get(token as usize).copied().unwrap_or(0);
        let bytes = scored.map(|(token, _)| u64::from(length(*token))).sum();
        (bytes > 0).then_some(bytes)
    }

    /// Texts in a row, with the token that ends a document between them, which is context and not scored.
    pub(super) fn in_a_row(&self, texts: &[&Tokens], document_end: u32) -> Tokens {
        let (mut tokens, mut eligible) = (Vec::new(), Vec::new());
        for text in texts {
            if !tokens.is_empty() {
                tokens.push(document_end);
                eligible.push(false);
            }
            tokens.extend(&text.tokens);
            eligible.extend(&text.eligible);
        }
        let bytes = self.scored_bytes(&tokens, &eligible);
        Tokens { tokens, eligible, bytes, is_whole: false, form: None }
    }

    /// A middle with what stands around it: the form in words, the tokens, and where the middle is.
    fn hole(
        &self,
        prefix: &str,
        middle: &str,
        suffix: &str,
    ) -> Result<(String, Vec<u32>, std::ops::Range<usize>)> {
        let tokenizer = self.model.tokenizer()?;
        let middle = match (self.infill, prefix.is_empty()) {
            (Infill::InPlace, true) => tokenizer.encode_ordinary(middle)?,
            _ => tokenizer.encode_behind(middle)?,
        };
        if self.infill == Infill::InPlace {
            let mut tokens = tokenizer.encode_ordinary(prefix)?;
            let first = tokens.len();
            tokens.extend(&middle);
            let end = tokens.len();
            tokens.extend(tokenizer.encode_behind(suffix)?);
            return Ok(("in-place".to_owned(), tokens, first..end));
        }
        let fim = Fim::from_tokenizer(tokenizer).context("--infill fim")?;
        let mut tokens = fim.prompt_text(tokenizer, prefix, suffix)?;
        let first = tokens.len();
        tokens.extend(&middle);
        let end = tokens.len();
        Ok((format!("fim:{}", fim.format.name), tokens, first..end))
    }
}

fn all(tokens: Vec<u32>) -> (Vec<u32>, usize, usize) {
    let end = tokens.len();
    (tokens, 0, end)
}

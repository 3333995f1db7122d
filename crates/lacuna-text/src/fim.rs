//! Knows how each family of code models marks a hole, for filling in the middle.
//!
//! The marks are tokens of their own, but their order, what stands before them and what ends a middle differ from
//! family to family, and a model asked in another's order writes something else. Formats and their sources:
//! `docs/guides/checkpoints.md`.

use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;
use lacuna_random::{RngCore, below};

/// In which order the parts of a prompt stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FimOrder {
    /// The text before the hole first.
    PrefixSuffix,
    /// The text after the hole first, so that what is written follows its prefix directly.
    SuffixPrefix,
}

/// The form in which a family of models is asked to fill a hole.
#[derive(Debug, PartialEq, Eq)]
pub struct FimFormat {
    /// The family that published it.
    pub name: &'static str,
    /// The mark before the text before the hole.
    pub prefix: &'static str,
    /// The mark before the text after the hole.
    pub suffix: &'static str,
    /// The mark before what fills the hole, if there is one.
    pub middle: Option<&'static str>,
    /// In which order the parts stand.
    pub order: FimOrder,
    /// The tokens that end a middle, besides what ends a text; those of them that the tokenizer
    /// has.
    pub ends: &'static [&'static str],
    /// The tokens that begin a prompt whether or not the tokenizer puts it before every text.
    begin: Option<&'static str>,
    /// The text after the hole goes without the space that SentencePiece puts before a text.
    bare_suffix: bool,
}

/// All known formats, the most telling marks first.
const FORMATS: [FimFormat; 8] = [
    FimFormat {
        name: "seed-coder",
        prefix: "<[fim-prefix]>",
        suffix: "<[fim-suffix]>",
        middle: Some("<[fim-middle]>"),
        order: FimOrder::SuffixPrefix,
        ends: &["<[end▁of▁sentence]>"],
        begin: None,
        bare_suffix: false,
    },
    FimFormat {
        name: "qwen2.5-coder",
        prefix: "<|fim_prefix|>",
        suffix: "<|fim_suffix|>",
        middle: Some("<|fim_middle|>"),
        order: FimOrder::PrefixSuffix,
        ends: &[
            "<|endoftext|>",
            "<|fim_pad|>",
            "<|repo_name|>",
            "<|file_sep|>",
            "<|im_start|>",
            "<|im_end|>",
            // CodeGemma and Granite 4, which have the same marks.
            "<|file_separator|>",
            "<|end_of_text|>",
        ],
        begin: None,
        bare_suffix: false,
    },
    FimFormat {
        name: "starcoder",
        prefix: "<fim_prefix>",
        suffix: "<fim_suffix>",
        middle: Some("<fim_middle>"),
        order: FimOrder::PrefixSuffix,
        ends: STARCODER_ENDS,
        begin: None,
        bare_suffix: false,
    },
    FimFormat {
        name: "santacoder",
        prefix: "<fim-prefix>",
        suffix: "<fim-suffix>",
        middle: Some("<fim-middle>"),
        order: FimOrder::PrefixSuffix,
        ends: STARCODER_ENDS,
        begin: None,
        bare_suffix: false,
    },
    FimFormat {
        name: "deepseek-coder",
        prefix: "<｜fim▁begin｜>",
        suffix: "<｜fim▁hole｜>",
        middle: Some("<｜fim▁end｜>"),
        order: FimOrder::PrefixSuffix,
        ends: &["<｜end▁of▁sentence｜>", "<|EOT|>"],
        begin: None,
        bare_suffix: false,
    },
    FimFormat {
        name: "codellama",
        prefix: "▁<PRE>",
        suffix: "▁<SUF>",
        middle: Some("▁<MID>"),
        order: FimOrder::PrefixSuffix,
        ends: &["▁<EOT>", "</s>"],
        begin: Some("<s>"),
        bare_suffix: true,
    },
    FimFormat {
        name: "codellama",
        prefix: "<PRE>",
        suffix: "<SUF>",
        middle: Some("<MID>"),
        order: FimOrder::PrefixSuffix,
        ends: &["<EOT>", "</s>"],
        begin: Some("<s>"),
        bare_suffix: true,
    },
    FimFormat {
        name: "codestral",
        prefix: "[PREFIX]",
        suffix: "[SUFFIX]",
        middle: None,
        order: FimOrder::SuffixPrefix,
        ends: &["</s>"],
        begin: Some("<s>"),
        bare_suffix: true,
    },
];

const STARCODER_ENDS: &[&str] = &[
    "<|endoftext|>",
    "<|end_of_text|>",
    "<file_sep>",
    "<fim_pad>",
    "<fim-pad>",
    "<filename>",
    "<repo_name>",
    "<reponame>",
];

impl FimFormat {
    /// The format whose marks are all among the tokens that `id` knows.
    pub fn find(mut id: impl FnMut(&str) -> Option<u32>) -> Option<&'static FimFormat> {
        FORMATS.iter().find(|format| format.marks().all(|mark| id(mark).is_some()))
    }

    /// The format of that name, if there is one.
    pub fn named(name: &str) -> Option<&'static FimFormat> {
        FORMATS.iter().find(|format| format.name == name)
    }

    /// The marks of all formats: what [`find`](Self::find) asks for.
    pub fn all_marks() -> Vec<&'static str> {
        FORMATS.iter().flat_map(FimFormat::marks).collect()
    }

    /// Prefix, suffix and, where there is one, middle.
    pub fn marks(&self) -> impl Iterator<Item = &'static str> + use<> {
        [self.prefix, self.suffix].into_iter().chain(self.middle)
    }

    /// The order in words: `suffix, prefix, middle`.
    pub fn order_in_words(&self) -> &'static str {
        match (self.order, self.middle) {
            (FimOrder::PrefixSuffix, _) => "prefix, suffix, middle",
            (FimOrder::SuffixPrefix, Some(_)) => "suffix, prefix, middle",
            (FimOrder::SuffixPrefix, None) => "suffix, prefix",
        }
    }
}

/// The ids that mark the parts of a fill-in-the-middle prompt, in the order of the family that they are of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fim {
    /// Stands before the text before the hole.
    pub prefix: u32,
    /// Stands before the text after the hole.
    pub suffix: u32,
    /// Stands before what fills the hole; none where the text before the hole comes last and is gone on with.
    pub middle: Option<u32>,
    /// Each of them ends a middle, besides what ends a text.
    pub ends: Vec<u32>,
    /// The family whose format it is.
    pub format: &'static FimFormat,
    /// Begins every prompt.
    begin: Vec<u32>,
}

impl Fim {
    /// Finds the marks by name.
    ///
    /// # Errors
    /// When the tokenizer has no known set of them.
    pub fn from_tokenizer(tokenizer: &Tokenizer) -> Result<Self> {
        let id = |name: &str| tokenizer.token_to_id(name);
        let Some(format) = FimFormat::find(id) else {
            let names: Vec<_> =
                FORMATS.iter().map(|format| format.marks().collect::<Vec<_>>().join(" ")).collect();
            return Err(Error::Fim(format!(
                "the tokenizer has none of {}; this model cannot fill holes, generate instead",
                names.join(", ")
            )));
        };
        let mark = |name| id(name).ok_or_else(|| Error::Fim(format!("no token {name}")));
        let (prefix, suffix) = (mark(format.prefix)?, mark(format.suffix)?);
        let middle = format.middle.map(mark).transpose()?;
        // The tokens that the tokenizer puts before every text, which is how prompts are published.
        let (bare, whole) = (tokenizer.encode("a")?, tokenizer.encode_with_special_tokens("a")?);
        let before = whole.windows(bare.len().max(1)).position(|part| part == bare);
        let mut begin = whole[..before.unwrap_or(0)].to_vec();
        if let (true, Some(id)) = (begin.is_empty(), format.begin.and_then(id)) {
            begin.push(id);
        }
        let marks = [prefix, suffix].into_iter().chain(middle);
        let mut ends: Vec<u32> = format.ends.iter().filter_map(|name| id(name)).collect();
        // A model that begins to mark another hole has ended this one.
        ends.extend(marks);
        Ok(Self { prefix, suffix, middle, ends, format, begin })
    }

    /// The parts in the family's order, each after its mark; what the model writes next is the middle.
    pub fn prompt(&self, prefix: &[u32], suffix: &[u32]) -> Vec<u32> {
        self.prompt_in(self.format.order, prefix, suffix)
    }

    fn prompt_in(&self, order: FimOrder, prefix: &[u32], suffix: &[u32]) -> Vec<u32> {
        let before = [&[self.prefix], prefix];
        let after = [&[self.suffix], suffix];
        let parts = match order {
            FimOrder::PrefixSuffix => [before, after],
            FimOrder::SuffixPrefix => [after, before],
        };
        let mut prompt = self.begin.clone();
        prompt.extend(parts.concat().concat());
        prompt.extend(self.middle);
        prompt
    }

    /// [`prompt`](Self::prompt) of two texts, in which special tokens spelt out stay text.
    ///
    /// # Errors
    /// When the tokenizer fails on a text.
    pub fn prompt_text(
        &self,
        tokenizer: &Tokenizer,
        prefix: &str,
        suffix: &str,
    ) -> Result<Vec<u32>> {
        self.prompt_text_in(self.format.order, tokenizer, (prefix, suffix))
    }

    fn prompt_text_in(
        &self,
        order: FimOrder,
        tokenizer: &Tokenizer,
        (prefix, suffix): (&str, &str),
    ) -> Result<Vec<u32>> {
        let prefix = tokenizer.encode_ordinary(prefix)?;
        let suffix = match self.format.bare_suffix {
            true => tokenizer.encode_behind(suffix)?,
            false => tokenizer.encode_ordinary(suffix)?,
        };
        Ok(self.prompt_in(order, &prefix, &suffix))
    }

    /// A training example: `text` with a hole between two uniformly drawn characters, then what
    /// belongs in it. Parts may be empty.
    ///
    /// # Errors
    /// When the tokenizer fails on a part.
    pub fn example(
        &self,
        tokenizer: &Tokenizer,
        text: &str,
        rng: &mut impl RngCore,
    ) -> Result<Vec<u32>> {
        self.example_in(self.format.order, tokenizer, text, rng)
    }

    /// As [`example`](Self::example), with the parts in another order than the family's: what a model reads that is
    /// to fill holes whichever of the two orders it is asked in. The marks are the family's in both.
    ///
    /// # Errors
    /// When the tokenizer fails on a part, or the prefix does not come last although no mark tells where the middle
    /// begins.
    pub fn example_in(
        &self,
        order: FimOrder,
        tokenizer: &Tokenizer,
        text: &str,
        rng: &mut impl RngCore,
    ) -> Result<Vec<u32>> {
        if self.middle.is_none() && order == FimOrder::PrefixSuffix {
            return Err(Error::Fim(format!(
                "{} has no mark before the middle, so the prefix comes last: {}",
                self.format.name,
                self.format.order_in_words()
            )));
        }
        let mut boundaries: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
        boundaries.push(text.len());
        let mut draw = || boundaries[below(rng, boundaries.len() as u64) as usize];
        let (one, other) = (draw(), draw());
        let (begin, end) = (one.min(other), one.max(other));
        let parts = (&text[..begin], &text[end..]);
        let mut tokens = self.prompt_text_in(order, tokenizer, parts)?;
        let middle = &text[begin..end];
        tokens.extend(tokenizer.encode_behind(middle)?);
        Ok(tokens)
    }
}

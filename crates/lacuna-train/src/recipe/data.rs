//! Defines the parts of `[data]` and `[sft]` that say how text becomes windows.

use super::DataRecipe;
use lacuna_data::{ChatPacking, CorpusOptions, HOLE_TOKENS, HoleOrder};
use serde::{Deserialize, Serialize};
use std::num::NonZeroUsize;
use std::path::PathBuf;

/// One of several texts that a run is trained on.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceRecipe {
    /// Source trees, text files, `.jsonl[.gz|.zst]`, `.parquet`, read as `[data]` says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub corpus: Vec<PathBuf>,
    /// A directory that `lacuna pack` wrote, in place of `corpus`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shards: Option<PathBuf>,
    /// Its share of the training windows, in proportion to the weights of the others.
    #[serde(default = "one")]
    pub weight: f64,
}

/// The documents that are rewritten for filling in the middle.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FimRecipe {
    /// The part of the training documents that is rewritten.
    pub rate: f64,
    /// The order of the parts.
    #[serde(default)]
    pub order: FimOrderKey,
    /// The most tokens of text around and in a hole: a document that is rewritten is cut where lines end, and each piece
    /// is given a hole. Default: one hole in a document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<NonZeroUsize>,
}

/// The order of the parts of a document that is rewritten for filling in the middle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FimOrderKey {
    /// As the tokenizer's family is asked, by `lacuna fill` too.
    #[default]
    Model,
    /// Prefix, suffix, middle.
    Psm,
    /// Suffix, prefix, middle.
    Spm,
    /// Either of the two, equally often.
    Both,
}

impl From<FimOrderKey> for HoleOrder {
    fn from(key: FimOrderKey) -> Self {
        match key {
            FimOrderKey::Model => Self::Model,
            FimOrderKey::Psm => Self::PrefixSuffix,
            FimOrderKey::Spm => Self::SuffixPrefix,
            FimOrderKey::Both => Self::Both,
        }
    }
}

/// The way in which samples of conversations share windows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SamplePacking {
    /// Each as a whole in one window, beside as many others as fit; longer ones are passed over and counted.
    Whole,
    /// As `whole`, and longer ones fill windows of their own.
    #[default]
    SplitLong,
    /// One behind the other, cut where a window ends.
    RunOn,
}

impl From<SamplePacking> for ChatPacking {
    fn from(key: SamplePacking) -> Self {
        match key {
            SamplePacking::Whole => Self::Whole,
            SamplePacking::SplitLong => Self::SplitLong,
            SamplePacking::RunOn => Self::RunOn,
        }
    }
}

impl DataRecipe {
    /// The options of the corpus reader.
    pub fn corpus_options(&self) -> CorpusOptions {
        CorpusOptions {
            extensions: self.extensions.clone(),
            languages: self.languages.clone(),
            max_document_bytes: self.max_document_bytes,
            text_fields: self.text_fields.clone(),
            take_binary: self.take_binary,
            take_hidden: self.take_hidden,
            take_ignored: self.take_ignored,
            take_duplicates: self.take_duplicates,
            skip_generated: self.skip_generated,
            skip_minified: self.skip_minified,
        }
    }

    /// The texts that windows come from: the sources, or the one that `corpus` or `shards` names.
    pub(crate) fn sources(&self) -> Vec<SourceRecipe> {
        if !self.source.is_empty() || (self.corpus.is_empty() && self.shards.is_none()) {
            return self.source.clone();
        }
        vec![SourceRecipe { corpus: self.corpus.clone(), shards: self.shards.clone(), weight: 1.0 }]
    }

    /// Names the first fault of the keys of this page.
    pub(super) fn check(&self, is_needed: bool) -> Result<(), String> {
        let ways = [!self.corpus.is_empty(), self.shards.is_some(), !self.source.is_empty()];
        let given = ways.iter().filter(|way| **way).count();
        if given > 1 || (given == 0 && is_needed) {
            return Err(
                "give data.corpus or data.shards or [[data.source]], one of them; none is needed where every stage has \
                 data = \"sft\""
                    .into(),
            );
        }
        for (number, source) in self.source.iter().enumerate() {
            if source.corpus.is_empty() == source.shards.is_none() {
                return Err(format!(
                    "data.source.{number}: give its corpus or its shards, one of the two"
                ));
            }
            if !(source.weight.is_finite() && source.weight > 0.0) {
                return Err(format!(
                    "data.source.{number}.weight is {}, expected a number above 0",
                    source.weight
                ));
            }
        }
        match &self.fim {
            Some(fim) if !(0.0..=1.0).contains(&fim.rate) => {
                Err(format!("data.fim.rate is {}, expected 0 to 1", fim.rate))
            }
            Some(FimRecipe { context: Some(context), .. })
                if context.get().saturating_add(HOLE_TOKENS) > self.window =>
            {
                Err(format!(
                    "data.fim.context is {context}, expected at most {}, so that a window of {} tokens holds a hole, its \
                     marks and what stands around it",
                    self.window.saturating_sub(HOLE_TOKENS),
                    self.window
                ))
            }
            _ => Ok(()),
        }
    }
}

impl super::SftRecipe {
    /// Names the first fault of the keys of this page.
    pub(super) fn check(&self) -> Result<(), String> {
        let [least, most] = self.closing_eos;
        if !(1 <= least && least <= most && most <= 64) {
            return Err(format!(
                "sft.closing_eos is [{least}, {most}], expected the fewest and the most end tokens of a sample, from \
                 1 to 64"
            ));
        }
        if !(0.0..1.0).contains(&self.held_out) {
            return Err(format!("sft.held_out is {}, expected 0 to below 1", self.held_out));
        }
        Ok(())
    }
}

pub(super) fn max_document_bytes() -> usize {
    CorpusOptions::default().max_document_bytes
}

pub(super) fn text_fields() -> Vec<String> {
    CorpusOptions::default().text_fields
}

pub(super) fn closing_eos() -> [u32; 2] {
    [1, 4]
}

pub(super) fn sft_held_out() -> f64 {
    0.05
}

fn one() -> f64 {
    1.0
}

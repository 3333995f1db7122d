//! Opens the text of a run: shards, corpora that are packed once and kept, conversations.

use lacuna_data::cache::Step as Packing;
use lacuna_data::corpus::Skipped;
use lacuna_data::{
    Batches, ChatOptions, Dataset, Holes, PackCache, PackOptions, Packed, PackedChat, Packer,
    Remainder, pack_chat,
};
use lacuna_text::{ChatTemplate, Tokenizer};
use std::num::NonZeroUsize;
use std::path::Path;

use super::SpecialIds;
use crate::error::Result;
use crate::recipe::{Recipe, SftRecipe, SourceRecipe};

/// The windows of a run's corpus.
pub(super) struct Text {
    pub(super) train: Batches,
    pub(super) held_out: Dataset,
    /// The parts that were passed over, a line for each reason.
    pub(super) passed_over: Vec<String>,
}

/// One source of windows.
struct Source {
    train: Dataset,
    held_out: Option<Dataset>,
    passed_over: Vec<String>,
}

impl Text {
    pub(super) fn open(
        recipe: &Recipe,
        tokenizer: &Tokenizer,
        special: SpecialIds,
        cache: &Path,
        tell: &mut dyn FnMut(Packing),
    ) -> Result<Self> {
        let options = pack_options(recipe, tokenizer, special)?;
        let cache = PackCache { folder: cache, verify: recipe.data.verify_shards };
        let (mut train, mut held_out, mut passed_over) = (vec![], vec![], vec![]);
        for source in recipe.data.sources() {
            let opened = match &source.shards {
                Some(dir) => open_shards(recipe, dir, &options, tell)?,
                None => open_corpus(recipe, &source, &options, cache, tell)?,
            };
            train.push((opened.train, source.weight));
            held_out.extend(opened.held_out);
            passed_over.extend(opened.passed_over);
        }
        let train = match <[_; 1]>::try_from(train) {
            Ok([(dataset, _)]) => Batches::new(dataset, recipe.seed)?,
            Err(several) => Batches::mixed(several, recipe.seed)?,
        };
        let held_out = match <[_; 1]>::try_from(held_out) {
            Ok([dataset]) => dataset,
            Err(none) if none.is_empty() => no_windows(recipe, tokenizer)?,
            Err(several) => Dataset::joined(several)?,
        };
        Ok(Self { train, held_out, passed_over })
    }
}

/// A dataset without a window.
pub(super) fn no_windows(recipe: &Recipe, tokenizer: &Tokenizer) -> Result<Dataset> {
    let nothing = Packer::new(window_len(recipe), Remainder::Drop).finish();
    Ok(Dataset::from_packed(nothing, tokenizer.vocab_size())?)
}

fn window_len(recipe: &Recipe) -> NonZeroUsize {
    NonZeroUsize::new(recipe.data.window).expect("validated: at least 2")
}

fn pack_options<'a>(
    recipe: &Recipe,
    tokenizer: &'a Tokenizer,
    special: SpecialIds,
) -> Result<PackOptions<'a>> {
    let holes = recipe.data.fim.as_ref().map(|fim| -> Result<_> {
        let holes = Holes::new(tokenizer, fim.rate, fim.order.into(), recipe.seed)?;
        Ok(holes.in_pieces(fim.context))
    });
    Ok(PackOptions {
        pad: special.pad,
        held_out: recipe.data.held_out,
        holes: holes.transpose()?,
        ..PackOptions::new(tokenizer, special.document_end, window_len(recipe))
    })
}

fn open_corpus(
    recipe: &Recipe,
    source: &SourceRecipe,
    options: &PackOptions<'_>,
    cache: PackCache<'_>,
    tell: &mut dyn FnMut(Packing),
) -> Result<Source> {
    let packed = cache.open(&source.corpus, &recipe.data.corpus_options(), options, tell)?;
    let passed_over = packed.passed_over().to_vec();
    Ok(Source { train: packed.train, held_out: packed.held_out, passed_over })
}

fn open_shards(
    recipe: &Recipe,
    dir: &Path,
    options: &PackOptions<'_>,
    tell: &mut dyn FnMut(Packing),
) -> Result<Source> {
    let mut open = |part: &str| -> Result<Dataset> {
        let path = dir.join(part);
        let dataset = Dataset::open(&path)?;
        if let Some(reason) = misfit(&dataset, options) {
            return Err(lacuna_data::Error::Corpus { path, reason }.into());
        }
        if recipe.data.verify_shards {
            dataset.verify_with(&mut |done, all| tell(Packing::Verifying(done, all)))?;
        }
        Ok(dataset)
    };
    // If nothing was held out, there is no folder, or, from earlier versions, an empty one.
    let something = |folder: &Path| folder.read_dir().is_ok_and(|mut files| files.next().is_some());
    let held_out = something(&dir.join("held-out")).then(|| open("held-out")).transpose()?;
    Ok(Source { train: open("train")?, held_out, passed_over: vec![] })
}

/// The reason why shards are not those that a recipe asks for.
fn misfit(dataset: &Dataset, options: &PackOptions<'_>) -> Option<String> {
    let window = options.window_len;
    if dataset.window_len() != window {
        return Some(format!(
            "windows hold {} tokens, data.window says {window}; pack again with --window {window}, or change it",
            dataset.window_len()
        ));
    }
    let manifest = dataset.manifest()?;
    if manifest.tokenizer != options.tokenizer.fingerprint() {
        return Some("packed with another tokenizer than data.tokenizer; pack again".to_owned());
    }
    let end = manifest.document_end.filter(|end| *end != options.document_end)?;
    let name = |id| options.tokenizer.id_to_token(id).unwrap_or_else(|| format!("token {id}"));
    Some(format!(
        "its documents end with {}, and the run's with {}; set data.document_end to the first, or pack again with \
         --document-end and the second",
        name(end),
        name(options.document_end)
    ))
}

/// The windows of a run's conversations.
pub(super) struct Samples {
    pub(super) train: Dataset,
    pub(super) held_out: Dataset,
    pub(super) skipped: Skipped,
}

impl Samples {
    pub(super) fn pack(
        recipe: &Recipe,
        sft: &SftRecipe,
        format: &ChatTemplate,
        tokenizer: &Tokenizer,
        special: SpecialIds,
    ) -> Result<Self> {
        let options = ChatOptions {
            closing_eos: sft.closing_eos.into(),
            pad: special.pad,
            packing: sft.packing.into(),
            held_out: sft.held_out,
            seed: recipe.seed,
            ..ChatOptions::new(format, tokenizer, special.eos, window_len(recipe))
        };
        let PackedChat { train, held_out, skipped } = pack_chat(&sft.samples, &options)?;
        let in_memory = |packed: Packed| Dataset::from_packed(packed, tokenizer.vocab_size());
        Ok(Self { train: in_memory(train)?, held_out: in_memory(held_out)?, skipped })
    }

    /// The conversations as the whole text of a run.
    pub(super) fn as_text(&self, recipe: &Recipe) -> Result<Text> {
        let train = Batches::new(self.train.clone(), recipe.seed)?;
        Ok(Text { train, held_out: self.held_out.clone(), passed_over: vec![] })
    }
}

//! Edits real files with the old text as draft: this writes the tokens of plain decoding, in fewer
//! passes.

use lacuna_data::{Corpus, CorpusOptions};
use lacuna_engine::{Algorithm, GenerateOptions, Model, OpenOptions, Prompt};
use lacuna_samplers::{Event, FillRule};
use lacuna_test::fixtures;
use std::num::NonZeroUsize;

fn model() -> Model {
    let path = fixtures().join("golden/models/tiny_untied");
    Model::open(&path, &OpenOptions::default()).unwrap()
}

/// The tokens of fifty files of the corpus, at most `tokens` of each.
fn files(model: &Model, tokens: usize) -> Vec<Vec<u32>> {
    let corpus = Corpus::read(&[fixtures().join("corpus")], &CorpusOptions::default()).unwrap();
    let texts = corpus.documents.iter().map(|document| &document.text);
    let long = texts.filter(|text| text.len() > 4 * tokens);
    let cut = |text: &String| {
        let head: String = text.chars().take(2 * tokens).collect();
        let mut ids = model.tokenizer().unwrap().encode_ordinary(&head).unwrap();
        ids.truncate(tokens);
        ids
    };
    // Every few files, so that all packages have some.
    let all: Vec<&String> = long.collect();
    let step = all.len() / 50;
    assert!(step > 0, "{} files are long enough", all.len());
    all.into_iter().step_by(step).take(50).map(cut).collect()
}

/// A token replaced, one taken out, one put in.
fn changed(text: &[u32], number: usize) -> Vec<u32> {
    let mut text = text.to_vec();
    let len = text.len();
    text[len / 5] = 20 + (number as u32 * 7) % 400;
    text.remove(len / 2);
    text.insert(4 * len / 5, 30 + (number as u32 * 11) % 400);
    text
}

fn options(tau: f64, max_new_tokens: usize) -> GenerateOptions {
    GenerateOptions {
        max_new_tokens,
        fill: Some(FillRule::Threshold { tau }),
        block_size: NonZeroUsize::new(4),
        eos_ids: Some(Vec::new()),
        ..GenerateOptions::default()
    }
}

/// The model is small and random: it copies nothing, so its own continuation of a file, changed in three
/// places, stands for the old text, and τ is low enough for whole blocks to be filled at once, as a trained
/// model does at 0.9.
#[test]
fn fifty_edited_files_come_out_token_for_token_as_from_plain_decoding() {
    let model = model();
    let options = options(0.1, 64);
    let (mut plain_passes, mut passes, mut saved, mut accepted) = (0, 0, 0, 0);
    let files = files(&model, 200);
    assert_eq!(files.len(), 50);
    for (number, file) in files.into_iter().enumerate() {
        let prompt = Prompt::Ids(file);
        let mut refinements = Vec::new();
        let plain = lacuna_engine::generate(&model, prompt.clone(), &options, |event| {
            if let Event::Refinement(refinement) = event {
                refinements.push(refinement.filled.clone());
            }
        })
        .unwrap();
        let old = changed(&plain.tokens, number);
        let mut again = Vec::new();
        let edited = lacuna_engine::edit(&model, prompt, &old, &options, |event| {
            if let Event::Refinement(refinement) = event {
                again.push(refinement.filled.clone());
            }
        })
        .unwrap();
        assert_eq!(edited.tokens, plain.tokens, "file {number}");
        assert_eq!(edited.text, plain.text, "file {number}");
        assert_eq!(again, refinements, "file {number}: filled in another order");
        assert_eq!(edited.forwards + edited.drafts.passes_saved, plain.forwards, "file {number}");
        assert!(edited.drafts.accepted_blocks <= edited.drafts.drafted_blocks);
        plain_passes += plain.forwards;
        passes += edited.forwards;
        saved += edited.drafts.passes_saved;
        accepted += edited.drafts.accepted_blocks;
    }
    println!(
        "{plain_passes} passes, {passes} with drafts, {saved} saved, {accepted} blocks accepted"
    );
    assert!(accepted > 100 && saved * 5 > plain_passes, "{saved} of {plain_passes} passes saved");
}

#[test]
fn a_draft_that_is_not_what_the_model_writes_changes_nothing() {
    let model = model();
    for (tau, file) in [0.1, 0.5, 0.9, 1.0].into_iter().zip(files(&model, 120)) {
        let options = options(tau, 40);
        let prompt = Prompt::Ids(file.clone());
        let plain = lacuna_engine::generate(&model, prompt.clone(), &options, |_| {}).unwrap();
        // The file itself, as `lacuna edit` gives it.
        let edited = lacuna_engine::edit(&model, prompt, &file, &options, |_| {}).unwrap();
        assert_eq!(edited.tokens, plain.tokens, "τ = {tau}");
        assert_eq!(edited.forwards + edited.drafts.passes_saved, plain.forwards, "τ = {tau}");
    }
}

#[test]
fn only_block_diffusion_in_fused_mode_takes_drafts() {
    // Asked for, any checkpoint decodes token by token.
    let autoregressive = GenerateOptions {
        algorithm: Some(Algorithm::Autoregressive),
        allow_mode_mismatch: true,
        ..GenerateOptions::default()
    };
    let default = GenerateOptions::default();
    let refused =
        lacuna_engine::edit(&model(), vec![1], &[5], &autoregressive, |_| {}).unwrap_err();
    assert!(refused.to_string().contains("drafts"), "{refused}");
    let reference =
        GenerateOptions { algorithm: Some(Algorithm::Reference), ..GenerateOptions::default() };
    let refused = lacuna_engine::edit(&model(), vec![1], &[5], &reference, |_| {}).unwrap_err();
    assert!(refused.to_string().contains("drafts"), "{refused}");
    let refused = lacuna_engine::edit(&model(), vec![1], &[99_999], &default, |_| {}).unwrap_err();
    assert!(refused.to_string().contains("99999"), "{refused}");
}

//! Decodes real files with drafts, from an old text and looked up: this writes the tokens of plain decoding, in
//! fewer passes.

use lacuna_data::{Corpus, CorpusOptions};
use lacuna_engine::{
    Algorithm, DraftSource, Engine, EngineOptions, Event, GenerateOptions, Model, OpenOptions,
    Pattern, Prompt, Resolved, Sampling, Session, edit_in,
};
use lacuna_samplers::{Event as SamplerEvent, FillRule};
use lacuna_test::fixtures;
use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::sync::Arc;

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
        drafts: Some(DraftSource::None),
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
            if let SamplerEvent::Refinement(refinement) = event {
                refinements.push(refinement.filled.clone());
            }
        })
        .unwrap();
        let old = changed(&plain.tokens, number);
        let mut again = Vec::new();
        let edited = lacuna_engine::edit(&model, prompt, &old, &options, |event| {
            if let SamplerEvent::Refinement(refinement) = event {
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
fn the_released_algorithm_and_a_shifted_head_take_no_drafts() {
    let default = GenerateOptions::default();
    let reference =
        GenerateOptions { algorithm: Some(Algorithm::Reference), ..GenerateOptions::default() };
    let refused = lacuna_engine::edit(&model(), vec![1], &[5], &reference, |_| {}).unwrap_err();
    assert!(refused.to_string().contains("drafts"), "{refused}");
    let refused = lacuna_engine::edit(&model(), vec![1], &[99_999], &default, |_| {}).unwrap_err();
    assert!(refused.to_string().contains("99999"), "{refused}");

    let lookup =
        |options: GenerateOptions| GenerateOptions { drafts: Some(DraftSource::Lookup), ..options };
    let refused = lacuna_engine::generate(&model(), vec![1; 4], &lookup(reference), |_| {});
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("`drafts` lookup") && refused.contains("released"), "{refused}");
    let mut shifted = model();
    let mut transformer = lacuna_model::Transformer::clone(&shifted.transformer);
    transformer.set_predicts(lacuna_model::Predicts::Next);
    shifted.transformer = transformer.into();
    let refused = lacuna_engine::generate(&shifted, vec![1; 4], &lookup(default.clone()), |_| {});
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("shifted"), "{refused}");
    // Nobody asked for them, so there are none.
    let plain = Resolved::new(&shifted, vec![1; 4], &default).unwrap();
    assert_eq!(plain.drafts(), DraftSource::None);
}

/// A random model in few bits of context repeats itself, and where it does, lookup finds it.
#[test]
fn lookup_writes_the_tokens_of_plain_decoding_in_every_mode() {
    let model = model();
    let (mut saved, mut passes) = ([0; 2], [0; 2]);
    for (number, file) in files(&model, 100).into_iter().step_by(5).enumerate() {
        for (at, algorithm) in
            [Algorithm::Blocks, Algorithm::Autoregressive].into_iter().enumerate()
        {
            for temperature in [0.0, 0.7] {
                let plain = GenerateOptions {
                    algorithm: Some(algorithm),
                    allow_mode_mismatch: true,
                    drafts: Some(DraftSource::None),
                    sampling: Sampling { temperature, seed: 7, ..Sampling::default() },
                    ..options(0.1, 60)
                };
                let lookup = GenerateOptions { drafts: Some(DraftSource::Lookup), ..plain.clone() };
                let expected = lacuna_engine::generate(&model, file.clone(), &plain, |_| {});
                let expected = expected.unwrap();
                let found = lacuna_engine::generate(&model, file.clone(), &lookup, |_| {}).unwrap();
                let case = format!("file {number}, {algorithm:?}, temperature {temperature}");
                assert_eq!(found.tokens, expected.tokens, "{case}");
                assert_eq!(found.text, expected.text, "{case}");
                assert_eq!(found.forwards + found.drafts.passes_saved, expected.forwards, "{case}");
                assert_eq!(found.draft_source, DraftSource::Lookup);
                saved[at] += found.drafts.passes_saved;
                passes[at] += expected.forwards;
            }
        }
    }
    println!("saved of blocks and of tokens one by one: {saved:?} of {passes:?} passes");
    assert!(saved[1] > 0, "{saved:?}");
}

#[test]
fn drafts_of_several_requests_share_passes_and_change_none_of_them() {
    let model = model();
    let all: Vec<(Vec<u32>, GenerateOptions)> = files(&model, 80)
        .into_iter()
        .take(9)
        .enumerate()
        .map(|(number, file)| {
            let algorithm = [Algorithm::Blocks, Algorithm::Autoregressive][number % 2];
            let drafts = [DraftSource::Lookup, DraftSource::None][number % 3 / 2];
            let options = GenerateOptions {
                algorithm: Some(algorithm),
                allow_mode_mismatch: true,
                drafts: Some(drafts),
                ..options(0.1, 40)
            };
            (file, options)
        })
        .collect();
    let mut engine = Engine::new(&model, EngineOptions::default());
    for (file, options) in &all {
        engine.push(Resolved::new(&model, file.clone(), options).unwrap()).unwrap();
    }
    let mut done = BTreeMap::new();
    while !engine.is_empty() {
        for event in engine.step() {
            match event {
                Event::Finished { id, completion } => drop(done.insert(id, completion)),
                Event::Failed { error, .. } => panic!("{error}"),
                _ => {}
            }
        }
    }
    for ((file, options), (id, together)) in all.iter().zip(done) {
        let alone = lacuna_engine::generate(&model, file.clone(), options, |_| {}).unwrap();
        assert_eq!(together.tokens, alone.tokens, "request {id}");
        assert_eq!(together.drafts, alone.drafts, "request {id}");
        assert_eq!(together.forwards, alone.forwards, "request {id}");
    }
}

#[test]
fn an_edit_looks_nothing_up_and_keeps_to_its_pattern() {
    let model = model();
    let old: Vec<u32> = (40..80).collect();
    for algorithm in [Algorithm::Autoregressive, Algorithm::Blocks] {
        let options = GenerateOptions {
            max_new_tokens: 24,
            algorithm: Some(algorithm),
            allow_mode_mismatch: true,
            drafts: Some(DraftSource::Lookup),
            pattern: Some(Pattern::Regex("[0-9]{2,6}".into())),
            ..GenerateOptions::default()
        };
        let request = Resolved::new(&model, vec![9; 6], &options).unwrap();
        assert_eq!(request.drafts(), DraftSource::Lookup);
        let mut session = Session::new(Arc::clone(&model.transformer));
        let go_on = |_: SamplerEvent<'_>| ControlFlow::Continue(());
        let edited = edit_in(&mut session, &model, &request, &old, go_on).unwrap();
        assert_eq!(edited.draft_source, DraftSource::OldText);
        assert!((2..=6).contains(&edited.text.len()), "{}", edited.text);
        assert!(edited.text.bytes().all(|byte| byte.is_ascii_digit()), "{}", edited.text);
    }
}

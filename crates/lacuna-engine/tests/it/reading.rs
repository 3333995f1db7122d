//! Prompts that are read in parts, or not again, give the tokens that they give alone.

use crate::support::tiny;
use lacuna_engine::{
    Completion, Engine, EngineOptions, Event, GenerateOptions, Id, Model, Prompt, Resolved,
    Session, edit, edit_in, generate,
};
use lacuna_samplers::Sampling;
use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::sync::Arc;

fn number(n: usize) -> NonZeroUsize {
    NonZeroUsize::new(n).unwrap()
}

/// A prompt that begins as all others do, and options of its own.
fn request(n: usize) -> (Vec<u32>, GenerateOptions) {
    let shared = (0..70u32).map(|i| 40 + (i * 37) % 400);
    let own = (0..5 * n as u32).map(|i| 50 + (i * 11 + n as u32) % 300);
    let sampling =
        Sampling { temperature: [0.0, 0.9][n % 2], seed: n as u64, ..Sampling::default() };
    let block_size = Some(number([4, 8][n / 2 % 2]));
    let options = GenerateOptions {
        max_new_tokens: 12 + n,
        block_size,
        sampling,
        ..GenerateOptions::default()
    };
    (shared.chain(own).collect(), options)
}

fn resolved(model: &Model, n: usize) -> Resolved {
    let (prompt, options) = request(n);
    Resolved::new(model, Prompt::Ids(prompt), &options).unwrap()
}

fn ended(engine: &mut Engine<'_>) -> BTreeMap<Id, Completion> {
    let mut ended = BTreeMap::new();
    while !engine.is_empty() {
        for event in engine.step() {
            if let Event::Finished { id, completion } = event {
                ended.insert(id, completion);
            }
        }
    }
    ended
}

#[test]
fn prompts_read_in_parts_and_from_memory_give_the_tokens_they_give_alone() {
    let model = tiny("tiny_tied");
    let mut engine = Engine::new(&model, EngineOptions::default()).remembering(1 << 30);
    for round in 0..2 {
        let mut ids = Vec::new();
        let before = engine.prompt_rows();
        for n in 0..8 {
            let mut reading = engine.begin(resolved(&model, n), Some(n as u64)).unwrap();
            assert!(round == 0 || reading.remembered() >= 64, "{n}: {}", reading.remembered());
            while !engine.read(&mut reading, number(12)).unwrap() {}
            ids.push((engine.join(reading).unwrap(), n));
        }
        let read = engine.prompt_rows() - before;
        let ended = ended(&mut engine);
        for (id, n) in ids {
            let (prompt, options) = request(n);
            let alone = generate(&model, Prompt::Ids(prompt), &options, |_| {}).unwrap();
            assert_eq!(ended[&id].tokens, alone.tokens, "round {round}, request {n}");
        }
        // The first of each block size reads what all have in common; in the second round nobody does.
        let most = if round == 0 { 2 * 70 + 8 * 40 } else { 8 * 16 };
        assert!(read <= most, "round {round}: {read} rows");
    }
}

#[test]
fn a_causal_prompt_is_read_ahead_but_for_its_last_token() {
    let folder = tempfile::tempdir().unwrap();
    let path = lacuna_test::checkpoints::autoregressive(folder.path());
    let model = Model::open(path.as_ref(), &Default::default()).unwrap();
    let mut engine = Engine::new(&model, EngineOptions::default()).remembering(1 << 30);
    let prompt: Vec<u32> = (0..50u32).map(|i| 40 + (i * 37) % 400).collect();
    let options = GenerateOptions { max_new_tokens: 10, ..GenerateOptions::default() };
    let alone = generate(&model, Prompt::Ids(prompt.clone()), &options, |_| {}).unwrap();
    for round in 0..2 {
        let request = Resolved::new(&model, Prompt::Ids(prompt.clone()), &options).unwrap();
        let mut reading = engine.begin(request, None).unwrap();
        assert_eq!(reading.remembered(), if round == 0 { 0 } else { 49 });
        while !engine.read(&mut reading, number(7)).unwrap() {}
        let id = engine.join(reading).unwrap();
        assert_eq!(ended(&mut engine)[&id].tokens, alone.tokens, "round {round}");
    }
}

#[test]
fn what_is_kept_stays_within_its_bytes_and_an_abandoned_reading_is_kept() {
    let model = tiny("tiny_tied");
    let bytes = model.transformer.cache_bytes_per_token() * 700;
    let mut engine = Engine::new(&model, EngineOptions::default()).remembering(bytes);
    for n in 0..6 {
        let mut reading = engine.begin(resolved(&model, n), Some(n as u64)).unwrap();
        while !engine.read(&mut reading, number(64)).unwrap() {}
        engine.abandon(reading);
        assert!(engine.remembered_bytes() <= bytes);
    }
    assert!(engine.remembered_bytes() > 0);
    let reading = engine.begin(resolved(&model, 5), Some(5)).unwrap();
    assert!(reading.remembered() > 64, "the newest is there");
}

#[test]
fn texts_without_a_slot_do_not_cost_editors_theirs() {
    let model = tiny("tiny_tied");
    // A cache has room for 256 tokens at first.
    let bytes = model.transformer.cache_bytes_per_token() * 256 * 4;
    let mut engine = Engine::new(&model, EngineOptions::default()).remembering(bytes);
    let mut read = |n: usize, slot: Option<u64>| {
        let mut reading = engine.begin(resolved(&model, n), slot).unwrap();
        let remembered = reading.remembered();
        while !engine.read(&mut reading, number(64)).unwrap() {}
        engine.abandon(reading);
        assert!(engine.remembered_bytes() <= bytes);
        remembered
    };
    let editors = [12, 13];
    for slot in editors {
        read(slot, Some(slot as u64));
    }
    let own = editors.map(|slot| read(slot, Some(slot as u64)));
    for other in 2..8 {
        read(other, None);
    }
    assert_eq!(editors.map(|slot| read(slot, Some(slot as u64))), own);
    assert!(own.iter().all(|own| *own > 100), "{own:?}");
}

#[test]
fn an_edit_behind_what_was_read_is_the_edit_alone_and_ends_where_its_observer_says() {
    let model = tiny("tiny_tied");
    let (prompt, options) = request(3);
    let old = generate(&model, Prompt::Ids(prompt.clone()), &options, |_| {}).unwrap().tokens;
    let alone = edit(&model, Prompt::Ids(prompt), &old, &options, |_| {}).unwrap();
    let mut engine = Engine::new(&model, EngineOptions::default()).remembering(1 << 30);
    let mut reading = engine.begin(resolved(&model, 3), None).unwrap();
    while !engine.read(&mut reading, number(16)).unwrap() {}
    let (request, prefix) = reading.into_parts();
    let mut session = Session::new(Arc::clone(&model.transformer)).remembering();
    session.seat(0, prefix);
    let seated =
        edit_in(&mut session, &model, &request, &old, |_| ControlFlow::Continue(())).unwrap();
    assert_eq!((&seated.tokens, seated.forwards), (&alone.tokens, alone.forwards));
    assert!(session.unseat(0).unwrap().tokens().len() >= 64);
    let mut session = Session::new(Arc::clone(&model.transformer));
    let stopped =
        edit_in(&mut session, &model, &request, &old, |_| ControlFlow::Break(())).unwrap();
    assert!(stopped.tokens.len() < alone.tokens.len());
}

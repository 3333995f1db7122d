//! Decodes many requests at once on a real model: each gets what it gets alone, whoever else comes,
//! goes or fails.

use crate::support::{tiny, tiny_in};
use lacuna_engine::{
    Activations, Algorithm, Completion, Engine, EngineOptions, Event, FinishReason,
    GenerateOptions, Id, MemoryLimit, Model, Plan, Prompt, Resolved, StorageDtype, generate,
};
use lacuna_samplers::trace::{Line, Trace};
use lacuna_samplers::{FillRule, Sampling};
use std::collections::BTreeMap;
use std::num::NonZeroUsize;

fn number(n: usize) -> NonZeroUsize {
    NonZeroUsize::new(n).unwrap()
}

/// Prompt and options of the n-th request: every second one autoregressive; other lengths, rules, seeds, ends for all.
fn request(n: usize) -> (Prompt, GenerateOptions) {
    let rules = [
        FillRule::LowConfidence,
        FillRule::Threshold { tau: 0.01 },
        FillRule::Margin,
        FillRule::EntropyBounded { gamma: 9.0 },
        FillRule::Random,
    ];
    let prompt = match n % 3 {
        0 => Prompt::Text(format!("def f{n}(x):\n    return {n} * x + ")),
        _ => Prompt::Ids((0..=2 * n as u32).map(|i| 40 + (i * 37 + n as u32) % 400).collect()),
    };
    let options = GenerateOptions {
        max_new_tokens: 9 + 3 * n,
        block_size: Some(number([4, 1, 8, 3][n / 2 % 4])),
        fill: Some(rules[n / 2 % rules.len()]),
        sampling: Sampling {
            temperature: [0.0, 0.8, 1.1][n / 2 % 3],
            repetition_penalty: [1.0, 1.1][n / 4 % 2],
            seed: 1000 + n as u64,
            ..Sampling::default()
        },
        algorithm: Some([Algorithm::Blocks, Algorithm::Autoregressive][n % 2]),
        allow_mode_mismatch: true,
        // Some end at eos, some at a text.
        eos_ids: (n % 4 < 2).then(Vec::new),
        prompt_precision: [Activations::F32, Activations::Int8][n / 2 % 2],
        stop: if n % 5 == 4 { vec!["e".into(), "\n\n".into()] } else { Vec::new() },
        ..GenerateOptions::default()
    };
    (prompt, options)
}

fn resolved(model: &Model, n: usize) -> Resolved {
    let (prompt, options) = request(n);
    Resolved::new(model, prompt, &options).unwrap()
}

fn alone(model: &Model, n: usize) -> Completion {
    let (prompt, options) = request(n);
    generate(model, prompt, &options, |_| {}).unwrap()
}

fn is_same(written: &Completion, alone: &Completion) -> bool {
    let parts = |w: &Completion| {
        (w.text.clone(), w.tokens.clone(), w.text_len, w.prompt_tokens, w.forwards, w.finish)
    };
    parts(written) == parts(alone)
}

/// The end of each request, and the pieces of text that were told of it.
#[derive(Default)]
struct Told {
    pieces: BTreeMap<Id, String>,
    finished: BTreeMap<Id, Completion>,
    failed: BTreeMap<Id, String>,
}

impl Told {
    fn take(&mut self, events: Vec<Event>) {
        for event in events {
            let id = event.id();
            assert!(!self.finished.contains_key(&id) && !self.failed.contains_key(&id), "{id}");
            match event {
                Event::Text { piece, .. } => {
                    assert!(!piece.is_empty());
                    *self.pieces.entry(id).or_default() += &piece;
                }
                Event::Finished { completion, .. } => drop(self.finished.insert(id, completion)),
                Event::Failed { error, .. } => drop(self.failed.insert(id, chain(&error))),
                Event::Refinement { .. } | Event::Block { .. } => {}
            }
        }
    }

    /// All of them finished as they would have alone, and streamed what they wrote.
    fn is_as_alone(&self, model: &Model, ids: &[(Id, usize)]) {
        for (id, n) in ids {
            let (written, alone) = (&self.finished[id], alone(model, *n));
            assert!(is_same(written, &alone), "request {n}: {written:?}, alone {alone:?}");
            assert_eq!(self.pieces.get(id).map_or("", String::as_str), alone.text, "request {n}");
        }
        assert_eq!(self.finished.len(), ids.len());
    }
}

/// An error and its reasons.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(reason) = next {
        text = format!("{text}: {reason}");
        next = reason.source();
    }
    text
}

fn run(engine: &mut Engine<'_>, told: &mut Told) {
    while !engine.is_empty() {
        told.take(engine.step());
    }
}

fn ids(
    engine: &mut Engine<'_>,
    model: &Model,
    requests: std::ops::Range<usize>,
) -> Vec<(Id, usize)> {
    requests.map(|n| (engine.push(resolved(model, n)).unwrap(), n)).collect()
}

#[test]
fn sixteen_requests_at_once_get_what_they_get_alone() {
    for name in ["tiny_untied", "tiny_tied"] {
        let model = tiny(name);
        let mut engine = Engine::new(&model, EngineOptions::default());
        let ids = ids(&mut engine, &model, 0..16);
        let mut told = Told::default();
        run(&mut engine, &mut told);
        told.is_as_alone(&model, &ids);
        let longest = told.finished.values().map(|written| written.forwards).max().unwrap();
        // Beside the shared passes, one over the prompt of each request in blocks.
        assert!(engine.passes() <= longest + 8, "{} passes, {longest} alone", engine.passes());
        let finishes: Vec<FinishReason> = told.finished.values().map(|w| w.finish).collect();
        assert!(finishes.contains(&FinishReason::Length) && finishes.contains(&FinishReason::Stop));
    }
}

#[test]
fn requests_whose_prompts_are_rounded_get_what_they_get_alone_beside_exact_ones() {
    for name in ["tiny_untied", "tiny_tied"] {
        let model = tiny_in(name, Some(StorageDtype::Q8_0));
        let mut engine = Engine::new(&model, EngineOptions::default());
        let ids = ids(&mut engine, &model, 0..16);
        let mut told = Told::default();
        run(&mut engine, &mut told);
        told.is_as_alone(&model, &ids);
        for (id, n) in ids {
            let asked = request(n).1.prompt_precision;
            assert_eq!(told.finished[&id].prompt_precision, asked, "request {n}");
        }
        let longest = told.finished.values().map(|written| written.forwards).max().unwrap();
        // Beside the shared passes, one over each prompt: of a causal one where it is rounded.
        assert!(engine.passes() <= longest + 12, "{} passes, {longest} alone", engine.passes());
    }
}

#[test]
fn requests_wait_join_are_cancelled_and_fail_without_touching_the_others() {
    let model = tiny("tiny_untied");
    let options = EngineOptions { running_max: number(5), ..EngineOptions::default() };
    let mut engine = Engine::new(&model, options);
    let mut told = Told::default();
    let mut expected = ids(&mut engine, &model, 0..8);

    // One that goes on beyond the last position: its options say more than the model has room for.
    let too_long = |algorithm| {
        let (_, options) = request(0);
        let options = GenerateOptions { algorithm: Some(algorithm), ..options };
        let ids: Vec<u32> = (0..2040).map(|i| 40 + i % 400).collect();
        let mut resolved = Resolved::new(&model, ids, &options).unwrap();
        if let Plan::Blocks(request) | Plan::Autoregressive(request) = &mut resolved.plan {
            request.max_new_tokens = 64;
            request.eos_ids.clear();
        }
        resolved
    };
    let failing = [Algorithm::Blocks, Algorithm::Autoregressive]
        .map(|algorithm| engine.push(too_long(algorithm)).unwrap());
    assert_eq!((engine.len(), engine.waiting()), (10, 10));
    for _ in 0..3 {
        told.take(engine.step());
    }
    assert_eq!((engine.len(), engine.waiting()), (10, 5), "five run");

    // One that runs is cancelled, and one that waits.
    let cancelled = engine.cancel(expected[4].0).unwrap();
    let whole = alone(&model, 4);
    assert!(cancelled.finish == FinishReason::Stop && whole.text.starts_with(&cancelled.text));
    assert!(whole.tokens.starts_with(&cancelled.tokens));
    let waiting = engine.cancel(expected[7].0).unwrap();
    assert!(waiting.tokens.is_empty() && waiting.text.is_empty());
    for (id, _) in [expected[4], expected[7]] {
        let error = engine.cancel(id).unwrap_err().to_string();
        assert_eq!(error, format!("request {id} is not under way: it has ended, or never began"));
    }
    expected.retain(|(_, n)| ![4, 7].contains(n));

    expected.extend(ids(&mut engine, &model, 8..16));
    run(&mut engine, &mut told);
    told.pieces.retain(|id, _| !failing.contains(id));
    told.is_as_alone(&model, &expected);
    assert_eq!(told.failed.keys().copied().collect::<Vec<_>>(), failing);
    for reason in told.failed.values() {
        assert!(reason.starts_with("a pass through the model failed: "), "{reason}");
        assert!(reason.contains("2048"), "{reason}");
    }
    assert_eq!(engine.len(), 0);
}

#[test]
fn memory_is_a_limit_too() {
    let model = tiny("tiny_untied");
    let config = model.config();
    let bytes = 2 * config.num_layers * config.num_kv_heads * config.head_dim * 4;
    // A cache has room for 256 tokens from the beginning, which counts as 320: three requests at once.
    let memory = MemoryLimit::Bytes(1000 * bytes as u64);
    let mut engine = Engine::new(&model, EngineOptions { memory, ..EngineOptions::default() });
    let ids = ids(&mut engine, &model, 0..16);
    let (_, options) = request(0);
    let options = GenerateOptions { max_new_tokens: 1000, ..options };
    let refused = engine.push(Resolved::new(&model, vec![7], &options).unwrap()).unwrap_err();
    assert!(refused.to_string().contains("ask for fewer new tokens"), "{refused}");
    let mut told = Told::default();
    let mut most = 0;
    while !engine.is_empty() {
        told.take(engine.step());
        most = most.max(engine.len() - engine.waiting());
    }
    assert_eq!(most, 3, "requests at once");
    told.is_as_alone(&model, &ids);
}

#[test]
fn what_an_engine_can_not_do_is_said_before_anything_runs() {
    let model = tiny("tiny_untied");
    let mut engine = Engine::new(&model, EngineOptions::default());
    let mut refused = |options: GenerateOptions| {
        let resolved = Resolved::new(&model, vec![7, 8, 9], &options).unwrap();
        engine.push(resolved).unwrap_err().to_string()
    };
    let base = || GenerateOptions { max_new_tokens: 8, ..GenerateOptions::default() };
    let one = refused(GenerateOptions { algorithm: Some(Algorithm::Reference), ..base() });
    assert!(one.contains("one text at a time"), "{one}");
    let empty = refused(GenerateOptions { stop: vec![String::new()], ..base() });
    assert!(empty.starts_with("an empty stop text"), "{empty}");
    let hot = Sampling { temperature: f64::NAN, ..Sampling::default() };
    assert!(refused(GenerateOptions { sampling: hot, ..base() }).starts_with("temperature is NaN"));
    assert!(engine.is_empty() && engine.step().is_empty());
}

#[test]
fn the_details_of_a_step_are_a_trace_of_each_request() {
    let model = tiny("tiny_untied");
    let details = EngineOptions { details: true, ..EngineOptions::default() };
    let mut engine = Engine::new(&model, details);
    let mut lines: BTreeMap<Id, Vec<Line>> = BTreeMap::new();
    for (id, n) in ids(&mut engine, &model, 0..4) {
        lines.insert(id, vec![resolved(&model, n).trace_header().unwrap()]);
    }
    let mut written = BTreeMap::new();
    while !engine.is_empty() {
        for event in engine.step() {
            let id = event.id();
            let lines = lines.get_mut(&id).unwrap();
            match event {
                Event::Refinement { mut refinement, .. } => {
                    assert_eq!(refinement.request.to_string(), id.to_string());
                    refinement.request = 0;
                    lines.push(Line::Refinement(refinement));
                }
                Event::Block { block_start, tokens, .. } => {
                    lines.push(Line::Block { request: 0, block_start, tokens });
                }
                Event::Finished { completion: done, .. } => drop(written.insert(id, done)),
                Event::Text { .. } => {}
                Event::Failed { error, .. } => panic!("{error}"),
            }
        }
    }
    for (id, mut lines) in lines {
        lines.push(written[&id].trace_end());
        let replayed = Trace { lines }.replay().unwrap();
        assert_eq!(replayed[0].tokens, written[&id].tokens);
    }
}

#[test]
fn an_engine_and_its_events_go_from_thread_to_thread() {
    fn sent<T: Send>(value: T) -> T {
        value
    }
    let model = tiny("tiny_untied");
    let mut engine = sent(Engine::new(&model, EngineOptions::default()));
    let ids = ids(&mut engine, &model, 0..3);
    let (sender, receiver) = std::sync::mpsc::channel::<Vec<Event>>();
    let mut told = Told::default();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            while !engine.is_empty() {
                sender.send(engine.step()).unwrap();
            }
        });
        receiver.into_iter().for_each(|events| told.take(events));
    });
    told.is_as_alone(&model, &ids);
}

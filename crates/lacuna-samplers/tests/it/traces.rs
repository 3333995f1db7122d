//! Holds traces to be the same bytes after reading, to replay to the same text, and to give
//! tampering away.

use std::num::NonZeroUsize;
use std::ops::ControlFlow;

use crate::scripted::{EOS, MASK, Scripted, VOCAB};
use lacuna_samplers::reference::{self, Remasking, Settings};
use lacuna_samplers::trace::{Line, Trace};
use lacuna_samplers::{
    Error, Event, FillRule, FinishReason, Request, Sampling, View, generate, generate_batch,
};
use proptest::prelude::*;

fn record(lines: &mut Vec<Line>) -> impl FnMut(Event<'_>) -> ControlFlow<usize> {
    |event| {
        lines.push(event.into());
        ControlFlow::Continue(())
    }
}

fn rule(number: u8) -> FillRule {
    match number % 8 {
        0 => FillRule::LowConfidence,
        1 => FillRule::Threshold { tau: 0.7 },
        2 => FillRule::Factor { factor: 0.9 },
        3 => FillRule::EntropyBounded { gamma: 0.8 },
        4 => FillRule::Margin,
        5 => FillRule::Entropy,
        6 => FillRule::LeftToRight,
        _ => FillRule::Random,
    }
}

/// Two requests' trace, and their tokens.
fn sample(seed: u64, first_rule: u8, temperature: f64, keep: usize) -> (Trace, Vec<Vec<u32>>) {
    let mut trace = Trace::default();
    let requests: Vec<Request> = (0..2u8)
        .map(|number| Request {
            fill: rule(first_rule + number),
            steps: NonZeroUsize::new(7),
            sampling: Sampling { temperature, seed, ..Sampling::default() },
            eos_ids: vec![EOS],
            stop_ids: vec![8],
            ..Request::new(
                vec![MASK; 3 + usize::from(number)],
                13,
                NonZeroUsize::new(4).expect("not zero"),
                MASK,
            )
        })
        .collect();
    for (number, request) in requests.iter().enumerate() {
        trace.lines.push(Line::header(number, request));
    }
    let mut model = Scripted::new(seed).with_eos(5);
    let done = generate_batch(&mut model, requests, |event| {
        trace.lines.push(event.into());
        match event {
            Event::Block(block) if block.generated.len() > 8 => ControlFlow::Break(keep),
            _ => ControlFlow::Continue(()),
        }
    });
    let done: Vec<_> =
        done.into_iter().collect::<Result<_, _>>().expect("the scripted denoiser never fails");
    trace.lines.extend(done.iter().map(Line::end));
    (trace, done.into_iter().map(|generation| generation.tokens).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_trace_is_the_same_bytes_again_and_replays_to_the_same_tokens(
        seed in any::<u64>(), rule in 0u8..8, temperature in prop_oneof![Just(0.0), 0.1f64..2.0],
        keep in 0usize..20,
    ) {
        let (trace, tokens) = sample(seed, rule, temperature, keep);
        let text = trace.to_jsonl();
        let read = Trace::parse(&text).unwrap();
        prop_assert_eq!(&read.to_jsonl(), &text);
        prop_assert_eq!(&read, &trace);
        let replayed: Vec<Vec<u32>> =
            read.replay().unwrap().into_iter().map(|replay| replay.tokens).collect();
        prop_assert_eq!(replayed, tokens);
        prop_assert_eq!(sample(seed, rule, temperature, keep).0.to_jsonl(), text);
    }

    #[test]
    fn reference_mode_replays_with_its_faults(
        prompt in prop::collection::vec(0..VOCAB as u32, 0..11), seed in any::<u64>(),
        steps in 1usize..6, threshold in prop::option::of(0.3f64..1.0), random in any::<bool>(),
        temperature in prop_oneof![Just(0.0), 0.1f64..2.0], ends in any::<bool>(),
    ) {
        let settings = Settings {
            steps: 2 * steps,
            threshold,
            temperature,
            remasking: if random { Remasking::Random } else { Remasking::LowConfidence },
            eos_id: ends.then_some(EOS),
            ..Settings::new(8, 4, MASK)
        };
        let mut trace = Trace { lines: vec![Line::reference_header(&prompt, &settings).unwrap()] };
        let mut model = Scripted::new(seed).with_mask(15).with_eos(10);
        let output = reference::generate(&mut model, &prompt, &settings, record(&mut trace.lines));
        let replayed = trace.replay().unwrap().remove(0);
        if let Ok(output) = output {
            prop_assert_eq!(&replayed.tokens, output.tokens());
        }
        prop_assert_eq!(Trace::parse(&trace.to_jsonl()).unwrap(), trace);
    }

    #[test]
    fn no_text_makes_a_replay_panic(seed in any::<u64>(), at in any::<usize>(), byte in any::<u8>()) {
        let mut text = sample(seed, (seed % 8) as u8, 0.0, 20).0.to_jsonl().into_bytes();
        let at = at % text.len();
        text[at] = byte % 128;
        if let Ok(trace) = Trace::parse(&String::from_utf8(text).unwrap()) {
            let _ = trace.replay();
        }
    }
}

#[test]
fn what_was_changed_is_found() {
    let (trace, _) = sample(4, 0, 0.0, 20);
    let first_block = trace.lines.iter().position(|l| matches!(l, Line::Block { .. })).unwrap();
    let broken = |change: &dyn Fn(&mut Vec<Line>)| {
        let mut trace = trace.clone();
        change(&mut trace.lines);
        match trace.replay().unwrap_err() {
            Error::Trace { line, reason } => (line, reason),
            other => panic!("{other}"),
        }
    };
    let refinement = |line: &mut Line, change: &dyn Fn(&mut lacuna_samplers::Refinement)| {
        let Line::Refinement(refinement) = line else { panic!("{line:?}") };
        change(refinement);
    };
    let (line, reason) = broken(&|lines| refinement(&mut lines[2], &|r| r.filled.clear()));
    assert!(line == 3 && reason.starts_with("filled []: the rule fills"), "{reason}");
    let (line, _) = broken(&|lines| refinement(&mut lines[2], &|r| r.candidates[0].position += 1));
    assert_eq!(line, 3);
    let (line, _) = broken(&|lines| refinement(&mut lines[2], &|r| r.refinement = 1));
    assert_eq!(line, 3);
    let (line, reason) = broken(&|lines| {
        if let Line::Block { tokens, .. } = &mut lines[first_block] {
            tokens[0] ^= 1;
        }
    });
    assert!(line == first_block + 1 && reason.contains("derived"), "{reason}");
    let (line, reason) = broken(&|lines| drop(lines.remove(0)));
    assert!(line == 2 && reason == "request 0 has no header", "{line} {reason}");
    let (_, reason) = broken(&|lines| lines.insert(1, lines[0].clone()));
    assert!(reason.contains("two headers"), "{reason}");
    let (_, reason) = broken(&|lines| lines.push(lines[2].clone()));
    assert!(reason.contains("has ended already"), "{reason}");

    let newer = trace.to_jsonl().replace("\"version\":1", "\"version\":2");
    assert_eq!(
        Trace::parse(&newer).unwrap_err().to_string(),
        "trace line 1: format version 2: expected 1"
    );
    assert!(Trace::parse("{}").is_err() && Trace::parse("\n\nnonsense").is_err());
}

#[test]
fn a_trace_that_was_cut_off_replays_as_far_as_it_goes() {
    let (trace, tokens) = sample(4, 0, 0.0, 20);
    for length in 2..trace.lines.len() {
        let cut = Trace { lines: trace.lines[..length].to_vec() };
        for (replayed, whole) in cut.replay().unwrap().iter().zip(&tokens) {
            assert!(whole.starts_with(&replayed.tokens));
        }
    }
}

#[test]
fn autoregressive_decoding_is_block_decoding_with_blocks_of_one() {
    for temperature in [0.0, 0.8] {
        let request = Request {
            sampling: Sampling { temperature, seed: 11, ..Sampling::default() },
            eos_ids: vec![EOS],
            mask_id: MASK,
            ..Request::autoregressive(vec![6, 7, 8], 20)
        };
        let mut trace = Trace::default();
        trace.lines.push(Line::header(0, &request));
        let mut model = Scripted::new(5).with_eos(4);
        let generation = generate(&mut model, request.clone(), record(&mut trace.lines)).unwrap();
        let one = NonZeroUsize::MIN;
        let blocks_of_one = Request { view: View::Blocks { block_size: one }, ..request };
        let mut model = Scripted::new(5).with_eos(4);
        let go_on = |_: Event<'_>| ControlFlow::Continue(());
        let same = generate(&mut model, blocks_of_one, go_on).unwrap();
        assert_eq!(generation, same);
        assert_eq!(
            generation.forwards,
            generation.text_len + usize::from(generation.finish == FinishReason::Eos)
        );
        trace.lines.push(Line::end(&generation));
        assert_eq!(trace.replay().unwrap()[0].tokens, generation.tokens);
        let header = trace.lines[0].to_json();
        let written = header.contains(r#""mode":"autoregressive""#);
        assert!(written && header.contains(r#""block_size":1,"#), "{header}");
        assert_eq!(Trace::parse(&trace.to_jsonl()).unwrap(), trace);
    }
}

#[test]
fn an_autoregressive_model_needs_a_token_to_start_from() {
    let request = Request::autoregressive(vec![], 4);
    let refused = generate(&mut Scripted::new(1), request, |_| ControlFlow::Continue(()));
    assert_eq!(
        refused.unwrap_err().to_string(),
        "prompt is empty: expected at least one token for an autoregressive model"
    );
}

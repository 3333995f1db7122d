//! Holds editing with drafts to decide nothing differently from plain decoding; it only saves
//! passes.

use std::num::NonZeroUsize;
use std::ops::ControlFlow;

use crate::scripted::{EOS, MASK, Scripted, VOCAB};
use lacuna_samplers::trace::Line;
use lacuna_samplers::{Drafting, Event, FillRule, FinishReason, Request, Sampling, edit, generate};
use proptest::prelude::*;

/// Replaces, takes out or puts in a token here and there.
fn changed(text: &[u32], edits: &[(usize, u8, u32)]) -> Vec<u32> {
    let mut text = text.to_vec();
    for &(at, kind, token) in edits {
        let at = at % text.len().max(1);
        match kind {
            _ if text.is_empty() => text.push(token),
            0 => text[at] = token,
            1 => drop(text.remove(at)),
            _ => text.insert(at, token),
        }
    }
    text
}

/// Every event of a run as trace lines.
fn lines(lines: &mut Vec<Line>) -> impl FnMut(Event<'_>) -> ControlFlow<usize> {
    |event| {
        lines.push(event.into());
        ControlFlow::Continue(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn an_edit_gives_the_tokens_and_the_refinements_of_plain_decoding(
        target in prop::collection::vec(6..VOCAB as u32, 1..120),
        edits in prop::collection::vec((0usize..200, 0u8..3, 0..VOCAB as u32), 0..6),
        writes_target in any::<bool>(), prompt_len in 0usize..10,
        block_size in prop_oneof![Just(1usize), Just(2), Just(4), Just(8)],
        tau in 0.2f64..=1.0, scheduled in any::<bool>(),
        temperature in prop_oneof![3 => Just(0.0), 1 => 0.1f64..1.0],
        repetition_penalty in prop_oneof![4 => Just(1.0), 1 => 0.8f64..1.5],
        frequency_penalty in prop_oneof![4 => Just(0.0), 1 => -1.0f64..1.0],
        ends in any::<bool>(), max_new_tokens in 1usize..100, min_new_tokens in 0usize..2,
        blocks_max in 1usize..10, match_min in 0usize..4, seed in any::<u64>(),
    ) {
        let mut model = Scripted::new(seed).with_sureness(90).with_mask(3);
        if writes_target {
            model = model.with_target(&target).with_eos(2);
        }
        let request = Request {
            min_new_tokens,
            fill: if scheduled { FillRule::LowConfidence } else { FillRule::Threshold { tau } },
            steps: NonZeroUsize::new(max_new_tokens.div_ceil(block_size)),
            sampling: Sampling {
                temperature,
                repetition_penalty,
                frequency_penalty,
                seed,
                ..Sampling::default()
            },
            eos_ids: if ends { vec![EOS] } else { vec![] },
            ..Request::new(
                vec![7; prompt_len],
                max_new_tokens,
                NonZeroUsize::new(block_size).expect("not zero"),
                MASK,
            )
        };
        let mut plain_lines = Vec::new();
        let plain = generate(&mut model.clone(), request.clone(), lines(&mut plain_lines)).unwrap();
        // If the model writes no target, the draft is what it will write, changed.
        let old = if writes_target {
            changed(target.get(prompt_len..).unwrap_or_default(), &edits)
        } else {
            changed(&plain.tokens, &edits)
        };
        let mut edit_lines = Vec::new();
        let drafting = Drafting { blocks_max, match_min, ..Drafting::default() };
        let edited = edit(&mut model, request, &old, drafting, lines(&mut edit_lines)).unwrap();

        prop_assert!(model.is_clean());
        prop_assert_eq!(&edited.tokens, &plain.tokens);
        prop_assert_eq!(edited.finish, plain.finish);
        prop_assert_eq!(edited.text_len, plain.text_len);
        prop_assert_eq!(edit_lines, plain_lines);
        prop_assert_eq!(edited.forwards, model.passes);
        prop_assert_eq!(plain.forwards - edited.forwards, edited.drafts.passes_saved);
        prop_assert!(edited.drafts.accepted_blocks <= edited.drafts.drafted_blocks);
        prop_assert!(edited.drafts.speculative_passes <= edited.forwards);
    }
}

#[test]
fn a_small_change_in_a_long_text_costs_few_passes() {
    let text: Vec<u32> = (0..400).map(|i| 6 + (i * i / 3 + i) % 17).collect();
    let mut old = text.clone();
    old[101] = 6 + (old[101] - 5) % 17;
    old.remove(230);
    old.insert(300, 9);
    let request = Request {
        fill: FillRule::Threshold { tau: 0.9 },
        ..Request::new(vec![], text.len(), NonZeroUsize::new(4).expect("not zero"), MASK)
    };
    let mut model = Scripted::new(3).with_sureness(100).with_target(&text);
    let plain = generate(&mut model.clone(), request.clone(), |_| ControlFlow::Continue(()));
    let edited =
        edit(&mut model, request, &old, Drafting::default(), |_| ControlFlow::Continue(()));
    let (plain, edited) = (plain.unwrap(), edited.unwrap());
    assert_eq!(edited.tokens, text);
    assert_eq!(plain.forwards, 100, "sure everywhere: one pass a block");
    assert!(edited.forwards <= 30, "{edited:?}");
    assert!(edited.drafts.acceptance() > 0.7, "{edited:?}");
    assert_eq!(plain.forwards - edited.forwards, edited.drafts.passes_saved);
}

#[test]
fn the_end_of_the_old_text_is_drafted_too() {
    // Ten tokens, then eos: the draft's last block is completed with eos.
    let mut text: Vec<u32> = (6..16).collect();
    let old = text.clone();
    text.extend([EOS; 10]);
    let request = Request {
        fill: FillRule::Threshold { tau: 0.9 },
        eos_ids: vec![EOS],
        ..Request::new(vec![], 20, NonZeroUsize::new(4).expect("not zero"), MASK)
    };
    let mut model = Scripted::new(3).with_sureness(100).with_target(&text);
    let edited =
        edit(&mut model, request, &old, Drafting::default(), |_| ControlFlow::Continue(()));
    let edited = edited.unwrap();
    assert_eq!(edited.tokens, text[..12]);
    assert_eq!(edited.finish, FinishReason::Eos);
    assert_eq!((edited.drafts.accepted_blocks, edited.forwards), (3, 2));
}

#[test]
fn drafts_of_no_blocks_are_refused() {
    let request = Request::new(vec![], 8, NonZeroUsize::MIN, MASK);
    let drafting = Drafting { blocks_max: 0, ..Drafting::default() };
    let refused =
        edit(&mut Scripted::new(1), request, &[], drafting, |_| ControlFlow::Continue(()));
    assert!(refused.unwrap_err().to_string().starts_with("blocks_max is 0"));
}

#[test]
fn an_autoregressive_request_is_edited_too() {
    let text: Vec<u32> = (0..60).map(|i| 6 + (i * i / 3 + i) % 17).collect();
    let request = Request { mask_id: MASK, ..Request::autoregressive(vec![7], 59) };
    let mut model = Scripted::new(3).with_sureness(100).with_target(&text);
    let go_on = |_: Event<'_>| ControlFlow::Continue(());
    let edited = edit(&mut model, request, &text[1..], Drafting::default(), go_on).unwrap();
    assert_eq!(edited.tokens, text[1..]);
    assert!(edited.forwards <= 12, "{edited:?}");
    assert_eq!(edited.forwards + edited.drafts.passes_saved, 59);
}

#[test]
fn an_edits_trace_is_plain_decodings_trace() {
    let request = Request::new(vec![6, 7], 9, NonZeroUsize::new(4).expect("not zero"), MASK);
    let mut traces = Vec::new();
    for old in [&[][..], &[8, 9, 10, 11]] {
        let mut trace = vec![Line::header(0, &request)];
        let run = edit(
            &mut Scripted::new(9),
            request.clone(),
            old,
            Drafting::default(),
            lines(&mut trace),
        );
        trace.push(Line::end(&run.unwrap()));
        traces.push(trace.iter().map(Line::to_json).collect::<String>());
    }
    assert_eq!(traces[0], traces[1]);
}

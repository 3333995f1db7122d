//! Holds what is kept between the turns of a conversation to change no answer.

use crate::support::tiny;
use lacuna_engine::{Algorithm, Attention, FinishReason, GenerateOptions, Model, Session};
use lacuna_samplers::View;
use lacuna_samplers::{Event, FillRule};
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::sync::Arc;

fn block(size: usize) -> NonZeroUsize {
    NonZeroUsize::new(size).unwrap()
}

fn remembering(model: &Model) -> Session {
    Session::new(Arc::clone(&model.transformer)).remembering()
}

fn answer(
    session: &mut Session,
    model: &Model,
    prompt: &[u32],
    options: &GenerateOptions,
) -> Vec<u32> {
    let go_on = |_: Event<'_>| ControlFlow::Continue(());
    lacuna_engine::generate_in(session, model, prompt.to_vec(), options, go_on).unwrap().tokens
}

/// Every way to decode, in blocks of several sizes.
fn ways() -> Vec<GenerateOptions> {
    let base = GenerateOptions {
        max_new_tokens: 24,
        eos_ids: Some(Vec::new()),
        fill: Some(FillRule::LowConfidence),
        allow_mode_mismatch: true,
        ..GenerateOptions::default()
    };
    let next_token = Some(Algorithm::Autoregressive);
    let mut ways = vec![GenerateOptions { algorithm: next_token, ..base.clone() }];
    for size in [1, 3, 4, 8] {
        let algorithm = Some(Algorithm::Blocks);
        let blocks = GenerateOptions { algorithm, block_size: Some(block(size)), ..base.clone() };
        let fill = Some(FillRule::Threshold { tau: 0.01 });
        ways.push(GenerateOptions { fill, ..blocks.clone() });
        ways.push(GenerateOptions { algorithm: Some(Algorithm::Reference), ..blocks.clone() });
        ways.push(blocks);
    }
    ways
}

/// Ways to decode under full and under causal attention.
fn other_attention() -> Vec<GenerateOptions> {
    let (algorithm, allow_mode_mismatch) = (Some(Algorithm::Blocks), true);
    let base = GenerateOptions {
        max_new_tokens: 24,
        eos_ids: Some(Vec::new()),
        algorithm,
        allow_mode_mismatch,
        ..GenerateOptions::default()
    };
    let mut ways = vec![GenerateOptions { attention: Some(Attention::Full), ..base.clone() }];
    for size in [1, 4, 8] {
        let attention = Some(Attention::Causal);
        ways.push(GenerateOptions { attention, block_size: Some(block(size)), ..base.clone() });
    }
    ways
}

#[test]
fn each_turn_of_a_kept_session_is_that_of_a_fresh_one_with_the_whole_conversation() {
    for name in ["tiny_tied", "tiny_untied"] {
        let model = tiny(name);
        for options in ways().into_iter().chain(other_attention()) {
            let mut kept = remembering(&model);
            let mut said: Vec<u32> = (0..19).map(|i| 40 + i * 7 % 300).collect();
            for turn in 0..4u32 {
                let here = answer(&mut kept, &model, &said, &options);
                let fresh =
                    lacuna_engine::generate(&model, said.clone(), &options, |_| {}).unwrap().tokens;
                assert_eq!(here, fresh, "{name}, turn {turn}, {options:?}");
                // A turn that ends inside of a block, on another token than was written.
                said.extend(&here[..here.len() - 5 + turn as usize]);
                said.extend((0..6 + turn).map(|i| 60 + i * 11));
            }
            // Taken back: a shorter conversation, then one that shares nothing, then one shorter than a block.
            for said in [&said[..37], &[300, 301, 302, 303, 304, 305][..], &[7][..]] {
                let fresh = lacuna_engine::generate(&model, said.to_vec(), &options, |_| {})
                    .unwrap()
                    .tokens;
                assert_eq!(answer(&mut kept, &model, said, &options), fresh, "{name}, {options:?}");
            }
        }
    }
}

#[test]
fn only_what_is_new_in_a_turn_is_read() {
    let model = tiny("tiny_untied");
    let said: Vec<u32> = (0..50).map(|i| 40 + i).collect();
    for options in ways() {
        let autoregressive = options.algorithm == Some(Algorithm::Autoregressive);
        let size = options.block_size.unwrap_or(block(1));
        let view = match autoregressive {
            true => View::Causal,
            false => View::Blocks { block_size: size },
        };
        let mut kept = remembering(&model);
        let written = answer(&mut kept, &model, &said, &options);
        let whole: Vec<u32> = said.iter().chain(&written).copied().chain([90, 91, 92]).collect();
        let held = kept.rewind(0, &whole, view).unwrap();
        let finished = said.len() + written.len();
        // The last block is written and not read: nothing came after it.
        assert!(held + 2 * size.get() >= finished, "{held} of {finished} tokens, {options:?}");
        assert!(held.is_multiple_of(size.get()));
        assert_eq!(kept.rewind(0, &whole[..10], view).unwrap(), 10 / size.get() * size.get());
    }
}

#[test]
fn an_answer_that_is_stopped_ends_with_a_finished_block_and_the_conversation_goes_on() {
    let model = tiny("tiny_untied");
    let said: Vec<u32> = (0..21).map(|i| 40 + i).collect();
    for options in ways() {
        let whole = lacuna_engine::generate(&model, said.clone(), &options, |_| {}).unwrap().tokens;
        let mut kept = remembering(&model);
        let mut passes = 0;
        let stopped =
            lacuna_engine::generate_in(&mut kept, &model, said.clone(), &options, |event| {
                passes += usize::from(matches!(event, Event::Refinement(_)));
                if passes == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
        let stopped = stopped.unwrap();
        assert_eq!(stopped.finish, FinishReason::Stop);
        assert!(stopped.tokens.len() < whole.len() && whole.starts_with(&stopped.tokens));
        let next: Vec<u32> = said.iter().chain(&stopped.tokens).copied().chain([8, 9]).collect();
        let fresh = lacuna_engine::generate(&model, next.clone(), &options, |_| {}).unwrap().tokens;
        assert_eq!(answer(&mut kept, &model, &next, &options), fresh, "{options:?}");
    }
}

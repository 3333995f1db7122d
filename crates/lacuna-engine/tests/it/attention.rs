//! Decodes under full and under causal attention, and compares with loops that read the whole text so far in every pass
//! and keep nothing of it.

use crate::support::tiny;
use candle_core::DType;
use lacuna_engine::{
    Algorithm, Attention, Completion, DraftSource, Engine, EngineOptions, Event, GenerateOptions,
    Model, Plan, Resolved, Sampling, edit, generate,
};
use lacuna_model::{AttentionMask, Batch, Predicts, Sequence, Transformer};
use lacuna_samplers::trace::{Line, Trace};
use lacuna_samplers::{FillRule, View};
use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Arc;

const MASK: u32 = 5;

/// A tiny model that says it was trained so.
fn model(attention: Attention, predicts: Predicts) -> Model {
    let mut model = tiny("tiny_untied");
    let mut transformer = Transformer::clone(&model.transformer);
    transformer.set_attention(attention);
    transformer.set_predicts(predicts);
    model.transformer = Arc::new(transformer);
    model
}

fn prompt(n: usize) -> Vec<u32> {
    (0..n as u32).map(|i| 40 + (i * 37 + n as u32 * 11) % 400).collect()
}

fn options(new: usize, fill: FillRule) -> GenerateOptions {
    GenerateOptions {
        max_new_tokens: new,
        fill: Some(fill),
        eos_ids: Some(Vec::new()),
        ..GenerateOptions::default()
    }
}

/// A canvas that is filled block by block at temperature 0, every pass reading all of it up to the open block's end.
struct ByHand<'a> {
    model: &'a Model,
    mask: AttentionMask,
    block: usize,
    fill: FillRule,
    /// Refinements of a block, for rules that follow a schedule.
    steps: Option<usize>,
}

impl ByHand<'_> {
    /// The new tokens, and the passes that they took.
    fn decode(&self, prompt: &[u32], new: usize) -> (Vec<u32>, usize) {
        let (total, mut text, mut passes) = (prompt.len() + new, prompt.to_vec(), 0);
        let mut start = prompt.len() / self.block * self.block;
        while start < total {
            let end = (start + self.block).min(total);
            text.resize(end, MASK);
            let mut holes: Vec<usize> = (start.max(prompt.len())..end).collect();
            let (masked, steps) = (holes.len(), self.steps.unwrap_or(self.block));
            let mut refinement = 0;
            while !holes.is_empty() {
                let mut ranked = self.candidates(&text, &holes);
                passes += 1;
                ranked.sort_by(|a, b| b.2.total_cmp(&a.2).then(a.0.cmp(&b.0)));
                let count = match self.fill {
                    FillRule::Threshold { tau } => ranked.iter().filter(|c| c.2 >= tau).count(),
                    _ => masked / steps + usize::from(refinement < masked % steps),
                };
                for (position, token, _) in &ranked[..count.clamp(1, ranked.len())] {
                    text[*position] = *token;
                    holes.retain(|hole| hole != position);
                }
                refinement += 1;
            }
            start = end;
        }
        (text.split_off(prompt.len()), passes)
    }

    /// Position, most probable token but MASK, and its probability, for each hole.
    fn candidates(&self, text: &[u32], holes: &[usize]) -> Vec<(usize, u32, f64)> {
        let transformer = &self.model.transformer;
        let row = |hole: &usize| match transformer.config().predicts {
            Predicts::Same => *hole as u32,
            Predicts::Next => *hole as u32 - 1,
        };
        let wanted: Vec<u32> = holes.iter().map(row).collect();
        let read = Sequence { tokens: text, wanted: Some(&wanted), ..Sequence::default() };
        let hidden = transformer.forward(&Batch::of(read, self.mask).unwrap()).unwrap();
        let logits = transformer.logits(&hidden).unwrap().to_dtype(DType::F64).unwrap();
        let candidate = |(hole, logits): (&usize, &Vec<f64>)| {
            let ids = (0..logits.len()).filter(|id| *id != MASK as usize);
            let best = ids.max_by(|a, b| logits[*a].total_cmp(&logits[*b]).then(b.cmp(a))).unwrap();
            let sum: f64 = logits.iter().map(|logit| (logit - logits[best]).exp()).sum();
            (*hole, best as u32, 1.0 / sum)
        };
        holes.iter().zip(&logits.to_vec2::<f64>().unwrap()).map(candidate).collect()
    }
}

#[test]
fn a_full_canvas_is_decoded_as_a_loop_over_all_of_it_does() {
    for predicts in [Predicts::Same, Predicts::Next] {
        let model = model(Attention::Full, predicts);
        for (length, new, fill, steps) in [
            (9, 12, FillRule::LowConfidence, None),
            (1, 7, FillRule::LowConfidence, Some(3)),
            (30, 20, FillRule::LowConfidence, Some(20)),
            (16, 16, FillRule::Threshold { tau: 0.02 }, None),
            (5, 40, FillRule::Threshold { tau: 0.9 }, None),
        ] {
            let options =
                GenerateOptions { steps: steps.and_then(NonZeroUsize::new), ..options(new, fill) };
            let prompt = prompt(length);
            let written = generate(&model, prompt.clone(), &options, |_| {}).unwrap();
            let block = length + new;
            let by_hand = ByHand { model: &model, mask: AttentionMask::Full, block, fill, steps };
            let expected = by_hand.decode(&prompt, new);
            let case = format!("{predicts:?}, {length} and {new}, {fill}, {steps:?}");
            assert_eq!((written.tokens, written.forwards), expected, "{case}");
            assert_eq!(written.attention, Some(Attention::Full));
        }
    }
}

#[test]
fn an_end_of_text_in_a_canvas_ends_the_text_where_a_loop_would_cut_it() {
    let model = model(Attention::Full, Predicts::Same);
    let (prompt, fill) = (prompt(12), FillRule::LowConfidence);
    let by_hand = ByHand { model: &model, mask: AttentionMask::Full, block: 28, fill, steps: None };
    let (tokens, passes) = by_hand.decode(&prompt, 16);
    for end in [tokens[2], tokens[9]] {
        let options = GenerateOptions { eos_ids: Some(vec![end]), ..options(16, fill) };
        let written = generate(&model, prompt.clone(), &options, |_| {}).unwrap();
        let at = tokens.iter().position(|token| *token == end).unwrap();
        assert_eq!(written.tokens[..written.text_len], tokens[..at]);
        assert!(written.tokens[at..].iter().all(|token| *token == end));
        assert!(written.forwards <= passes);
    }
}

#[test]
fn causal_blocks_are_decoded_as_a_loop_under_the_causal_mask_does() {
    for predicts in [Predicts::Same, Predicts::Next] {
        let model = model(Attention::Causal, predicts);
        for (length, new, block, fill) in [
            (9, 12, 1, FillRule::LowConfidence),
            (9, 13, 4, FillRule::LowConfidence),
            (8, 16, 8, FillRule::Threshold { tau: 0.02 }),
            (3, 20, 32, FillRule::Threshold { tau: 0.05 }),
            (21, 30, 5, FillRule::Threshold { tau: 0.9 }),
        ] {
            let options =
                GenerateOptions { block_size: NonZeroUsize::new(block), ..options(new, fill) };
            let prompt = prompt(length);
            let written = generate(&model, prompt.clone(), &options, |_| {}).unwrap();
            let mask = AttentionMask::Causal;
            let by_hand = ByHand { model: &model, mask, block, fill, steps: None };
            let expected = by_hand.decode(&prompt, new);
            let case = format!("{predicts:?}, {length} and {new} in blocks of {block}, {fill}");
            assert_eq!((written.tokens, written.forwards), expected, "{case}");
            assert_eq!(written.attention, Some(Attention::Causal));
        }
    }
}

/// The n-th of requests of every attention, length and block size.
fn mixed(n: usize) -> (Vec<u32>, GenerateOptions) {
    let attention = Attention::ALL[n % 3];
    let blocks = attention != Attention::Full;
    let options = GenerateOptions {
        attention: Some(attention),
        block_size: NonZeroUsize::new([4, 1, 8][n / 3 % 3]).filter(|_| blocks),
        sampling: Sampling {
            temperature: [0.0, 0.9][n / 2 % 2],
            seed: n as u64,
            ..Sampling::default()
        },
        ..options(7 + 2 * n, FillRule::Threshold { tau: 0.05 })
    };
    (prompt(3 + 2 * n), options)
}

#[test]
fn requests_of_every_attention_share_passes_and_each_gets_what_it_gets_alone() {
    let model = model(Attention::BlockCausal, Predicts::Same);
    let mut engine = Engine::new(&model, EngineOptions::default());
    let requests: Vec<_> = (0..12).map(mixed).collect();
    for (prompt, options) in &requests {
        engine.push(Resolved::new(&model, prompt.clone(), options).unwrap()).unwrap();
    }
    let mut written: BTreeMap<_, Completion> = BTreeMap::new();
    while !engine.is_empty() {
        for event in engine.step() {
            match event {
                Event::Finished { id, completion } => drop(written.insert(id, completion)),
                Event::Failed { error, .. } => panic!("{error}"),
                _ => {}
            }
        }
    }
    assert_eq!(written.len(), requests.len());
    for ((prompt, options), together) in requests.iter().zip(written.values()) {
        let alone = generate(&model, prompt.clone(), options, |_| {}).unwrap();
        assert_eq!(together.tokens, alone.tokens, "{options:?}");
        assert_eq!(together.attention, options.attention);
    }
}

#[test]
fn what_was_read_of_a_prompt_serves_another_that_begins_so_under_every_attention() {
    let model = model(Attention::BlockCausal, Predicts::Same);
    for n in 0..9 {
        let (begin, options) = mixed(n);
        let mut engine = Engine::new(&model, EngineOptions::default()).remembering(1 << 30);
        let mut expected = Vec::new();
        for more in [0, 1, 6] {
            let whole: Vec<u32> = begin.iter().copied().chain(prompt(20 + more)).collect();
            let request = Resolved::new(&model, whole.clone(), &options).unwrap();
            let mut reading = engine.begin(request, Some(1)).unwrap();
            expected.push(generate(&model, whole, &options, |_| {}).unwrap().tokens);
            while !engine.read(&mut reading, NonZeroUsize::new(3).unwrap()).unwrap() {}
            engine.join(reading).unwrap();
            let mut found = None;
            while !engine.is_empty() {
                for event in engine.step() {
                    match event {
                        Event::Finished { completion, .. } => found = Some(completion.tokens),
                        Event::Failed { error, .. } => panic!("{error}"),
                        _ => {}
                    }
                }
            }
            assert_eq!(found.as_ref(), expected.last(), "{options:?}");
        }
    }
}

#[test]
fn drafts_change_no_token_of_causal_blocks() {
    let model = model(Attention::Causal, Predicts::Same);
    let mut accepted = 0;
    for (n, block) in [1, 4, 4, 3].into_iter().enumerate() {
        let options = GenerateOptions {
            block_size: NonZeroUsize::new(block),
            ..options(48, FillRule::Threshold { tau: 0.02 })
        };
        let plain = generate(&model, prompt(10 + n), &options, |_| {}).unwrap();
        let mut old = plain.tokens.clone();
        old[30] = 77;
        let edited = edit(&model, prompt(10 + n), &old, &options, |_| {}).unwrap();
        assert_eq!(edited.tokens, plain.tokens, "blocks of {block}");
        assert_eq!(edited.forwards + edited.drafts.passes_saved, plain.forwards);
        accepted += edited.drafts.accepted_blocks;

        // A text that repeats itself, so that something is found.
        let again: Vec<u32> = [&prompt(8)[..], &plain.tokens, &prompt(8)].concat();
        let lookup = GenerateOptions { drafts: Some(DraftSource::Lookup), ..options.clone() };
        let plain = generate(&model, again.clone(), &options, |_| {}).unwrap();
        let found = generate(&model, again, &lookup, |_| {}).unwrap();
        assert_eq!(found.tokens, plain.tokens, "blocks of {block}");
        assert_eq!(found.forwards + found.drafts.passes_saved, plain.forwards);
    }
    assert!(accepted > 20, "{accepted} drafted blocks came true");
}

#[test]
fn attention_is_as_asked_for_else_as_trained_and_contradictions_are_refused() {
    let full = model(Attention::Full, Predicts::Same);
    let four = NonZeroUsize::new(4);
    let plan = |model: &Model, options: &GenerateOptions| -> Result<(Attention, View), String> {
        let resolved = Resolved::new(model, prompt(9), options).map_err(|e| e.to_string())?;
        match resolved.plan {
            Plan::Blocks(request) => Ok((resolved.attention, request.view)),
            other => panic!("{other:?}"),
        }
    };
    let default = GenerateOptions { max_new_tokens: 7, ..GenerateOptions::default() };
    let canvas = View::Blocks { block_size: NonZeroUsize::new(16).unwrap() };
    assert_eq!(plan(&full, &default), Ok((Attention::Full, canvas)));
    // As the paper's Fig. 2 decodes models of full attention: in blocks of any size.
    let blocks = GenerateOptions { block_size: four, ..default.clone() };
    let view = View::Blocks { block_size: four.unwrap() };
    assert_eq!(plan(&full, &blocks), Ok((Attention::BlockCausal, view)));
    let asked = |attention| GenerateOptions { attention: Some(attention), ..blocks.clone() };
    let view = View::CausalBlocks { block_size: four.unwrap() };
    assert_eq!(plan(&full, &asked(Attention::Causal)), Ok((Attention::Causal, view)));
    let refused = plan(&full, &asked(Attention::Full)).unwrap_err();
    assert!(refused.contains("`block_size` 4") && refused.contains("one block"), "{refused}");

    let lookup = GenerateOptions { drafts: Some(DraftSource::Lookup), ..default.clone() };
    let refused = plan(&full, &lookup).unwrap_err();
    assert!(refused.contains("full attention"), "{refused}");
    let refused = edit(&full, prompt(9), &prompt(5), &default, |_| {}).unwrap_err().to_string();
    assert!(refused.contains("full attention"), "{refused}");
    let reference =
        GenerateOptions { algorithm: Some(Algorithm::Reference), ..GenerateOptions::default() };
    let refused = Resolved::new(&full, prompt(9), &reference).unwrap_err().to_string();
    assert!(refused.contains("block-causally"), "{refused}");
    let algorithm = Some(Algorithm::Autoregressive);
    let token_by_token =
        GenerateOptions { algorithm, allow_mode_mismatch: true, ..default.clone() };
    assert!(Resolved::new(&full, prompt(9), &token_by_token).is_ok());
    let asked = GenerateOptions { attention: Some(Attention::Full), ..token_by_token };
    let refused = Resolved::new(&full, prompt(9), &asked).unwrap_err().to_string();
    assert!(refused.contains("token by token"), "{refused}");
}

#[test]
fn a_trace_says_the_attention_and_replays() {
    for attention in Attention::ALL {
        let model = model(attention, Predicts::Same);
        let options = options(18, FillRule::Threshold { tau: 0.05 });
        let resolved = Resolved::new(&model, prompt(7), &options).unwrap();
        let mut trace = Trace { lines: vec![resolved.trace_header().unwrap()] };
        let written =
            generate(&model, prompt(7), &options, |event| trace.lines.push(Line::from(event)));
        let written = written.unwrap();
        trace.lines.push(written.trace_end());
        let text = trace.to_jsonl();
        let told = format!("\"attention\":\"{attention}\"");
        assert_eq!(text.contains(&told), attention != Attention::BlockCausal, "{text}");
        assert_eq!(Trace::parse(&text).unwrap(), trace);
        assert_eq!(trace.replay().unwrap()[0].tokens, written.tokens);
    }
}

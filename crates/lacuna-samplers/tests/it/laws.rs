//! Holds block decoding to its laws, over a denoiser whose logits depend on everything a position
//! may see.

use crate::scripted::go_on;
use crate::scripted::size;
use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;

use crate::scripted::{EOS, MASK, Scripted, VOCAB};
use lacuna_samplers::reference::{self, Remasking, Settings};
use lacuna_samplers::{
    Candidate, Decoder, Error, Event, FillRule, FinishReason, Generation, Refinement, Request,
    Sampling, generate, generate_batch, quota,
};
use proptest::prelude::*;

fn rules() -> impl Strategy<Value = FillRule> {
    prop_oneof![
        Just(FillRule::LowConfidence),
        (0.0f64..=1.0).prop_map(|tau| FillRule::Threshold { tau }),
        (0.0f64..3.0).prop_map(|factor| FillRule::Factor { factor }),
        (0.0f64..4.0).prop_map(|gamma| FillRule::EntropyBounded { gamma }),
        Just(FillRule::Margin),
        Just(FillRule::Entropy),
        Just(FillRule::LeftToRight),
        Just(FillRule::Random),
    ]
}

/// Any id of the vocabulary, MASK and eos among them.
fn prompts() -> impl Strategy<Value = Vec<u32>> {
    prop::collection::vec(0..VOCAB as u32, 0..20)
}

prop_compose! {
    fn samplings()(
        temperature in prop_oneof![Just(0.0), 0.1f64..2.0],
        top_k in prop::option::of(1usize..VOCAB),
        top_p in prop::option::of(0.3f64..=1.0),
        repetition_penalty in prop_oneof![3 => Just(1.0), 1 => 0.8f64..1.5],
        (frequency_penalty, presence_penalty) in
            prop_oneof![3 => Just((0.0, 0.0)), 1 => (-1.0f64..1.0, -1.0f64..1.0)],
        seed in any::<u64>(),
    ) -> Sampling {
        Sampling {
            temperature,
            top_k: top_k.and_then(NonZeroUsize::new),
            top_p,
            min_p: None,
            repetition_penalty,
            frequency_penalty,
            presence_penalty,
            seed,
        }
    }
}

prop_compose! {
    pub(crate) fn requests()(
        prompt in prompts(),
        (max_new_tokens, min_share) in (1usize..30, 0.0f64..1.0),
        block_size in prop_oneof![Just(1usize), Just(2), Just(4), Just(7), Just(8), Just(32)],
        steps in prop::option::of(1usize..40),
        fill in rules(),
        sampling in samplings(),
        eos in any::<bool>(),
        stop in prop::option::weighted(0.2, 6u32..VOCAB as u32),
    ) -> Request {
        Request {
            min_new_tokens: (min_share * max_new_tokens as f64 * 0.5) as usize,
            steps: steps.and_then(NonZeroUsize::new),
            fill,
            sampling,
            eos_ids: if eos { vec![EOS] } else { vec![] },
            stop_ids: stop.into_iter().collect(),
            ..Request::new(prompt, max_new_tokens, size(block_size), MASK)
        }
    }
}

/// Everything an observer saw of one request.
#[derive(Default)]
struct Log {
    refinements: Vec<Refinement>,
    blocks: Vec<(usize, Vec<u32>, Option<FinishReason>)>,
}

impl Log {
    fn watch(&mut self) -> impl FnMut(Event<'_>) -> ControlFlow<usize> {
        |event| {
            match event {
                Event::Refinement(refinement) => self.refinements.push(refinement.clone()),
                Event::Block(block) => {
                    self.blocks.push((block.block_start, block.tokens.to_vec(), block.finish));
                }
            }
            ControlFlow::Continue(())
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_position_is_filled_exactly_once_and_decoding_ends(
        request in requests(), seed in any::<u64>(), eos_percent in 0u64..20,
    ) {
        let mut model = Scripted::new(seed).with_eos(eos_percent).with_mask(10);
        let mut log = Log::default();
        let generation = generate(&mut model, request.clone(), log.watch()).unwrap();
        prop_assert!(model.is_clean());

        let prompt_len = request.prompt.len();
        let mut filled: BTreeMap<usize, u32> = BTreeMap::new();
        for refinement in &log.refinements {
            prop_assert!(!refinement.filled.is_empty(), "a refinement filled nothing");
            for candidate in &refinement.candidates {
                prop_assert!(candidate.position >= prompt_len);
                prop_assert!(!filled.contains_key(&candidate.position), "proposed where filled");
                prop_assert!(candidate.confidence > 0.0 && candidate.confidence <= 1.0);
            }
            for position in &refinement.filled {
                let at = refinement.candidates.iter().find(|c| c.position == *position);
                prop_assert!(filled.insert(*position, at.unwrap().token).is_none());
            }
        }
        let Generation { tokens, text_len, finish, forwards, blocks, .. } = generation;
        prop_assert_eq!(forwards, log.refinements.len());
        prop_assert_eq!(forwards, model.passes);
        prop_assert_eq!(blocks, log.blocks.len());
        prop_assert_eq!(model.commits, blocks - 1, "one commit a block, none for the last");
        prop_assert!(!tokens.contains(&MASK));
        prop_assert!(tokens.len() <= request.max_new_tokens && text_len <= tokens.len());
        prop_assert_eq!(&log.blocks.iter().flat_map(|b| b.1.clone()).collect::<Vec<_>>(), &tokens);
        for (index, token) in tokens[..text_len].iter().enumerate() {
            prop_assert_eq!(filled.get(&(prompt_len + index)), Some(token));
            prop_assert!(!request.eos_ids.contains(token) && !request.stop_ids.contains(token));
        }
        match finish {
            FinishReason::Length => prop_assert_eq!(text_len, request.max_new_tokens),
            FinishReason::Eos => {
                prop_assert!(tokens[text_len..].iter().all(|&token| token == EOS));
                let end = prompt_len + tokens.len();
                prop_assert!(end.is_multiple_of(request.block_size().get())
                    || tokens.len() == request.max_new_tokens, "eos fills its block");
                prop_assert!(text_len >= request.min_new_tokens);
            }
            FinishReason::Stop => {
                prop_assert_eq!(text_len + 1, tokens.len());
                prop_assert!(request.stop_ids.contains(&tokens[text_len]));
                prop_assert!(text_len >= request.min_new_tokens);
            }
        }
    }

    #[test]
    fn every_pass_sees_exactly_what_was_committed(
        request in requests(), seed in any::<u64>(),
    ) {
        let mut model = Scripted::new(seed).with_eos(5);
        let mut log = Log::default();
        generate(&mut model, request.clone(), log.watch()).unwrap();
        let mut canvas = request.prompt.clone();
        let mut blocks = log.blocks.iter().peekable();
        for (refinement, (_, committed, block)) in log.refinements.iter().zip(&model.seen) {
            while let Some((_, tokens, _)) = blocks.next_if(|b| b.0 < refinement.block_start) {
                canvas.extend(tokens);
            }
            // An uncached denoiser would see the whole text so far: it is the cached one's.
            prop_assert_eq!(committed, &canvas[..refinement.block_start]);
            let clean = canvas.len() - refinement.block_start;
            prop_assert_eq!(&block[..clean], &canvas[refinement.block_start..]);
            let end = (refinement.block_start + request.block_size().get())
                .min(request.prompt.len() + request.max_new_tokens);
            prop_assert_eq!(refinement.block_start + block.len(), end);
        }
    }

    #[test]
    fn a_batch_gives_each_request_the_tokens_it_gets_alone(
        requests in prop::collection::vec((requests(), 0usize..6), 1..7), seed in any::<u64>(),
    ) {
        let mut alone = Vec::new();
        for (number, (request, _)) in requests.iter().enumerate() {
            let mut model = Scripted::new(seed).with_eos(6).with_mask(6);
            let generation = generate(&mut model, request.clone(), go_on).unwrap();
            alone.push(Generation { request: number, ..generation });
        }
        let mut model = Scripted::new(seed).with_eos(6).with_mask(6);
        let plain = requests.iter().map(|(request, _)| request.clone());
        let together = generate_batch(&mut model, plain, go_on);
        let together: Vec<_> = together.into_iter().collect::<Result<_, _>>().unwrap();
        prop_assert_eq!(&together, &alone);
        prop_assert!(model.is_clean());
        prop_assert_eq!(model.passes, alone.iter().map(|g| g.forwards).max().unwrap());

        // And when they join while others are under way.
        let mut decoder = Decoder::new();
        let mut joined = Vec::new();
        for (request, wait) in &requests {
            decoder.push(request.clone()).unwrap();
            for _ in 0..*wait {
                joined.extend(decoder.step(&mut model, go_on).finished);
            }
        }
        while !decoder.is_empty() {
            joined.extend(decoder.step(&mut model, go_on).finished);
        }
        joined.sort_by_key(|generation| generation.request);
        prop_assert_eq!(&joined, &alone);
    }

    #[test]
    fn fused_equals_reference_whenever_reference_fills_every_block(
        prompt in prop::collection::vec(6..VOCAB as u32, 0..20),
        block_length in prop_oneof![Just(1usize), Just(2), Just(4), Just(8), Just(16)],
        blocks in 1usize..6, steps_per_block in 1usize..20,
        threshold in prop::option::of(0.0f64..=1.0),
        eos in prop::option::of(Just(EOS)),
        temperature in prop_oneof![3 => Just(0.0), 1 => 0.1f64..1.5],
        seed in any::<u64>(), eos_percent in 0u64..10, mask_percent in 0u64..10,
    ) {
        let model = Scripted::new(seed).with_eos(eos_percent).with_mask(mask_percent);
        let settings = Settings {
            steps: steps_per_block * blocks,
            threshold,
            temperature,
            eos_id: eos,
            forbid_mask: true,
            seed,
            ..Settings::new(blocks * block_length, block_length, MASK)
        };
        let mut released = model.clone();
        let output = match reference::generate(&mut released, &prompt, &settings, go_on) {
            Ok(output) => output,
            Err(error) => {
                let is_short = matches!(error, Error::MasksLeft { left, .. } if left > 0);
                prop_assert!(is_short && threshold.is_some(), "{}", error);
                return Ok(());
            }
        };
        prop_assert!(released.is_clean());
        prop_assert_eq!(output.nfe, released.passes + released.commits);
        if output.masks_left > 0 {
            return Ok(());
        }
        let request = Request {
            steps: NonZeroUsize::new(settings.steps),
            fill: threshold.map_or(FillRule::LowConfidence, |tau| FillRule::Threshold { tau }),
            sampling: Sampling { temperature, seed, ..Sampling::default() },
            eos_ids: eos.into_iter().collect(),
            ..Request::new(prompt.clone(), settings.gen_length, size(block_length), MASK)
        };
        let mut fused = model;
        let generation = generate(&mut fused, request, go_on).unwrap();
        prop_assert_eq!(&generation.tokens, output.tokens());
        prop_assert_eq!(generation.finish, output.finish);
        if output.finish == FinishReason::Length {
            let filled = (prompt.len() + settings.gen_length).div_ceil(block_length)
                - prompt.len() / block_length;
            prop_assert_eq!(generation.forwards, output.nfe - filled, "B/d, not B/(d + 1)");
        } else {
            prop_assert!(generation.forwards <= released.passes, "eos may end a block early");
        }
    }

    #[test]
    fn static_passes_are_as_predicted(
        prompt in prompts(), block_length in 1usize..10, blocks in 1usize..6,
        steps_per_block in 1usize..12, seed in any::<u64>(),
    ) {
        let gen_length = block_length * blocks;
        let request = Request {
            steps: NonZeroUsize::new(steps_per_block * blocks),
            ..Request::new(prompt.clone(), gen_length, size(block_length), MASK)
        };
        let generation = generate(&mut Scripted::new(seed), request, go_on).unwrap();
        let (mut position, end) = (prompt.len(), prompt.len() + gen_length);
        let mut expected = 0;
        while position < end {
            let block_end = ((position / block_length + 1) * block_length).min(end);
            expected += steps_per_block.min(block_end - position);
            position = block_end;
        }
        prop_assert_eq!(generation.forwards, expected);
    }

    #[test]
    fn the_reference_ends_and_counts_its_passes(
        prompt in prompts(), block_length in 1usize..9, blocks in 1usize..5,
        steps_per_block in 1usize..9, threshold in prop::option::of(0.0f64..=1.0),
        random in any::<bool>(), seed in any::<u64>(),
    ) {
        let mut model = Scripted::new(seed).with_mask(15);
        let settings = Settings {
            steps: steps_per_block * blocks,
            threshold,
            remasking: if random { Remasking::Random } else { Remasking::LowConfidence },
            ..Settings::new(blocks * block_length, block_length, MASK)
        };
        let result = reference::generate(&mut model, &prompt, &settings, go_on);
        prop_assert!(model.is_clean());
        if let Ok(output) = result {
            prop_assert_eq!(output.nfe, model.passes + model.commits);
            prop_assert_eq!(output.ids.len(), prompt.len() + settings.gen_length);
            // A block is full, or nothing comes after it. The prompt's own MASK ids may be filled.
            let last = (output.ids.len() - 1) / block_length * block_length;
            prop_assert!(!output.ids[prompt.len().min(last)..last].contains(&MASK));
            prop_assert_eq!(&output.ids[..prompt.len() / block_length * block_length],
                &prompt[..prompt.len() / block_length * block_length]);
        }
    }

    #[test]
    fn schedules_fill_every_mask_and_never_more_later(masked in 0usize..70, steps in 1usize..80) {
        let quotas: Vec<usize> = (0..steps).map(|j| quota(masked, steps, j)).collect();
        prop_assert_eq!(quotas.iter().sum::<usize>(), masked);
        prop_assert!(quotas.is_sorted_by(|a, b| a >= b));
    }
}

fn candidates() -> impl Strategy<Value = Vec<Candidate>> {
    // Coarse values, so that ties are common.
    prop::collection::vec((0u32..=10, 0u32..=10, 0u32..=10, 0u32..=10), 1..12).prop_map(|all| {
        let unit = |x: u32| f64::from(x) / 10.0;
        let candidate = |(index, (c, m, h, u))| Candidate {
            position: 40 + index,
            token: 7,
            confidence: unit(c),
            margin: unit(m),
            entropy: unit(h) * 3.0,
            uniform: unit(u),
        };
        all.into_iter().enumerate().map(candidate).collect()
    })
}

/// All subsets of 0..n, as sorted vectors.
fn subsets(n: usize) -> impl Iterator<Item = Vec<usize>> {
    (0u32..1 << n).map(move |bits| (0..n).filter(|i| bits >> i & 1 == 1).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn every_rule_fills_at_least_one(all in candidates(), rule in rules(), k in 0usize..20) {
        let chosen = rule.select(&all, k);
        prop_assert!(!chosen.is_empty() && chosen.len() <= all.len());
        prop_assert!(chosen.is_sorted_by(|a, b| a < b) && *chosen.last().unwrap() < all.len());
    }

    /// The largest set in which every token, ranked within the set, passes its own bar.
    #[test]
    fn factor_equals_brute_force(all in candidates(), factor in 0.0f64..3.0) {
        let chosen = FillRule::Factor { factor }.select(&all, 1);
        let holds = |subset: &Vec<usize>| {
            let mut falling: Vec<f64> = subset.iter().map(|&i| all[i].confidence).collect();
            falling.sort_by(|a, b| b.total_cmp(a));
            falling.iter().zip(1u32..).all(|(c, n)| n == 1 || *c >= 1.0 - factor / f64::from(n + 1))
        };
        let largest = subsets(all.len()).filter(holds).map(|s| s.len()).max().unwrap();
        prop_assert_eq!(chosen.len(), largest);
        prop_assert!(is_top(&all, &chosen, |c| c.confidence));
    }

    /// The largest set with ΣH − max H ≤ γ.
    #[test]
    fn entropy_bounded_equals_brute_force(all in candidates(), gamma in 0.0f64..6.0) {
        let chosen = FillRule::EntropyBounded { gamma }.select(&all, 1);
        let holds = |subset: &Vec<usize>| {
            let mut rising: Vec<f64> = subset.iter().map(|&i| all[i].entropy).collect();
            rising.sort_by(f64::total_cmp);
            rising.pop();
            rising.iter().sum::<f64>() <= gamma
        };
        let largest = subsets(all.len()).filter(holds).map(|s| s.len()).max().unwrap();
        prop_assert_eq!(chosen.len(), largest);
        prop_assert!(is_top(&all, &chosen, |c| -c.entropy));
    }

    #[test]
    fn threshold_equals_its_definition(all in candidates(), tau in 0.0f64..=1.0) {
        let chosen = FillRule::Threshold { tau }.select(&all, 1);
        let best = all.iter().map(|c| c.confidence).fold(0.0, f64::max);
        let first = all.iter().position(|c| c.confidence == best).unwrap();
        let expected: Vec<usize> =
            (0..all.len()).filter(|&i| i == first || all[i].confidence >= tau).collect();
        prop_assert_eq!(chosen, expected);
    }

    #[test]
    fn scheduled_rules_fill_the_quota_of_the_best(all in candidates(), k in 1usize..12) {
        for (rule, rank) in [
            (FillRule::LowConfidence, (|c| c.confidence) as fn(&Candidate) -> f64),
            (FillRule::Margin, |c| c.margin),
            (FillRule::Entropy, |c| -c.entropy),
            (FillRule::Random, |c| c.uniform),
            (FillRule::LeftToRight, |c| -(c.position as f64)),
        ] {
            let chosen = rule.select(&all, k);
            prop_assert_eq!(chosen.len(), k.min(all.len()));
            prop_assert!(is_top(&all, &chosen, rank), "{}", rule);
        }
    }

    #[test]
    fn rules_survive_being_written(rule in rules()) {
        prop_assert_eq!(rule.to_string().parse::<FillRule>().unwrap(), rule);
    }
}

/// Nothing outside ranks above anything inside; where ranks are equal, the lower positions are in.
fn is_top(all: &[Candidate], chosen: &[usize], rank: impl Fn(&Candidate) -> f64) -> bool {
    let outside = (0..all.len()).filter(|i| !chosen.contains(i));
    outside.into_iter().all(|out| {
        chosen.iter().all(|&inside| {
            let (out, inside) = (&all[out], &all[inside]);
            rank(inside) > rank(out)
                || (rank(inside) == rank(out) && inside.position < out.position)
        })
    })
}

#[test]
fn lower_entropy_ranks_first() {
    let candidate = |position, entropy| Candidate {
        position,
        token: 1,
        confidence: 0.5,
        margin: 0.0,
        entropy,
        uniform: 0.0,
    };
    let all = [candidate(0, 2.0), candidate(1, 0.1), candidate(2, 1.0)];
    assert_eq!(FillRule::Entropy.select(&all, 1), [1]);
    assert_eq!(FillRule::Entropy.select(&all, 2), [1, 2]);
    assert_eq!(FillRule::EntropyBounded { gamma: 0.2 }.select(&all, 1), [1, 2]);
}

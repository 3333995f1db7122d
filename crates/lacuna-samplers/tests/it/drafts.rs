//! Holds drafts that are looked up to decide nothing differently, alone and in a batch; they only save passes.

use std::num::NonZeroUsize;
use std::ops::ControlFlow;

use crate::laws::requests;
use crate::scripted::{EOS, Failing, MASK, Scripted, VOCAB, go_on};
use lacuna_samplers::trace::Line;
use lacuna_samplers::{
    Decoder, Drafter, Drafting, Event, FillRule, Generation, Guidance, Request, Step, View,
    generate, generate_with,
};
use proptest::prelude::*;

fn limits() -> impl Strategy<Value = Drafting> {
    let row_cost = prop_oneof![Just(1e-3), Just(0.04), Just(0.14), Just(0.9)];
    (1usize..20, 0usize..9, row_cost).prop_map(|(blocks_max, match_min, row_cost)| Drafting {
        blocks_max,
        match_min,
        row_cost,
    })
}

/// Drafts that are looked up in the request and in other texts.
fn lookup(texts: &[Vec<u32>], limits: Drafting) -> Guidance {
    Guidance { drafter: Some(Drafter::lookup(texts, limits).unwrap()), ..Guidance::default() }
}

/// A text with a period, so that looking up finds something.
fn periodic(period: &[u32], length: usize) -> Vec<u32> {
    period.iter().copied().cycle().take(length).collect()
}

/// The same, without what drafts are allowed to change.
fn plain(generation: Generation) -> Generation {
    Generation { forwards: 0, drafts: Default::default(), ..generation }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn lookup_gives_the_tokens_and_the_refinements_of_plain_decoding(
        request in requests(), causal in any::<bool>(), limits in limits(),
        period in prop::collection::vec(6..VOCAB as u32, 1..9), sure in 60u64..=100,
        texts in prop::collection::vec(prop::collection::vec(0..VOCAB as u32, 0..30), 0..3),
        stop_at in prop::option::of(0usize..12), seed in any::<u64>(), longer in 0usize..80,
    ) {
        let mut request = request;
        request.max_new_tokens += longer;
        if causal && !request.prompt.is_empty() {
            request.view = View::Causal;
        }
        let target = periodic(&period, request.prompt.len() + request.max_new_tokens);
        let mut model =
            Scripted::new(seed).with_target(&target).with_sureness(sure).with_eos(1).with_mask(2);
        // Someone may stop it at any event.
        let watch = |lines: &mut Vec<Line>, event: Event<'_>| {
            lines.push(event.into());
            match stop_at {
                Some(at) if lines.len() > at => ControlFlow::Break(at),
                _ => ControlFlow::Continue(()),
            }
        };
        let mut expected = Vec::new();
        let without = generate(&mut model.clone(), request.clone(), |event| {
            watch(&mut expected, event)
        }).unwrap();
        let mut lines = Vec::new();
        let drafter = lookup(&texts, limits);
        let with = generate_with(&mut model, request, drafter, |event| {
            watch(&mut lines, event)
        }).unwrap();
        prop_assert!(model.is_clean());
        prop_assert_eq!(lines, expected);
        prop_assert_eq!(with.forwards, model.passes);
        prop_assert_eq!(with.forwards + with.drafts.passes_saved, without.forwards);
        prop_assert!(with.drafts.accepted_blocks <= with.drafts.drafted_blocks);
        prop_assert_eq!(plain(with), plain(without));
    }

    #[test]
    fn drafts_of_a_batch_give_each_request_what_it_gets_alone(
        all in prop::collection::vec((requests(), any::<bool>(), any::<bool>()), 1..6),
        period in prop::collection::vec(6..VOCAB as u32, 1..6), limits in limits(),
        seed in any::<u64>(), failing in prop::option::of((0usize..6, 0usize..20)),
    ) {
        let target = periodic(&period, 300);
        let model = Scripted::new(seed).with_target(&target).with_sureness(95).with_eos(1);
        let model = match failing {
            Some((request, since)) => model.with_failing(request, Failing::Denoise(since)),
            None => model,
        };
        let mut together = model.clone();
        let (mut decoder, mut results) = (Decoder::new(), Vec::new());
        let mut requests = Vec::new();
        for (mut request, causal, drafted) in all {
            request.max_new_tokens += 40;
            if causal && !request.prompt.is_empty() {
                request.view = View::Causal;
            }
            requests.push(request.clone());
            if drafted {
                decoder.push_with(request, lookup(&[], limits)).unwrap();
            } else {
                decoder.push(request).unwrap();
            }
            results.push(None);
        }
        while !decoder.is_empty() {
            let Step { finished, failed } = decoder.step_drafting(&mut together, go_on);
            for one in finished {
                let number = one.request;
                results[number] = Some(Some(plain(one)));
            }
            for one in failed {
                results[one.request] = Some(None);
            }
        }
        for (number, (request, result)) in requests.into_iter().zip(results).enumerate() {
            // Alone each request is number 0.
            let mut alone = Scripted::new(seed).with_target(&target).with_sureness(95).with_eos(1);
            if let Some((_, since)) = failing.filter(|(request, _)| *request == number) {
                alone = alone.with_failing(0, Failing::Denoise(since));
            }
            let expected = generate(&mut alone, request, go_on).ok();
            let expected = expected.map(|one| plain(Generation { request: number, ..one }));
            prop_assert_eq!(result.unwrap(), expected, "request {}", number);
        }
        prop_assert!(together.is_clean());
    }
}

#[test]
fn a_text_that_repeats_itself_takes_few_passes() {
    let four = NonZeroUsize::new(4).expect("not zero");
    let target = periodic(&[6, 7, 8, 9, 10, 11, 12], 400);
    let blocks = Request {
        fill: FillRule::Threshold { tau: 0.9 },
        ..Request::new(target[..16].to_vec(), 384, four, MASK)
    };
    let causal = Request { view: View::Causal, ..blocks.clone() };
    for (request, without, most) in [(blocks, 96, 20), (causal, 384, 70)] {
        let mut model = Scripted::new(5).with_sureness(100).with_target(&target);
        let drafter = lookup(&[], Drafting::default());
        let written = generate_with(&mut model, request, drafter, go_on).unwrap();
        assert_eq!(written.tokens, target[16..]);
        assert_eq!(written.forwards + written.drafts.passes_saved, without);
        assert!(written.forwards <= most, "{written:?}");
    }
}

#[test]
fn other_texts_are_looked_up_too() {
    let file: Vec<u32> = (0..200).map(|i| 6 + (i * i / 3 + i) % 17).collect();
    let request = Request::autoregressive(file[..3].to_vec(), 150);
    let request = Request { mask_id: MASK, ..request };
    let model = Scripted::new(5).with_sureness(100).with_target(&file);
    let passes = |texts: &[Vec<u32>]| {
        let drafter = lookup(texts, Drafting::default());
        let written = generate_with(&mut model.clone(), request.clone(), drafter, go_on);
        written.unwrap().forwards
    };
    assert!(2 * passes(&[vec![7; 9], file.clone()]) < passes(&[]));
}

#[test]
fn a_block_that_takes_several_passes_and_comes_true_saves_the_first_pass_of_the_next() {
    let four = NonZeroUsize::new(4).expect("not zero");
    let request = Request {
        fill: FillRule::LowConfidence,
        eos_ids: vec![EOS],
        ..Request::new(vec![6; 40], 80, four, MASK)
    };
    let mut model = Scripted::new(5).with_sureness(100).with_target(&[6; 200]);
    let written = generate_with(&mut model, request, lookup(&[], Drafting::default()), go_on);
    let written = written.unwrap();
    assert_eq!(written.forwards + written.drafts.passes_saved, 80, "four passes a block");
    // Twenty blocks, of which the first of each draft has no pass saved.
    assert!(written.drafts.passes_saved >= 15, "{written:?}");
}

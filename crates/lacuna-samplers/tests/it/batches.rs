//! Lets requests of every kind share their passes: what one of them fails with is its own affair.

use crate::scripted::go_on;
use std::num::NonZeroUsize;

use crate::scripted::{Broken, EOS, Failing, MASK, Scripted, VOCAB};
use lacuna_samplers::{
    Decoder, Error, FillRule, FinishReason, Generation, Request, Sampling, View, generate,
    generate_batch,
};
use proptest::prelude::*;

fn model(seed: u64) -> Scripted {
    Scripted::new(seed).with_eos(3).with_mask(5)
}

fn autoregressive(prompt: &[u32], max_new_tokens: usize) -> Request {
    Request { mask_id: MASK, ..Request::autoregressive(prompt.to_vec(), max_new_tokens) }
}

fn blocks(prompt: &[u32], max_new_tokens: usize, block_size: usize) -> Request {
    let block_size = NonZeroUsize::new(block_size).expect("not zero");
    Request::new(prompt.to_vec(), max_new_tokens, block_size, MASK)
}

/// The result of a request alone, under the number that it has in a batch.
fn alone(seed: u64, request: &Request, number: usize) -> Generation {
    let generation = generate(&mut model(seed), request.clone(), go_on).expect("it never fails");
    Generation { request: number, ..generation }
}

/// Requests of every kind: views, lengths, rules, temperatures, ends.
fn every_kind(count: usize) -> Vec<Request> {
    let rules = [
        FillRule::LowConfidence,
        FillRule::Threshold { tau: 0.6 },
        FillRule::Margin,
        FillRule::EntropyBounded { gamma: 0.7 },
        FillRule::Random,
    ];
    let request = |n: usize| {
        let prompt: Vec<u32> = (0..=n).map(|i| ((i * 7 + n) % VOCAB) as u32).collect();
        let base = match n % 2 {
            0 => blocks(&prompt, 6 + n, 1 + n % 5),
            _ => autoregressive(&prompt, 6 + n),
        };
        Request {
            fill: rules[n % rules.len()],
            sampling: Sampling {
                temperature: [0.0, 0.7, 1.2][n % 3],
                repetition_penalty: [1.0, 1.2][n % 2],
                seed: 5 * n as u64,
                ..Sampling::default()
            },
            // Seven and eight go on to the end, so that they can be made to fail on the way.
            eos_ids: if n == 7 || n == 8 { vec![] } else { vec![EOS] },
            ..base
        }
    };
    (0..count).map(request).collect()
}

#[test]
fn autoregressive_requests_and_blocks_share_their_passes() {
    let pair = [autoregressive(&[6, 7, 8], 10), autoregressive(&[9], 10)];
    let mut together = model(3);
    let results = generate_batch(&mut together, pair.clone(), go_on);
    for (number, (result, request)) in results.into_iter().zip(&pair).enumerate() {
        assert_eq!(result.unwrap(), alone(3, request, number));
    }
    assert_eq!((together.passes, together.widest), (10, 2), "a pass gives each its next token");

    let mixed = [autoregressive(&[6, 7, 8], 8), blocks(&[9, 10], 8, 4)];
    let mut together = model(3);
    let results = generate_batch(&mut together, mixed.clone(), go_on);
    for (number, (result, request)) in results.into_iter().zip(&mixed).enumerate() {
        assert_eq!(result.unwrap(), alone(3, request, number));
    }
    assert_eq!((together.passes, together.widest), (8, 2));
}

/// The reason why a request ended that was made to fail.
fn is_the_reason(failing: Failing, error: &Error) -> bool {
    let broken = |said: &'static str| match error {
        Error::Denoiser(reason) => reason.downcast_ref() == Some(&Broken(said)),
        _ => false,
    };
    match failing {
        Failing::Prefill => broken("no room for the prompt"),
        Failing::Denoise(_) => broken("the pass is too long"),
        Failing::Commit(_) => broken("no room left"),
        Failing::NotANumber(_) => matches!(error, Error::NotFinite { request: 7, .. }),
        Failing::Nothing(_) => matches!(error, Error::NothingAllowed { request: 7, .. }),
    }
}

#[test]
fn one_of_sixteen_fails_and_the_others_get_the_tokens_they_get_alone() {
    let requests = every_kind(16);
    // Seven is an autoregressive one with a prompt of 8 tokens; then eight takes its place, in blocks of 4.
    for swapped in [false, true] {
        let mut requests = requests.clone();
        if swapped {
            requests.swap(7, 8);
        }
        for failing in [
            Failing::Prefill,
            Failing::Denoise(0),
            Failing::Denoise(10),
            Failing::NotANumber(0),
            Failing::NotANumber(11),
            Failing::Nothing(9),
            Failing::Commit(0),
            Failing::Commit(10),
        ] {
            let mut together = model(29).with_failing(7, failing);
            let results = generate_batch(&mut together, requests.clone(), go_on);
            assert_eq!(results.len(), 16);
            for (number, (result, request)) in results.into_iter().zip(&requests).enumerate() {
                if number == 7 {
                    let error = result.expect_err("it was made to fail");
                    assert!(is_the_reason(failing, &error), "{failing:?}: {error}");
                } else {
                    assert_eq!(result.unwrap(), alone(29, request, number), "{failing:?}");
                }
            }
            assert!(together.is_clean(), "every sequence was released, {failing:?}");
            assert!(together.widest >= 15, "they ran together, {failing:?}");
        }
    }
}

#[test]
fn all_of_them_may_fail_and_each_says_why() {
    let mut broken = model(1);
    for number in 0..3 {
        broken = broken.with_failing(number, Failing::Denoise(0));
    }
    let results = generate_batch(&mut broken, every_kind(3), go_on);
    assert!(results.iter().all(|result| matches!(result, Err(Error::Denoiser(_)))));
    assert_eq!(broken.passes, 4, "one together, and one each");
    assert!(broken.is_clean());
}

#[test]
fn a_request_that_is_refused_stops_no_other() {
    let good = blocks(&[6, 7], 5, 4);
    let refused = Request { max_new_tokens: 0, ..good.clone() };
    let results = generate_batch(&mut model(2), [refused, good.clone()], go_on);
    assert!(matches!(results[0], Err(Error::Setting { name: "max_new_tokens", .. })));
    assert_eq!(*results[1].as_ref().unwrap(), alone(2, &good, 1), "its number is its place");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Joined at any time, in any order, with some cancelled on the way, and others left out of passes.
    #[test]
    fn who_else_is_there_makes_no_difference(
        order in Just((0..12usize).collect::<Vec<_>>()).prop_shuffle(),
        waits in prop::collection::vec(0usize..4, 12), seed in any::<u64>(),
        cancelled in prop::collection::btree_map(0usize..12, 0usize..4, 0..4), held in any::<u64>(),
    ) {
        let requests = every_kind(12);
        let mut model = model(seed);
        let mut decoder = Decoder::new();
        let mut ended = Vec::new();
        let mut steps_left = std::collections::BTreeMap::new();
        let mut place = Vec::new();
        for turn in 0..400 {
            let joins = if turn < waits.len() { 1 + waits[turn] % 2 } else { order.len() };
            for &which in order.iter().skip(place.len()).take(joins) {
                let number = decoder.push(requests[which].clone()).unwrap();
                prop_assert_eq!(number, place.len(), "numbers rise by one");
                place.push(which);
                if let Some(&after) = cancelled.get(&which) {
                    steps_left.insert(number, after);
                }
            }
            for (number, left) in &mut steps_left {
                if *left == 0 && decoder.cancel(&mut model, *number).is_ok() {
                    let again = decoder.cancel(&mut model, *number).unwrap_err();
                    let is_said = matches!(again, Error::NotUnderWay { request } if request == *number);
                    prop_assert!(is_said, "{again}");
                    place[*number] = usize::MAX;
                }
                *left = left.saturating_sub(1);
            }
            decoder.hold(|number| turn < 200 && held >> ((7 * number + turn) % 64) & 1 == 1);
            let step = decoder.step(&mut model, go_on);
            prop_assert!(step.failed.is_empty());
            ended.extend(step.finished);
            if decoder.is_empty() && place.len() == requests.len() {
                break;
            }
        }
        prop_assert!(decoder.is_empty() && model.is_clean());
        for generation in ended {
            let which = place[generation.request];
            prop_assert_eq!(&generation, &alone(seed, &requests[which], generation.request));
            place[generation.request] = usize::MAX;
        }
        prop_assert!(place.iter().all(|which| *which == usize::MAX), "all ended once");
    }
}

#[test]
fn a_cancelled_request_leaves_what_its_finished_blocks_hold() {
    let requests = [blocks(&[6, 7, 8, 9], 12, 4), autoregressive(&[6], 12)];
    let whole = [alone(8, &requests[0], 0), alone(8, &requests[1], 1)];
    let mut model = model(8);
    let mut decoder = Decoder::new();
    assert!(matches!(decoder.cancel(&mut model, 0), Err(Error::NotUnderWay { request: 0 })));
    let ids = requests.map(|request| decoder.push(request).unwrap());
    for _ in 0..6 {
        let step = decoder.step(&mut model, go_on);
        assert!(step.finished.is_empty() && step.failed.is_empty());
    }
    for (id, kept) in [(ids[1], 6), (ids[0], 4)] {
        let cancelled = decoder.cancel(&mut model, id).unwrap();
        assert_eq!(cancelled.tokens, whole[id].tokens[..kept]);
        assert_eq!((cancelled.finish, cancelled.text_len), (FinishReason::Stop, kept));
    }
    assert!(decoder.is_empty() && model.is_clean());

    // One that has not joined yet has nothing, and is not begun.
    let id = decoder.push(Request { view: View::Causal, ..blocks(&[7], 3, 1) }).unwrap();
    assert_eq!(id, 2, "numbers are not used again");
    assert!(decoder.cancel(&mut model, id).unwrap().tokens.is_empty());
    assert_eq!(model.prefills, 2);
}

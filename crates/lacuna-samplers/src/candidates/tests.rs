//! Holds draws to their laws: temperature, top k, top p and penalties, against plain definitions.

use proptest::prelude::*;

use super::*;

mod recorded;

/// The definition, in f64, without any shortcut.
fn pick_slowly(row: &[f32], sampling: &Sampling, site: Site<'_>) -> (usize, f64) {
    let mut logits: Vec<f64> = row.iter().map(|&x| f64::from(x)).collect();
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = logits.iter().map(|x| (x - max).exp()).sum();
    let confidence = |token: usize| (f64::from(row[token]) - max).exp() / sum;
    if sampling.penalises() {
        for (&token, &times) in site.seen {
            let Some(x) = logits.get_mut(token as usize) else { continue };
            let penalty = sampling.repetition_penalty;
            let mut new = if *x > 0.0 { *x / penalty } else { *x * penalty };
            // As often as it was generated, and once if it was.
            new -= sampling.frequency_penalty * f64::from(times);
            new -= if times > 0 { sampling.presence_penalty } else { 0.0 };
            *x = f64::from(new as f32);
        }
    }
    let mut kept: Vec<usize> =
        (0..row.len()).filter(|&i| !site.forbidden.contains(&(i as u32))).collect();
    kept.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
    if sampling.temperature == 0.0 {
        return (kept[0], confidence(kept[0]));
    }
    let top = logits[kept[0]];
    let weight = |i: usize| ((logits[i] - top) / sampling.temperature).exp();
    if let Some(k) = sampling.top_k {
        kept.truncate(k.get());
    }
    if let Some(p) = sampling.top_p {
        let total: f64 = kept.iter().map(|&i| weight(i)).sum();
        let mut held = 0.0;
        let mut count = 0;
        while count < kept.len() && held < p * total {
            held += weight(kept[count]);
            count += 1;
        }
        kept.truncate(count.max(1));
    }
    if let Some(p) = sampling.min_p {
        kept.retain(|&i| weight(i) >= p);
    }
    let draws = stream(sampling.seed, Purpose::Token, site.position, site.refinement);
    let mut words = Words::new(draws);
    kept.sort_unstable();
    let score = |i: usize, words: &mut Words| {
        (logits[i] - top) / sampling.temperature - ln_exponential(words.word(i))
    };
    let mut best = kept[0];
    for &i in &kept {
        if score(i, &mut words) > score(best, &mut words) {
            best = i;
        }
    }
    (best, confidence(best))
}

fn sampling() -> impl Strategy<Value = Sampling> {
    (
        prop_oneof![Just(0.0), 0.05f64..3.0],
        prop::option::of(1usize..30),
        prop::option::of(0.05f64..=1.0),
        prop::option::of(0.0f64..0.9),
        prop_oneof![Just(1.0), 0.5f64..2.0],
        prop_oneof![Just((0.0, 0.0)), (-2.0f64..2.0, -2.0f64..2.0)],
        any::<u64>(),
    )
        .prop_map(
            |(temperature, top_k, top_p, min_p, repetition, (frequency, presence), seed)| {
                Sampling {
                    temperature,
                    top_k: top_k.and_then(NonZeroUsize::new),
                    top_p,
                    min_p,
                    repetition_penalty: repetition,
                    frequency_penalty: frequency,
                    presence_penalty: presence,
                    seed,
                }
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]
    #[test]
    fn the_fast_choice_is_the_definitions(
        row in prop::collection::vec(-12f32..12.0, 5..1500), sampling in sampling(),
        forbidden in prop::collection::btree_set(0u32..1600, 0..4),
        seen in prop::collection::btree_map(0u32..1600, 0u32..5, 0..40),
        position in 0usize..100, refinement in 0usize..4,
    ) {
        let forbidden: Vec<u32> = forbidden.into_iter().collect();
        let site = Site {
            request: 0,
            position,
            refinement,
            forbidden: &forbidden,
            seen: &seen,
            allowed: None,
        };
        let (token, confidence) = pick_slowly(&row, &sampling, site);
        let needs = Needs { margin: true, entropy: true, uniform: true };
        let fast = CandidateSampler::default().pick(&row, &sampling, needs, site).unwrap();
        prop_assert_eq!(fast.token as usize, token);
        // rows.rs: under 1e-6 + 2⁻²⁴·E|d|.
        prop_assert!((fast.confidence / confidence - 1.0).abs() < 1.6e-6);
        prop_assert!((0.0..1.0).contains(&fast.uniform));
        prop_assert!(fast.entropy >= 0.0 && fast.entropy <= (row.len() as f64).ln() + 1e-5);
    }
}

fn site(forbidden: &[u32]) -> Site<'_> {
    static NONE: Seen = Seen::new();
    Site { request: 3, position: 7, refinement: 0, forbidden, seen: &NONE, allowed: None }
}

#[test]
fn tokens_come_out_as_often_as_softmax_says() {
    let row = [0.0f32, 1.0, 2.0, -1.0, 0.5];
    let temperature = 0.7;
    let weights: Vec<f64> = row.iter().map(|&x| (f64::from(x) / temperature).exp()).collect();
    let total: f64 = weights.iter().sum();
    let mut counts = [0u32; 5];
    let draws = 20_000;
    for seed in 0..draws {
        let sampling = Sampling { temperature, seed, ..Sampling::default() };
        let picked =
            CandidateSampler::default().pick(&row, &sampling, Needs::default(), site(&[])).unwrap();
        counts[picked.token as usize] += 1;
    }
    for (count, weight) in counts.iter().zip(weights) {
        let p = weight / total;
        let expected = p * draws as f64;
        let deviation = (expected * (1.0 - p)).sqrt();
        assert!((f64::from(*count) - expected).abs() < 4.5 * deviation, "{counts:?}");
    }
}

#[test]
fn logits_that_are_no_numbers_are_an_error() {
    for bad in [f32::NAN, f32::INFINITY] {
        let row = [0.0, bad, 1.0];
        let error = CandidateSampler::default()
            .pick(&row, &Sampling::default(), Needs::default(), site(&[]))
            .unwrap_err();
        assert!(error.to_string().contains("position 7 hold"), "{error}");
    }
    let nothing = [f32::NEG_INFINITY; 4];
    assert!(matches!(
        CandidateSampler::default().pick(
            &nothing,
            &Sampling::default(),
            Needs::default(),
            site(&[])
        ),
        Err(Error::NothingAllowed { request: 3, position: 7 })
    ));
    for temperature in [0.0, 1.0] {
        let sampling = Sampling { temperature, ..Sampling::default() };
        assert!(matches!(
            CandidateSampler::default().pick(
                &[1.0, 2.0],
                &sampling,
                Needs::default(),
                site(&[0, 1])
            ),
            Err(Error::NothingAllowed { .. })
        ));
    }
}

#[test]
fn equal_logits_go_to_the_lowest_id() {
    let row = vec![1.5f32; 300];
    let pick = |forbidden: &[u32]| {
        CandidateSampler::default()
            .pick(&row, &Sampling::default(), Needs::default(), site(forbidden))
            .unwrap()
            .token
    };
    assert_eq!(pick(&[]), 0);
    assert_eq!(pick(&[0, 1, 3]), 2);
}

#[test]
fn a_very_low_temperature_is_greedy() {
    let row: Vec<f32> = (0..700).map(|i| ((i * 37) % 700) as f32 * 0.01).collect();
    let greedy = CandidateSampler::default()
        .pick(&row, &Sampling::default(), Needs::default(), site(&[]))
        .unwrap();
    for temperature in [1e-300, 1e-40, 1e-9] {
        for top_p in [None, Some(0.9)] {
            let sampling = Sampling { temperature, top_p, ..Sampling::default() };
            let cold = CandidateSampler::default()
                .pick(&row, &sampling, Needs::default(), site(&[]))
                .unwrap();
            assert_eq!(cold, greedy);
        }
    }
}

#[test]
fn settings_outside_their_range_are_refused_by_name() {
    let bad = [
        (Sampling { temperature: f64::NAN, ..Sampling::default() }, "temperature"),
        (Sampling { temperature: -1.0, ..Sampling::default() }, "temperature"),
        (Sampling { top_p: Some(0.0), ..Sampling::default() }, "top_p"),
        (Sampling { min_p: Some(1.5), ..Sampling::default() }, "min_p"),
        (Sampling { repetition_penalty: 0.0, ..Sampling::default() }, "repetition_penalty"),
        (Sampling { frequency_penalty: f64::NAN, ..Sampling::default() }, "frequency_penalty"),
        (Sampling { presence_penalty: f64::INFINITY, ..Sampling::default() }, "presence_penalty"),
    ];
    for (sampling, name) in bad {
        assert!(sampling.validate().unwrap_err().to_string().starts_with(name));
    }
}

//! Checks the laws of corruption, and compares each closed form with simulations.
//!
//! Simulations have fixed seeds, so they pass always or never. Their bounds are five standard errors
//! of the simulated quantity (a false alarm once in two million), from the closed form where there is
//! one and from the sample itself where not.

use std::num::NonZeroUsize;

use lacuna_objective::{
    BlockStats, Corruption, CorruptionRule, Error, MaskSampler, NoiseOf, RateTransform, Row,
    StepRule, Weighting, block_ranges, document_block_ranges, draw_times,
};
use lacuna_schedules::{
    BlockMasking, Estimator, TimeSampling, Warmup, mean_clipped_rate, mean_inverse_clipped_rate,
};
use proptest::prelude::*;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::corrupt_block;

const MASK: u32 = 5;
const BLOCK_SIZES: [usize; 5] = [2, 4, 8, 16, 32];
const BLOCKS: usize = 40_000;
const SIGMAS: f64 = 5.0;

fn size(n: usize) -> NonZeroUsize {
    NonZeroUsize::new(n).expect("sizes in these tests are not 0")
}

fn rule(mask_sampler: MaskSampler, weighting: Weighting) -> CorruptionRule {
    CorruptionRule { mask_sampler, weighting, ..CorruptionRule::paper(MASK) }
}

fn at_step_0(rule: CorruptionRule) -> StepRule {
    rule.at_step(0).expect("the rules in these tests fit together")
}

/// Many blocks of `n` eligible tokens, each at a time of its own.
fn simulate(rule: CorruptionRule, n: usize, seed: u64) -> Vec<Corruption> {
    let rule = at_step_0(rule);
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let times = draw_times(TimeSampling::Independent, BLOCKS, &mut rng);
    let (clean, eligible) = (vec![9; n], vec![true; n]);
    let corrupt = |&t: &f64| corrupt_block(&rule, &clean, &eligible, (t, &mut rng));
    times.iter().map(corrupt).collect()
}

fn stats(corruptions: &[Corruption]) -> impl Iterator<Item = &BlockStats> {
    corruptions.iter().map(|c| &c.blocks[0])
}

/// The mean and its standard error.
fn mean(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let values: Vec<f64> = values.collect();
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0);
    (mean, (variance / n).sqrt())
}

fn assert_within(value: f64, expected: f64, standard_error: f64, what: &str) {
    let bound = SIGMAS * standard_error + 1e-12;
    assert!(
        (value - expected).abs() <= bound,
        "{what}: {value}, expected {expected} within {bound}"
    );
}

#[test]
fn the_number_of_masks_follows_its_closed_form() {
    let unclipped = CorruptionRule {
        transform: RateTransform::Identity,
        ..rule(MaskSampler::Bernoulli, Weighting::None)
    };
    for b in BLOCK_SIZES {
        for (masking, rule) in [
            (BlockMasking::Unclipped, unclipped),
            (BlockMasking::Clipped, rule(MaskSampler::Bernoulli, Weighting::Paper)),
            (BlockMasking::ClippedForced, rule(MaskSampler::BernoulliForced, Weighting::Paper)),
            (BlockMasking::ExactCount, rule(MaskSampler::ExactCount, Weighting::ExactCount)),
        ] {
            let corruptions = simulate(rule, b, 1);
            for m in 0..=b {
                let p = masking.masked_count_pmf(size(b), m);
                let seen = stats(&corruptions).filter(|s| s.masked == m).count();
                let standard_error = (p * (1.0 - p) / BLOCKS as f64).sqrt();
                let what = format!("{masking:?}: P(m = {m}) at B = {b}");
                assert_within(seen as f64 / BLOCKS as f64, p, standard_error, &what);
            }
        }
    }
}

#[test]
fn forcing_changes_empty_blocks_and_no_others() {
    for b in BLOCK_SIZES {
        let corruptions = simulate(CorruptionRule::paper(MASK), b, 2);
        for m in 0..=b {
            let p = BlockMasking::Clipped.masked_count_pmf(size(b), m);
            let seen = stats(&corruptions).filter(|s| s.masked_before_fallback() == m).count();
            let standard_error = (p * (1.0 - p) / BLOCKS as f64).sqrt();
            let what = format!("m = {m} before the fallback at B = {b}");
            assert_within(seen as f64 / BLOCKS as f64, p, standard_error, &what);
        }
        assert!(stats(&corruptions).all(|s| !s.forced || s.masked == 1));
    }
}

#[test]
fn rates_and_weights_follow_their_closed_forms() {
    for b in BLOCK_SIZES {
        let corruptions = simulate(CorruptionRule::paper(MASK), b, 3);
        let (rate, error) = mean(stats(&corruptions).map(|s| s.rate));
        assert_within(rate, mean_clipped_rate(size(b)), error, "E[u]");
        let (weight, error) = mean(stats(&corruptions).map(|s| s.weight));
        assert_within(weight, mean_inverse_clipped_rate(size(b)), error, "E[1/u]");
    }
}

/// Every weighting has exactly the bias and the variance that its closed form says.
#[test]
fn bias_and_variance_follow_their_closed_forms() {
    for b in BLOCK_SIZES {
        for (estimator, rule) in [
            (Estimator::Clipped, rule(MaskSampler::Bernoulli, Weighting::Paper)),
            (Estimator::Clipped, rule(MaskSampler::Bernoulli, Weighting::Unbiased)),
            (Estimator::ClippedForced, rule(MaskSampler::BernoulliForced, Weighting::Paper)),
            (
                Estimator::ClippedForcedUnbiased,
                rule(MaskSampler::BernoulliForced, Weighting::Unbiased),
            ),
            (Estimator::ExactCount, rule(MaskSampler::ExactCount, Weighting::ExactCount)),
            (Estimator::ExactCount, rule(MaskSampler::ExactCount, Weighting::Unbiased)),
        ] {
            let corruptions = simulate(rule, b, 4);
            let loss = |c: &Corruption| c.blocks[0].weight * c.blocks[0].masked as f64 / b as f64;
            let (expected, variance) = (estimator.mean(size(b)), estimator.variance(size(b)));
            let (value, _) = mean(corruptions.iter().map(loss));
            let what = format!("{estimator:?}, {} at B = {b}", rule.weighting);
            assert_within(value, expected, (variance / BLOCKS as f64).sqrt(), &what);
            let (seen, error) = mean(corruptions.iter().map(|c| (loss(c) - expected).powi(2)));
            assert_within(seen, variance, error, &format!("variance of {what}"));
        }
    }
}

/// E[weight at a position] = 1 for the unbiased rules, 1 + bias for the paper's; at *every* position.
#[test]
fn every_position_counts_alike() {
    for b in BLOCK_SIZES {
        for (mask_sampler, weighting, estimator) in [
            (MaskSampler::BernoulliForced, Weighting::Paper, Estimator::ClippedForced),
            (MaskSampler::BernoulliForced, Weighting::Unbiased, Estimator::ExactCount),
            (MaskSampler::ExactCount, Weighting::ExactCount, Estimator::ExactCount),
            (MaskSampler::Bernoulli, Weighting::Paper, Estimator::ExactCount),
        ] {
            let corruptions = simulate(rule(mask_sampler, weighting), b, 5);
            for i in 0..b {
                let (value, error) = mean(corruptions.iter().map(|c| f64::from(c.weights[i])));
                let what = format!("{mask_sampler}, {weighting}: position {i} of {b}");
                assert_within(value, estimator.mean(size(b)), error, &what);
            }
        }
    }
}

/// A block of eight with three eligible tokens is, in every closed form, a block of three.
#[test]
fn closed_forms_hold_with_the_eligible_tokens_of_a_block() {
    let at_step = at_step_0(CorruptionRule::paper(MASK));
    let mut rng = ChaCha8Rng::seed_from_u64(6);
    let mut eligible = [false; 8];
    for i in [2, 3, 7] {
        eligible[i] = true;
    }
    let mut losses = Vec::new();
    for t in draw_times(TimeSampling::Independent, BLOCKS, &mut rng) {
        let corruption = corrupt_block(&at_step, &[9; 8], &eligible, (t, &mut rng));
        let BlockStats { weight, eligible, masked, .. } = corruption.blocks[0];
        assert!(eligible == 3 && weight <= 3.0 + 1e-12);
        losses.push(weight * masked as f64 / 3.0);
    }
    let variance = Estimator::ClippedForced.variance(size(3));
    let (value, _) = mean(losses.into_iter());
    let standard_error = (variance / BLOCKS as f64).sqrt();
    assert_within(value, Estimator::ClippedForced.mean(size(3)), standard_error, "3 of 8");
}

/// Both rows of a pair on their own, and thus together, estimate the block's loss without bias.
#[test]
fn both_halves_of_a_pair_are_unbiased() {
    let at_step = at_step_0(rule(MaskSampler::ComplementaryPairs, Weighting::Unbiased));
    for b in [1, 2, 4, 8] {
        let (clean, eligible, block) = (vec![9; b], vec![true; b], block_ranges(b, size(b)));
        let row = Row::new(&clean, &eligible, &block).unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let (mut first, mut second) = (Vec::new(), Vec::new());
        for t in draw_times(TimeSampling::Independent, BLOCKS, &mut rng) {
            let half = at_step.corrupt_row(row, &[t], &mut rng).unwrap();
            let rest = at_step.complement(row, &half).unwrap();
            for (losses, half) in [(&mut first, half), (&mut second, rest)] {
                let BlockStats { weight, masked, .. } = half.blocks[0];
                assert!(masked == 0 || weight <= b.max(2) as f64 + 1e-9, "weight {weight}");
                losses.push(weight * masked as f64 / b as f64);
            }
        }
        for losses in [first, second] {
            let (value, error) = mean(losses.into_iter());
            assert_within(value, 1.0, error, &format!("half of a pair at B = {b}"));
        }
    }
}

#[test]
fn a_block_of_one_token_is_always_masked_and_weighs_one() {
    for (mask_sampler, weighting) in [
        (MaskSampler::Bernoulli, Weighting::Paper),
        (MaskSampler::BernoulliForced, Weighting::Paper),
        (MaskSampler::BernoulliForced, Weighting::Unbiased),
        (MaskSampler::ExactCount, Weighting::ExactCount),
    ] {
        for corruption in simulate(rule(mask_sampler, weighting), 1, 8).iter().take(1000) {
            assert_eq!((&*corruption.noisy, &*corruption.weights), (&[MASK][..], &[1.0][..]));
        }
    }
}

/// A token that a prompt leaves alone in its block must not be counted 1 + ln B times.
#[test]
fn a_lone_eligible_token_is_always_masked_and_weighs_one() {
    let at_step = at_step_0(CorruptionRule::paper(MASK));
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    for t in draw_times(TimeSampling::Independent, 1000, &mut rng) {
        let eligible = [false, false, true, false];
        let corruption = corrupt_block(&at_step, &[1, 2, 3, 4], &eligible, (t, &mut rng));
        assert_eq!(corruption.noisy, [1, 2, MASK, 4]);
        assert_eq!(corruption.weights, [0.0, 0.0, 1.0, 0.0]);
    }
}

fn any_rule() -> impl Strategy<Value = CorruptionRule> {
    let transform = prop_oneof![
        Just(RateTransform::Identity),
        Just(RateTransform::BlockClip),
        (0.01..0.4, 0.5..=1.0)
            .prop_map(|(time_min, time_max)| RateTransform::Band { time_min, time_max }),
    ];
    let schedule = prop_oneof![
        Just("linear"),
        Just("cosine-mask-heavy"),
        Just("cosine-mask-light"),
        Just("polynomial-2"),
        Just("log"),
        Just("geometric"),
    ];
    let parts = (transform, schedule, 0..4usize, 0..4usize, 0..40u64, any::<bool>());
    parts.prop_filter_map(
        "the parts do not go together",
        |(transform, schedule, sampler, weighting, steps, transform_during_warmup)| {
            let rule = CorruptionRule {
                schedule: schedule.parse().ok()?,
                transform,
                mask_sampler: MaskSampler::ALL[sampler],
                weighting: Weighting::ALL[weighting],
                warmup: Warmup::new(steps),
                transform_during_warmup,
                mask_id: MASK,
            };
            rule.validate().is_ok().then_some(rule)
        },
    )
}

/// Clean tokens (the mask id among them), eligibility, and the blocks of some documents.
fn any_row() -> impl Strategy<Value = (Vec<u32>, Vec<bool>, Vec<std::ops::Range<usize>>)> {
    (proptest::collection::vec(0usize..20, 1..5), 1usize..12).prop_flat_map(|(documents, b)| {
        let len: usize = documents.iter().sum();
        let tokens = proptest::collection::vec(0u32..10, len);
        let eligible = proptest::collection::vec(any::<bool>(), len);
        (tokens, eligible, Just(document_block_ranges(&documents, size(b))))
    })
}

proptest! {
    #[test]
    fn masks_weights_and_counts_agree(
        rule in any_rule(), (clean, eligible, blocks) in any_row(), step in 0u64..60, seed: u64,
    ) {
        let at_step = rule.at_step(step).unwrap();
        let row = Row::new(&clean, &eligible, &blocks).unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let times = draw_times(TimeSampling::default(), blocks.len(), &mut rng);
        let corruption = at_step.corrupt_row(row, &times, &mut rng).unwrap();
        prop_assert_eq!(corruption.blocks.len(), blocks.len());
        for i in 0..clean.len() {
            let (noisy, weight) = (corruption.noisy[i], corruption.weights[i]);
            prop_assert!(weight.is_finite() && weight >= 0.0);
            if weight > 0.0 {
                prop_assert!(eligible[i] && noisy == MASK);
            } else {
                prop_assert_eq!(noisy, clean[i]);
            }
        }
        for (block, stats) in blocks.iter().zip(&corruption.blocks) {
            let masked = corruption.weights[block.clone()].iter().filter(|&&w| w > 0.0).count();
            let n = eligible[block.clone()].iter().filter(|&&e| e).count();
            prop_assert_eq!((stats.masked, stats.eligible), (masked, n));
            prop_assert!(!stats.forced || masked == 1);
            prop_assert!((0.0..=1.0).contains(&stats.rate));
        }
    }

    #[test]
    fn every_block_has_a_masked_token(
        (clean, eligible, blocks) in any_row(), seed: u64, exact: bool,
    ) {
        let rule = if exact {
            rule(MaskSampler::ExactCount, Weighting::ExactCount)
        } else {
            CorruptionRule::paper(MASK)
        };
        let row = Row::new(&clean, &eligible, &blocks).unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let times = draw_times(TimeSampling::default(), blocks.len(), &mut rng);
        let corruption = at_step_0(rule).corrupt_row(row, &times, &mut rng).unwrap();
        for stats in &corruption.blocks {
            prop_assert!(stats.masked >= 1 || stats.eligible == 0);
            prop_assert!(stats.weight <= stats.eligible as f64 * (1.0 + 1e-12));
        }
    }

    #[test]
    fn a_pair_covers_each_eligible_token_exactly_once(
        (clean, eligible, blocks) in any_row(), seed: u64, unbiased: bool, clip: bool,
    ) {
        let weighting = if unbiased { Weighting::Unbiased } else { Weighting::None };
        let transform = if clip { RateTransform::BlockClip } else { RateTransform::Identity };
        let rule = CorruptionRule { transform, ..rule(MaskSampler::ComplementaryPairs, weighting) };
        let at_step = at_step_0(rule);
        let row = Row::new(&clean, &eligible, &blocks).unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let times = draw_times(TimeSampling::default(), blocks.len(), &mut rng);
        let first = at_step.corrupt_row(row, &times, &mut rng).unwrap();
        let second = at_step.complement(row, &first).unwrap();
        for (i, &eligible) in eligible.iter().enumerate() {
            let covered = usize::from(first.weights[i] > 0.0) + usize::from(second.weights[i] > 0.0);
            prop_assert_eq!(covered, usize::from(eligible));
        }
        prop_assert_eq!(at_step.complement(row, &second).unwrap().noisy, first.noisy);
        prop_assert_eq!(at_step.noise_of(3), NoiseOf { row: 2, complement: true });
    }

    #[test]
    fn a_row_is_its_blocks_one_after_the_other(
        rule in any_rule(), (clean, eligible, blocks) in any_row(), seed: u64,
    ) {
        let at_step = rule.at_step(0).unwrap();
        let row = Row::new(&clean, &eligible, &blocks).unwrap();
        let times = vec![0.7; blocks.len()];
        let whole = at_step.corrupt_row(row, &times, &mut ChaCha8Rng::seed_from_u64(seed)).unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        for (block, stats) in blocks.iter().cloned().zip(&whole.blocks) {
            let (clean, eligible) = (&clean[block.clone()], &eligible[block.clone()]);
            let part = corrupt_block(&at_step, clean, eligible, (0.7, &mut rng));
            prop_assert_eq!(&part.noisy, &whole.noisy[block.clone()]);
            prop_assert_eq!(&part.weights, &whole.weights[block]);
            prop_assert_eq!(&part.blocks[0], stats);
        }
    }

    #[test]
    fn blocks_cover_each_document_from_its_start(
        documents in proptest::collection::vec(0usize..30, 0..6), b in 1usize..12,
    ) {
        let blocks = document_block_ranges(&documents, size(b));
        let mut expected = 0..0;
        let mut blocks = blocks.into_iter();
        for len in documents {
            let end = expected.end + len;
            while expected.end < end {
                expected = expected.end..(expected.end + b).min(end);
                prop_assert_eq!(blocks.next(), Some(expected.clone()));
            }
        }
        prop_assert_eq!(blocks.next(), None);
    }
}

/// SDC Eq. 10: t ~ U(0, u_max(s)), no weight; the clip and the forced mask are off unless asked for.
#[test]
fn warmup_caps_rates_and_drops_weights() {
    let paper = CorruptionRule { warmup: Warmup::new(1000), ..CorruptionRule::paper(MASK) };
    let kept = CorruptionRule { transform_during_warmup: true, ..paper };
    let (clean, eligible) = ([9; 256], [true; 256]);
    let blocks = block_ranges(256, size(4));
    let row = Row::new(&clean, &eligible, &blocks).unwrap();
    for step in [0, 100, 500, 999] {
        let mut rng = ChaCha8Rng::seed_from_u64(step);
        let times = draw_times(TimeSampling::default(), blocks.len(), &mut rng);
        let rate_max = 1e-3 + 0.999 * step as f64 / 1000.0;
        let plain = paper.at_step(step).unwrap().corrupt_row(row, &times, &mut rng).unwrap();
        for (stats, time) in plain.blocks.iter().zip(&times) {
            assert!((stats.rate - rate_max * time).abs() < 1e-15 && !stats.forced);
        }
        assert!(plain.blocks.iter().any(|stats| stats.masked == 0), "step {step}");
        let kept = kept.at_step(step).unwrap().corrupt_row(row, &times, &mut rng).unwrap();
        assert!(kept.blocks.iter().all(|stats| stats.rate >= 0.25 && stats.masked >= 1));
        for weight in plain.weights.iter().chain(&kept.weights) {
            assert!(*weight == 0.0 || *weight == 1.0);
        }
    }
    assert_eq!(paper.at_step(1000).unwrap(), at_step_0(CorruptionRule::paper(MASK)));
    assert_eq!(paper.at_step(0).unwrap().noise_of(7), NoiseOf { row: 7, complement: false });
}

/// Full bidirectional diffusion: the window is one block.
#[test]
fn a_window_may_be_one_block() {
    let blocks = block_ranges(64, size(64));
    assert_eq!(blocks.len(), 1);
    let row = Row::new(&[9; 64], &[true; 64], &blocks).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(10);
    let at_step = at_step_0(CorruptionRule::paper(MASK));
    let corruption = at_step.corrupt_row(row, &[1.0], &mut rng).unwrap();
    assert_eq!(corruption.noisy, [MASK; 64]);
    assert_eq!(corruption.weights, [1.0; 64]);
}

#[test]
fn a_block_without_an_eligible_token_is_skipped() {
    let blocks = block_ranges(6, size(2));
    let eligible = [false, false, true, true, false, false];
    let row = Row::new(&[1, 2, 3, 4, 0, 0], &eligible, &blocks).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    let at_step = at_step_0(CorruptionRule::paper(MASK));
    let corruption = at_step.corrupt_row(row, &[1.0; 3], &mut rng).unwrap();
    assert_eq!(corruption.noisy, [1, 2, MASK, MASK, 0, 0]);
    assert_eq!(corruption.blocks[0], BlockStats { time: 1.0, ..BlockStats::default() });
}

#[test]
fn parts_that_do_not_go_together_are_refused() {
    use MaskSampler::{Bernoulli, BernoulliForced, ComplementaryPairs, ExactCount};
    for (mask_sampler, weighting) in [
        (Bernoulli, Weighting::ExactCount),
        (BernoulliForced, Weighting::ExactCount),
        (ExactCount, Weighting::Paper),
        (ComplementaryPairs, Weighting::Paper),
        (ComplementaryPairs, Weighting::ExactCount),
    ] {
        let refused = rule(mask_sampler, weighting).validate();
        assert!(matches!(refused, Err(Error::Weighting { .. })), "{mask_sampler} {weighting}");
    }
    let paper = CorruptionRule::paper(MASK);
    for transform in [RateTransform::Identity, RateTransform::Band { time_min: 0.0, time_max: 0.5 }]
    {
        let unbounded = CorruptionRule { transform, ..paper };
        assert!(matches!(unbounded.validate(), Err(Error::UnboundedWeight)));
        let unbiased = CorruptionRule { weighting: Weighting::Unbiased, ..unbounded };
        assert!(unbiased.validate().is_ok());
    }
    let band = RateTransform::Band { time_min: 0.5, time_max: 0.2 };
    let backwards = CorruptionRule { transform: band, ..paper };
    assert!(matches!(backwards.validate(), Err(Error::Schedule(_))));
}

#[test]
fn rows_that_make_no_sense_are_refused() {
    let eligible = [true; 4];
    assert!(matches!(Row::new(&[1; 3], &eligible, &[]), Err(Error::Length { .. })));
    for blocks in [[0..2, 1..4], [2..4, 0..2], [0..2, 2..5]] {
        assert!(matches!(Row::new(&[1; 4], &eligible, &blocks), Err(Error::Block { .. })));
    }
    let blocks = [0..2, 2..4];
    let row = Row::new(&[1; 4], &eligible, &blocks).unwrap();
    let at_step = at_step_0(CorruptionRule::paper(MASK));
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    assert!(matches!(at_step.corrupt_row(row, &[0.5], &mut rng), Err(Error::Length { .. })));
    let corruption = at_step.corrupt_row(row, &[0.5; 2], &mut rng).unwrap();
    assert!(matches!(at_step.complement(row, &corruption), Err(Error::NotPaired { .. })));
}

#[test]
fn names_go_both_ways() {
    for it in MaskSampler::ALL {
        assert_eq!(it.to_string().parse::<MaskSampler>().unwrap(), it);
    }
    for it in Weighting::ALL {
        assert_eq!(it.to_string().parse::<Weighting>().unwrap(), it);
    }
    let band = RateTransform::Band { time_min: 0.3, time_max: 0.8 };
    for it in [RateTransform::Identity, RateTransform::BlockClip, band] {
        assert_eq!(it.to_string().parse::<RateTransform>().unwrap(), it);
    }
    assert!("clip".parse::<RateTransform>().is_err());
    assert!("band-0.8-0.3".parse::<RateTransform>().is_err());
    let message = "forced".parse::<MaskSampler>().unwrap_err().to_string();
    assert!(message.contains("\"forced\"") && message.contains("bernoulli-forced"));
}

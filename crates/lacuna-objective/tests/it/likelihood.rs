//! Compares the likelihoods with their definitions, on scripted models.

use std::num::NonZeroUsize;

use lacuna_objective::{
    BlockSums, CorruptionRule, Error, MaskSampler, MonteCarlo, Pass, Row, Weighting, block_ranges,
    draw_times, exact_passes, left_to_right_passes, monte_carlo_passes,
};
use lacuna_schedules::TimeSampling;
use proptest::prelude::*;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

const MASK: u32 = 99;

fn blocks(len: usize, block_size: usize) -> Vec<std::ops::Range<usize>> {
    block_ranges(len, NonZeroUsize::new(block_size).expect("not 0 in these tests"))
}

/// An arbitrary model: −log p of the token at `position`, a fixed but senseless function of what else
/// is visible in its block.
fn scripted_nll(noisy: &[u32], position: usize, block_size: usize) -> f32 {
    let start = position / block_size * block_size;
    let mut hash = 0x9E37_79B9_u32.wrapping_mul(position as u32 + 1);
    for id in &noisy[start..(start + block_size).min(noisy.len())] {
        hash = (hash ^ id).wrapping_mul(0x0100_0193).rotate_left(13);
    }
    (hash.wrapping_mul(0x85EB_CA6B) >> 8) as f32 / (1 << 22) as f32
}

fn run(pass: &Pass, block_size: usize) -> Vec<f32> {
    pass.scored.iter().map(|s| scripted_nll(&pass.noisy, s.position, block_size)).collect()
}

/// Computes the definition, slowly: the mean over all orders of the sum of what each token costs when it is filled.
fn mean_over_orders(noisy: &mut [u32], clean: &[u32], left: &[usize], block_size: usize) -> f64 {
    let mut sum = 0.0;
    for &position in left {
        let cost = f64::from(scripted_nll(noisy, position, block_size));
        let rest: Vec<usize> = left.iter().copied().filter(|&i| i != position).collect();
        noisy[position] = clean[position];
        sum += cost + mean_over_orders(noisy, clean, &rest, block_size);
        noisy[position] = MASK;
    }
    sum / left.len().max(1) as f64
}

fn exact(row: Row<'_>, block_size: usize) -> BlockSums {
    let mut sums = BlockSums::new(row);
    for pass in exact_passes(row, MASK).expect("small blocks") {
        sums.add(&pass, &run(&pass, block_size)).expect("one number per position");
    }
    sums
}

proptest! {
    /// Blocks of up to six tokens, some ineligible: 720 orders each.
    #[test]
    fn exact_nelbo_is_the_mean_over_all_orders(
        (clean, eligible) in (1usize..14).prop_flat_map(|len| (
            proptest::collection::vec(0u32..3, len),
            proptest::collection::vec(proptest::bool::weighted(0.8), len),
        )),
        block_size in 1usize..=6,
    ) {
        let blocks = blocks(clean.len(), block_size);
        let row = Row::new(&clean, &eligible, &blocks).unwrap();
        let sums = exact(row, block_size);
        for (block, nelbo) in blocks.iter().zip(sums.blocks()) {
            let positions: Vec<usize> = block.clone().filter(|&i| eligible[i]).collect();
            let mut noisy = clean.clone();
            positions.iter().for_each(|&i| noisy[i] = MASK);
            let expected = mean_over_orders(&mut noisy, &clean, &positions, block_size);
            // f64 sums of at most 64 f32 terms below 4, times coefficients below 1.
            prop_assert!((nelbo - expected).abs() < 1e-12, "{nelbo} against {expected}");
        }
        prop_assert_eq!(sums.eligible(), eligible.iter().filter(|&&e| e).count());
    }

    /// A true joint distribution has one likelihood, whatever the order: the chain rule.
    #[test]
    fn exact_and_left_to_right_agree_on_a_true_joint_distribution(
        weights in proptest::collection::vec(0.01..1.0f64, 81), clean in proptest::collection::vec(0u32..3, 4),
    ) {
        let total: f64 = weights.iter().sum();
        // Probability of every text of four tokens out of three that agrees with `shown`.
        let probability = |shown: &[u32]| -> f64 {
            let agrees = |text: usize| {
                let digit = |i: usize| text / 3usize.pow(i as u32) % 3;
                shown.iter().enumerate().all(|(i, &id)| id == MASK || id as usize == digit(i))
            };
            (0..81).filter(|&text| agrees(text)).map(|text| weights[text]).sum::<f64>() / total
        };
        let nlls = |pass: &Pass| -> Vec<f32> {
            let nll = |position: usize| {
                let mut filled = pass.noisy.clone();
                filled[position] = clean[position];
                -(probability(&filled) / probability(&pass.noisy)).ln() as f32
            };
            pass.scored.iter().map(|s| nll(s.position)).collect()
        };
        let block = blocks(4, 4);
        let row = Row::new(&clean, &[true; 4], &block).unwrap();
        let (mut nelbo, mut chain) = (BlockSums::new(row), BlockSums::new(row));
        for pass in exact_passes(row, MASK).unwrap() {
            nelbo.add(&pass, &nlls(&pass)).unwrap();
        }
        for pass in left_to_right_passes(row, MASK) {
            chain.add(&pass, &nlls(&pass)).unwrap();
        }
        let truth = -probability(&clean).ln();
        // Four NLLs below 10, each rounded to f32: 4 · 10 · 2⁻²⁴.
        prop_assert!((nelbo.total() - truth).abs() < 2.4e-6);
        prop_assert!((chain.total() - truth).abs() < 2.4e-6);
    }
}

/// The coefficients of a position add up to 1, so equal costs give their sum; each is the integral it stands for.
#[test]
fn coefficients_are_the_integrals_of_the_linear_schedule() {
    for n in 1..=8usize {
        let (clean, eligible, block) = (vec![1; n], vec![true; n], blocks(n, n));
        let row = Row::new(&clean, &eligible, &block).unwrap();
        let mut sums = vec![0.0; n];
        for pass in exact_passes(row, MASK).unwrap() {
            let m = pass.scored.len();
            for scored in &pass.scored {
                sums[scored.position] += scored.coefficient;
                // Midpoint rule on ∫ t^(m−1) (1 − t)^(n−m) dt: error below 8²/24/2000².
                let cells = 2000;
                let integral: f64 = (0..cells)
                    .map(|i| (i as f64 + 0.5) / cells as f64)
                    .map(|t| t.powi(m as i32 - 1) * (1.0 - t).powi((n - m) as i32) / cells as f64)
                    .sum();
                assert!((scored.coefficient - integral).abs() < 1e-6);
            }
        }
        sums.iter().for_each(|sum| assert!((sum - 1.0).abs() < 1e-12, "n = {n}: {sum}"));
    }
}

#[test]
fn blocks_of_one_token_are_one_pass_with_everything_masked() {
    let blocks = blocks(5, 1);
    let eligible = [false, true, true, true, true]; // nothing predicts a text's first token
    let row = Row::new(&[10, 11, 12, 13, 14], &eligible, &blocks).unwrap();
    let passes: Vec<Pass> = exact_passes(row, MASK).unwrap().collect();
    assert_eq!(passes.len(), 1);
    assert_eq!(passes[0].noisy, [10, MASK, MASK, MASK, MASK]);
    assert!(passes[0].scored.iter().all(|s| s.coefficient == 1.0));
    assert_eq!(passes, left_to_right_passes(row, MASK).collect::<Vec<_>>());
    let mut sums = BlockSums::new(row);
    sums.add(&passes[0], &[0.5, 0.25, 1.0, 2.0]).unwrap();
    assert_eq!((sums.total(), sums.eligible()), (3.75, 4));
}

#[test]
fn smaller_blocks_drop_out_of_later_passes() {
    let blocks = [0..3, 3..5, 5..7];
    let eligible = [true, true, true, false, true, false, false];
    let row = Row::new(&[0, 1, 2, 3, 4, 5, 6], &eligible, &blocks).unwrap();
    let passes: Vec<Pass> = exact_passes(row, MASK).unwrap().collect();
    assert_eq!(passes.len(), 7);
    for (i, pass) in passes.iter().enumerate() {
        assert_eq!(pass.noisy[4] == MASK, i == 0);
        assert_eq!(pass.noisy[3..4], [3]);
        assert_eq!(pass.noisy[5..], [5, 6]);
    }
    let shown: Vec<Vec<u32>> = left_to_right_passes(row, MASK).map(|pass| pass.noisy).collect();
    let m = MASK;
    let expected =
        [[m, m, m, 3, m, 5, 6], [0, m, m, 3, 4, 5, 6], [0, 1, m, 3, 4, 5, 6]].map(Vec::from);
    assert_eq!(shown, expected);
    let scored: Vec<Vec<usize>> = left_to_right_passes(row, MASK)
        .map(|pass| pass.scored.iter().map(|s| s.position).collect())
        .collect();
    assert_eq!(scored, [vec![0, 4], vec![1], vec![2]]);
}

#[test]
fn a_block_too_large_to_enumerate_is_refused_and_estimated_instead() {
    let blocks = blocks(40, 20);
    let row = Row::new(&[1; 40], &[true; 40], &blocks).unwrap();
    let refused = exact_passes(row, MASK).err().unwrap();
    assert!(matches!(refused, Error::TooManyPasses { block: 0, eligible: 20, max: 16 }));
    assert!(refused.to_string().contains("Monte-Carlo"));
    let blocks = self::blocks(16, 16);
    let row = Row::new(&[1; 16], &[true; 16], &blocks).unwrap();
    assert_eq!(exact_passes(row, MASK).unwrap().len(), 65535);
}

/// 400 estimates of 50 passes: each within its own error bar as often as a normal variable would be.
///
/// Two standard errors hold 95.4 % of the time, minus a little because the error is itself estimated;
/// the count of 400 has a standard deviation of 4, so below 355 would be six of them away.
#[test]
fn monte_carlo_agrees_with_exact_within_its_own_error_bar() {
    let block_size = 4;
    let clean: Vec<u32> = (0..22).map(|i| i * 7 % 3).collect();
    let mut eligible = vec![true; 22];
    (0..6).for_each(|i| eligible[i] = false);
    let blocks = blocks(22, block_size);
    let row = Row::new(&clean, &eligible, &blocks).unwrap();
    let truth = exact(row, block_size).total();
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let (mut covered, mut sum, mut squared_error) = (0, 0.0, 0.0);
    let runs = 400;
    for _ in 0..runs {
        let mut estimate = MonteCarlo::new();
        for pass in monte_carlo_passes(row, MASK, 50, &mut rng) {
            estimate.add(&pass, &run(&pass, block_size)).unwrap();
        }
        let estimate = estimate.estimate();
        assert_eq!(estimate.samples, 50);
        covered += usize::from((estimate.nelbo - truth).abs() < 2.0 * estimate.standard_error);
        sum += estimate.nelbo;
        squared_error += estimate.standard_error.powi(2);
    }
    assert!((355..=397).contains(&covered), "{covered} of {runs} within two standard errors");
    let (mean, standard_error) = (sum / f64::from(runs), squared_error.sqrt() / f64::from(runs));
    assert!(standard_error > 0.0 && standard_error < 0.01 * truth);
    assert!((mean - truth).abs() < 5.0 * standard_error, "{mean} against {truth}");
}

#[test]
fn monte_carlo_is_exact_when_all_tokens_cost_the_same() {
    let blocks = blocks(10, 4);
    let row = Row::new(&[1; 10], &[true; 10], &blocks).unwrap();
    let mut estimate = MonteCarlo::new();
    assert!(estimate.estimate().standard_error.is_infinite());
    for pass in monte_carlo_passes(row, MASK, 20, &mut ChaCha8Rng::seed_from_u64(2)) {
        estimate.add(&pass, &vec![1.0; pass.scored.len()]).unwrap();
    }
    let estimate = estimate.estimate();
    assert!((estimate.nelbo - 10.0).abs() < 1e-12 && estimate.standard_error < 1e-12);
}

/// Training with exact counts minimises the NELBO; the paper's rule minimises something else.
#[test]
fn exact_count_training_estimates_the_nelbo_and_the_papers_rule_does_not() {
    let (block_size, draws) = (4, 40_000);
    let block = blocks(4, 4);
    let row = Row::new(&[0, 2, 1, 1], &[true; 4], &block).unwrap();
    let truth = exact(row, block_size).total();
    let estimate = |mask_sampler, weighting| {
        let rule = CorruptionRule { mask_sampler, weighting, ..CorruptionRule::paper(MASK) };
        let rule = rule.at_step(0).unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let times = draw_times(TimeSampling::Independent, draws, &mut rng);
        let losses: Vec<f64> = times
            .iter()
            .map(|&t| {
                let corruption = rule.corrupt_row(row, &[t], &mut rng).unwrap();
                let weights = corruption.weights.iter().enumerate().filter(|(_, w)| **w > 0.0);
                let cost = |(i, &w): (usize, &f32)| {
                    f64::from(w) * f64::from(scripted_nll(&corruption.noisy, i, block_size))
                };
                weights.map(cost).sum()
            })
            .collect();
        let mean = losses.iter().sum::<f64>() / draws as f64;
        let variance = losses.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / draws as f64;
        (mean, (variance / draws as f64).sqrt())
    };
    let (mean, error) = estimate(MaskSampler::ExactCount, Weighting::ExactCount);
    assert!((mean - truth).abs() < 5.0 * error, "{mean} against {truth}");
    let (mean, error) = estimate(MaskSampler::BernoulliForced, Weighting::Paper);
    assert!((mean - truth).abs() > 5.0 * error, "{mean} against {truth}");
}

#[test]
fn a_pass_with_too_few_likelihoods_is_refused() {
    let block = blocks(2, 2);
    let row = Row::new(&[1, 2], &[true; 2], &block).unwrap();
    let pass = exact_passes(row, MASK).unwrap().next().unwrap();
    assert!(matches!(BlockSums::new(row).add(&pass, &[]), Err(Error::Length { .. })));
    assert!(matches!(MonteCarlo::new().add(&pass, &[1.0; 3]), Err(Error::Length { .. })));
}

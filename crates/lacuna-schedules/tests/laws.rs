//! Holds every schedule to the laws, and the closed forms to their figures.

use std::num::NonZeroUsize;

use lacuna_schedules::{
    Band, BlockClipped, BlockMasking, Estimator, Linear, NoiseSchedule, Schedule, TimeSampling,
    Warmup, forced_mask_probability, mean_clipped_rate, mean_inverse_clipped_rate,
};
use proptest::prelude::*;

const BLOCK_SIZES: [usize; 5] = [2, 4, 8, 16, 32];

fn size(block_size: usize) -> NonZeroUsize {
    NonZeroUsize::new(block_size).expect("block sizes in these tests are not 0")
}

fn schedules() -> impl Strategy<Value = Schedule> {
    prop_oneof![
        Just("linear".to_owned()),
        Just("cosine-mask-heavy".to_owned()),
        Just("cosine-mask-light".to_owned()),
        Just("log".to_owned()),
        (0.25..6.0).prop_map(|p| format!("polynomial-{p}")),
        (1e-5..1e-2, 4.0..30.0).prop_map(|(min, max)| format!("geometric-{min}-{max}")),
    ]
    .prop_map(|name| name.parse().expect("generated names are valid"))
}

/// A splitmix64 generator: uniform numbers in [0, 1).
fn uniform(seed: u64) -> impl FnMut() -> f64 {
    let mut state = seed;
    move || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

proptest! {
    /// w = −alpha'/(1 − alpha), with alpha' by a central difference: error h²·u'''/6 + eps/h, relative to u' below 1e-6.
    #[test]
    fn weight_is_the_logarithmic_derivative_of_the_rate(schedule in schedules(), t in 0.05..0.95) {
        let h = 1e-5;
        let derivative = (schedule.mask_rate(t + h) - schedule.mask_rate(t - h)) / (2.0 * h);
        let expected = derivative / schedule.mask_rate(t);
        let weight = schedule.loss_weight(t);
        // Geometric ends in rates of 1 − e^−30, where the difference of two rates is rounding alone.
        let tolerance = 1e-6 * expected.abs() + 1e-10;
        prop_assert!((weight - expected).abs() <= tolerance, "{schedule} at {t}: {weight} against {expected}");
    }

    #[test]
    fn rates_are_probabilities_and_never_fall(schedule in schedules(), a in 0.0..=1.0f64, b in 0.0..=1.0f64) {
        let (early, late) = (schedule.mask_rate(a.min(b)), schedule.mask_rate(a.max(b)));
        prop_assert!(0.0 <= early && late <= 1.0);
        // Two neighbouring times may round the wrong way round by a bit.
        prop_assert!(early <= late + 2e-16);
        prop_assert!(schedule.loss_weight(a) >= 0.0);
    }

    #[test]
    fn names_go_both_ways(schedule in schedules()) {
        prop_assert_eq!(schedule.to_string().parse::<Schedule>(), Ok(schedule));
    }

    #[test]
    fn a_clipped_block_expects_a_mask_and_no_weight_exceeds_its_size(
        schedule in schedules(), block_size in 1usize..100, t in 0.0..=1.0f64,
    ) {
        let clipped = BlockClipped::new(schedule, size(block_size));
        let (rate, weight) = (clipped.mask_rate(t), clipped.loss_weight(t));
        prop_assert!(rate * block_size as f64 >= 1.0 - 1e-15 && rate <= 1.0);
        prop_assert!((1.0..=block_size as f64 * (1.0 + 1e-15)).contains(&weight));
        prop_assert_eq!(weight, 1.0 / rate);
        if schedule.mask_rate(t) > 1.0 / block_size as f64 {
            prop_assert_eq!(rate, schedule.mask_rate(t));
        }
    }

    #[test]
    fn clipping_the_linear_schedule_leaves_it_alone_above_the_clip(t in 0.25..=1.0f64) {
        let clipped = BlockClipped::new(Linear, size(4));
        prop_assert_eq!(clipped.mask_rate(t), Linear.mask_rate(t));
        prop_assert_eq!(clipped.loss_weight(t), Linear.loss_weight(t));
    }

    #[test]
    fn a_band_uses_only_its_times(schedule in schedules(), low in 0.01..0.49, high in 0.5..=1.0f64, t in 0.0..=1.0f64) {
        let band = Band::new(schedule, low, high).unwrap();
        prop_assert!(band.mask_rate(t) >= schedule.mask_rate(low));
        prop_assert!(band.mask_rate(t) <= schedule.mask_rate(high));
        prop_assert_eq!(band.mask_rate(0.0), schedule.mask_rate(low));
        prop_assert!(band.loss_weight(t).is_finite());
    }

    #[test]
    fn warmup_caps_the_rate_and_drops_the_weight(steps in 1u64..5000, at in 0.0..1.0f64, t in 0.0..=1.0f64) {
        let warmup = Warmup::new(steps);
        let step = (at * steps as f64) as u64;
        let capped = warmup.capped(Linear, step).unwrap();
        let expected = 1e-3 + (1.0 - 1e-3) * step as f64 / steps as f64;
        prop_assert!((warmup.rate_max(step) - expected).abs() < 1e-15);
        prop_assert_eq!(capped.mask_rate(t), warmup.rate_max(step) * t);
        prop_assert_eq!(capped.loss_weight(t), 1.0);
        prop_assert!(warmup.rate_max(step) < warmup.rate_max(step + 1));
        prop_assert!(warmup.capped(Linear, steps).is_none());
        prop_assert_eq!(warmup.rate_max(steps), 1.0);
    }

    #[test]
    fn every_time_is_above_zero_and_at_most_one(seed: u64, n in 0usize..200, sampling in 0usize..3) {
        let mut times = vec![f64::NAN; n];
        TimeSampling::ALL[sampling].fill(&mut times, &mut uniform(seed));
        prop_assert!(times.iter().all(|&t| 0.0 < t && t <= 1.0));
    }

    #[test]
    fn stratified_times_lie_one_in_each_stratum(seed: u64, n in 1usize..200) {
        let mut times = vec![0.0; n];
        TimeSampling::Stratified.fill(&mut times, &mut uniform(seed));
        let stratum = |t: f64| (t * n as f64).ceil() as usize - 1;
        prop_assert!(times.iter().enumerate().all(|(i, &t)| stratum(t) == i));

        let mut permuted = vec![0.0; n];
        TimeSampling::PermutedStratified.fill(&mut permuted, &mut uniform(seed));
        permuted.sort_by(f64::total_cmp);
        prop_assert_eq!(permuted, times);
    }
}

/// The extremes of the random source: 0 must not give time 0, nor 1 − 2⁻⁵³ a wrong index.
#[test]
fn times_hold_at_the_ends_of_the_random_source() {
    for extreme in [0.0, 1.0 - f64::EPSILON / 2.0] {
        for sampling in TimeSampling::ALL {
            let mut times = [f64::NAN; 7];
            sampling.fill(&mut times, &mut || extreme);
            assert!(times.iter().all(|&t| 0.0 < t && t <= 1.0), "{sampling}: {times:?}");
        }
    }
}

/// Strata in order tie a block's time to its place; permuted they must not. Over 4000 draws of 8
/// times, the mean at a place has a standard error of 0.289/√4000 = 0.0046; five of them are allowed.
#[test]
fn permuted_times_do_not_depend_on_the_place() {
    let (draws, places) = (4000, 8);
    let mut random = uniform(7);
    let mut sums = vec![0.0; places];
    for _ in 0..draws {
        let mut times = vec![0.0; places];
        TimeSampling::PermutedStratified.fill(&mut times, &mut random);
        sums.iter_mut().zip(times).for_each(|(sum, t)| *sum += t);
    }
    for (place, sum) in sums.iter().enumerate() {
        let mean = sum / f64::from(draws);
        assert!((mean - 0.5).abs() < 5.0 * 0.0046, "place {place}: mean time {mean}");
    }
}

#[test]
fn every_family_starts_clean_and_ends_masked() {
    for name in ["linear", "cosine-mask-heavy", "cosine-mask-light", "polynomial-3", "log"] {
        let schedule: Schedule = name.parse().unwrap();
        assert_eq!((schedule.mask_rate(0.0), schedule.mask_rate(1.0)), (0.0, 1.0), "{name}");
    }
    let geometric: Schedule = "geometric".parse().unwrap();
    assert!((geometric.mask_rate(0.0) - 1e-4).abs() < 1e-8);
    assert!((geometric.mask_rate(1.0) - 1.0).abs() < 1e-8);
}

#[test]
fn the_two_cosines_are_mirror_images() {
    let heavy: Schedule = "cosine-mask-heavy".parse().unwrap();
    let light: Schedule = "cosine-mask-light".parse().unwrap();
    for t in [0.0, 0.1, 0.5, 0.9, 1.0] {
        assert!((heavy.mask_rate(t) - (1.0 - light.mask_rate(1.0 - t))).abs() < 1e-15);
    }
    assert!(heavy.mask_rate(0.5) > 0.7 && light.mask_rate(0.5) < 0.3);
}

#[test]
fn nonsense_is_refused() {
    for name in
        ["", "Linear", "cosine", "polynomial", "polynomial-", "polynomial-0", "polynomial--1"]
    {
        assert!(name.parse::<Schedule>().is_err(), "{name:?}");
    }
    for name in
        ["polynomial-nan", "polynomial-inf", "geometric-1-1", "geometric-0-1", "geometric-2-1"]
    {
        assert!(name.parse::<Schedule>().is_err(), "{name:?}");
    }
    assert!(Band::new(Linear, 0.5, 0.5).is_err());
    assert!(Band::new(Linear, -0.1, 0.5).is_err());
    assert!(Band::new(Linear, 0.5, 1.1).is_err());
    assert!(Band::new(Linear, f64::NAN, 1.0).is_err());
    for rate in [0.0, -1.0, 1.5, f64::NAN] {
        assert!(Warmup::new(10).with_rate_init(rate).is_err(), "{rate}");
    }
    assert!("permuted".parse::<TimeSampling>().is_err());
    for sampling in TimeSampling::ALL {
        assert_eq!(sampling.to_string().parse(), Ok(sampling));
    }
}

#[test]
fn no_warmup_is_a_warmup_of_no_steps() {
    assert!(Warmup::new(0).capped(Linear, 0).is_none());
    assert_eq!(Warmup::new(0).rate_max(0), 1.0);
}

/// The table of docs/paper.md; its figures are rounded to the digits shown.
#[test]
fn closed_forms_are_those_of_the_table() {
    let table = |what: &str, tolerance: f64, values: &[f64], f: &dyn Fn(NonZeroUsize) -> f64| {
        for (&b, expected) in BLOCK_SIZES.iter().zip(values) {
            let value = f(size(b));
            assert!((value - expected).abs() <= tolerance, "{what} at B = {b}: {value}");
        }
    };
    table("P(m=0)", 5.1e-5, &[0.3333, 0.2, 0.1111, 0.0588, 0.0303], &|b| {
        BlockMasking::Unclipped.empty_probability(b)
    });
    table("P(m=0), clipped", 5.1e-5, &[0.1667, 0.1266, 0.0764, 0.0419, 0.0219], &|b| {
        BlockMasking::Clipped.empty_probability(b)
    });
    table("E[u_blk]", 5.1e-5, &[0.625, 0.5313, 0.5078], &mean_clipped_rate);
    table("E[Σ w·m/B]", 5.1e-4, &[1.159, 1.113, 1.065, 1.035, 1.018], &|b| {
        Estimator::ClippedForced.mean(b)
    });
    let rows: [(BlockMasking, [f64; 5]); 3] = [
        (BlockMasking::Unclipped, [0.2; 5]),
        (BlockMasking::Clipped, [0.1266, 0.2320, 0.2320, 0.2086, 0.2008]),
        (BlockMasking::ClippedForced, [0.0, 0.3586, 0.2320, 0.2086, 0.2008]),
    ];
    for (masking, row) in rows {
        for (m, expected) in row.into_iter().enumerate() {
            let value = masking.masked_count_pmf(size(4), m);
            assert!((value - expected).abs() <= 5.1e-5, "{masking:?} m = {m}: {value}");
        }
    }
    for (estimator, expected) in [
        // 1.74 in the paper notes is a simulation of this heavy-tailed estimator; ln(1000)/4 = 1.727 is exact.
        (Estimator::Linear { rate_min: 1e-3 }, 1000f64.ln() / 4.0),
        (Estimator::Clipped, 0.347),
        (Estimator::ClippedForced, 0.213),
        (Estimator::ExactCount, 0.0),
    ] {
        let value = estimator.variance(size(4));
        assert!((value - expected).abs() <= 5.1e-4, "{estimator:?}: {value}");
    }
}

/// Everything above again from the definitions, by brute force: integrals on a fine grid, binomials by recursion.
#[test]
fn closed_forms_follow_from_their_definitions() {
    for b in [1, 2, 3, 4, 8, 16, 32] {
        let clip = 1.0 / b as f64;
        let pmf_at = |u: f64| {
            let mut pmf = vec![1.0];
            for _ in 0..b {
                let mut next = vec![0.0; pmf.len() + 1];
                for (m, p) in pmf.iter().enumerate() {
                    next[m] += p * (1.0 - u);
                    next[m + 1] += p * u;
                }
                pmf = next;
            }
            pmf
        };
        // E over t of g(u_blk(t)): the clip's own share, and beyond it a midpoint rule on a logarithmic
        // grid, u = B^(x − 1), where the integrand is smooth: error below 1e-6.
        let cells = 8000;
        let expect = |g: &dyn Fn(f64, &[f64]) -> f64| {
            let mut sum = clip * g(clip, &pmf_at(clip));
            for i in 0..cells {
                let u = clip.powf(1.0 - (f64::from(i) + 0.5) / f64::from(cells));
                sum += u * (b as f64).ln() / f64::from(cells) * g(u, &pmf_at(u));
            }
            sum
        };
        let near = |value: f64, expected: f64, what: &str| {
            assert!(
                (value - expected).abs() < 1e-6,
                "{what} at B = {b}: {value} against {expected}"
            );
        };
        let block = size(b);
        for m in [0, 1, b / 2, b] {
            near(BlockMasking::Clipped.masked_count_pmf(block, m), expect(&|_, p| p[m]), "P(m)");
        }
        near(mean_clipped_rate(block), expect(&|u, _| u), "E[u]");
        near(mean_inverse_clipped_rate(block), expect(&|u, _| 1.0 / u), "E[1/u]");
        let forced = |m: usize| m.max(1) as f64 / b as f64;
        let moment = |weight: &dyn Fn(f64) -> f64, power: i32, count: &dyn Fn(usize) -> f64| {
            expect(&|u, p| {
                p.iter().enumerate().map(|(m, p)| p * (weight(u) * count(m)).powi(power)).sum()
            })
        };
        let inverse = |u: f64| 1.0 / u;
        let unbiased = |u: f64| 1.0 / forced_mask_probability(u, block);
        let plain = |m: usize| m as f64 / b as f64;
        for (estimator, weight, count) in [
            (Estimator::Clipped, &inverse as &dyn Fn(f64) -> f64, &plain as &dyn Fn(usize) -> f64),
            (Estimator::ClippedForced, &inverse, &forced),
            (Estimator::ClippedForcedUnbiased, &unbiased, &forced),
        ] {
            let mean = moment(weight, 1, count);
            near(estimator.mean(block), mean, "mean");
            near(estimator.variance(block), moment(weight, 2, count) - mean * mean, "variance");
        }
    }
}

#[test]
fn every_distribution_of_m_sums_to_one() {
    use BlockMasking::{Clipped, ClippedForced, ExactCount, Unclipped};
    for masking in [Unclipped, Clipped, ClippedForced, ExactCount] {
        for b in [1, 2, 4, 8, 16, 32, 1024, 8192] {
            let sum: f64 = if b > 1000 && matches!(masking, Clipped | ClippedForced) {
                continue; // quadratic in B
            } else {
                (0..=b).map(|m| masking.masked_count_pmf(size(b), m)).sum()
            };
            assert!((sum - 1.0).abs() < 1e-12, "{masking:?} at B = {b}: {sum}");
            assert_eq!(masking.masked_count_pmf(size(b), b + 1), 0.0);
        }
    }
}

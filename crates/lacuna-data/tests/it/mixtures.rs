//! Holds mixtures to their laws: shares at every moment, epochs of permutations, no state.

use lacuna_data::mixture::Shares;
use lacuna_data::{Batches, Cursor, Dataset, Mixture, Packer, Remainder};
use proptest::prelude::*;

/// Windows of one token, `first`, `first + 1`, ….
fn dataset(first: u32, windows: u32) -> Dataset {
    let mut packer = Packer::new(2.try_into().unwrap(), Remainder::Drop);
    (first..first + windows).for_each(|id| packer.push(&[id], 1));
    Dataset::from_packed(packer.finish(), 10_000).unwrap()
}

fn weights() -> impl Strategy<Value = Vec<f64>> {
    let simple = (1u32..50).prop_map(f64::from);
    let decimal = (1u32..999).prop_map(|n| f64::from(n) / 100.0);
    let any = 1e-3..1e3f64;
    prop::collection::vec(prop_oneof![simple, decimal, any], 1..9)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_source_is_a_sample_ahead_or_behind_at_any_moment(weights in weights()) {
        let shares = Shares::new(&weights).unwrap();
        let total: f64 = weights.iter().sum();
        let mut given = vec![0u64; weights.len()];
        for sample in 0..4000u64 {
            let (source, before) = shares.at(sample);
            prop_assert_eq!(before, given[source], "sample {}", sample);
            given[source] += 1;
            for (source, given) in given.iter().enumerate() {
                prop_assert_eq!(shares.count(source, sample + 1), *given);
                let due = (sample + 1) as f64 * shares.share(source);
                prop_assert!((*given as f64 - due).abs() < 1.0 + 1e-6, "source {} after {}", source, sample + 1);
            }
        }
        for (source, weight) in weights.iter().enumerate() {
            // Rounded to parts of 65536, at least one, where no shorter cycle says the weights exactly.
            let off = (shares.share(source) - weight / total).abs();
            prop_assert!(off < 9.0 / 65536.0, "source {}: {}", source, off);
        }
    }

    #[test]
    fn every_source_goes_through_epochs_of_permutations(
        sizes in prop::collection::vec(1u64..40, 1..5), seed in any::<u64>(),
    ) {
        let sources: Vec<_> = sizes.iter().zip(1u32..).map(|(size, n)| (*size, f64::from(n))).collect();
        let mixture = Mixture::new(&sources).unwrap();
        let mut seen: Vec<Vec<u64>> = vec![vec![]; sizes.len()];
        for sample in 0..1000 {
            let (source, window) = mixture.at(seed, sample);
            seen[source].push(window);
        }
        for (seen, size) in seen.iter().zip(&sizes) {
            for epoch in seen.chunks_exact(*size as usize) {
                let mut sorted = epoch.to_vec();
                sorted.sort_unstable();
                prop_assert_eq!(sorted, (0..*size).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn a_mixture_goes_on_from_any_place(seed in any::<u64>(), at in 0u64..5000, count in 1usize..20) {
        let batches = || {
            let sources = vec![(dataset(10, 30), 0.7), (dataset(500, 7), 0.2), (dataset(900, 1), 0.1)];
            Batches::mixed(sources, seed).unwrap()
        };
        let whole = batches();
        let expected: Vec<_> = (at..at + count as u64).map(|n| whole.row(n).unwrap()).collect();
        let fresh = batches();
        let mut cursor: Cursor = fresh.cursor(at);
        prop_assert_eq!(fresh.take(&mut cursor, count.try_into().unwrap()).unwrap(), expected);
        prop_assert_eq!(cursor, whole.cursor(at + count as u64));
    }
}

#[test]
fn simple_weights_hold_exactly_and_soon() {
    let shares = Shares::new(&[0.7, 0.2, 0.1]).unwrap();
    let first: Vec<_> = (0..10).map(|sample| shares.at(sample).0).collect();
    let of = |source| first.iter().filter(|s| **s == source).count();
    assert_eq!([0, 1, 2].map(of), [7, 2, 1]);
    assert_eq!(
        [0, 1, 2].map(|source| shares.count(source, 1_000_000_000_000)),
        [700_000_000_000, 200_000_000_000, 100_000_000_000]
    );
    assert_eq!(shares.at(u64::MAX).0, first[(u64::MAX % 10) as usize]);
    // Equal weights take turns.
    let turns = Shares::new(&[2.0, 2.0]).unwrap();
    assert_eq!([0, 1, 2, 3].map(|sample| turns.at(sample).0), [0, 1, 0, 1]);
}

#[test]
fn a_step_of_a_mixture_shows_the_windows_of_its_sources() {
    let batches = Batches::mixed(vec![(dataset(10, 6), 3.0), (dataset(500, 2), 1.0)], 7).unwrap();
    assert_eq!(batches.dataset().windows(), 8);
    let rows = batches.rows(0, 16.try_into().unwrap()).unwrap();
    let small: Vec<u32> = rows.iter().map(|r| r.window.tokens[0]).filter(|id| *id >= 500).collect();
    assert_eq!(small.len(), 4, "a quarter of the rows");
    assert!(small[0] != small[1] && small[2] != small[3], "each epoch shows both windows");
    assert!((batches.mixture().unwrap().epochs(1, 16) - 2.0).abs() < 1e-12);
}

#[test]
fn mixtures_that_make_no_sense_are_told() {
    let error = |weights: &[f64]| Shares::new(weights).unwrap_err().to_string();
    assert!(error(&[]).contains("0 sources"));
    for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(error(&[1.0, bad]).contains("the weight of source 1"), "{bad}");
    }
    assert!(Mixture::new(&[(3, 1.0), (0, 1.0)]).unwrap_err().to_string().contains("source 1"));
    let mut packer = Packer::new(3.try_into().unwrap(), Remainder::Drop);
    packer.push(&[5, 6], 1);
    let other = Dataset::from_packed(packer.finish(), 10).unwrap();
    let error = Batches::mixed(vec![(dataset(10, 3), 1.0), (other, 1.0)], 0).unwrap_err();
    assert!(error.to_string().contains("windows of 2 and of 3 tokens"), "{error}");
    // The largest numbers have shares too.
    let shares = Shares::new(&[f64::MAX, f64::MAX, f64::MIN_POSITIVE]).unwrap();
    assert!((shares.share(0) - 0.5).abs() < 1e-3 && shares.share(2) > 0.0);
}

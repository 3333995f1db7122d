//! Holds packing and batches to what must be so for any text, any packing and any seed.

use lacuna_data::corpus::is_held_out;
use lacuna_data::{
    Batches, Cursor, Dataset, Packed, Packer, Remainder, Sample, ShardOptions, ShardWriter,
};
use proptest::prelude::*;
use std::num::NonZeroUsize;

const EOS: u32 = 2;
const PAD: u32 = 1;

fn size(n: usize) -> NonZeroUsize {
    NonZeroUsize::new(n).unwrap()
}

fn documents() -> impl Strategy<Value = Vec<Vec<u32>>> {
    prop::collection::vec(prop::collection::vec(10u32..500, 0..40), 0..12)
}

fn packed(documents: &[Vec<u32>], window_len: usize, remainder: Remainder) -> Packed {
    let mut packer = Packer::new(size(window_len), remainder);
    documents.iter().for_each(|tokens| packer.push(tokens, EOS));
    packer.finish()
}

fn joined(documents: &[Vec<u32>]) -> Vec<u32> {
    documents.iter().flat_map(|tokens| tokens.iter().copied().chain([EOS])).collect()
}

fn shard_options(window_len: usize, remainder: Remainder, vocab_size: usize) -> ShardOptions {
    let tokenizer = "none".to_owned();
    ShardOptions {
        window_len: size(window_len),
        remainder,
        vocab_size,
        tokenizer,
        shard_tokens: 40,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn padding_loses_no_token(documents in documents(), window_len in 1usize..50) {
        let packed = packed(&documents, window_len, Remainder::Pad(PAD));
        let mut stream = vec![];
        for index in 0..packed.windows() {
            let window = packed.window(index);
            prop_assert_eq!(window.tokens.len(), window_len);
            for (token, eligible) in window.tokens.iter().zip(window.eligible) {
                if eligible { stream.push(*token) } else { prop_assert_eq!(*token, PAD) }
            }
        }
        prop_assert_eq!(stream, joined(&documents));
    }

    #[test]
    fn dropping_keeps_full_windows_of_real_tokens(
        documents in documents(), window_len in 1usize..50,
    ) {
        let packed = packed(&documents, window_len, Remainder::Drop);
        let all = joined(&documents);
        prop_assert_eq!(packed.windows(), all.len() / window_len);
        for index in 0..packed.windows() {
            let window = packed.window(index);
            prop_assert_eq!(&window.tokens, &all[index * window_len..][..window_len]);
            prop_assert!(window.eligible.iter().all(|&eligible| eligible));
        }
    }

    #[test]
    fn document_lengths_fill_the_window_and_end_at_end_tokens(
        documents in documents(), window_len in 1usize..50,
    ) {
        let packed = packed(&documents, window_len, Remainder::Pad(PAD));
        for index in 0..packed.windows() {
            let window = packed.window(index);
            prop_assert_eq!(window.documents.iter().sum::<usize>(), window_len);
            prop_assert!(window.documents.iter().all(|&length| length > 0));
            let mut end = 0;
            for (place, length) in window.documents.iter().enumerate() {
                let document = &window.tokens[end..end + length];
                end += length;
                if place + 1 < window.documents.len() {
                    prop_assert_eq!(document.last(), Some(&EOS));
                }
                let inner = document.iter().take(length - 1).filter(|&&token| token == EOS);
                prop_assert_eq!(inner.count(), 0);
            }
        }
    }

    #[test]
    fn shards_give_back_the_packed_windows(
        documents in documents(), window_len in 1usize..50, wide in any::<bool>(),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let vocab_size = if wide { 100_000 } else { 500 };
        let options = shard_options(window_len, Remainder::Pad(PAD), vocab_size);
        let mut writer = ShardWriter::create(folder.path(), options).unwrap();
        for tokens in &documents {
            writer.push(tokens, EOS, tokens.len()).unwrap();
        }
        let memory = packed(&documents, window_len, Remainder::Pad(PAD));
        if documents.is_empty() {
            prop_assert!(writer.finish().is_err());
            return Ok(());
        }
        let manifest = writer.finish().unwrap();
        prop_assert_eq!(manifest.documents, documents.len());
        prop_assert_eq!(manifest.padding, memory.padding());
        let mapped = Dataset::open(folder.path()).unwrap();
        mapped.verify().unwrap();
        prop_assert_eq!(mapped.windows(), memory.windows());
        for index in 0..memory.windows() {
            prop_assert_eq!(mapped.window(index).unwrap(), memory.window(index));
        }
    }

    #[test]
    fn samples_keep_their_flags_through_shards(
        turns in prop::collection::vec(
            (prop::collection::vec(10u32..500, 1..9), any::<bool>()), 1..9),
        window_len in 1usize..20, seed in any::<u64>(),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let options = shard_options(window_len, Remainder::Pad(PAD), 500);
        let mut writer = ShardWriter::create(folder.path(), options).unwrap();
        let (mut tokens, mut flags) = (vec![], vec![]);
        for number in 0..3 {
            let turns = turns.iter().map(|(tokens, supervised)| (tokens.as_slice(), *supervised));
            let mut sample = Sample::from_turns(turns);
            sample.end(EOS, seed, number);
            writer.push_sample(&sample, 0).unwrap();
            tokens.extend(&sample.tokens);
            flags.extend(&sample.supervised);
        }
        let padding = writer.finish().unwrap().padding;
        tokens.resize(tokens.len() + padding, PAD);
        flags.resize(flags.len() + padding, false);
        let dataset = Dataset::open(folder.path()).unwrap();
        dataset.verify().unwrap();
        let windows: Vec<_> = dataset.iter().map(Result::unwrap).collect();
        prop_assert_eq!(windows.iter().flat_map(|w| w.tokens.clone()).collect::<Vec<_>>(), tokens);
        prop_assert_eq!(windows.iter().flat_map(|w| w.eligible.clone()).collect::<Vec<_>>(), flags);
    }

    #[test]
    fn a_resumed_cursor_gives_the_rows_of_an_unbroken_run(
        windows in 1usize..20, seed in any::<u64>(), splits in prop::collection::vec(1usize..9, 1..9),
    ) {
        let documents: Vec<_> = (0..windows as u32).map(|id| vec![10 + id, 11, 12]).collect();
        let dataset = || Dataset::from_packed(packed(&documents, 4, Remainder::Drop), 500).unwrap();
        let total = size(splits.iter().sum());
        let whole = Batches::new(dataset(), seed).unwrap().rows(0, total).unwrap();
        let (mut cursor, mut parts) = (Cursor::default(), vec![]);
        for count in splits {
            // A new process: only the seed and the cursor, through JSON, are kept.
            let batches = Batches::new(dataset(), seed).unwrap();
            parts.extend(batches.take(&mut cursor, size(count)).unwrap());
            cursor = serde_json::from_str(&serde_json::to_string(&cursor).unwrap()).unwrap();
        }
        prop_assert_eq!(parts, whole);
    }

    #[test]
    fn every_epoch_sees_every_window_once(windows in 1usize..40, seed in any::<u64>()) {
        let documents: Vec<_> = (0..windows as u32).map(|id| vec![10 + id]).collect();
        let dataset = Dataset::from_packed(packed(&documents, 2, Remainder::Drop), 500).unwrap();
        let batches = Batches::new(dataset, seed).unwrap();
        for epoch in 0..3 {
            let rows = batches.rows(epoch, size(windows)).unwrap();
            let mut seen: Vec<_> = rows.iter().map(|row| row.window_index).collect();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..windows).collect::<Vec<_>>());
            let first = epoch * windows as u64;
            prop_assert!(rows.iter().zip(first..).all(|(row, number)| row.number == number));
        }
    }

    #[test]
    fn what_a_small_part_holds_out_a_larger_one_does_too(path in ".{0,20}", part in 0.0..1.0f64) {
        prop_assert!(!is_held_out(&path, 0.0) && is_held_out(&path, 1.0));
        prop_assert!(!is_held_out(&path, part) || is_held_out(&path, part + 0.1));
    }
}

#[test]
fn samples_end_with_one_to_four_end_tokens_equally_often() {
    let mut counts = [0usize; 5];
    for number in 0..4000 {
        let mut sample = Sample::default();
        sample.end(EOS, 5, number);
        assert!(sample.supervised.iter().all(|&supervised| supervised));
        counts[sample.tokens.len()] += 1;
    }
    assert_eq!(counts[0], 0);
    // Binomial with mean 1000 and deviation 27; 5 deviations.
    assert!(counts[1..].iter().all(|count| count.abs_diff(1000) < 137), "{counts:?}");
}

#[test]
fn another_seed_or_epoch_gives_another_order() {
    let documents: Vec<_> = (0..50).map(|id| vec![10 + id]).collect();
    let order = |seed, epoch| {
        let dataset = Dataset::from_packed(packed(&documents, 2, Remainder::Drop), 500).unwrap();
        let rows = Batches::new(dataset, seed).unwrap().rows(epoch, size(50)).unwrap();
        rows.iter().map(|row| row.window_index).collect::<Vec<_>>()
    };
    assert_ne!(order(1, 0), order(1, 1));
    assert_ne!(order(1, 0), order(2, 0));
    assert_eq!(order(1, 1), order(1, 1));
}

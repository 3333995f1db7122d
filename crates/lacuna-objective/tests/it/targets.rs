//! Checks which row predicts which token.

use lacuna_objective::{
    PassRows, Predicts, Row, Target, Targets, document_block_ranges, exact_passes, masked_targets,
    next_token_targets, predictable, rows_of,
};
use proptest::prelude::*;

const CLEAN: [u32; 6] = [10, 11, 12, 13, 14, 15];
const WEIGHTS: [f32; 6] = [2.0, 0.0, 1.0, 4.0, 0.0, 0.5];
const HEADS: [Predicts; 2] = [Predicts::Same, Predicts::Next];

fn rows(predicts: Predicts, clean_half: bool) -> PassRows {
    PassRows { window: 6, predicts, clean_half }
}

fn read(targets: &[Target]) -> Vec<(u32, u32)> {
    targets.iter().map(|target| (target.row, target.token)).collect()
}

#[test]
fn only_masked_positions_are_targets() {
    let blocks = [0..3, 3..6];
    let row = Row::new(&CLEAN, &[true; 6], &blocks).unwrap();
    let masked =
        |predicts, clean_half| masked_targets(row, &WEIGHTS, rows(predicts, clean_half), &[6]);
    for clean_half in [false, true] {
        let own = masked(Predicts::Same, clean_half);
        assert_eq!(read(&own), [(0, 10), (2, 12), (3, 13), (5, 15)]);
        let shown: Vec<_> = own.iter().map(|t| (t.weight, t.block, t.offset)).collect();
        assert_eq!(shown, [(2.0, 0, 0), (1.0, 0, 2), (4.0, 1, 0), (0.5, 1, 2)]);
    }
    // A shifted head reads a token off the position before, and nothing precedes a window's first token. A block's
    // first token is read off the clean row where there is one.
    assert_eq!(read(&masked(Predicts::Next, false)), [(1, 12), (2, 13), (4, 15)]);
    assert_eq!(read(&masked(Predicts::Next, true)), [(1, 12), (6 + 2, 13), (4, 15)]);
}

#[test]
fn autoregression_reads_each_eligible_token_off_the_one_before() {
    let eligible = [true, true, false, true, true, true];
    let whole = next_token_targets(&CLEAN, &predictable(&eligible, &[6]));
    assert_eq!(read(&whole), [(0, 11), (2, 13), (3, 14), (4, 15)]);
    assert!(whole.iter().all(|target| target.weight == 1.0));
    let apart = next_token_targets(&CLEAN, &predictable(&eligible, &[3, 3]));
    assert_eq!(read(&apart), [(0, 11), (3, 14), (4, 15)]);
    let both = Targets::of(apart.iter().chain(&whole));
    assert_eq!((rows_of(&apart), rows_of(&whole)), (vec![0, 3, 4], vec![0, 2, 3, 4]));
    assert_eq!(both.ids, [11, 14, 15, 11, 13, 14, 15]);
    assert_eq!(both.weights, [1.0; 7]);
}

proptest! {
    /// Wherever blocks and documents lie: a token is read off its own row, or off the one before it, which is clean
    /// exactly where it belongs to a block that is finished by then. Likelihoods read the same rows as training.
    #[test]
    fn training_and_likelihoods_read_a_token_off_one_and_the_same_row(
        documents in proptest::collection::vec(1usize..9, 1..4),
        block_size in 1usize..5,
        apart: bool,
    ) {
        let len = documents.iter().sum();
        let documents = if apart { documents } else { vec![len] };
        let blocks = document_block_ranges(&documents, block_size.try_into().unwrap());
        let clean: Vec<u32> = (100..).take(len).collect();
        let eligible = predictable(&vec![true; len], &documents);
        let row = Row::new(&clean, &eligible, &blocks).unwrap();
        for (predicts, clean_half) in HEADS.into_iter().flat_map(|p| [(p, false), (p, true)]) {
            let rows = PassRows { window: len, predicts, clean_half };
            let weights: Vec<f32> = eligible.iter().map(|e| f32::from(u8::from(*e))).collect();
            let trained = masked_targets(row, &weights, rows, &documents);
            prop_assert_eq!(trained.len(), eligible.iter().filter(|e| **e).count());
            for target in &trained {
                let start = blocks[target.block as usize].start;
                let position = start + target.offset as usize;
                prop_assert_eq!(target.token, clean[position]);
                let before = position - usize::from(predicts == Predicts::Next);
                let finished = clean_half && before < start;
                let expected = before + if finished { len } else { 0 };
                prop_assert_eq!(target.row as usize, expected);
            }
            for pass in exact_passes(row, 5).unwrap() {
                for target in pass.targets(row, rows) {
                    let same = trained.iter().find(|own| own.token == target.token).unwrap();
                    prop_assert_eq!((same.row, same.block, same.offset), (target.row, target.block, target.offset));
                }
            }
        }
    }
}

//! Checks that a sample's place in the run alone says what it is: whatever was read before, and whoever reads it.

use lacuna_data::{Batches, Cursor, Dataset, Packer, Remainder};
use lacuna_train::{Collective, ObjectiveKind};
use std::num::NonZeroUsize;

use super::laws::{objective, windows};

fn batches(n: u32) -> Batches {
    let mut packer = Packer::new(4.try_into().unwrap(), Remainder::Drop);
    (0..n).for_each(|window| packer.push(&[window % 90; 3], 99));
    Batches::new(Dataset::from_packed(packer.finish(), 100).unwrap(), 7).unwrap()
}

#[test]
fn any_place_is_gone_on_from_without_what_was_read_before_it() {
    let walked = batches(23);
    let mut cursor = Cursor::default();
    for first in (0..200u64).step_by(5) {
        let count = NonZeroUsize::new(5).unwrap();
        let rows = walked.take(&mut cursor, count).unwrap();
        // One who has read nothing has the same rows from the place alone.
        let mut place = walked.cursor(first);
        assert_eq!(batches(23).take(&mut place, count).unwrap(), rows);
        assert_eq!(place, cursor);
    }
    // A place that no walk would come to.
    let far = walked.row(1 << 60).unwrap();
    assert_eq!(far, batches(23).row(1 << 60).unwrap());
    assert_eq!(walked.cursor(1 << 60).epoch, (1 << 60) / 23);
}

#[test]
fn every_number_of_ranks_and_micro_batches_reads_the_same_samples() {
    for kind in [ObjectiveKind::BlockDiffusion, ObjectiveKind::FullDiffusion] {
        let objective = objective(kind);
        let examples = || objective.examples(&windows(8), 3, 12, 5).unwrap();
        let inputs = |examples: &[lacuna_train::Example]| -> Vec<_> {
            examples.iter().map(|e| (e.input.clone(), e.targets.clone(), e.address)).collect()
        };
        let whole = inputs(&examples());
        for size in [1, 2, 4] {
            for micro_batch_size in [1, 2] {
                let ranks = Collective::threads(size.try_into().unwrap());
                // Every rank forms all examples, and takes its share of the micro-batches.
                let taken = ranks.iter().flat_map(|rank| {
                    let examples = examples();
                    let micro: Vec<_> = examples.chunks(micro_batch_size).map(inputs).collect();
                    micro[rank.share(micro.len())].concat()
                });
                assert!(taken.collect::<Vec<_>>() == whole, "{size} ranks");
            }
        }
    }
}

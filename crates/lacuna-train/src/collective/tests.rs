//! Tests of what ranks say to each other.

use super::*;
use std::thread;

fn ranks(size: usize) -> Vec<Collective> {
    Collective::threads(size.try_into().unwrap())
}

#[test]
fn every_micro_batch_is_taken_once_and_in_the_order_of_the_ranks() {
    for (size, micro_batches) in [(1, 5), (2, 2), (2, 5), (3, 1), (4, 10)] {
        let shares = ranks(size).into_iter().flat_map(|rank| rank.share(micro_batches));
        assert_eq!(shares.collect::<Vec<_>>(), (0..micro_batches).collect::<Vec<_>>());
    }
    assert_eq!(Collective::Alone.share(3), 0..3);
}

#[test]
fn each_rank_hears_each_in_their_order_whoever_comes_first() {
    thread::scope(|scope| {
        for rank in ranks(3) {
            scope.spawn(move || {
                let own = rank.rank() as u8;
                thread::sleep(std::time::Duration::from_millis(20 * (2 - u64::from(own))));
                let messages = (0..3).map(|to| vec![own, to]).collect();
                let heard = rank.exchange("here", messages).unwrap();
                assert_eq!(heard, [vec![0, own], vec![1, own], vec![2, own]]);
                assert_eq!(rank.gathered("all", &own).unwrap(), [0, 1, 2]);
                assert!(rank.any("any", own == 2).unwrap());
                assert_eq!(rank.told("word", || Ok("from here".to_owned())).unwrap(), "from here");
                assert_eq!(rank.told("nothing", || Ok(None::<u8>)).unwrap(), None);
            });
        }
    });
}

#[test]
fn a_rank_that_is_elsewhere_in_the_run_is_named() {
    let mut all = ranks(2);
    let (second, first) = (all.pop().unwrap(), all.pop().unwrap());
    // The seats live until both have heard.
    let (first, second) = thread::scope(|scope| {
        let second = scope.spawn(move || (second.any("there", false).unwrap_err(), second));
        let told = first.any("here", false).unwrap_err();
        (told.to_string(), second.join().unwrap().0.to_string())
    });
    assert!(first.contains("rank 1 is elsewhere"), "{first}");
    assert!(second.contains("rank 0 is elsewhere"), "{second}");
}

#[test]
fn a_rank_that_fails_or_panics_ends_the_others_although_its_seat_is_kept() {
    let all = ranks(2);
    assert!(all[0].guarded(|| Err::<(), _>(gone(1))).is_err());
    let told = all[1].any("stop", false).unwrap_err().to_string();
    assert!(told.contains("rank 0 has ended"), "{told}");
    let all = ranks(2);
    let part = std::panic::AssertUnwindSafe(|| all[1].guarded::<()>(|| panic!("a fault")));
    assert!(std::panic::catch_unwind(part).is_err());
    assert!(all[0].any("stop", false).is_err());
    assert_eq!(Collective::Alone.guarded(|| Ok(3)).unwrap(), 3);
}

#[test]
fn a_rank_that_has_ended_ends_the_others() {
    let mut all = ranks(2);
    drop(all.pop());
    let told = all[0].any("stop", false).unwrap_err().to_string();
    assert!(told.contains("rank 1") && told.contains("ended"), "{told}");
    let mut all = ranks(2);
    drop(all.remove(0));
    assert!(all[0].any("stop", false).is_err());
}

#[test]
fn a_process_that_no_launcher_has_started_is_alone() {
    assert!(matches!(Collective::launched(None, &Device::Cpu).unwrap(), Collective::Alone));
    let one = Launch { rank: 0, size: 1, local_rank: 0, launcher: Launcher::OpenMpi };
    assert!(matches!(Collective::launched(Some(&one), &Device::Cpu).unwrap(), Collective::Alone));
    let one_of_two = Launch { rank: 1, size: 2, local_rank: 1, launcher: Launcher::Torchrun };
    let told = Collective::launched(Some(&one_of_two), &Device::Cpu).unwrap_err().to_string();
    assert!(told.starts_with("rank 1 of 2 was started by torchrun"), "{told}");
}

//! Joins the ranks that share a run: each takes its part of every step, and all go on with the same sum.
//!
//! Every rank reads all windows and forms all examples of a step, because times are stratified over the whole of it;
//! it runs its share of the micro-batches. Sums are formed in the order of the ranks, so that they do not depend on who
//! is faster. The first rank alone writes anything.

use std::any::Any;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::mpsc::{Receiver, Sender, channel};

use crate::error::{Result, TrainError};

/// The ranks of a run, as one of them sees them.
#[derive(Debug, Default)]
#[non_exhaustive]
pub enum Collective {
    /// One process takes every step whole.
    #[default]
    Alone,
    /// This thread is one of several of its process that take each step together.
    Thread(Seat),
}

/// A thread's place among the ranks. Made by [`Collective::threads`].
#[derive(Debug)]
pub struct Seat {
    rank: usize,
    size: usize,
    /// Lines to every other rank in the first one's seat, and to the first one in the others'.
    lines: Vec<Line>,
}

/// A line between two ranks: the end that one speaks into, and the end that it hears the other from.
#[derive(Debug)]
struct Line {
    say: Sender<Message>,
    hear: Receiver<Message>,
}

type Message = Box<dyn Any + Send>;

impl Collective {
    /// The seats of `size` threads, first rank first.
    ///
    /// ```
    /// use lacuna_train::Collective;
    ///
    /// let sums = std::thread::scope(|scope| {
    ///     let ranks = Collective::threads(2.try_into().unwrap()).into_iter();
    ///     let threads: Vec<_> = ranks
    ///         .map(|rank| scope.spawn(move || rank.joined(rank.rank() + 1, |all| Ok(all.iter().sum()))))
    ///         .collect();
    ///     threads.into_iter().map(|thread| thread.join().unwrap().unwrap()).collect::<Vec<usize>>()
    /// });
    /// assert_eq!(sums, [3, 3]);
    /// ```
    pub fn threads(size: NonZeroUsize) -> Vec<Self> {
        let size = size.get();
        let (mut first, mut others) = (Vec::new(), Vec::new());
        for rank in 1..size {
            let ((say, heard), (answer, hear)) = (channel(), channel());
            first.push(Line { say, hear });
            let lines = vec![Line { say: answer, hear: heard }];
            others.push(Self::Thread(Seat { rank, size, lines }));
        }
        let first = Self::Thread(Seat { rank: 0, size, lines: first });
        std::iter::once(first).chain(others).collect()
    }

    /// This rank's number among the ranks, from 0.
    pub fn rank(&self) -> usize {
        match self {
            Self::Alone => 0,
            Self::Thread(seat) => seat.rank,
        }
    }

    /// The number of ranks.
    pub fn size(&self) -> usize {
        match self {
            Self::Alone => 1,
            Self::Thread(seat) => seat.size,
        }
    }

    /// True of the rank that writes: the run's folder, its checkpoints, its metrics.
    pub fn is_first(&self) -> bool {
        self.rank() == 0
    }

    /// The part of a step's micro-batches that this rank takes. Parts lie behind each other in the order of the
    /// ranks.
    pub fn share(&self, micro_batches: usize) -> Range<usize> {
        let end = |ranks: usize| micro_batches * ranks / self.size();
        end(self.rank())..end(self.rank() + 1)
    }

    /// Joins the parts of all ranks, in their order; every rank has the outcome.
    ///
    /// # Errors
    /// Errors if the parts can't be joined, or a rank has ended or is elsewhere in the run.
    pub fn joined<T: Clone + Send + 'static>(
        &self,
        own: T,
        join: impl FnOnce(Vec<T>) -> Result<T>,
    ) -> Result<T> {
        let lines = match self {
            Self::Alone => &[][..],
            Self::Thread(seat) if seat.rank > 0 => {
                seat.lines[0].say(0, own)?;
                return seat.lines[0].hear(0);
            }
            Self::Thread(seat) => &seat.lines,
        };
        let mut parts = vec![own];
        for (line, rank) in lines.iter().zip(1..) {
            parts.push(line.hear(rank)?);
        }
        let joined = join(parts)?;
        for (line, rank) in lines.iter().zip(1..) {
            line.say(rank, joined.clone())?;
        }
        Ok(joined)
    }

    /// Gives every rank the value that the first one finds.
    ///
    /// # Errors
    /// Errors if the first rank does, or a rank has ended or is elsewhere in the run.
    pub fn told<T: Clone + Send + 'static>(&self, find: impl FnOnce() -> Result<T>) -> Result<T> {
        let own = if self.is_first() { Some(find()?) } else { None };
        let told = self.joined(own, |mut parts| Ok(parts.swap_remove(0)))?;
        told.ok_or_else(|| gone(0))
    }

    /// Does this rank's whole part. If it fails or panics the others are told, so that none waits for it for ever.
    ///
    /// # Errors
    /// As `part`.
    pub(crate) fn guarded<T>(&self, part: impl FnOnce() -> Result<T>) -> Result<T> {
        let mut leaving = Leaving { collective: self, well: false };
        let outcome = part();
        leaving.well = outcome.is_ok();
        outcome
    }

    /// Tells whether any rank says yes.
    ///
    /// # Errors
    /// Errors if a rank has ended or is elsewhere in the run.
    pub fn any(&self, own: bool) -> Result<bool> {
        self.joined(own, |all| Ok(all.contains(&true)))
    }
}

/// A rank on its way out: it tells the others when it is dropped, unless it ended well.
struct Leaving<'a> {
    collective: &'a Collective,
    well: bool,
}

/// The last message of a rank that did not end well.
struct Ended;

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        if let (Collective::Thread(seat), false) = (self.collective, self.well) {
            for line in &seat.lines {
                // A rank that has gone itself need not hear it.
                let _ = line.say.send(Box::new(Ended));
            }
        }
    }
}

impl Line {
    fn say<T: Send + 'static>(&self, other: usize, message: T) -> Result<()> {
        self.say.send(Box::new(message)).map_err(|_| gone(other))
    }

    fn hear<T: 'static>(&self, other: usize) -> Result<T> {
        let message = self.hear.recv().map_err(|_| gone(other))?;
        if message.is::<Ended>() {
            return Err(gone(other));
        }
        message.downcast().map(|message| *message).map_err(|_| {
            let reason = "is elsewhere in the run; start all ranks with the same recipe";
            TrainError::Rank { rank: other, reason: reason.into() }
        })
    }
}

fn gone(rank: usize) -> TrainError {
    let reason = "has ended; its own words say why. Go on with --resume";
    TrainError::Rank { rank, reason: reason.into() }
}

#[cfg(test)]
mod tests {
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
    fn parts_are_joined_in_the_order_of_the_ranks_whoever_comes_first() {
        thread::scope(|scope| {
            for rank in ranks(3) {
                scope.spawn(move || {
                    thread::sleep(std::time::Duration::from_millis(20 * (2 - rank.rank() as u64)));
                    let all = rank.joined(vec![rank.rank()], |parts| Ok(parts.concat())).unwrap();
                    assert_eq!(all, [0, 1, 2]);
                    assert!(rank.any(rank.rank() == 2).unwrap());
                    assert_eq!(rank.told(|| Ok("from here")).unwrap(), "from here");
                });
            }
        });
    }

    #[test]
    fn a_rank_that_fails_or_panics_ends_the_others_although_its_seat_is_kept() {
        let all = ranks(2);
        assert!(all[0].guarded(|| Err::<(), _>(gone(1))).is_err());
        let told = all[1].any(false).unwrap_err().to_string();
        assert!(told.contains("rank 0 has ended"), "{told}");
        let all = ranks(2);
        let part = std::panic::AssertUnwindSafe(|| all[1].guarded::<()>(|| panic!("a fault")));
        assert!(std::panic::catch_unwind(part).is_err());
        assert!(all[0].any(false).is_err());
        assert_eq!(Collective::Alone.guarded(|| Ok(3)).unwrap(), 3);
    }

    #[test]
    fn a_rank_that_has_ended_ends_the_others() {
        let mut all = ranks(2);
        drop(all.pop());
        let told = all[0].any(false).unwrap_err().to_string();
        assert!(told.contains("rank 1") && told.contains("ended"), "{told}");
        let mut all = ranks(2);
        drop(all.remove(0));
        assert!(all[0].any(false).is_err());
    }
}

//! Joins the ranks that share a run: each takes its part of every step, and all go on with the same sum.
//!
//! Every rank reads all windows and forms all examples of a step, because times are stratified over the whole of it;
//! it runs its share of the micro-batches. Sums are formed in one fixed order of the micro-batches, so that neither the
//! number of ranks nor their speed changes a bit. The first rank alone writes anything.
//!
//! Ranks agree on everything by one operation, in which every rank gives every other one a message and takes one
//! ([`Collective::exchange`]), so that all that an engine has to do is carry bytes.

use candle_core::Device;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::num::NonZeroUsize;
use std::ops::Range;

use crate::error::{Result, TrainError};

mod launch;
#[cfg(feature = "mpi")]
mod mpi;
#[cfg(feature = "nccl")]
mod nccl;
#[cfg(any(test, feature = "nccl"))]
mod rendezvous;
pub(crate) mod shards;
mod threads;
pub(crate) mod tree;

pub use launch::{Launch, Launcher};
#[cfg(feature = "mpi")]
pub use mpi::MpiSeat;
#[cfg(feature = "nccl")]
pub use nccl::NcclSeat;
pub use threads::Seat;

/// The ranks of a run, as one of them sees them.
#[derive(Debug, Default)]
#[non_exhaustive]
pub enum Collective {
    /// One process takes every step whole.
    #[default]
    Alone,
    /// This thread is one of several of its process that take each step together.
    Thread(Seat),
    /// This process is one of several, on one machine or many, that MPI joins.
    #[cfg(feature = "mpi")]
    Mpi(MpiSeat),
    /// This process is one of several with a GPU each, that NCCL joins.
    #[cfg(feature = "nccl")]
    Nccl(NcclSeat),
}

impl Collective {
    /// The seats of `size` threads, first rank first.
    ///
    /// ```
    /// use lacuna_train::Collective;
    ///
    /// let all = std::thread::scope(|scope| {
    ///     let ranks = Collective::threads(2.try_into().unwrap()).into_iter();
    ///     let threads: Vec<_> = ranks
    ///         .map(|rank| scope.spawn(move || rank.gathered("numbers", &rank.rank())))
    ///         .collect();
    ///     threads.into_iter().map(|thread| thread.join().unwrap().unwrap()).collect::<Vec<_>>()
    /// });
    /// assert_eq!(all, [[0, 1], [0, 1]]);
    /// ```
    pub fn threads(size: NonZeroUsize) -> Vec<Self> {
        threads::seats(size.get()).into_iter().map(Self::Thread).collect()
    }

    /// The seat that a launcher has given this process: alone unless it is one of several, which
    /// [`Launch::from_environment`] tells. `device` is the one that the rank trains on.
    ///
    /// # Errors
    /// Errors if it is one of several and this build can't join them as they were started.
    pub fn launched(launch: Option<&Launch>, device: &Device) -> Result<Self> {
        let Some(launch) = launch.filter(|launch| launch.size > 1) else {
            return Ok(Self::Alone);
        };
        #[cfg(feature = "mpi")]
        if launch.launcher.speaks_mpi() {
            return mpi::seat(launch).map(Self::Mpi);
        }
        #[cfg(feature = "nccl")]
        if launch.launcher == Launcher::Torchrun {
            return nccl::seat(launch, device).map(Self::Nccl);
        }
        // Engines that need no device, and builds without any.
        let _ = device;
        Err(TrainError::Rank { rank: launch.rank, reason: launch.obstacle() })
    }

    /// This rank's number among the ranks, from 0.
    pub fn rank(&self) -> usize {
        match self {
            Self::Alone => 0,
            Self::Thread(seat) => seat.rank(),
            #[cfg(feature = "mpi")]
            Self::Mpi(seat) => seat.rank(),
            #[cfg(feature = "nccl")]
            Self::Nccl(seat) => seat.rank(),
        }
    }

    /// The number of ranks.
    pub fn size(&self) -> usize {
        match self {
            Self::Alone => 1,
            Self::Thread(seat) => seat.size(),
            #[cfg(feature = "mpi")]
            Self::Mpi(seat) => seat.size(),
            #[cfg(feature = "nccl")]
            Self::Nccl(seat) => seat.size(),
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

    /// Gives every rank the message that this one has for it (in their order, its own included), and returns those
    /// that they have for this one. `place` names the point of the run, which must be the same on all ranks.
    ///
    /// # Errors
    /// Errors if a rank has ended or is elsewhere in the run.
    pub fn exchange(&self, place: &'static str, messages: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>> {
        assert_eq!(messages.len(), self.size(), "a message for each rank");
        match self {
            Self::Alone => Ok(messages),
            Self::Thread(seat) => seat.exchange(place, messages),
            #[cfg(feature = "mpi")]
            Self::Mpi(seat) => seat.exchange(place, messages),
            #[cfg(feature = "nccl")]
            Self::Nccl(seat) => seat.exchange(place, messages),
        }
    }

    /// The values of all ranks, in their order. Floats are not carried exactly: send their bits.
    ///
    /// # Errors
    /// As [`exchange`](Self::exchange).
    pub fn gathered<T>(&self, place: &'static str, own: &T) -> Result<Vec<T>>
    where
        T: Serialize + DeserializeOwned,
    {
        let bytes = serde_json::to_vec(own).expect("a value without maps of odd keys serializes");
        let all = self.exchange(place, vec![bytes; self.size()])?;
        let read = |(rank, bytes): (usize, &Vec<u8>)| {
            serde_json::from_slice(bytes).map_err(|_| elsewhere(rank))
        };
        all.iter().enumerate().map(read).collect()
    }

    /// Gives every rank the value that the first one finds.
    ///
    /// # Errors
    /// Errors if the first rank does, or a rank has ended or is elsewhere in the run.
    pub fn told<T>(&self, place: &'static str, find: impl FnOnce() -> Result<T>) -> Result<T>
    where
        T: Serialize + DeserializeOwned,
    {
        // In a list, so that a value that is nothing differs from no value.
        let mut own = Vec::new();
        if self.is_first() {
            own.push(find()?);
        }
        let told = self.gathered(place, &own)?.swap_remove(0);
        // The first rank's own value needs no way through bytes.
        own.into_iter().chain(told).next().ok_or_else(|| gone(0))
    }

    /// Tells whether any rank says yes.
    ///
    /// # Errors
    /// As [`exchange`](Self::exchange).
    pub fn any(&self, place: &'static str, own: bool) -> Result<bool> {
        Ok(self.gathered(place, &own)?.contains(&true))
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

    /// Ends all processes of the run with a status, after this one has said why it can't go on. Returns where there
    /// is no other process.
    pub fn end_all(&self, status: i32) {
        match self {
            Self::Alone | Self::Thread(_) => {}
            #[cfg(feature = "mpi")]
            Self::Mpi(seat) => seat.end_all(status),
            // torchrun ends the others when one has ended.
            #[cfg(feature = "nccl")]
            Self::Nccl(_) => {}
        }
        let _ = status;
    }
}

/// A rank on its way out: it tells the others when it is dropped, unless it ended well.
struct Leaving<'a> {
    collective: &'a Collective,
    well: bool,
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        match self.collective {
            _ if self.well => {}
            Collective::Alone => {}
            Collective::Thread(seat) => seat.leave(),
            #[cfg(feature = "mpi")]
            Collective::Mpi(seat) => seat.leave(),
            // The communicator is aborted when it is dropped.
            #[cfg(feature = "nccl")]
            Collective::Nccl(_) => {}
        }
    }
}

fn gone(rank: usize) -> TrainError {
    let reason = "has ended; its own words say why. Go on with --resume";
    TrainError::Rank { rank, reason: reason.into() }
}

fn elsewhere(rank: usize) -> TrainError {
    let reason = "is elsewhere in the run; start all ranks with the same program and recipe";
    TrainError::Rank { rank, reason: reason.into() }
}

#[cfg(test)]
mod tests;

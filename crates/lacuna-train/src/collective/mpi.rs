//! Carries messages between processes by MPI.

use mpi::Threading;
use mpi::environment::Universe;
use mpi::point_to_point::{Message, Status};
use mpi::request::{Request, scope};
use mpi::topology::{Process, SimpleCommunicator};
use mpi::traits::*;
use std::cell::Cell;
use std::thread;
use std::time::{Duration, Instant};

use super::{Launch, elsewhere};
use crate::error::{Result, TrainError};

/// A process's place among those that MPI has joined. Dropping it leaves MPI, which waits for all; after a failure it
/// ends them all instead.
pub struct MpiSeat {
    world: SimpleCommunicator,
    failed: Cell<bool>,
    /// Held to its end: dropping it leaves MPI.
    _universe: Universe,
}

/// The most bytes of one MPI message, whose counts are of 31 bits.
const CHUNK: usize = 1 << 26;

/// The status with which all processes end where one of them can't say which.
const FAILED: i32 = 1;

/// Joins the processes that a launcher has started.
pub(super) fn seat(launch: &Launch) -> Result<MpiSeat> {
    let refuse = |reason: String| Err(TrainError::Rank { rank: launch.rank, reason });
    let Some((universe, _)) = mpi::initialize_with_threading(Threading::Funneled) else {
        return refuse("has joined MPI already".into());
    };
    let world = universe.world();
    let seen = world.size() as usize;
    if seen != launch.size {
        let by = launch.launcher.name();
        return refuse(format!(
            "of {} was started by {by}, and MPI sees {seen}: the launcher is not that of the MPI library that this \
             build is linked with; with SLURM try srun --mpi=pmix (srun --mpi=list names what there is)",
            launch.size
        ));
    }
    Ok(MpiSeat { world, failed: Cell::new(false), _universe: universe })
}

impl MpiSeat {
    pub(super) fn rank(&self) -> usize {
        self.world.rank() as usize
    }

    pub(super) fn size(&self) -> usize {
        self.world.size() as usize
    }

    pub(super) fn exchange(
        &self,
        place: &'static str,
        messages: Vec<Vec<u8>>,
    ) -> Result<Vec<Vec<u8>>> {
        let own = self.rank();
        let heads: Vec<Vec<u8>> = messages.iter().map(|message| head(place, message)).collect();
        let others = || (0..self.size()).filter(|rank| *rank != own);
        let mut received = vec![Vec::new(); messages.len()];
        scope(|scope| {
            let mut sent = Vec::new();
            for rank in others() {
                let to = self.world.process_at_rank(rank as i32);
                sent.push(to.immediate_send(scope, heads[rank].as_slice()));
                let chunks = messages[rank].chunks(CHUNK);
                sent.extend(chunks.map(|chunk| to.immediate_send(scope, chunk)));
            }
            let outcome: Result<()> = others().try_for_each(|rank| {
                received[rank] = receive(self.world.process_at_rank(rank as i32), place)
                    .ok_or_else(|| elsewhere(rank))?;
                Ok(())
            });
            if outcome.is_err() {
                // Messages on their way may never be taken: their buffers can't be given up, and the run is over.
                self.failed.set(true);
                self.end_all(FAILED);
            }
            sent.into_iter().for_each(finish);
            outcome
        })?;
        received[own] = messages.into_iter().nth(own).expect("a message for each rank");
        Ok(received)
    }

    /// Remembers that this rank did not end well, so that it waits for nobody. A panic has been told by now.
    pub(super) fn leave(&self) {
        self.failed.set(true);
        if thread::panicking() {
            self.world.abort(FAILED);
        }
    }

    pub(super) fn end_all(&self, status: i32) {
        self.failed.set(true);
        if self.rank() > 0 {
            // The first rank has the run's folder, and may be writing down why it ends.
            thread::sleep(Duration::from_secs(2));
        }
        self.world.abort(status);
    }
}

impl Drop for MpiSeat {
    fn drop(&mut self) {
        if self.failed.get() {
            self.end_all(FAILED);
        }
    }
}

impl std::fmt::Debug for MpiSeat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MpiSeat").field("rank", &self.rank()).field("size", &self.size()).finish()
    }
}

/// A message's length and the point of the run that it belongs to.
fn head(place: &str, message: &[u8]) -> Vec<u8> {
    [&(message.len() as u64).to_le_bytes(), place.as_bytes()].concat()
}

/// A message of another rank; `None` if it belongs to another point of the run.
fn receive(from: Process<'_>, place: &str) -> Option<Vec<u8>> {
    let (message, status) = awaited(&from);
    let mut head = vec![0; bytes(&status)];
    message.matched_receive_into(head.as_mut_slice());
    let (length, theirs) = head.split_first_chunk::<8>()?;
    if theirs != place.as_bytes() {
        return None;
    }
    let mut received = vec![0; u64::from_le_bytes(*length) as usize];
    for chunk in received.chunks_mut(CHUNK) {
        let (message, _) = awaited(&from);
        message.matched_receive_into(chunk);
    }
    Some(received)
}

fn bytes(status: &Status) -> usize {
    status.count(u8::equivalent_datatype()) as usize
}

/// Waits for a message without keeping a core busy, as MPI's own waiting does: the first rank may be scoring held-out
/// text for minutes.
fn awaited(from: &Process<'_>) -> (Message, Status) {
    let mut patience = Patience::default();
    loop {
        match from.immediate_matched_probe() {
            Some(found) => return found,
            None => patience.wait(),
        }
    }
}

/// Waits until a message has been taken.
fn finish<'a, S: mpi::request::Scope<'a>>(mut request: Request<'a, [u8], S>) {
    let mut patience = Patience::default();
    while let Err(unfinished) = request.test() {
        request = unfinished;
        patience.wait();
    }
}

/// Waits a little longer each time, after a first moment in which it only yields.
struct Patience {
    began: Instant,
}

impl Default for Patience {
    fn default() -> Self {
        Self { began: Instant::now() }
    }
}

impl Patience {
    fn wait(&mut self) {
        match self.began.elapsed() {
            young if young < Duration::from_millis(20) => thread::yield_now(),
            old => thread::sleep((old / 100).min(Duration::from_millis(20))),
        }
    }
}

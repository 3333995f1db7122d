//! Says what became of a program.

use std::time::Duration;

use crate::Missing;

/// The way a program ended, with what it used and wrote. Nothing that it started is left.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Report {
    /// The first process's own end.
    pub end: End,
    /// The limit for which the program was ended, if it was.
    pub limit: Option<Limit>,
    /// Standard output, cut off at [`Limits::output_bytes`](crate::Limits::output_bytes).
    pub stdout: Vec<u8>,
    /// Standard error, cut off likewise.
    pub stderr: Vec<u8>,
    /// Time on the clock.
    pub wall_time: Duration,
    /// Time of the processor, of all threads, and of all processes that were waited for.
    pub cpu_time: Duration,
    /// The most memory that a process held at once. If the caller holds more than the program does, the program is looked
    /// at every 20 ms, and a shorter peak is missed: this is 0 of one that ended sooner.
    pub peak_memory_bytes: u64,
    /// The parts of the policy that this kernel could not enforce: empty unless the caller insisted with
    /// [`Policy::unsafe_execution`](crate::Policy::unsafe_execution).
    pub not_enforced: Vec<Missing>,
}

impl Report {
    /// Tells whether the program ended by itself with status 0.
    #[must_use]
    pub fn succeeded(&self) -> bool {
        self.end == End::Exited(0) && self.limit.is_none()
    }
}

/// The way a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// By itself, with this status.
    Exited(i32),
    /// By the signal of this number.
    Signalled(i32),
}

/// A limit that ended a program. The names are those of [`Limits`](crate::Limits).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Limit {
    /// It took too long.
    WallTime,
    /// It computed too long.
    CpuTime,
    /// Its processes held too much together ([`Policy::spawn`](crate::Policy::spawn)). Otherwise an allocation fails
    /// inside the program, which may go on.
    Memory,
    /// It wrote too much to its output or its errors.
    Output,
    /// It wrote a file that is too large, and did not ask to survive that. (Python does: there it is an `OSError`.)
    FileSize,
    /// Its folder grew too large, or holds too many files.
    Folder,
    /// It had too many threads and processes.
    Tasks,
}

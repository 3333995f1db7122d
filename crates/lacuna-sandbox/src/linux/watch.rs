//! Watches a program until it ends or a limit is hit: feeds it, listens to it, counts what it uses.

use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use super::sys::{Child, Requests, Waiting, wait_for};
use super::usage::{self, Usage};
use super::{folder, modes};
use crate::{Limit, Limits};

/// The time between two looks at what the program uses.
const LOOK: Duration = Duration::from_millis(20);

/// A folder is measured so rarely that it takes one part in this many of the time.
const MEASURING_SHARE: u32 = 10;

/// A pipe that is ready takes as many bytes without making its writer wait.
const PIPE_TAKES: usize = 4096;

/// The caller's ends of a program.
pub(super) struct Pipes {
    pub(super) stdin: Option<PipeWriter>,
    /// The end that the program reads from. While somebody could read, writing raises no signal.
    pub(super) _stdin_reader: PipeReader,
    pub(super) stdout: Option<PipeReader>,
    pub(super) stderr: Option<PipeReader>,
}

/// A program to be watched, and the rules for it.
pub(super) struct Watch<'a> {
    pub(super) child: &'a Child,
    /// True if `child` keeps others, which are counted in its place.
    pub(super) is_keeper: bool,
    pub(super) folder: Option<&'a Path>,
    /// The calls that the caller is asked about.
    pub(super) requests: Option<&'a Requests>,
    pub(super) limits: &'a Limits,
    pub(super) started: Instant,
}

/// All that was seen of a program.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) limit: Option<Limit>,
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: Vec<u8>,
    pub(super) peak_memory_bytes: u64,
}

/// Watches until the child ends or hits a limit. It is not ended here.
pub(super) fn watch(watch: &Watch, pipes: &mut Pipes, stdin: &[u8]) -> io::Result<Seen> {
    let (mut seen, mut rest) = (Seen::default(), stdin);
    let (mut next_look, mut next_measure) = (watch.started + LOOK, watch.started + LOOK);
    while seen.limit.is_none() {
        if rest.is_empty() {
            pipes.stdin = None;
        }
        let now = Instant::now();
        let Some(left) = watch.limits.wall_time.checked_sub(now - watch.started) else {
            seen.limit = Some(Limit::WallTime);
            break;
        };
        let pause = left.min(next_look.saturating_duration_since(now));
        let [can_write, has_output, has_errors, has_ended, has_asked] = ready(watch, pipes, pause)?;
        if can_write {
            rest = feed(pipes.stdin.as_mut(), rest)?;
        }
        listen(pipes, [has_output, has_errors], watch.limits, &mut seen)?;
        if has_ended {
            break;
        }
        if has_asked && let (Some(requests), Some(folder)) = (watch.requests, watch.folder) {
            modes::answer(requests, folder);
        }
        let now = Instant::now();
        if now >= next_look {
            next_look = now + LOOK;
            seen.look(watch);
        }
        if now >= next_measure
            && let Some(folder) = watch.folder
        {
            seen.measure(folder, watch.limits);
            next_measure = Instant::now() + LOOK.max(now.elapsed() * MEASURING_SHARE);
        }
    }
    Ok(seen)
}

/// Waits until there is something to do: with standard input, output, errors, the program's end, a call of its.
fn ready(watch: &Watch, pipes: &Pipes, at_most: Duration) -> io::Result<[bool; 5]> {
    let stdin = pipes.stdin.as_ref().map(|pipe| Waiting::Writable(pipe.as_fd()));
    let asked = watch.requests.map(|asked| Waiting::Readable(asked.listener.as_fd()));
    let entries = [
        stdin.unwrap_or(Waiting::Nothing),
        readable(pipes.stdout.as_ref()),
        readable(pipes.stderr.as_ref()),
        Waiting::Readable(watch.child.handle.as_fd()),
        asked.unwrap_or(Waiting::Nothing),
    ];
    wait_for(entries, at_most)
}

/// Reads what an ended program has left in its pipes.
pub(super) fn drain(pipes: &mut Pipes, limits: &Limits, seen: &mut Seen) -> io::Result<()> {
    loop {
        let both = [readable(pipes.stdout.as_ref()), readable(pipes.stderr.as_ref())];
        let ready = wait_for(both, Duration::ZERO)?;
        if ready == [false; 2] || matches!(seen.limit, Some(Limit::Output)) {
            return Ok(());
        }
        listen(pipes, ready, limits, seen)?;
    }
}

fn readable(pipe: Option<&PipeReader>) -> Waiting<'_> {
    pipe.map_or(Waiting::Nothing, |pipe| Waiting::Readable(pipe.as_fd()))
}

/// Writes as much as a pipe that is ready takes, and returns the rest.
fn feed<'b>(pipe: Option<&mut PipeWriter>, bytes: &'b [u8]) -> io::Result<&'b [u8]> {
    let Some(pipe) = pipe else { return Ok(bytes) };
    let written = pipe.write(&bytes[..bytes.len().min(PIPE_TAKES)])?;
    Ok(&bytes[written..])
}

/// Reads from the pipes that are ready. One that has ended is dropped, one that brings too much is a limit hit.
fn listen(pipes: &mut Pipes, ready: [bool; 2], limits: &Limits, seen: &mut Seen) -> io::Result<()> {
    let Pipes { stdout, stderr, .. } = pipes;
    let streams = [(stdout, &mut seen.stdout), (stderr, &mut seen.stderr)];
    for ((pipe, text), is_ready) in streams.into_iter().zip(ready) {
        let Some(reader) = pipe.as_mut().filter(|_| is_ready) else { continue };
        let mut bytes = [0; 1 << 16];
        match reader.read(&mut bytes)? {
            0 => *pipe = None,
            read => text.extend_from_slice(&bytes[..read]),
        }
        if text.len() > limits.output_bytes {
            text.truncate(limits.output_bytes);
            seen.limit = Some(Limit::Output);
        }
    }
    Ok(())
}

impl Seen {
    /// Holds what the processes use against the limits.
    fn look(&mut self, watch: &Watch) {
        let pid = watch.child.pid;
        let usage =
            if watch.is_keeper { usage::of_descendants(pid) } else { usage::of_process(pid) };
        self.peak_memory_bytes = self.peak_memory_bytes.max(usage.peak_memory_bytes);
        if self.limit.is_none() {
            self.limit = exceeded(&usage, watch.limits);
        }
    }

    fn measure(&mut self, folder: &Path, limits: &Limits) {
        let fits = folder::contents(folder, limits.folder_entries).is_ok_and(|contents| {
            contents.bytes <= limits.folder_bytes && contents.entries <= limits.folder_entries
        });
        // A folder that the program has closed to the caller can't be measured: it counts as too large.
        if !fits && self.limit.is_none() {
            self.limit = Some(Limit::Folder);
        }
    }
}

fn exceeded(usage: &Usage, limits: &Limits) -> Option<Limit> {
    if usage.tasks > limits.tasks {
        Some(Limit::Tasks)
    } else if usage.memory_bytes > limits.memory_bytes {
        Some(Limit::Memory)
    } else if usage.cpu_time > limits.cpu_time {
        Some(Limit::CpuTime)
    } else {
        None
    }
}

//! Follows a fork from its start, of which it may fail to come, to its end, with everything that descends from it.

use std::io::{self, PipeReader, PipeWriter, Read};
use std::os::fd::AsFd;
use std::time::Duration;

use super::child::{FAILURE_BYTES, KeeperReport, Step};
use super::sys::{Child, Ended, Waiting, wait_for};
use crate::Error;

/// The time that a keeper has to end everything.
const ENDING: Duration = Duration::from_secs(10);

/// The caller's ends of a keeper's pipes.
pub(super) struct Keeper {
    /// Closed to have everything ended.
    pub(super) control: PipeWriter,
    pub(super) report: PipeReader,
}

/// A fork, and the keeper that it is if it may have descendants. Dropped, all of it is ended.
pub(super) struct Tree {
    pub(super) child: Child,
    pub(super) keeper: Option<Keeper>,
}

impl Tree {
    /// Ends everything that still runs, and says how the program ended.
    pub(super) fn end(&mut self) -> Result<Ended, Error> {
        let action = "wait for the program (a caller that ignores SIGCHLD can't)";
        let failed = |source| Error::System { action, source };
        let Some(Keeper { control, mut report }) = self.keeper.take() else {
            self.child.kill();
            return self.child.wait().map_err(failed);
        };
        drop(control);
        let [has_ended] =
            wait_for([Waiting::Readable(self.child.handle.as_fd())], ENDING).map_err(failed)?;
        if !has_ended {
            self.child.kill();
        }
        self.child.wait().map_err(failed)?;
        let mut bytes = Vec::new();
        report.read_to_end(&mut bytes).map_err(failed)?;
        let report = KeeperReport::of_bytes(&bytes).ok_or_else(|| Error::System {
            action: "end all that the program has started",
            source: io::Error::other(
                "the process that keeps them was killed; some of them may still run",
            ),
        })?;
        Ok(Ended {
            status: report.status,
            cpu_time: Duration::from_micros(report.cpu_us),
            peak_memory_bytes: report.peak_memory_kib * 1024,
        })
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        if !self.child.is_waited_for {
            let _ = self.end();
        }
    }
}

/// Waits until the program runs, or says which step on the way there failed.
pub(super) fn await_start(mut setup: PipeReader, at_most: Duration) -> Result<(), Error> {
    let failed = |source| Error::System { action: "start the program", source };
    let [is_ready] = wait_for([Waiting::Readable(setup.as_fd())], at_most).map_err(failed)?;
    if !is_ready {
        return Ok(()); // It has used up its time, which `watch` will find.
    }
    let mut bytes = Vec::new();
    setup.read_to_end(&mut bytes).map_err(failed)?;
    let Ok(bytes) = <[u8; FAILURE_BYTES]>::try_from(bytes) else { return Ok(()) };
    let [code, reason @ ..] = bytes;
    let (step, advice) = Step::of_code(code).map_or(("start the program", ""), words);
    Err(Error::Setup {
        step,
        source: io::Error::from_raw_os_error(i32::from_ne_bytes(reason)),
        advice,
    })
}

/// A step as it follows "could not", and what to do if it failed.
fn words(step: Step) -> (&'static str, &'static str) {
    match step {
        Step::Keeper => ("start the process that ends all others", ""),
        Step::Session => ("begin a session", ""),
        Step::Descriptors => (
            "close what the program must not inherit",
            "the caller's hard limit of open files has to be above the policy's",
        ),
        Step::Limits => ("set the limits", ""),
        Step::User => (
            "become an ordinary user",
            "in a container that maps other users name one of them with Policy::user, or do not call as root",
        ),
        Step::Capabilities => ("give up all capabilities", ""),
        Step::Death => ("end with the caller", ""),
        Step::Folder => (
            "use the folder as the program's user",
            "that user must be able to reach it and to write in it: chown it to the user of the policy (65534 unless \
             Policy::user says another, if the caller is root), outside of other users' private folders",
        ),
        Step::Privileges => ("give up gaining privileges", ""),
        Step::Landlock => (
            "enter Landlock's rules",
            "a caller that is itself inside of sixteen such sandboxes can't",
        ),
        Step::Seccomp => ("set the filters of system calls", ""),
        Step::Execute => (
            "run the program",
            "it must be an executable, no script (name its interpreter, and give it the script), that the program's \
             user may run",
        ),
    }
}

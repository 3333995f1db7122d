//! Says why a program was not run.

use std::path::PathBuf;

/// The reason why a program was not run, or why nothing can be said of how it ended. A program that ran and failed is a
/// [`Report`](crate::Report).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel can't enforce the policy.
    #[error(
        "nothing was run, since this machine can't enforce the sandbox: {}; Policy::unsafe_execution insists all the same",
        listed(missing)
    )]
    Missing {
        /// Each thing that it lacks.
        missing: Vec<Missing>,
    },
    /// The operating system is another one.
    #[error(
        "untrusted programs run on Linux only, since {system} has none of the mechanisms; use a container, a virtual \
         machine, or WSL 2 on Windows"
    )]
    Unsupported {
        /// Its name.
        system: &'static str,
    },
    /// The policy or the program names something that is not there or can't be used.
    #[error("{}: {reason}", path.display())]
    Path {
        /// The path.
        path: PathBuf,
        /// The reason, and what to do.
        reason: String,
    },
    /// The policy or the program can't be put into practice.
    #[error("{reason}")]
    Request {
        /// The reason, and what to do.
        reason: String,
    },
    /// The system refused a step between the fork and the program's first instruction. The program did not run.
    #[error("could not {step}: {source}{}", if advice.is_empty() { String::new() } else { format!("; {advice}") })]
    Setup {
        /// The step, as it follows "could not".
        step: &'static str,
        /// The system's reason.
        source: std::io::Error,
        /// Advice, or nothing.
        advice: &'static str,
    },
    /// The system refused something to the caller.
    #[error("could not {action}: {source}")]
    System {
        /// The attempt, as it follows "could not".
        action: &'static str,
        /// The system's reason.
        source: std::io::Error,
    },
}

/// A mechanism that a policy needs and the machine does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Missing {
    /// Landlock, which confines the file system.
    #[error(
        "Landlock is not in this kernel or not enabled at boot (Linux 5.13 or newer, `landlock` in the kernel parameter `lsm=`)"
    )]
    Landlock,
    /// The scopes of Landlock, by which processes that may signal each other reach nobody else, and by which all of them are ended.
    #[error(
        "Landlock has no scopes for signals here (ABI {abi}; Linux 6.12 or newer, ABI 6), which programs that start others need"
    )]
    LandlockScopes {
        /// The version of its interface.
        abi: u32,
    },
    /// Filters of system calls.
    #[error(
        "seccomp filters are not in this kernel, or a container forbids them (CONFIG_SECCOMP_FILTER)"
    )]
    Seccomp,
    /// Filters for this processor.
    #[error("there is no list of system calls for this processor (x86-64 and 64-bit ARM have one)")]
    Processor,
    /// The file system of processes, where memory and threads are counted.
    #[error(
        "/proc is not mounted, or does not list children (CONFIG_PROC_CHILDREN): memory and threads can't be counted"
    )]
    Proc,
}

fn listed(missing: &[Missing]) -> String {
    missing.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

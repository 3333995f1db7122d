//! Runs a program that nobody trusts, because a model or a stranger wrote it: as an ordinary user, under Landlock, seccomp
//! and limits. It needs no privilege, no namespace, no helper and no container, and works inside of one.
//!
//! ```
//! use std::time::Duration;
//! use lacuna_sandbox::{Limit, Policy, Program, run};
//!
//! let mut policy = Policy::function(); // no other process, no file written, no socket
//! policy.limits.wall_time = Duration::from_secs(5);
//! # if policy.check().is_err() || !std::path::Path::new("/usr/bin/python3").exists() { return Ok(()) }
//! let python = |code: &str| Program::new("/usr/bin/python3").args(["-I", "-c", code]);
//!
//! assert_eq!(run(&python("print(6 * 7)"), &policy)?.stdout, b"42\n");
//! assert!(!run(&python("import os; os.fork()"), &policy)?.succeeded());
//! assert_eq!(run(&python("while True: print('x')"), &policy)?.limit, Some(Limit::Output));
//! # Ok::<(), lacuna_sandbox::Error>(())
//! ```
//!
//! - [`Policy`]: what a program may do, by one of three profiles, and [`Limits`]: how much of it.
//! - [`Program`]: an executable with its arguments, variables and input. It is given nothing else.
//! - [`run`] gives a [`Report`]: the [`End`], the [`Limit`] that was hit, output, times, memory.
//! - [`Error`]: why nothing was run. A kernel that can't enforce all of a policy is a reason ([`Missing`] says what it
//!   lacks), unless the caller insists with [`Policy::unsafe_execution`].
//!
//! # The profiles
//!
//! | | [`function`](Policy::function) | [`files`](Policy::files) | [`spawn`](Policy::spawn) |
//! |---|---|---|---|
//! | for | a function and its tests | programs with files, event loops | compilers, scripts of a shell |
//! | threads, signals to itself, timers | yes | yes | yes |
//! | reads `/usr`, `/bin`, `/lib`, the program, [`Policy::readable`] | yes | yes | yes |
//! | makes and changes regular files and folders in one folder | no | yes | yes |
//! | `socketpair` of a stream, or of packets in order | no | yes | yes |
//! | starts other processes, signals them | no | no | yes |
//! | Linux | 5.13 | 5.13 | 6.12 |
//!
//! # What is prevented, and by what
//!
//! - Opening, making, renaming or removing any other file: Landlock. Owners and attributes of files, which Landlock leaves
//!   alone, modes and times outside of the folder, and files without a name, which no limit would count: seccomp.
//! - Sockets of every kind, also abstract ones, and datagrams from a `socketpair`: seccomp; TCP and abstract sockets by
//!   Landlock too, where it can.
//! - Signals to others, directly or by way of a file's owner (`F_SETOWN`): seccomp; in `spawn` Landlock's scope.
//! - Looking into others (`ptrace`, `/proc`): seccomp and Landlock. `io_uring`, `bpf`, `userfaultfd`, `keyctl`, `mount`,
//!   namespaces, and all calls that are not on a list: seccomp.
//! - Gaining rights: no new privileges by any executable, no capability, no group of root's. **A caller that is root** has the
//!   program run as user and group 65534 (`nobody`; [`Policy::user`] names another one), without supplementary groups;
//!   that user must be able to read the program and to write its folder.
//! - Running anything but the program: in `function` and `files` the only call that can run a file wants a descriptor that
//!   can't be had again.
//! - Inheriting: no open file, variable, signal's disposition or resource limit of the caller gets in, and no core dump out.
//! - Outliving the caller or the first process: in `function` and `files` there is one process, which dies with the caller's
//!   thread. In `spawn` a process in between adopts orphans, and ends everything by one signal, of which Landlock's scope says
//!   that it reaches all that descends from it and nothing else; `setsid`, double forks and fork bombs don't escape that.
//! - Leaving a trap for who reads the folder: no link, pipe, device, socket or set-id bit can be made there.
//! - Using up: address space, time of the processor, size of a file, open files by limits of the kernel; time on the clock,
//!   output, threads, memory of all processes together, and the folder's size by looking every 20 ms.
//!
//! # What is not prevented
//!
//! - Asking whether a file outside is there, its size and times, and where a link leads: no mechanism confines `stat`.
//! - Reading what is installed: whatever is a secret in `/usr`, or below a path of [`Policy::readable`], is none here.
//! - A folder beyond its size for the moment until it is measured, and by files that were deleted and are still open: at most
//!   `open_files` times `file_bytes` for each process. For a hard bound give a folder on a file system of that size.
//! - Buffers of pipes and sockets in `spawn`: each process may fill as many as it may open.
//! - Measuring: time, the load of the machine, caches of the processor. And faults of the kernel itself in the calls that are
//!   left; against those a virtual machine helps.
//! - In `files` and `spawn` the caller carries out `chmod` and changes of times, in the folder alone, when the program asks
//!   for them. It can't where it may not look into the program (root in a container without `CAP_SYS_PTRACE`), or where
//!   a sandbox around it is asked in the same way already. There they fail, and what GNU `ld` links is not executable.
//!
//! It knows Linux on x86-64 and 64-bit ARM; on macOS and Windows it compiles and refuses with a sentence. The crate starts
//! no thread and keeps no state.

#![deny(unsafe_code)]
#![cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "nothing is run there"))]

mod error;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(not(target_os = "linux"))]
#[path = "other.rs"]
mod linux;
mod policy;
mod program;
mod report;

pub use error::{Error, Missing};
use linux::missing;
pub use policy::{Limits, Policy};
pub use program::Program;
pub use report::{End, Limit, Report};

/// Runs a program under a policy, and returns when it has ended with everything that it started.
///
/// It forks the caller, so it takes longer the more memory that holds.
///
/// # Errors
///
/// [`Error::Missing`] if this kernel can't enforce the policy; the other variants if the program could not be started.
/// Nothing of it has run then. A program that fails is no error.
pub fn run(program: &Program, policy: &Policy) -> Result<Report, Error> {
    linux::run(program, policy)
}

//! Says what a program may do, and how much of it.

#[cfg(target_os = "linux")]
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use crate::Error;

/// The rules that a program runs under: a profile, the paths it may read, limits, and a user.
///
/// Made by one of its three profiles. Each lets a program read and map what is installed on the system (`/usr`, `/bin`,
/// `/lib`, `/nix/store`), use `/dev/null` and `/dev/urandom`, start threads, and nothing else that reaches out of it.
///
/// # Example: a second at most, and a library of your own to import from
///
/// ```
/// use std::time::Duration;
/// use lacuna_sandbox::Policy;
///
/// let mut policy = Policy::function().readable("/opt/benchmark/lib");
/// policy.limits.wall_time = Duration::from_secs(1);
/// ```
#[derive(Debug, Clone)]
pub struct Policy {
    /// The most that the program may use. Each profile begins with limits of its own.
    pub limits: Limits,
    pub(crate) profile: Profile,
    pub(crate) readable: Vec<PathBuf>,
    pub(crate) user: Option<User>,
    pub(crate) is_insisted: bool,
}

/// The kinds of program that the filters are made for.
#[derive(Debug, Clone)]
pub(crate) enum Profile {
    Function,
    Files(PathBuf),
    Spawn(PathBuf),
}

/// The one that a program runs as when the caller is root.
#[derive(Debug, Clone, Copy)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// `nobody` and `nogroup` of every distribution, mapped in every container that maps 65536 users.
#[cfg(target_os = "linux")]
pub(crate) const NOBODY: User = User { uid: 65534, gid: 65534 };

/// The most that a program may use of each thing; the crate's documentation says who enforces which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Time on the clock, from the start to the end of the last process.
    pub wall_time: Duration,
    /// Time of the processor, of all threads and processes together.
    pub cpu_time: Duration,
    /// Memory. Without other processes: address space, beyond which an allocation fails inside the program. In
    /// [`Policy::spawn`]: writable memory of each process, and what all of them hold together, beyond which they are ended.
    pub memory_bytes: u64,
    /// Bytes of standard output, and as many of standard error.
    pub output_bytes: usize,
    /// Bytes of one file.
    pub file_bytes: u64,
    /// Bytes of the writable folder, what was there before included.
    pub folder_bytes: u64,
    /// Files and folders in the writable folder.
    pub folder_entries: u64,
    /// Threads of all processes.
    pub tasks: u64,
    /// Open files of a process.
    pub open_files: u64,
}

impl Default for Limits {
    /// The limits of [`Policy::function`] and [`Policy::files`].
    fn default() -> Limits {
        Limits {
            wall_time: Duration::from_secs(10),
            cpu_time: Duration::from_secs(10),
            memory_bytes: 1 << 30,
            output_bytes: 1 << 20,
            file_bytes: 16 << 20,
            folder_bytes: 64 << 20,
            folder_entries: 10_000,
            tasks: 128,
            open_files: 64,
        }
    }
}

impl Limits {
    /// The limits of [`Policy::spawn`].
    fn of_compilers() -> Limits {
        Limits {
            wall_time: Duration::from_secs(60),
            cpu_time: Duration::from_secs(120),
            memory_bytes: 2 << 30,
            file_bytes: 256 << 20,
            folder_bytes: 512 << 20,
            tasks: 256,
            open_files: 256,
            ..Limits::default()
        }
    }
}

impl Policy {
    /// A program that computes: no process but itself, no file written, no socket of any kind.
    #[must_use]
    pub fn function() -> Policy {
        Policy::new(Profile::Function, Limits::default())
    }

    /// A program that also writes: below `folder`, which is its working directory, and connects two ends of its own
    /// with `socketpair`, as event loops do. No process but itself.
    ///
    /// It makes regular files and folders there and nothing else: no link, pipe, socket or device, so that whoever
    /// reads them afterwards is not led out of the folder.
    #[must_use]
    pub fn files(folder: impl Into<PathBuf>) -> Policy {
        Policy::new(Profile::Files(folder.into()), Limits::default())
    }

    /// Programs that start others, such as compilers: as [`Policy::files`], with processes. All of them end when the
    /// first one does, or a limit is hit.
    #[must_use]
    pub fn spawn(folder: impl Into<PathBuf>) -> Policy {
        Policy::new(Profile::Spawn(folder.into()), Limits::of_compilers())
    }

    fn new(profile: Profile, limits: Limits) -> Policy {
        Policy { limits, profile, readable: Vec::new(), user: None, is_insisted: false }
    }

    /// Lets the program read a file, or a folder with everything below it. May be called again.
    #[must_use]
    pub fn readable(mut self, path: impl Into<PathBuf>) -> Policy {
        self.readable.push(path.into());
        self
    }

    /// Names the user and group that the program runs as when the caller is root: without it 65534, `nobody`.
    /// A caller that is not root can't choose, and gets an error.
    #[must_use]
    pub fn user(mut self, uid: u32, gid: u32) -> Policy {
        self.user = Some(User { uid, gid });
        self
    }

    /// Insists on running the program where the kernel can't enforce all of the policy. [`Report::not_enforced`] then
    /// says what was missing. For machines that may be lost: a container or a virtual machine of its own.
    ///
    /// [`Report::not_enforced`]: crate::Report::not_enforced
    #[must_use]
    pub fn unsafe_execution(mut self) -> Policy {
        self.is_insisted = true;
        self
    }

    /// Makes the writable folder belong to the user that the program runs as, where the caller is root. Else that user is
    /// the caller, and there is nothing to do, as for a policy without a folder.
    ///
    /// # Errors
    ///
    /// If the system refuses, or the policy's user can't be had.
    pub fn give_folder(&self) -> Result<(), Error> {
        crate::linux::give_folder(self)
    }

    /// The folder that the program may write.
    #[cfg(target_os = "linux")]
    pub(crate) fn folder(&self) -> Option<&Path> {
        match &self.profile {
            Profile::Function => None,
            Profile::Files(folder) | Profile::Spawn(folder) => Some(folder),
        }
    }

    /// Asks whether this kernel can enforce the policy, without running anything.
    ///
    /// # Errors
    ///
    /// [`Error::Missing`] with everything that the kernel lacks.
    pub fn check(&self) -> Result<(), Error> {
        let missing = crate::missing(self);
        if missing.is_empty() { Ok(()) } else { Err(Error::Missing { missing }) }
    }
}

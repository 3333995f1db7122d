//! Changes modes and times of files in a program's folder, on the program's behalf.
//!
//! Landlock does not confine `chmod` and its like to a folder, and a filter can't read the path that they are given. So the
//! kernel stops a program that makes such a call and asks here. The call itself never goes on, for its path could have
//! changed by then: the file is opened as a mere place, looked at where it lies, and changed by that very descriptor.

use std::ffi::{CString, OsStr};
use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use landlock::PathFd;

use super::sys::{self, Request, Requests, TIMES_BYTES};

/// The longest path that the kernel takes, with its zero.
const PATH_BYTES: usize = 4096;

/// Bits of a mode that no file gets: whoever runs it later would become another.
const SET_ID_BITS: u64 = 0o6000;

/// A change that a program asks for.
enum Change {
    Mode(u32),
    /// Two times as `utimensat` takes them; none is now.
    Times(Option<[u8; TIMES_BYTES]>),
}

/// A file that a program names, as it is opened here and as it is called.
struct Named {
    opened: PathBuf,
    called: PathBuf,
}

/// Answers one request of a program's. `folder` holds no link in its path.
pub(super) fn answer(requests: &Requests, folder: &Path) {
    let Ok(request) = requests.next() else { return };
    let done = carry_out(requests, &request, folder);
    let refusal = done.err().map_or(0, |error| error.raw_os_error().unwrap_or(libc::EPERM));
    requests.answer(&request, refusal);
}

fn refused() -> io::Error {
    io::Error::from_raw_os_error(libc::EPERM)
}

fn carry_out(requests: &Requests, request: &Request, folder: &Path) -> io::Result<()> {
    let (file, change) = asked(request)?;
    // A program that has ended meanwhile may have left its number to another. And nothing is opened by a name outside.
    if !requests.is_waiting(request) || !file.called.starts_with(folder) {
        return Err(refused());
    }
    let place =
        PathFd::new(&file.opened).map_err(|_| io::Error::from_raw_os_error(libc::ENOENT))?;
    let place = format!("/proc/self/fd/{}", place.as_fd().as_raw_fd());
    // A link in the folder may have led out of it after all.
    if !fs::read_link(&place)?.starts_with(folder) {
        return Err(refused());
    }
    match change {
        Change::Mode(mode) => fs::set_permissions(place, Permissions::from_mode(mode)),
        Change::Times(times) => sys::set_times(&CString::new(place)?, times),
    }
}

/// The file and the change that a call means.
fn asked(request: &Request) -> io::Result<(Named, Change)> {
    let [first, second, third, ..] = request.args;
    match request.call {
        libc::SYS_fchmod => Ok((named(request, first, 0)?, mode(second)?)),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_chmod => Ok((named(request, libc::AT_FDCWD as u64, first)?, mode(second)?)),
        libc::SYS_fchmodat | libc::SYS_fchmodat2 => {
            Ok((named(request, first, second)?, mode(third)?))
        }
        libc::SYS_utimensat => Ok((named(request, first, second)?, times(request, third)?)),
        _ => Err(refused()),
    }
}

fn mode(mode: u64) -> io::Result<Change> {
    if mode & SET_ID_BITS == 0 { Ok(Change::Mode(mode as u32 & 0o1777)) } else { Err(refused()) }
}

fn times(request: &Request, address: u64) -> io::Result<Change> {
    let mut times = [0; TIMES_BYTES];
    if address == 0 {
        return Ok(Change::Times(None));
    }
    memory(request)?.read_exact_at(&mut times, address).map_err(|_| refused())?;
    Ok(Change::Times(Some(times)))
}

/// The file that a descriptor of the program's and the address of a path in its memory mean together.
fn named(request: &Request, descriptor: u64, address: u64) -> io::Result<Named> {
    let base = match descriptor as i32 {
        libc::AT_FDCWD => format!("/proc/{}/cwd", request.pid),
        descriptor => format!("/proc/{}/fd/{descriptor}", request.pid),
    };
    let called = fs::read_link(&base).map_err(|_| refused())?;
    let mut text = [0; PATH_BYTES];
    let read = if address == 0 {
        0
    } else {
        memory(request)?.read_at(&mut text, address).map_err(|_| refused())?
    };
    let path = text[..read].split(|byte| *byte == 0).next().unwrap_or_default();
    if path.is_empty() {
        return Ok(Named { opened: base.into(), called });
    }
    let called = plain(&called.join(OsStr::from_bytes(path)));
    Ok(Named { opened: called.clone(), called })
}

/// A path without `.` and `..`.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => {
                plain.pop();
            }
            Component::CurDir => {}
            other => plain.push(other),
        }
    }
    plain
}

/// The program's memory. A caller that is root without the capability to look into others gets none.
fn memory(request: &Request) -> io::Result<File> {
    File::open(format!("/proc/{}/mem", request.pid)).map_err(|_| refused())
}

//! Makes safe functions of the system calls that the caller's side needs and the standard library does not offer.

use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::null;
use std::time::Duration;

/// `LANDLOCK_CREATE_RULESET_VERSION`.
const RULESET_VERSION: u32 = 1;

/// The version of Landlock's interface; 0 if there is none.
pub(super) fn landlock_abi() -> u32 {
    // SAFETY: with this flag the call takes no memory and returns a number.
    let abi = unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, null::<u8>(), 0_usize, RULESET_VERSION)
    };
    u32::try_from(abi).unwrap_or(0)
}

/// Tells whether filters of system calls can be had, with the action that they need.
pub(super) fn has_seccomp() -> bool {
    let action: u32 = libc::SECCOMP_RET_ERRNO;
    // SAFETY: the call reads the four bytes of `action`.
    let answer = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &raw const action)
    };
    answer == 0
}

/// The three users of this process: real, effective, saved.
pub(super) fn users() -> [u32; 3] {
    let (mut real, mut effective, mut saved) = (0, 0, 0);
    // SAFETY: the call writes three numbers.
    unsafe { libc::getresuid(&raw mut real, &raw mut effective, &raw mut saved) };
    [real, effective, saved]
}

/// The ticks of a second in which the kernel counts time of the processor.
pub(super) fn ticks_per_second() -> u64 {
    // SAFETY: the call takes a number and returns one.
    u64::try_from(unsafe { libc::sysconf(libc::_SC_CLK_TCK) })
        .ok()
        .filter(|t| *t > 0)
        .unwrap_or(100)
}

/// The bytes of a page of memory.
pub(super) fn page_bytes() -> u64 {
    // SAFETY: the call takes a number and returns one.
    u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

/// Blocks all signals of this thread until it is dropped: a handler of the caller must not run in a forked child.
pub(super) struct SignalsBlocked {
    before: libc::sigset_t,
}

impl SignalsBlocked {
    pub(super) fn new() -> SignalsBlocked {
        let mut all = MaybeUninit::uninit();
        let mut before = MaybeUninit::uninit();
        // SAFETY: `sigfillset` writes the first set whole, `pthread_sigmask` the second.
        unsafe {
            libc::sigfillset(all.as_mut_ptr());
            libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
            SignalsBlocked { before: before.assume_init() }
        }
    }
}

impl Drop for SignalsBlocked {
    fn drop(&mut self) {
        // SAFETY: the set was written by the kernel.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.before, std::ptr::null_mut())
        };
    }
}

/// Something to wait for.
#[derive(Clone, Copy)]
pub(super) enum Waiting<'fd> {
    Readable(BorrowedFd<'fd>),
    Writable(BorrowedFd<'fd>),
    Nothing,
}

impl Waiting<'_> {
    fn entry(self) -> libc::pollfd {
        let (fd, events) = match self {
            Waiting::Readable(fd) => (fd.as_raw_fd(), libc::POLLIN),
            Waiting::Writable(fd) => (fd.as_raw_fd(), libc::POLLOUT),
            Waiting::Nothing => (-1, 0),
        };
        libc::pollfd { fd, events, revents: 0 }
    }
}

/// Waits until one of them is ready or has ended, or the time is over, and says which are.
pub(super) fn wait_for<const N: usize>(
    what: [Waiting; N],
    at_most: Duration,
) -> io::Result<[bool; N]> {
    let mut entries = what.map(Waiting::entry);
    let timeout = i32::try_from(at_most.as_micros().div_ceil(1000)).unwrap_or(i32::MAX);
    // SAFETY: `entries` is an array of N entries.
    let ready = unsafe { libc::poll(entries.as_mut_ptr(), N as libc::nfds_t, timeout) };
    if ready < 0 {
        let error = io::Error::last_os_error();
        return if error.kind() == io::ErrorKind::Interrupted {
            Ok([false; N])
        } else {
            Err(error)
        };
    }
    Ok(entries.map(|entry| entry.revents != 0))
}

/// A process that this one forked.
pub(super) struct Child {
    pub(super) pid: libc::pid_t,
    pub(super) handle: OwnedFd,
    pub(super) is_waited_for: bool,
}

/// The end of a process and what it used.
pub(super) struct Ended {
    pub(super) status: i32,
    pub(super) cpu_time: Duration,
    pub(super) peak_memory_bytes: u64,
}

impl Child {
    pub(super) fn kill(&self) {
        let handle = self.handle.as_raw_fd();
        // SAFETY: the call takes numbers and a null pointer. It fails if the process has ended, which is as good.
        unsafe {
            libc::syscall(libc::SYS_pidfd_send_signal, handle, libc::SIGKILL, null::<u8>(), 0)
        };
    }

    /// Waits until it ends.
    pub(super) fn wait(&mut self) -> io::Result<Ended> {
        let mut status = 0;
        let mut usage = MaybeUninit::<libc::rusage>::zeroed();
        loop {
            // SAFETY: the call writes a number and a structure of this type.
            let pid = unsafe { libc::wait4(self.pid, &raw mut status, 0, usage.as_mut_ptr()) };
            if pid == self.pid {
                break;
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                self.is_waited_for = true; // by somebody else
                return Err(error);
            }
        }
        self.is_waited_for = true;
        // SAFETY: all bits zero are a valid structure, and the kernel has written it.
        let usage = unsafe { usage.assume_init() };
        Ok(Ended {
            status,
            cpu_time: duration(usage.ru_utime) + duration(usage.ru_stime),
            peak_memory_bytes: u64::try_from(usage.ru_maxrss).unwrap_or(0) * 1024,
        })
    }
}

fn duration(time: libc::timeval) -> Duration {
    let seconds = Duration::from_secs(u64::try_from(time.tv_sec).unwrap_or(0));
    seconds + Duration::from_micros(u64::try_from(time.tv_usec).unwrap_or(0))
}

/// The two times of `utimensat`, each of seconds and nanoseconds.
pub(super) const TIMES_BYTES: usize = size_of::<[libc::timespec; 2]>();

/// Sets the times of a file: of the last access and the last change.
pub(super) fn set_times(path: &CStr, times: Option<[u8; TIMES_BYTES]>) -> io::Result<()> {
    let times = times.as_ref().map_or(null(), |times| times.as_ptr());
    // SAFETY: the path ends with a zero; the kernel reads so many bytes, whatever their alignment, and checks them.
    let answer = unsafe {
        libc::syscall(libc::SYS_utimensat, libc::AT_FDCWD, path.as_ptr(), times, 0_usize)
    };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Calls of programs, at which the kernel stops them and asks.
pub(super) struct Requests {
    pub(super) listener: OwnedFd,
}

/// A call that waits for an answer.
pub(super) struct Request {
    id: u64,
    pub(super) pid: u32,
    pub(super) call: libc::c_long,
    pub(super) args: [u64; 6],
}

impl Requests {
    /// Takes the listener that a fork has sent, if it has.
    pub(super) fn receive(from: BorrowedFd) -> Option<Requests> {
        let mut byte = 0_u8;
        let mut part = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
        let mut room = [0_u64; 4];
        let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
        // SAFETY: all bits zero are a valid message; its buffers are as long as is said and outlive the call. A message
        // with rights holds one descriptor, which the kernel has just opened for us.
        unsafe {
            let mut message: libc::msghdr = std::mem::zeroed();
            message.msg_iov = &raw mut part;
            message.msg_iovlen = 1;
            message.msg_control = room.as_mut_ptr().cast();
            message.msg_controllen = size_of_val(&room) as _;
            if libc::recvmsg(from.as_raw_fd(), &raw mut message, flags) != 1 {
                return None;
            }
            let rights = libc::CMSG_FIRSTHDR(&raw const message);
            if rights.is_null() || (*rights).cmsg_type != libc::SCM_RIGHTS {
                return None;
            }
            let descriptor = libc::CMSG_DATA(rights).cast::<i32>().read_unaligned();
            Some(Requests { listener: OwnedFd::from_raw_fd(descriptor) })
        }
    }

    /// The next call that waits. Without one, to ask the kernel could take for ever.
    pub(super) fn next(&self) -> io::Result<Request> {
        let listener = self.listener.as_raw_fd();
        let mut entry = Waiting::Readable(self.listener.as_fd()).entry();
        // SAFETY: one entry.
        unsafe { libc::poll(&raw mut entry, 1, 0) };
        if entry.revents & libc::POLLIN == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        // More than today's kernels write, should later ones write more.
        let mut room = [0_u64; 64];
        // SAFETY: the kernel wants zeros and writes one request, which begins with this structure.
        let request = unsafe {
            if libc::ioctl(listener, libc::SECCOMP_IOCTL_NOTIF_RECV, room.as_mut_ptr()) != 0 {
                return Err(io::Error::last_os_error());
            }
            room.as_ptr().cast::<libc::seccomp_notif>().read()
        };
        let libc::seccomp_notif { id, pid, data, .. } = request;
        Ok(Request { id, pid, call: data.nr.into(), args: data.args })
    }

    /// Tells whether the call still waits, so that its process is still the one of that number.
    pub(super) fn is_waiting(&self, request: &Request) -> bool {
        let (listener, id) = (self.listener.as_raw_fd(), request.id);
        // SAFETY: the call reads a number.
        unsafe { libc::ioctl(listener, libc::SECCOMP_IOCTL_NOTIF_ID_VALID, &raw const id) == 0 }
    }

    /// Has the call return 0, or fail for a reason.
    pub(super) fn answer(&self, request: &Request, refusal: i32) {
        let mut room = [0_u64; 64];
        let answer = libc::seccomp_notif_resp { id: request.id, val: 0, error: -refusal, flags: 0 };
        // SAFETY: the structure has room, and the kernel reads no more than there is. A program that has ended needs no
        // answer.
        unsafe {
            room.as_mut_ptr().cast::<libc::seccomp_notif_resp>().write(answer);
            libc::ioctl(
                self.listener.as_raw_fd(),
                libc::SECCOMP_IOCTL_NOTIF_SEND,
                room.as_mut_ptr(),
            );
        }
    }
}

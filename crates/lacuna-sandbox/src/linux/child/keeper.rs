//! Keeps the programs that may start others: a process between the caller and the first of them, which adopts every
//! orphan and ends all of them together.
//!
//! A process group does not hold what calls `setsid`, and a list of processes is old when it is read. But a process under a
//! Landlock rule that scopes signals reaches what descends from it and nothing else: its `kill(-1)` ends all of that in one
//! step, in which the kernel lets nobody fork. It keeps the rules of the module above.

use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::ptr::null_mut;

use libc::{c_int, c_long, pid_t};

use super::{
    Plan, Step, become_program, check, control, default_dispositions, enter, fork, last_error, tell,
};

/// The things that the keeper needs from before the fork.
pub(in crate::linux) struct KeeperPlan {
    /// Ends when the caller wants everything ended, or is dead.
    pub(in crate::linux) control: OwnedFd,
    /// Takes the report.
    pub(in crate::linux) report: OwnedFd,
    /// Landlock's rules for signals; without them, programs are ended one by one.
    pub(in crate::linux) scopes: Option<OwnedFd>,
}

/// The words of the keeper's last message.
const WORDS: usize = 3;

/// The keeper's last message, when everything has ended.
#[derive(Clone, Copy, Default)]
pub(in crate::linux) struct KeeperReport {
    /// The first program's status, as `wait` gives it.
    pub(in crate::linux) status: i32,
    /// Time of the processor of all that were waited for.
    pub(in crate::linux) cpu_us: u64,
    /// The most memory that one of them held.
    pub(in crate::linux) peak_memory_kib: u64,
}

impl KeeperReport {
    pub(in crate::linux) const BYTES: usize = WORDS * 8;

    fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&i64::from(self.status).to_ne_bytes());
        bytes[8..16].copy_from_slice(&self.cpu_us.to_ne_bytes());
        bytes[16..].copy_from_slice(&self.peak_memory_kib.to_ne_bytes());
        bytes
    }

    pub(in crate::linux) fn of_bytes(bytes: &[u8]) -> Option<KeeperReport> {
        let word = |index: usize| bytes.get(index * 8..index * 8 + 8)?.try_into().ok();
        Some(KeeperReport {
            status: i32::try_from(i64::from_ne_bytes(word(0)?)).ok()?,
            cpu_us: u64::from_ne_bytes(word(1)?),
            peak_memory_kib: u64::from_ne_bytes(word(2)?),
        })
    }
}

/// The keeper's own descriptors, moved to the first numbers; it keeps no other of the caller's.
const CONTROL: RawFd = 0;
const REPORT: RawFd = 1;

/// Becomes the keeper, starts the program, and ends when that has.
///
/// # Safety
///
/// Only in a fork, with all signals blocked.
pub(super) unsafe fn become_keeper(plan: &mut Plan, caller: pid_t) -> ! {
    // SAFETY: this is a fork, and these functions keep the module's rules.
    unsafe {
        let is_scoped = match settle(plan, caller) {
            Ok(is_scoped) => is_scoped,
            Err(reason) => {
                tell(plan, Step::Keeper, reason);
                libc::_exit(127)
            }
        };
        let keeper = libc::getpid();
        let mut handle = -1;
        let first = match fork(&raw mut handle) {
            0 => become_program(plan, keeper),
            -1 => {
                tell(plan, Step::Keeper, last_error());
                libc::_exit(127)
            }
            pid => pid as pid_t,
        };
        keep_only_own_descriptors(plan);
        let status = watch(first);
        let last = end_all(first, is_scoped);
        report(status.or(last).unwrap_or(libc::SIGKILL));
        libc::_exit(0)
    }
}

/// Adopts orphans, and shuts itself in with its signals. Says whether those are kept in.
unsafe fn settle(plan: &Plan, caller: pid_t) -> Result<bool, c_int> {
    let step = |answer: c_long| check(Step::Keeper, answer).map_err(|failed| failed.1);
    // SAFETY: numbers.
    unsafe {
        default_dispositions();
        step(libc::setsid().into())?;
        step(control(libc::PR_SET_CHILD_SUBREAPER, 1))?;
        control(libc::PR_SET_DUMPABLE, 0);
        step(control(libc::PR_SET_NO_NEW_PRIVS, 1))?;
        let Some(KeeperPlan { scopes: Some(scopes), .. }) = &plan.keeper else { return Ok(false) };
        step(enter(scopes.as_raw_fd()))?;
        // `kill(-1)` must never be called by somebody who can reach the caller.
        let reaches_caller = libc::kill(caller, 0) == 0 || last_error() != libc::EPERM;
        if reaches_caller { Err(libc::ENOTSUP) } else { Ok(true) }
    }
}

/// Drops what the caller had open, the program's end of its output above all.
unsafe fn keep_only_own_descriptors(plan: &Plan) {
    let Some(keeper) = &plan.keeper else { return };
    // SAFETY: numbers. Descriptors of the plan are above 2.
    unsafe {
        libc::dup2(keeper.control.as_raw_fd(), CONTROL);
        libc::dup2(keeper.report.as_raw_fd(), REPORT);
        libc::syscall(libc::SYS_close_range, 2_usize, u32::MAX as usize, 0_usize);
    }
}

/// Waits for the first program's end, whose status it returns, or for the caller's word. Buries orphans on the way.
unsafe fn watch(first: pid_t) -> Option<c_int> {
    // SAFETY: sets, entries and buffers are whole and as long as is said.
    unsafe {
        let mut children = std::mem::zeroed();
        libc::sigemptyset(&raw mut children);
        libc::sigaddset(&raw mut children, libc::SIGCHLD);
        let ended = libc::signalfd(-1, &raw const children, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        loop {
            if let Some(status) = bury(first, libc::WNOHANG).status {
                return Some(status);
            }
            let wanted = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
            let mut entries = [wanted(CONTROL), wanted(ended)];
            libc::poll(entries.as_mut_ptr(), 2, -1);
            if entries[0].revents != 0 {
                return None;
            }
            let mut word = MaybeUninit::<libc::signalfd_siginfo>::uninit();
            libc::read(ended, word.as_mut_ptr().cast(), size_of::<libc::signalfd_siginfo>());
        }
    }
}

/// The outcome of a round of burials.
struct Buried {
    /// The first program's status, if it was among them.
    status: Option<c_int>,
    /// True if nobody is left to be waited for.
    is_last: bool,
}

/// Waits for children, for one at least unless `flags` say otherwise, until none has ended.
unsafe fn bury(first: pid_t, flags: c_int) -> Buried {
    let mut buried = Buried { status: None, is_last: false };
    loop {
        let mut status = 0;
        // SAFETY: the call writes a number.
        match unsafe { libc::waitpid(-1, &raw mut status, flags) } {
            pid if pid == first => buried.status = Some(status),
            0 => return buried,
            -1 if last_error() == libc::EINTR => {}
            -1 => return Buried { is_last: true, ..buried },
            _ => {}
        }
    }
}

/// Ends everything that descends from this process, and waits for all of it. Returns the first program's status if it was
/// among them.
unsafe fn end_all(first: pid_t, is_scoped: bool) -> Option<c_int> {
    let mut status = None;
    loop {
        // SAFETY: the signals of a scoped process reach its descendants alone.
        let buried = unsafe {
            if is_scoped {
                libc::kill(-1, libc::SIGKILL);
                bury(first, 0)
            } else {
                end_children();
                libc::poll(null_mut(), 0, 1);
                bury(first, libc::WNOHANG)
            }
        };
        status = buried.status.or(status);
        if buried.is_last {
            return status;
        }
    }
}

/// Ends the children that there are now; theirs come here and have their turn. Who forks faster than that is not ended.
unsafe fn end_children() {
    let mut text = [0_u8; 4096];
    // SAFETY: the path ends with a zero, the buffer is as long as is said.
    let bytes = unsafe {
        let file =
            libc::open(c"/proc/thread-self/children".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
        let bytes = libc::read(file, text.as_mut_ptr().cast(), text.len());
        libc::close(file);
        usize::try_from(bytes).unwrap_or(0)
    };
    let mut pid: pid_t = 0;
    for byte in text.iter().take(bytes) {
        if byte.is_ascii_digit() {
            pid = pid.wrapping_mul(10).wrapping_add(pid_t::from(byte - b'0'));
        } else {
            if pid > 1 {
                // SAFETY: a child of this process, which nobody else waits for.
                unsafe { libc::kill(pid, libc::SIGKILL) };
            }
            pid = 0;
        }
    }
}

unsafe fn report(status: c_int) {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: all bits zero are a valid structure, which the call fills.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_CHILDREN, usage.as_mut_ptr());
        usage.assume_init()
    };
    let us = |time: libc::timeval| time.tv_sec.wrapping_mul(1_000_000).wrapping_add(time.tv_usec);
    let report = KeeperReport {
        status,
        cpu_us: us(usage.ru_utime).wrapping_add(us(usage.ru_stime)) as u64,
        peak_memory_kib: usage.ru_maxrss as u64,
    };
    let bytes = report.to_bytes();
    // SAFETY: the call reads the array.
    unsafe { libc::write(REPORT, bytes.as_ptr().cast(), bytes.len()) };
}

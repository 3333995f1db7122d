//! Turns a fork of the caller into the program: everything between the fork and the program's first instruction.
//!
//! A fork of a process with threads has one thread, and whatever the others held locked stays locked in it. So nothing
//! here allocates, takes a lock, panics, or calls anything of the C library but thin covers of system calls; what it
//! needs was made before the fork, in [`Plan`]. Calls that change users go to the kernel directly, because the library's
//! would ask the other threads, which are not there, to do the same.

mod keeper;

use std::ffi::{CStr, CString, c_char};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::{null, null_mut};

use libc::{c_int, c_long, c_ulong, pid_t};

use super::filter::Filters;
use super::sys::{Child, SignalsBlocked};
pub(super) use keeper::{KeeperPlan, KeeperReport};

/// A core of fewer bytes than a page is never written to a file, and this very number keeps it from a program that
/// collects cores, which would otherwise be started outside of the sandbox.
const CORE_BYTES: u64 = 1;

/// The version of `capset`'s header that has room for all capabilities.
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

/// All that a fork needs to become the program. Every descriptor is above 2.
pub(super) struct Plan {
    pub(super) arguments: Strings,
    pub(super) environment: Strings,
    /// Standard input, output and error.
    pub(super) stdio: [OwnedFd; 3],
    /// The executable.
    pub(super) program: OwnedFd,
    /// The end to which a failing step is written. It closes with the program's first instruction.
    pub(super) setup: OwnedFd,
    /// The working directory.
    pub(super) folder: CString,
    pub(super) is_folder_writable: bool,
    /// Each of `setrlimit`'s resources with its limits, soft and hard.
    pub(super) limits: Vec<(c_long, u64, u64)>,
    /// The number of open files, which is set last.
    pub(super) open_files: u64,
    /// User and group, if the caller is root.
    pub(super) user: Option<(u32, u32)>,
    pub(super) landlock: Option<OwnedFd>,
    pub(super) filters: Option<Filters>,
    /// Takes the descriptor by which the caller is asked about modes and times, if the program has a folder.
    pub(super) requests: Option<OwnedFd>,
    /// The process between the caller and the program, if that may start others.
    pub(super) keeper: Option<KeeperPlan>,
}

/// Strings as `execve` takes them.
pub(super) struct Strings {
    /// Points into `held`, and ends with a null pointer.
    pointers: Vec<*const c_char>,
    _held: Vec<CString>,
}

impl Strings {
    pub(super) fn new(held: Vec<CString>) -> Strings {
        // The texts lie on the heap: moving their owners does not move them.
        let pointers = held.iter().map(|text| text.as_ptr()).chain([null()]).collect();
        Strings { pointers, _held: held }
    }
}

/// The steps of a fork on its way, as they are named when they fail.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Step {
    Keeper = 1,
    Session,
    Descriptors,
    Limits,
    User,
    Capabilities,
    Death,
    Folder,
    Privileges,
    Landlock,
    Seccomp,
    Execute,
}

impl Step {
    const ALL: [Step; 12] = [
        Step::Keeper,
        Step::Session,
        Step::Descriptors,
        Step::Limits,
        Step::User,
        Step::Capabilities,
        Step::Death,
        Step::Folder,
        Step::Privileges,
        Step::Landlock,
        Step::Seccomp,
        Step::Execute,
    ];

    pub(super) fn of_code(code: u8) -> Option<Step> {
        Step::ALL.into_iter().find(|step| *step as u8 == code)
    }
}

/// A step that failed, with the system's reason.
struct Failed(Step, c_int);

/// The length of a failing step's message: its code and the system's.
pub(super) const FAILURE_BYTES: usize = 5;

/// Forks, and starts the fork on its way.
pub(super) fn start(plan: &mut Plan) -> io::Result<Child> {
    let _signals = SignalsBlocked::new();
    // SAFETY: the call has no condition.
    let caller = unsafe { libc::getpid() };
    let mut handle: RawFd = -1;
    // SAFETY: the fork goes on in `become_program` or `become_keeper`, which keep this module's rules and don't return.
    match unsafe { fork(&raw mut handle) } {
        // SAFETY: this is the fork.
        0 if plan.keeper.is_some() => unsafe { keeper::become_keeper(plan, caller) },
        // SAFETY: this is the fork.
        0 => unsafe { become_program(plan, caller) },
        -1 => Err(io::Error::last_os_error()),
        pid => {
            // SAFETY: the kernel has just opened this descriptor for us.
            let handle = unsafe { OwnedFd::from_raw_fd(handle) };
            Ok(Child { pid: pid as pid_t, handle, is_waited_for: false })
        }
    }
}

/// Forks without the handlers that libraries have registered for that, and opens a handle of the new process.
///
/// # Safety
///
/// The fork must call nothing that needs a lock, the heap or another thread, and must not return.
unsafe fn fork(handle: *mut RawFd) -> c_long {
    let flags = libc::CLONE_PIDFD | libc::SIGCHLD;
    // SAFETY: no new stack: the fork has a copy of this one. The kernel writes the handle to where it points.
    unsafe { libc::syscall(libc::SYS_clone, flags as c_long, 0_usize, handle, 0_usize, 0_usize) }
}

/// Becomes the program, or says which step failed and ends.
///
/// # Safety
///
/// Only in a fork.
unsafe fn become_program(plan: &mut Plan, parent: pid_t) -> ! {
    // SAFETY: this is a fork, and these functions keep the module's rules.
    let Failed(step, reason) = unsafe {
        match prepare(plan, parent) {
            Ok(program) => execute(plan, program),
            Err(failed) => failed,
        }
    };
    tell(plan, step, reason);
    // SAFETY: the call ends the process without running anything of the caller's.
    unsafe { libc::_exit(127) }
}

/// Writes a failed step to the caller.
fn tell(plan: &Plan, step: Step, reason: c_int) {
    let mut bytes = [0; FAILURE_BYTES];
    bytes[0] = step as u8;
    bytes[1..].copy_from_slice(&reason.to_ne_bytes());
    // SAFETY: the call reads the array. If nobody listens any more, nothing is lost.
    unsafe { libc::write(plan.setup.as_raw_fd(), bytes.as_ptr().cast(), FAILURE_BYTES) };
}

/// Takes everything away that a program shall not have. The order matters: what needs a right comes before its loss.
///
/// # Safety
///
/// Only in a fork.
unsafe fn prepare(plan: &mut Plan, parent: pid_t) -> Result<RawFd, Failed> {
    // SAFETY: handed on.
    unsafe {
        reset_signals();
        check(Step::Session, libc::setsid().into())?;
        offer_to_the_oom_killer();
        let program = descriptors(plan)?;
        limits(plan)?;
        user(plan)?;
        die_with(parent)?;
        folder(plan)?;
        check(Step::Privileges, control(libc::PR_SET_NO_NEW_PRIVS, 1))?;
        if let Some(rules) = &plan.landlock {
            check(Step::Landlock, enter(rules.as_raw_fd()))?;
        }
        ask(plan)?;
        let files = plan.open_files;
        limit(libc::RLIMIT_NOFILE.into(), files, files)?;
        filters(plan, program)?;
        Ok(program)
    }
}

/// Passes an answer of the system on, -1 as the failure of a step.
fn check(step: Step, answer: c_long) -> Result<c_long, Failed> {
    if answer == -1 { Err(Failed(step, last_error())) } else { Ok(answer) }
}

fn last_error() -> c_int {
    io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// Sets one of `prctl`'s options.
unsafe fn control(option: c_int, value: c_ulong) -> c_long {
    let none: c_ulong = 0;
    // SAFETY: numbers, each as wide as the kernel reads it.
    unsafe { libc::prctl(option, value, none, none, none) }.into()
}

/// Gives every signal its default back (an ignored one would stay ignored in the program) and lets all of them in.
unsafe fn reset_signals() {
    // SAFETY: the sets and actions are whole; numbers that are no signal are refused.
    unsafe {
        default_dispositions();
        let mut none = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, null_mut());
    }
}

unsafe fn default_dispositions() {
    // SAFETY: all bits zero are the default action.
    unsafe {
        let default: libc::sigaction = std::mem::zeroed();
        for signal in 1..=64 {
            libc::sigaction(signal, &raw const default, null_mut());
        }
    }
}

/// If memory runs out, the kernel ends the program before the caller. Where /proc is not, nothing is lost.
unsafe fn offer_to_the_oom_killer() {
    let score = c"1000";
    // SAFETY: both texts live as long as the program.
    unsafe {
        let file =
            libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        if file >= 0 {
            libc::write(file, score.as_ptr().cast(), 4);
            libc::close(file);
        }
    }
}

/// Puts standard input, output and error where they belong, marks every other descriptor to be closed, and moves the
/// executable above the limit of open files: that number can't be had again once it is closed, so no other file will
/// ever be run by the filter's leave.
unsafe fn descriptors(plan: &Plan) -> Result<RawFd, Failed> {
    let step = Step::Descriptors;
    // SAFETY: numbers and a structure that the calls fill.
    unsafe {
        for (number, fd) in (0..).zip(&plan.stdio) {
            check(step, libc::dup2(fd.as_raw_fd(), number).into())?;
        }
        let mut files: libc::rlimit = std::mem::zeroed();
        resource_limit(libc::RLIMIT_NOFILE.into(), null(), &raw mut files);
        files.rlim_cur = files.rlim_max;
        resource_limit(libc::RLIMIT_NOFILE.into(), &raw const files, null_mut());
        let above = c_long::try_from(plan.open_files).unwrap_or(c_long::MAX);
        let program = plan.program.as_raw_fd();
        let program = check(step, libc::fcntl(program, libc::F_DUPFD_CLOEXEC, above).into())?;
        let mark = libc::CLOSE_RANGE_CLOEXEC as c_long;
        check(step, libc::syscall(libc::SYS_close_range, 3_usize, u32::MAX as usize, mark))?;
        Ok(program as RawFd)
    }
}

unsafe fn limits(plan: &Plan) -> Result<(), Failed> {
    let cores = [(libc::RLIMIT_CORE.into(), CORE_BYTES, CORE_BYTES)];
    for &(resource, soft, hard) in plan.limits.iter().chain(&cores) {
        // SAFETY: handed on.
        unsafe { limit(resource, soft, hard) }?;
    }
    // SAFETY: a number.
    unsafe { libc::umask(0o022) };
    Ok(())
}

/// Lowers a limit. One that the caller lives under can't be raised, and need not be.
unsafe fn limit(resource: c_long, soft: u64, hard: u64) -> Result<(), Failed> {
    // SAFETY: numbers, and structures that the calls read and fill.
    unsafe {
        let mut now: libc::rlimit = std::mem::zeroed();
        check(Step::Limits, resource_limit(resource, null(), &raw mut now))?;
        let [soft, hard] = [soft, hard].map(|limit| limit.min(now.rlim_max));
        let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
        check(Step::Limits, resource_limit(resource, &raw const limit, null_mut()))?;
    }
    Ok(())
}

/// Sets a limit of this process, or asks for it.
unsafe fn resource_limit(
    resource: c_long,
    new: *const libc::rlimit,
    old: *mut libc::rlimit,
) -> c_long {
    // SAFETY: the call reads and writes structures of this type, or none.
    unsafe { libc::syscall(libc::SYS_prlimit64, 0_usize, resource, new, old) }
}

/// Becomes an ordinary user without groups, if the caller is root, and gives up every capability in any case.
unsafe fn user(plan: &Plan) -> Result<(), Failed> {
    // SAFETY: numbers, a null pointer with a count of 0, and two structures that the call reads.
    unsafe {
        if let Some((uid, gid)) = plan.user {
            let none = 0_usize;
            check(Step::User, libc::syscall(libc::SYS_setgroups, none, null::<libc::gid_t>()))?;
            check(Step::User, libc::syscall(libc::SYS_setresgid, gid, gid, gid))?;
            check(Step::User, libc::syscall(libc::SYS_setresuid, uid, uid, uid))?;
        }
        let header = [CAPABILITY_VERSION_3, 0];
        let nothing = [0_u32; 6];
        let answer = libc::syscall(libc::SYS_capset, header.as_ptr(), nothing.as_ptr());
        check(Step::Capabilities, answer)?;
    }
    Ok(())
}

/// Ends with the process that started it. A change of user forgets that, so this comes after it.
unsafe fn die_with(parent: pid_t) -> Result<(), Failed> {
    // SAFETY: numbers.
    unsafe {
        // Until the program starts, this is a copy of the caller's memory.
        control(libc::PR_SET_DUMPABLE, 0);
        check(Step::Death, control(libc::PR_SET_PDEATHSIG, libc::SIGKILL as c_ulong))?;
        if libc::getppid() != parent {
            return Err(Failed(Step::Death, libc::ESRCH));
        }
    }
    Ok(())
}

/// Goes to the working directory as the one who will use it, and makes sure that they can.
unsafe fn folder(plan: &Plan) -> Result<(), Failed> {
    let folder = plan.folder.as_ptr();
    // SAFETY: the text ends with a zero.
    unsafe {
        check(Step::Folder, libc::chdir(folder).into())?;
        if plan.is_folder_writable {
            let rights = libc::R_OK | libc::W_OK | libc::X_OK;
            check(Step::Folder, libc::access(folder, rights).into())?;
        }
    }
    Ok(())
}

/// Enters Landlock's rules.
unsafe fn enter(rules: RawFd) -> c_long {
    // SAFETY: numbers.
    unsafe { libc::syscall(libc::SYS_landlock_restrict_self, rules, 0_usize) }
}

/// Has the caller asked about modes and times, if the program has a folder. It goes before the limit of open files,
/// under which there may be no number left for the listener.
unsafe fn ask(plan: &mut Plan) -> Result<(), Failed> {
    let (Some(filters), Some(socket)) = (&mut plan.filters, &plan.requests) else { return Ok(()) };
    // SAFETY: handed on.
    unsafe {
        let listener = filter(&mut filters.asking, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER);
        let done = match listener {
            -1 => filter(&mut filters.refusing, 0),
            listener => send(socket.as_raw_fd(), listener as RawFd),
        };
        check(Step::Seccomp, done)?;
    }
    Ok(())
}

/// Writes into the filters the two numbers that were not known before, and hands them to the kernel.
unsafe fn filters(plan: &mut Plan, program: RawFd) -> Result<(), Failed> {
    let Some(filters) = &mut plan.filters else { return Ok(()) };
    // SAFETY: the call has no condition.
    let own = unsafe { libc::getpid() };
    for (places, number) in [(&filters.own_process, own), (&filters.program_file, program)] {
        for place in places {
            if let Some(instruction) = filters.allowed.get_mut(*place) {
                instruction.k = number as u32;
            }
        }
    }
    // SAFETY: handed on.
    unsafe {
        check(Step::Seccomp, filter(&mut filters.old, 0))?;
        check(Step::Seccomp, filter(&mut filters.allowed, 0))?;
    }
    Ok(())
}

/// Hands a filter to the kernel.
unsafe fn filter(instructions: &mut [libc::sock_filter], flags: c_ulong) -> c_long {
    let len = instructions.len() as u16;
    let program = libc::sock_fprog { len, filter: instructions.as_mut_ptr() };
    let set = libc::SECCOMP_SET_MODE_FILTER;
    // SAFETY: the kernel reads `len` instructions from a slice of as many.
    unsafe { libc::syscall(libc::SYS_seccomp, set, flags, &raw const program) }
}

/// Sends a descriptor to the caller. The fork's own is closed when the program starts.
unsafe fn send(socket: RawFd, descriptor: RawFd) -> c_long {
    let mut byte = 0_u8;
    let mut part = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    let mut room = [0_u64; 4];
    // SAFETY: all bits zero are a valid message; its buffers are as long as is said, and there is room for one descriptor.
    unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = room.as_mut_ptr().cast();
        message.msg_controllen = libc::CMSG_SPACE(size_of::<RawFd>() as u32) as _;
        let rights = libc::CMSG_FIRSTHDR(&raw const message);
        (*rights).cmsg_level = libc::SOL_SOCKET;
        (*rights).cmsg_type = libc::SCM_RIGHTS;
        (*rights).cmsg_len = libc::CMSG_LEN(size_of::<RawFd>() as u32) as _;
        libc::CMSG_DATA(rights).cast::<RawFd>().write_unaligned(descriptor);
        libc::sendmsg(socket, &raw const message, libc::MSG_NOSIGNAL) as c_long
    }
}

/// Runs the executable by its descriptor, the one that the filter allows. It returns only if that fails.
unsafe fn execute(plan: &Plan, program: RawFd) -> Failed {
    let nothing: &CStr = c"";
    let (arguments, environment) =
        (plan.arguments.pointers.as_ptr(), plan.environment.pointers.as_ptr());
    // SAFETY: texts that end with a zero, arrays that end with a null pointer.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program,
            nothing.as_ptr(),
            arguments,
            environment,
            libc::AT_EMPTY_PATH,
        )
    };
    Failed(Step::Execute, last_error())
}

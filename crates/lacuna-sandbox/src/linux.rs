//! Runs a program on Linux: prepares everything, forks, watches, ends, and reports.

mod calls;
#[expect(unsafe_code, reason = "a fork on its way to the program")]
mod child;
mod filter;
mod folder;
mod modes;
mod rules;
#[expect(unsafe_code, reason = "system calls of the caller")]
mod sys;
#[cfg(test)]
mod tests;
mod tree;
mod usage;
mod watch;

use std::ffi::{CString, OsStr, OsString};
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use libc::c_long;

use child::{KeeperPlan, Plan, Strings};
use filter::Filters;
use sys::{Ended, Requests};
use tree::{Keeper, Tree, await_start};
use watch::{Pipes, Seen, Watch};

use crate::policy::{NOBODY, Policy, Profile, User};
use crate::{End, Error, Limit, Limits, Missing, Program, Report};

/// The first version of Landlock's interface that scopes signals.
const SCOPES_ABI: u32 = 6;

/// The stack of a first thread, unless the program asks for more: what systems commonly set.
const STACK_BYTES: u64 = 8 << 20;

/// Timers and queued signals. The kernel counts all of a user's, and every user has room for more.
const QUEUED_SIGNALS: u64 = 1024;

/// Everything that this machine lacks for a policy.
pub(crate) fn missing(policy: &Policy) -> Vec<Missing> {
    missing_with(policy, sys::landlock_abi())
}

fn missing_with(policy: &Policy, abi: u32) -> Vec<Missing> {
    let spawns = matches!(policy.profile, Profile::Spawn(_));
    let needs_scopes = spawns && (1..SCOPES_ABI).contains(&abi);
    let has_processor = cfg!(any(target_arch = "x86_64", target_arch = "aarch64"));
    [
        (abi == 0).then_some(Missing::Landlock),
        needs_scopes.then_some(Missing::LandlockScopes { abi }),
        (!sys::has_seccomp()).then_some(Missing::Seccomp),
        (!has_processor).then_some(Missing::Processor),
        (!usage::is_readable()).then_some(Missing::Proc),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Runs a program, and returns when it has ended with everything that it started.
pub(crate) fn run(program: &Program, policy: &Policy) -> Result<Report, Error> {
    run_with(program, policy, sys::landlock_abi())
}

/// Runs a program with a version of Landlock's interface, so that tests can stand on older kernels.
fn run_with(program: &Program, policy: &Policy, abi: u32) -> Result<Report, Error> {
    let missing = missing_with(policy, abi);
    if !missing.is_empty() && !policy.is_insisted {
        return Err(Error::Missing { missing });
    }
    let folder = policy.folder().map(folder::without_links).transpose()?;
    let own_bytes = usage::own_resident_bytes();
    let Prepared { mut plan, mut pipes, setup, asked, keeper } =
        prepare(program, policy, abi, &missing)?;
    let started = Instant::now();
    let child = child::start(&mut plan).map_err(system("fork"))?;
    let mut tree = Tree { child, keeper };
    // The fork's ends of the pipes are closed here, so that each pipe ends with the program.
    drop(plan);
    await_start(setup, policy.limits.wall_time)?;
    let requests = Requests::receive(asked.as_fd());
    let watched = Watch {
        child: &tree.child,
        is_keeper: tree.keeper.is_some(),
        folder: folder.as_deref(),
        requests: requests.as_ref(),
        limits: &policy.limits,
        started,
    };
    let mut seen =
        watch::watch(&watched, &mut pipes, &program.stdin).map_err(system("watch the program"))?;
    let ended = tree.end()?;
    let wall_time = started.elapsed();
    watch::drain(&mut pipes, &policy.limits, &mut seen).map_err(system("read the output"))?;
    if ended.peak_memory_bytes > own_bytes {
        seen.peak_memory_bytes = ended.peak_memory_bytes;
    }
    Ok(reported(&ended, seen, wall_time, &policy.limits, missing))
}

fn reported(
    ended: &Ended,
    seen: Seen,
    wall_time: Duration,
    limits: &Limits,
    missing: Vec<Missing>,
) -> Report {
    let status = ExitStatus::from_raw(ended.status);
    let end = match (status.code(), status.signal()) {
        (Some(code), _) => End::Exited(code),
        (None, signal) => End::Signalled(signal.unwrap_or(0)),
    };
    // The kernel keeps these two by itself.
    let by_kernel = match end {
        End::Signalled(libc::SIGXFSZ) => Some(Limit::FileSize),
        End::Signalled(libc::SIGXCPU) => Some(Limit::CpuTime),
        End::Signalled(libc::SIGKILL) if ended.cpu_time >= limits.cpu_time => Some(Limit::CpuTime),
        _ => None,
    };
    Report {
        end,
        limit: seen.limit.or(by_kernel),
        stdout: seen.stdout,
        stderr: seen.stderr,
        wall_time,
        cpu_time: ended.cpu_time,
        peak_memory_bytes: seen.peak_memory_bytes,
        not_enforced: missing,
    }
}

/// All that is made before the fork.
struct Prepared {
    plan: Plan,
    pipes: Pipes,
    /// Brings the step that failed, or ends with the program's first instruction.
    setup: PipeReader,
    /// Brings the descriptor by which the program asks, if it can.
    asked: UnixStream,
    keeper: Option<Keeper>,
}

fn prepare(
    program: &Program,
    policy: &Policy,
    abi: u32,
    missing: &[Missing],
) -> Result<Prepared, Error> {
    let user = user(policy)?;
    let path = std::path::absolute(&program.path).map_err(system("find the working directory"))?;
    let file = rules::open(&path)?;
    let landlock = match abi {
        0 => None,
        abi => rules::of_program(policy, (&path, &file), rules::version(abi))?,
    };
    let (arguments, environment) = strings(&path, program)?;
    let (stdin_reader, stdin) = pipe()?;
    let (stdout, stdout_writer) = pipe()?;
    let (stderr, stderr_writer) = pipe()?;
    let (setup, setup_writer) = pipe()?;
    let (asked, asking) = UnixStream::pair().map_err(system("make a pair of sockets"))?;
    let (keeper_plan, keeper) = keeper(policy, abi)?.unzip();
    let plan = Plan {
        arguments,
        environment,
        stdio: [high(&stdin_reader)?, high(&stdout_writer)?, high(&stderr_writer)?],
        program: high(&file)?,
        setup: high(&setup_writer)?,
        folder: text(policy.folder().unwrap_or(Path::new("/")).as_os_str())?,
        is_folder_writable: policy.folder().is_some(),
        limits: resources(policy, user),
        open_files: policy.limits.open_files,
        user: user.map(|user| (user.uid, user.gid)),
        landlock: landlock.as_ref().map(high).transpose()?,
        filters: filters(policy, missing)?,
        requests: policy.folder().map(|_| high(&asking)).transpose()?,
        keeper: keeper_plan,
    };
    let (stdout, stderr) = (Some(stdout), Some(stderr));
    let pipes = Pipes { stdin: Some(stdin), _stdin_reader: stdin_reader, stdout, stderr };
    Ok(Prepared { plan, pipes, setup, asked, keeper })
}

/// Arguments, the program's own path first, and variables.
fn strings(path: &Path, program: &Program) -> Result<(Strings, Strings), Error> {
    let arguments = std::iter::once(path.as_os_str()).chain(program.args.iter().map(|arg| &**arg));
    let arguments = arguments.map(text).collect::<Result<_, _>>()?;
    let variable = |(name, value): &(OsString, OsString)| {
        text(OsStr::from_bytes(&[name.as_bytes(), b"=", value.as_bytes()].concat()))
    };
    let environment = program.env.iter().map(variable).collect::<Result<_, _>>()?;
    Ok((Strings::new(arguments), Strings::new(environment)))
}

/// The profile's filters, where there can be any.
fn filters(policy: &Policy, missing: &[Missing]) -> Result<Option<Filters>, Error> {
    if missing.contains(&Missing::Seccomp) || missing.contains(&Missing::Processor) {
        return Ok(None);
    }
    let filters = Filters::new(&policy.profile);
    filters
        .map(Some)
        .map_err(|error| Error::Request { reason: format!("no filter can be made: {error}") })
}

/// The keeper's ends of its pipes and its rules, and the caller's ends, if the profile starts processes.
fn keeper(policy: &Policy, abi: u32) -> Result<Option<(KeeperPlan, Keeper)>, Error> {
    let Profile::Spawn(_) = policy.profile else { return Ok(None) };
    let (control_reader, control) = pipe()?;
    let (report, report_writer) = pipe()?;
    let scopes = if abi < SCOPES_ABI { None } else { rules::of_keeper()? };
    let plan = KeeperPlan {
        control: high(&control_reader)?,
        report: high(&report_writer)?,
        scopes: scopes.as_ref().map(high).transpose()?,
    };
    Ok(Some((plan, Keeper { control, report })))
}

fn pipe() -> Result<(PipeReader, PipeWriter), Error> {
    io::pipe().map_err(system("make a pipe"))
}

/// A copy of a descriptor above 2, also if the caller has closed its own standard input, output or error.
fn high(fd: &impl AsFd) -> Result<OwnedFd, Error> {
    fd.as_fd().try_clone_to_owned().map_err(system("copy a descriptor"))
}

fn text(text: &OsStr) -> Result<CString, Error> {
    CString::new(text.as_bytes()).map_err(|_| Error::Request {
        reason: format!("{text:?} holds a zero byte, which no argument, variable or path can"),
    })
}

fn system(action: &'static str) -> impl Fn(io::Error) -> Error {
    move |source| Error::System { action, source }
}

/// As [`Policy::give_folder`].
pub(crate) fn give_folder(policy: &Policy) -> Result<(), Error> {
    let (Some(folder), Some(user)) = (policy.folder(), user(policy)?) else { return Ok(()) };
    folder::give(folder, user).map_err(system("give the folder to the program's user"))
}

/// The user to become: somebody else if the caller is root, nobody else if not.
fn user(policy: &Policy) -> Result<Option<User>, Error> {
    let is_root = sys::users().contains(&0);
    match policy.user {
        Some(User { uid: 0, .. }) => {
            Err(Error::Request { reason: "the user 0 is root; name an ordinary one".into() })
        }
        Some(_) if !is_root => Err(Error::Request {
            reason: "only root can choose the user that a program runs as; leave it out, and it runs as the caller".into(),
        }),
        chosen => Ok(chosen.or(is_root.then_some(NOBODY))),
    }
}

/// The limits that the kernel keeps for each process.
fn resources(policy: &Policy, user: Option<User>) -> Vec<(c_long, u64, u64)> {
    let Limits { cpu_time, memory_bytes, file_bytes, tasks, .. } = policy.limits;
    let cpu_s = cpu_time.as_secs() + u64::from(cpu_time.subsec_nanos() > 0);
    let mut limits = vec![
        // First a signal that says which limit it was, a second later one that can't be ignored.
        (libc::RLIMIT_CPU.into(), cpu_s, cpu_s + 1),
        (libc::RLIMIT_FSIZE.into(), file_bytes, file_bytes),
        (libc::RLIMIT_MEMLOCK.into(), 0, 0),
        (libc::RLIMIT_STACK.into(), STACK_BYTES, memory_bytes),
        (libc::RLIMIT_SIGPENDING.into(), QUEUED_SIGNALS, QUEUED_SIGNALS),
    ];
    if let Profile::Spawn(_) = policy.profile {
        // Memory that is only reserved does not count: some runtimes reserve more than there is.
        limits.push((libc::RLIMIT_DATA.into(), memory_bytes, memory_bytes));
        // The kernel counts all that the user runs. It is the fence behind the count of `watch`.
        let uid = user.map_or(sys::users()[0], |user| user.uid);
        let fence = usage::tasks_of_user(uid) + 2 * tasks;
        limits.push((libc::RLIMIT_NPROC.into(), fence, fence));
    } else {
        limits.push((libc::RLIMIT_AS.into(), memory_bytes, memory_bytes));
    }
    limits
}

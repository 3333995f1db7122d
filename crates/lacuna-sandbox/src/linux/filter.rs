//! Compiles the lists of system calls into programs that the kernel runs before each call.
//!
//! Arguments that are pointers can't be looked into: another thread may change what they point to. So what has to be
//! refused by its arguments is refused by numbers, and a call whose arguments hide behind a pointer (`clone3`, `openat2`)
//! is answered as an old kernel would, which sends programs to the older call.

use std::collections::BTreeMap;

use libc::{c_int, c_long};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use super::calls;
use crate::policy::Profile;

/// Stands in a filter for the number of the process, which is known only when it exists.
const OWN_PROCESS: u32 = 0x7ace_0001;
/// Stands in a filter for the descriptor of the program's file.
const PROGRAM_FILE: u32 = 0x7ace_0002;

/// `O_TMPFILE` without the bit that it shares with `O_DIRECTORY`.
const UNNAMED_FILE: c_int = libc::O_TMPFILE & !libc::O_DIRECTORY;
const SET_ID_BITS: u64 = (libc::S_ISUID | libc::S_ISGID) as u64;
const NAMESPACES: c_int = libc::CLONE_NEWNS
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP;

/// The filters of a process, and the places in them that its number and that of its file belong in.
pub(super) struct Filters {
    /// Asks the caller about calls that change modes and times. It goes first, while it can still be handed over.
    pub(super) asking: Vec<libc::sock_filter>,
    /// Refuses the same calls, for programs that somebody else is asked about already: the kernel has one that asks.
    pub(super) refusing: Vec<libc::sock_filter>,
    /// Answers calls that hide their arguments.
    pub(super) old: Vec<libc::sock_filter>,
    /// Allows what is listed.
    pub(super) allowed: Vec<libc::sock_filter>,
    pub(super) own_process: Vec<usize>,
    pub(super) program_file: Vec<usize>,
}

impl Filters {
    /// The filters of a profile; an error is a fault of this file, or a processor without a list.
    pub(super) fn new(profile: &Profile) -> Result<Filters, seccompiler::Error> {
        let arch = TargetArch::try_from(std::env::consts::ARCH)?;
        let for_calls = |calls: &[c_long], action| {
            let rules = calls.iter().map(|call| (*call, vec![])).collect();
            let filter = SeccompFilter::new(rules, SeccompAction::Allow, action, arch)?;
            Ok::<_, seccompiler::Error>(program(filter.try_into()?))
        };
        let error = |code: c_int| SeccompAction::Errno(code as u32);
        // The builder has no word for a question. A tracer's stands in its place.
        let mut asking = for_calls(calls::MODES, SeccompAction::Trace(0))?;
        let answers =
            asking.iter_mut().filter(|instruction| instruction.k == libc::SECCOMP_RET_TRACE);
        answers.for_each(|instruction| instruction.k = libc::SECCOMP_RET_USER_NOTIF);
        // The last filter may say nothing of the others' calls but "allowed": the sternest answer counts.
        let rules = Rules::of(profile)?;
        let allowed = SeccompFilter::new(rules.0, error(libc::EPERM), SeccompAction::Allow, arch)?;
        let allowed = program(allowed.try_into()?);
        let places = |of: u32| (0..allowed.len()).filter(|at| allowed[*at].k == of).collect();
        Ok(Filters {
            asking,
            refusing: for_calls(calls::MODES, error(libc::EPERM))?,
            old: for_calls(&[libc::SYS_clone3, libc::SYS_openat2], error(libc::ENOSYS))?,
            own_process: places(OWN_PROCESS),
            program_file: places(PROGRAM_FILE),
            allowed,
        })
    }
}

fn program(compiled: BpfProgram) -> Vec<libc::sock_filter> {
    let instruction = |of: seccompiler::sock_filter| libc::sock_filter {
        code: of.code,
        jt: of.jt,
        jf: of.jf,
        k: of.k,
    };
    compiled.into_iter().map(instruction).collect()
}

/// The allowed calls, each with the ways in which its arguments may look; none is any way.
struct Rules(BTreeMap<c_long, Vec<SeccompRule>>);

type Built = Result<(), seccompiler::BackendError>;

/// A condition on an argument of 32 bits: those under `mask` are `value`.
struct Arg(u8, u64, u64);

/// Flags as they lie in an argument.
fn bits(flags: c_int) -> u64 {
    u64::from(flags as u32)
}

impl Arg {
    fn is(index: u8, value: u32) -> Arg {
        Arg(index, u64::from(u32::MAX), u64::from(value))
    }
}

impl Rules {
    fn of(profile: &Profile) -> Result<Rules, seccompiler::BackendError> {
        let mut rules = Rules(BTreeMap::new());
        rules.any(&[calls::ALWAYS, calls::ALWAYS_HERE]);
        // Another filter answers these.
        rules.any(&[&[libc::SYS_clone3, libc::SYS_openat2]]);
        rules.opens()?;
        rules.requests()?;
        rules.when(libc::SYS_execveat, &[Arg::is(0, PROGRAM_FILE)])?;
        rules.when(libc::SYS_prlimit64, &[Arg::is(0, 0)])?;
        if !matches!(profile, Profile::Function) {
            rules.any(&[calls::FILES, calls::FILES_HERE]);
            // Another filter asks about these, or refuses them.
            rules.any(&[calls::MODES]);
            rules.each(libc::SYS_fcntl, 1, calls::LOCKS)?;
            rules.sockets()?;
        }
        if matches!(profile, Profile::Spawn(_)) {
            rules.any(&[calls::SPAWN, calls::SPAWN_HERE]);
            rules.when(libc::SYS_clone, &[Arg(0, bits(NAMESPACES), 0)])?;
        } else {
            let thread = bits(libc::CLONE_THREAD);
            rules.when(libc::SYS_clone, &[Arg(0, bits(NAMESPACES) | thread, thread)])?;
            for call in [libc::SYS_kill, libc::SYS_tgkill] {
                rules.when(call, &[Arg::is(0, OWN_PROCESS)])?;
            }
        }
        Ok(rules)
    }

    /// Allows calls with any arguments.
    fn any(&mut self, lists: &[&[c_long]]) {
        self.0.extend(lists.iter().flat_map(|list| list.iter()).map(|call| (*call, vec![])));
    }

    /// Allows a call if all conditions hold, beside what is allowed of it already.
    fn when(&mut self, call: c_long, args: &[Arg]) -> Built {
        let condition = |Arg(index, mask, value): &Arg| {
            let operator = SeccompCmpOp::MaskedEq(*mask);
            SeccompCondition::new(*index, SeccompCmpArgLen::Dword, operator, *value)
        };
        let conditions = args.iter().map(condition).collect::<Result<_, _>>()?;
        self.0.entry(call).or_default().push(SeccompRule::new(conditions)?);
        Ok(())
    }

    /// Allows a call with each of these values of an argument.
    fn each(&mut self, call: c_long, index: u8, values: &[c_int]) -> Built {
        values.iter().try_for_each(|value| self.when(call, &[Arg::is(index, *value as u32)]))
    }

    /// Files may be opened in three modes, which Landlock tells apart. A file opened to be read can't be emptied by the same
    /// call (before its ABI 3 Landlock takes that for reading), no file is made without a name, none with a set-id bit.
    fn opens(&mut self) -> Built {
        let looked_at = bits(libc::O_ACCMODE | libc::O_CREAT | UNNAMED_FILE);
        let emptying = bits(libc::O_TRUNC);
        let opens = [
            #[cfg(target_arch = "x86_64")]
            (libc::SYS_open, 1),
            (libc::SYS_openat, 2),
        ];
        for (call, at) in opens {
            for (mode, looked_at) in [
                (libc::O_RDONLY, looked_at | emptying),
                (libc::O_WRONLY, looked_at),
                (libc::O_RDWR, looked_at),
            ] {
                let plain = Arg(at, looked_at, bits(mode));
                let making = Arg(at, looked_at, bits(mode | libc::O_CREAT));
                self.when(call, &[plain])?;
                self.when(call, &[making, Arg(at + 1, SET_ID_BITS, 0)])?;
            }
        }
        Ok(())
    }

    /// Calls whose second argument says what they do.
    fn requests(&mut self) -> Built {
        self.each(libc::SYS_fcntl, 1, calls::FCNTLS)?;
        self.each(libc::SYS_prctl, 0, calls::PRCTLS)?;
        calls::IOCTLS
            .iter()
            .try_for_each(|request| self.when(libc::SYS_ioctl, &[Arg::is(1, *request as u32)]))
    }

    /// Two connected ends of a stream, or of one that keeps packets apart, by which Rust's library starts programs. Not
    /// datagrams: those can be sent from either end to any socket that has a name.
    fn sockets(&mut self) -> Built {
        const KINDS: u64 = 0xf;
        let unix = || Arg::is(0, libc::AF_UNIX as u32);
        for kind in [libc::SOCK_STREAM, libc::SOCK_SEQPACKET] {
            self.when(libc::SYS_socketpair, &[unix(), Arg(1, KINDS, kind as u64)])?;
        }
        self.when(libc::SYS_sendto, &[Arg::is(4, 0)])
    }
}

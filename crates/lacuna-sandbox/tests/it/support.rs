//! Holds what the tests share: interpreters, folders that the program's user may use, and a world to be left alone.

use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::io::{ErrorKind, Read};
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use lacuna_sandbox::{Policy, Program, Report, run};
use tempfile::TempDir;

/// The user that programs become when the tests run as root.
pub(crate) const NOBODY: u32 = 65534;

pub(crate) fn is_root() -> bool {
    // SAFETY: the call has no condition.
    unsafe { libc::geteuid() == 0 }
}

/// Tells whether a caller can look into programs, and so change modes for them: root in a container often can't.
pub(crate) fn can_look_inside() -> bool {
    const CAP_SYS_PTRACE: u64 = 1 << 19;
    let status = fs::read_to_string("/proc/self/status").expect("tests need /proc");
    let rights = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let rights = rights.and_then(|rights| u64::from_str_radix(rights.trim(), 16).ok());
    !is_root() || rights.is_some_and(|rights| rights & CAP_SYS_PTRACE != 0)
}

/// Tells whether this machine can run the policy, and says so aloud if not: a test that can't run is no failure.
pub(crate) fn can_run(policy: &Policy) -> bool {
    policy.check().inspect_err(|error| eprintln!("SKIPPED: {error}")).is_ok()
}

/// The first of these programs that there is.
pub(crate) fn installed(candidates: &[&str]) -> Option<PathBuf> {
    let found = candidates.iter().map(PathBuf::from).find(|path| path.is_file());
    if found.is_none() {
        eprintln!("SKIPPED: none of {candidates:?} is installed");
    }
    found
}

pub(crate) fn python() -> Option<PathBuf> {
    installed(&["/usr/bin/python3", "/usr/local/bin/python3"])
}

/// A folder that the program's user may write.
pub(crate) fn folder() -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    give(folder.path());
    folder
}

/// Makes a path the program's user's own.
pub(crate) fn give(path: &Path) {
    if is_root() {
        chown(path, Some(NOBODY), Some(NOBODY)).expect("root can");
    }
}

/// A program in Python, without what a user has configured.
pub(crate) fn script(python: &Path, code: &str) -> Program {
    Program::new(python).args(["-I", "-c", code])
}

/// Runs a script and expects that it could be started.
pub(crate) fn report(program: &Program, policy: &Policy) -> Report {
    run(program, policy).unwrap_or_else(|error| panic!("{error}"))
}

pub(crate) fn out(report: &Report) -> String {
    String::from_utf8_lossy(&report.stdout).into_owned()
}

pub(crate) fn errors(report: &Report) -> String {
    String::from_utf8_lossy(&report.stderr).into_owned()
}

pub(crate) const SECRET: &str = "the secret of the outside";

/// Things outside of the sandbox that its user may use, read, write and kill, so that only the sandbox stands between.
pub(crate) struct World {
    pub(crate) place: TempDir,
    victim: Child,
    tcp: TcpListener,
    unix: UnixListener,
    datagrams: UnixDatagram,
    hidden: UnixListener,
}

impl World {
    pub(crate) fn new() -> World {
        let place = folder();
        let path = place.path();
        fs::set_permissions(path, Permissions::from_mode(0o777)).expect("its owner can");
        for name in ["secret", "kept", "other"] {
            let file = path.join(name);
            fs::write(&file, SECRET).expect("a new file");
            fs::set_permissions(&file, Permissions::from_mode(0o666)).expect("its owner can");
            give(&file);
        }
        let tcp = TcpListener::bind("127.0.0.1:0").expect("a port");
        let unix = UnixListener::bind(path.join("socket")).expect("a socket");
        let datagrams = UnixDatagram::bind(path.join("datagrams")).expect("a socket");
        for socket in ["socket", "datagrams"] {
            fs::set_permissions(path.join(socket), Permissions::from_mode(0o777)).expect("ours");
        }
        let name = SocketAddr::from_abstract_name(Self::hidden_name()).expect("a short name");
        let hidden = UnixListener::bind_addr(&name).expect("a name of our own");
        tcp.set_nonblocking(true).expect("a socket can");
        unix.set_nonblocking(true).expect("a socket can");
        datagrams.set_nonblocking(true).expect("a socket can");
        hidden.set_nonblocking(true).expect("a socket can");
        let mut victim = Command::new("/bin/sleep");
        victim.arg("600").stdin(Stdio::null());
        if is_root() {
            victim.uid(NOBODY).gid(NOBODY);
        }
        let victim = victim.spawn().expect("sleep is everywhere");
        World { place, victim, tcp, unix, datagrams, hidden }
    }

    fn hidden_name() -> String {
        format!("lacuna-sandbox-{:?}", std::thread::current().id())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    /// Tells a program where everything is, so that it need not look for it.
    pub(crate) fn shown_to(&self, program: Program) -> Program {
        self.variables()
            .into_iter()
            .fold(program, |program, (name, value)| program.env(name, value))
    }

    pub(crate) fn variables(&self) -> [(&'static str, OsString); 5] {
        let port = self.tcp.local_addr().expect("bound").port();
        [
            ("OUTSIDE", self.place.path().into()),
            ("PORT", port.to_string().into()),
            ("HIDDEN", Self::hidden_name().into()),
            ("VICTIM", self.victim.id().to_string().into()),
            ("CALLER", std::process::id().to_string().into()),
        ]
    }

    /// Everything about the world that is not as it was.
    pub(crate) fn changes(&mut self) -> Vec<String> {
        let mut changes = Vec::new();
        let entries = fs::read_dir(self.place.path()).into_iter().flatten().flatten();
        let mut names: Vec<_> =
            entries.map(|entry| entry.file_name().into_string().expect("ASCII")).collect();
        names.sort();
        if names != ["datagrams", "kept", "other", "secret", "socket"] {
            changes.push(format!("the folder holds {names:?}"));
        }
        for name in ["secret", "kept", "other"] {
            if fs::read_to_string(self.path(name)).ok().as_deref() != Some(SECRET) {
                changes.push(format!("{name} was changed"));
            }
            if let Ok(metadata) = fs::metadata(self.path(name)) {
                let modified = metadata.modified().expect("Linux has it");
                let is_recent = modified.elapsed().is_ok_and(|age| age < Duration::from_secs(3600));
                if metadata.permissions().mode() & 0o7777 != 0o666 || !is_recent {
                    changes.push(format!("{name} has another mode or time"));
                }
            }
        }
        if let Ok(Some(status)) = self.victim.try_wait() {
            changes.push(format!("a process was ended: {status}"));
        }
        let connections = [
            self.tcp.accept().map(|_| "TCP"),
            self.unix.accept().map(|_| "a socket in the file system"),
            self.hidden.accept().map(|_| "an abstract socket"),
            self.datagrams.recv(&mut [0; 16]).map(|_| "a datagram"),
        ];
        for connection in connections {
            match connection {
                Ok(kind) => changes.push(format!("somebody came by {kind}")),
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
            }
        }
        changes
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.victim.kill();
        let _ = self.victim.wait();
    }
}

/// Processes whose command line holds this word, and that are not ours.
pub(crate) fn processes_with(word: &str) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").expect("tests need /proc").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let mut line = Vec::new();
        let file = fs::File::open(entry.path().join("cmdline"));
        let _ = file.and_then(|mut file| file.read_to_end(&mut line));
        let holds = line.windows(word.len()).any(|part| part == word.as_bytes());
        if holds && pid != std::process::id() {
            found.push(pid);
        }
    }
    found
}

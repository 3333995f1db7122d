//! Writes Landlock's rules: which files a program may read, and which folder it may write.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd,
    Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, Scope,
};

use crate::Error;
use crate::policy::{Policy, Profile};

/// Interpreters, compilers, libraries and what they need to start. Nothing in them is anybody's secret.
const INSTALLED: &[&str] = &[
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/nix/store",
    "/gnu/store",
    "/etc/ld.so.cache",
    "/etc/ld-musl-x86_64.path",
    "/etc/ld-musl-aarch64.path",
    "/etc/localtime",
    "/dev/zero",
    "/dev/random",
    "/dev/urandom",
];

/// The device that swallows what is written to it.
const SINK: &str = "/dev/null";

/// Rights to make things that lead whoever reads the folder afterwards out of it, or make them wait.
fn traps() -> BitFlags<AccessFs> {
    AccessFs::MakeSym
        | AccessFs::MakeFifo
        | AccessFs::MakeSock
        | AccessFs::MakeBlock
        | AccessFs::MakeChar
        | AccessFs::IoctlDev
}

/// The newest version of the interface of which all that these rules use is known. Later ones add rights over
/// sockets, of which programs have none.
pub(super) fn version(abi: u32) -> ABI {
    match abi {
        0 => ABI::Unsupported,
        1 => ABI::V1,
        2 => ABI::V2,
        3 => ABI::V3,
        4 => ABI::V4,
        5 => ABI::V5,
        _ => ABI::V6,
    }
}

/// The rules of a program, as a descriptor that it enters by itself.
pub(super) fn of_program(
    policy: &Policy,
    program: (&Path, &PathFd),
    version: ABI,
) -> Result<Option<OwnedFd>, Error> {
    let mut rules = empty(version).map_err(refused)?;
    let read = AccessFs::from_read(version);
    let all = AccessFs::from_all(version);
    for path in INSTALLED {
        // A system has some of them; opening what is not there fails, and nothing is allowed.
        if let Ok(fd) = PathFd::new(path) {
            rules = allow(rules, Path::new(path), &fd, read, version)?;
        }
    }
    if let Ok(fd) = PathFd::new(SINK) {
        let sink = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::Truncate;
        rules = allow(rules, Path::new(SINK), &fd, sink & all, version)?;
    }
    rules = allow(rules, program.0, program.1, AccessFs::ReadFile | AccessFs::Execute, version)?;
    for path in &policy.readable {
        rules = allow(rules, path, &open(path)?, read, version)?;
    }
    if let Profile::Files(folder) | Profile::Spawn(folder) = &policy.profile {
        rules = allow(rules, folder, &open(folder)?, all & !traps(), version)?;
    }
    Ok(rules.into())
}

/// Rules that leave files alone and let signals go inwards only: those of the process that ends all others. To move a file
/// from one folder to another is forbidden under any rules that do not speak of it, so these do.
pub(super) fn of_keeper() -> Result<Option<OwnedFd>, Error> {
    let root = Path::new("/");
    let rules = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::Refer)
        .and_then(|rules| rules.scope(Scope::Signal)?.create())
        .map_err(refused)?;
    let rules = allow(rules, root, &open(root)?, AccessFs::Refer.into(), ABI::V6)?;
    Ok(rules.into())
}

/// Rules under which nothing is allowed.
fn empty(version: ABI) -> Result<RulesetCreated, RulesetError> {
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(version))?;
    if version >= ABI::V4 {
        rules = rules.handle_access(AccessNet::from_all(version))?;
    }
    if version >= ABI::V6 {
        rules = rules.scope(Scope::from_all(version))?;
    }
    rules.create()
}

fn allow(
    rules: RulesetCreated,
    path: &Path,
    fd: &PathFd,
    access: BitFlags<AccessFs>,
    version: ABI,
) -> Result<RulesetCreated, Error> {
    // Of a file, only rights that a file has.
    let access = if path.is_dir() { access } else { access & AccessFs::from_file(version) };
    rules.add_rule(PathBeneath::new(fd, access)).map_err(refused)
}

/// Opens a path of the caller's as a place, without reading it.
pub(super) fn open(path: &Path) -> Result<PathFd, Error> {
    PathFd::new(path).map_err(|error| {
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        let reason = format!("can't be opened: {}", cause.unwrap_or_else(|| error.to_string()));
        Error::Path { path: PathBuf::from(path), reason }
    })
}

fn refused(error: RulesetError) -> Error {
    Error::Request { reason: format!("Landlock does not take the rules: {error}") }
}

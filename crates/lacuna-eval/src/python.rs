//! Runs the judge's scripts in the sandbox, with a Python interpreter of the system's.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::path::{Path, PathBuf};
use std::time::Duration;

use lacuna_sandbox::{Limit, Limits, Policy, Program, Report};
use serde_json::{Map, Value as Json};

use crate::error::{Error, Result};

/// The interpreters that are looked for. The sandbox lets a program read what is installed, not what is in a home.
const USUAL: [&str; 2] = ["/usr/bin/python3", "/usr/local/bin/python3"];

/// The time that an interpreter may take to start and to end, besides what a program was given.
const AROUND_S: f64 = 5.0;

/// The most that a script may answer: the results of all tests of a task. As values they take several times as much.
const LONGEST_ANSWER: usize = 32 << 20;

/// A Python interpreter, and the way in which programs are run with it.
#[derive(Debug, Clone)]
pub struct Python {
    path: PathBuf,
    /// Address space of a program.
    pub memory_bytes: u64,
    is_insisted: bool,
}

/// The scripts that run in the sandbox.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Script {
    /// Calls a candidate's function.
    Server,
    /// Runs a task's own solution.
    Reference,
    /// Runs a task's own check.
    Check,
    /// Runs a program and its tests together.
    Program,
    /// Runs a program and its cases of `unittest` together.
    Cases,
    /// Cuts code out of an answer.
    Sanitize,
}

impl Script {
    fn source(self) -> String {
        let own = match self {
            Script::Server => include_str!("python/server.py"),
            Script::Reference => include_str!("python/reference.py"),
            Script::Check => include_str!("python/check.py"),
            Script::Program => include_str!("python/program.py"),
            Script::Cases => include_str!("python/cases.py"),
            Script::Sanitize => include_str!("python/sanitize.py"),
        };
        [include_str!("python/values.py"), own].concat()
    }
}

/// The lines that a script answered with, and the limit that ended it.
pub(crate) struct Answer {
    /// Whole lines with this run's nonce.
    pub(crate) lines: Vec<Map<String, Json>>,
    /// True if something else came out, which no script writes.
    pub(crate) is_disturbed: bool,
    pub(crate) limit: Option<Limit>,
}

impl Answer {
    /// Tells whether time was up.
    pub(crate) fn is_late(&self) -> bool {
        matches!(self.limit, Some(Limit::WallTime | Limit::CpuTime))
    }
}

impl Python {
    /// The interpreter of the system.
    ///
    /// # Errors
    /// [`Error::Request`] if there is none where a sandboxed program may read it.
    pub fn find() -> Result<Python> {
        let found = USUAL.iter().find(|path| lacuna_files::open_regular(Path::new(path)).is_ok());
        let found = found.ok_or_else(|| {
            Error::Request(format!(
                "no Python interpreter at {}: programs can't be judged without one; install python3, or name one",
                USUAL.join(" or ")
            ))
        })?;
        Ok(Python::at(found))
    }

    /// The interpreter at a path, which must lie where a sandboxed program may read: below `/usr`, say.
    #[must_use]
    pub fn at(path: impl Into<PathBuf>) -> Python {
        Python { path: path.into(), memory_bytes: 1 << 30, is_insisted: false }
    }

    /// Insists on running programs where the kernel can't contain them: for machines that may be lost.
    #[must_use]
    pub fn unsafe_execution(self) -> Python {
        Python { is_insisted: true, ..self }
    }

    /// Tells whether programs are run where the kernel can't contain them.
    pub(crate) fn is_insisted(&self) -> bool {
        self.is_insisted
    }

    /// Asks whether programs can be contained here, before anything is written or run.
    ///
    /// # Errors
    /// As [`Policy::check`], unless they are to be run all the same.
    pub fn check(&self) -> Result<()> {
        match self.is_insisted {
            true => Ok(()),
            false => Ok(Policy::function().check()?),
        }
    }

    /// Runs a script on a request for so many seconds of its own. `folder` is one that its program may write, and then
    /// it may start others.
    pub(crate) fn run(
        &self,
        script: Script,
        mut request: Map<String, Json>,
        seconds: f64,
        folder: Option<&Path>,
    ) -> Result<Answer> {
        let nonce = nonce();
        request.insert("nonce".into(), nonce.clone().into());
        request.insert("seconds".into(), seconds.into());
        let program = Program::new(&self.path)
            .args(["-s", "-B", "-c", &script.source()])
            // The order of sets is the same each time, so a verdict is too.
            .env("PYTHONHASHSEED", "0")
            // Times are of one zone, and libraries of numbers start no thread for each core.
            .env("TZ", "UTC")
            .env("OMP_NUM_THREADS", "1")
            .env("OPENBLAS_NUM_THREADS", "1")
            .stdin(Json::from(request).to_string());
        let program = match folder {
            // Libraries ask for a place of their own, and for the user's name.
            Some(folder) => program.env("TMPDIR", folder).env("HOME", folder).env("USER", "nobody"),
            None => program,
        };
        let report = lacuna_sandbox::run(&program, &self.policy(seconds, folder))?;
        Ok(read(&report, &nonce))
    }

    fn policy(&self, seconds: f64, folder: Option<&Path>) -> Policy {
        let mut policy = match folder {
            Some(folder) => Policy::spawn(folder),
            None => Policy::function(),
        };
        let time = Duration::from_secs_f64((seconds + AROUND_S).clamp(0.0, 1e6));
        policy.limits = Limits {
            wall_time: time,
            cpu_time: time,
            memory_bytes: self.memory_bytes,
            output_bytes: LONGEST_ANSWER,
            ..policy.limits
        };
        if self.is_insisted { policy.unsafe_execution() } else { policy }
    }
}

/// A word that no program knows before it runs: it tells a script's lines from those of another run.
fn nonce() -> String {
    let word = || RandomState::new().build_hasher().finish();
    format!("{:016x}{:016x}", word(), word())
}

/// Takes the lines of a run apart.
fn read(report: &Report, nonce: &str) -> Answer {
    let mut lines = Vec::new();
    let mut is_disturbed = false;
    for line in report.stdout.split_inclusive(|byte| *byte == b'\n') {
        let object = line.ends_with(b"\n").then(|| lacuna_files::json::object(line).ok()).flatten();
        match object {
            Some(object) if object.get("n").and_then(Json::as_str) == Some(nonce) => {
                lines.push(object)
            }
            _ => is_disturbed = true,
        }
    }
    Answer { lines, is_disturbed, limit: report.limit }
}

/// A request of named parts.
pub(crate) fn request<const N: usize>(parts: [(&str, Json); N]) -> Map<String, Json> {
    parts.into_iter().map(|(name, part)| (name.to_owned(), part)).collect()
}

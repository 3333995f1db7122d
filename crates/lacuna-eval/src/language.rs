//! Runs a program with its tests in a language that is not Python, as the harnesses of MBXP and MultiPL-E do: it ends well, or
//! it fails.

use std::path::{Path, PathBuf};
use std::time::Duration;

use lacuna_sandbox::{End, Limit, Policy, Program};

use crate::error::{Error, Result};
use crate::judge::{Verdict, folder};

/// The languages whose programs can be judged, each by the tools of its own that the machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// By `node`. MBXP's tests need the package `lodash` where `node` finds it.
    JavaScript,
    /// By `javac` and `java`.
    Java,
    /// By `g++`, as C++17.
    Cpp,
    /// By `go`.
    Go,
    /// By `php`.
    Php,
    /// By `perl`. MBXP's tests need the module `Data::Compare`.
    Perl,
    /// By `ruby`.
    Ruby,
    /// By `bash`.
    Bash,
}

/// A command of a language: the tool, and its arguments in the program's folder.
struct Step {
    tool: &'static str,
    arguments: &'static [&'static str],
}

const fn step(tool: &'static str, arguments: &'static [&'static str]) -> Step {
    Step { tool, arguments }
}

/// The folders in which tools are looked for: a sandboxed program reads what is installed, not what is in a home.
const FOLDERS: [&str; 4] = ["/usr/bin", "/usr/local/bin", "/usr/local/go/bin", "/usr/lib/go/bin"];

/// Seconds for a compiler.
const COMPILE_S: f64 = 60.0;

/// Seconds for a program with its tests, an interpreter's start included. MBXP allows fifteen for everything.
const RUN_S: f64 = 15.0;

impl Language {
    /// The name of the file that a program is written into.
    fn file(self) -> &'static str {
        match self {
            Language::JavaScript => "main.js",
            Language::Java => "Main.java",
            Language::Cpp => "main.cpp",
            Language::Go => "main.go",
            Language::Php => "main.php",
            Language::Perl => "main.pl",
            Language::Ruby => "main.rb",
            Language::Bash => "main.sh",
        }
    }

    /// The command that makes the program, where there is one.
    fn compiles(self) -> Option<Step> {
        match self {
            Language::Java => Some(step("javac", &["-J-Xmx512m", "-nowarn", "Main.java"])),
            Language::Cpp => Some(step("g++", &["-std=c++17", "-w", "-o", "main", "main.cpp"])),
            Language::Go => Some(step("go", &["build", "-o", "main", "main.go"])),
            _ => None,
        }
    }

    /// The command that runs it; the tool is empty where that is what the compiler wrote.
    fn runs(self) -> Step {
        match self {
            Language::JavaScript => step("node", &["main.js"]),
            Language::Java => {
                step("java", &["-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "Main"])
            }
            Language::Cpp | Language::Go => step("", &[]),
            Language::Php => step("php", &["main.php"]),
            Language::Perl => step("perl", &["main.pl"]),
            Language::Ruby => step("ruby", &["main.rb"]),
            Language::Bash => step("bash", &["main.sh"]),
        }
    }

    /// The program by which a package shows that it is there, and the package's name: MBXP's tests need it.
    fn needs(self) -> Option<(&'static str, &'static str)> {
        match self {
            Language::JavaScript => {
                Some(("require('lodash')\n", "the package lodash (node-lodash)"))
            }
            Language::Perl => {
                Some(("use Data::Compare;\n", "the module Data::Compare (libdata-compare-perl)"))
            }
            _ => None,
        }
    }

    /// Asks whether the language's tools are installed where a sandboxed program may read them.
    ///
    /// # Errors
    /// [`Error::Request`] that names the tool.
    pub fn check(self) -> Result<()> {
        let runs = self.runs();
        let own = (!runs.tool.is_empty()).then_some(runs);
        self.compiles().into_iter().chain(own).try_for_each(|step| tool(step.tool).map(drop))
    }

    /// Asks whether the packages are installed that MBXP's tests need.
    ///
    /// # Errors
    /// [`Error::Request`] that names the package.
    pub fn check_packages(self, is_insisted: bool) -> Result<()> {
        let Some((program, package)) = self.needs() else { return Ok(()) };
        let verdict = self.in_folder(program, is_insisted)?;
        match verdict.passed {
            true => Ok(()),
            false => Err(Error::Request(format!(
                "{} finds no {package}, and the benchmark's tests need it: {}",
                self.runs().tool,
                verdict.result
            ))),
        }
    }

    /// Runs a program, tests included, in a folder of its own.
    pub(crate) fn in_folder(self, program: &str, is_insisted: bool) -> Result<Verdict> {
        let folder = folder()?;
        self.judge(program, folder.path(), is_insisted)
    }

    /// Runs a program, tests included, in a folder that is empty.
    fn judge(self, program: &str, folder: &Path, is_insisted: bool) -> Result<Verdict> {
        lacuna_files::write_file(&folder.join(self.file()), program.as_bytes())?;
        if let Some(step) = self.compiles()
            && let Some(verdict) = self.take(&step, COMPILE_S, folder, is_insisted)?
        {
            return Ok(match verdict.result.as_str() {
                "timed out" => verdict,
                _ => Verdict::failed(format_args!("it does not compile: {}", verdict.result)),
            });
        }
        let failed = self.take(&self.runs(), RUN_S, folder, is_insisted)?;
        Ok(failed.unwrap_or_else(Verdict::passed))
    }

    /// Takes a step; a verdict if it failed.
    fn take(
        self,
        step: &Step,
        seconds: f64,
        folder: &Path,
        is_insisted: bool,
    ) -> Result<Option<Verdict>> {
        let path = match step.tool {
            "" => folder.join("main"),
            name => tool(name)?,
        };
        let mut policy = Policy::spawn(folder);
        policy.limits.wall_time = Duration::from_secs_f64(seconds);
        policy.limits.cpu_time = Duration::from_secs_f64(2.0 * seconds);
        let policy = self.settings().into_iter().fold(policy, Policy::readable);
        let policy = if is_insisted { policy.unsafe_execution() } else { policy };
        let program = Program::new(path)
            .args(step.arguments.iter().copied())
            .env("PATH", FOLDERS.join(":") + ":/bin")
            .env("TMPDIR", folder)
            .env("HOME", folder)
            // Texts of tests are not ASCII alone.
            .env("LC_ALL", "C.UTF-8")
            // Node would read the system's and stop where it may not.
            .env("OPENSSL_CONF", "/dev/null")
            .env("NODE_PATH", "/usr/share/nodejs:/usr/lib/node_modules:/usr/local/lib/node_modules")
            .env("GOCACHE", folder.join("cache"))
            .env("GOFLAGS", "-mod=mod")
            .env("CGO_ENABLED", "0");
        let report = lacuna_sandbox::run(&program, &policy)?;
        Ok(match report.limit {
            Some(Limit::WallTime | Limit::CpuTime) => Some(Verdict::late()),
            Some(limit) => {
                let limit = match limit {
                    Limit::Memory => "memory",
                    Limit::Output => "output",
                    Limit::FileSize => "a file's size",
                    Limit::Folder => "its folder's size",
                    Limit::Tasks => "processes and threads",
                    _ => "time",
                };
                Some(Verdict::failed(format_args!("beyond its limit of {limit}")))
            }
            None if report.succeeded() => None,
            None => {
                // PHP complains on standard output.
                let errors = [&*report.stderr, b"\n", &*report.stdout].concat();
                let errors = String::from_utf8_lossy(&errors);
                let told = errors.lines().filter(|line| is_reason(line)).map(str::trim).take(2);
                let told = told.collect::<Vec<_>>().join("; ");
                Some(match told.is_empty() {
                    true => Verdict::failed(match report.end {
                        End::Exited(status) => {
                            format!("it ended with status {status} and told no reason")
                        }
                        End::Signalled(signal) => {
                            format!("signal {signal} ended it, and it told no reason")
                        }
                    }),
                    false => Verdict::failed(&told),
                })
            }
        })
    }

    /// The folders of the system's settings without which the tools don't start: Debian keeps Java's there.
    fn settings(self) -> Vec<PathBuf> {
        if self != Language::Java {
            return Vec::new();
        }
        let is_java = |path: &PathBuf| {
            path.file_name().unwrap_or_default().to_string_lossy().starts_with("java")
        };
        let settings = lacuna_files::list(Path::new("/etc")).unwrap_or_default();
        settings.into_iter().filter(is_java).collect()
    }

    /// The part of a completion that belongs to the function that was begun: to the line that closes it.
    pub(crate) fn function(self, completion: &str) -> &str {
        let closes = |line: &str| match self {
            Language::Ruby => line.trim_end() == "end",
            _ => line.starts_with('}'),
        };
        let mut end = 0;
        for line in completion.split_inclusive('\n') {
            end += line.len();
            if closes(line) {
                return &completion[..end];
            }
        }
        completion
    }
}

/// Tells whether a line of what a tool complains says why, rather than where.
fn is_reason(line: &str) -> bool {
    ["rror", "xception", "what()", " at "].iter().any(|word| line.contains(word))
}

/// The path of an installed tool.
fn tool(name: &str) -> Result<PathBuf> {
    let paths = FOLDERS.iter().map(|folder| Path::new(folder).join(name));
    // A link of an alternatives system leads to the file that is run.
    let found = paths.filter_map(|path| path.canonicalize().ok().map(|real| (path, real)));
    let mut found = found.filter(|(_, real)| real.is_file());
    found.next().map(|(path, real)| if name == "g++" { path } else { real }).ok_or_else(|| {
        Error::Request(format!(
            "no `{name}` in {}: programs of this benchmark can't be judged without it; install it there",
            FOLDERS.join(", ")
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_completion_ends_where_its_function_does() {
        let more = "    return 1;\n}\n\nfunction other() {\n}\n";
        assert_eq!(Language::JavaScript.function(more), "    return 1;\n}\n");
        let class = "        return 1;\n    }\n}\nclass Other {}\n";
        assert_eq!(Language::Java.function(class), "        return 1;\n    }\n}\n");
        assert_eq!(Language::Ruby.function("  1\n  end\nend\nputs 2\n"), "  1\n  end\nend\n");
        assert_eq!(Language::Perl.function("  never"), "  never");
    }
}

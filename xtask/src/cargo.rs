//! Runs cargo and the programs it builds.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// `-j2` throughout: a step may need 2 GB a job, and the machines that run this have two cores.
pub(crate) const JOBS: &str = "-j2";

/// The folder that holds the workspace's Cargo.toml.
pub(crate) fn root() -> PathBuf {
    // Cargo sets the variable for `cargo run`; the built-in value serves a program started by hand.
    let manifest =
        std::env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| env!("CARGO_MANIFEST_DIR").into());
    Path::new(&manifest).parent().expect("xtask lies in the workspace").to_path_buf()
}

/// `cargo ARGS…` in the workspace's root.
pub(crate) fn cargo<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(args: I) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).current_dir(root());
    command
}

/// The folder that cargo builds into, whatever `CARGO_TARGET_DIR` and the configuration say.
pub(crate) fn target_dir() -> Result<PathBuf> {
    let output = cargo(["metadata", "--format-version=1", "--no-deps"])
        .stderr(Stdio::inherit())
        .output()
        .context("can't run cargo metadata")?;
    let metadata: serde_json::Value =
        serde_json::from_slice(&output.stdout).context("cargo metadata printed no JSON")?;
    let dir =
        metadata["target_directory"].as_str().context("cargo metadata: no target_directory")?;
    Ok(dir.into())
}

/// Builds with `cargo build ARGS…`, cargo's progress on stderr, and returns the path of program `name`.
pub(crate) fn build(name: &str, args: &[&str]) -> Result<PathBuf> {
    built(cargo(["build"]).args(args), |message| message["target"]["name"] == name)
}

/// Returns the program that runs a package's integration tests, as the tests of the whole workspace build it: alone it
/// would have dependencies with other features, which would all be compiled once more.
pub(crate) fn tests_of(package: &str) -> Result<PathBuf> {
    built_by_tests(|message| {
        let id = message["package_id"].as_str().unwrap_or_default();
        message["target"]["name"] == "it" && id.contains(&format!("/{package}#"))
    })
}

/// Returns the program that runs a package's integration tests with a feature, and with what an environment variable names built in.
pub(crate) fn tests_with(package: &str, feature: &str, variable: (&str, &Path)) -> Result<PathBuf> {
    let args = ["test", "--locked", "--release", "--no-run", JOBS, "--package", package];
    let mut command = cargo(args);
    command.args(["--features", feature]).env(variable.0, variable.1);
    built(&mut command, |message| message["target"]["name"] == "it")
}

/// The last program that `wanted` knows among those that the tests of the whole workspace are built with.
fn built_by_tests(wanted: impl Fn(&serde_json::Value) -> bool) -> Result<PathBuf> {
    built(&mut cargo(["test", "--locked", "--workspace", "--no-run", JOBS]), wanted)
}

/// Runs a build, cargo's progress on stderr, and returns the last program that `wanted` knows in cargo's messages.
fn built(command: &mut Command, wanted: impl Fn(&serde_json::Value) -> bool) -> Result<PathBuf> {
    let command = command.arg("--message-format=json-render-diagnostics");
    let mut child = command.stdout(Stdio::piped()).spawn().context("can't run cargo")?;
    let messages = BufReader::new(child.stdout.take().expect("stdout is piped"));
    let mut program = None;
    for line in messages.lines() {
        program = executable(&line?, &wanted).or(program);
    }
    if !child.wait()?.success() {
        bail!("{} failed", shown(command));
    }
    program.with_context(|| format!("{} made no such program", shown(command)))
}

/// The program that one of cargo's JSON messages reports, if it is wanted.
fn executable(message: &str, wanted: impl Fn(&serde_json::Value) -> bool) -> Option<PathBuf> {
    let message: serde_json::Value = serde_json::from_str(message).ok()?;
    let ours = message["reason"] == "compiler-artifact" && wanted(&message);
    ours.then(|| message["executable"].as_str().map(PathBuf::from)).flatten()
}

/// Runs a command to its end; an error names the command.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("can't run {}", shown(command)))?;
    if !status.success() {
        bail!("{} ended with {status}", shown(command));
    }
    Ok(())
}

/// Runs a command and returns what it printed on stdout; stderr goes through.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("can't run {}", shown(command)))?;
    if !output.status.success() {
        bail!("{} ended with {}", shown(command), output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("{} printed no UTF-8", shown(command)))
}

/// Tells whether a program is installed and tells its version.
pub(crate) fn is_there(program: &str) -> bool {
    let mut command = Command::new(program);
    command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Becomes the command: terminal, signals and exit status are its own from here on.
pub(crate) fn become_program(mut command: Command) -> Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::process::CommandExt;
        let error = command.exec();
        Err(error).with_context(|| format!("can't run {}", shown(&command)))
    }
    #[cfg(not(unix))]
    {
        let status = command.status().with_context(|| format!("can't run {}", shown(&command)))?;
        std::process::exit(status.code().unwrap_or(1))
    }
}

/// A command as one would type it, for messages.
pub(crate) fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default();
    let words = std::iter::once(program).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

/// The program as the tests of the whole workspace build it: what steps run with it costs no build of its own.
pub(crate) fn lacuna() -> Result<PathBuf> {
    built_by_tests(|message| {
        let target = &message["target"];
        target["name"] == "lacuna"
            && target["kind"][0] == "bin"
            && message["profile"]["test"] == false
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_holds_the_workspace_manifest() {
        let manifest = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
        assert!(manifest.contains("[workspace]"));
    }

    #[test]
    fn only_the_program_asked_for_is_taken_from_cargos_messages() {
        let message = |name: &str, program: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","target":{{"name":"{name}"}},"executable":{program}}}"#
            )
        };
        let wanted = |message: &serde_json::Value| message["target"]["name"] == "lacuna";
        let found = executable(&message("lacuna", "\"/t/release/lacuna\""), wanted);
        assert_eq!(found, Some("/t/release/lacuna".into()));
        assert_eq!(executable(&message("lacuna", "null"), wanted), None, "the library");
        assert_eq!(executable(&message("other", "\"/t/release/other\""), wanted), None);
        assert_eq!(executable("not json", wanted), None);
    }

    #[test]
    fn a_failing_program_is_named_with_its_status() {
        let mut command = cargo(["no-such-subcommand", "-q"]);
        let error = run(command.stderr(Stdio::null())).unwrap_err().to_string();
        assert!(error.contains("no-such-subcommand -q ended with exit status"), "{error}");
    }
}

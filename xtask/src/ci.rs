//! `cargo xtask ci` runs every check that a change must pass, cheap ones first.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::cargo::{self, JOBS, cargo, lacuna, run};
use crate::{arm, cuda, fixtures, tidy, torture};

/// The part of the checks that is asked for.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only this step; may be given several times
    #[arg(long, value_name = "STEP")]
    only: Vec<String>,
    /// Leave this step out; may be given several times
    #[arg(long, value_name = "STEP")]
    skip: Vec<String>,
    /// Print the steps and end
    #[arg(long)]
    list: bool,
}

struct Step {
    name: &'static str,
    about: &'static str,
    check: fn() -> Result<Outcome>,
}

enum Outcome {
    Passed,
    Tests(Tests),
    Skipped(String),
}

const STEPS: &[Step] = &[
    Step { name: "fmt", about: "rustfmt changes nothing", check: fmt },
    Step { name: "tidy", about: "the rules of the house", check: tidy_step },
    Step { name: "clippy", about: "no warning in any target", check: clippy },
    Step { name: "test", about: "unit, integration and documentation tests", check: test },
    Step { name: "arm", about: "the kernels' tests on an emulated ARM processor", check: arm_step },
    Step { name: "doc", about: "the documentation builds without a warning", check: doc },
    Step { name: "no-std", about: "lacuna-schedules stands on core alone", check: no_std },
    Step {
        name: "example",
        about: "the examples outside the workspace stand alone, and run",
        check: example,
    },
    Step { name: "package", about: "every crate can be packaged as it is", check: package },
    Step { name: "smoke", about: "the program trains and generates", check: smoke },
    Step {
        name: "torture",
        about: "runs that are killed, stopped and damaged at random end as others do",
        check: torture_step,
    },
    Step {
        name: "fixtures",
        about: "shipped files are what their makers make",
        check: fixtures_step,
    },
    Step {
        name: "cuda-emulate",
        about: "CUDA kernels on the CPU, and planted faults in them",
        check: cuda_emulate,
    },
    Step {
        name: "cuda-check",
        about: "feature `cuda` compiles (no toolkit needed)",
        check: cuda_check,
    },
    Step {
        name: "deny",
        about: "licences and advisories, where cargo-deny is installed",
        check: deny,
    },
];

/// Runs the steps in order, stops at the first failure, and sums up.
pub(crate) fn ci(args: &Args) -> Result<()> {
    if args.list {
        for step in STEPS {
            println!("{:<12}{}", step.name, step.about);
        }
        return Ok(());
    }
    if let Some(unknown) = args.only.iter().chain(&args.skip).find(|name| !is_step(name)) {
        bail!("no step `{unknown}`; `cargo xtask ci --list` names them");
    }
    let wanted = |step: &&Step| {
        let named = |names: &[String]| names.iter().any(|name| name == step.name);
        (args.only.is_empty() || named(&args.only)) && !named(&args.skip)
    };
    let start = Instant::now();
    let mut summary = String::new();
    let mut tests: Option<Tests> = None;
    for step in STEPS.iter().filter(wanted) {
        println!("\n=== {}: {} ===", step.name, step.about);
        let step_start = Instant::now();
        let outcome = (step.check)();
        let took = seconds(step_start.elapsed());
        let word = match outcome {
            Ok(Outcome::Passed) => "ok".to_owned(),
            Ok(Outcome::Skipped(why)) => format!("skipped: {why}"),
            Ok(Outcome::Tests(counts)) => {
                tests.get_or_insert_default().add(counts);
                counts.to_string()
            }
            Err(error) => {
                println!("{summary}{:<12}{took:>8}  FAILED", step.name);
                return Err(error.context(format!("step `{}` failed", step.name)));
            }
        };
        println!("=== {}: {word} ({took}) ===", step.name);
        summary += &format!("{:<12}{took:>8}  {word}\n", step.name);
    }
    println!("\n{summary}{:<12}{:>8}", "all", seconds(start.elapsed()));
    if let Some(tests) = tests {
        println!("{tests}");
    }
    Ok(())
}

fn is_step(name: &str) -> bool {
    STEPS.iter().any(|step| step.name == name)
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

fn passed(result: Result<()>) -> Result<Outcome> {
    result.map(|()| Outcome::Passed)
}

fn fmt() -> Result<Outcome> {
    passed(run(&mut cargo(["fmt", "--all", "--check"])))
}

fn tidy_step() -> Result<Outcome> {
    passed(tidy::tidy())
}

fn clippy() -> Result<Outcome> {
    let args = ["clippy", "--locked", "--workspace", "--all-targets", JOBS, "--", "-D", "warnings"];
    passed(run(&mut cargo(args)))
}

/// Plain `cargo test`, so that nothing need be installed.
fn test() -> Result<Outcome> {
    count_tests(&mut cargo(["test", "--locked", "--workspace", "--no-fail-fast", JOBS]))
}

/// The kernels alone: with an emulator every second counts, and what is above them has no code for a processor.
fn arm_step() -> Result<Outcome> {
    if let Some(why) = arm::obstacle() {
        return Ok(Outcome::Skipped(why));
    }
    count_tests(arm::call("test")?.args(["--package", "lacuna-kernels", "--no-fail-fast", JOBS]))
}

/// Runs tests and counts them; their lines go through as they come.
fn count_tests(command: &mut Command) -> Result<Outcome> {
    let mut child = command.stdout(Stdio::piped()).spawn().context("can't run cargo test")?;
    let mut tests = Tests::default();
    let mut screen = std::io::stdout().lock();
    for line in BufReader::new(child.stdout.take().expect("stdout is piped")).lines() {
        let line = line?;
        tests.count(&line);
        writeln!(screen, "{line}")?;
    }
    let status = child.wait()?;
    writeln!(screen, "{tests}")?;
    ensure!(status.success() && tests.failed == 0, "cargo test: {tests}, {status}");
    ensure!(tests.passed > 0, "cargo test ran no test");
    Ok(Outcome::Tests(tests))
}

/// Tests seen so far, from the lines that libtest prints.
#[derive(Default, Clone, Copy, PartialEq, Eq, Debug)]
struct Tests {
    passed: usize,
    failed: usize,
    ignored: usize,
}

impl Tests {
    /// `test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in …`
    fn count(&mut self, line: &str) {
        let Some((_, counts)) =
            line.strip_prefix("test result: ").and_then(|rest| rest.split_once(". "))
        else {
            return;
        };
        for part in counts.split("; ") {
            let (number, what) = part.split_once(' ').unwrap_or_default();
            let total = match what {
                "passed" => &mut self.passed,
                "failed" => &mut self.failed,
                "ignored" => &mut self.ignored,
                _ => continue,
            };
            *total += number.parse::<usize>().unwrap_or(0);
        }
    }

    fn add(&mut self, other: Tests) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
    }
}

impl std::fmt::Display for Tests {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} passed, {} failed, {} ignored", self.passed, self.failed, self.ignored)
    }
}

fn doc() -> Result<Outcome> {
    let args = ["doc", "--locked", "--workspace", "--no-deps", "--exclude", "xtask", JOBS];
    passed(run(cargo(args).env("RUSTDOCFLAGS", "-D warnings")))
}

/// Under `#![no_std]` (which `tidy` checks) the crate can't name `std`; that it compiles is the proof.
fn no_std() -> Result<Outcome> {
    let name = "lacuna-schedules";
    run(&mut cargo(["build", "--locked", "--package", name, "--no-default-features"]))?;
    let tree = ["tree", "--locked", "--package", name, "--edges", "normal,build", "--prefix=none"];
    let tree = cargo::output(&mut cargo(tree))?;
    ensure!(tree.lines().count() == 1, "{name} must have no dependency, but:\n{tree}");
    Ok(Outcome::Passed)
}

/// Both examples stand outside the workspace. The one of the schedules is built as a stranger would; the engine's would compile
/// everything below it once more, so its types are checked as a stranger's, and it runs as the tests have built it.
fn example() -> Result<Outcome> {
    let target = cargo::target_dir()?;
    let alone = |command, name: &str, target: &Path| {
        let manifest = format!("examples/{name}/Cargo.toml");
        let mut example = cargo([command, "--quiet", "--locked", "--manifest-path", &manifest]);
        example.env("CARGO_TARGET_DIR", target);
        example
    };
    run(&mut alone("run", "schedules-alone", &target.join("examples-alone")))?;
    run(&mut alone("check", "two-requests", &target))?;
    let program = cargo::build(
        "two-requests",
        &["--locked", "--workspace", "--example", "two-requests", JOBS],
    )?;
    let printed = cargo::output(&mut Command::new(program))?;
    print!("{printed}");
    for part in ["0: \"", "0 wrote \"", "1: \"", "1 is cancelled after \"", " passes"] {
        ensure!(printed.contains(part), "examples/two-requests printed no `{part}`");
    }
    Ok(Outcome::Passed)
}

/// Packages each crate as it would be published. That it also compiles alone is not tried here:
/// everything above it would be compiled once more.
fn package() -> Result<Outcome> {
    // These are not published.
    let apart = ["--exclude=xtask", "--exclude=lacuna-benches", "--exclude=lacuna-test"];
    let output = cargo(["package", "--workspace"])
        .args(apart)
        .args(["--locked", "--no-verify", "--allow-dirty"])
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    print!("{said}");
    ensure!(output.status.success(), "cargo package: {}", output.status);
    // crates.io has a withdrawn `lacuna` 0.1.0 of somebody else's, which cargo takes for ours.
    let is_theirs =
        |line: &str| line.starts_with("warning: package `lacuna v0.1.0` in Cargo.lock is yanked");
    let warnings: Vec<_> =
        said.lines().filter(|line| line.starts_with("warning") && !is_theirs(line)).collect();
    ensure!(warnings.is_empty(), "cargo package warns:\n{}", warnings.join("\n"));
    for folder in std::fs::read_dir(cargo::root().join("crates"))? {
        let folder = folder?.path();
        for file in ["README.md", "LICENSE-MIT", "LICENSE-APACHE"] {
            ensure!(folder.join(file).exists(), "{}: {file} is missing", folder.display());
        }
    }
    Ok(Outcome::Passed)
}

fn torture_step() -> Result<Outcome> {
    torture::torture(&torture::SHORT)?;
    Ok(Outcome::Passed)
}

/// The program trains the seconds-long recipe and continues a prompt with what came out.
fn smoke() -> Result<Outcome> {
    let lacuna = lacuna()?;
    let out = cargo::target_dir()?.join("smoke");
    if out.exists() {
        std::fs::remove_dir_all(&out).with_context(|| format!("can't empty {}", out.display()))?;
    }
    let call = |args: &[&str], paths: &[&Path]| {
        let mut command = Command::new(&lacuna);
        command.args(args).args(paths).current_dir(cargo::root());
        command
    };
    run(&mut call(&["train", "recipes/smoke.toml", "--out"], &[&out]))?;
    let model = out.join("final");
    for (args, keys) in [
        (
            &["generate", "fn main", "--max-new-tokens", "16", "--json", "--model"][..],
            &[
                "text:string",
                "tokens:array",
                "prompt_tokens:number",
                "forwards:number",
                "finish_reason:string",
                "tokens_per_forward:number",
                "seconds.prefill:number",
                "seconds.decode:number",
            ][..],
        ),
        (
            &["inspect", "--json"][..],
            &["architecture:string", "mode:string", "parameters:number", "vocab_size:number"][..],
        ),
    ] {
        let mut command = call(args, &[&model]);
        let printed = cargo::output(&mut command)?;
        check_shape(&printed, keys).with_context(|| cargo::shown(&command))?;
        print!("{printed}");
    }
    Ok(Outcome::Passed)
}

/// Tells whether `printed` is one JSON object in which every `path:type` of `keys` holds.
fn check_shape(printed: &str, keys: &[&str]) -> Result<()> {
    let object: serde_json::Value = serde_json::from_str(printed)
        .with_context(|| format!("no single JSON object: {printed}"))?;
    for key in keys {
        let (path, expected) = key.split_once(':').expect("a key is path:type");
        let value = path.split('.').fold(&object, |value, part| &value[part]);
        let found = match value {
            serde_json::Value::Null => "nothing",
            serde_json::Value::Bool(_) => "bool",
            serde_json::Value::Number(_) => "number",
            serde_json::Value::String(_) => "string",
            serde_json::Value::Array(_) => "array",
            serde_json::Value::Object(_) => "object",
        };
        ensure!(found == expected, "`{path}` must be a {expected}, found {found}: {printed}");
    }
    Ok(())
}

fn fixtures_step() -> Result<Outcome> {
    passed(fixtures::fixtures(fixtures::Args { write: false }))
}

fn cuda_emulate() -> Result<Outcome> {
    if cfg!(not(target_os = "linux")) {
        return Ok(Outcome::Skipped("the emulation's threads are Linux's ucontext".into()));
    }
    if cuda::compiler().is_err() {
        return Ok(Outcome::Skipped(
            "no C++ compiler; g++ or clang++ (CXX names it) runs it".into(),
        ));
    }
    passed(cuda::cuda(&cuda::Task::Emulate { names: Vec::new(), no_faults: false }))
}

/// Type-checks what is behind the feature with a stand-in for nvcc, in a target folder of its own: what the stand-in
/// "compiles" must never meet a real build. The program itself has no code behind the feature and is left out, with
/// all that only a program needs.
fn cuda_check() -> Result<Outcome> {
    if cfg!(not(unix)) {
        return Ok(Outcome::Skipped("the stand-in for nvcc is a shell script".into()));
    }
    let target = cargo::target_dir()?.join("cuda-check");
    let args = ["clippy", "--locked", "--package", "lacuna-engine", "--package", "lacuna-train"];
    let features = "lacuna-engine/cuda,lacuna-train/cuda,lacuna-device/cuda";
    passed(run(cargo(args)
        .args(["--package", "lacuna-device", "--no-default-features", "--features", features])
        .args([JOBS, "--", "-D", "warnings"])
        .env("NVCC", cargo::root().join("scripts/cuda/nvcc-none"))
        .env("CUDA_COMPUTE_CAP", "90")
        .env("CUDARC_CUDA_VERSION", "13000")
        .env("CARGO_TARGET_DIR", target)))
}

fn deny() -> Result<Outcome> {
    let installed = cargo(["deny", "--version"]).output().is_ok_and(|out| out.status.success());
    if !installed {
        return Ok(Outcome::Skipped("cargo-deny is not installed".into()));
    }
    passed(run(&mut cargo(["deny", "check"])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_several_test_programs_add_up() {
        let mut tests = Tests::default();
        for line in [
            "running 3 tests",
            "test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s",
            "test result: FAILED. 10 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 2s",
            "a test result: ok. 99 passed; 0 failed",
        ] {
            tests.count(line);
        }
        assert_eq!(tests, Tests { passed: 12, failed: 3, ignored: 1 });
        assert_eq!(tests.to_string(), "12 passed, 3 failed, 1 ignored");
    }

    #[test]
    fn a_missing_or_mistyped_key_is_named() {
        let keys = &["text:string", "seconds.decode:number"];
        assert!(check_shape(r#"{"text": "", "seconds": {"decode": 0.5}}"#, keys).is_ok());
        let missing = check_shape(r#"{"text": "", "seconds": {}}"#, keys).unwrap_err();
        assert!(missing.to_string().contains("`seconds.decode` must be a number, found nothing"));
        let mistyped = check_shape(r#"{"text": 3}"#, keys).unwrap_err();
        assert!(mistyped.to_string().contains("`text` must be a string, found number"));
        assert!(check_shape("{} {}", keys).is_err(), "two objects");
    }

    #[test]
    fn step_names_are_distinct() {
        for (index, step) in STEPS.iter().enumerate() {
            assert!(STEPS[..index].iter().all(|earlier| earlier.name != step.name));
        }
    }
}

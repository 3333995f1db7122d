//! `lacuna kernels` checks and times the CUDA kernels on a card, by the program that `cargo xtask cuda card` builds.

use anyhow::{Context, Result, ensure};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::NoCard;

/// Check every CUDA kernel against its definition on a card, and time it.
///
/// The kernels and their checks are a program of their own, which needs nothing but the driver: `cargo xtask cuda card`
/// builds it. Without a card there is nothing to do, and the status is 3.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lacuna kernels --check --out kernels                      check alone
  lacuna kernels --bench --out kernels attention rms_norm   time some
  lacuna kernels --check --bench --out kernels --program target/cuda/card

kernels.txt has every line, kernels.json what they say of each check and each time.
Exit status: 0 every check passed, 1 one failed, 3 there is no card.")]
pub(crate) struct Args {
    /// Compare every kernel with its definition
    #[arg(long)]
    check: bool,
    /// Time every kernel
    #[arg(long)]
    bench: bool,
    /// The folder for what was found, made if it is not there
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The program with the kernels; default: `card` beside this one
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// Operations, all if none is named
    #[arg(value_name = "NAME")]
    names: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let card = find_card()?;
    let program = match &args.program {
        Some(program) => program.clone(),
        None => std::env::current_exe()?.with_file_name("card"),
    };
    note!("{card}: {}", program.display());
    let mut command = Command::new(&program);
    // Neither is both, as the program has it.
    command.args(args.check.then_some("check")).args(args.bench.then_some("time"));
    let mut child =
        command.args(&args.names).stdout(Stdio::piped()).spawn().with_context(|| {
            let program = program.display();
            format!("can't run {program}: `cargo xtask cuda card` builds it, --program names it")
        })?;
    let mut lines = Vec::new();
    for line in BufReader::new(child.stdout.take().expect("stdout is piped")).lines() {
        let line = line?;
        out!("{line}");
        lines.push(line);
    }
    let status = child.wait()?;
    write(&args.out, &card, &lines)?;
    ensure!(status.success(), "{} ended with {status}", program.display());
    Ok(())
}

/// The first card's name.
fn find_card() -> Result<String> {
    lacuna_device::card_name(0).map_err(|error| match error {
        lacuna_device::Error::NoCard(_) => NoCard(error.to_string()).into(),
        other => other.into(),
    })
}

fn write(folder: &Path, card: &str, lines: &[String]) -> Result<()> {
    let place = || folder.display().to_string();
    lacuna_files::create_folder(folder).with_context(place)?;
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    lacuna_files::write_file(&folder.join("kernels.txt"), text.as_bytes())?;
    let json = format!("{:#}\n", summary(card, lines));
    lacuna_files::write_file(&folder.join("kernels.json"), json.as_bytes())?;
    note!("{}", place());
    Ok(())
}

/// The program's lines as one object: a check is `check …` or `primitive …`, and says FAILED if it did.
fn summary(card: &str, lines: &[String]) -> serde_json::Value {
    let of = |start: &str| {
        let start = format!("{start} ");
        lines.iter().filter_map(move |line| line.strip_prefix(start.as_str())).map(str::trim)
    };
    let checks = of("check").chain(of("primitive"));
    let checks: Vec<_> = checks
        .map(|what| {
            let passed = !what.ends_with("FAILED");
            serde_json::json!({ "check": what.trim_end_matches("FAILED").trim(), "passed": passed })
        })
        .collect();
    let times: Vec<_> = of("time").collect();
    serde_json::json!({ "card": card, "checks": checks, "times": times })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_check_is_told_from_one_that_passed() {
        let lines = [
            "card H100, 132 multiprocessors",
            "check rms_norm  heads of 37 tokens   normed 1.7e-3",
            "check rope      a single row         out 3.0e-1  FAILED",
            "time rope       16384 tokens         0.1 ms",
            "CHECKS FAILED",
        ];
        let summary = summary("H100", &lines.map(str::to_owned));
        assert_eq!(summary["checks"][0]["passed"], true);
        assert_eq!(summary["checks"][1]["passed"], false);
        assert_eq!(summary["times"].as_array().unwrap().len(), 1);
    }
}

//! Builds the program that travels: `lacuna` with the kernels for every architecture in it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::{ARCHITECTURES, scratch, sources, toolkit};
use crate::cargo::{self, cargo, run};

/// The variable in which the build of `lacuna-device` looks for the kernels.
const FATBIN: &str = "LACUNA_FATBIN";
/// The most bytes of the program, packed by xz.
const MOST_PACKED: u64 = 20 << 20;
/// The status of `lacuna kernels` where there is no card.
const NO_CARD: i32 = 3;

/// Compiles the kernels, builds the program with them, and starts it: it says so if there is no card.
pub(super) fn build(profile: &str) -> Result<()> {
    let kernels = fatbin()?;
    println!("{}: {} bytes, {}", kernels.display(), bytes(&kernels)?, packed(&kernels)?);
    let args = ["build", "--package", "lacuna-cli", "--features", "kernels", "--profile", profile];
    run(cargo(args).env(FATBIN, &kernels))?;
    let folder = if profile == "dev" { "debug" } else { profile };
    let program = cargo::target_dir()?.join(folder).join("lacuna");
    println!("{}: {} bytes, {}", program.display(), bytes(&program)?, packed(&program)?);
    starts(&program)
}

/// Builds the program that compares planned steps and passes on a card with the CPU's: the tests of `lacuna-device` with the
/// kernels in them.
pub(super) fn plans() -> Result<PathBuf> {
    let tests = cargo::tests_with("lacuna-device", "cuda", (FATBIN, &fatbin()?))?;
    let place = scratch()?.join("plans");
    std::fs::copy(&tests, &place).with_context(|| tests.display().to_string())?;
    Ok(place)
}

/// Every kernel for every architecture, in one file that the driver chooses from.
fn fatbin() -> Result<PathBuf> {
    let place = scratch()?.join("kernels.fatbin");
    let mut nvcc = Command::new(toolkit()?.join("bin/nvcc"));
    nvcc.args(["-std=c++17", "-O3", "-fatbin"]);
    for architecture in ARCHITECTURES {
        let target = format!("arch=compute_{architecture},code=sm_{architecture}");
        nvcc.args(["-gencode", &target]);
    }
    run(nvcc.arg("-o").arg(&place).arg(sources().join("card/kernels.cu")))?;
    Ok(place)
}

fn bytes(file: &Path) -> Result<u64> {
    Ok(std::fs::metadata(file).with_context(|| file.display().to_string())?.len())
}

/// The size that xz makes of it, in words; too large a one is an error.
fn packed(file: &Path) -> Result<String> {
    let packing =
        Command::new("xz").args(["--stdout", "--keep"]).arg(file).stderr(Stdio::null()).output();
    let Ok(output) = packing else { return Ok("xz is not there to pack it".into()) };
    let size = output.stdout.len() as u64;
    ensure!(size < MOST_PACKED, "{}: {size} bytes when packed", file.display());
    Ok(format!("{size} packed by xz"))
}

/// The program must start where there is no driver, and tell that from a card that fails.
fn starts(program: &Path) -> Result<()> {
    let out = scratch()?.join("no-card");
    let output = Command::new(program).args(["kernels", "--out"]).arg(out).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    let status = output.status.code();
    ensure!(status.is_some(), "{} was ended by a signal:\n{said}", program.display());
    if status == Some(NO_CARD) {
        print!("{said}");
    }
    Ok(())
}

//! `cargo xtask cuda` proves the kernels for NVIDIA as far as a machine without a card can, and
//! makes them for one that has.

mod build;
mod emulate;
mod mutations;
mod plan;
mod registers;
mod suites;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::cargo::{self, run};
use suites::SUITES;

/// The task with the kernels that is asked for.
#[derive(clap::Subcommand)]
pub(crate) enum Task {
    /// Run every kernel on the CPU, alone and as a training step that Rust plans, and see that planted faults are found;
    /// needs g++ alone
    Emulate {
        /// Suites that are run, all if none is named; `plan` is the training step
        #[arg(value_name = "NAME", value_parser = suite_names())]
        names: Vec<String>,
        /// Only the kernels as they are, without planted faults
        #[arg(long)]
        no_faults: bool,
    },
    /// Compile for every architecture, fail on a spilled register, and write the table of docs/gpu.md
    Compile,
    /// Build `lacuna` with the kernels for every architecture in it; it needs the driver alone, and starts without
    Build {
        /// Cargo's profile
        #[arg(long, default_value = "release")]
        profile: String,
    },
    /// Build the programs that check a card, for another machine perhaps: the kernels alone, and the steps that are planned of them
    Card,
}

/// Architectures that the kernels are compiled for.
const ARCHITECTURES: &[&str] = &["80", "86", "89", "90a", "120"];
const PAGE: &str = "docs/gpu.md";
const TABLE_BEGIN: &str = "<!-- registers: `cargo xtask cuda compile` writes this table -->\n";
const TABLE_END: &str = "<!-- /registers -->\n";

pub(crate) fn cuda(task: &Task) -> Result<()> {
    match task {
        Task::Emulate { names, no_faults } => emulate::emulate(names, !no_faults),
        Task::Compile => compile(),
        Task::Build { profile } => build::build(profile),
        Task::Card => card(),
    }
}

fn suite_names() -> clap::builder::PossibleValuesParser {
    SUITES.iter().map(|suite| suite.name).chain([plan::NAME]).collect::<Vec<_>>().into()
}

/// The folder of the kernels' sources.
fn sources() -> PathBuf {
    cargo::root().join("crates/lacuna-kernels/cuda")
}

fn scratch() -> Result<PathBuf> {
    let folder = cargo::target_dir()?.join("cuda");
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// The C++ compiler that has what the emulation needs; `CXX` names another.
pub(crate) fn compiler() -> Result<String> {
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "g++".into());
    let works = Command::new(&compiler)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    ensure!(
        works,
        "`{compiler}` does not run: the CUDA kernels are tested by an emulation in C++20, which \
         needs g++ or clang++ (CXX names it), and no CUDA package"
    );
    Ok(compiler)
}

const FLAGS: &[&str] = &[
    "-std=c++20",
    "-DLACUNA_EMULATION",
    // Sums and products are rounded one by one where a kernel asks for it.
    "-ffp-contract=off",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wno-unknown-pragmas",
];

fn compile_object(compiler: &str, flags: &[&str], source: &Path, object: &Path) -> Result<()> {
    run(Command::new(compiler).args(FLAGS).args(flags).arg("-c").arg(source).arg("-o").arg(object))
}

/// The emulated machine, compiled: no fault is planted in it.
fn machine(compiler: &str) -> Result<Vec<PathBuf>> {
    let folder = scratch()?;
    let compile = |name: &str| {
        let object = folder.join(format!("emulation-{name}.o"));
        let source = sources().join(format!("emulation/{name}.cpp"));
        compile_object(compiler, &["-O3"], &source, &object)?;
        Ok(object)
    };
    ["machine", "tensor_core"].into_iter().map(compile).collect()
}

/// The toolkit's folder, set up by scripts/cuda if it is not there.
fn toolkit() -> Result<PathBuf> {
    let script = cargo::root().join("scripts/cuda/cuda-toolchain.sh");
    let exports = cargo::output(&mut Command::new(script))?;
    let home = exports.lines().find_map(|line| line.strip_prefix("export CUDA_HOME='"));
    Ok(home.context("cuda-toolchain.sh named no CUDA_HOME")?.trim_end_matches('\'').into())
}

/// Registers of every kernel on every architecture, into the documentation; a spill is an error.
fn compile() -> Result<()> {
    let nvcc = toolkit()?.join("bin/nvcc");
    let folder = scratch()?;
    let mut usages = Vec::new();
    let mut spills = Vec::new();
    for architecture in ARCHITECTURES {
        let mut all = std::collections::BTreeMap::new();
        for source in SUITES.iter().flat_map(|suite| suite.kernels) {
            let target = format!("arch=compute_{architecture},code=sm_{architecture}");
            let output = Command::new(&nvcc)
                .args(["-gencode", &target, "-std=c++17", "-O3", "-cubin", "-Xptxas", "-v"])
                .arg("-o")
                .arg(folder.join(format!("{source}.{architecture}.cubin")))
                .arg(sources().join(source))
                .output()
                .context("can't run nvcc")?;
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "nvcc, {source} for sm_{architecture}:\n{said}");
            // ptxas says so where it can't let products of warp groups go on by themselves.
            ensure!(!said.contains("are serialized"), "{source} for sm_{architecture}:\n{said}");
            all.extend(registers::parse(&said)?);
        }
        for (kernel, usage) in all.iter().filter(|(_, usage)| usage.spilled > 0) {
            spills.push(format!("{kernel}, sm_{architecture}: {} bytes", usage.spilled));
        }
        println!("sm_{architecture}: {} kernels", all.len());
        usages.push(all);
    }
    let names: Vec<_> = ARCHITECTURES.iter().map(|name| format!("sm_{name}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let starts = registers::parse_starts(&starts()?)?;
    let table = registers::table(&names, &usages, &starts);
    print!("{table}");
    write_table(&table)?;
    ensure!(spills.is_empty(), "registers are spilled: {}", spills.join("; "));
    Ok(())
}

/// Threads and shared memory of every kernel, as the tests start it.
fn starts() -> Result<String> {
    let compiler = compiler()?;
    let program = scratch()?.join("starts");
    run(Command::new(&compiler)
        .args(FLAGS)
        .args(machine(&compiler)?)
        .arg(sources().join("tests/starts.cpp"))
        .arg("-o")
        .arg(&program))?;
    cargo::output(&mut Command::new(program))
}

fn write_table(table: &str) -> Result<()> {
    let path = cargo::root().join(PAGE);
    let page = std::fs::read_to_string(&path).with_context(|| format!("can't read {PAGE}"))?;
    let Some(page) = replace_between(&page, TABLE_BEGIN, TABLE_END, table) else {
        bail!("{PAGE} has no place for the table: {}", TABLE_BEGIN.trim())
    };
    std::fs::write(&path, page).with_context(|| format!("can't write {PAGE}"))
}

/// The text with what stands between two marks replaced; none if the marks are not there.
fn replace_between(text: &str, begin: &str, end: &str, new: &str) -> Option<String> {
    let from = text.find(begin)? + begin.len();
    let to = from + text[from..].find(end)?;
    Some(format!("{}{new}{}", &text[..from], &text[to..]))
}

/// One program with everything in it but the driver: it can be carried to the machine that has the card.
fn card() -> Result<()> {
    let compiler = compiler()?;
    let home = toolkit()?;
    let folder = scratch()?;
    let (emulated, kernels) = (folder.join("emulated.o"), folder.join("card.o"));
    compile_object(&compiler, &["-O2"], &sources().join("card/emulated.cpp"), &emulated)?;
    let mut nvcc = Command::new(home.join("bin/nvcc"));
    nvcc.args(["-std=c++17", "-O3", "-ccbin", &compiler]);
    for architecture in ARCHITECTURES {
        let target = format!("arch=compute_{architecture},code=sm_{architecture}");
        nvcc.args(["-gencode", &target]);
    }
    run(nvcc.arg("-c").arg(sources().join("card/card.cu")).arg("-o").arg(&kernels))?;
    let program = folder.join("card");
    run(Command::new(&compiler)
        .args(["-static-libstdc++", "-static-libgcc", "-o"])
        .args([&program, &kernels, &emulated])
        .args(machine(&compiler)?)
        .arg(format!("-L{}", home.join("lib").display()))
        .args(["-lcudart_static", "-ldl", "-lpthread", "-lrt"]))?;
    let plans = build::plans()?;
    println!("run these on a machine with a card:");
    let (card, plans) = (program.display(), plans.display());
    println!(
        "  {card} check\n  {card} time\n  LACUNA_CARD=0 {plans} --ignored --skip {}",
        plan::FAULTS
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_replaced_between_its_marks() {
        let page = "a\n<b>\nold\n<e>\nc\n";
        let new = replace_between(page, "<b>\n", "<e>\n", "new\n");
        assert_eq!(new.as_deref(), Some("a\n<b>\nnew\n<e>\nc\n"));
        assert_eq!(replace_between("a", "<b>\n", "<e>\n", "new\n"), None);
    }
}

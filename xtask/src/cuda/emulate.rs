//! Runs the suites of `cargo xtask cuda emulate` on the emulated machine, then plants every fault.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, ensure};

use super::mutations::Mutation;
use super::suites::{self, Suite};
use super::{FLAGS, compile_object, compiler, machine, scratch, sources};
use crate::cargo::run;

/// A mutant may look wrong, and must be compiled fast.
const MUTANT: &[&str] = &["-O1", "-w"];

/// A suite and the parts of its program, compiled, that no fault changes.
struct Built {
    suite: &'static Suite,
    rest: Vec<PathBuf>,
}

/// Every kernel under every schedule against f64; then every planted fault, which must be found.
pub(super) fn emulate(names: &[String], faults: bool) -> Result<()> {
    let compiler = compiler()?;
    let machine = machine(&compiler)?;
    let build_and_run = |suite| build_and_run(&compiler, &machine, suite);
    let built: Vec<_> =
        suites::named(names).into_iter().map(build_and_run).collect::<Result<_>>()?;
    if faults { plant_faults(&compiler, &built) } else { Ok(()) }
}

fn build_and_run(compiler: &str, machine: &[PathBuf], suite: &'static Suite) -> Result<Built> {
    let compile = |source: &str| {
        let object = scratch()?.join(format!("{source}.o"));
        compile_object(compiler, &["-O2"], &sources().join("tests").join(source), &object)?;
        Ok(object)
    };
    let test = compile(suite.test)?;
    let rest = suite.rest.iter().map(|source| compile(source)).collect::<Result<Vec<_>>>()?;
    let rest = [machine, &rest].concat();
    let program = scratch()?.join(format!("emulated-{}", suite.name));
    link(compiler, &rest, &test, &program)?;
    run(&mut Command::new(&program))?;
    Ok(Built { suite, rest })
}

fn link(compiler: &str, rest: &[PathBuf], object: &Path, program: &Path) -> Result<()> {
    run(Command::new(compiler).args(rest).args([object, Path::new("-o"), program]))
}

/// The end of a planted fault.
enum Found {
    By(String),
    Not,
}

fn plant_faults(compiler: &str, built: &[Built]) -> Result<()> {
    let prelude = prelude(compiler)?;
    let faults: Vec<_> = built
        .iter()
        .flat_map(|built| built.suite.mutations.iter().map(move |mutation| (built, mutation)))
        .collect();
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::new());
    let work = || {
        while let Some((built, mutation)) = faults.get(next.fetch_add(1, Ordering::Relaxed)) {
            let result = plant(compiler, &prelude, built, mutation);
            let name = format!("{}, {}", built.suite.name, mutation.name);
            results.lock().expect("no worker panics").push((name, result));
        }
    };
    // As many as a small machine has cores; a mutant is a process of its own.
    std::thread::scope(|scope| (0..2).for_each(|_| drop(scope.spawn(work))));
    let mut unfound = Vec::new();
    for (name, result) in results.into_inner().expect("no worker panics") {
        match result.with_context(|| format!("planting \"{name}\""))? {
            Found::By(what) => println!("found: {name}: {what}"),
            Found::Not => unfound.push(name),
        }
    }
    ensure!(unfound.is_empty(), "planted faults that no test found: {}", unfound.join("; "));
    println!("all {} planted faults were found", faults.len());
    Ok(())
}

/// Headers that no fault is in, compiled once for all mutants where the compiler can.
fn prelude(compiler: &str) -> Result<PathBuf> {
    let header = scratch()?.join("prelude.h");
    let names = ["algorithm", "cmath", "cstdint", "cstdio", "cstring", "deque", "string", "vector"];
    std::fs::write(&header, names.map(|name| format!("#include <{name}>\n")).concat())?;
    let compiled = scratch()?.join("prelude.h.gch");
    run(Command::new(compiler).args(FLAGS).args(MUTANT).args(["-x", "c++-header"]).args([
        &header,
        Path::new("-o"),
        &compiled,
    ]))?;
    Ok(header)
}

/// Compiles the kernels with one fault and runs the tests on them until one fails.
fn plant(compiler: &str, prelude: &Path, built: &Built, mutation: &Mutation) -> Result<Found> {
    let source = std::fs::read_to_string(sources().join(mutation.file))?;
    let mutant = mutation.apply(&source).context("the text it replaces is gone")?;
    let folder = scratch()?.join(format!("fault-{}-{}", built.suite.name, slug(mutation.name)));
    copy_folder(&sources(), &folder)?;
    std::fs::write(folder.join(mutation.file), mutant)?;
    let object = folder.join("kernels.o");
    let prelude = prelude.to_str().context("the target folder's name is no UTF-8")?;
    let part = (built.suite.part)(mutation);
    let flags = [MUTANT, part.flags, &["-include", prelude]].concat();
    compile_object(compiler, &flags, &folder.join("tests").join(built.suite.test), &object)?;
    let program = folder.join("emulate");
    link(compiler, &built.rest, &object, &program)?;
    let output = Command::new(&program).arg("quick").args(part.words).output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    std::fs::remove_dir_all(&folder)?;
    if output.status.success() {
        return Ok(Found::Not);
    }
    let last = said.lines().rfind(|line| line.contains("FAILED") || line.contains("emulation:"));
    Ok(Found::By(match last {
        Some(line) => line.split_whitespace().collect::<Vec<_>>().join(" "),
        None => output.status.to_string(),
    }))
}

fn slug(name: &str) -> String {
    name.chars().map(|c| if c.is_alphanumeric() { c } else { '-' }).collect()
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

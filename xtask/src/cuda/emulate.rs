//! Runs the suites of `cargo xtask cuda emulate` on the emulated machine, then plants every fault.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, ensure};

use super::mutations::{self, Mutation};
use super::plan;
use super::suites::{self, Suite};
use super::{FLAGS, compile_object, compiler, machine, scratch, sources};
use crate::cargo::run;

/// A mutant may look wrong, and must be compiled fast.
const MUTANT: &[&str] = &["-Og", "-w"];

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
    if names.is_empty() || names.iter().any(|name| name == plan::NAME) {
        plan::emulate(&compiler, faults)?;
    }
    if faults && !built.is_empty() { plant_faults(&compiler, &built) } else { Ok(()) }
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
    let at_once = in_parallel(built, |built| {
        let compile = |flags| compile_at_once(compiler, &prelude, built, flags);
        built.suite.at_once.map(compile).transpose()
    });
    let at_once = at_once.into_iter().collect::<Result<Vec<_>>>()?;
    let mut faults = Vec::new();
    for (built, at_once) in built.iter().zip(&at_once) {
        faults.extend((1..).zip(built.suite.mutations).map(|fault| (built, at_once, fault)));
    }
    let results = in_parallel(&faults, |(built, at_once, (number, mutation))| match at_once {
        Some(program) => find(program, &[format!("fault={number}")], built, mutation),
        None => plant(compiler, &prelude, built, mutation),
    });
    let mut unfound = Vec::new();
    for ((built, _, (_, mutation)), result) in faults.iter().zip(results) {
        let name = format!("{}, {}", built.suite.name, mutation.name);
        match result.with_context(|| format!("planting \"{name}\""))? {
            Found::By(what) => println!("found: {name}: {what}"),
            Found::Not => unfound.push(name),
        }
    }
    ensure!(unfound.is_empty(), "planted faults that no test found: {}", unfound.join("; "));
    println!("all {} planted faults were found", faults.len());
    Ok(())
}

/// The results of `work` on the items, in their order. Two run at a time, as many as a small machine has cores.
fn in_parallel<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::new());
    let worker = || loop {
        let index = next.fetch_add(1, Ordering::Relaxed);
        let Some(item) = items.get(index) else { break };
        let result = work(item);
        results.lock().expect("no worker panics").push((index, result));
    };
    std::thread::scope(|scope| (0..2).for_each(|_| drop(scope.spawn(worker))));
    let mut results = results.into_inner().expect("no worker panics");
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
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

/// Compiles the kernels with all faults in them, of which the program's word `fault=NUMBER` chooses one.
fn compile_at_once(
    compiler: &str,
    prelude: &Path,
    built: &Built,
    flags: &[&str],
) -> Result<PathBuf> {
    let mut files = BTreeMap::<_, Vec<_>>::new();
    for (number, mutation) in (1..).zip(built.suite.mutations) {
        files.entry(mutation.file).or_default().push((number, mutation));
    }
    let plant_all = |(file, faults): (&'static str, Vec<_>)| {
        let source = std::fs::read_to_string(sources().join(file))?;
        Ok((file, mutations::apply_all(&source, &faults)?))
    };
    let mutants = files.into_iter().map(plant_all).collect::<Result<Vec<_>>>()?;
    let folder = scratch()?.join(format!("faults-{}", built.suite.name));
    compile_mutant(compiler, prelude, built, &folder, &mutants, flags)
}

/// Compiles the kernels with one fault and runs the tests on them until one fails.
fn plant(compiler: &str, prelude: &Path, built: &Built, mutation: &Mutation) -> Result<Found> {
    let source = std::fs::read_to_string(sources().join(mutation.file))?;
    let mutant = mutation.apply(&source).context("the text it replaces is gone")?;
    let folder = scratch()?.join(format!("fault-{}-{}", built.suite.name, slug(mutation.name)));
    let flags = (built.suite.part)(mutation).flags;
    let mutants = [(mutation.file, mutant)];
    let program = compile_mutant(compiler, prelude, built, &folder, &mutants, flags)?;
    let found = find(&program, &[], built, mutation)?;
    std::fs::remove_dir_all(&folder)?;
    Ok(found)
}

/// The suite's program made of the sources with some files in place of theirs.
fn compile_mutant(
    compiler: &str,
    prelude: &Path,
    built: &Built,
    folder: &Path,
    mutants: &[(&str, String)],
    flags: &[&str],
) -> Result<PathBuf> {
    copy_folder(&sources(), folder)?;
    for (file, source) in mutants {
        std::fs::write(folder.join(file), source)?;
    }
    let (object, program) = (folder.join("kernels.o"), folder.join("emulate"));
    let prelude = prelude.to_str().context("the target folder's name is no UTF-8")?;
    let flags = [MUTANT, flags, &["-include", prelude]].concat();
    compile_object(compiler, &flags, &folder.join("tests").join(built.suite.test), &object)?;
    link(compiler, &built.rest, &object, &program)?;
    Ok(program)
}

/// Runs the tests that should find a fault until one fails.
fn find(program: &Path, words: &[String], built: &Built, mutation: &Mutation) -> Result<Found> {
    let part = (built.suite.part)(mutation);
    let output = Command::new(program).arg("quick").args(words).args(part.words).output()?;
    if output.status.success() {
        return Ok(Found::Not);
    }
    let said = String::from_utf8_lossy(&output.stdout);
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

//! `cargo xtask bench [FILTER]` says how fast the kernels, a training step and a decode are on this
//! machine, next to what the machine could do at best.
//!
//! Every benchmark checks its answer before it is timed, and the two versions that it compares run in turn,
//! so that a noisy neighbour slows both. `cargo bench` runs the kernels under criterion instead: one after
//! the other, with a distribution of each and a comparison with the last time.
#![forbid(unsafe_code)]

mod decode;
mod kernels;
mod machine;
mod measure;
mod plot;
mod report;
mod rows;
mod train;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Parser;

pub use kernels::{Bench, Case, Run, all as kernels};
use measure::Effort;

/// Measure kernels, training and decoding on this machine.
#[derive(Parser)]
#[command(bin_name = "cargo xtask bench")]
struct Args {
    /// Only benchmarks with this in their name, or the one that is called so
    filter: Option<String>,
    /// Seconds for each benchmark
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Decode this checkpoint (a directory or a .gguf file) instead of random weights of SmolLM2-135M's shape
    #[arg(long)]
    model: Option<PathBuf>,
    /// Names of the benchmarks, and end
    #[arg(long)]
    list: bool,
    /// Folder of the report (default: benches/record/DATE-MACHINE, or nowhere with a filter)
    #[arg(long)]
    out: Option<PathBuf>,
}

/// The program behind `cargo xtask bench`, which reads its arguments.
///
/// # Errors
/// Errors if no benchmark is meant, an answer is wrong, or the report can't be written.
pub fn run() -> Result<()> {
    let args = Args::parse();
    ensure!(args.seconds > 0.0, "--seconds must be above 0");
    let all = kernels::all();
    let every_name = || all.iter().map(|bench| bench.name).chain(train::NAMES).chain(decode::NAMES);
    let whole_name = |filter: &str| every_name().any(|name| name == filter);
    let wanted = |name: &str| match args.filter.as_deref() {
        None => true,
        Some(filter) if whole_name(filter) => name == filter,
        Some(filter) => name.contains(filter),
    };
    let benches: Vec<_> = all.iter().filter(|bench| wanted(bench.name)).collect();
    let trains: Vec<_> = train::NAMES.into_iter().filter(|name| wanted(name)).collect();
    let decodes: Vec<_> = decode::NAMES.into_iter().filter(|name| wanted(name)).collect();
    let names = benches.iter().map(|bench| bench.name);
    let names: Vec<_> =
        names.chain(trains.iter().copied()).chain(decodes.iter().copied()).collect();
    if args.list {
        names.iter().for_each(|name| println!("{name}"));
        return Ok(());
    }
    let filter = args.filter.as_deref().unwrap_or_default();
    ensure!(!names.is_empty(), "no benchmark has `{filter}` in its name; --list names them");

    // As the program does at its start.
    lacuna_kernels::keep_freed_memory();
    eprintln!("measuring the machine …");
    let machine = machine::Machine::measure()?;
    println!("{machine}\n");
    let effort = Effort { per_benchmark: Duration::from_secs_f64(args.seconds) };
    let mut rows = Vec::new();
    for bench in benches {
        if rows.is_empty() {
            println!("{}", report::HEADER);
        }
        let row = bench.run(&machine, effort)?;
        println!("{}", row.line());
        rows.push(row);
    }
    if !rows.is_empty() {
        println!("\n{}\n", report::LEGEND);
    }
    let mut whole = Vec::new();
    for name in trains {
        whole.push(train::run(&machine, effort, name)?);
    }
    if !decodes.is_empty() {
        whole.extend(decode::run(&machine, effort, args.model.as_deref(), &decodes)?);
    }
    if !whole.is_empty() {
        println!("{}", report::WHOLE_HEADER);
        whole.iter().for_each(|row| println!("{}", row.line()));
        println!("\n{}\n", report::WHOLE_LEGEND);
    }

    let folder = match (args.out, args.filter) {
        (Some(folder), _) => folder,
        (None, None) => PathBuf::from("benches/record").join(machine.record_name()),
        (None, Some(_)) => return Ok(()), // a part is no record
    };
    report::write(&folder, &machine, &rows, &whole)?;
    println!("report: {}", folder.join("README.md").display());
    Ok(())
}

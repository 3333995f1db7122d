//! `cargo xtask` is everything that is done *to* the workspace, in one place and on every platform.
//!
//! Builds in seconds: it links no candle and no crate of the workspace, and runs the `lacuna` binary instead.
#![forbid(unsafe_code)]

mod arm;
mod bench;
mod cargo;
mod ci;
mod cuda;
mod fixtures;
mod mpi;
mod readme;
mod reproduce;
mod run_files;
mod tidy;
mod torture;
mod train;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Work on the lacuna workspace.
#[derive(Parser)]
#[command(bin_name = "cargo xtask", version, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

const EXAMPLES: &str = "\
Examples:
  cargo xtask train                            train recipes/tiny.toml, minutes on a laptop
  cargo xtask train recipes/tiny.toml --resume go on from the newest checkpoint
  cargo xtask bench attention                  only the benchmarks with `attention` in their name
  cargo xtask reproduce clip --smoke           an experiment's path in minutes
  cargo xtask ci --only test                   one step of what CI runs";

#[derive(Subcommand)]
enum Task {
    /// Build `lacuna` for speed and run `lacuna train RECIPE ARGS…`
    ///
    /// Without a recipe it trains recipes/tiny.toml. Everything else is handed to `lacuna train`;
    /// `--device cuda` also builds with the feature `cuda`.
    Train {
        /// [RECIPE.toml] and whatever `lacuna train` takes
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
        args: Vec<OsString>,
    },
    /// Measure kernels, training and decoding; write benches/record/DATE-MACHINE/
    Bench {
        /// [FILTER] (part of a benchmark's name) and whatever the bench program takes
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
        args: Vec<OsString>,
    },
    /// Test, compile or carry the kernels for NVIDIA
    #[command(subcommand)]
    Cuda(cuda::Task),
    /// Train an experiment about the paper's claims, and write its page; without a name, list them
    Reproduce(reproduce::Args),
    /// Run the same training with 1, 2 and 4 ranks under mpirun, compare the bits, and kill one
    ///
    /// Needs an MPI library and libclang: Debian's openmpi-bin, libopenmpi-dev and libclang-dev.
    Mpi,
    /// Run every check that a change must pass
    Ci(ci::Args),
    /// Rebuild the shipped tokenizer and the hostile model files, and compare with what is in the tree
    Fixtures(fixtures::Args),
    /// Write each crate's README.md from the head of its documentation
    Readmes,
    /// Check the rules of the house that a program can check
    Tidy,
    /// Kill, stop and damage training runs at random, and count what does not survive
    Torture(torture::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().task {
        Task::Train { args } => train::train(&args),
        Task::Bench { args } => bench::bench(&args),
        Task::Cuda(task) => cuda::cuda(&task),
        Task::Reproduce(args) => reproduce::reproduce(&args),
        Task::Mpi => mpi::check(),
        Task::Ci(args) => ci::ci(&args),
        Task::Fixtures(args) => fixtures::fixtures(args),
        Task::Readmes => readme::write(),
        Task::Tidy => tidy::tidy(),
        Task::Torture(args) => torture::torture(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

//! Trains, measures and runs block-diffusion code models from a shell: the program `lacuna`, a command per file in
//! `src/cli/`.

#![forbid(unsafe_code)]

use std::process::ExitCode;

mod cli;

fn main() -> ExitCode {
    cli::main()
}

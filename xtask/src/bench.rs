//! `cargo xtask bench` builds the bench package for speed, then becomes it.

use std::ffi::OsString;
use std::process::Command;

use anyhow::Result;

use crate::cargo;

/// Builds `lacuna-benches` in release and becomes its program, in the workspace's root.
pub(crate) fn bench(args: &[OsString]) -> Result<()> {
    let program = cargo::build("bench", &["--release", "--package", "lacuna-benches"])?;
    let mut command = Command::new(program);
    command.args(args).current_dir(cargo::root());
    cargo::become_program(command)
}

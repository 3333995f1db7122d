//! Runs the program for the other modules, and reads what it says.

use std::process::{Command, Output};

/// The program's output with these arguments.
pub(crate) fn lacuna(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lacuna")).args(args).output().unwrap()
}

/// Its stdout, if it ended well.
#[track_caller]
pub(crate) fn stdout(output: &Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Its stderr.
pub(crate) fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

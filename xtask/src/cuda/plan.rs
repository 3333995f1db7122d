//! Runs the training step that `lacuna-device` plans on the emulated kernels: a shared library, which that crate's tests
//! load.

use std::process::Command;

use anyhow::{Context, Result};

use super::{FLAGS, scratch, sources};
use crate::cargo::{self, run};

/// The step's name beside those of the suites.
pub(super) const NAME: &str = "plan";
/// The variable in which the tests look for the library.
const LIBRARY: &str = "LACUNA_EMULATED_KERNELS";
/// The test that plants faults in the plan.
pub(super) const FAULTS: &str = "every_fault_that_is_planted_in_a_plan_is_found";

/// Builds the library, and runs the tests that want it.
pub(super) fn emulate(compiler: &str, faults: bool) -> Result<()> {
    let library = scratch()?.join("libemulated-kernels.so");
    let parts = ["library", "machine", "tensor_core"];
    let parts = parts.map(|name| sources().join(format!("emulation/{name}.cpp")));
    run(Command::new(compiler)
        .args(FLAGS)
        .args(["-O2", "-fPIC", "-shared", "-o"])
        .arg(&library)
        .args(parts))?;
    let mut tests = Command::new(cargo::tests_of("lacuna-device")?);
    tests.args(["--ignored", "--test-threads=1", "--nocapture"]);
    if !faults {
        tests.args(["--skip", FAULTS]);
    }
    run(tests.env(LIBRARY, library)).context("the planned step differs from the CPU's")
}

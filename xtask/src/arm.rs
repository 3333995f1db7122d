//! The kernels' tests on an emulated ARM processor, so that its code is compiled and run on machines that are none.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::cargo::{self, cargo, is_there};

const TARGET: &str = "aarch64-unknown-linux-gnu";
const LINKER: &str = "aarch64-linux-gnu-gcc";
const EMULATOR: &str = "qemu-aarch64";
/// The folder of the C library that the linker's package brings for the emulated machine.
const SYSROOT: &str = "/usr/aarch64-linux-gnu";

/// The reason why the tests can't run here, with what to install; none if they can.
pub(crate) fn obstacle() -> Option<String> {
    if cfg!(target_arch = "aarch64") {
        return Some("this machine is ARM: step `test` runs the same tests".into());
    }
    if cfg!(not(target_os = "linux")) {
        return Some("the emulator runs Linux programs on Linux".into());
    }
    said([
        (!has_target(), "the target (rustup target add aarch64-unknown-linux-gnu)"),
        (!is_there(LINKER), "aarch64-linux-gnu-gcc (Debian's gcc-aarch64-linux-gnu)"),
        (!is_there(EMULATOR), "qemu-aarch64 (Debian's qemu-user)"),
    ])
}

fn said(needs: [(bool, &str); 3]) -> Option<String> {
    let missing: Vec<_> =
        needs.iter().filter(|(missing, _)| *missing).map(|(_, what)| *what).collect();
    (!missing.is_empty()).then(|| format!("missing: {}", missing.join(", ")))
}

/// Tells whether the standard library for ARM is installed, by whatever means.
fn has_target() -> bool {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output =
        Command::new(rustc).args(["--print", "target-libdir", "--target", TARGET]).output();
    output.is_ok_and(|output| {
        output.status.success()
            && Path::new(String::from_utf8_lossy(&output.stdout).trim()).exists()
    })
}

/// `cargo SUBCOMMAND` for the emulated processor, in a target folder of its own: a build for one machine must not
/// push out what is cached for another.
pub(crate) fn call(subcommand: &str) -> Result<Command> {
    let mut command = cargo([subcommand, "--locked", "--target", TARGET]);
    command
        .env("CARGO_TARGET_DIR", cargo::target_dir()?.join("arm"))
        .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", LINKER)
        .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER", format!("{EMULATOR} -L {SYSROOT}"));
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_missing_is_asked_for() {
        assert_eq!(said([(false, "a"), (false, "b"), (false, "c")]), None);
        assert_eq!(said([(true, "a"), (false, "b"), (true, "c")]), Some("missing: a, c".into()));
    }
}

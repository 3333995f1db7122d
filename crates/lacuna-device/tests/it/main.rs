//! Runs planned training steps and decoder passes on emulated kernels, and compares them with the CPU's.
//!
//! Those that run kernels want them as a shared library, which `cargo xtask cuda emulate plan` builds and names; without it
//! they are ignored. Others look at plans alone.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod decode;
mod emulation;
mod faults;
mod model;
mod plan;
mod run;
mod step;
mod training;

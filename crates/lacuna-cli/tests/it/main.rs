//! Tests the program from outside, in one test program: a module is a subject.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod adapters;
mod attention;
mod command_line;
mod commands;
mod convert;
#[cfg(target_os = "linux")]
mod eight_b;
#[cfg(target_os = "linux")]
mod eval;
mod families;
mod guidance;
#[cfg(feature = "hub")]
mod hostile_hub;
#[cfg(feature = "hub")]
mod hub;
mod init;
mod modes;
mod packing;
mod people;
mod prompts;
mod reliability;
mod sandbox;
mod scoring;
#[cfg(unix)]
mod serving;
mod shipped;
mod starts;
#[cfg(unix)]
mod stopping;
mod support;
mod traces;
mod user_files;
mod watching;
mod whole_checkpoints;

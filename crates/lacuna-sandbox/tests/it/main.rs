//! Tests the sandbox from outside: attempts to get out of it, limits, and what has to work in it.
#![cfg(target_os = "linux")]

mod calls;
mod escapes;
mod limits;
mod probes;
mod refusals;
mod support;
mod works;

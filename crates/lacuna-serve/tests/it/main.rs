//! Tests the server from outside, over sockets, in one program: a module is a subject.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod cache;
mod clients;
mod doors;
mod edits;
mod forms;
mod likelihood;
mod malformed;
mod page;
mod slow;
mod support;
mod tokens;

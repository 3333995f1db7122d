//! Tests this crate from outside, in one program: a module is a subject.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod chat;
mod fim;
mod golden;
mod hostile;
mod laws;
mod memory;
mod side_files;
mod tokenizers;

/// The memory that a stranger's file takes is measured, thread by thread.
#[global_allocator]
static ALLOCATOR: lacuna_test::counting::Counting = lacuna_test::counting::Counting;

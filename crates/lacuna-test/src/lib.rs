//! Gives the tests of the workspace what they share: fixtures, checkpoints made on the spot, a count of memory.
//!
//! ```
//! let folder = lacuna_test::golden().join("models/tiny_untied");
//! assert!(folder.join("model.safetensors").exists());
//! ```
//!
//! - [`fixture`] and [`golden`] give paths of files in the repository's `fixtures/`.
//! - [`checkpoints`] makes folders with a model that a test describes in a line.
//! - [`timeless`] reads a run's log without its times.
//! - [`counting`] measures the most memory that a call held, for tests of code that reads strangers' files.
//! - `talk`, with feature `text`, has one conversation, and the tokenizer of the fixtures.
//!
//! It panics where something is missing, as tests do. It is no part of what is published: crates name it among their
//! dev-dependencies only.

#![deny(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "only tests call this, and a test panics where it fails")]

pub mod checkpoints;
pub mod counting;
#[cfg(feature = "text")]
pub mod talk;

use std::fmt::Display;
use std::path::{Path, PathBuf};

/// The repository's folder of fixtures.
pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}

/// A file or folder of the fixtures.
pub fn fixture(path: &str) -> PathBuf {
    fixtures().join(path)
}

/// The fixtures that other implementations recorded.
pub fn golden() -> PathBuf {
    fixture("golden")
}

/// The lines of a run's log as JSON, without what depends on the clock and on the machine.
pub fn timeless(log: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(log).unwrap();
    let line = |line: &str| {
        let mut object: serde_json::Value = serde_json::from_str(line).unwrap();
        for name in ["tokens_per_second", "machine"] {
            object.as_object_mut().unwrap().remove(name);
        }
        object
    };
    text.lines().map(line).collect()
}

/// Asserts that an error says `expected`, in the form that errors have here: one line without a full stop.
#[track_caller]
pub fn says(error: impl Display, expected: &str) {
    let message = error.to_string();
    assert!(message.contains(expected), "{message:?} does not say {expected:?}");
    assert!(!message.ends_with('.') && !message.contains('\n'), "{message:?}");
}

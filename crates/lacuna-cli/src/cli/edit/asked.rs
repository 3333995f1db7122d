//! Holds what an answer is an answer to.

use std::path::Path;

/// The text that the model was asked to change.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    /// The text as it was, with lines that end in `\n`.
    pub(super) old: &'a str,
    /// The file's name; its ending says what kind of text it is.
    pub(super) path: &'a Path,
    /// True if the text is some lines of a file, which may well become few.
    pub(super) part: bool,
}

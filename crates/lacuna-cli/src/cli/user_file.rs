//! Holds a text file of the user: what is around its text stays, whatever is written into it.

use anyhow::{Context, Result};
use lacuna_files::printable;
use similar::{Algorithm, DiffOp, capture_diff_slices};
use std::io::{BufRead, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

use super::diff::{for_terminal, unified};

const MARK: &str = "\u{feff}";

/// A file as it was read, and its text.
#[derive(Debug)]
pub(crate) struct UserFile {
    pub(crate) path: PathBuf,
    bytes: Vec<u8>,
    /// True if it begins with a byte order mark, which is no part of `text`.
    marked: bool,
    /// True if its lines end in a lone `\r`, which is `\n` in `text`.
    classic: bool,
    pub(crate) text: String,
}

impl UserFile {
    /// Reads a file, or stdin for `-`.
    ///
    /// # Errors
    /// Errors if it can't be read or is no UTF-8 text.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let name = if path == Path::new("-") { "stdin".into() } else { shown(path) };
        let mut bytes = Vec::new();
        let read = match path == Path::new("-") {
            true => std::io::stdin().read_to_end(&mut bytes).map(|_| bytes),
            false => lacuna_files::read_any(path, super::LONGEST_TEXT),
        };
        let bytes = read.with_context(|| format!("reading {name}"))?;
        Self::of(path, bytes).with_context(|| format!("reading {name}"))
    }

    fn of(path: &Path, bytes: Vec<u8>) -> Result<Self> {
        let utf_8 = "it is left as it is; only UTF-8 text is edited, so convert it first";
        if matches!(bytes.as_slice(), [0xff, 0xfe, ..] | [0xfe, 0xff, ..]) {
            anyhow::bail!("the text is UTF-16; {utf_8}");
        }
        let text = match std::str::from_utf8(&bytes) {
            Ok(text) => text,
            Err(error) => {
                anyhow::bail!("byte {} is no UTF-8; {utf_8}", error.valid_up_to() + 1)
            }
        };
        if let Some(at) = text.find('\0') {
            anyhow::bail!("byte {} is zero, as in no text; {utf_8}", at + 1);
        }
        let unmarked = text.strip_prefix(MARK).unwrap_or(text);
        let classic = !unmarked.contains('\n') && unmarked.contains('\r');
        let marked = unmarked.len() < text.len();
        let text = if classic { unmarked.replace('\r', "\n") } else { unmarked.to_owned() };
        Ok(Self { path: path.to_owned(), bytes, marked, classic, text })
    }

    /// The end that most of its lines have; `\n` if none ends.
    pub(crate) fn line_end(&self) -> &'static str {
        let all = self.text.matches('\n').count();
        let two = self.text.matches("\r\n").count();
        if 2 * two > all { "\r\n" } else { "\n" }
    }

    /// The file that has `text` as its text.
    pub(crate) fn with(&self, text: &str) -> String {
        let mark = if self.marked { MARK } else { "" };
        let text = if self.classic { text.replace('\n', "\r") } else { text.to_owned() };
        [mark, &text].concat()
    }

    /// The change to `text`, as `patch` applies it: a byte order mark belongs to the first line.
    pub(crate) fn diff(&self, text: &str) -> String {
        let mark = if self.marked { MARK } else { "" };
        unified(&[mark, &self.text].concat(), &[mark, text].concat(), &self.path)
    }

    /// Checks that it can be written, asked before a model runs for minutes.
    ///
    /// # Errors
    /// Errors if it can't, with the reason.
    pub(crate) fn check_writable(&self) -> Result<()> {
        let real = self.path.canonicalize().with_context(|| shown(&self.path))?;
        let there = real.metadata().with_context(|| shown(&self.path))?;
        if !there.is_file() {
            anyhow::bail!("{}: --in-place writes regular files only", shown(&self.path));
        }
        if there.permissions().readonly() {
            anyhow::bail!("{}: the file is read-only; nothing was written", shown(&self.path));
        }
        // The new text is written beside the old one, so the folder must take a file.
        drop(lacuna_files::WholeFile::beside(&real)?);
        Ok(())
    }

    /// Puts a new text into the file, after a look at the change and a question where somebody is there to answer.
    ///
    /// # Errors
    /// Errors if the answer is no, or the file can't be written or was changed since it was read.
    pub(crate) fn replace(&self, text: &str, question: Question) -> Result<()> {
        let name = shown(&self.path);
        let new = self.with(text);
        let mut stderr = std::io::stderr();
        if new.as_bytes() == self.bytes {
            if !question.quiet {
                let _ = writeln!(stderr, "{name}: nothing to change");
            }
            return Ok(());
        }
        if is_asked(question.yes) {
            if !question.seen {
                let diff = for_terminal(&self.diff(text));
                let _ = write!(stderr, "{diff}");
            }
            let _ = write!(stderr, "write {name}? [y/N] ");
            let _ = stderr.flush();
            let mut answer = String::new();
            // An answer that can't be read is a no.
            let _ = std::io::stdin().lock().read_line(&mut answer);
            if !answer.ends_with('\n') {
                let _ = writeln!(stderr);
            }
            if !matches!(answer.trim().to_lowercase().as_str(), "y" | "yes") {
                anyhow::bail!("{name}: not written, as was answered; the file is as it was");
            }
        }
        lacuna_files::replace_text_file(&self.path, &self.bytes, new.as_bytes())?;
        if !question.quiet && stderr.is_terminal() {
            let _ = writeln!(stderr, "wrote {name}");
        }
        Ok(())
    }
}

/// The facts that are known when a file is to be replaced.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question {
    /// True if `--yes` has answered already.
    pub(crate) yes: bool,
    /// The diff is on the terminal already.
    pub(crate) seen: bool,
    /// Nothing is said that is neither error nor question.
    pub(crate) quiet: bool,
}

/// Tells whether there is somebody to ask, who has not said yes beforehand.
pub(crate) fn is_asked(yes: bool) -> bool {
    !yes && std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// A path as an error shows it.
pub(crate) fn shown(path: &Path) -> String {
    printable(&path.to_string_lossy()).into_owned()
}

/// `new`, whose lines end in `\n`, with the line ends of `old`: an unchanged line keeps its own, a changed one that of
/// the line in whose place it is, every other one gets `end`, and the last line ends as the last one of `old` did, or
/// does not.
pub(crate) fn with_line_ends(old: &str, new: &str, end: &str) -> String {
    let parted = |line| {
        let content = str::strip_suffix(line, '\n').unwrap_or(line);
        let content = if content.len() < line.len() { content.strip_suffix('\r') } else { None }
            .unwrap_or(content);
        line.split_at(content.len())
    };
    let (contents, ends): (Vec<&str>, Vec<&str>) = old.split_inclusive('\n').map(parted).unzip();
    // A `\r` that is left in `new` is a part of its line.
    let lines: Vec<&str> = new.split_terminator('\n').collect();
    let mut new_ends = vec![end; lines.len()];
    for op in capture_diff_slices(Algorithm::Myers, &contents, &lines) {
        // Changed lines end as those in whose place they are: one by one, or as all of these do.
        let (old_ends, new_ends) = match op {
            DiffOp::Equal { old_index, new_index, len } => {
                (&ends[old_index..old_index + len], &mut new_ends[new_index..new_index + len])
            }
            DiffOp::Replace { old_index, old_len, new_index, new_len } => (
                &ends[old_index..old_index + old_len],
                &mut new_ends[new_index..new_index + new_len],
            ),
            DiffOp::Delete { .. } | DiffOp::Insert { .. } => continue,
        };
        if old_ends.len() == new_ends.len() {
            for (new, old) in new_ends.iter_mut().zip(old_ends).filter(|(_, old)| !old.is_empty()) {
                *new = old;
            }
        } else if let Some(first) = old_ends.first().filter(|end| !end.is_empty())
            && old_ends.iter().all(|end| end == first)
        {
            new_ends.fill(first);
        }
    }
    let is_ended = if old.is_empty() { new } else { old }.ends_with('\n');
    if let (false, Some(last)) = (is_ended, new_ends.last_mut()) {
        *last = "";
    }
    lines.into_iter().zip(new_ends).flat_map(|(line, end)| [line, end]).collect()
}

#[cfg(test)]
mod tests {
    use super::{UserFile, with_line_ends};
    use proptest::prelude::*;
    use std::path::Path;

    fn file(bytes: &[u8]) -> anyhow::Result<UserFile> {
        UserFile::of(Path::new("f"), bytes.to_vec())
    }

    #[test]
    fn unchanged_lines_keep_their_ends_and_new_ones_get_the_usual_one() {
        let ends = |old: &str, new: &str| {
            with_line_ends(old, new, file(old.as_bytes()).unwrap().line_end())
        };
        assert_eq!(ends("a\r\nb\r\n", "a\nc\n"), "a\r\nc\r\n");
        assert_eq!(ends("a\r\nb\nc\r\n", "x\na\nb\nc\n"), "x\r\na\r\nb\nc\r\n", "mixed");
        assert_eq!(ends("a\nb\r\nc\n", "a\nb\nc\nd\n"), "a\nb\r\nc\nd\n");
        assert_eq!(ends("a\r\nb\n", "c\nb\n"), "c\r\nb\n", "mixed, and a line is changed");
        assert_eq!(ends("a\nb\r\n", "a\nc\nd\n"), "a\nc\r\nd\r\n", "one line becomes two");
        assert_eq!(ends("a\nb", "a\nc\n"), "a\nc", "no last line end");
        assert_eq!(ends("a\nb", "a\nb\nc\n"), "a\nb\nc", "the old last line gets one");
        assert_eq!(ends("a\r\nb", "b\na\n"), "b\r\na");
        assert_eq!(ends("a\n", "b"), "b\n");
        assert_eq!(ends("", "a\n"), "a\n");
        assert_eq!(ends("a\r\r\nb\r\n", "a\r\nc\n"), "a\r\r\nc\r\n");
    }

    #[test]
    fn marks_and_old_line_ends_come_back_and_other_encodings_are_refused() {
        let marked = file("\u{feff}a\r\n".as_bytes()).unwrap();
        assert_eq!(marked.text, "a\r\n");
        assert_eq!(marked.with("b\r\n"), "\u{feff}b\r\n");
        let classic = file(b"a\rb\r").unwrap();
        assert_eq!(classic.text, "a\nb\n");
        assert_eq!(classic.with("a\nc\n"), "a\rc\r");
        for (bytes, told) in
            [(&b"\xff\xfea\0"[..], "UTF-16"), (b"ab\xe4", "byte 3"), (b"a\0b", "byte 2")]
        {
            assert!(file(bytes).unwrap_err().to_string().contains(told), "{told}");
        }
    }

    proptest! {
        #[test]
        fn a_text_with_nothing_changed_is_byte_for_byte_the_same(old in "([ab]{0,2}\r?\n){0,9}[ab]{0,2}") {
            let mut seen = old.replace("\r\n", "\n");
            if !seen.is_empty() && !seen.ends_with('\n') {
                seen.push('\n');
            }
            prop_assert_eq!(with_line_ends(&old, &seen, "\r\n"), old);
        }
    }
}

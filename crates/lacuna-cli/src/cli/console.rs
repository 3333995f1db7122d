//! Decides what stdout and stderr get: the one place that knows whether a terminal is there, and
//! what happens where nobody reads.
//!
//! A model, a recipe or a file may say anything. A terminal gets its text with all characters that would command it
//! spelt out; a pipe and a file get the bytes as they are. A message that can't be written is dropped, data that
//! can't be written is an error.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;

use lacuna_files::printable;

/// `println!` for data: a closed stdout (`| head`) or a full disk is an error, and no panic.
macro_rules! out {
    ($($arg:tt)*) => {
        $crate::cli::console::data(format_args!($($arg)*))?
    };
}

/// `eprintln!` for messages: what can't be written is dropped, for no work should end because nobody listens.
macro_rules! note {
    ($($arg:tt)*) => {
        $crate::cli::console::message(format_args!("{}\n", format_args!($($arg)*)))
    };
}

/// A line of data on stdout; see [`out!`].
pub(crate) fn data(line: fmt::Arguments<'_>) -> io::Result<()> {
    let mut out = Out::new();
    writeln!(out, "{line}")?;
    out.finish()
}

/// Text with our own colours in it on stdout; what others wrote must be spelt out in it already.
pub(crate) fn styled(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(unwritten)
}

/// Text on stderr; see [`note!`].
pub(crate) fn message(text: fmt::Arguments<'_>) {
    let mut text = text.to_string();
    let stderr = io::stderr();
    if stderr.is_terminal() {
        text = printable(&text).into_owned();
    }
    let _ = stderr.lock().write_all(text.as_bytes());
}

/// stdout for text that others wrote, in any number of pieces.
#[derive(Debug)]
pub(crate) struct Out {
    stdout: io::Stdout,
    spelling: Option<Spelling>,
}

impl Out {
    pub(crate) fn new() -> Self {
        let stdout = io::stdout();
        let spelling = stdout.is_terminal().then(Spelling::default);
        Self { stdout, spelling }
    }

    pub(crate) fn is_terminal(&self) -> bool {
        self.spelling.is_some()
    }

    /// Writes what was held back. To be called at the end, or an error goes unseen.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        if let Some(spelling) = &mut self.spelling {
            let rest = spelling.rest();
            self.stdout.write_all(rest.as_bytes()).map_err(unwritten)?;
        }
        self.stdout.flush().map_err(unwritten)
    }
}

/// An error that says what could not be written.
pub(crate) fn unwritten(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("writing to stdout: {error}"))
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.spelling {
            None => self.stdout.write(bytes).map_err(unwritten),
            Some(spelling) => {
                let text = spelling.push(bytes);
                self.stdout.write_all(text.as_bytes()).map_err(unwritten)?;
                Ok(bytes.len())
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stdout.flush().map_err(unwritten)
    }
}

impl Drop for Out {
    fn drop(&mut self) {
        let _ = self.finish();
    }
}

/// Bytes on their way to a terminal: characters that are cut between two pieces are held back.
#[derive(Debug, Default)]
struct Spelling {
    pending: Vec<u8>,
}

impl Spelling {
    fn push(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        let cut = self.pending.utf8_chunks().last().map_or(0, |chunk| {
            let tail = chunk.invalid();
            // Bytes that end in the middle of a character, and the first half of `\r\n`.
            let unfinished = std::str::from_utf8(tail).is_err_and(|e| e.error_len().is_none());
            match unfinished && self.pending.ends_with(tail) {
                true => tail.len(),
                false => usize::from(tail.is_empty() && self.pending.ends_with(b"\r")),
            }
        });
        let rest = self.pending.split_off(self.pending.len() - cut);
        let whole = std::mem::replace(&mut self.pending, rest);
        printable(&String::from_utf8_lossy(&whole)).into_owned()
    }

    fn rest(&mut self) -> String {
        printable(&String::from_utf8_lossy(&std::mem::take(&mut self.pending))).into_owned()
    }
}

/// Says of files of the user's that stood in a folder which was replaced that they have other names now.
pub(crate) fn tell_renamed(files: &[PathBuf]) {
    for file in files {
        let file = file.display().to_string();
        let file = printable(&file);
        note!("note: {file} is a file that was there before; its name was needed");
    }
}

#[cfg(test)]
mod tests {
    use super::Spelling;

    #[test]
    fn pieces_reach_a_terminal_as_the_whole_text_would() {
        let text = "a\r\nb\u{1b}[2Jc\rd é 🦀 \u{202e}x\r";
        let whole = lacuna_files::printable(text);
        for size in 1..text.len() {
            let mut spelling = Spelling::default();
            let mut shown: String =
                text.as_bytes().chunks(size).map(|piece| spelling.push(piece)).collect();
            shown += &spelling.rest();
            assert_eq!(shown, whole, "pieces of {size} bytes");
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_replaced_and_hold_nothing_back() {
        let mut spelling = Spelling::default();
        assert_eq!(spelling.push(b"a\xff"), "a\u{fffd}");
        assert_eq!(spelling.push(b"\xf0\x9f"), "");
        assert_eq!(spelling.rest(), "\u{fffd}");
    }
}

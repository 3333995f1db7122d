//! Holds the flags that every command shares which reads a corpus.

use indicatif::{ProgressBar, ProgressStyle};
use lacuna::data::CorpusOptions;
use lacuna::data::corpus::{Reading, Skipped};
use std::path::PathBuf;
use std::time::Duration;

use super::ranges;

/// Flags that say what of the inputs is read: the same flags for every command that reads a corpus.
#[derive(Debug, clap::Args)]
pub(crate) struct CorpusArgs {
    /// Part of the files kept out of training, chosen by the hash of their paths
    #[arg(long, value_name = "PART", default_value_t = 0.08, allow_hyphen_values = true, value_parser = ranges::part)]
    pub(crate) held_out: f64,
    /// Only files with these endings, of those that are not named themselves; may be repeated
    #[arg(long, value_name = "EXT")]
    extension: Vec<String>,
    /// Pass over larger files of folders, members of archives and JSON lines; K, M and G are understood
    #[arg(long, value_name = "BYTES", default_value = "1M", allow_hyphen_values = true, value_parser = bytes)]
    max_document_bytes: usize,
    /// A field of JSON lines that may hold the text; may be repeated [default: text, then content]
    #[arg(long, value_name = "NAME")]
    text_field: Vec<String>,
    /// Take texts that hold a zero byte
    #[arg(long)]
    take_binary: bool,
    /// Take files and folders whose names begin with a dot
    #[arg(long)]
    take_hidden: bool,
    /// Take files and folders that a .gitignore or .ignore names
    #[arg(long)]
    take_ignored: bool,
    /// Folders, text files, .jsonl, .ndjson and .json (also .gz, .zst), .tar[.gz|.zst]; what is named itself
    /// is taken whatever its size and ending
    #[arg(required = true, value_name = "INPUT")]
    pub(crate) inputs: Vec<PathBuf>,
}

impl CorpusArgs {
    pub(crate) fn options(&self) -> CorpusOptions {
        let defaults = CorpusOptions::default();
        CorpusOptions {
            extensions: self.extension.clone(),
            max_document_bytes: self.max_document_bytes,
            text_fields: match self.text_field.as_slice() {
                [] => defaults.text_fields,
                named => named.to_vec(),
            },
            take_binary: self.take_binary,
            take_hidden: self.take_hidden,
            take_ignored: self.take_ignored,
        }
    }
}

/// `1048576`, `1024K`, `1M`, `1G`.
fn bytes(text: &str) -> Result<usize, String> {
    let (number, unit) = match text.trim().to_ascii_lowercase().trim_end_matches("ib") {
        text if text.ends_with('k') => (text[..text.len() - 1].to_owned(), 1usize << 10),
        text if text.ends_with('m') => (text[..text.len() - 1].to_owned(), 1 << 20),
        text if text.ends_with('g') => (text[..text.len() - 1].to_owned(), 1 << 30),
        text => (text.to_owned(), 1),
    };
    let bytes = number.parse::<usize>().ok().and_then(|number| number.checked_mul(unit));
    bytes
        .filter(|bytes| *bytes > 0)
        .ok_or_else(|| "expected bytes from 1: 4096, 64K, 16M, 1G".into())
}

/// Bytes, files and the time that is left, on a terminal alone.
pub(crate) fn reading_bar(quiet: bool) -> ProgressBar {
    let bar = if quiet { ProgressBar::hidden() } else { ProgressBar::new(0) };
    let template = "{bar:20} {bytes}/{total_bytes}  {msg}  {eta} left";
    bar.set_style(ProgressStyle::with_template(template).expect("a fixed template"));
    bar.set_message("looking for files");
    bar.enable_steady_tick(Duration::from_millis(250));
    bar
}

/// Moves the bar to where the reading is.
pub(crate) fn show_reading(bar: &ProgressBar, reading: Reading, more: &str) {
    bar.set_length(reading.bytes_total);
    bar.set_position(reading.bytes);
    bar.set_message(format!("{}/{} files{more}", reading.files, reading.files_total));
}

/// One line for each reason to pass something over.
pub(crate) fn skipped_lines(skipped: &Skipped) -> String {
    skipped.lines().map(|line| format!("\npassed over {line}")).collect()
}

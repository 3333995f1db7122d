//! `inspect --verify` tells whether the bytes on the disk are still those that were written.

use anyhow::{Result, bail};
use lacuna::data::Dataset;
use lacuna_files::{Manifest, printable};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

use super::sizes::shown;

/// The comparison, folder by folder.
#[derive(Default)]
struct Seen {
    files: usize,
    bytes: u64,
    damaged: Vec<(PathBuf, String)>,
    /// Models that carry no hashes.
    without: Vec<PathBuf>,
    lines: Vec<String>,
}

/// Compares every hash that a checkpoint, a run, shards or a GGUF file carry, and says how much that was.
pub(super) fn run(path: &Path, as_json: bool) -> Result<()> {
    let mut seen = Seen::default();
    if path.is_dir() {
        seen.folder(path)
    } else {
        seen.gguf(path)
    }
    if as_json {
        let damaged: Vec<Value> = seen
            .damaged
            .iter()
            .map(|(file, reason)| json!({ "file": file.display().to_string(), "reason": reason }))
            .collect();
        let without: Vec<_> = seen.without.iter().map(|path| path.display().to_string()).collect();
        let (files, bytes) = (seen.files, seen.bytes);
        out!(
            "{}",
            json!({ "files": files, "bytes": bytes, "damaged": damaged, "without": without })
        );
    } else {
        for line in &seen.lines {
            out!("{}", printable(line));
        }
        let shown = shown(seen.bytes);
        match seen.files {
            0 if seen.damaged.is_empty() => {
                out!("{}: carries no hashes, so there is nothing to check", path.display());
            }
            files if seen.damaged.is_empty() => {
                out!("{files} files, {shown}: all as they were written")
            }
            files => out!("{files} files, {shown}: as they were written"),
        }
    }
    match seen.damaged.as_slice() {
        [] => Ok(()),
        damaged => {
            let reasons: Vec<_> = damaged.iter().map(|(_, reason)| reason.as_str()).collect();
            bail!("{}", reasons.join("\n"))
        }
    }
}

impl Seen {
    /// A folder of files with hashes, of shards, or of such folders.
    fn folder(&mut self, dir: &Path) {
        let before = (self.files, self.damaged.len());
        if is_of_shards(dir) {
            self.shards(dir);
        } else {
            match Manifest::read(dir) {
                Ok(Some(manifest)) => self.listed(dir, &manifest),
                Ok(None) if dir.join("config.json").exists() => self.without.push(dir.to_owned()),
                Ok(None) => {}
                Err(reason) => self.damaged(dir.join(lacuna_files::MANIFEST), reason.to_string()),
            }
        }
        for file in below(dir).filter(|path| path.is_file()) {
            if file.extension().is_some_and(|end| end.eq_ignore_ascii_case("gguf")) {
                self.gguf(&file);
            }
        }
        if self.files > before.0 || self.damaged.len() > before.1 {
            let (files, damaged) = (self.files - before.0, self.damaged.len() - before.1);
            let wrong = if damaged > 0 { format!(", {damaged} damaged") } else { String::new() };
            self.lines.push(format!("{}: {files} whole{wrong}", dir.display()));
        } else if self.without.last().is_some_and(|last| last == dir) {
            self.lines.push(format!("{}: carries no hashes", dir.display()));
        }
        // A run has its model and its checkpoints below it, a packed corpus its two parts.
        let parts = ["final", "train", "held-out"].map(|name| dir.join(name));
        let mut parts: Vec<_> = parts.into_iter().filter(|part| part.is_dir()).collect();
        let is_checkpoint = |path: &PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str());
            path.is_dir() && name.is_some_and(|name| name.starts_with("step-"))
        };
        parts.extend(below(&dir.join("checkpoints")).filter(is_checkpoint));
        parts.extend(below(dir).filter(is_checkpoint));
        parts.iter().for_each(|part| self.folder(part));
    }

    fn listed(&mut self, dir: &Path, manifest: &Manifest) {
        for (name, hash) in &manifest.files {
            let path = dir.join(name);
            match hash.damage(&path) {
                Ok(None) => {
                    self.files += 1;
                    self.bytes += hash.bytes;
                }
                Ok(Some(damage)) => {
                    let reason = format!("{}: {damage}", path.display());
                    self.damaged(path, reason);
                }
                Err(reason) => self.damaged(path, reason.to_string()),
            }
        }
    }

    fn shards(&mut self, dir: &Path) {
        // Shard by shard would be more exact; the error names the first.
        match Dataset::open(dir).and_then(|shards| shards.verify()) {
            Ok(()) => {
                let shards = below(dir).filter(|path| path.extension().is_some_and(|e| e == "bin"));
                for shard in shards {
                    self.files += 1;
                    self.bytes += shard.metadata().map_or(0, |there| there.len());
                }
            }
            Err(reason) => {
                let reason = format!("{}: {reason}", dir.display());
                self.damaged(dir.to_owned(), reason);
            }
        }
    }

    fn gguf(&mut self, path: &Path) {
        match lacuna::checkpoint::verify(path) {
            Ok(Some(verified)) => {
                self.files += verified.files;
                self.bytes += verified.bytes;
            }
            Ok(None) => self.without.push(path.to_owned()),
            Err(reason) => self.damaged(path.to_owned(), reason.to_string()),
        }
    }

    fn damaged(&mut self, path: PathBuf, reason: String) {
        self.damaged.push((path, reason));
    }
}

fn below(dir: &Path) -> impl Iterator<Item = PathBuf> {
    lacuna_files::list(dir).unwrap_or_default().into_iter()
}

/// Tells whether a folder's manifest is one of shards, or its shards have lost it.
fn is_of_shards(dir: &Path) -> bool {
    let text = lacuna_files::read_text(&dir.join(lacuna_files::MANIFEST), 1 << 24);
    let says = text.is_ok_and(|text| text.contains("\"lacuna-shards\""));
    says || dir.join("shard-00000.bin").exists()
}

//! Where a converted checkpoint goes: a directory that appears whole, or not at all.

use lacuna_model::Format;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Refuses what would be lost or could not be read back.
pub(super) fn check(from: &Path, to: &Path, format: Format, force: bool) -> Result<()> {
    let refuse = |reason: String| Err(Error::Place { path: to.to_owned(), reason });
    if to.file_name().is_none() {
        return refuse("is no name for a new file or directory".into());
    }
    let ends = |end: &str| to.extension().is_some_and(|e| e.eq_ignore_ascii_case(end));
    if format == Format::Safetensors && (ends("safetensors") || ends("gguf")) {
        return refuse("safetensors go into a directory; give a name without an ending".into());
    }
    let real = |path: &Path| path.canonicalize().ok();
    if real(to).is_some() && real(to) == real(from) {
        return refuse("is the checkpoint that is read; give another name".into());
    }
    if !to.exists() {
        return Ok(());
    }
    match (to.is_dir(), format) {
        (true, Format::Gguf) => refuse("is a directory; a GGUF file needs a name".into()),
        (false, Format::Safetensors) => refuse("is a file; safetensors go into a directory".into()),
        (false, Format::Gguf) if !to.is_file() => refuse("is no regular file".into()),
        (true, Format::Safetensors) if is_empty(to) => Ok(()),
        (_, _) if !force => refuse("exists already; --force replaces it".into()),
        (true, Format::Safetensors) if !holds_only_a_checkpoint(to) => {
            refuse("holds more than a checkpoint's files; not even --force deletes those".into())
        }
        _ => Ok(()),
    }
}

fn is_empty(dir: &Path) -> bool {
    fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none())
}

/// A configuration, and nothing but files of the kinds that a checkpoint has.
fn holds_only_a_checkpoint(dir: &Path) -> bool {
    let Ok(entries) = fs::read_dir(dir) else { return false };
    let known = |entry: fs::DirEntry| {
        let path = entry.path();
        let ends = ["safetensors", "json", "jinja", "txt", "py", "md", "model"];
        let kind = path.extension().is_some_and(|e| ends.iter().any(|end| e == *end));
        !path.is_dir() && (kind || entry.file_name() == "LICENSE")
    };
    dir.join("config.json").exists() && entries.flatten().all(known)
}

/// A directory under a temporary name beside the target; removed again unless published.
pub(super) struct Place {
    partial: PathBuf,
    target: PathBuf,
    published: bool,
}

impl Place {
    /// The temporary name follows from the target's, so that what a killed process left is replaced.
    pub(super) fn beside(target: &Path) -> Result<Self> {
        let partial = hidden(target, "partial");
        if partial.exists() {
            fs::remove_dir_all(&partial)
                .map_err(io(&partial, "remove what an earlier run left"))?;
        }
        fs::create_dir_all(&partial).map_err(io(&partial, "create it"))?;
        Ok(Self { partial, target: target.to_owned(), published: false })
    }

    pub(super) fn path(&self) -> &Path {
        &self.partial
    }

    /// Gives the directory its name. What stood there goes aside first and is deleted last.
    pub(super) fn publish(mut self) -> Result<()> {
        sync(&self.partial)?;
        let old = hidden(&self.target, "replaced");
        let replaces = self.target.exists();
        if replaces {
            if old.exists() {
                fs::remove_dir_all(&old).map_err(io(&old, "remove what an earlier run left"))?;
            }
            fs::rename(&self.target, &old).map_err(io(&self.target, "put it aside"))?;
        }
        if let Err(error) = fs::rename(&self.partial, &self.target) {
            if replaces {
                // Best effort: the error that led here is the one to report.
                let _ = fs::rename(&old, &self.target);
            }
            return Err(io(&self.target, "give the finished directory its name")(error));
        }
        self.published = true;
        if let Some(parent) = self.target.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            sync(parent)?;
        }
        if replaces {
            fs::remove_dir_all(&old).map_err(io(&old, "delete what was replaced"))?;
        }
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.published {
            // Best effort: the error that led here is the one to report.
            let _ = fs::remove_dir_all(&self.partial);
        }
    }
}

fn hidden(target: &Path, suffix: &str) -> PathBuf {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    target.with_file_name(format!(".{name}.{suffix}"))
}

/// Makes names in `dir` survive a power cut.
fn sync(dir: &Path) -> Result<()> {
    if cfg!(windows) {
        return Ok(());
    }
    let synced = fs::File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(io(dir, "sync the directory"))
}

pub(super) fn io(path: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Place { path, reason: format!("cannot {action}: {source}") }
}

//! The names of what is not finished yet: `.NAME.PROCESS-N.partial`, locked by whoever writes it.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Result, io};

/// The folder that a path's name stands in.
pub(crate) fn parent(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// What is being written: its name, and the handle whose lock says that its writer lives.
pub(crate) struct Partial {
    pub(crate) path: PathBuf,
    pub(crate) handle: File,
}

impl Partial {
    /// Makes something new under a free name beside `target`, with `make`, which must fail where the name is taken.
    pub(crate) fn beside(
        target: &Path,
        make: impl Fn(&Path) -> std::io::Result<File>,
    ) -> Result<Self> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        sweep(parent(target), target.file_name());
        loop {
            let number = COUNTER.fetch_add(1, Ordering::Relaxed);
            let mut name = OsString::from(".");
            name.push(target.file_name().unwrap_or_default());
            name.push(format!(".{}-{number}.partial", std::process::id()));
            let path = parent(target).join(name);
            let handle = match make(&path) {
                Ok(handle) => handle,
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(io(target, "write it")(error)),
            };
            match handle.try_lock() {
                // A sweep took it in the moment before it was locked.
                Ok(()) | Err(fs::TryLockError::Error(_)) if !path.exists() => continue,
                Err(fs::TryLockError::WouldBlock) => continue,
                _ => return Ok(Self { path, handle }),
            }
        }
    }
}

/// Removes what writers left in a folder that died before they finished. What a living one writes stays.
///
/// Each writer does this for its own target's name; a program that owns a folder does it for all of them.
/// Nothing is reported: what can't be removed now is in nobody's way.
pub fn remove_leftovers(folder: &Path) {
    sweep(folder, None);
}

fn sweep(folder: &Path, target: Option<&OsStr>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        if !is_partial(&entry.file_name(), target) {
            continue;
        }
        let path = entry.path();
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_symlink() {
            continue;
        }
        // Where locks or handles of folders are not to be had, nobody can know that a writer is dead.
        let Ok(handle) = File::open(&path) else { continue };
        if handle.try_lock().is_err() {
            continue;
        }
        // Best effort: see above.
        let _ = if kind.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
    }
}

/// Whether a name is one that [`Partial::beside`] gives, for this target or for any.
fn is_partial(name: &OsStr, target: Option<&OsStr>) -> bool {
    let Some(name) = name.to_str() else { return false };
    let Some(inner) = name.strip_prefix('.').and_then(|n| n.strip_suffix(".partial")) else {
        return false;
    };
    let Some((of, number)) = inner.rsplit_once('.') else { return false };
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let numbered = number.split_once('-').is_some_and(|(a, b)| is_number(a) && is_number(b));
    numbered && target.is_none_or(|target| target == of)
}

#[cfg(test)]
mod tests {
    use super::is_partial;

    #[test]
    fn only_names_that_writers_give_are_theirs() {
        let name =
            |name: &str, target: Option<&str>| is_partial(name.as_ref(), target.map(str::as_ref));
        assert!(name(".x.gguf.12-3.partial", Some("x.gguf")));
        assert!(name(".x.gguf.12-3.partial", None));
        assert!(!name(".x.gguf.12-3.partial", Some("gguf")));
        for other in [
            "x.gguf.12-3.partial",
            ".x.partial",
            ".x.1-2",
            ".x.a-b.partial",
            ".x.-1.partial",
            ".gitignore",
        ] {
            assert!(!name(other, None), "{other}");
        }
    }
}

//! Gives names to what is not finished yet: `.NAME.PROCESS-N.partial`, locked by whoever writes it.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use crate::disk;
use crate::error::{Result, io};
use crate::parent::parent;

/// Held to read by whoever makes something new or gives it its name, and to write, for good, by a process that ends.
static MAKING: RwLock<()> = RwLock::new(());

/// Waits for good where this process ends; held while something is made that a process that ends would remove, and while
/// it gets its name: a folder half of which was removed must not get one. Nobody may hold it twice.
pub(crate) fn making() -> RwLockReadGuard<'static, ()> {
    MAKING.read().unwrap_or_else(PoisonError::into_inner)
}

/// The times that what a living thread still writes into is removed: it may add a file meanwhile.
const REMOVALS: usize = 100;

/// A file or folder that is being written: its name, and the handle whose lock says that its writer
/// lives.
pub(crate) struct Partial<H> {
    pub(crate) path: PathBuf,
    pub(crate) handle: H,
}

impl<H> Partial<H> {
    /// Makes something new under a free name beside `target`, with `make`, which must fail where the name is taken,
    /// and locks it with `try_lock`.
    pub(crate) fn beside(
        target: &Path,
        make: impl Fn(&Path) -> std::io::Result<H>,
        try_lock: impl Fn(&H) -> Result<(), TryLockError>,
    ) -> Result<Self> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let _making = making();
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
            match try_lock(&handle) {
                // A sweep took it in the moment before it was locked.
                Ok(()) | Err(TryLockError::Error(_)) if !path.exists() => continue,
                Err(TryLockError::WouldBlock) => continue,
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

/// As [`remove_leftovers`], and what lacuna 0.1 left, whose names do not say whether their writer lives: for a folder
/// that the caller has locked and that nobody else writes into.
pub fn remove_all_leftovers(folder: &Path) {
    sweep(folder, None);
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let folder = name.starts_with(".partial-") && is_dir;
        let file = name.starts_with(".lacuna-") && name.ends_with(".tmp") && !is_dir;
        if folder || file || (is_old(name) && !is_partial(name.as_ref(), None)) {
            remove(&entry.path(), is_dir);
        }
    }
}

/// Waits until this process has ended, if one of its threads has begun to remove what it was writing
/// ([`remove_own_leftovers`]): for a thread that meets an error then, which is no error to tell.
pub fn wait_if_ending() {
    drop(making());
}

/// Removes what this very process was writing into a folder: for one that ends now, by a signal. From here on nothing new is
/// begun, and nothing gets its name: a thread that wants to waits until the process has ended.
pub fn remove_own_leftovers(folder: &Path) {
    std::mem::forget(MAKING.write().unwrap_or_else(PoisonError::into_inner));
    for _ in 0..REMOVALS {
        let mut is_clean = true;
        for (path, is_dir) in own(folder) {
            remove(&path, is_dir);
            is_clean &= !path.exists();
        }
        if is_clean {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Everything in a folder that this very process is writing, and whether it is a folder.
fn own(folder: &Path) -> Vec<(PathBuf, bool)> {
    let own = format!("{}-", std::process::id());
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let is_own = |name: &OsStr| {
        let writer = name.to_str().and_then(|name| name.strip_suffix(".partial")?.rsplit_once('.'));
        is_partial(name, None) && writer.is_some_and(|(_, writer)| writer.starts_with(&own))
    };
    let found = entries.flatten().filter(|entry| is_own(&entry.file_name()));
    found.map(|entry| (entry.path(), entry.file_type().is_ok_and(|kind| kind.is_dir()))).collect()
}

/// Tells whether a name is one that lacuna 0.1 gave: `.NAME.partial`.
fn is_old(name: &str) -> bool {
    let inner = name.strip_prefix('.').and_then(|name| name.strip_suffix(".partial"));
    inner.is_some_and(|name| !name.is_empty())
}

fn sweep(folder: &Path, target: Option<&OsStr>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let aside = set_aside_for(&name, target);
        if aside.is_none() && !is_partial(&name, target) {
            continue;
        }
        let path = entry.path();
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_symlink() || !(kind.is_dir() || kind.is_file()) {
            continue;
        }
        // If locks or handles of folders are not to be had, nobody can know that a writer is dead.
        let Ok(handle) = File::open(&path) else { continue };
        if handle.try_lock().is_err() {
            continue;
        }
        match aside.map(|of| folder.join(of)) {
            // The writer died between two renames: this is the only one there is.
            Some(of) if !of.exists() => drop(disk::rename(&path, &of)),
            _ => remove(&path, kind.is_dir()),
        }
    }
}

fn remove(path: &Path, is_dir: bool) {
    // Best effort: what can't be removed now is in nobody's way.
    let _ = if is_dir { disk::remove_dir_all(path) } else { disk::remove_file(path) };
}

/// Tells whether a name is one that [`Partial::beside`] gives, for this target or for any.
fn is_partial(name: &OsStr, target: Option<&OsStr>) -> bool {
    name_of(name, ".partial").is_some_and(|of| target.is_none_or(|target| target == of))
}

/// The name that a folder had before it was put aside for its successor.
fn set_aside_for<'a>(name: &'a OsStr, target: Option<&OsStr>) -> Option<&'a str> {
    name_of(name, ASIDE).filter(|of| target.is_none_or(|target| target == *of))
}

/// The end of the name of a folder that another is about to replace, where the two can't change names in one step.
pub(crate) const ASIDE: &str = ".replaced";

/// `NAME`, if the name is `.NAME.PROCESS-N` followed by `end`.
fn name_of<'a>(name: &'a OsStr, end: &str) -> Option<&'a str> {
    let (of, number) = name.to_str()?.strip_prefix('.')?.strip_suffix(end)?.rsplit_once('.')?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let numbered = number.split_once('-').is_some_and(|(a, b)| is_number(a) && is_number(b));
    (numbered && !of.is_empty()).then_some(of)
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

//! Gives tests disks that fail, so that whatever writes files can be stopped at every operation.
//!
//! A [`TestDisk`] is put over a folder. From then on every change below it, by whichever crate and thread of this
//! process, is counted; at the one where the disk is to stop, nothing happens any more: no clean-up either, as if the
//! process were dead. [`TestDisk::cut_power`] then leaves of the folder what a disk may hold after a power cut.
//!
//! A file's bytes last when the file was synced, a name lasts when its folder was. Everything else may be lost, may
//! have come to the disk anyhow, or in part: [`Survives`] says which of it is played.
//!
//! ```
//! use lacuna_files::testing::{Survives, TestDisk};
//! let place = tempfile::tempdir()?;
//! let target = place.path().join("notes");
//! lacuna_files::write_file(&target, b"old")?;
//! let disk = TestDisk::stopping_at(place.path(), 3);
//! lacuna_files::write_file(&target, b"new").unwrap_err();
//! disk.cut_power(Survives::Nothing)?;
//! assert_eq!(std::fs::read(&target)?, b"old");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`every_end`] plays all of that for a writer.
//!
//! Not here: reads. They see what a running system sees, synced or not.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

mod tree;

use tree::{Id, Tree};

mod ends;

pub use ends::{End, Ends, every_end};
pub use tree::Survives;

/// The number of test disks; in a program that is no test, none.
static MOUNTED: AtomicUsize = AtomicUsize::new(0);
static DISKS: Mutex<Vec<Arc<Disk>>> = Mutex::new(Vec::new());

/// A folder whose disk counts what is done to it and stops when it is told to. It is an ordinary one again when this
/// value is dropped.
#[derive(Debug)]
pub struct TestDisk {
    disk: Arc<Disk>,
}

#[derive(Debug)]
struct Disk {
    root: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    tree: Tree,
    /// The operation, in words.
    done: Vec<String>,
    /// The operation that does not happen.
    stop_at: usize,
}

impl TestDisk {
    /// Counts what is done below `folder`. What is there already counts as safe on the disk.
    ///
    /// # Panics
    /// Panics if the folder can't be read.
    pub fn counting(folder: &Path) -> Self {
        Self::stopping_at(folder, usize::MAX)
    }

    /// As [`counting`](Self::counting), until operation `stop_at` (the first is 1): it and all behind it fail and do
    /// nothing. Of a write, half of the bytes arrive.
    ///
    /// # Panics
    /// Panics if the folder can't be read.
    pub fn stopping_at(folder: &Path, stop_at: usize) -> Self {
        let root = folder.canonicalize().expect("a test disk needs a folder");
        let tree = Tree::of(&root).expect("a test disk reads its folder");
        let disk =
            Arc::new(Disk { root, state: Mutex::new(State { tree, done: Vec::new(), stop_at }) });
        locked(&DISKS).push(disk.clone());
        MOUNTED.fetch_add(1, Ordering::SeqCst);
        Self { disk }
    }

    /// The operations that were done, one line for each.
    pub fn operations(&self) -> Vec<String> {
        locked(&self.disk.state).done.clone()
    }

    /// Leaves in the folder what its disk may hold if the power is cut now, and ends the test disk. Nobody may hold a
    /// file below it any more.
    ///
    /// # Errors
    /// The system's reason, if the folder can't be written.
    pub fn cut_power(self, survives: Survives) -> io::Result<()> {
        let disk = self.disk.clone();
        drop(self);
        let state = locked(&disk.state);
        state.tree.cut_power(&disk.root, survives)
    }
}

impl Drop for TestDisk {
    fn drop(&mut self) {
        locked(&DISKS).retain(|disk| !Arc::ptr_eq(disk, &self.disk));
        MOUNTED.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A change to a name.
#[derive(Clone, Copy)]
pub(crate) enum Change<'a> {
    CreateFolder,
    Remove,
    Rename { to: &'a Path },
    Exchange { with: &'a Path },
    SecondName { of: &'a Path },
    Link { to: &'a Path },
    Attributes,
}

/// A place below a test disk.
pub(crate) struct Place {
    disk: Arc<Disk>,
    path: PathBuf,
}

/// A file that is open below a test disk.
#[derive(Debug)]
pub(crate) struct Watched {
    disk: Arc<Disk>,
    file: Id,
}

/// Does `act`, which changes what is called `path`; on a test disk, if that goes on still.
pub(crate) fn watched(
    path: &Path,
    change: Change<'_>,
    act: impl FnOnce() -> io::Result<()>,
) -> io::Result<()> {
    match watched_name(path) {
        None => act(),
        Some(place) => place.change(change, act),
    }
}

/// The test disk that the name is on, links on the way followed.
pub(crate) fn watched_name(path: &Path) -> Option<Place> {
    if MOUNTED.load(Ordering::Relaxed) == 0 {
        return None;
    }
    place(named(path)?)
}

/// The test disk that a folder is on.
pub(crate) fn watched_folder(path: &Path) -> Option<Place> {
    if MOUNTED.load(Ordering::Relaxed) == 0 {
        return None;
    }
    place(path.canonicalize().ok()?)
}

fn named(path: &Path) -> Option<PathBuf> {
    Some(crate::parent::parent(path).canonicalize().ok()?.join(path.file_name()?))
}

fn place(path: PathBuf) -> Option<Place> {
    let disks = locked(&DISKS);
    let disk = disks.iter().find(|disk| path.starts_with(&disk.root))?.clone();
    Some(Place { disk, path })
}

/// A test that failed while it held a lock has said so already.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    /// Counts an operation; an error if the disk has stopped. The one at which it stops is in `done`, as its last.
    fn count(&mut self, what: impl FnOnce() -> String) -> io::Result<()> {
        if self.done.len() < self.stop_at {
            self.done.push(what());
        }
        match self.done.len() < self.stop_at {
            true => Ok(()),
            false => Err(io::Error::other("the test's disk has stopped")),
        }
    }
}

impl Place {
    fn shown(&self, path: &Path) -> String {
        path.strip_prefix(&self.disk.root).unwrap_or(path).display().to_string()
    }

    pub(crate) fn open(
        self,
        act: impl FnOnce() -> io::Result<fs::File>,
    ) -> io::Result<(fs::File, Watched)> {
        let mut state = locked(&self.disk.state);
        state.count(|| format!("open {}", self.shown(&self.path)))?;
        // A link's file is meant.
        let path = self.path.canonicalize().unwrap_or_else(|_| self.path.clone());
        let known = state.tree.find(&self.disk.root, &path);
        let before = path.metadata().map_or(0, |there| there.len());
        let file = act()?;
        let id = match known {
            Some(id) => id,
            None => state.tree.create(&self.disk.root, &path),
        };
        if file.metadata()?.len() < before {
            state.tree.write(id);
        }
        drop(state);
        Ok((file, Watched { disk: self.disk, file: id }))
    }

    /// Nothing waits for a disk here: what is safe is known from this.
    pub(crate) fn sync_file(self) -> io::Result<()> {
        let mut state = locked(&self.disk.state);
        state.count(|| format!("sync {}", self.shown(&self.path)))?;
        match state.tree.find(&self.disk.root, &self.path) {
            Some(id) => state.tree.sync(&self.disk.root, id),
            None => Ok(()),
        }
    }

    pub(crate) fn sync_folder(self) -> io::Result<()> {
        let mut state = locked(&self.disk.state);
        state.count(|| format!("sync folder {}", self.shown(&self.path)))?;
        state.tree.sync_folder(&self.disk.root, &self.path)
    }

    fn change(self, change: Change<'_>, act: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let (root, path) = (&self.disk.root, &self.path);
        let mut state = locked(&self.disk.state);
        let other = match change {
            Change::Rename { to: other }
            | Change::Exchange { with: other }
            | Change::SecondName { of: other } => named(other),
            _ => None,
        };
        state.count(|| {
            let (here, there) = (self.shown(path), other.as_deref().map(|other| self.shown(other)));
            let there = there.unwrap_or_default();
            match change {
                Change::CreateFolder => format!("create folder {here}"),
                Change::Remove => format!("remove {here}"),
                Change::Rename { .. } => format!("rename {here} to {there}"),
                Change::Exchange { .. } => format!("exchange {here} and {there}"),
                Change::SecondName { .. } => format!("name {there} {here} too"),
                Change::Link { to } => format!("link {here} to {}", to.display()),
                Change::Attributes => format!("attributes of {here}"),
            }
        })?;
        // Whatever others put here becomes known while it has its name.
        let id = state.tree.find(root, path);
        let other = other.map(|path| (state.tree.find(root, &path), path));
        act()?;
        let tree = &mut state.tree;
        match (change, id, other) {
            (Change::CreateFolder, ..) => tree.create_folder(root, path),
            (Change::Link { to }, ..) => tree.link(root, path, to),
            (Change::Remove, ..) => tree.rename(root, &[(path, None)]),
            (Change::Rename { .. }, Some(id), Some((_, to))) => {
                tree.rename(root, &[(path, None), (&to, Some(id))]);
            }
            (Change::Exchange { .. }, Some(id), Some((Some(second), with))) => {
                tree.rename(root, &[(path, Some(second)), (&with, Some(id))]);
            }
            (Change::SecondName { .. }, _, Some((Some(first), _))) => {
                tree.rename(root, &[(path, Some(first))]);
            }
            _ => {}
        }
        Ok(())
    }
}

impl Watched {
    pub(crate) fn write(
        &self,
        bytes: &[u8],
        act: impl FnOnce(&[u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let mut state = locked(&self.disk.state);
        let stopped_before = state.done.len() >= state.stop_at;
        let name = state.tree.name(self.file);
        if let Err(stopped) = state.count(|| format!("write {} bytes to {name}", bytes.len())) {
            if !stopped_before {
                act(&bytes[..bytes.len() / 2])?;
                state.tree.write(self.file);
            }
            return Err(stopped);
        }
        let written = act(bytes)?;
        state.tree.write(self.file);
        Ok(written)
    }

    pub(crate) fn set_len(&self, act: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let mut state = locked(&self.disk.state);
        let name = state.tree.name(self.file);
        state.count(|| format!("set length of {name}"))?;
        act()?;
        state.tree.write(self.file);
        Ok(())
    }

    pub(crate) fn sync(&self) -> io::Result<()> {
        let mut state = locked(&self.disk.state);
        let name = state.tree.name(self.file);
        state.count(|| format!("sync {name}"))?;
        state.tree.sync(&self.disk.root, self.file)
    }
}

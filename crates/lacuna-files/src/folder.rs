//! Makes folders that appear when they are complete, or not at all.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::damage::MANIFEST;
use crate::disk;
use crate::error::{Result, io};
use crate::manifest::Manifest;
use crate::parent::parent;
use crate::partial::{ASIDE, Partial, making};
use crate::whole::{create_folder, sync_all, sync_folder};

/// A folder being filled under a name of its own; [`publish`](Self::publish) gives it the one it is for. Dropped
/// before, it is removed with all that is in it.
pub struct WholeFolder {
    partial: PathBuf,
    target: PathBuf,
    // Holds the lock that keeps others from removing it.
    _handle: Option<File>,
    published: bool,
}

impl WholeFolder {
    /// Begins a folder beside `target`, whose own parent is made if need be.
    ///
    /// # Errors
    /// Errors if the parent may not be written to.
    pub fn beside(target: &Path) -> Result<Self> {
        create_folder(parent(target))?;
        let make = |path: &Path| {
            disk::create_dir(path)?;
            // If a folder can't be opened, its path stands for the lock.
            File::open(path).or_else(|_| File::open(std::env::current_exe()?))
        };
        let Partial { path, handle } = Partial::beside(target, make, File::try_lock)?;
        Ok(Self {
            partial: path,
            target: target.to_owned(),
            _handle: Some(handle),
            published: false,
        })
    }

    /// The folder to fill.
    pub fn path(&self) -> &Path {
        &self.partial
    }

    /// Syncs every file and the folder, gives it its name, syncs the parent.
    ///
    /// # Errors
    /// Errors if the name is taken, or the disk refuses.
    pub fn publish(mut self) -> Result<()> {
        sync_all(&self.partial)?;
        let _making = making();
        disk::rename(&self.partial, &self.target)
            .map_err(io(&self.target, "give the finished folder its name"))?;
        self.published = true;
        sync_folder(parent(&self.target))
    }

    /// As [`publish`](Self::publish), in place of a folder that may stand there already. What is in that one goes
    /// with it where its manifest lists it, unchanged since, or `ours` names it. All else is somebody's: it stays,
    /// as `NAME.kept` where the new folder has a file of that name. At every moment one of the two has the name.
    /// The names that had to change are returned.
    ///
    /// # Errors
    /// Errors if the disk refuses; then the old folder stands where it stood.
    pub fn replace(self, ours: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>> {
        if !self.target.is_dir() {
            return self.publish().map(|()| Vec::new());
        }
        let mut others = Others {
            listed: Manifest::read(&self.target).ok().flatten().unwrap_or_default(),
            ours,
            carried: HashSet::new(),
            renamed: Vec::new(),
        };
        others.carry(&self.target, &self.partial)?;
        sync_all(&self.partial)?;
        let _making = making();
        exchange(&self.partial, &self.target)?;
        // Somebody may have put files into the old folder since it was read.
        others.carry(&self.partial, &self.target)?;
        // The old folder now has the temporary name, under which it is removed when this value is dropped.
        sync_folder(&self.target)?;
        sync_folder(parent(&self.target))?;
        Ok(others.renamed.iter().map(|name| self.target.join(name)).collect())
    }
}

impl Drop for WholeFolder {
    fn drop(&mut self) {
        if !self.published {
            // Best effort: the error that led here is the one to report.
            let _ = disk::remove_dir_all(&self.partial);
        }
    }
}

/// Removes a folder with all that is in it, so that nobody ever meets a part of it: it loses its name first.
///
/// # Errors
/// Errors if the disk refuses.
pub fn remove_folder(folder: &Path) -> Result<()> {
    // An empty folder under a temporary name takes the old one's place, and both go.
    let empty = WholeFolder::beside(folder)?;
    let _making = making();
    exchange(&empty.partial, folder)?;
    disk::remove_dir(folder).map_err(io(folder, "remove it"))?;
    drop(empty);
    sync_folder(parent(folder))
}

/// The files of a folder that is replaced which are not ours, and so have to stand in the new one too.
struct Others<F> {
    listed: Manifest,
    ours: F,
    carried: HashSet<OsString>,
    renamed: Vec<OsString>,
}

impl<F: Fn(&str) -> bool> Others<F> {
    fn carry(&mut self, from: &Path, to: &Path) -> Result<()> {
        for entry in fs::read_dir(from).map_err(io(from, "read it"))? {
            let name = entry.map_err(io(from, "read it"))?.file_name();
            if self.carried.contains(&name) || self.is_ours(from, &name)? {
                continue;
            }
            let mut at = to.join(&name);
            if fs::symlink_metadata(&at).is_ok() {
                if from.join(&name).is_dir() && at.is_dir() {
                    add_missing(&from.join(&name), &at)?;
                    continue;
                }
                if is_copy(&from.join(&name), &at) {
                    continue;
                }
                let free = free_name(to, &name);
                at = to.join(&free);
                self.renamed.push(free);
            }
            carry(&from.join(&name), &at)?;
            self.carried.insert(name);
        }
        Ok(())
    }

    fn is_ours(&self, from: &Path, name: &OsStr) -> Result<bool> {
        let Some(name) = name.to_str() else { return Ok(false) };
        if name == MANIFEST || (self.ours)(name) {
            return Ok(true);
        }
        match self.listed.files.get(name) {
            Some(hash) => Ok(hash.damage(&from.join(name))?.is_none()),
            None => Ok(false),
        }
    }
}

fn free_name(folder: &Path, name: &OsStr) -> OsString {
    let numbered = |n: u32| {
        let mut free = name.to_owned();
        free.push(if n == 1 { ".kept".to_owned() } else { format!(".kept-{n}") });
        free
    };
    let is_free = |name: &OsString| fs::symlink_metadata(folder.join(name)).is_err();
    (1..).map(numbered).find(is_free).unwrap_or_else(|| numbered(0))
}

/// Tells whether two names hold the same bytes, as small files: nothing is lost with one of them.
fn is_copy(one: &Path, other: &Path) -> bool {
    const MOST: u64 = 64 << 20;
    let read = |path| crate::read_file(path, MOST).ok();
    read(one).is_some_and(|bytes| read(other) == Some(bytes))
}

/// Lists what a folder has and the other one has not, all the way down.
fn add_missing(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from).map_err(io(from, "read it"))? {
        let name = entry.map_err(io(from, "read it"))?.file_name();
        let (here, there) = (from.join(&name), to.join(&name));
        if fs::symlink_metadata(&there).is_err() {
            carry(&here, &there)?;
        } else if here.is_dir() && there.is_dir() {
            add_missing(&here, &there)?;
        }
    }
    Ok(())
}

/// The same file under a second name, or a copy where the file system has no second names.
fn carry(from: &Path, to: &Path) -> Result<()> {
    let kind = fs::symlink_metadata(from).map_err(io(from, "read it"))?.file_type();
    if kind.is_dir() {
        disk::create_dir(to).map_err(io(to, "create it"))?;
        for entry in fs::read_dir(from).map_err(io(from, "read it"))? {
            let name = entry.map_err(io(from, "read it"))?.file_name();
            carry(&from.join(&name), &to.join(&name))?;
        }
        return Ok(());
    }
    if disk::hard_link(from, to).is_ok() {
        return Ok(());
    }
    #[cfg(unix)]
    if kind.is_symlink() {
        let leads = fs::read_link(from).map_err(io(from, "read the link"))?;
        return disk::symlink(&leads, to).map_err(io(to, "write the link"));
    }
    disk::copy(from, to).map_err(io(from, "copy it"))
}

/// Two folders change names: in one step where the system can, in two renames elsewhere.
fn exchange(new: &Path, target: &Path) -> Result<()> {
    match disk::exchange(new, target) {
        Ok(()) => Ok(()),
        Err(_) => exchange_in_steps(new, target),
    }
}

/// Should the process die between the renames, the next writer gives the old folder its name back.
fn exchange_in_steps(new: &Path, target: &Path) -> Result<()> {
    let aside = new.with_extension(&ASIDE[1..]);
    let failed = |error| io(target, "give the finished folder its name")(error);
    disk::rename(target, &aside).map_err(failed)?;
    if let Err(error) = disk::rename(new, target) {
        // Best effort: the error that led here is the one to report.
        let _ = disk::rename(&aside, target);
        return Err(failed(error));
    }
    disk::rename(&aside, new).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::{WholeFolder, exchange_in_steps, remove_folder};
    use std::fs;

    #[test]
    fn folders_change_names_where_the_system_has_no_single_step() {
        let place = tempfile::tempdir().unwrap();
        let [new, target] = [".t.1-2.partial", "t"].map(|name| place.path().join(name));
        for (folder, file) in [(&new, "new"), (&target, "old")] {
            fs::create_dir(folder).unwrap();
            fs::write(folder.join(file), "").unwrap();
        }
        exchange_in_steps(&new, &target).unwrap();
        assert!(target.join("new").exists() && new.join("old").exists());
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_folder_put_aside_by_a_writer_that_died_has_its_name_again() {
        let place = tempfile::tempdir().unwrap();
        let target = place.path().join("final");
        fs::create_dir(place.path().join(".final.4711-0.replaced")).unwrap();
        fs::write(place.path().join(".final.4711-0.replaced/weights"), "all").unwrap();
        fs::create_dir(place.path().join(".final.4711-0.partial")).unwrap();
        drop(WholeFolder::beside(&target).unwrap());
        assert_eq!(fs::read(target.join("weights")).unwrap(), b"all");
        // Once it has a successor, it goes.
        fs::create_dir(place.path().join(".final.4711-1.replaced")).unwrap();
        drop(WholeFolder::beside(&target).unwrap());
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_removed_folder_leaves_nothing() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("step-1");
        fs::create_dir_all(folder.join("deep")).unwrap();
        fs::write(folder.join("deep/file"), "x").unwrap();
        remove_folder(&folder).unwrap();
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
    }
}

//! Holds a run's folder while the run goes on: one process has it, and it is swept.

use lacuna_files::{FolderLock, MANIFEST, Manifest};
use std::path::{Path, PathBuf};

use crate::error::{IoContext, Result};
use crate::run::Event;

/// A run's folder, locked. It is made if need be, and goes again if nothing came into it.
pub(crate) struct RunFolder {
    dir: PathBuf,
    made: bool,
    lock: Option<FolderLock>,
}

impl RunFolder {
    /// Takes the folder and removes what killed saves left in it.
    ///
    /// # Errors
    /// Errors at once if another process has it, or it can't be made.
    pub(crate) fn enter(dir: &Path) -> Result<Self> {
        let made = !dir.exists();
        lacuna_files::create_folder(dir)?;
        let mut folder = Self { dir: dir.to_owned(), made, lock: None };
        folder.lock = Some(FolderLock::acquire(dir)?);
        for swept in [dir.to_owned(), dir.join("checkpoints")] {
            lacuna_files::remove_all_leftovers(&swept);
        }
        Ok(folder)
    }

    /// Removes the folder's own manifest, which speaks of files that will change now.
    ///
    /// # Errors
    /// Errors if it can't be removed.
    pub(crate) fn open(&self) -> Result<()> {
        let path = self.dir.join(MANIFEST);
        lacuna_files::remove_if_there(&path).at("removing", &path)
    }

    /// Writes the hashes of the run's own files: recipe, metrics, results, plots. Checkpoints carry theirs. If they
    /// can't be written, the user is told and the run goes on.
    pub(crate) fn seal(&self, observe: &mut dyn FnMut(Event<'_>)) {
        if let Err(reason) = self.write_hashes() {
            observe(Event::Notice(format!("the run's files have no hashes: {reason}")));
        }
    }

    fn write_hashes(&self) -> Result<()> {
        let is_ours = |name: &str| {
            let ends = [".toml", ".json", ".jsonl", ".svg", ".png", ".html"];
            ends.iter().any(|end| name.ends_with(end))
        };
        Ok(Manifest::of_those(&self.dir, is_ours)?.write(&self.dir)?)
    }
}

impl Drop for RunFolder {
    fn drop(&mut self) {
        self.lock = None;
        if self.made {
            // This fails, as it should, if the run has written anything.
            let _ = lacuna_files::remove_empty_folder(&self.dir);
        }
    }
}

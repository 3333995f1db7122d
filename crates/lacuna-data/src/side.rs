//! The files that stand beside a checkpoint's weights: tokenizer, chat template, settings, licence and card.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Component, Path};

use crate::error::{Error, Result, io_error};

/// The files beside a checkpoint's weights and `config.json`, by name: what a checkpoint takes along whole.
///
/// ```
/// use lacuna_data::SideFiles;
/// let mut files = SideFiles::default();
/// files.insert("LICENSE", "Do as you like.\n");
/// let folder = tempfile::tempdir()?;
/// files.write(folder.path())?;
/// assert_eq!(std::fs::read_to_string(folder.path().join("LICENSE"))?, "Do as you like.\n");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SideFiles {
    files: BTreeMap<String, Vec<u8>>,
}

impl SideFiles {
    /// Adds a file, or replaces the one of that name. A name is relative to the checkpoint's folder.
    pub fn insert(&mut self, name: impl Into<String>, bytes: impl Into<Vec<u8>>) {
        self.files.insert(name.into(), bytes.into());
    }

    /// Takes a file out.
    pub fn remove(&mut self, name: &str) -> Option<Vec<u8>> {
        self.files.remove(name)
    }

    /// A file's bytes.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.files.get(name).map(Vec::as_slice)
    }

    /// A file as text, if it is there and is UTF-8.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(|bytes| std::str::from_utf8(bytes).ok())
    }

    /// All files, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice()))
    }

    /// Writes all files into a folder that nobody sees yet, each synced to the disk.
    ///
    /// # Errors
    /// When a name leads out of the folder or the disk refuses.
    pub fn write(&self, folder: &Path) -> Result<()> {
        for (name, bytes) in &self.files {
            let path = folder.join(name);
            if !Path::new(name).components().all(|part| matches!(part, Component::Normal(_))) {
                return Err(Error::SideFile {
                    path,
                    reason: "its name leads out of the checkpoint's folder".into(),
                });
            }
            let parent = path.parent().filter(|parent| *parent != folder);
            parent.map(fs::create_dir_all).transpose().map_err(io_error(&path, "write"))?;
            let written = fs::File::create(&path).and_then(|mut file| {
                file.write_all(bytes)?;
                file.sync_all()
            });
            written.map_err(io_error(&path, "write"))?;
        }
        Ok(())
    }
}

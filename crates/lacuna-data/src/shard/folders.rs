//! Keeps the two parts of a packing beside each other.

use lacuna_files::{FolderLock, MANIFEST, WholeFolder};
use std::path::{Path, PathBuf};

use crate::error::{Result, io_error};

/// The folders `train` and `held-out` of a packing, which get their names when both are whole. A [`ShardWriter`]
/// fills each.
///
/// Training text gets its name last: without it, the other part is of a packing that was cut off.
///
/// [`ShardWriter`]: crate::ShardWriter
pub struct ShardFolders {
    train: WholeFolder,
    held_out: WholeFolder,
    held_out_target: PathBuf,
    /// Held until both have their names: two packings at once would leave one part of each.
    _lock: FolderLock,
}

impl ShardFolders {
    /// Begins both beside their names in `out`, which is made if need be.
    ///
    /// # Errors
    /// When the folder may not be written to, or another packing is writing into it.
    pub fn begin(out: &Path) -> Result<Self> {
        let held_out_target = out.join("held-out");
        lacuna_files::create_folder(out)?;
        let _lock = FolderLock::acquire(out)?;
        let train = WholeFolder::beside(&out.join("train"))?;
        Ok(Self { train, held_out: WholeFolder::beside(&held_out_target)?, held_out_target, _lock })
    }

    /// The folder that training text goes into.
    pub fn train(&self) -> &Path {
        self.train.path()
    }

    /// The folder that held-out text goes into.
    pub fn held_out(&self) -> &Path {
        self.held_out.path()
    }

    /// Names both, or training text alone; then a held-out part that a packing left which was cut off goes. Files that
    /// others put into an old part stay; those whose names had to change for it are returned.
    ///
    /// # Errors
    /// When `train` is there already, or the disk refuses.
    pub fn publish(self, with_held_out: bool) -> Result<Vec<PathBuf>> {
        let is_ours = |name: &str| name == MANIFEST || name.starts_with("shard-");
        let old = &self.held_out_target;
        let mut renamed = Vec::new();
        if with_held_out {
            renamed = self.held_out.replace(is_ours)?;
        } else if old.join(MANIFEST).exists() {
            // Files that others put there stay.
            renamed = WholeFolder::beside(old)?.replace(is_ours)?;
            if lacuna_files::list(old).is_ok_and(|left| left.is_empty()) {
                lacuna_files::remove_empty_folder(old).map_err(io_error(old, "remove"))?;
            }
        }
        self.train.publish()?;
        Ok(renamed)
    }
}

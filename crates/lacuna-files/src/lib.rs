//! Writes to a disk so that a crash, a full disk or a second writer never leaves half a file
//! behind.
//!
//! ```
//! use lacuna_files::{Manifest, WholeFolder};
//!
//! let place = tempfile::tempdir()?;
//! let target = place.path().join("model");
//! let folder = WholeFolder::beside(&target)?;          // hidden, beside the target
//! lacuna_files::write_file(&folder.path().join("weights.bin"), &[1, 2, 3])?;
//! Manifest::of(folder.path())?.write(folder.path())?;  // a BLAKE3 hash of every file
//! folder.publish()?;                                   // synced, renamed, the parent synced
//!
//! assert!(Manifest::read(&target)?.is_some_and(|m| m.verify(&target).is_ok()));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! - [`WholeFile`], [`write_file`] and [`WholeFolder`] write under a temporary name, sync, and rename when all is
//!   there. Two writers never share a temporary name, and what a killed writer left is removed by the next one.
//! - [`replace_text_file`] does the same for a file of a user: its permissions stay, and a link stays a link.
//! - [`Log`] is a file of lines that grows; a torn last line is found and cut off.
//! - [`create_folder`], [`rename`], [`remove_file`] and [`list`] deal with names, and sync the folder where that
//!   matters; [`free_bytes`] says how much room there is.
//! - [`FolderLock`] and [`FileLock`] let one process at a time work; a lock ends with its process, however that ends.
//! - [`open_regular`] and [`read_file`] take regular files alone, up to a bound: a pipe or a device would never end.
//! - [`MappedFile`] is a file that is mapped and not read, guarded as far as possible against being cut short.
//! - [`json`] reads JSON from strangers: it refuses a key that comes twice, and can walk a text without holding it.
//! - [`Manifest`] lists the sizes and hashes of a folder's files, and tells how the files differ from it.
//! - [`sealed`] gives a JSON object a hash of itself, and [`Seal`] tells whether a bit of it has changed since.
//! - [`printable`] and [`short`] spell out text from a file or a model, so that it can't move a terminal's cursor.
//!
//! Every change of the disk goes through one file, `disk.rs`, so that tests can stop it after any operation and
//! forget what was not synced.
//!
//! The crate knows bytes, lines, JSON and names. Formats of models are the business of other crates.

#![deny(unsafe_code)]

mod damage;
mod disk;
mod error;
mod folder;
pub mod json;
mod lock;
mod log;
mod manifest;
mod mapped;
mod names;
mod parent;
mod partial;
mod read;
mod replace;
mod seal;
mod shown;
#[doc(hidden)]
pub mod testing;
mod whole;

pub use damage::{Damage, MANIFEST};
pub use disk::File;
pub use error::{Error, Result};
pub use folder::{WholeFolder, remove_folder};
pub use lock::{FileLock, FolderLock};
pub use log::Log;
pub use manifest::{FileHash, Manifest, hash};
pub use mapped::MappedFile;
pub use names::{
    leads_to, link_folder, list, point_to, remove_dead_link, remove_empty_folder, remove_file,
    remove_if_there, rename,
};
pub use partial::{remove_all_leftovers, remove_leftovers, remove_own_leftovers, wait_if_ending};
pub use read::{Kind, kind, open_any, open_regular, read_any, read_file, read_text};
pub use replace::replace_text_file;
pub use seal::{Seal, sealed};
pub use shown::{is_moving, printable, short};
pub use whole::{
    FinishedFile, WholeFile, create_folder, free_bytes, give_if_root, sync_folder, write_file,
};

//! Verifies that a checkpoint's bytes are still those that were written.

use std::path::Path;

use lacuna_files::Manifest;

use lacuna_files::MappedFile;

use crate::directory::DOCUMENTS;
use crate::error::{Error, Result};
use crate::gguf;

/// The amount of data that [`verify`] compared with hashes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Files whose bytes are those that were written.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// Compares a checkpoint's files with the hashes that it carries: the `manifest.json` of a folder, the `lacuna.hash`
/// of a GGUF file. `None` if it carries none, as those of others don't. Files that only people read (a card, a
/// licence) may have been edited since.
///
/// # Errors
/// If a file differs: it is named. If the manifest can't be read.
pub fn verify(path: &Path) -> Result<Option<Verified>> {
    if !path.is_dir() {
        return verify_gguf(path);
    }
    let Some(manifest) = Manifest::read(path)? else { return Ok(None) };
    let is_read = |name: &str| !DOCUMENTS.contains(&name) && !name.ends_with(".md");
    manifest.verify_those(path, is_read)?;
    let compared = manifest.files.iter().filter(|(name, _)| is_read(name));
    let count = |sum: Verified, bytes| Verified { files: sum.files + 1, bytes: sum.bytes + bytes };
    Ok(Some(compared.map(|(_, hash)| hash.bytes).fold(Verified::default(), count)))
}

fn verify_gguf(path: &Path) -> Result<Option<Verified>> {
    let file = MappedFile::open(path)?;
    let header = super::parse_gguf(file.bytes(), path)?;
    let whole = gguf::whole(header.over(file.bytes()), file.bytes());
    file.check_length()?;
    match whole.map_err(|reason| Error::file(path, reason))? {
        true => Ok(Some(Verified { files: 1, bytes: file.bytes().len() as u64 })),
        false => Ok(None),
    }
}

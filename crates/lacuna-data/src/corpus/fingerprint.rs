//! Names the contents of inputs by one hash, without taking them apart.

use super::languages::Choice;
use super::{CorpusOptions, Reading, Skipped, listing};
use crate::error::{Error, Result};
use lacuna_files::{FileHash, Kind};
use std::path::Path;

/// The hash of everything that the documents of the inputs depend on: the names and contents of their files in order,
/// and the options. Equal hashes, equal documents. The whole of the files is read, at the speed of the disk.
///
/// # Errors
/// When an input is missing or unreadable, or a pipe, which can be read only once.
pub(crate) fn fingerprint(
    inputs: &[impl AsRef<Path>],
    options: &CorpusOptions,
    progress: &mut dyn FnMut(Reading),
) -> Result<blake3::Hash> {
    let choice = Choice::new(&options.extensions, &options.languages)?;
    let mut skipped = Skipped::default();
    let mut hasher = blake3::Hasher::new();
    let mut put = |part: &[u8]| {
        hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
    };
    let mut files = vec![];
    for input in inputs {
        let found = listing::list(input.as_ref(), (options, &choice), &mut skipped)?;
        put(&(found.len() as u64).to_le_bytes());
        files.extend(found);
    }
    // Everything that the options say, and what was passed over by its name alone, which is told as well.
    put(format!("{options:?}").as_bytes());
    put(skipped.to_string().as_bytes());
    let bytes_total = files.iter().map(|file| file.bytes).sum();
    let mut reading = Reading { files_total: files.len(), bytes_total, ..Reading::default() };
    for file in &files {
        if file.named && !matches!(lacuna_files::kind(&file.path), Ok(Kind::File)) {
            let reason = "a pipe, which can be read only once, and a run that goes on reads its corpus again; \
                          write it to a file, or pack it with lacuna pack"
                .to_owned();
            return Err(Error::Corpus { path: file.path.clone(), reason });
        }
        put(file.name.as_bytes());
        put(&[u8::from(file.named)]);
        match FileHash::of(&file.path) {
            Ok(hash) => put(hash.blake3.as_bytes()),
            Err(error) if file.named => return Err(error.into()),
            // It is passed over as unreadable.
            Err(_) => put(b"unreadable"),
        }
        reading.files += 1;
        reading.bytes += file.bytes;
        progress(reading);
    }
    Ok(hasher.finalize())
}

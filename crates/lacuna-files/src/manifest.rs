//! Records what a folder's files were when it was written, so that a reader can tell whether they
//! still are.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::damage::{Damage, MANIFEST};
use crate::error::{Error, Result, io};
use crate::json;
use crate::seal::{SEAL, Seal};

/// No manifest is longer: a stranger's file is not read into memory whole.
const MOST_BYTES: u64 = 16 << 20;

/// Sizes and BLAKE3 hashes of a folder's files, by name. Kept as `manifest.json`, [sealed](crate::sealed), which may
/// say more beside them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The files.
    pub files: BTreeMap<String, FileHash>,
    /// Whatever else the manifest says.
    #[serde(flatten)]
    pub rest: serde_json::Map<String, serde_json::Value>,
}

/// The size and hash of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileHash {
    /// Length in bytes.
    pub bytes: u64,
    /// BLAKE3 of its bytes, 64 hexadecimal digits.
    pub blake3: String,
}

/// The BLAKE3 hash of bytes in memory, as 64 hexadecimal digits.
pub fn hash(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

impl FileHash {
    /// The size and hash of a file as it is now.
    ///
    /// # Errors
    /// Errors if it can't be read.
    pub fn of(path: &Path) -> Result<Self> {
        let mut file = crate::open_regular(path)?;
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; 1 << 20];
        let mut bytes = 0;
        loop {
            let read = file.read(&mut buffer).map_err(io(path, "read it"))?;
            if read == 0 {
                let blake3 = hasher.finalize().to_hex().to_string();
                return Ok(Self { bytes, blake3 });
            }
            hasher.update(&buffer[..read]);
            bytes += read as u64;
        }
    }

    /// Tells what differs in the file at `path`, if anything.
    ///
    /// # Errors
    /// Errors if it is there and can't be read.
    pub fn damage(&self, path: &Path) -> Result<Option<Damage>> {
        let found = match fs::metadata(path) {
            Ok(there) if !there.is_file() => return Ok(Some(Damage::NoFile)),
            Ok(there) => there.len(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Some(Damage::Missing));
            }
            Err(error) => return Err(io(path, "read it")(error)),
        };
        if found != self.bytes {
            return Ok(Some(Damage::Length { expected: self.bytes, found }));
        }
        let same = FileHash::of(path)?.blake3 == self.blake3;
        Ok((!same).then_some(Damage::Content))
    }
}

impl Manifest {
    /// The manifest of every file that stands in `folder` now, but the manifest itself, hidden files and folders.
    ///
    /// # Errors
    /// Errors if a file can't be read or its name is no text.
    pub fn of(folder: &Path) -> Result<Self> {
        Self::of_those(folder, |_| true)
    }

    /// As [`of`](Self::of), of those files whose names `wanted` says.
    ///
    /// # Errors
    /// As [`of`](Self::of).
    pub fn of_those(folder: &Path, wanted: impl Fn(&str) -> bool) -> Result<Self> {
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(folder).map_err(io(folder, "read it"))? {
            let path = entry.map_err(io(folder, "read it"))?.path();
            let name = path.file_name().and_then(|name| name.to_str()).map(str::to_owned);
            let listed =
                name.filter(|name| !name.starts_with('.') && name != MANIFEST && wanted(name));
            if let Some(name) = listed.filter(|_| path.is_file()) {
                files.insert(name, FileHash::of(&path)?);
            }
        }
        Ok(Self { files, rest: serde_json::Map::new() })
    }

    /// Writes it into the folder, whole or not at all.
    ///
    /// # Errors
    /// Errors if the disk refuses.
    pub fn write(&self, folder: &Path) -> Result<()> {
        crate::write_file(&folder.join(MANIFEST), crate::sealed(self).as_bytes())
    }

    /// A folder's manifest; `None` if it has none, as models of others haven't.
    ///
    /// # Errors
    /// Errors if there is one that can't be read, that is not as it was written, or that names files outside of its
    /// folder.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(MANIFEST);
        let text = match crate::read_file(&path, MOST_BYTES) {
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                return Ok(None);
            }
            text => text?,
        };
        if Seal::of(&text) == Seal::Broken {
            return Err(Error::Damaged { path, damage: Damage::Seal });
        }
        let broken = |reason, cut_short| Error::Manifest { path: path.clone(), reason, cut_short };
        let said = |error: serde_json::Error| broken(error.to_string(), error.is_eof());
        let value = json::read(&text, |json| json.value()).map_err(said)?;
        let mut manifest: Self = serde_json::from_value(value).map_err(said)?;
        manifest.rest.remove(SEAL);
        let plain = |name: &str| {
            !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\\', '\0'])
        };
        match manifest.files.keys().find(|name| !plain(name)) {
            Some(name) => {
                Err(broken(format!("`{}` is no plain file name", crate::printable(name)), false))
            }
            None => Ok(Some(manifest)),
        }
    }

    /// Compares every file that is listed with what stands in the folder.
    ///
    /// # Errors
    /// [`Error::Damaged`] names the first that differs.
    pub fn verify(&self, folder: &Path) -> Result<()> {
        self.verify_those(folder, |_| true)
    }

    /// As [`verify`](Self::verify), of those files whose names `wanted` says.
    ///
    /// # Errors
    /// As [`verify`](Self::verify).
    pub fn verify_those(&self, folder: &Path, wanted: impl Fn(&str) -> bool) -> Result<()> {
        for (name, hash) in self.files.iter().filter(|(name, _)| wanted(name)) {
            let path = folder.join(name);
            if let Some(damage) = hash.damage(&path)? {
                return Err(Error::Damaged { path, damage });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Damage, MANIFEST, Manifest};
    use crate::Error;
    use proptest::prelude::*;
    use std::fs;

    proptest! {
        #[test]
        fn any_flipped_bit_is_found_and_named(bytes in prop::collection::vec(any::<u8>(), 1..3000), at in any::<prop::sample::Index>(), bit in 0u32..8) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("weights.bin");
            fs::write(&path, &bytes).unwrap();
            fs::write(folder.path().join("other"), "x").unwrap();
            Manifest::of(folder.path()).unwrap().write(folder.path()).unwrap();
            let manifest = Manifest::read(folder.path()).unwrap().unwrap();
            manifest.verify(folder.path()).unwrap();
            let mut damaged = bytes;
            let at = at.index(damaged.len());
            damaged[at] ^= 1u8 << bit;
            fs::write(&path, damaged).unwrap();
            let told = manifest.verify(folder.path()).unwrap_err();
            let named = matches!(&told, Error::Damaged { path: p, damage: Damage::Content } if *p == path);
            prop_assert!(named, "{told}");
        }
    }

    #[test]
    fn any_flipped_bit_of_the_manifest_itself_is_found() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("weights.bin"), "four").unwrap();
        let manifest = Manifest::of(folder.path()).unwrap();
        manifest.write(folder.path()).unwrap();
        assert_eq!(Manifest::read(folder.path()).unwrap(), Some(manifest));
        let path = folder.path().join(MANIFEST);
        let whole = fs::read(&path).unwrap();
        for bit in 0..8 * whole.len() {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1u8 << (bit % 8);
            fs::write(&path, bytes).unwrap();
            let told = Manifest::read(folder.path()).unwrap_err();
            let named =
                matches!(&told, Error::Damaged { path: p, damage: Damage::Seal } if *p == path);
            assert!(named, "bit {bit}: {told}");
        }
        // A file that was cut off has lost its seal, and is told as one that ends too early.
        fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        let cut = Manifest::read(folder.path());
        assert!(matches!(cut, Err(Error::Manifest { cut_short: true, .. })));
    }

    #[test]
    fn missing_and_cut_files_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        fs::write(&path, "four").unwrap();
        let manifest = Manifest::of(folder.path()).unwrap();
        fs::write(&path, "fou").unwrap();
        assert!(
            manifest
                .verify(folder.path())
                .unwrap_err()
                .to_string()
                .contains("3 bytes, and manifest.json says 4")
        );
        fs::remove_file(&path).unwrap();
        assert!(manifest.verify(folder.path()).unwrap_err().to_string().contains("is missing"));
    }

    #[test]
    fn a_manifest_names_no_file_twice() {
        let folder = tempfile::tempdir().unwrap();
        let text =
            r#"{"files": {"a": {"bytes": 1, "blake3": ""}, "a": {"bytes": 2, "blake3": ""}}}"#;
        fs::write(folder.path().join(MANIFEST), text).unwrap();
        let told = Manifest::read(folder.path()).unwrap_err().to_string();
        assert!(told.contains("key a appears twice"), "{told}");
        fs::write(folder.path().join(MANIFEST), &text[..40]).unwrap();
        let cut = Manifest::read(folder.path());
        assert!(matches!(cut, Err(Error::Manifest { cut_short: true, .. })));
    }

    #[test]
    fn a_manifest_may_not_lead_out_of_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["../x", "a/b", "/etc/passwd", "", ".."] {
            let text = format!(r#"{{"files": {{"{name}": {{"bytes": 1, "blake3": ""}}}}}}"#);
            fs::write(folder.path().join(MANIFEST), text).unwrap();
            assert!(matches!(Manifest::read(folder.path()), Err(Error::Manifest { .. })), "{name}");
        }
    }
}

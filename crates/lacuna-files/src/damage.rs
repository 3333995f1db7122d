//! Says in which way a file can differ from what its manifest has of it.

/// The manifest's own name in its folder.
pub const MANIFEST: &str = "manifest.json";

/// In which way a file differs from its manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Damage {
    /// It is not there.
    Missing,
    /// Its length is another.
    Length {
        /// The size or hash that the manifest names.
        expected: u64,
        /// The one that the file has.
        found: u64,
    },
    /// As long as it was, with other bytes.
    Content,
    /// A folder, a pipe or a device in its place.
    NoFile,
    /// Its bytes are not those that its own [`Seal`](crate::Seal) is the hash of.
    Seal,
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Damage::Missing => write!(f, "is missing, though {MANIFEST} lists it"),
            Damage::Length { expected, found } => {
                write!(f, "is damaged: {found} bytes, and {MANIFEST} says {expected}")
            }
            Damage::Content => {
                write!(f, "is damaged: its bytes are not those that {MANIFEST} has the hash of")
            }
            Damage::Seal => f.write_str(
                "is damaged: its bytes are not those that the seal at its own end is the hash of",
            ),
            Damage::NoFile => write!(f, "is no regular file, though {MANIFEST} lists it as one"),
        }
    }
}

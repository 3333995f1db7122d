//! Gives a GGUF file a hash of its own, so that one file stays one file.
//!
//! `lacuna.hash` is the last entry of the metadata: 64 hexadecimal digits, BLAKE3 of the whole file with zeros in their
//! place. Other readers pass over keys that they do not know. A hash beside the file would be lost when it is copied, and
//! could not be replaced in one step with it. `lacuna.hash_algorithm` stands beside it so that a bit that falls in one
//! of the two names is found as well.

use super::metadata::Metadata;
use super::parse::Gguf;
use super::reader::Value;

pub(super) const HASH: &str = "lacuna.hash";
pub(super) const ALGORITHM: &str = "lacuna.hash_algorithm";
const DIGITS: usize = 64;
const NONE_YET: [u8; DIGITS] = [b'0'; DIGITS];

/// Leaves room for the hash, as the last entry.
pub(super) fn announce(metadata: &mut Metadata) {
    metadata.text(ALGORITHM, "blake3");
    metadata.text(HASH, str::from_utf8(&NONE_YET).expect("digits"));
}

/// The hash of the bytes that are written, with zeros for its digits, and the place of the digits.
#[derive(Default)]
pub(super) struct Running {
    hasher: blake3::Hasher,
    /// The place of the digits in the file.
    digits: u64,
}

impl Running {
    pub(super) fn add(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
    }

    /// Notes that the metadata, and with them the digits, end at this byte.
    pub(super) fn metadata_end(&mut self, at: u64) {
        self.digits = at - DIGITS as u64;
    }

    /// The place of the digits, and the digits.
    pub(super) fn finish(self) -> (u64, String) {
        (self.digits, self.hasher.finalize().to_hex().to_string())
    }
}

/// Tells whether the file carries its hash; an error if the hash is another file's.
pub(crate) fn whole(gguf: Gguf<'_>, file: &[u8]) -> Result<bool, String> {
    let (said, digits) = match (gguf.get(HASH), gguf.text_range(HASH), gguf.get(ALGORITHM)) {
        (None, _, None) => return Ok(false),
        (Some(Value::Text(said)), Some(digits), Some(Value::Text("blake3")))
            if said.len() == DIGITS =>
        {
            (said, digits)
        }
        (Some(_), _, Some(Value::Text(other))) if other != "blake3" => {
            return Err(format!(
                "is damaged, or carries a hash of a kind that is not known here ({})",
                crate::error::printable(other)
            ));
        }
        _ => return Err(format!("is damaged: {HASH} and {ALGORITHM} do not belong together")),
    };
    let mut hasher = blake3::Hasher::new();
    hasher.update(&file[..digits.start]).update(&NONE_YET).update(&file[digits.end..]);
    match hasher.finalize().to_hex().as_str() == said {
        true => Ok(true),
        false => Err(format!("is damaged: its bytes are not those that its {HASH} is of")),
    }
}

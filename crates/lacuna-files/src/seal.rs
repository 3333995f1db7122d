//! Gives a JSON object a hash of itself, so that any bit of it that changes later is found.
//!
//! The last field, `seal`, is the BLAKE3 hash of the text in which 64 zeros stand in its place.

use serde::Serialize;

const BEFORE: &str = ",\n  \"seal\": \"";
const DIGITS: usize = 64;
const AFTER: &str = "\"\n}\n";
/// The bytes around a seal that may differ before it is none at all: a text without a seal differs in more.
const MOST_DAMAGED: usize = 4;

/// The name of the field.
pub(crate) const SEAL: &str = "seal";

/// The state of the seal at the end of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seal {
    /// There is none, as in texts of others and of earlier versions.
    Absent,
    /// The text is the one that was sealed.
    Whole,
    /// The text or its seal has changed since.
    Broken,
}

impl Seal {
    /// Looks at the seal of a text.
    pub fn of(text: &[u8]) -> Self {
        let parts = text
            .split_last_chunk::<{ AFTER.len() }>()
            .and_then(|(rest, after)| Some((rest.split_last_chunk::<DIGITS>()?, after)))
            .and_then(|((rest, digits), after)| {
                Some((rest.split_last_chunk::<{ BEFORE.len() }>()?, digits, after))
            });
        let Some(((sealed, before), digits, after)) = parts else { return Self::Absent };
        let differ = |one: &[u8], other: &str| {
            one.iter().zip(other.as_bytes()).filter(|(a, b)| a != b).count()
        };
        match differ(before, BEFORE) + differ(after, AFTER) {
            0 if digits == hash_of(sealed).as_bytes() => Self::Whole,
            0..=MOST_DAMAGED => Self::Broken,
            _ => Self::Absent,
        }
    }
}

/// An object as indented JSON, sealed.
pub fn sealed(object: &impl Serialize) -> String {
    let mut text = serde_json::to_string_pretty(object).expect("text and numbers serialize");
    let end = "\n}";
    assert!(text.ends_with(end), "an object with fields is sealed");
    text.truncate(text.len() - end.len());
    let hash = hash_of(text.as_bytes());
    text + BEFORE + &hash + AFTER
}

/// The seal of a text, given as what stands before it.
fn hash_of(sealed: &[u8]) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(sealed).update(BEFORE.as_bytes());
    hasher.update(&[b'0'; DIGITS]).update(AFTER.as_bytes());
    hasher.finalize().to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use super::{Seal, sealed};
    use serde_json::json;

    #[test]
    fn every_flipped_bit_breaks_a_seal() {
        let text = sealed(&json!({ "windows": 15, "shards": [{ "blake3": "00ff" }], "x": {} }));
        assert_eq!(Seal::of(text.as_bytes()), Seal::Whole);
        for bit in 0..8 * text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Seal::of(&bytes), Seal::Broken, "bit {} of byte {}", bit % 8, bit / 8);
        }
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["seal"].as_str().unwrap().len(), 64);
    }

    #[test]
    fn texts_of_others_have_no_seal() {
        let digits = "0".repeat(64);
        for text in [
            "{}".to_owned(),
            "{\n  \"files\": {}\n}\n".to_owned(),
            format!("{{\n  \"blake3\": \"{digits}\"\n}}\n"),
            format!("{{\"seal\":\"{digits}\"}}"),
        ] {
            assert_eq!(Seal::of(text.as_bytes()), Seal::Absent, "{text}");
        }
    }
}

//! Takes the fields of a GGUF file's metadata, with errors that name file, key and value.

use std::cell::RefCell;
use std::path::Path;

use super::parse::Gguf;
use super::reader::Value;
use crate::error::{Error, Result, printable};

/// Metadata under the architecture's prefix, or under whole keys if they name another one.
pub(super) struct Fields<'a> {
    pub(super) gguf: Gguf<'a>,
    pub(super) file: &'a Path,
    pub(super) architecture: &'a str,
    /// The number that token ids are below.
    pub(super) vocab_size: usize,
    /// Keys with ids that name no token, as `key = id`.
    pub(super) ignored: RefCell<Vec<String>>,
}

impl<'a> Fields<'a> {
    pub(super) fn new(gguf: Gguf<'a>, file: &'a Path, architecture: &'a str) -> Self {
        Self { gguf, file, architecture, vocab_size: 0, ignored: RefCell::default() }
    }

    pub(super) fn get(&self, key: &str) -> Option<(String, Value<'a>)> {
        let whole = key.starts_with("tokenizer.") || key.starts_with("lacuna.");
        let key = if whole { key.to_owned() } else { format!("{}.{key}", self.architecture) };
        let value = self.gguf.get(&key)?;
        Some((key, value))
    }

    pub(super) fn fault(
        &self,
        key: &str,
        value: impl std::fmt::Display,
        reason: impl Into<String>,
    ) -> Error {
        let whole = ["tokenizer.", "lacuna.", "general."].iter().any(|p| key.starts_with(p));
        let key = if whole { key.to_owned() } else { format!("{}.{key}", self.architecture) };
        Error::config(self.file, &key, value, reason)
    }

    /// A fault in a key that has no architecture before it.
    pub(super) fn whole_fault(&self, key: &str, reason: impl Into<String>) -> Error {
        let value = self.gguf.get(key).map_or_else(|| "nothing".to_owned(), |value| shown(&value));
        Error::config(self.file, key, value, reason)
    }

    /// A whole number; an array counts if all its elements are equal.
    pub(super) fn size(&self, key: &str) -> Result<Option<usize>> {
        let Some((_, value)) = self.get(key) else { return Ok(None) };
        let number = match value {
            Value::Unsigned(n, _) => usize::try_from(n).ok(),
            Value::Signed(n) => usize::try_from(n).ok(),
            Value::Array(array) => array.integers().and_then(|mut all| {
                let first = all.next()?;
                all.all(|n| n == first).then_some(first).and_then(|n| usize::try_from(n).ok())
            }),
            _ => None,
        };
        let reason = "expected a whole number, the same for all layers";
        number.map(Some).ok_or_else(|| self.fault(key, shown(&value), reason))
    }

    pub(super) fn required(&self, key: &str) -> Result<usize> {
        self.size(key)?.ok_or_else(|| self.fault(key, "nothing", "the field is required"))
    }

    pub(super) fn refuse_unless(&self, key: &str, expected: usize) -> Result<()> {
        match self.size(key)? {
            Some(found) if found != expected => {
                Err(self.fault(key, found, format!("only {expected} is supported here")))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn number(&self, key: &str) -> Result<Option<f64>> {
        let Some((_, value)) = self.get(key) else { return Ok(None) };
        let number = match value {
            // 1e-5 as f32 is 9.99999974e-6 as f64; the shortest decimal is the number that was meant.
            Value::F32(n) => n.to_string().parse().ok(),
            Value::F64(n) => Some(n),
            Value::Unsigned(n, _) => Some(n as f64),
            _ => None,
        };
        let finite = number.filter(|n: &f64| n.is_finite());
        finite.map(Some).ok_or_else(|| self.fault(key, shown(&value), "expected a finite number"))
    }

    /// A token id, if the key names one. An id that names no token is left out, because only decoding can tell
    /// whether it is needed.
    pub(super) fn id(&self, key: &str) -> Option<u32> {
        let (_, value) = self.get(key)?;
        match value.as_id() {
            Some(n) => self.names_a_token(key, n).then_some(n as u32),
            None => {
                self.ignored.borrow_mut().push(format!("{key} = {}", printable(&shown(&value))));
                None
            }
        }
    }

    /// Tells whether there is such a token; if there is none, the id is noted.
    pub(super) fn names_a_token(&self, key: &str, id: i64) -> bool {
        let named = usize::try_from(id).is_ok_and(|id| id < self.vocab_size);
        if !(named || no_id(id)) {
            self.ignored.borrow_mut().push(format!("{key} = {id}"));
        }
        named
    }
}

/// Tells whether an id is -1, in 32 bits too, by which files say that there is no such token.
fn no_id(id: i64) -> bool {
    id == -1 || id == i64::from(u32::MAX)
}

impl Value<'_> {
    fn as_id(&self) -> Option<i64> {
        match *self {
            Value::Unsigned(n, _) => i64::try_from(n).ok(),
            Value::Signed(n) => Some(n),
            _ => None,
        }
    }

    pub(super) fn is_no_id(&self) -> bool {
        self.as_id().is_some_and(no_id)
    }
}

/// A value as errors name it.
pub(super) fn shown(value: &Value<'_>) -> String {
    match value {
        Value::Unsigned(n, _) => n.to_string(),
        Value::Signed(n) => n.to_string(),
        Value::F32(n) => n.to_string(),
        Value::F64(n) => n.to_string(),
        Value::Bool(b) => b.to_string(),
        Value::Text(text) => (*text).to_owned(),
        Value::Array(array) => format!("an array of {}", array.len()),
    }
}

//! Takes the fields of a `config.json` one by one, with errors that name file, field and value.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::{Error, Result, printable};

/// A JSON object whose fields are taken one by one; those that are left are carried through.
pub(super) struct Fields {
    pub(super) map: Map<String, Value>,
    pub(super) file: PathBuf,
    parent: Option<&'static str>,
    /// The number that token ids are below.
    pub(super) vocab_size: usize,
    /// Fields with ids that name no token, as `field = id`.
    pub(super) ignored: Vec<String>,
}

impl Fields {
    pub(super) fn parse(text: &[u8], file: &Path) -> Result<Self> {
        let map = lacuna_files::json::object(text).map_err(|reason| Error::file(file, reason))?;
        Ok(Self::of(map, file, None))
    }

    pub(super) fn of(map: Map<String, Value>, file: &Path, parent: Option<&'static str>) -> Self {
        Self { map, file: file.to_path_buf(), parent, vocab_size: 0, ignored: Vec::new() }
    }

    /// Tells whether a field says something: it is not null, and not -1, which stands for none.
    pub(super) fn has(&self, field: &str) -> bool {
        self.map.get(field).is_some_and(|value| !(value.is_null() || *value == -1))
    }

    pub(super) fn fault(
        &self,
        field: &str,
        value: impl std::fmt::Display,
        reason: impl Into<String>,
    ) -> Error {
        let field = match self.parent {
            Some(parent) => format!("{parent}.{field}"),
            None => field.to_owned(),
        };
        Error::config(&self.file, &field, value, reason)
    }

    fn take(&mut self, field: &str) -> Option<Value> {
        self.map.remove(field).filter(|value| !value.is_null())
    }

    pub(super) fn size(&mut self, field: &str) -> Result<Option<usize>> {
        let Some(value) = self.take(field) else { return Ok(None) };
        let size = value.as_u64().and_then(|n| usize::try_from(n).ok());
        size.map(Some).ok_or_else(|| self.fault(field, value, "expected a whole number"))
    }

    pub(super) fn required(&mut self, field: &str) -> Result<usize> {
        self.size(field)?.ok_or_else(|| self.fault(field, "nothing", "the field is required"))
    }

    pub(super) fn number(&mut self, field: &str) -> Result<Option<f64>> {
        let Some(value) = self.take(field) else { return Ok(None) };
        let number = value.as_f64().filter(|n| n.is_finite());
        number.map(Some).ok_or_else(|| self.fault(field, value, "expected a finite number"))
    }

    pub(super) fn required_number(&mut self, field: &str) -> Result<f64> {
        self.number(field)?.ok_or_else(|| self.fault(field, "nothing", "the field is required"))
    }

    pub(super) fn flag(&mut self, field: &str) -> Result<Option<bool>> {
        let Some(value) = self.take(field) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| self.fault(field, value, "expected true or false"))
    }

    /// A token id, if the field names one.
    pub(super) fn id(&mut self, field: &str) -> Option<u32> {
        self.ids(field).0.first().copied()
    }

    /// A token id or a list of them, and true if the field is an empty list. Ids that name no token are left out,
    /// because only decoding can tell whether they are needed. Files say "none" by -1 and null; all else is noted.
    pub(super) fn ids(&mut self, field: &str) -> (Vec<u32>, bool) {
        let values = match self.take(field) {
            None => return (Vec::new(), false),
            Some(Value::Array(values)) => values,
            Some(one) => vec![one],
        };
        let empty = values.is_empty();
        let mut ids = Vec::new();
        for value in values {
            let whole = value.as_f64().filter(|n| n.fract() == 0.0 && (0.0..4e9).contains(n));
            match whole.map(|n| n as u32).filter(|id| (*id as usize) < self.vocab_size) {
                Some(id) if !ids.contains(&id) => ids.push(id),
                Some(_) => {}
                None if value.is_null() || value == -1 => {}
                None => {
                    let (field, value) = (printable(field), printable(&value.to_string()));
                    self.ignored.push(format!("{field} = {value}"));
                }
            }
        }
        (ids, empty)
    }
}

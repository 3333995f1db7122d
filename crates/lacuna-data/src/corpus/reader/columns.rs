//! Takes the texts of Parquet files.

use super::Reader;
use crate::corpus::listing::Found;
use crate::corpus::{Document, Reason};
use crate::error::Result;

#[cfg(feature = "parquet")]
impl<F: FnMut(Document) -> Result<()>> Reader<'_, F> {
    /// Reads a column of texts. What is wrong with a file that was named is an error, with one of a folder a reason to
    /// pass it over.
    pub(super) fn columns(&mut self, found: &Found) -> Result<()> {
        use crate::error::{Error, io_error};
        use crate::records::columns::{Rows, text_of};
        use crate::records::{Fault, stopped};

        let file = match lacuna_files::open_regular(&found.path) {
            Ok(file) => file,
            Err(error) if found.named => return Err(error.into()),
            Err(error) => {
                self.skipped.add(Reason::Unreadable, format!("{} ({error})", found.name));
                return Ok(());
            }
        };
        let mut rows = match Rows::open(file, Some(self.options.text_fields.as_slice())) {
            Ok(rows) => rows,
            Err(error) if found.named && error.raw_os_error().is_some() => {
                return Err(io_error(&found.path, "read")(error));
            }
            Err(error) if found.named => return Err(stopped(&found.path, "", None, error)),
            Err(error) => {
                self.stop_short(&found.name, &error);
                return Ok(());
            }
        };
        if rows.has_no_column() {
            let names = rows.names().join(", ");
            if found.named {
                let reason = format!(
                    "a column of texts {} is expected, it has {names}; --text-field, data.text_fields name another",
                    self.fields()
                );
                return Err(Error::Corpus { path: found.path.clone(), reason });
            }
            self.skipped.add(Reason::NoText, format!("{} (it has {names})", found.name));
            return Ok(());
        }
        let before = self.consumed.get();
        loop {
            let row = match rows.next() {
                Ok(Some(row)) => row,
                Ok(None) => return Ok(()),
                Err(error) if found.named => {
                    let behind = format!(" from row {} on", rows.number() + 1);
                    return Err(stopped(&found.path, &behind, None, error));
                }
                Err(error) => {
                    let place = format!("{}#{}", found.name, rows.number() + 1);
                    self.stop_short(&place, &error);
                    return Ok(());
                }
            };
            self.consumed.set(before + (found.bytes as f64 * rows.part()) as u64);
            let place = format!("{}#{}", found.name, rows.number());
            match text_of(row, &self.options.text_fields) {
                Ok(text) => self.text(&place, place.clone(), text)?,
                Err(Fault { reason, words }) => {
                    self.skipped.add(reason, format!("{place} ({words})"));
                }
            }
        }
    }
}

#[cfg(not(feature = "parquet"))]
impl<F: FnMut(Document) -> Result<()>> Reader<'_, F> {
    /// Passes over what this build does not read.
    pub(super) fn columns(&mut self, found: &Found) -> Result<()> {
        if found.named {
            let reason =
                "a Parquet file, which this build does not read; build with the feature parquet"
                    .to_owned();
            return Err(crate::error::Error::Corpus { path: found.path.clone(), reason });
        }
        self.skipped.add(Reason::OtherFormat, &found.name);
        Ok(())
    }
}

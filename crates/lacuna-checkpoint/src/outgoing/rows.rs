//! Converts a stored tensor on its way into another format, a few rows at a time.

use std::ops::Range;

use lacuna_kernels::{Backend, Bytes, StorageDtype, WeightMatrix};
use rayon::prelude::*;

use super::packed;
use lacuna_files::MappedFile;

use crate::error::{Error, Result};
use crate::index::Entry;
use crate::permute::{permute_rows, unpermute_rows};

/// About as many values are in memory at once, so that a model of 8 B parameters converts in little.
const CHUNK_VALUES: usize = 1 << 22;
/// The values that one thread converts at a time.
const TASK_VALUES: usize = 1 << 16;

/// A tensor where it lies, with rows that are to be written in place of its own.
pub(crate) struct Rows<'a> {
    pub(crate) name: &'a str,
    pub(crate) file: &'a MappedFile,
    pub(crate) entry: &'a Entry,
    /// The rows to write in place of its own, ascending; a row behind the last one is appended.
    pub(crate) replaced: Vec<(usize, Vec<f32>)>,
}

impl Rows<'_> {
    /// The tensor's shape with appended rows.
    pub(crate) fn shape(&self) -> Vec<usize> {
        let mut shape = self.entry.shape.clone();
        if let Some((last, _)) = self.replaced.last() {
            shape[0] = shape[0].max(last + 1);
        }
        shape
    }

    /// Gives `write` the tensor in `dtype`, chunk after chunk. `permute` is the number of heads whose rows are to be
    /// stored for interleaved rotary pairs. Bytes that are already in `dtype` pass through as they are.
    pub(crate) fn write(
        &self,
        dtype: StorageDtype,
        permute: Option<usize>,
        mut write: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let (rows, cols) = matrix_of(&self.entry.shape);
        let row_bytes = self.entry.range.len() / rows;
        // Heads move whole, so a chunk of whole heads can be permuted alone.
        let heads = self.entry.permuted.or(permute);
        let unit = heads.map_or(1, |heads| rows / heads);
        let step = (CHUNK_VALUES / cols / unit).max(1) * unit;
        for start in (0..rows).step_by(step) {
            let chunk = start..rows.min(start + step);
            let at = self.entry.range.start;
            let mut bytes =
                self.file.read(at + chunk.start * row_bytes..at + chunk.end * row_bytes)?;
            if self.entry.permuted.is_some() {
                bytes = unpermute_rows(&bytes, chunk.len(), chunk.len() / unit);
            }
            if self.entry.dtype != dtype {
                bytes = self.recoded(&bytes, &chunk, cols, dtype)?;
            }
            self.replace(&mut bytes, &chunk, dtype)?;
            if permute.is_some() {
                bytes = permute_rows(&bytes, chunk.len(), chunk.len() / unit);
            }
            write(&bytes)?;
        }
        for (_, values) in self.replaced.iter().filter(|(row, _)| *row >= rows) {
            write(&self.encoded(values, values.len(), dtype)?)?;
        }
        Ok(())
    }

    /// The rows of a chunk in `dtype`, through f32.
    fn recoded(
        &self,
        bytes: &[u8],
        chunk: &Range<usize>,
        cols: usize,
        dtype: StorageDtype,
    ) -> Result<Vec<u8>> {
        let row_bytes = bytes.len() / chunk.len();
        let rows_each = (TASK_VALUES / cols).max(1);
        let parts = bytes.par_chunks(rows_each * row_bytes).map(|part| {
            let values = self.decoded(part, cols)?;
            self.encoded(&values, cols, dtype)
        });
        Ok(parts.collect::<Result<Vec<_>>>()?.concat())
    }

    fn decoded(&self, bytes: &[u8], cols: usize) -> Result<Vec<f32>> {
        let stored = self.entry.dtype;
        let rows = bytes.len() / stored.row_bytes(cols).expect("validated: whole blocks");
        let matrix = WeightMatrix::new(stored, rows, cols, Bytes::from(bytes.to_vec()))?;
        Ok(matrix.to_tensor(Backend::cpu())?.flatten_all()?.to_vec1()?)
    }

    fn encoded(&self, values: &[f32], cols: usize, dtype: StorageDtype) -> Result<Vec<u8>> {
        packed::pack(values, cols, dtype)
            .map_err(|reason| Error::tensor(self.file.path(), self.name, reason))
    }

    fn replace(&self, bytes: &mut [u8], chunk: &Range<usize>, dtype: StorageDtype) -> Result<()> {
        let row_bytes = bytes.len() / chunk.len();
        for (row, values) in self.replaced.iter().filter(|(row, _)| chunk.contains(row)) {
            let at = (row - chunk.start) * row_bytes;
            let row = self.encoded(values, values.len(), dtype)?;
            bytes[at..at + row_bytes].copy_from_slice(&row);
        }
        Ok(())
    }
}

/// The number of rows and their length; a vector is a column, so that heads of a bias move as those of a matrix.
fn matrix_of(shape: &[usize]) -> (usize, usize) {
    let rows = shape.first().copied().unwrap_or(1);
    (rows, shape.iter().skip(1).product())
}

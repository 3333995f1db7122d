//! Holds what the headers of both formats have in common: tensors by name, and the reasons why a header is refused.

use std::ops::Range;
use std::path::Path;

use lacuna_kernels::StorageDtype;

use crate::error::Error;

/// A reason why a header, in either format, is refused.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) tensor: Option<String>,
    pub(crate) reason: String,
}

impl Fault {
    pub(crate) fn file(reason: impl Into<String>) -> Self {
        Self { tensor: None, reason: reason.into() }
    }

    pub(crate) fn tensor(name: &str, reason: impl Into<String>) -> Self {
        Self { tensor: Some(name.to_owned()), reason: reason.into() }
    }

    pub(crate) fn in_file(self, file: &Path) -> Error {
        match self.tensor {
            Some(tensor) => Error::tensor(file, &tensor, self.reason),
            None => Error::file(file, self.reason),
        }
    }
}

/// One tensor of a file: its range is checked against the file and against its shape.
#[derive(Debug)]
pub(crate) struct HeaderEntry {
    pub(crate) name: String,
    /// The format of the values; `None` for a dtype that no weight has (integers, 8-bit floats).
    pub(crate) dtype: Option<StorageDtype>,
    pub(crate) dtype_name: &'static str,
    pub(crate) shape: Vec<usize>,
    /// The tensor's bytes, counted from the file's start.
    pub(crate) range: Range<usize>,
}

/// Checks that there are one to four dimensions, none of them empty, whose product does not wrap.
pub(crate) fn check_shape(dims: &[u64]) -> Result<Vec<usize>, String> {
    if dims.is_empty() || dims.len() > 4 {
        return Err(format!("has {} dimensions, expected 1..=4", dims.len()));
    }
    let shape: Option<Vec<usize>> = dims.iter().map(|&dim| usize::try_from(dim).ok()).collect();
    let elements = shape.as_ref().and_then(|shape| {
        shape.iter().try_fold(1usize, |n, &dim| n.checked_mul(dim)).filter(|&n| n > 0)
    });
    match (shape, elements) {
        (Some(shape), Some(_)) => Ok(shape),
        _ => Err(format!("shape {dims:?} is empty or too large")),
    }
}

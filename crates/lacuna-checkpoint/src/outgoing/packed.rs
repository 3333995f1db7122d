//! Turns packed formats into floats and back, one tensor at a time.

use candle_core::Tensor;
use lacuna_kernels::{Backend, Bytes, StorageDtype, WeightMatrix};

use crate::error::Result;

/// The f32 values of a packed tensor, whose last dimension is a whole number of blocks.
pub(crate) fn unpack(bytes: Vec<u8>, dtype: StorageDtype, shape: &[usize]) -> Result<Tensor> {
    let (rows, cols) = as_matrix(shape);
    let matrix = WeightMatrix::new(dtype, rows, cols, Bytes::from(bytes))?;
    Ok(matrix.to_tensor(Backend::cpu())?.reshape(shape)?)
}

/// Packs values, in rows of `cols`, in `dtype`; the error says which value does not fit.
pub(crate) fn pack(
    values: &[f32],
    cols: usize,
    dtype: StorageDtype,
) -> std::result::Result<Vec<u8>, String> {
    let matrix = WeightMatrix::quantize(values, values.len() / cols, cols, dtype);
    Ok(matrix.map_err(|e| e.to_string())?.as_bytes().to_vec())
}

/// A shape as that of a matrix, with all but the last dimension as rows.
fn as_matrix(shape: &[usize]) -> (usize, usize) {
    let cols = shape.last().copied().unwrap_or(1);
    (shape.iter().product::<usize>() / cols, cols)
}

//! Packed formats to floats and back, one tensor at a time.

use candle_core::Tensor;
use lacuna_kernels::{Bytes, WeightDtype, WeightMatrix};

use crate::dtype::StorageDtype;
use crate::error::Result;

/// The f32 values of a packed tensor, whose last dimension is a whole number of blocks.
pub(crate) fn unpack(bytes: Vec<u8>, dtype: WeightDtype, shape: &[usize]) -> Result<Tensor> {
    let (rows, cols) = as_matrix(shape);
    let matrix = WeightMatrix::new(dtype, rows, cols, Bytes::from(bytes))?;
    Ok(matrix.to_tensor()?.reshape(shape)?)
}

/// Values, in rows of `cols`, in `dtype`; the error says which value does not fit.
pub(crate) fn pack(
    values: &[f32],
    cols: usize,
    dtype: StorageDtype,
) -> std::result::Result<Vec<u8>, String> {
    let Some(packed) = weight_dtype(dtype) else {
        return Ok(values.iter().flat_map(|&x| f64::from(x).to_le_bytes()).collect());
    };
    let matrix = WeightMatrix::quantize(values, values.len() / cols, cols, packed);
    Ok(matrix.map_err(|e| e.to_string())?.as_bytes().to_vec())
}

/// The kernels' name of a format; `None`: f64, which they convert first.
pub(crate) const fn weight_dtype(dtype: StorageDtype) -> Option<WeightDtype> {
    Some(match dtype {
        StorageDtype::F64 => return None,
        StorageDtype::F32 => WeightDtype::F32,
        StorageDtype::F16 => WeightDtype::F16,
        StorageDtype::BF16 => WeightDtype::BF16,
        StorageDtype::Q4_0 => WeightDtype::Q4_0,
        StorageDtype::Q4_1 => WeightDtype::Q4_1,
        StorageDtype::Q5_0 => WeightDtype::Q5_0,
        StorageDtype::Q5_1 => WeightDtype::Q5_1,
        StorageDtype::Q8_0 => WeightDtype::Q8_0,
        StorageDtype::Q2_K => WeightDtype::Q2K,
        StorageDtype::Q3_K => WeightDtype::Q3K,
        StorageDtype::Q4_K => WeightDtype::Q4K,
        StorageDtype::Q5_K => WeightDtype::Q5K,
        StorageDtype::Q6_K => WeightDtype::Q6K,
    })
}

/// All but the last dimension as rows.
fn as_matrix(shape: &[usize]) -> (usize, usize) {
    let cols = shape.last().copied().unwrap_or(1);
    (shape.iter().product::<usize>() / cols, cols)
}

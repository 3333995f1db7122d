//! Packed formats to floats and back, one tensor at a time.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use lacuna_kernels::{Bytes, WeightDtype, WeightMatrix};

use super::StorageDtype;
use super::save::{Outgoing, le_bytes};
use crate::error::{ModelError, Result};

/// The f32 values of a packed tensor, whose last dimension is a whole number of blocks.
pub(super) fn unpack(bytes: Vec<u8>, dtype: WeightDtype, shape: &[usize]) -> Result<Tensor> {
    let (rows, cols) = as_matrix(shape);
    let matrix = WeightMatrix::new(dtype, rows, cols, Bytes::from(bytes))?;
    Ok(matrix.to_tensor()?.reshape(shape)?)
}

/// Reads a tensor and gives its bytes in `dtype`.
pub(crate) fn encode(file: &Path, tensor: Outgoing<'_>, dtype: StorageDtype) -> Result<Vec<u8>> {
    let (name, shape) = (tensor.name().to_owned(), tensor.shape().to_vec());
    let values = tensor.read()?;
    if values.dims() != shape {
        let reason = format!("was read as {:?}, announced as {shape:?}", values.dims());
        return Err(ModelError::tensor(file, &name, reason));
    }
    if !dtype.is_quantized() {
        let mut bytes = Vec::with_capacity(dtype.bytes_of(&shape).unwrap_or(0));
        le_bytes(&values, dtype, |chunk| {
            bytes.extend_from_slice(chunk);
            Ok(())
        })?;
        return Ok(bytes);
    }
    let values = values.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?;
    let packed = weight_dtype(dtype).expect("every packed format is one of a weight matrix");
    let (rows, cols) = as_matrix(&shape);
    let matrix = WeightMatrix::quantize(&values.to_vec1()?, rows, cols, packed);
    let matrix = matrix.map_err(|e| ModelError::tensor(file, &name, e.to_string()))?;
    Ok(matrix.as_bytes().to_vec())
}

/// The kernels' name of a format; `None`: f64, which they convert first.
pub(super) const fn weight_dtype(dtype: StorageDtype) -> Option<WeightDtype> {
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

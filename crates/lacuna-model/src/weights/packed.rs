//! Packed formats to floats and back, one tensor at a time.

use std::borrow::Cow;
use std::path::Path;

use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{DType, Device, Tensor};

use super::StorageDtype;
use super::save::{Outgoing, le_bytes};
use crate::error::{ModelError, Result};

/// The f32 values of validated packed bytes.
pub(super) fn unpack(bytes: Vec<u8>, dtype: GgmlDType, shape: &[usize]) -> Result<Tensor> {
    let storage = QStorage::from_data(Cow::Owned(bytes), &Device::Cpu, dtype)?;
    Ok(QTensor::new(storage, shape)?.dequantize(&Device::Cpu)?)
}

/// Reads a tensor and gives its bytes in `dtype`.
pub(crate) fn encode(file: &Path, tensor: Outgoing<'_>, dtype: StorageDtype) -> Result<Vec<u8>> {
    let (name, shape) = (tensor.name().to_owned(), tensor.shape().to_vec());
    let values = tensor.read()?;
    if values.dims() != shape {
        let reason = format!("was read as {:?}, announced as {shape:?}", values.dims());
        return Err(ModelError::tensor(file, &name, reason));
    }
    let Some(packed) = ggml(dtype) else {
        let mut bytes = Vec::with_capacity(dtype.bytes_of(&shape).unwrap_or(0));
        le_bytes(&values, dtype, |chunk| {
            bytes.extend_from_slice(chunk);
            Ok(())
        })?;
        return Ok(bytes);
    };
    let values = values.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
    Ok(QTensor::quantize(&values, packed)?.data()?.into_owned())
}

/// candle's name of a packed format.
pub(super) const fn ggml(dtype: StorageDtype) -> Option<GgmlDType> {
    Some(match dtype {
        StorageDtype::Q4_0 => GgmlDType::Q4_0,
        StorageDtype::Q4_1 => GgmlDType::Q4_1,
        StorageDtype::Q5_0 => GgmlDType::Q5_0,
        StorageDtype::Q5_1 => GgmlDType::Q5_1,
        StorageDtype::Q8_0 => GgmlDType::Q8_0,
        StorageDtype::Q2_K => GgmlDType::Q2K,
        StorageDtype::Q3_K => GgmlDType::Q3K,
        StorageDtype::Q4_K => GgmlDType::Q4K,
        StorageDtype::Q5_K => GgmlDType::Q5K,
        StorageDtype::Q6_K => GgmlDType::Q6K,
        _ => return None,
    })
}

//! Divides rows by their root mean square on Apple's GPU; gradients are the reference's.
//!
//! The kernel is Metal's language in `rms_norm.metal`, compiled by the driver when a device first needs it.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};

use candle_core::backend::BackendStorage;
use candle_core::metal_backend::{DeviceId, buffer_o};
use candle_core::{
    CpuStorage, CustomOp2, DType, Error, Layout, MetalDevice, MetalStorage, Result, Shape, Tensor,
    bail,
};
use candle_metal_kernels::metal::ComputePipeline;
use objc2_metal::MTLSize;

use super::reference;

/// The text of the kernels.
const SOURCE: &str = include_str!("rms_norm.metal");
/// The threads that share a row, as the text has them.
const THREADS: usize = 256;

/// See [`super::rms_norm`]. Dtypes without a kernel go to the reference.
///
/// # Errors
/// If the driver refuses the kernel, or there is no memory for the result.
pub(super) fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    if kernel(x.dtype()).is_none() || x.dtype() != weight.dtype() || x.elem_count() == 0 {
        return reference::rms_norm(x, weight, eps);
    }
    x.contiguous()?.apply_op2(&weight.contiguous()?, RmsNorm { eps })
}

/// The kernel for numbers of this type.
fn kernel(dtype: DType) -> Option<&'static str> {
    match dtype {
        DType::F32 => Some("rms_norm_f32"),
        DType::F16 => Some("rms_norm_f16"),
        DType::BF16 => Some("rms_norm_bf16"),
        _ => None,
    }
}

struct RmsNorm {
    eps: f64,
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        bail!("rms norm: this kernel is for tensors on Apple's GPU")
    }

    fn metal_fwd(
        &self,
        x: &MetalStorage,
        x_layout: &Layout,
        weight: &MetalStorage,
        weight_layout: &Layout,
    ) -> Result<(MetalStorage, Shape)> {
        let (device, dtype, shape) = (x.device(), x.dtype(), x_layout.shape());
        let h = weight_layout.shape().elem_count();
        let len = shape.elem_count();
        let y = device.new_buffer(len, dtype, self.name())?;
        {
            let commands = device.command_encoder()?;
            let encoder = commands.as_ref();
            encoder.set_compute_pipeline_state(&pipeline(device, dtype)?);
            let (x, weight) = (
                buffer_o(x.buffer(), x_layout, dtype),
                buffer_o(weight.buffer(), weight_layout, dtype),
            );
            encoder.set_input_buffer(0, Some(x.buffer), x.offset_in_bytes);
            encoder.set_input_buffer(1, Some(weight.buffer), weight.offset_in_bytes);
            encoder.set_output_buffer(2, Some(&y), 0);
            encoder.set_bytes(3, &u32::try_from(h).map_err(Error::wrap)?);
            encoder.set_bytes(4, &(self.eps as f32));
            let line = |width| MTLSize { width, height: 1, depth: 1 };
            encoder.dispatch_thread_groups(line(len / h), line(THREADS));
        }
        Ok((MetalStorage::new(y, device.clone(), len, dtype), shape.clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (dx, d_weight) = reference::rms_norm_backward(x, weight, self.eps, dy, None)?;
        Ok((Some(dx), Some(d_weight)))
    }
}

/// The compiled kernel for a type of numbers, kept for as long as the process lives.
fn pipeline(device: &MetalDevice, dtype: DType) -> Result<ComputePipeline> {
    static COMPILED: LazyLock<Mutex<HashMap<(DeviceId, DType), ComputePipeline>>> =
        LazyLock::new(Mutex::default);
    let mut compiled = COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(pipeline) = compiled.get(&(device.id(), dtype)) {
        return Ok(pipeline.clone());
    }
    let Some(name) = kernel(dtype) else { bail!("rms norm: no kernel for {dtype:?}") };
    let library = device.device().new_library_with_source(SOURCE, None).map_err(Error::wrap)?;
    let function = library.get_function(name, None).map_err(Error::wrap)?;
    let pipeline = device.device().new_compute_pipeline_state_with_function(&function);
    let pipeline = pipeline.map_err(Error::wrap)?;
    compiled.insert((device.id(), dtype), pipeline.clone());
    Ok(pipeline)
}

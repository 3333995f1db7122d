//! The dense layer: three products, none of which copies or transposes an operand.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};

use crate::cpu::{is_f32, slice, with};
use crate::gemm::{Matrix, product};
use crate::reference;

/// x · weightᵀ; differentiable in both. x: `[.., in]`, weight: `[out, in]` → `[.., out]`.
///
/// # Errors
/// If the inner dimensions differ.
pub fn linear(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let (rows, shape) = reference::check_linear(x, weight)?;
    if !is_f32(x) || !is_f32(weight) {
        return reference::linear(x, weight);
    }
    let (out, inner) = weight.dims2()?;
    x.contiguous()?.apply_op2(&weight.contiguous()?, Linear { rows, inner, out, shape })
}

/// y = x · wᵀ, dx = dy · w, dw = dyᵀ · x.
struct Linear {
    rows: usize,
    inner: usize,
    out: usize,
    shape: Vec<usize>,
}

impl CustomOp2 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let x = Matrix::new(slice(x, x_layout)?, self.rows, self.inner);
        let weight = Matrix::new(slice(weight, weight_layout)?, self.out, self.inner);
        let mut y = vec![0.; self.rows * self.out];
        product(x, weight.t(), &mut y, false);
        Ok((CpuStorage::F32(y), Shape::from(self.shape.as_slice())))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let dy = dy.contiguous()?;
        with(&dy, |dy| {
            let dy = Matrix::new(dy, self.rows, self.out);
            let gradient = |of: &Tensor, a: Matrix<'_>, b: &Tensor, rows: usize| {
                if !of.track_op() {
                    return Ok(None);
                }
                let mut gradient = vec![0.; of.elem_count()];
                with(b, |b| {
                    product(a, Matrix::new(b, rows, self.inner), &mut gradient, false);
                    Ok(())
                })?;
                Tensor::from_vec(gradient, of.shape(), of.device()).map(Some)
            };
            let dx = gradient(x, dy, weight, self.out)?;
            let dw = gradient(weight, dy.t(), x, self.rows)?;
            Ok((dx, dw))
        })
    }
}

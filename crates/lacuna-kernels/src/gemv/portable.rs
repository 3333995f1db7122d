//! The innermost loops as plain Rust over arrays of eight, which compilers turn into whatever
//! vectors the target has (SSE2, NEON).

use super::{LANES, Lanes, Leaves, Panel};
use crate::quant;

pub(super) const LEAVES: Leaves = Leaves {
    unpack: |dtype, src, dst| quant::dequantize(dtype, src, dst),
    multiply,
    direct: |_| None,
    fold,
    prefetch: |_| {},
};

/// # Safety
/// See [`Panel`]; the weights are f32, aligned.
unsafe fn multiply(panel: &Panel, sums: &mut [Lanes]) {
    let x_len = panel.x_rows * panel.len;
    // SAFETY: the panel's promise.
    let x = unsafe { std::slice::from_raw_parts(panel.x.cast::<[Lanes; 2]>(), x_len / 16) };
    for (x_row, sums) in sums.chunks_exact_mut(panel.w_rows).enumerate() {
        for (w_row, sum) in sums.iter_mut().enumerate() {
            let w = panel.w.wrapping_add(w_row * panel.w_stride).cast::<[Lanes; 2]>();
            // SAFETY: the panel's promise.
            let w = unsafe { std::slice::from_raw_parts(w, panel.len / 16) };
            let mut lanes = *sum;
            let x = x[x_row..].iter().step_by(panel.x_rows);
            for (w, x) in w.as_flattened().iter().zip(x.flatten()) {
                for lane in 0..LANES {
                    lanes[lane] = multiply_add(w[lane], x[lane], lanes[lane]);
                }
            }
            *sum = lanes;
        }
    }
}

/// Fused where the target always has the instruction; elsewhere it would be a library call.
fn multiply_add(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(any(target_arch = "aarch64", target_feature = "fma")) {
        a.mul_add(b, c)
    } else {
        a * b + c
    }
}

fn fold(sums: &[Lanes], out: &mut [f32]) {
    for (&[a, b, c, d, e, f, g, h], out) in sums.iter().zip(out) {
        *out = ((a + b) + (c + d)) + ((e + f) + (g + h));
    }
}

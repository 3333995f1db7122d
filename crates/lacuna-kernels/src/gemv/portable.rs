//! The innermost loops as plain Rust over arrays of eight, which compilers turn into whatever
//! vectors the target has (SSE2, NEON).

use super::{Leaves, Panel};
use crate::quant;

/// Running sums of one output.
type Eight = [f32; 8];

pub(super) const LEAVES: Leaves = Leaves {
    unpack: |dtype, src, dst| quant::dequantize(dtype, src, dst),
    multiply,
    direct: |_| None,
    prefetch: |_| {},
};

/// # Safety
/// See [`Panel`]; the weights are f32, aligned.
unsafe fn multiply(panel: &Panel) {
    let x_len = panel.x_rows * panel.len;
    // SAFETY: the panel's promise.
    let x = unsafe { std::slice::from_raw_parts(panel.x.cast::<[Eight; 2]>(), x_len / 16) };
    for x_row in 0..panel.x_rows {
        for w_row in 0..panel.w_rows {
            let w = panel.w.wrapping_add(w_row * panel.w_stride).cast::<[Eight; 2]>();
            // SAFETY: the panel's promise.
            let w = unsafe { std::slice::from_raw_parts(w, panel.len / 16) };
            let carried = panel.sums.carried.wrapping_add(x_row * panel.w_rows + w_row).cast();
            // SAFETY: sums are `[x_rows, w_rows]`, each of at least eight lanes.
            let mut lanes: Eight = if panel.sums.first { [0.0; 8] } else { unsafe { *carried } };
            let x = x[x_row..].iter().step_by(panel.x_rows);
            for (w, x) in w.as_flattened().iter().zip(x.flatten()) {
                for lane in 0..8 {
                    lanes[lane] = multiply_add(w[lane], x[lane], lanes[lane]);
                }
            }
            // SAFETY: as above; outputs are `[x_rows, w_rows]`, `stride` from row to row.
            unsafe {
                match panel.sums.out {
                    Some(out) => *out.add(x_row * panel.sums.stride + w_row) = fold(lanes),
                    None => *carried = lanes,
                }
            }
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

fn fold([a, b, c, d, e, f, g, h]: Eight) -> f32 {
    ((a + b) + (c + d)) + ((e + f) + (g + h))
}

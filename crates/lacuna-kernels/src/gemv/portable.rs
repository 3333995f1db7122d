//! The innermost loops as plain Rust over arrays of eight, which compilers turn into whatever
//! vectors the target has (SSE2, NEON).

use super::{LANES, Lanes, Leaves, Panel};
use crate::quant;

pub(super) const LEAVES: Leaves = Leaves {
    unpack: |dtype, src, dst| quant::dequantize(dtype, src, dst),
    multiply,
    fold,
    prefetch: |_| {},
    reads_bytes: false,
};

/// # Safety
/// See [`Panel`]; `w` is aligned.
unsafe fn multiply(panel: &Panel, sums: &mut [Lanes]) {
    for x_row in 0..panel.x_rows {
        // SAFETY: the panel's promise.
        let x =
            unsafe { std::slice::from_raw_parts(panel.x.add(x_row * panel.x_stride), panel.len) };
        for w_row in 0..panel.w_rows {
            // SAFETY: the panel's promise.
            let w = unsafe {
                std::slice::from_raw_parts(panel.w.add(w_row * panel.w_stride), panel.len)
            };
            let sum = &mut sums[x_row * panel.w_rows + w_row];
            let mut lanes = *sum;
            for (w, x) in w.as_chunks::<LANES>().0.iter().zip(x.as_chunks::<LANES>().0) {
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

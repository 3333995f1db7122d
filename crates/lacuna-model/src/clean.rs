//! The block-diffusion pass in two: clean windows once, noisy versions of them as often as needed.

use candle_core::Tensor;
use lacuna_kernels::{AttentionMask, Positions, Spans, attention_by_token};
use std::num::NonZeroUsize;

use crate::error::{Error, Result};
use crate::transformer::{Transformer, spans, window_positions};

/// Keys and values of clean windows, rotated: [`Transformer::read_clean`].
#[derive(Clone, Debug)]
pub struct CleanWindow {
    layers: Vec<(Tensor, Tensor)>,
    noisy_half: Spans,
    positions: Positions,
    batch: usize,
    window: usize,
}

impl Transformer {
    /// The clean half of the block-diffusion pass alone: its keys and values, *with* their gradient, for any
    /// number of noisy versions ([`denoise_against`](Self::denoise_against)).
    ///
    /// clean: [batch, window] u32.
    ///
    /// # Errors
    /// As [`denoise`](Self::denoise).
    pub fn read_clean(
        &self,
        clean: &Tensor,
        block_size: NonZeroUsize,
        documents: Option<&[Vec<usize>]>,
    ) -> Result<CleanWindow> {
        let (batch, window) = clean.dims2()?;
        self.check_positions(window)?;
        let positions = window_positions(batch, window, documents, 1);
        let causal = spans(AttentionMask::BlockCausal { block_size }, window, documents)?;
        let mask = AttentionMask::BlockDiffusion { block_size, seq_len: window };
        let noisy_half = spans(mask, 2 * window, documents)?.first_queries(window);
        let mut layers = Vec::with_capacity(self.weights.layers.len());
        // No row matters after the last layer's keys and values.
        let select = Some(self.select(&[], &[])?);
        self.run(&clean.flatten_all()?, select, |layer_idx, qkv, last| {
            let (q, k, v) = self.rotated(layer_idx, qkv, (batch, window, window), &positions)?;
            layers.push((k.clone(), v.clone()));
            let out = match last {
                true => q,
                false => attention_by_token(self.backend, &q, &k, &v, &causal, self.scale())?,
            };
            self.rows_first(&out)
        })?;
        Ok(CleanWindow { layers, noisy_half, positions, batch, window })
    }

    /// The noisy half of the block-diffusion pass against clean keys and values that are there already. The
    /// same as [`denoise`](Self::denoise); `noisy` may hold several versions of one clean window.
    ///
    /// # Errors
    /// Errors if `noisy` is not [n, window], with n the clean batch or, for a clean batch of 1, any number.
    pub fn denoise_against(
        &self,
        noisy: &Tensor,
        clean: &CleanWindow,
        rows: Option<&[u32]>,
    ) -> Result<Tensor> {
        let (batch, window) = noisy.dims2()?;
        if window != clean.window || (clean.batch != 1 && clean.batch != batch) {
            return Err(Error::Input(format!(
                "noisy tokens are [{batch}, {window}], the clean ones [{}, {}]",
                clean.batch, clean.window
            )));
        }
        let select = rows.map(|rows| self.select(rows, rows)).transpose()?;
        let dims = (batch, window, window);
        self.run(&noisy.flatten_all()?, select, |layer_idx, qkv, _| {
            let (q, k, v) = self.rotated(layer_idx, qkv, dims, &clean.positions)?;
            let (clean_k, clean_v) = &clean.layers[layer_idx];
            let joined = |noisy: &Tensor, clean: &Tensor| -> Result<Tensor> {
                let (_, len, heads, head_dim) = clean.dims4()?;
                let clean = clean.broadcast_as((batch, len, heads, head_dim))?;
                Ok(Tensor::cat(&[noisy, &clean.contiguous()?], 1)?)
            };
            let (k, v) = (joined(&k, clean_k)?, joined(&v, clean_v)?);
            let spans = &clean.noisy_half;
            self.rows_first(&attention_by_token(self.backend, &q, &k, &v, spans, self.scale())?)
        })
    }
}

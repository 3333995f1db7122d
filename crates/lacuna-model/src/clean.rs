//! Splits the block-diffusion pass in two: clean windows are read once, noisy versions of them as often as needed.

use candle_core::Tensor;
use lacuna_kernels::{AttentionMask, KeyRanges};
use std::num::NonZeroUsize;
use std::ops::Range;

use crate::batch::{Batch, Sequence};
use crate::error::{Error, Result};
use crate::keys::Keys;
use crate::rows::{Plan, Purpose};
use crate::transformer::Transformer;

/// The keys, rotated by their positions, and the values of clean windows, as [`Transformer::read_clean`] gives them.
#[derive(Clone, Debug)]
pub struct CleanKeys {
    layers: Vec<(Tensor, Tensor)>,
    windows: Vec<CleanWindow>,
}

#[derive(Clone, Debug)]
struct CleanWindow {
    rows: Range<usize>,
    positions: Vec<u32>,
    /// The keys that a noisy version sees: its own, and behind them those of the window.
    noisy: KeyRanges,
}

impl CleanKeys {
    fn window(&self, window: usize) -> Result<&CleanWindow> {
        self.windows.get(window).ok_or_else(|| {
            Error::Input(format!("clean window {window} of {}: no such window", self.windows.len()))
        })
    }

    /// The rows of a window, their positions, and the keys that a noisy version of it sees.
    pub(crate) fn of_window(&self, window: usize) -> Result<(Range<usize>, &[u32], KeyRanges)> {
        let CleanWindow { rows, positions, noisy } = self.window(window)?;
        Ok((rows.clone(), positions, noisy.clone()))
    }

    /// The keys and values of layer `i` as a pass attends to them: those of each of its parts, then those of the part's
    /// window.
    pub(crate) fn behind(
        &self,
        i: usize,
        plan: &Plan,
        own: [&Tensor; 2],
    ) -> Result<(Tensor, Tensor)> {
        let Some((clean_k, clean_v)) = self.layers.get(i) else {
            return Err(Error::Input("the clean keys are of a model with fewer layers".into()));
        };
        let joined = |own: &Tensor, clean: &Tensor| -> Result<Tensor> {
            let mut pieces = Vec::with_capacity(2 * plan.parts.len());
            for part in plan.parts.iter() {
                pieces.push(own.narrow(0, part.rows.start, part.rows.len())?);
                pieces.push(clean.narrow(0, part.clean.start, part.clean.len())?);
            }
            Ok(Tensor::cat(&pieces, 0)?)
        };
        Ok((joined(own[0], clean_k)?, joined(own[1], clean_v)?))
    }
}

impl Transformer {
    /// Computes the clean half of the block-diffusion pass alone: the keys and values of whole windows, *with* their
    /// gradient, for any number of noisy versions ([`Batch::push_noisy_against`]).
    ///
    /// # Errors
    /// As [`Batch::push`], and if a window exceeds the model's positions.
    pub fn read_clean(
        &self,
        windows: &[Sequence<'_>],
        block_size: NonZeroUsize,
    ) -> Result<CleanKeys> {
        let mut batch = Batch::default();
        let mut read = Vec::with_capacity(windows.len());
        for window in windows {
            let (first, n) = (batch.tokens().len(), window.tokens.len());
            // No row matters after the last layer's keys and values.
            let unread = Sequence { wanted: Some(&[]), ..*window };
            batch.push(unread, AttentionMask::BlockCausal { block_size })?;
            let mask = AttentionMask::BlockDiffusion { block_size, seq_len: n };
            let both = match window.documents {
                Some(documents) => KeyRanges::documents(mask, documents)?,
                None => KeyRanges::new(mask, 2 * n, 2 * n, 0),
            };
            read.push(CleanWindow {
                rows: first..first + n,
                positions: batch.positions()[first..].to_vec(),
                noisy: both.first_queries(n),
            });
        }
        let mut layers = Vec::with_capacity(self.config.num_layers);
        self.walk(&batch, Purpose::Read, Keys::Collect(&mut layers))?;
        Ok(CleanKeys { layers, windows: read })
    }
}

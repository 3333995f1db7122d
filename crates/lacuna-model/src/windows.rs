//! What a training pass reads: tokens, who sees whom, which rows are wanted.

use candle_core::Tensor;
use lacuna_kernels::{AttentionMask, Positions, Spans};
use std::num::NonZeroUsize;

use crate::error::{Error, Result};
use crate::transformer::{Transformer, spans, window_positions};

/// A batch of windows laid out for one pass, and the rows of it that are wanted.
///
/// Made by [`Transformer::windows`] or [`Transformer::noisy_and_clean`]; read by [`Transformer::forward`],
/// which records a graph, or [`Transformer::record`], whose backward pass is written out.
#[derive(Clone, Debug)]
pub struct Windows {
    /// The tokens of all windows end to end: [batch · len].
    pub(crate) tokens: Tensor,
    pub(crate) batch: usize,
    /// Positions of a window.
    pub(crate) len: usize,
    pub(crate) positions: Positions,
    pub(crate) spans: Spans,
    /// The queries that still matter in the last layer: the first so many of each window.
    pub(crate) last: (usize, Spans),
    /// The wanted rows: their indices among the inputs, and among the last layer's queries.
    pub(crate) select: Option<(Tensor, Tensor)>,
}

impl Windows {
    /// Queries of each window in a layer, and what they see.
    pub(crate) fn queries(&self, last: bool) -> (usize, &Spans) {
        if last { (self.last.0, &self.last.1) } else { (self.len, &self.spans) }
    }

    /// Whether no row is wanted at all.
    pub(crate) fn wants_nothing(&self) -> bool {
        self.select.as_ref().is_some_and(|(rows, _)| rows.elem_count() == 0)
    }
}

impl Transformer {
    /// Windows under any mask on one copy of the tokens (causal, full, block-causal).
    ///
    /// tokens: [batch, window] u32; `rows`: wanted positions of the flattened batch, or all. `documents`: per
    /// window, the lengths of its documents; positions restart in each and nothing is seen across (default:
    /// one document).
    ///
    /// # Errors
    /// Errors if shapes disagree or a window exceeds the model's positions.
    pub fn windows(
        &self,
        tokens: &Tensor,
        mask: AttentionMask,
        documents: Option<&[Vec<usize>]>,
        rows: Option<&[u32]>,
    ) -> Result<Windows> {
        let (batch, len) = tokens.dims2()?;
        self.check_positions(len)?;
        let spans = spans(mask, len, documents)?;
        Ok(Windows {
            tokens: tokens.flatten_all()?,
            batch,
            len,
            positions: window_positions(batch, len, documents, 1),
            last: (len, spans.clone()),
            spans,
            select: rows.map(|rows| self.select(rows, rows)).transpose()?,
        })
    }

    /// The block-diffusion training pass: [noisy ; clean], 2·window positions, position ids restarting in
    /// each half (paper §2). In the last layer the clean half is only keys and values, unless a row of it is
    /// wanted, and only wanted rows pass through its output projection and feed-forward.
    ///
    /// noisy, clean: [batch, window] u32; `rows` of either half, counted in the flattened [batch · 2·window].
    ///
    /// # Errors
    /// Errors if shapes disagree or a window exceeds the model's positions.
    pub fn noisy_and_clean(
        &self,
        noisy: &Tensor,
        clean: &Tensor,
        block_size: NonZeroUsize,
        documents: Option<&[Vec<usize>]>,
        rows: &[u32],
    ) -> Result<Windows> {
        let (batch, window) = noisy.dims2()?;
        if clean.dims() != noisy.dims() {
            return Err(Error::Input(format!(
                "noisy tokens are {:?}, clean ones {:?}: they must agree",
                noisy.dims(),
                clean.dims()
            )));
        }
        self.check_positions(window)?;
        let mask = AttentionMask::BlockDiffusion { block_size, seq_len: window };
        let both = spans(mask, 2 * window, documents)?;
        let width = window as u32;
        let only_noisy = rows.iter().all(|r| r % (2 * width) < width);
        let in_last: Vec<u32> = match only_noisy {
            true => rows.iter().map(|r| r - r / (2 * width) * width).collect(),
            false => rows.to_vec(),
        };
        Ok(Windows {
            tokens: Tensor::cat(&[noisy, clean], 1)?.flatten_all()?,
            batch,
            len: 2 * window,
            positions: window_positions(batch, window, documents, 2),
            last: match only_noisy {
                true => (window, both.first_queries(window)),
                false => (2 * window, both.clone()),
            },
            spans: both,
            select: Some(self.select(rows, &in_last)?),
        })
    }

    /// Hidden states after the final norm, [rows, hidden], with a graph for candle's `backward`.
    ///
    /// # Errors
    /// Errors if a tensor operation fails.
    pub fn forward(&self, windows: &Windows) -> Result<Tensor> {
        self.run(&windows.tokens, windows.select.clone(), |layer, qkv, last| {
            let (n_query, spans) = windows.queries(last);
            let dims = (windows.batch, n_query, windows.len);
            self.attend_windows(layer, qkv, dims, &windows.positions, spans)
        })
    }
}

//! The whole forward pass: embedding, layers, final norm, head.
//!
//! Every pass works on `rows`, the tokens of all sequences laid end to end ([rows, hidden]); only attention
//! knows which sequence a row belongs to. So one function serves training windows, cached decoding and a
//! batch of ragged sequences alike, and a row's result never depends on its neighbours in the batch.

use candle_core::{DType, Device, Tensor, Var};
use lacuna_checkpoint::{Config, MappedFile, Mode, Parameters};
use lacuna_kernels::{
    AttentionMask, Backend, Positions, Rope, Spans, add_rms_norm, attention_by_token, embedding,
    rms_norm, rope_by_token, swiglu,
};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};
use crate::weight::{Weight, project, project_all};

/// A Llama-shaped decoder with every attention mask that block diffusion needs.
#[derive(Clone, Debug)]
pub struct Transformer {
    pub(crate) config: Config,
    pub(crate) weights: Parameters<Weight>,
    /// What is trained, and the weights are; `None` in a model opened for inference.
    pub(crate) parameters: Option<Parameters<Var>>,
    /// What computes its operations.
    pub(crate) backend: Backend,
    pub(crate) dtype: DType,
    pub(crate) rope: Rope,
    pub(crate) device: Device,
    /// Files that weights are read from while it runs.
    pub(crate) files: Vec<Arc<MappedFile>>,
    /// Layers computed so far, by all passes.
    pub(crate) layers_done: Arc<AtomicU64>,
}

impl Transformer {
    /// What the model is.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// How many layers all passes together have computed so far. Another thread that reads it now and then knows
    /// how far a long pass is.
    pub fn layers_done(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.layers_done)
    }

    /// What computes the model's operations: the best for its device, unless
    /// [`with_backend`](Self::with_backend) has said otherwise.
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// The same model on another backend, sharing weights and parameters.
    #[must_use]
    pub fn with_backend(self, backend: Backend) -> Self {
        Self { backend, ..self }
    }

    /// Declares what the weights have been trained for; the next checkpoint will say so.
    pub fn set_mode(&mut self, mode: Mode) {
        self.config.mode = mode;
    }

    /// Whether the logits at a position predict the next position's token even when it is masked, as an AR
    /// head's do: `logit_shift` in `config.json`, off in the released models.
    pub fn logit_shift(&self) -> bool {
        self.config.extra.get("logit_shift").and_then(|v| v.as_bool()).unwrap_or(false)
    }

    /// Declares the head shifted or not.
    pub fn set_logit_shift(&mut self, shifted: bool) {
        if shifted {
            self.config.extra.insert("logit_shift".into(), true.into());
        } else {
            self.config.extra.remove("logit_shift");
        }
    }

    /// The element type of activations.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Where the model lives.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The trainable parameters.
    ///
    /// # Errors
    /// Errors if the model was opened for inference.
    pub fn parameters(&self) -> Result<&Parameters<Var>> {
        self.parameters.as_ref().ok_or(Error::NotTrainable)
    }

    /// The matrix that makes the logits, tied or not.
    fn logit_weight(&self) -> &Weight {
        self.weights.head.as_ref().unwrap_or(&self.weights.embed)
    }

    /// The output head as a tensor [vocab, hidden], tied or not.
    ///
    /// # Errors
    /// Errors if a stored head can't be dequantized.
    pub fn head(&self) -> Result<Tensor> {
        match self.logit_weight() {
            Weight::Tensor(head) => Ok(head.clone()),
            Weight::Stored(head) => Ok(head.to_tensor(self.backend)?),
        }
    }

    /// Logits [rows, vocab] in f32 of hidden rows [rows, hidden].
    ///
    /// # Errors
    /// Errors on a shape that is not the model's.
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        self.logit_weight().product(self.backend, hidden)
    }

    /// −log p(target) of hidden rows [rows, hidden], in nats, without a gradient.
    ///
    /// # Errors
    /// Errors if shapes disagree or a target is outside the vocabulary.
    pub fn token_nll(&self, hidden: &Tensor, targets: &[u32]) -> Result<Vec<f32>> {
        const ROWS_AT_ONCE: usize = 256;
        let hidden = hidden.detach();
        if let Weight::Tensor(head) = self.logit_weight() {
            return Ok(lacuna_kernels::token_nll(self.backend, &hidden, &head.detach(), targets)?);
        }
        let mut nll = Vec::with_capacity(targets.len());
        for (i, targets) in targets.chunks(ROWS_AT_ONCE).enumerate() {
            let rows = hidden.narrow(0, i * ROWS_AT_ONCE, targets.len())?;
            for (row, target) in self.logits(&rows)?.to_vec2::<f32>()?.iter().zip(targets) {
                let Some(own) = row.get(*target as usize) else {
                    return Err(Error::Input(format!("token {target} is outside the vocabulary")));
                };
                let highest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let sum: f64 = row.iter().map(|l| f64::from(l - highest).exp()).sum();
                nll.push((sum.ln() + f64::from(highest - own)) as f32);
            }
        }
        Ok(nll)
    }

    /// One pass over whole windows under any mask on one copy of the tokens (causal, full, block-causal).
    ///
    /// tokens: [batch, window] u32; `rows`: wanted positions of the flattened batch, or all. Gives hidden
    /// states after the final norm, [rows, hidden]. `documents`: per window, the lengths of its documents;
    /// positions restart in each and nothing is seen across (default: one document).
    ///
    /// # Errors
    /// Errors if shapes disagree or a window exceeds the model's positions.
    pub fn hidden(
        &self,
        tokens: &Tensor,
        mask: AttentionMask,
        documents: Option<&[Vec<usize>]>,
        rows: Option<&[u32]>,
    ) -> Result<Tensor> {
        self.forward(&self.windows(tokens, mask, documents, rows)?)
    }

    /// Next-token pass: [`hidden`](Self::hidden) under the causal mask.
    ///
    /// # Errors
    /// As [`hidden`](Self::hidden).
    pub fn causal(
        &self,
        tokens: &Tensor,
        documents: Option<&[Vec<usize>]>,
        rows: Option<&[u32]>,
    ) -> Result<Tensor> {
        self.hidden(tokens, AttentionMask::Causal, documents, rows)
    }

    /// The block-diffusion training pass: [noisy ; clean], 2·window positions, position ids restarting in
    /// each half (paper §2). Gives the noisy half's hidden states, or those of `rows` of it, counted in the
    /// flattened [batch · window].
    ///
    /// noisy, clean: [batch, window] u32. In the last layer the clean half is only keys and values, and only
    /// wanted rows pass through its output projection and feed-forward.
    ///
    /// # Errors
    /// Errors if shapes disagree or a window exceeds the model's positions.
    pub fn denoise(
        &self,
        noisy: &Tensor,
        clean: &Tensor,
        block_size: NonZeroUsize,
        documents: Option<&[Vec<usize>]>,
        rows: Option<&[u32]>,
    ) -> Result<Tensor> {
        let (batch, window) = noisy.dims2()?;
        let every: Vec<u32>;
        let rows = match rows {
            Some(rows) => rows,
            None => {
                every = (0..(batch * window) as u32).collect();
                &every
            }
        };
        let in_halves: Vec<u32> =
            rows.iter().map(|r| r + r / window as u32 * window as u32).collect();
        self.denoise_halves(noisy, clean, block_size, documents, &in_halves)
    }

    /// [`denoise`](Self::denoise) for rows of either half, counted in the flattened [batch · 2·window]: a
    /// window's noisy half, then its clean one. A shifted head reads a block's first token off the clean row
    /// before it.
    ///
    /// # Errors
    /// As [`denoise`](Self::denoise).
    pub fn denoise_halves(
        &self,
        noisy: &Tensor,
        clean: &Tensor,
        block_size: NonZeroUsize,
        documents: Option<&[Vec<usize>]>,
        rows: &[u32],
    ) -> Result<Tensor> {
        self.forward(&self.noisy_and_clean(noisy, clean, block_size, documents, rows)?)
    }

    /// The layers. `attend` gets a layer's index, its queries, keys and values ([rows, heads · head_dim])
    /// and whether it is the last. `select` holds the rows that matter from the last attention on: their
    /// indices among the inputs and among the rows that `attend` returned last.
    pub(crate) fn run(
        &self,
        tokens: &Tensor,
        select: Option<(Tensor, Tensor)>,
        mut attend: impl FnMut(usize, [Tensor; 3], bool) -> Result<Tensor>,
    ) -> Result<Tensor> {
        // A file cut short since is an error; cut within the pass it ends the process (see `MappedFile`).
        let whole = self.files.iter().try_for_each(|file| file.check_length());
        whole.map_err(lacuna_checkpoint::Error::from)?;
        let eps = self.config.rms_norm_eps;
        let mut x = self.embed_rows(tokens)?;
        // What the last sublayer adds to the residual stream: summed where the next norm reads it.
        let mut delta: Option<Tensor> = None;
        for (i, layer) in self.weights.layers.iter().enumerate() {
            let last = i + 1 == self.weights.layers.len();
            // What is not needed any more goes at once: of a long prompt it is much.
            let (stream, normed) =
                add_norm(self.backend, &x, delta.take().as_ref(), layer.input_norm.tensor()?, eps)?;
            x = stream;
            let qkv = project_all(self.backend, [&layer.q, &layer.k, &layer.v], &normed)?;
            drop(normed);
            let mut attended = attend(i, qkv, last)?;
            if last && let Some((in_x, in_attended)) = &select {
                if in_x.elem_count() == 0 {
                    self.layers_done.fetch_add(1, Ordering::Relaxed);
                    return Ok(Tensor::zeros((0, self.config.hidden_size), x.dtype(), x.device())?);
                }
                x = x.index_select(in_x, 0)?;
                attended = attended.index_select(in_attended, 0)?;
            }
            let projected = project(self.backend, &layer.o, &attended)?;
            drop(attended);
            let norm = layer.mlp_norm.tensor()?;
            let (stream, normed) = add_norm(self.backend, &x, Some(&projected), norm, eps)?;
            x = stream;
            drop(projected);
            let [gate, up] = project_all(self.backend, [&layer.gate, &layer.up], &normed)?;
            drop(normed);
            let gated = swiglu(self.backend, &gate, &up)?;
            drop((gate, up));
            delta = Some(project(self.backend, &layer.down, &gated)?);
            self.layers_done.fetch_add(1, Ordering::Relaxed);
        }
        Ok(add_norm(self.backend, &x, delta.as_ref(), self.weights.norm.tensor()?, eps)?.1)
    }

    /// ids: [rows] to [rows, hidden].
    fn embed_rows(&self, ids: &Tensor) -> Result<Tensor> {
        match &self.weights.embed {
            Weight::Tensor(table) => Ok(embedding(self.backend, table, ids)?),
            Weight::Stored(table) => Ok(table.rows_f32(self.backend, &ids.to_vec1::<u32>()?)?),
        }
    }

    /// Attention inside windows: `(batch, n_query, n_key)` per window; queries are its first `n_query` rows.
    pub(crate) fn attend_windows(
        &self,
        layer_idx: usize,
        qkv: [Tensor; 3],
        dims: (usize, usize, usize),
        positions: &Positions,
        spans: &Spans,
    ) -> Result<Tensor> {
        let (q, k, v) = self.rotated(layer_idx, qkv, dims, positions)?;
        self.rows_first(&attention_by_token(self.backend, &q, &k, &v, spans, self.scale())?)
    }

    /// [rows, heads · head_dim] each to [batch, len, heads, head_dim], queries and keys normed (if the model
    /// does) and rotated, queries cut to the first `n_query` of each window.
    pub(crate) fn rotated(
        &self,
        layer_idx: usize,
        [q, k, v]: [Tensor; 3],
        (batch, n_query, n_key): (usize, usize, usize),
        positions: &Positions,
    ) -> Result<(Tensor, Tensor, Tensor)> {
        let of_queries = first_positions(positions, n_query, n_key);
        let Config { num_heads, num_kv_heads, head_dim, rms_norm_eps, .. } = self.config;
        let mut q = q.reshape((batch, n_key, num_heads, head_dim))?.narrow(1, 0, n_query)?;
        let mut k = k.reshape((batch, n_key, num_kv_heads, head_dim))?;
        let v = v.reshape((batch, n_key, num_kv_heads, head_dim))?;
        let layer = &self.weights.layers[layer_idx];
        if let Some(norm) = &layer.q_norm {
            q = rms_norm(self.backend, &q.contiguous()?, norm.tensor()?, rms_norm_eps)?;
        }
        if let Some(norm) = &layer.k_norm {
            k = rms_norm(self.backend, &k, norm.tensor()?, rms_norm_eps)?;
        }
        let q = rope_by_token(self.backend, &q, &self.rope, &of_queries)?;
        let k = rope_by_token(self.backend, &k, &self.rope, positions)?;
        Ok((q, k, v))
    }

    /// [batch, len, heads, head_dim] to [batch · len, heads · head_dim].
    pub(crate) fn rows_first(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, len, heads, head_dim) = x.dims4()?;
        Ok(x.reshape((batch * len, heads * head_dim))?)
    }

    pub(crate) fn scale(&self) -> f64 {
        1.0 / (self.config.head_dim as f64).sqrt()
    }

    pub(crate) fn select(&self, in_x: &[u32], in_attended: &[u32]) -> Result<(Tensor, Tensor)> {
        Ok((Tensor::new(in_x, &self.device)?, Tensor::new(in_attended, &self.device)?))
    }

    pub(crate) fn check_positions(&self, len: usize) -> Result<()> {
        let max = self.config.max_position_embeddings;
        if len > max {
            return Err(Error::TooLong { positions: len, most: max });
        }
        Ok(())
    }
}

/// The positions of the first `n_query` of each window's `len` rows.
pub(crate) fn first_positions(positions: &Positions, n_query: usize, len: usize) -> Positions {
    match positions {
        Positions::Explicit(rows) if n_query < len => {
            Positions::Explicit(rows.iter().map(|row| row[..n_query].to_vec()).collect())
        }
        all => all.clone(),
    }
}

/// x + delta and its norm, with a graph where a gradient is wanted.
fn add_norm(
    backend: Backend,
    x: &Tensor,
    delta: Option<&Tensor>,
    weight: &Tensor,
    eps: f64,
) -> Result<(Tensor, Tensor)> {
    let tracked = weight.track_op() || x.track_op() || delta.is_some_and(Tensor::track_op);
    match delta {
        Some(delta) if !tracked => Ok(add_rms_norm(backend, x, delta, weight, eps)?),
        _ => {
            let sum = delta.map_or(Ok(x.clone()), |delta| x + delta)?;
            let normed = rms_norm(backend, &sum, weight, eps)?;
            Ok((sum, normed))
        }
    }
}

/// Visibility in a pass over `len` positions.
pub(crate) fn spans(
    mask: AttentionMask,
    len: usize,
    documents: Option<&[Vec<usize>]>,
) -> Result<Spans> {
    match documents {
        None => Ok(Spans::new(mask, len, len, 0)),
        Some(documents) => Ok(Spans::documents(mask, documents)?),
    }
}

/// Position ids of `halves` copies of a window; they restart in every document.
pub(crate) fn window_positions(
    batch: usize,
    window: usize,
    documents: Option<&[Vec<usize>]>,
    halves: usize,
) -> Positions {
    let one_document = [vec![window]];
    let rows = match documents {
        Some(documents) => documents.iter().collect::<Vec<_>>(),
        None => vec![&one_document[0]; batch],
    };
    let per_row = |lengths: &Vec<usize>| -> Vec<u32> {
        let half = lengths.iter().flat_map(|n| 0..*n as u32);
        (0..halves).flat_map(|_| half.clone()).collect()
    };
    Positions::Explicit(rows.into_iter().map(per_row).collect())
}

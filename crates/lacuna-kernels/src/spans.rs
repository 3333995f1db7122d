//! Key ranges for every row of a rectangular batch: what callers had before [`Segments`](crate::Segments).

use std::num::NonZeroUsize;

use candle_core::{Result, Tensor, bail};

use crate::{AttentionMask, KeyRanges, Segments};

/// Which keys each query sees, for every batch row.
#[derive(Clone, Debug)]
pub struct Spans {
    /// One for each batch row, or a single one that all rows share.
    rows: Vec<KeyRanges>,
}

impl Spans {
    /// [`KeyRanges::new`] for all batch rows.
    ///
    /// # Panics
    /// If `prefix > kv_len`.
    pub fn new(mask: AttentionMask, q_len: usize, kv_len: usize, prefix: usize) -> Self {
        Self { rows: vec![KeyRanges::new(mask, q_len, kv_len, prefix)] }
    }

    /// [`KeyRanges::documents`] for each batch row.
    ///
    /// # Errors
    /// If there is no row, or the rows differ in length, or a sum is not `seq_len`.
    pub fn documents(mask: AttentionMask, documents: &[Vec<usize>]) -> Result<Self> {
        let rows = documents.iter().map(|lengths| KeyRanges::documents(mask, lengths));
        let rows = rows.collect::<Result<Vec<_>>>()?;
        let Some(first) = rows.first() else {
            bail!("spans: no rows of documents were given, expected one per batch row")
        };
        let window = first.q_len();
        if let Some(at) = rows.iter().position(|row| row.q_len() != window) {
            let sum = rows[at].q_len();
            bail!("spans: documents of row {at} sum to {sum}, expected {window} as in row 0")
        }
        Ok(Self { rows })
    }

    /// [`KeyRanges::speculative`] for all batch rows.
    pub fn speculative(
        block_size: NonZeroUsize,
        queued: usize,
        draft: usize,
        prefix: usize,
    ) -> Self {
        Self { rows: vec![KeyRanges::speculative(block_size, queued, draft, prefix)] }
    }

    /// The same for the first `n` queries alone.
    ///
    /// # Panics
    /// If there are fewer than `n` queries.
    pub fn first_queries(&self, n: usize) -> Self {
        Self { rows: self.rows.iter().map(|row| row.first_queries(n)).collect() }
    }

    /// The same for the listed queries of each batch row; shorter lists are filled up with queries
    /// that see nothing.
    ///
    /// # Panics
    /// If a query does not exist.
    pub fn select_queries(&self, queries: &[Vec<usize>]) -> Self {
        let q_len = queries.iter().map(Vec::len).max().unwrap_or(0);
        let row = |row: usize| if self.rows.len() == 1 { &self.rows[0] } else { &self.rows[row] };
        let select = |(at, queries): (usize, &Vec<usize>)| row(at).selected(queries, q_len);
        Self { rows: queries.iter().enumerate().map(select).collect() }
    }

    /// Number of queries.
    pub fn q_len(&self) -> usize {
        self.rows[0].q_len()
    }

    /// Number of keys.
    pub fn kv_len(&self) -> usize {
        self.rows[0].kv_len()
    }

    /// Visible (query, key) pairs, summed over the listed rows.
    pub fn pairs(&self) -> usize {
        self.rows.iter().map(KeyRanges::pairs).sum()
    }

    /// As segments laid end to end, for tensors of `[batch, len, heads, d]`.
    pub(crate) fn segments(&self, q: &Tensor, k: &Tensor) -> Result<Segments> {
        let (batch, q_len, ..) = q.dims4()?;
        let (_, kv_len, ..) = k.dims4()?;
        if (self.q_len(), self.kv_len()) != (q_len, kv_len) {
            let (q, kv) = (self.q_len(), self.kv_len());
            bail!("attention: q has {q_len} rows and k {kv_len}, expected {q} and {kv} as in spans")
        }
        match self.rows.len() {
            1 => Ok(Segments::end_to_end(vec![self.rows[0].clone(); batch])),
            rows if rows == batch => Ok(Segments::end_to_end(self.rows.clone())),
            rows => bail!("attention: batch is {batch}, expected {rows} as in spans"),
        }
    }
}

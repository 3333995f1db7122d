//! Runs passes without a written-out gradient: embedding, layers, final norm.
//!
//! Every pass works on the rows of a [`Batch`], the tokens of all sequences laid end to end ([rows, hidden]); only
//! attention knows which sequence a row belongs to. So one walk serves training windows, cached decoding and a batch of
//! ragged sequences alike, and a row's result never depends on its neighbours in the batch.

use candle_core::Tensor;
use lacuna_kernels::embedding;
use std::sync::atomic::Ordering;

use crate::batch::Batch;
use crate::block::{Pass, Stream};
use crate::cache::KvCache;
use crate::clean::CleanKeys;
use crate::error::{Error, Result};
use crate::keys::Keys;
use crate::rows::{Plan, Purpose};
use crate::transformer::Transformer;
use crate::weight::Weight;

impl Transformer {
    /// Hidden states after the final norm of the wanted rows, [wanted, hidden], with a graph for candle's `backward`
    /// where the model can be trained.
    ///
    /// # Errors
    /// Errors if a position is beyond the model's or a tensor operation fails.
    pub fn forward(&self, batch: &Batch) -> Result<Tensor> {
        self.walk(batch, Purpose::Read, Keys::Own)
    }

    /// [`forward`](Self::forward) behind caches, one for each sequence of the batch in its order. New keys and values lie
    /// behind the committed ones until [`KvCache::keep`] takes them or the next pass overwrites them.
    ///
    /// # Errors
    /// Errors if a sequence outgrows the model's positions, or a cache does not hold what the sequence says is past.
    pub fn forward_cached(&self, batch: &Batch, caches: &mut [&mut KvCache]) -> Result<Tensor> {
        if caches.len() != batch.parts().len() {
            let (found, expected) = (caches.len(), batch.parts().len());
            return Err(Error::Input(format!("{found} caches for {expected} sequences")));
        }
        self.check_positions(batch)?;
        for (cache, part) in caches.iter_mut().zip(batch.parts()) {
            if cache.len() != part.past {
                let (held, past) = (cache.len(), part.past);
                let reason = format!("a cache holds {held} tokens, expected {past}");
                return Err(Error::Input(reason));
            }
            cache.reserve(part.past + part.rows.len())?;
        }
        let caches = caches.iter_mut().map(|cache| &mut **cache).collect();
        self.walk(batch, Purpose::Decode, Keys::Caches(caches))
    }

    /// [`forward`](Self::forward) of noisy windows against clean keys and values that are there already
    /// ([`Batch::push_noisy_against`]): the same as of [noisy ; clean].
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn forward_against(&self, batch: &Batch, clean: &CleanKeys) -> Result<Tensor> {
        self.walk(batch, Purpose::Read, Keys::Clean(clean))
    }

    pub(crate) fn walk(&self, batch: &Batch, purpose: Purpose, keys: Keys<'_>) -> Result<Tensor> {
        // A file that was cut short since it was opened is an error here; one that is cut during the pass ends the
        // process (see `MappedFile`).
        let whole = self.files.iter().try_for_each(|file| file.check_length());
        whole.map_err(lacuna_checkpoint::Error::from)?;
        self.check_positions(batch)?;
        let plan = Plan::new(batch, purpose, self)?;
        let mut pass = Pass {
            model: self,
            weights: &self.weights,
            plan: &plan,
            keys,
            saves: false,
            dropout: None,
        };
        let mut x = Stream::new(self.embed(&plan.tokens)?);
        for i in 0..plan.layers.len() {
            if i + 1 == plan.layers.len() && plan.ends_with_keys() {
                pass.keys_alone(i, x)?;
                self.layers_done.fetch_add(1, Ordering::Relaxed);
                return Ok(Tensor::zeros((0, self.config.hidden_size), self.dtype, &self.device)?);
            }
            x = pass.block(i, x)?.0;
            self.layers_done.fetch_add(1, Ordering::Relaxed);
        }
        x.norm(self, &self.weights.norm)
    }

    /// The embeddings of tokens, [tokens, hidden].
    fn embed(&self, tokens: &[u32]) -> Result<Tensor> {
        match &self.weights.embed {
            Weight::Tensor(table) => {
                Ok(embedding(self.backend, table, &Tensor::new(tokens, &self.device)?)?)
            }
            Weight::Stored(table) => Ok(table.rows_f32(self.backend, tokens)?),
        }
    }

    pub(crate) fn check_positions(&self, batch: &Batch) -> Result<()> {
        let positions = batch.positions().iter().max().map_or(0, |last| *last as usize + 1);
        match self.config.max_position_embeddings {
            most if positions > most => Err(Error::TooLong { positions, most }),
            _ => Ok(()),
        }
    }
}

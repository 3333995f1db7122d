//! Computes the passes of a session: by tensors, or by planned launches on a machine whose memory has the keys and values.

use candle_core::Tensor;
use lacuna_device::{CacheId, CachedSequence, DecodeBatch, Decoding, Read};
use lacuna_model::{Batch, KvCache, Transformer};
use lacuna_samplers::{Candidate, Draw, NoToken, Row};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::on_cpu;
use crate::error::{Error, Result};

/// A model on a machine, which all sessions on it share.
#[derive(Clone, Debug)]
pub(crate) struct SharedDecoding(Arc<Mutex<Decoding>>);

impl SharedDecoding {
    pub(crate) fn new(decoding: Decoding) -> Self {
        Self(Arc::new(Mutex::new(decoding)))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Decoding> {
        // A thread that panicked has left at most rows in the middle that no cache counts as its own.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place where passes are computed.
#[derive(Clone, Debug)]
pub(crate) enum Passes {
    Tensors(Arc<Transformer>),
    Machine(SharedDecoding),
}

/// Keys and values of a text, where its passes are computed.
#[derive(Debug)]
pub(crate) enum Cache {
    Tensors(KvCache),
    Machine(MachineCache),
}

/// A text's rows of a machine's pool, which are given back with it.
#[derive(Debug)]
pub(crate) struct MachineCache {
    decoding: SharedDecoding,
    id: CacheId,
    len: usize,
    /// Rows behind `len` that the last pass wrote.
    uncommitted: usize,
    capacity: usize,
}

impl Passes {
    /// An empty cache with room for so many tokens at first.
    pub(super) fn new_cache(&self, capacity: usize) -> Result<Cache> {
        match self {
            Self::Tensors(model) => Ok(Cache::Tensors(model.new_cache(capacity)?)),
            Self::Machine(decoding) => {
                Ok(Cache::Machine(MachineCache::new(decoding.clone(), capacity)?))
            }
        }
    }

    /// Reads rows whose logits nobody wants.
    pub(super) fn read(&self, batch: &Batch, caches: &mut [&mut Cache]) -> Result<()> {
        match self {
            Self::Tensors(model) => {
                model.forward_cached(batch, &mut tensors(caches)?)?;
                Ok(())
            }
            Self::Machine(decoding) => on_machine(decoding, batch, caches, &[], &mut |_| {}),
        }
    }
}

/// The logits of a pass by tensors, [wanted, vocab], on the CPU.
pub(super) fn logits(
    model: &Transformer,
    batch: &Batch,
    caches: &mut [&mut Cache],
) -> Result<Option<Tensor>> {
    let hidden = model.forward_cached(batch, &mut tensors(caches)?)?;
    match batch.wanted() {
        [] => Ok(None),
        _ => Ok(Some(on_cpu(&model.logits(&hidden)?)?)),
    }
}

fn tensors<'a>(caches: &'a mut [&mut Cache]) -> Result<Vec<&'a mut KvCache>> {
    let own = |cache: &'a mut &mut Cache| match &mut **cache {
        Cache::Tensors(cache) => Ok(cache),
        Cache::Machine(_) => Err(foreign()),
    };
    caches.iter_mut().map(own).collect()
}

fn foreign() -> Error {
    Error::Request("a cache of another session's model".into())
}

/// A pass on a machine: `read` gets what is left of each wanted row, drawn there where a draw is given.
pub(super) fn on_machine(
    decoding: &SharedDecoding,
    batch: &Batch,
    caches: &mut [&mut Cache],
    draws: &[Option<Draw<'_>>],
    read: &mut dyn FnMut(Row<'_>),
) -> Result<()> {
    let segments = batch.segments_in_caches()?;
    let mut held = Vec::with_capacity(caches.len());
    for (cache, segment) in caches.iter_mut().zip(segments.iter()) {
        let Cache::Machine(cache) = &mut **cache else { return Err(foreign()) };
        cache.reserve(cache.len + segment.queries.len())?;
        held.push((cache, segment.queries.len()));
    }
    let sequences: Vec<CachedSequence> =
        held.iter().map(|(cache, _)| CachedSequence { cache: cache.id, past: cache.len }).collect();
    let mut decoding = decoding.lock();
    let vocab = decoding.weights().config().vocab_size;
    let on_device: Vec<_> =
        draws.iter().map(|draw| draw.as_ref().map(|draw| device_draw(draw, vocab))).collect();
    decoding.pass(
        DecodeBatch {
            tokens: batch.tokens(),
            positions: batch.positions(),
            segments: &segments,
            sequences: &sequences,
            wanted: batch.wanted(),
            draws: &on_device,
        },
        &mut |row, left| match left {
            Read::Logits(logits) => read(Row::Logits(logits)),
            Read::Candidate(found) => {
                let position = draws.get(row).and_then(Option::as_ref).map_or(0, |at| at.position);
                read(Row::Drawn(drawn(found, position)));
            }
        },
    )?;
    for (cache, rows) in held {
        cache.uncommitted = rows;
    }
    Ok(())
}

/// A draw as a machine makes it.
fn device_draw(draw: &Draw<'_>, vocab: usize) -> lacuna_device::Draw {
    let Draw { sampling, position, refinement, forbidden, seen } = *draw;
    let known = |list: &[u32]| -> Vec<u32> {
        list.iter().copied().filter(|token| (*token as usize) < vocab).collect()
    };
    lacuna_device::Draw {
        seed: sampling.seed,
        position: position as u64,
        refinement: refinement as u64,
        temperature: sampling.temperature,
        top_k: sampling.top_k.map(|k| u32::try_from(k.get()).unwrap_or(u32::MAX)),
        top_p: sampling.top_p,
        min_p: sampling.min_p,
        forbidden: known(forbidden),
        repetition_penalty: sampling.repetition_penalty,
        seen: known(seen),
    }
}

fn drawn(found: lacuna_device::Candidate, position: usize) -> Result<Candidate, NoToken> {
    let lacuna_device::Candidate { token, confidence, margin, entropy, uniform } = found;
    match token {
        Ok(token) => Ok(Candidate { position, token, confidence, margin, entropy, uniform }),
        Err(lacuna_device::NoToken::NotFinite) => Err(NoToken::NotFinite),
        Err(lacuna_device::NoToken::NothingAllowed) => Err(NoToken::NothingAllowed),
    }
}

impl Cache {
    /// The number of committed tokens.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Tensors(cache) => cache.len(),
            Self::Machine(cache) => cache.len,
        }
    }

    /// See [`KvCache::truncate`].
    pub(super) fn truncate(&mut self, len: usize) {
        match self {
            Self::Tensors(cache) => cache.truncate(len),
            Self::Machine(cache) => {
                cache.len = cache.len.min(len);
                cache.uncommitted = 0;
            }
        }
    }

    /// See [`KvCache::keep`].
    pub(super) fn keep(&mut self, range: Range<usize>) -> Result<()> {
        match self {
            Self::Tensors(cache) => Ok(cache.keep(range)?),
            Self::Machine(cache) => cache.keep(range),
        }
    }

    /// See [`KvCache::copied`].
    pub(super) fn copied(&self, len: usize) -> Result<Self> {
        match self {
            Self::Tensors(cache) => Ok(Self::Tensors(cache.copied(len)?)),
            Self::Machine(cache) => Ok(Self::Machine(cache.copied(len)?)),
        }
    }

    /// The number of tokens that it has room for.
    pub(super) fn capacity(&self) -> usize {
        match self {
            Self::Tensors(cache) => cache.capacity(),
            Self::Machine(cache) => cache.capacity,
        }
    }
}

impl MachineCache {
    fn new(decoding: SharedDecoding, capacity: usize) -> Result<Self> {
        // The lock is over before the cache is there, which takes it when it is dropped.
        let id = decoding.lock().begin(capacity)?;
        Ok(Self { decoding, id, len: 0, uncommitted: 0, capacity: capacity.max(1) })
    }

    /// Makes room for `n` tokens in all, and for some more if there is any.
    fn reserve(&mut self, n: usize) -> Result<()> {
        if n <= self.capacity {
            return Ok(());
        }
        let mut decoding = self.decoding.lock();
        let more = KvCache::capacity_for(n);
        self.capacity = match decoding.reserve(self.id, more) {
            Ok(()) => more,
            Err(lacuna_device::Error::NoRoom { .. }) => {
                decoding.reserve(self.id, n)?;
                n
            }
            Err(other) => return Err(other.into()),
        };
        Ok(())
    }

    fn keep(&mut self, range: Range<usize>) -> Result<()> {
        if range.end > self.uncommitted || range.start > range.end {
            let rows = self.uncommitted;
            return Err(Error::Request(format!(
                "rows {range:?} of a pass of {rows} can't be kept"
            )));
        }
        if range.start > 0 && !range.is_empty() {
            let rows = self.len + range.start..self.len + range.end;
            self.decoding.lock().shift(self.id, rows, self.len)?;
        }
        self.len += range.len();
        self.uncommitted = 0;
        Ok(())
    }

    fn copied(&self, len: usize) -> Result<Self> {
        let len = self.len.min(len);
        let mut copy = Self::new(self.decoding.clone(), KvCache::capacity_for(len))?;
        self.decoding.lock().copy(self.id, copy.id, len)?;
        copy.len = len;
        Ok(copy)
    }
}

impl Drop for MachineCache {
    fn drop(&mut self) {
        self.decoding.lock().end(self.id);
    }
}

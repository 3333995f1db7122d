//! Gives the queries of a pass the keys and values that they meet: their own, those of caches, those of a clean read.

use candle_core::Tensor;
use lacuna_kernels::{attention, attention_over};

use crate::cache::KvCache;
use crate::clean::CleanKeys;
use crate::error::Result;
use crate::rows::Plan;
use crate::transformer::Transformer;

/// The keys and values that a pass attends to besides its own, and the place that its own are kept in.
pub(crate) enum Keys<'a> {
    /// None besides; the pass's own are gone after their layer.
    Own,
    /// Those of a cache for each sequence, which keeps the pass's own behind them.
    Caches(Vec<&'a mut KvCache>),
    /// None besides; the pass's own are kept, with their gradient.
    Collect(&'a mut Vec<(Tensor, Tensor)>),
    /// Those of clean windows, behind each sequence's own, which are gone after their layer.
    Clean(&'a CleanKeys),
}

impl Keys<'_> {
    /// The attention of layer `i`, [queries, heads, head_dim], given the pass's own queries, keys and values.
    pub(crate) fn attend(
        &mut self,
        model: &Transformer,
        (i, plan): (usize, &Plan),
        [q, k, v]: [Tensor; 3],
    ) -> Result<Tensor> {
        let (rows, backend, scale) = (&plan.layers[i], model.backend(), model.scale());
        let among = |k: &Tensor, v: &Tensor| attention(backend, &q, k, v, &rows.segments, scale);
        match self {
            Keys::Own => Ok(among(&k, &v)?),
            Keys::Collect(layers) => {
                layers.push((k.clone(), v.clone()));
                Ok(among(&k, &v)?)
            }
            Keys::Clean(clean) => {
                let (k, v) = clean.behind(i, plan, [&k, &v])?;
                Ok(among(&k, &v)?)
            }
            Keys::Caches(caches) => {
                extend(caches, (i, plan), k, v)?;
                let held = rows.parts.iter().map(|part| caches[*part].written(i));
                let held = held.collect::<Result<Vec<_>>>()?;
                Ok(attention_over(backend, &q, &held, &rows.segments, scale)?)
            }
        }
    }

    /// Keeps the keys and values of a layer whose queries nobody asks for.
    pub(crate) fn store(&mut self, (i, plan): (usize, &Plan), k: Tensor, v: Tensor) -> Result<()> {
        match self {
            Keys::Own | Keys::Clean(_) => Ok(()),
            Keys::Collect(layers) => {
                layers.push((k, v));
                Ok(())
            }
            Keys::Caches(caches) => extend(caches, (i, plan), k, v),
        }
    }
}

/// Writes each sequence's keys and values behind those that its cache holds.
fn extend(
    caches: &mut [&mut KvCache],
    (i, plan): (usize, &Plan),
    k: Tensor,
    v: Tensor,
) -> Result<()> {
    for (cache, part) in caches.iter_mut().zip(&plan.parts) {
        let own = |x: &Tensor| x.narrow(0, part.rows.start, part.rows.len());
        cache.write(i, &own(&k)?, &own(&v)?)?;
    }
    Ok(())
}

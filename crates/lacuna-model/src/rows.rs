//! Plans which rows of a pass each layer computes: what is the same in many rows once, what nobody reads not at all.

use candle_core::{Device, Tensor};
use lacuna_kernels::{Activations, KeyRanges, Segment, Segments, embedding, embedding_backward};
use std::sync::Arc;

use crate::batch::{Batch, Part};
use crate::error::{Error, Result};
use crate::transformer::Transformer;

/// The purpose of a pass, which decides what may be left out of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Purpose {
    /// Hidden states. Behind the last attention only wanted rows are computed.
    Read,
    /// Hidden states of sequences behind caches, with the same rows left out.
    Decode,
    /// Gradients. Rows that are not wanted have no queries in the last layer, and equal inputs of the first layer are
    /// computed once. Its sums round differently from those of a `Read`: a query's depend on the queries beside it.
    Train,
}

/// The rows of a whole pass.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The tokens that the first layer reads, a row each.
    pub(crate) tokens: Vec<u32>,
    /// The positions of the batch's rows, each of which has a key in every layer.
    pub(crate) positions: Arc<[u32]>,
    pub(crate) parts: Vec<Part>,
    pub(crate) layers: Vec<Rows>,
    /// Of the activations that projections read.
    pub(crate) precision: Activations,
}

/// The rows of one layer.
#[derive(Clone, Debug)]
pub(crate) struct Rows {
    /// The layer's input that each row of the pass stands for; `None`: each its own. Before the first attention
    /// a row is its token alone, so the first layer may have one input for each distinct token.
    pub(crate) inputs: Option<Tensor>,
    /// The inputs that queries are formed from; `None`: all rows of the pass.
    pub(crate) queries: Option<Tensor>,
    /// The queries whose results the rest of the layer reads; `None`: all.
    pub(crate) attended: Option<Tensor>,
    /// The inputs that the attention's results are added to; `None`: all.
    pub(crate) residual: Option<Tensor>,
    /// The positions of the queries.
    pub(crate) positions: Arc<[u32]>,
    /// The queries of each sequence, and the keys that they see.
    pub(crate) segments: Segments,
    /// The parts of the batch that the segments are of.
    pub(crate) parts: Arc<[usize]>,
    /// The batch's rows that the rest of the layer is computed for; `None`: all, in order.
    pub(crate) kept: Option<Arc<[u32]>>,
}

impl Plan {
    pub(crate) fn new(batch: &Batch, purpose: Purpose, model: &Transformer) -> Result<Self> {
        let device = model.device();
        let in_caches = purpose == Purpose::Decode;
        let positions: Arc<[u32]> = batch.positions().into();
        let all: Vec<usize> = (0..batch.parts().len()).collect();
        let every = Rows {
            inputs: None,
            queries: None,
            attended: None,
            residual: None,
            positions: positions.clone(),
            segments: segments(batch, &all, in_caches, whole)?,
            parts: all.into(),
            kept: None,
        };
        let mut layers = vec![every; model.config().num_layers];
        if !batch.wants_all()
            && let Some(last) = layers.last_mut()
        {
            *last = match purpose {
                Purpose::Train => Rows::wanted(batch, device)?,
                Purpose::Read | Purpose::Decode => last.read_on(batch, in_caches, device)?,
            };
        }
        let (tokens, parts) = (batch.tokens().to_vec(), batch.parts().to_vec());
        let precision = batch.precision();
        let mut plan = Self { tokens, positions, parts, layers, precision };
        if purpose == Purpose::Train {
            plan.share(device)?;
        }
        Ok(plan)
    }

    /// Tells whether nothing of the last layer is read but its keys and values.
    pub(crate) fn ends_with_keys(&self) -> bool {
        self.layers.last().is_some_and(|last| last.parts.is_empty())
    }

    /// Lets the first layer read each distinct token once.
    fn share(&mut self, device: &Device) -> Result<()> {
        let mut distinct = self.tokens.clone();
        distinct.sort_unstable();
        distinct.dedup();
        // Every token is in the list, so its place there is the number of those below it.
        let place = |token: &u32| distinct.partition_point(|other| other < token) as u32;
        let places: Vec<u32> = self.tokens.iter().map(place).collect();
        let places = Tensor::new(places, device)?;
        if let Some(first) = self.layers.first_mut() {
            let placed = |rows: &Tensor| places.index_select(rows, 0);
            first.queries = first.queries.as_ref().map(placed).transpose()?;
            first.residual = Some(first.residual.as_ref().map_or(Ok(places.clone()), placed)?);
            first.inputs = Some(places.clone());
        }
        self.tokens = distinct;
        Ok(())
    }
}

impl Rows {
    /// The last layer's rows in a pass for hidden states: every query of a sequence of which anything is wanted, and
    /// behind the attention the wanted rows alone.
    fn read_on(&self, batch: &Batch, in_caches: bool, device: &Device) -> Result<Self> {
        let all = batch.parts();
        let parts: Vec<usize> = (0..all.len()).filter(|i| !all[*i].wanted.is_empty()).collect();
        let wanted = Tensor::new(batch.wanted(), device)?;
        if parts.len() == all.len() {
            return Ok(Self {
                attended: Some(wanted.clone()),
                residual: Some(wanted),
                kept: Some(batch.wanted().into()),
                ..self.clone()
            });
        }
        let queries: Vec<u32> =
            parts.iter().flat_map(|i| all[*i].rows.clone()).map(|row| row as u32).collect();
        let mut attended = Vec::with_capacity(batch.wanted().len());
        let mut first = 0;
        for part in parts.iter().map(|i| &all[*i]) {
            let wanted = &batch.wanted()[part.wanted.clone()];
            attended.extend(wanted.iter().map(|row| row - part.rows.start as u32 + first));
            first += part.rows.len() as u32;
        }
        Ok(Self {
            inputs: None,
            positions: queries.iter().map(|row| batch.positions()[*row as usize]).collect(),
            queries: Some(Tensor::new(queries, device)?),
            attended: Some(Tensor::new(attended, device)?),
            residual: Some(wanted),
            segments: segments(batch, &parts, in_caches, whole)?,
            parts: parts.into(),
            kept: Some(batch.wanted().into()),
        })
    }

    /// The last layer's rows in a pass for gradients: the queries of the wanted rows alone.
    fn wanted(batch: &Batch, device: &Device) -> Result<Self> {
        let (all, wanted) = (batch.parts(), batch.wanted());
        let parts: Vec<usize> = (0..all.len()).filter(|i| !all[*i].wanted.is_empty()).collect();
        let selected = |part: &Part| {
            let own = &wanted[part.wanted.clone()];
            let queries: Vec<usize> =
                own.iter().map(|row| *row as usize - part.rows.start).collect();
            (queries.len(), part.ranges.select_queries(&queries))
        };
        let rows = Tensor::new(wanted, device)?;
        Ok(Self {
            inputs: None,
            queries: Some(rows.clone()),
            attended: None,
            residual: Some(rows),
            positions: wanted.iter().map(|row| batch.positions()[*row as usize]).collect(),
            segments: segments(batch, &parts, false, selected)?,
            parts: parts.into(),
            kept: Some(wanted.into()),
        })
    }
}

/// The segments of the listed parts, of which `queries` gives the number of queries and the keys that they see. Keys
/// are those of the pass, each part's own followed by those of its clean read; in a pass over caches they are the
/// cache's.
pub(crate) fn segments(
    batch: &Batch,
    listed: &[usize],
    in_caches: bool,
    queries: impl Fn(&Part) -> (usize, KeyRanges),
) -> Result<Segments> {
    let mut first_key = Vec::with_capacity(batch.parts().len());
    let mut keys = 0;
    for part in batch.parts() {
        first_key.push(keys);
        keys += part.rows.len() + part.clean.len();
    }
    let mut segments = Vec::with_capacity(listed.len());
    let mut query = 0;
    for i in listed {
        let part = &batch.parts()[*i];
        // Its keys would be those of the sequence behind it.
        if part.past > 0 && !in_caches {
            let past = part.past;
            let reason = format!(
                "{past} tokens of a sequence are in a cache: a pass over caches reads them"
            );
            return Err(Error::Input(reason));
        }
        let (n, ranges) = queries(part);
        let own = part.past + part.rows.len() + part.clean.len();
        let from = if in_caches { 0 } else { first_key[*i] };
        segments.push(Segment { queries: query..query + n, keys: from..from + own, ranges });
        query += n;
    }
    Ok(Segments::new(segments)?)
}

/// Every query of a part.
pub(crate) fn whole(part: &Part) -> (usize, KeyRanges) {
    (part.rows.len(), part.ranges.clone())
}

/// The rows of x at `at`, or all of them.
pub(crate) fn gather(model: &Transformer, x: Tensor, at: Option<&Tensor>) -> Result<Tensor> {
    match at {
        None => Ok(x),
        Some(at) => Ok(embedding(model.backend(), &x, at)?),
    }
}

/// The gradient of the `rows` rows that [`gather`] read.
pub(crate) fn gather_backward(
    model: &Transformer,
    d: Tensor,
    at: Option<&Tensor>,
    rows: usize,
) -> Result<Tensor> {
    match at {
        None => Ok(d),
        Some(at) => {
            let zeros = Tensor::zeros((rows, d.dim(1)?), d.dtype(), d.device())?;
            Ok(embedding_backward(model.backend(), at, &d, &zeros)?)
        }
    }
}

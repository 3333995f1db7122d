//! Which rows of a pass each layer computes: what is the same in many rows once, what nobody reads not at all.

use candle_core::Tensor;
use lacuna_kernels::{Backend, Positions, Spans, embedding, embedding_backward};

use crate::error::Result;
use crate::windows::Windows;

/// The rows of one layer.
#[derive(Clone, Debug)]
pub(super) struct Rows {
    /// The layer's input that each row of the pass stands for; `None`: each its own. Before the first attention
    /// a row is its token alone, so the first layer has one input for each distinct token.
    pub(super) inputs: Option<Tensor>,
    /// The inputs that queries are formed from, as many for each window; `None`: all rows of the pass. In the
    /// last layer those of the wanted rows.
    pub(super) queries: Option<Tensor>,
    /// The wanted rows among what the queries attended; `None`: all.
    pub(super) attended: Option<Tensor>,
    /// The inputs that what was attended is added to; `None`: all.
    pub(super) residual: Option<Tensor>,
    /// Queries of a window, where they stand and what they see.
    pub(super) n_query: usize,
    pub(super) positions: Positions,
    pub(super) spans: Spans,
}

impl Rows {
    /// The distinct tokens of a pass, and the rows of each of `n_layers` layers, of which the first reads one
    /// row for each of these tokens.
    pub(super) fn of_layers(windows: &Windows, n_layers: usize) -> Result<(Tensor, Vec<Self>)> {
        let every = Self {
            inputs: None,
            queries: None,
            attended: None,
            residual: None,
            n_query: windows.len,
            positions: windows.positions.clone(),
            spans: windows.spans.clone(),
        };
        let mut layers = vec![every; n_layers];
        if let (Some(last), Some((wanted, _))) = (layers.last_mut(), &windows.select) {
            last.select(windows, wanted)?;
        }
        let tokens = windows.tokens.to_vec1::<u32>()?;
        let mut distinct = tokens.clone();
        distinct.sort_unstable();
        distinct.dedup();
        // Every token is in the list, so its place there is the number of those below it.
        let place = |token: &u32| distinct.partition_point(|other| other < token) as u32;
        let places: Vec<u32> = tokens.iter().map(place).collect();
        if let Some(first) = layers.first_mut() {
            first.share(&Tensor::new(places, windows.tokens.device())?)?;
        }
        Ok((Tensor::new(distinct, windows.tokens.device())?, layers))
    }

    /// Forms the queries of the wanted rows alone. Windows that want fewer than others are filled up with
    /// queries that see nothing.
    fn select(&mut self, windows: &Windows, wanted: &Tensor) -> Result<()> {
        let mut lists = vec![Vec::new(); windows.batch];
        let mut slots = Vec::new();
        for row in wanted.to_vec1::<u32>()? {
            let (window, at) = (row as usize / windows.len, row as usize % windows.len);
            slots.push((window, lists[window].len()));
            lists[window].push(at);
        }
        let n_query = lists.iter().map(Vec::len).max().unwrap_or(0);
        let filled = |list: &Vec<usize>| {
            let filler = std::iter::repeat_n(0, n_query - list.len());
            list.iter().copied().chain(filler).collect::<Vec<_>>()
        };
        let (mut queries, mut positions) = (Vec::new(), Vec::new());
        for (window, list) in lists.iter().map(filled).enumerate() {
            queries.extend(list.iter().map(|at| (window * windows.len + at) as u32));
            let position = |at: &usize| windows.positions.at(window, *at) as u32;
            positions.push(list.iter().map(position).collect());
        }
        let attended: Vec<u32> =
            slots.iter().map(|(window, slot)| (window * n_query + slot) as u32).collect();
        let all_in_order = attended.len() == queries.len()
            && attended.iter().enumerate().all(|(i, at)| i == *at as usize);
        let device = wanted.device();
        self.attended = if all_in_order { None } else { Some(Tensor::new(attended, device)?) };
        self.queries = Some(Tensor::new(queries, device)?);
        self.residual = Some(wanted.clone());
        (self.n_query, self.positions) = (n_query, Positions::Explicit(positions.into()));
        self.spans = windows.spans.select_queries(&lists);
        Ok(())
    }

    /// Reads row `places[i]` of the input wherever row i was read.
    fn share(&mut self, places: &Tensor) -> Result<()> {
        let placed = |rows: &Tensor| places.index_select(rows, 0);
        self.queries = self.queries.as_ref().map(placed).transpose()?;
        self.residual = Some(self.residual.as_ref().map_or(Ok(places.clone()), placed)?);
        self.inputs = Some(places.clone());
        Ok(())
    }
}

/// The rows of x at `at`, or all of them.
pub(super) fn gather(backend: Backend, x: &Tensor, at: Option<&Tensor>) -> Result<Tensor> {
    match at {
        None => Ok(x.clone()),
        Some(at) => Ok(embedding(backend, x, at)?),
    }
}

/// The gradient of the `rows` rows that [`gather`] read.
pub(super) fn gather_backward(
    backend: Backend,
    d: Tensor,
    at: Option<&Tensor>,
    rows: usize,
) -> Result<Tensor> {
    match at {
        None => Ok(d),
        Some(at) => {
            let zeros = Tensor::zeros((rows, d.dim(1)?), d.dtype(), d.device())?;
            Ok(embedding_backward(backend, at, &d, &zeros)?)
        }
    }
}

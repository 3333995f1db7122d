//! Says which windows a step trains on, as a pure function of seed and position.

use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::mixture::Mixture;
use crate::window::Window;
use lacuna_random::{Places, Purpose, permutation, stream};
use serde::{Deserialize, Serialize};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

/// An epoch of up to so many windows has its order listed, eight bytes a window.
const MOST_LISTED: u64 = 1 << 24;

/// A place in an endless walk through a dataset, one epoch after the other.
///
/// All that a checkpoint needs to go on with the very next row. Where several sources are mixed, it counts rows of
/// all of them, and an epoch is as many rows as there are windows in all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Cursor {
    /// The number of times that every window has been seen.
    pub epoch: u64,
    /// The number of windows of this epoch that have been seen.
    pub index: u64,
}

/// One row of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Counts all rows since the dataset's first, whatever the batch size: the row's name in
    /// counter-based randomness.
    pub number: u64,
    /// The number of its window in the dataset.
    pub window_index: usize,
    /// The window that the model sees.
    pub window: Window,
}

/// Deals out a dataset's windows, every one once an epoch, each epoch in a new order; or those of several sources in
/// fixed shares, each source in epochs of its own.
///
/// The order depends on the seed and the epoch alone, so a batch is the same for any split into
/// micro-batches, any number of ranks and after any resume.
///
/// ```
/// use lacuna_data::{Batches, Cursor, Dataset, Packer, Remainder};
/// let mut packer = Packer::new(2.try_into()?, Remainder::Drop);
/// (0..10).for_each(|id| packer.push(&[id], 9));
/// let batches = Batches::new(Dataset::from_packed(packer.finish(), 10)?, 7)?;
/// let mut cursor = Cursor::default();
/// let first = batches.take(&mut cursor, 4.try_into()?)?;
/// assert_eq!(first, batches.rows(0, 4.try_into()?)?);
/// assert_eq!(batches.take(&mut cursor, 4.try_into()?)?, batches.rows(1, 4.try_into()?)?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Batches {
    dataset: Dataset,
    /// The several sources, if there are any, whose windows are joined in `dataset`.
    mixture: Option<Sources>,
    seed: u64,
    /// The order of the epoch asked for last.
    order: Mutex<Option<(u64, Arc<[usize]>)>>,
}

#[derive(Debug)]
struct Sources {
    mixture: Mixture,
    /// The number of each source's first window.
    firsts: Vec<usize>,
}

impl Batches {
    /// Deals out windows of several datasets by their weights: see [`Mixture`]. Row `number` is sample `number` of the
    /// mixture.
    ///
    /// # Errors
    /// As [`Mixture::new`] and [`Dataset::joined`].
    pub fn mixed(sources: Vec<(Dataset, f64)>, seed: u64) -> Result<Self> {
        let sizes: Vec<_> =
            sources.iter().map(|(dataset, weight)| (dataset.windows() as u64, *weight)).collect();
        let mixture = Mixture::new(&sizes)?;
        let mut next = 0;
        let first = |(dataset, _): &(Dataset, f64)| {
            next += dataset.windows();
            next - dataset.windows()
        };
        let firsts = sources.iter().map(first).collect();
        let dataset = Dataset::joined(sources.into_iter().map(|(dataset, _)| dataset).collect())?;
        let mixture = Some(Sources { mixture, firsts });
        Ok(Self { dataset, mixture, seed, order: Mutex::new(None) })
    }

    /// Deals out `dataset` in orders drawn from `seed`.
    ///
    /// # Errors
    /// When the dataset has no window.
    pub fn new(dataset: Dataset, seed: u64) -> Result<Self> {
        if dataset.windows() == 0 {
            return Err(Error::Packing(format!(
                "the text does not fill one window of {} tokens; add text or shorten the window",
                dataset.window_len()
            )));
        }
        Ok(Self { dataset, mixture: None, seed, order: Mutex::new(None) })
    }

    /// The windows themselves.
    pub fn dataset(&self) -> &Dataset {
        &self.dataset
    }

    /// The mixture that rows are dealt from, if there are several sources.
    pub fn mixture(&self) -> Option<&Mixture> {
        self.mixture.as_ref().map(|sources| &sources.mixture)
    }

    /// The rows of a step, when all steps so far had batches of `batch_size`.
    ///
    /// # Errors
    /// When a window cannot be read.
    pub fn rows(&self, step: u64, batch_size: NonZeroUsize) -> Result<Vec<Row>> {
        self.take(&mut self.cursor(step * batch_size.get() as u64), batch_size)
    }

    /// The next `count` rows, and moves the cursor behind them.
    ///
    /// # Errors
    /// When a window cannot be read; the cursor has not moved then.
    pub fn take(&self, cursor: &mut Cursor, count: NonZeroUsize) -> Result<Vec<Row>> {
        let first = self.row_number(*cursor);
        let numbers = first..first + count.get() as u64;
        let rows: Result<Vec<Row>> = numbers.map(|number| self.row(number)).collect();
        let rows = rows?;
        *cursor = self.cursor(first + count.get() as u64);
        Ok(rows)
    }

    /// Row `number` of the endless walk.
    ///
    /// # Errors
    /// When its window cannot be read.
    pub fn row(&self, number: u64) -> Result<Row> {
        let window_index = self.window_index(number);
        Ok(Row { number, window_index, window: self.dataset.window(window_index)? })
    }

    /// The number of the window that row `number` shows: a pure function of the seed and the number.
    pub fn window_index(&self, number: u64) -> usize {
        match &self.mixture {
            Some(Sources { mixture, firsts }) => {
                let (source, window) = mixture.at(self.seed, number);
                firsts[source] + window as usize
            }
            None => {
                let Cursor { epoch, index } = self.cursor(number);
                self.in_epoch(epoch, index)
            }
        }
    }

    /// The cursor that stands before row `number`.
    pub fn cursor(&self, number: u64) -> Cursor {
        let windows = self.dataset.windows() as u64;
        Cursor { epoch: number / windows, index: number % windows }
    }

    /// The number of the row that a cursor stands before.
    pub(crate) fn row_number(&self, cursor: Cursor) -> u64 {
        let seen = cursor.epoch.saturating_mul(self.dataset.windows() as u64);
        seen.saturating_add(cursor.index)
    }

    /// The window at a place of an epoch. A long order is never listed: a run that goes on pays nothing for what it has
    /// read.
    fn in_epoch(&self, epoch: u64, index: u64) -> usize {
        let windows = self.dataset.windows() as u64;
        if windows <= MOST_LISTED {
            return self.order(epoch)[index as usize];
        }
        let mut rng = stream(self.seed, Purpose::Shuffle, epoch, 0);
        Places::new(&mut rng, windows).at(index) as usize
    }

    fn order(&self, epoch: u64) -> Arc<[usize]> {
        let mut known = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        match &*known {
            Some((of, order)) if *of == epoch => Arc::clone(order),
            _ => {
                let mut rng = stream(self.seed, Purpose::Shuffle, epoch, 0);
                let order: Arc<[usize]> = permutation(&mut rng, self.dataset.windows()).into();
                *known = Some((epoch, Arc::clone(&order)));
                order
            }
        }
    }
}

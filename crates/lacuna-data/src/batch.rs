//! Says which windows a step trains on, as a pure function of seed and position.

use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::window::Window;
use lacuna_random::{IndexedOrder, Purpose, permutation, stream};
use serde::{Deserialize, Serialize};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

/// An epoch of up to so many windows has its order listed, eight bytes a window.
const MOST_LISTED: u64 = 1 << 24;

/// A place in an endless walk through a dataset, one epoch after the other.
///
/// All that a checkpoint needs to go on with the very next row.
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

/// Deals out a dataset's windows, every one once an epoch, each epoch in a new order.
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
    seed: u64,
    /// The order of the epoch asked for last.
    order: Mutex<Option<(u64, Arc<[usize]>)>>,
}

impl Batches {
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
        Ok(Self { dataset, seed, order: Mutex::new(None) })
    }

    /// The windows themselves.
    pub fn dataset(&self) -> &Dataset {
        &self.dataset
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
        let Cursor { epoch, index } = self.cursor(number);
        let window_index = self.window_index(epoch, index);
        Ok(Row { number, window_index, window: self.dataset.window(window_index)? })
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
    fn window_index(&self, epoch: u64, index: u64) -> usize {
        let windows = self.dataset.windows() as u64;
        if windows <= MOST_LISTED {
            return self.order(epoch)[index as usize];
        }
        let mut rng = stream(self.seed, Purpose::Shuffle, epoch, 0);
        IndexedOrder::new(&mut rng, windows).at(index) as usize
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

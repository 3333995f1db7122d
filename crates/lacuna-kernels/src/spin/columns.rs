//! Lets several workers fill matrices at once, each some columns of one, from the first row to the last.

use std::marker::PhantomData;

/// The most rows for which a task counts on its stack.
const FEW: usize = 16;

/// Matrices that are about to be written: their memory need not be zeroed first.
pub(crate) struct Fill<'a> {
    /// The rows that all of them have.
    pub(crate) rows: usize,
    /// The columns of each.
    pub(crate) cols: &'a [usize],
    /// The most columns that one task writes; all of them belong to one matrix.
    pub(crate) width: usize,
    /// True if the calling thread does every task.
    pub(crate) alone: bool,
}

/// Some columns of a matrix that is about to be written: each row from the left to the right, rows in any order.
pub(crate) struct Columns<'a> {
    /// The place where these columns of the first row begin.
    start: *mut f32,
    width: usize,
    stride: usize,
    /// The number of values that each row has so far.
    filled: &'a mut [usize],
    owner: PhantomData<&'a mut [f32]>,
}

/// A matrix's memory, and its place in the tasks' numbers.
struct Target {
    start: *mut f32,
    cols: usize,
    first_task: usize,
}

// SAFETY: a place in memory and two numbers; tasks write to parts of it that do not overlap.
unsafe impl Sync for Target {}

impl Fill<'_> {
    /// Gives the matrices, each `[rows, cols]`. A task is told the number of its matrix and its first column, and fills
    /// every row of the columns that it is given.
    ///
    /// # Panics
    /// If a task leaves a row unfilled.
    pub(crate) fn with(
        &self,
        task: impl Fn(usize, usize, &mut Columns<'_>) + Sync,
    ) -> Vec<Vec<f32>> {
        let floats =
            |cols: &usize| self.rows.checked_mul(*cols).expect("a matrix that fits in memory");
        let mut outputs: Vec<Vec<f32>> =
            self.cols.iter().map(|cols| Vec::with_capacity(floats(cols))).collect();
        let mut tasks = 0;
        let target = |(output, &cols): (&mut Vec<f32>, &usize)| {
            let first_task = tasks;
            tasks += cols.div_ceil(self.width);
            Target { start: output.as_mut_ptr(), cols, first_task }
        };
        let targets: Vec<Target> = outputs.iter_mut().zip(self.cols).map(target).collect();
        let run = |number: usize| {
            let matrix = targets.partition_point(|target| target.first_task <= number) - 1;
            let Target { start, cols, first_task } = targets[matrix];
            let first = (number - first_task) * self.width;
            // The memory of a few counts is not worth asking for.
            let (mut few, mut many) = ([0; FEW], Vec::new());
            let filled = few.get_mut(..self.rows).unwrap_or_else(|| {
                many.resize(self.rows, 0);
                &mut many
            });
            let start = start.wrapping_add(first);
            let width = self.width.min(cols - first);
            let mut columns = Columns { start, width, stride: cols, filled, owner: PhantomData };
            task(matrix, first, &mut columns);
            let whole = columns.filled.iter().all(|filled| *filled == width);
            assert!(whole, "values left out of {} × {cols}", self.rows);
        };
        if self.alone {
            (0..tasks).for_each(run)
        } else {
            super::run(tasks, run)
        }
        for (output, cols) in outputs.iter_mut().zip(self.cols) {
            // SAFETY: the capacity is at least that, and every task has come back from writing its columns of every
            // row; together they are all columns.
            unsafe { output.set_len(self.rows * cols) };
        }
        outputs
    }
}

impl Columns<'_> {
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    /// Writes a row's next values.
    ///
    /// # Panics
    /// If there is no such row, or it has no room for so many.
    #[inline(always)]
    pub(crate) fn push(&mut self, row: usize, values: &[f32]) {
        let filled = &mut self.filled[row];
        assert!(values.len() <= self.width - *filled, "values beyond the columns");
        let to = self.start.wrapping_add(row * self.stride + *filled);
        // SAFETY: places `filled..` of a row of these columns, as many as were just seen to be left, lie within the
        // matrix's capacity; and each task, which comes once, has other columns than all others.
        unsafe { to.copy_from_nonoverlapping(values.as_ptr(), values.len()) };
        *filled += values.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_fill_every_row_of_every_matrix() {
        for alone in [false, true] {
            let fill = Fill { rows: 3, cols: &[5, 0, 2], width: 2, alone };
            let matrices = fill.with(|matrix, first, columns| {
                for row in [2, 0, 1] {
                    columns.push(row, &[(100 * matrix + 10 * row + first) as f32]);
                    columns.push(row, &[9.][..columns.width() - 1]);
                }
            });
            assert_eq!(matrices[0][5..10], [10., 9., 12., 9., 14.]);
            assert_eq!(matrices[1..], [vec![], vec![200., 9., 210., 9., 220., 9.]]);
        }
    }

    #[test]
    #[should_panic(expected = "values left out of 2 × 4")]
    fn a_value_left_out_is_no_value() {
        let fill = Fill { rows: 2, cols: &[4], width: 2, alone: true };
        fill.with(|_, _, columns| {
            columns.push(0, &[1., 2.]);
            columns.push(1, &[1.]);
        });
    }

    #[test]
    #[should_panic(expected = "values beyond the columns")]
    fn no_row_takes_more_values_than_columns() {
        let fill = Fill { rows: 1, cols: &[4], width: 2, alone: true };
        fill.with(|_, _, columns| {
            columns.push(0, &[1.]);
            columns.push(0, &[2., 3.]);
        });
    }
}

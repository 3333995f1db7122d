//! Computes the first values of a MASK row.

use crate::error::Result;

/// First values of a MASK row (choice 10's option): the mean of all rows plus noise of a hundredth of their
/// spread, row_j = mean_j + 0.01 · s · noise, s² = the mean square of all values.
///
/// `chunks` give the table's rows of `width` values, any number at a time; `noise` draws from (−½, ½).
///
/// ```
/// let rows = [Ok(vec![1.0, 4.0]), Ok(vec![3.0, 0.0])];
/// assert_eq!(lacuna_checkpoint::mean_row(2, rows, || 0.0)?, [2.0, 2.0]);
/// # Ok::<(), lacuna_checkpoint::Error>(())
/// ```
///
/// # Errors
/// The first error among the chunks.
pub fn mean_row(
    width: usize,
    chunks: impl IntoIterator<Item = Result<Vec<f32>>>,
    mut noise: impl FnMut() -> f32,
) -> Result<Vec<f32>> {
    let (mut sums, mut squares, mut rows) = (vec![0f64; width], 0f64, 0usize);
    for chunk in chunks {
        for row in chunk?.chunks_exact(width) {
            rows += 1;
            for (sum, &value) in sums.iter_mut().zip(row) {
                *sum += f64::from(value);
                squares += f64::from(value) * f64::from(value);
            }
        }
    }
    let n = rows.max(1) as f64;
    let spread = (squares / (n * width as f64)).sqrt();
    let value = |sum: f64| (sum / n + 0.01 * spread * f64::from(noise())) as f32;
    Ok(sums.into_iter().map(value).collect())
}

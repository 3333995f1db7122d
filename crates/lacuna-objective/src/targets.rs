//! Says which row of a pass predicts which token, and what that counts for: once, for training, for likelihoods and
//! for metrics alike.

use lacuna_checkpoint::Predicts;

use crate::{Pass, Row};

/// The rows that a model makes of one window; they know which of them predicts a position.
///
/// ```
/// use lacuna_objective::{PassRows, Predicts};
///
/// // [noisy ; clean] of a window of eight tokens under a shifted head, blocks of four.
/// let rows = PassRows { window: 8, predicts: Predicts::Next, clean_half: true };
/// assert_eq!(rows.row_of(6, 4), Some(5), "inside a block, off the noisy row before it");
/// assert_eq!(rows.row_of(4, 4), Some(8 + 3), "a block's first token, off the clean row before it");
/// assert_eq!(rows.row_of(0, 0), None);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PassRows {
    /// Tokens of the window.
    pub window: usize,
    /// The token that the logits at a position predict: that position's own, or the next one's.
    pub predicts: Predicts,
    /// True if the clean tokens stand behind the noisy ones, as rows `window..2 * window`.
    pub clean_half: bool,
}

impl PassRows {
    /// A window of clean text under the causal view: each row predicts the next token.
    pub fn causal(window: usize) -> Self {
        Self { window, predicts: Predicts::Next, clean_half: false }
    }

    /// The row whose logits predict `position`, in a block that begins at `block_start`; none for a window's first
    /// token under a shifted head.
    ///
    /// When a block is written, the one before it is finished. So under a shifted head its first token is read off the
    /// clean row before it, as in decoding, and not off a noisy one.
    pub fn row_of(self, position: usize, block_start: usize) -> Option<usize> {
        let row = self.predicts.row_of(position)?;
        Some(if self.clean_half && row < block_start { self.window + row } else { row })
    }
}

/// A token that is predicted, with the row that the prediction is read off and the weight of its loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Target {
    /// The row that predicts it, among those of its window's pass.
    pub row: u32,
    /// The clean token.
    pub token: u32,
    /// Its weight, not normalised.
    pub weight: f32,
    /// Index of its block.
    pub block: u32,
    /// Its position in the block.
    pub offset: u32,
}

/// Flags the eligible tokens of a text that have something before them to be predicted from: all but the first of
/// each document. `documents` are the lengths of those that see nothing of each other; one length stands for a text
/// that is read as a whole.
///
/// ```
/// let flags = lacuna_objective::predictable(&[true, true, false, true, true], &[3, 2]);
/// assert_eq!(flags, [false, true, false, false, true]);
/// ```
pub fn predictable(eligible: &[bool], documents: &[usize]) -> Vec<bool> {
    let mut flags = eligible.to_vec();
    let mut start = 0;
    for len in documents {
        if let Some(first) = flags.get_mut(start) {
            *first = false;
        }
        start += len;
    }
    flags
}

/// The targets of autoregression: every [`predictable`] token, read off the row before it, all alike.
pub fn next_token_targets(tokens: &[u32], predictable: &[bool]) -> Vec<Target> {
    let rows = PassRows::causal(tokens.len());
    let positions = (0..tokens.len()).filter(|&i| predictable[i]);
    positions.filter_map(|i| target(rows, (0, 0), (i, tokens[i]), 1.0)).collect()
}

/// The targets of a corrupted row: the tokens with a weight above 0, which are the masked ones, with these weights.
///
/// Under a shifted head, the first token of a document is read off nothing and left out.
pub fn masked_targets(
    row: Row<'_>,
    weights: &[f32],
    rows: PassRows,
    documents: &[usize],
) -> Vec<Target> {
    let has_row = match rows.predicts {
        Predicts::Same => row.eligible().to_vec(),
        Predicts::Next => predictable(row.eligible(), documents),
    };
    let mut targets = Vec::new();
    for (index, block) in row.blocks().iter().enumerate() {
        let masked = block.clone().filter(|&i| weights[i] > 0.0 && has_row[i]);
        targets.extend(
            masked.filter_map(|i| {
                target(rows, (index, block.start), (i, row.clean()[i]), weights[i])
            }),
        );
    }
    targets
}

impl Pass {
    /// The targets of one pass of a likelihood, in the order of its scored positions.
    pub fn targets(&self, row: Row<'_>, rows: PassRows) -> Vec<Target> {
        let scored = self.scored.iter().filter_map(|scored| {
            let block = (scored.block, row.blocks()[scored.block].start);
            let token = (scored.position, row.clean()[scored.position]);
            target(rows, block, token, scored.coefficient as f32)
        });
        scored.collect()
    }
}

fn target(
    rows: PassRows,
    (block, block_start): (usize, usize),
    (position, token): (usize, u32),
    weight: f32,
) -> Option<Target> {
    let row = rows.row_of(position, block_start)? as u32;
    let offset = (position - block_start) as u32;
    Some(Target { row, token, weight, block: block as u32, offset })
}

/// The rows that predict the targets, as a pass over their window is asked for them.
pub fn rows_of(targets: &[Target]) -> Vec<u32> {
    targets.iter().map(|target| target.row).collect()
}

/// The targets of a batch, as the loss takes them: one for each wanted row, in the order of the windows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Targets {
    /// The clean token that each row must predict.
    pub ids: Vec<u32>,
    /// The weight of each, above 0.
    pub weights: Vec<f32>,
}

impl Targets {
    /// The targets of one window behind those of another.
    ///
    /// ```
    /// use lacuna_objective::{Targets, next_token_targets, rows_of};
    /// let window = next_token_targets(&[7, 8, 9], &[false, true, true]);
    /// assert_eq!((rows_of(&window), Targets::of(&window).ids), (vec![0, 1], vec![8, 9]));
    /// ```
    pub fn of<'a>(targets: impl IntoIterator<Item = &'a Target>) -> Self {
        let (ids, weights) =
            targets.into_iter().map(|target| (target.token, target.weight)).unzip();
        Self { ids, weights }
    }
}

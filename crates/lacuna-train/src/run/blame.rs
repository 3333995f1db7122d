//! Finds which windows of a step gave a loss or a gradient that is no number.

use lacuna_data::{Cursor, Window};
use lacuna_kernels::global_norm;
use lacuna_model::Transformer;
use lacuna_text::Tokenizer;
use serde::Serialize;
use std::fmt;

use crate::example::Example;
use crate::objective::StageObjective;
use crate::recipe::{Stage, StageData};

/// The windows of a step, as they were taken from the data.
#[derive(Clone, Debug, Default)]
pub(super) struct Taken {
    /// The windows, each as often as the step sees it.
    pub(super) windows: Vec<Window>,
    /// Their numbers in the data.
    pub(super) numbers: Vec<usize>,
    /// The place in the data before them.
    pub(super) from: Cursor,
}

/// The place of a step that gave no number: in the run, in the data, and the rows at fault.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Place {
    /// The step's number: the one that was not taken.
    pub(crate) step: u64,
    /// The stage's name.
    pub(crate) stage: String,
    /// The run's seed.
    pub(crate) seed: u64,
    /// The text that its windows are from: `corpus` or `sft`.
    pub(crate) data: StageData,
    /// The place in that text before the step: passes over it, and rows of the pass.
    pub(crate) epoch: u64,
    /// See `epoch`.
    pub(crate) index: u64,
    /// The numbers of the windows in the data, one for each row.
    pub(crate) windows: Vec<usize>,
    /// The rows that give no number by themselves; all of them, if the weights are at fault.
    pub(crate) at_fault: Vec<Row>,
}

/// A row that gives no number by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Row {
    /// Its place in the step.
    row: usize,
    /// The number of its window in the data.
    window: usize,
    /// Documents that the window has parts of.
    documents: usize,
    /// The text that it begins with.
    begins: String,
}

/// In words, to stand behind "the loss is NaN".
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MOST: usize = 4;
        let Self { step, stage, seed, data, epoch, index, windows, at_fault } = self;
        let text = match data {
            StageData::Corpus => "the corpus",
            StageData::Sft => "the samples",
        };
        let rows = windows.len();
        write!(
            f,
            " in step {step} (stage `{stage}`, seed {seed}, {rows} rows of {text} from place {index} of epoch {epoch}): "
        )?;
        if at_fault.is_empty() {
            let numbers: Vec<_> = windows.iter().take(16).map(usize::to_string).collect();
            return write!(f, "each row alone gives a number, windows {}", numbers.join(", "));
        }
        if at_fault.len() == rows {
            f.write_str("every row fails, so the weights are at fault; ")?;
        }
        let mut named: Vec<String> = at_fault.iter().take(MOST).map(Row::to_string).collect();
        if at_fault.len() > MOST {
            named.push(format!("and {} more", at_fault.len() - MOST));
        }
        f.write_str(&named.join(", "))
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { row, window, documents, begins } = self;
        let plural = if *documents == 1 { "" } else { "s" };
        let begins = lacuna_files::printable(begins).replace('\n', "\\n");
        write!(
            f,
            "row {row}, window {window} ({documents} document{plural}, begins with `{begins}`)"
        )
    }
}

/// A step that gave no number.
pub(super) struct Failed<'a> {
    pub(super) model: &'a Transformer,
    pub(super) objective: &'a StageObjective,
    pub(super) tokenizer: &'a Tokenizer,
    pub(super) stage: &'a Stage,
    pub(super) seed: u64,
    /// The step's number: the one that was not taken.
    pub(super) step: u64,
    pub(super) taken: &'a Taken,
    pub(super) examples: &'a [Example],
}

impl Failed<'_> {
    /// The step, the stage, the seed and the windows. Each row is computed once more by itself, to tell which of them are
    /// at fault.
    pub(super) fn place(&self) -> Place {
        let Self { step, stage, seed, taken, examples, .. } = self;
        let failed = (0..examples.len()).filter(|row| !self.is_finite(*row));
        Place {
            step: *step,
            stage: stage.name.clone(),
            seed: *seed,
            data: stage.data,
            epoch: taken.from.epoch,
            index: taken.from.index,
            windows: taken.numbers.clone(),
            at_fault: failed.map(|row| self.row(row)).collect(),
        }
    }

    /// Tells whether a row gives a loss and a gradient that are numbers.
    fn is_finite(&self, row: usize) -> bool {
        let example = &self.examples[row..=row];
        let outcome = self.objective.loss_and_gradients(self.model, example, example[0].eligible);
        match outcome {
            Ok(None) => true,
            Ok(Some(part)) => {
                let norm = global_norm(self.model.backend(), &part.gradients);
                part.loss.is_finite() && norm.is_ok_and(f64::is_finite)
            }
            Err(_) => false,
        }
    }

    /// A row, its window, and the text that it begins with.
    fn row(&self, row: usize) -> Row {
        const CHARACTERS: usize = 40;
        let window = &self.taken.windows[row];
        let first = &window.tokens[..window.tokens.len().min(CHARACTERS)];
        let text = self.tokenizer.decode(first).unwrap_or_default();
        Row {
            row,
            window: self.taken.numbers[row],
            documents: window.documents.len(),
            begins: text.chars().take(CHARACTERS).collect(),
        }
    }
}

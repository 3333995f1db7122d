//! Finds which windows of a step gave a loss or a gradient that is no number.

use lacuna_data::{Cursor, Window};
use lacuna_kernels::global_norm;
use lacuna_model::Transformer;
use lacuna_text::Tokenizer;

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
    /// The step, the stage, the seed and the windows in words, to stand behind "the loss is NaN". Each row is computed
    /// once more by itself, to tell which of them are at fault.
    pub(super) fn place(&self) -> String {
        let Self { step, stage, seed, taken, .. } = self;
        let text = match stage.data {
            StageData::Corpus => "the corpus",
            StageData::Sft => "the samples",
        };
        let Cursor { epoch, index } = taken.from;
        format!(
            " in step {step} (stage `{}`, seed {seed}, {} rows of {text} from place {index} of epoch {epoch}): {}",
            stage.name,
            taken.windows.len(),
            self.rows()
        )
    }

    fn rows(&self) -> String {
        const MOST: usize = 4;
        let failed: Vec<usize> =
            (0..self.examples.len()).filter(|row| !self.is_finite(*row)).collect();
        if failed.is_empty() {
            let numbers: Vec<_> =
                self.taken.numbers.iter().take(16).map(usize::to_string).collect();
            return format!("each row alone gives a number, windows {}", numbers.join(", "));
        }
        let all = failed.len() == self.examples.len();
        let mut named: Vec<String> = failed.iter().take(MOST).map(|row| self.row(*row)).collect();
        if failed.len() > MOST {
            named.push(format!("and {} more", failed.len() - MOST));
        }
        let weights = if all { "every row fails, so the weights are at fault; " } else { "" };
        format!("{weights}{}", named.join(", "))
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
    fn row(&self, row: usize) -> String {
        const CHARACTERS: usize = 40;
        let (window, number) = (&self.taken.windows[row], self.taken.numbers[row]);
        let documents = window.documents.len();
        let first = &window.tokens[..window.tokens.len().min(CHARACTERS)];
        let text = self.tokenizer.decode(first).unwrap_or_default();
        let text: String = text.chars().take(CHARACTERS).collect();
        let text = lacuna_files::printable(&text).replace('\n', "\\n");
        let plural = if documents == 1 { "" } else { "s" };
        format!("row {row}, window {number} ({documents} document{plural}, begins with `{text}`)")
    }
}

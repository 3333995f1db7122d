//! Makes windows ready for the model, and batches of them as the model takes them.

use lacuna_data::Window;
use lacuna_model::{AttentionMask, Batch, Sequence};
use lacuna_objective::{
    BlockStats, Corruption, PassRows, Row, Target, document_block_ranges, masked_targets,
    next_token_targets, predictable, rows_of,
};
use std::ops::Range;

use crate::error::Result;
use crate::objective::StageObjective;
use crate::recipe::ObjectiveKind;

/// The address of what is drawn at random for an example: it is the same for any split of the step, any number of ranks
/// and after any resume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Address {
    /// The run's seed.
    pub seed: u64,
    /// The step, counted over all stages.
    pub step: u64,
    /// The example's number in the step.
    pub row: u64,
}

/// One window, ready for the model.
#[derive(Clone, Debug)]
pub struct Example {
    /// The tokens that the model reads: the clean ones, or the noisy ones.
    pub input: Vec<u32>,
    /// The clean tokens.
    pub clean: Vec<u32>,
    /// Lengths of the window's documents.
    pub documents: Vec<usize>,
    /// The tokens that are predicted.
    pub targets: Vec<Target>,
    /// The number of tokens that could be supervised: the denominator of the loss (choice 6).
    pub eligible: usize,
    /// The draw of each block; empty in an autoregressive stage.
    pub blocks: Vec<BlockStats>,
    /// The address of what is dropped.
    pub address: Address,
}

impl Example {
    /// A window whose every token is predicted from those before it.
    pub(crate) fn next_token(objective: &StageObjective, window: &Window) -> Self {
        let predictable = predictable(&window.eligible, &objective.read_apart(window));
        let targets = next_token_targets(&window.tokens, &predictable);
        Self {
            input: window.tokens.clone(),
            clean: window.tokens.clone(),
            documents: window.documents.clone(),
            eligible: targets.len(),
            targets,
            blocks: Vec::new(),
            address: Address::default(),
        }
    }

    /// A window of which `corrupt` masks some tokens, which are predicted.
    pub(crate) fn masked(
        objective: &StageObjective,
        window: &Window,
        blocks: &[Range<usize>],
        corrupt: impl FnOnce(Row<'_>) -> lacuna_objective::Result<Corruption>,
    ) -> Result<Self> {
        let row = Row::new(&window.tokens, &window.eligible, blocks)?;
        let Corruption { noisy, weights, blocks } = corrupt(row)?;
        let (rows, apart) = (objective.rows(window.tokens.len()), objective.read_apart(window));
        Ok(Self {
            input: noisy,
            clean: window.tokens.clone(),
            documents: window.documents.clone(),
            targets: masked_targets(row, &weights, rows, &apart),
            eligible: window.eligible.iter().filter(|eligible| **eligible).count(),
            blocks,
            address: Address::default(),
        })
    }
}

impl StageObjective {
    /// The lengths of the pieces of a window that are read apart: its documents, or the window as a whole.
    fn read_apart(&self, window: &Window) -> Vec<usize> {
        if self.document_mask { window.documents.clone() } else { vec![window.tokens.len()] }
    }

    /// The blocks of a window, each of which is corrupted at a time of its own.
    pub(crate) fn blocks(&self, window: &Window) -> Vec<Range<usize>> {
        document_block_ranges(&self.read_apart(window), self.block_size)
    }

    /// The rows of a pass over a window, which know which of them predicts a position.
    fn rows(&self, window: usize) -> PassRows {
        match self.kind {
            ObjectiveKind::Autoregressive => PassRows::causal(window),
            kind => {
                let clean_half = kind == ObjectiveKind::BlockDiffusion;
                PassRows { window, predicts: self.predicts, clean_half }
            }
        }
    }

    /// The pass over a micro-batch, of which the targets' rows are wanted.
    pub(crate) fn batch(&self, examples: &[Example]) -> Result<Batch> {
        let mut batch = Batch::default();
        for example in examples {
            let wanted = rows_of(&example.targets);
            let sequence = Sequence {
                tokens: &example.input,
                documents: self.document_mask.then_some(&example.documents),
                wanted: Some(&wanted),
                past: 0,
            };
            match self.kind {
                ObjectiveKind::Autoregressive | ObjectiveKind::CausalDiffusion => {
                    batch.push(sequence, AttentionMask::Causal)?;
                }
                ObjectiveKind::FullDiffusion => batch.push(sequence, AttentionMask::Full)?,
                ObjectiveKind::BlockDiffusion => {
                    batch.push_noisy_and_clean(sequence, &example.clean, self.block_size)?;
                }
            }
        }
        Ok(batch)
    }
}

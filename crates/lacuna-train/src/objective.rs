//! Turns a step's windows into examples, and those into a loss and its gradients: the objective that a stage learns
//! by.

use candle_core::Tensor;
use lacuna_data::Window;
use lacuna_model::{Dropout, Transformer};
use lacuna_objective::{CorruptionRule, MaskSampler, Predicts, Targets, draw_times, weighted_loss};
use lacuna_random::{Purpose, stream};
use lacuna_schedules::TimeSampling;
use std::num::NonZeroUsize;

use crate::error::Result;
use crate::example::{Address, Example};
use crate::recipe::ObjectiveKind;

/// The objective of a stage, as plain values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StageObjective {
    /// The kind of objective: next tokens, or masked ones with a view of their surroundings.
    pub kind: ObjectiveKind,
    /// Tokens of a block; if the whole window is corrupted as one block, those of the window.
    pub block_size: NonZeroUsize,
    /// The rule by which tokens are masked and weighted, and that by which times are drawn; `None` for next tokens.
    pub corruption: Option<(CorruptionRule, TimeSampling)>,
    /// The token that the logits at a masked position predict: its own, or the next.
    pub predicts: Predicts,
    /// True if the documents of a window see nothing of each other.
    pub document_mask: bool,
    /// True if only each layer's input is kept for the backward pass.
    pub recompute: bool,
    /// The part of the values that is dropped from what layers add to the residual stream.
    pub dropout: f64,
}

/// A micro-batch's share of a step.
#[derive(Clone, Debug)]
pub struct LossAndGradients {
    /// Σ w·ce / eligible.
    pub loss: f64,
    /// Cross-entropy of every supervised token, in the order of the examples.
    pub nll: Vec<f32>,
    /// The loss's gradient in everything that is trained, in the order of [`Transformer::trained`].
    pub gradients: Vec<Tensor>,
}

impl LossAndGradients {
    /// The sum of two parts of a step, the first one's tokens first.
    pub(crate) fn add(self, part: Self) -> Result<Self> {
        assert_eq!(self.gradients.len(), part.gradients.len(), "two gradients of one model");
        // Each pair goes when its sum is there, so that there are never three gradients in memory.
        let pairs = self.gradients.into_iter().zip(part.gradients);
        let gradients = pairs.map(|(sum, part)| sum + part).collect::<candle_core::Result<_>>()?;
        let mut nll = self.nll;
        nll.extend(part.nll);
        Ok(Self { loss: self.loss + part.loss, nll, gradients })
    }
}

impl StageObjective {
    /// The number of rows made of every window: two for complementary pairs, else one.
    pub fn rows_per_window(&self) -> usize {
        let is_paired =
            |(rule, _): (CorruptionRule, _)| rule.mask_sampler == MaskSampler::ComplementaryPairs;
        if self.corruption.is_some_and(is_paired) { 2 } else { 1 }
    }

    /// Makes a step's windows ready, in the same way for any split into micro-batches: row r's masks come from the
    /// stream (seed, masks, `step`, r), the times of all blocks from (seed, times, `step`, 0). `stage_step` counts
    /// within the stage, for the warmup.
    ///
    /// # Errors
    /// Errors if a window is inconsistent.
    pub fn examples(
        &self,
        windows: &[Window],
        seed: u64,
        step: u64,
        stage_step: u64,
    ) -> Result<Vec<Example>> {
        let Some((rule, sampling)) = self.corruption else {
            let example = |(row, window): (u64, &Window)| Example {
                address: Address { seed, step, row },
                ..Example::next_token(self, window)
            };
            return Ok((0..).zip(windows).map(example).collect());
        };
        let rule = rule.at_step(stage_step)?;
        let blocks: Vec<_> = windows.iter().map(|window| self.blocks(window)).collect();
        let n_blocks = blocks.iter().map(Vec::len).sum();
        let all = draw_times(sampling, n_blocks, &mut stream(seed, Purpose::Times, step, 0));
        let mut rest = all.as_slice();
        let cut = |own: &Vec<_>| rest.split_off(..own.len()).expect("a time for each block");
        let times: Vec<&[f64]> = blocks.iter().map(cut).collect();
        let example = |(r, window): (usize, &Window)| {
            let noise = rule.noise_of(r);
            let mut rng = stream(seed, Purpose::Masks, step, noise.row as u64);
            let example = Example::masked(self, window, &blocks[r], |row| {
                let drawn = rule.corrupt_row(row, times[noise.row], &mut rng)?;
                if noise.complement { rule.complement(row, &drawn) } else { Ok(drawn) }
            })?;
            Ok(Example { address: Address { seed, step, row: r as u64 }, ..example })
        };
        windows.iter().enumerate().map(example).collect()
    }

    /// The loss of a micro-batch, Σ w·ce / eligible, and its gradients; `eligible` counts the whole step's tokens.
    /// `None` if no token of it is supervised: it adds nothing.
    ///
    /// # Errors
    /// Errors if a tensor operation fails.
    pub fn loss_and_gradients(
        &self,
        model: &Transformer,
        examples: &[Example],
        eligible: usize,
    ) -> Result<Option<LossAndGradients>> {
        let targets = Targets::of(examples.iter().flat_map(|example| &example.targets));
        if targets.ids.is_empty() {
            return Ok(None);
        }
        let batch = self.batch(examples)?;
        let (hidden, saved) =
            model.forward_dropping(&batch, self.recompute, self.dropout_of(examples))?;
        let (backend, head) = (model.backend(), model.head()?.detach());
        let loss = weighted_loss(backend, &hidden, &head, &targets, eligible as f64)?;
        let gradients = model.gradients(saved, &loss.hidden, &loss.head)?;
        Ok(Some(LossAndGradients { loss: loss.loss, nll: loss.nll, gradients }))
    }

    /// The values that a pass over these examples drops, by their addresses.
    fn dropout_of(&self, examples: &[Example]) -> Option<Dropout> {
        let first = examples.first().filter(|_| self.dropout > 0.0)?;
        let Address { seed, step, .. } = first.address;
        let samples = examples.iter().map(|example| example.address.row).collect();
        Some(Dropout { rate: self.dropout, seed, step, samples })
    }
}

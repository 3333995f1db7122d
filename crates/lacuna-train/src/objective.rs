//! From windows to supervised tokens to a loss: what each kind of stage learns.

use candle_core::Tensor;
use lacuna_data::Window;
use lacuna_kernels::CrossEntropy;
use lacuna_model::{AttentionMask, Batch, Parameters, Sequence, Transformer};
use lacuna_objective::{
    BlockStats, Corruption, CorruptionRule, MaskSampler, Row, Targets, document_block_ranges,
    draw_times, weighted_loss_gradients, weighted_loss_of_rows,
};
use lacuna_random::{Purpose, stream};
use lacuna_schedules::TimeSampling;
use std::num::NonZeroUsize;
use std::ops::Range;

use crate::error::{Result, TrainError};
use crate::metrics::{BucketMeans, DiffusionMetrics, MASK_RATE_BUCKETS};
use crate::recipe::{ObjectiveKind, Recipe, Stage};
use crate::setup::RunData;

/// One window, ready for the model.
#[derive(Clone, Debug)]
pub struct Example {
    /// What the model reads: the clean tokens, or the noisy ones.
    pub input: Vec<u32>,
    /// The clean tokens.
    pub clean: Vec<u32>,
    /// Lengths of the window's documents.
    pub documents: Vec<usize>,
    /// What is predicted.
    pub targets: Vec<Target>,
    /// Tokens that could be supervised: the denominator of the loss (choice 6).
    pub eligible: usize,
    /// What happened to each block.
    pub blocks: Vec<BlockStats>,
}

/// One supervised token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Target {
    /// The row of the pass whose logits predict it: a position in the window; in block diffusion, a position
    /// in [noisy ; clean], 2·window rows.
    pub row: u32,
    /// The clean token.
    pub token: u32,
    /// Its weight, not normalised.
    pub weight: f32,
    /// The mask rate its block drew.
    pub rate: f32,
    /// Its position in the block.
    pub offset: u32,
}

/// The targets of a micro-batch. Their rows are the batch's to count.
fn gather(examples: &[Example]) -> Targets {
    let mut all = Targets::default();
    for example in examples {
        for target in &example.targets {
            all.rows.push(target.row);
            all.ids.push(target.token);
            all.weights.push(target.weight);
        }
    }
    all
}

/// A micro-batch's share of a step.
#[derive(Clone, Debug)]
pub struct Descent {
    /// Σ w·ce / eligible.
    pub loss: f64,
    /// Cross-entropy of every supervised token, in the order of the examples.
    pub nll: Vec<f32>,
    /// The loss's gradient in every parameter.
    pub gradients: Parameters<Tensor>,
}

/// What a stage learns, with its corruption resolved.
#[derive(Clone, Debug)]
pub struct StageObjective {
    kind: ObjectiveKind,
    document_mask: bool,
    logit_shift: bool,
    block_size: NonZeroUsize,
    corruption: Option<(CorruptionRule, TimeSampling)>,
    recompute: bool,
}

impl StageObjective {
    /// The objective of a stage.
    ///
    /// # Errors
    /// Errors if the corruption is no valid rule or the tokenizer has no MASK.
    pub fn new(stage: &Stage, recipe: &Recipe, data: &RunData) -> Result<Self> {
        let invalid = |reason| TrainError::Recipe { file: recipe.name.clone().into(), reason };
        let corruption = match stage.objective {
            ObjectiveKind::Autoregressive => None,
            _ => Some((
                stage.corruption.rule(data.mask_id()?).map_err(invalid)?,
                stage.corruption.time_sampling().map_err(invalid)?,
            )),
        };
        let block_size = match stage.objective {
            ObjectiveKind::BlockDiffusion => stage.block_size.unwrap_or(recipe.data.window),
            _ => recipe.data.window,
        };
        Ok(Self {
            kind: stage.objective,
            document_mask: recipe.data.document_mask,
            logit_shift: stage.logit_shift,
            block_size: NonZeroUsize::new(block_size).expect("validated: at least 1"),
            corruption,
            recompute: stage.recompute_activations,
        })
    }

    /// Whether tokens are masked.
    pub fn is_diffusion(&self) -> bool {
        self.corruption.is_some()
    }

    /// Two rows of every window, for complementary pairs.
    pub fn rows_per_window(&self) -> usize {
        let paired =
            |(rule, _): &(CorruptionRule, _)| rule.mask_sampler == MaskSampler::ComplementaryPairs;
        if self.corruption.as_ref().is_some_and(paired) { 2 } else { 1 }
    }

    /// Corrupts a step's windows. Row r's masks come from the stream (seed, masks, `step`, r), the times of
    /// all blocks from (seed, times, `step`, 0): the same for any split into micro-batches.
    /// `stage_step` counts within the stage, for the warmup.
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
        let Some((rule, sampling)) = &self.corruption else {
            return Ok(windows.iter().map(|w| self.next_token_example(w)).collect());
        };
        let rule = rule.at_step(stage_step)?;
        let blocks: Vec<Vec<Range<usize>>> = windows.iter().map(|w| self.blocks(w)).collect();
        let n_blocks = blocks.iter().map(Vec::len).sum();
        let times = draw_times(*sampling, n_blocks, &mut stream(seed, Purpose::Times, step, 0));
        let mut first_block = Vec::with_capacity(blocks.len());
        blocks.iter().fold(0, |at, b| {
            first_block.push(at);
            at + b.len()
        });
        let mut examples: Vec<Example> = Vec::with_capacity(windows.len());
        for (r, window) in windows.iter().enumerate() {
            let row = Row::new(&window.tokens, &window.eligible, &blocks[r])?;
            let source = rule.noise_of(r);
            let times = &times[first_block[source.row]..][..blocks[source.row].len()];
            let mut rng = stream(seed, Purpose::Masks, step, source.row as u64);
            let mut corruption = rule.corrupt_row(row, times, &mut rng)?;
            if source.complement {
                corruption = rule.complement(row, &corruption)?;
            }
            examples.push(self.diffusion_example(window, &blocks[r], corruption));
        }
        Ok(examples)
    }

    /// The loss of a micro-batch: Σ w·ce / eligible, `eligible` counting the whole step's tokens. `None` if
    /// no token of it is supervised: it adds nothing. With a graph: the definition of
    /// [`loss_and_gradients`](Self::loss_and_gradients).
    ///
    /// # Errors
    /// Errors if a tensor operation fails.
    pub fn loss(
        &self,
        model: &Transformer,
        examples: &[Example],
        eligible: usize,
    ) -> Result<Option<CrossEntropy>> {
        let targets = gather(examples);
        if targets.ids.is_empty() {
            return Ok(None);
        }
        let hidden = model.forward(&self.batch(examples)?)?;
        Ok(Some(weighted_loss_of_rows(
            model.backend(),
            &hidden,
            &model.head()?,
            &targets,
            eligible as f64,
        )?))
    }

    /// [`loss`](Self::loss) and what it asks of every parameter.
    ///
    /// # Errors
    /// Errors if a tensor operation fails.
    pub fn loss_and_gradients(
        &self,
        model: &Transformer,
        examples: &[Example],
        eligible: usize,
    ) -> Result<Option<Descent>> {
        let targets = gather(examples);
        if targets.ids.is_empty() {
            return Ok(None);
        }
        let (hidden, saved) = model.forward_train(&self.batch(examples)?, self.recompute)?;
        let loss = weighted_loss_gradients(
            model.backend(),
            &hidden,
            &model.head()?.detach(),
            &targets,
            eligible as f64,
        )?;
        let gradients = model.backward(saved, &loss.hidden, &loss.head)?;
        Ok(Some(Descent { loss: loss.loss, nll: loss.nll, gradients }))
    }

    /// The pass over a micro-batch.
    fn batch(&self, examples: &[Example]) -> Result<Batch> {
        let mut batch = Batch::default();
        for example in examples {
            let rows: Vec<u32> = example.targets.iter().map(|target| target.row).collect();
            let sequence = Sequence {
                tokens: &example.input,
                documents: self.document_mask.then_some(&example.documents),
                wanted: Some(&rows),
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

    fn blocks(&self, window: &Window) -> Vec<Range<usize>> {
        if self.document_mask {
            document_block_ranges(&window.documents, self.block_size)
        } else {
            document_block_ranges(&[window.tokens.len()], self.block_size)
        }
    }

    fn next_token_example(&self, window: &Window) -> Example {
        let begins = document_starts(window, self.document_mask);
        let targets =
            (1..window.tokens.len()).filter(|i| window.eligible[*i] && !begins[*i]).map(|i| {
                Target {
                    row: i as u32 - 1,
                    token: window.tokens[i],
                    weight: 1.0,
                    rate: 0.0,
                    offset: 0,
                }
            });
        let targets: Vec<Target> = targets.collect();
        Example {
            input: window.tokens.clone(),
            clean: window.tokens.clone(),
            documents: window.documents.clone(),
            eligible: targets.len(),
            targets,
            blocks: Vec::new(),
        }
    }

    fn diffusion_example(
        &self,
        window: &Window,
        blocks: &[Range<usize>],
        corruption: Corruption,
    ) -> Example {
        let begins = document_starts(window, self.document_mask);
        let mut targets = Vec::new();
        for (block, stats) in blocks.iter().zip(&corruption.blocks) {
            for i in block.clone().filter(|i| corruption.weights[*i] > 0.0) {
                // A shifted head has no logits for a document's first token.
                if self.logit_shift && begins[i] {
                    continue;
                }
                let first_of_block = self.kind == ObjectiveKind::BlockDiffusion && i == block.start;
                let row = match (self.logit_shift, first_of_block) {
                    (false, _) => i,
                    (true, false) => i - 1,
                    // The block before is committed when this one is written: its clean row.
                    (true, true) => window.tokens.len() + i - 1,
                };
                targets.push(Target {
                    row: row as u32,
                    token: window.tokens[i],
                    weight: corruption.weights[i],
                    rate: stats.rate as f32,
                    offset: (i - block.start) as u32,
                });
            }
        }
        Example {
            input: corruption.noisy,
            clean: window.tokens.clone(),
            documents: window.documents.clone(),
            targets,
            eligible: window.eligible.iter().filter(|e| **e).count(),
            blocks: corruption.blocks,
        }
    }

    /// The realised mask rate and what the corruption did, for the metrics.
    pub fn telemetry(
        &self,
        examples: &[Example],
        nll: &[f32],
        stage_step: u64,
    ) -> (Option<f64>, Option<DiffusionMetrics>) {
        let Some((rule, _)) = &self.corruption else { return (None, None) };
        let mut by_rate = BucketMeans::new(MASK_RATE_BUCKETS);
        // Large blocks are shown in 64 equal parts.
        let block_size = self.block_size.get();
        let n_offsets = block_size.min(64);
        let mut by_offset = BucketMeans::new(n_offsets);
        let mut weight_sum = 0.0;
        for (target, nll) in examples.iter().flat_map(|e| &e.targets).zip(nll) {
            let bucket = (f64::from(target.rate) * MASK_RATE_BUCKETS as f64).ceil() as usize;
            by_rate.add(bucket.saturating_sub(1), f64::from(*nll));
            by_offset.add(target.offset as usize * n_offsets / block_size, f64::from(*nll));
            weight_sum += f64::from(target.weight);
        }
        let blocks: Vec<&BlockStats> =
            examples.iter().flat_map(|e| &e.blocks).filter(|b| b.eligible > 0).collect();
        let n_blocks = blocks.len().max(1) as f64;
        let part = |f: &dyn Fn(&BlockStats) -> bool| {
            blocks.iter().filter(|b| f(b)).count() as f64 / n_blocks
        };
        let masked: usize = blocks.iter().map(|b| b.masked).sum();
        let eligible: usize = examples.iter().map(|e| e.eligible).sum();
        let diffusion = DiffusionMetrics {
            mask_rate_cap: rule.warmup.rate_max(stage_step),
            mask_rate_drawn: blocks.iter().map(|b| b.rate).sum::<f64>() / n_blocks,
            mean_weight: weight_sum / nll.len().max(1) as f64,
            zero_mask_fraction: part(&|b| b.masked_before_fallback() == 0),
            forced_fraction: part(&|b| b.forced),
            loss_by_mask_rate: by_rate.means(),
            loss_by_position: by_offset.means(),
        };
        (Some(masked as f64 / eligible.max(1) as f64), Some(diffusion))
    }
}

/// Mean next-token loss of clean windows, without a gradient.
///
/// # Errors
/// Errors if a tensor operation fails.
pub(crate) fn next_token_loss(
    model: &Transformer,
    windows: &[Window],
    document_mask: bool,
) -> Result<f64> {
    let (mut batch, mut targets) = (Batch::default(), Vec::new());
    for window in windows {
        let begins = document_starts(window, document_mask);
        let scored = (1..window.tokens.len()).filter(|i| window.eligible[*i] && !begins[*i]);
        let scored: Vec<usize> = scored.collect();
        let rows: Vec<u32> = scored.iter().map(|i| *i as u32 - 1).collect();
        targets.extend(scored.iter().map(|i| window.tokens[*i]));
        let sequence = Sequence {
            tokens: &window.tokens,
            documents: document_mask.then_some(&window.documents),
            wanted: Some(&rows),
            past: 0,
        };
        batch.push(sequence, AttentionMask::Causal)?;
    }
    let hidden = model.forward(&batch)?;
    let nll = model.token_nll(&hidden, &targets)?;
    Ok(nll.iter().map(|v| f64::from(*v)).sum::<f64>() / nll.len().max(1) as f64)
}

/// Whether each position begins a document that sees nothing before it.
fn document_starts(window: &Window, document_mask: bool) -> Vec<bool> {
    let mut begins = vec![false; window.tokens.len()];
    begins[0] = true;
    if document_mask {
        window.documents.iter().fold(0, |at, len| {
            if let Some(first) = begins.get_mut(at) {
                *first = true;
            }
            at + len
        });
    }
    begins
}

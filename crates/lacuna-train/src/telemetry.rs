//! Says in numbers what a step did, for its line in `metrics.jsonl`.

use lacuna_data::Window;
use lacuna_model::{Predicts, Transformer};
use lacuna_objective::{BlockStats, Targets};
use std::num::NonZeroUsize;
use std::time::Instant;

use crate::checkpoint::Progress;
use crate::error::Result;
use crate::example::Example;
use crate::flop::step_flop;
use crate::metrics::{
    BucketMeans, DiffusionMetrics, MASK_RATE_BUCKETS, MachineMetrics, StepMetrics,
};
use crate::objective::StageObjective;
use crate::recipe::{ObjectiveKind, Stage};
use crate::record::Surroundings;
use crate::step::StepOutcome;

/// A step that was taken.
pub(crate) struct Taken<'a> {
    pub(crate) began: Instant,
    pub(crate) stage: &'a Stage,
    pub(crate) objective: &'a StageObjective,
    pub(crate) windows: Vec<Window>,
    pub(crate) examples: Vec<Example>,
    pub(crate) outcome: StepOutcome,
    /// The place in the stage's data behind the step, in passes over it.
    pub(crate) epoch: f64,
    pub(crate) surroundings: &'a Surroundings,
    /// The figures of the machine that took the step in place of the tensors.
    pub(crate) machine: Option<MachineMetrics>,
}

impl Taken<'_> {
    /// Tells whether the metrics want the next-token loss: the model as it is behind the step, the stage's `stage_step`-th.
    pub(crate) fn reads_the_model(&self, stage_step: u64) -> bool {
        let every = self.stage.autoregressive_loss_every;
        self.objective.corruption.is_some() && every > 0 && stage_step.is_multiple_of(every)
    }

    /// The step's metrics, at the place that the run has come to with it.
    ///
    /// # Errors
    /// Errors if a tensor operation fails.
    pub(crate) fn metrics(
        &self,
        model: &Transformer,
        at: &Progress,
        lr: f64,
    ) -> Result<StepMetrics> {
        let Self { stage, objective, windows, examples, outcome, began, epoch, .. } = self;
        let seconds = began.elapsed().as_secs_f64().max(1e-9);
        let autoregressive_loss = match self.reads_the_model(at.stage_step) {
            true => Some(next_token_loss(model, windows, objective.document_mask)?),
            false => None,
        };
        let (mask_rate, diffusion) = objective.telemetry(examples, &outcome.nll, at.stage_step - 1);
        let flop = step_flop(objective, model.config(), examples)?;
        let machine = self.machine.unwrap_or_else(|| {
            let peak = self.surroundings.machine.peak_flop_per_second.filter(|peak| *peak > 0.0);
            MachineMetrics {
                // A step that read nothing has no share.
                share_of_peak: peak.filter(|_| flop > 0.0).map(|peak| flop / seconds / peak),
                memory_bytes: (self.surroundings.memory_bytes)(),
            }
        });
        let window_tokens: u64 = windows.iter().map(|w| w.tokens.len() as u64).sum();
        Ok(StepMetrics {
            step: at.step,
            stage: stage.name.clone(),
            loss: outcome.loss,
            loss_unweighted: outcome.mean_nll(),
            supervised: outcome.nll.len() as u64,
            grad_norm: outcome.grad_norm,
            grad_norms: outcome.group_norms.clone(),
            clipped_steps: at.clipped_steps,
            lr,
            mask_rate,
            tokens: at.tokens,
            tokens_per_second: window_tokens as f64 / seconds,
            epoch: Some(*epoch),
            flop: Some(flop),
            skipped: at.losses.skipped,
            machine: Some(machine).filter(|machine| *machine != MachineMetrics::default()),
            autoregressive_loss,
            diffusion,
        })
    }
}

impl StageObjective {
    /// The mask rate as it came out, and the figures of the corruption; nothing if tokens are not masked.
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
        let targets = examples.iter().flat_map(|e| e.targets.iter().map(move |t| (e, t)));
        for ((example, target), nll) in targets.zip(nll) {
            let rate = example.blocks[target.block as usize].rate as f32;
            let bucket = (f64::from(rate) * MASK_RATE_BUCKETS as f64).ceil() as usize;
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
    let objective = StageObjective {
        kind: ObjectiveKind::Autoregressive,
        block_size: NonZeroUsize::MIN,
        corruption: None,
        predicts: Predicts::Next,
        document_mask,
        recompute: false,
        dropout: 0.0,
    };
    let examples: Vec<_> = windows.iter().map(|w| Example::next_token(&objective, w)).collect();
    let targets = Targets::of(examples.iter().flat_map(|example| &example.targets));
    let model = model.unrecorded()?;
    let nll = model.token_nll(&model.forward(&objective.batch(&examples)?)?, &targets.ids)?;
    Ok(nll.iter().map(|v| f64::from(*v)).sum::<f64>() / nll.len().max(1) as f64)
}

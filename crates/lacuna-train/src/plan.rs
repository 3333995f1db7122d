//! Says what a recipe will take, before it is run: memory, operations, tokens, passes over the data, time.

use candle_core::Device;
use lacuna_checkpoint::{Config, TrainingMemory, TrainingWork, Weights, shown_size};
use lacuna_model::Transformer;
use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Instant;

use crate::collective::Collective;
use crate::error::Result;
use crate::example::Example;
use crate::flop::step_flop;
use crate::objective::StageObjective;
use crate::recipe::{ObjectiveKind, Recipe, Stage, StageData};
use crate::setup::{RunData, build_model, fresh_config};
use crate::step::{StepSettings, step};

/// A recipe's needs.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Parameters of the model.
    pub parameters: u64,
    /// The memory of the stage that takes most.
    pub memory: TrainingMemory,
    /// Bytes of one checkpoint with the optimizer's state.
    pub checkpoint_bytes: u64,
    /// Training windows and held-out ones, each of `window` tokens.
    pub windows: (usize, usize),
    /// Tokens of a window.
    pub window: usize,
    /// The stages in order.
    pub stages: Vec<StagePlan>,
}

/// A stage's needs.
#[derive(Clone, Debug)]
pub struct StagePlan {
    /// Its name.
    pub name: String,
    /// Its optimizer steps.
    pub steps: u64,
    /// Clean tokens of a step.
    pub tokens_per_step: u64,
    /// Passes over the stage's data.
    pub epochs: f64,
    /// Floating-point operations of a step behind the warmup of the mask rate; see [`step_flop`].
    pub flop_per_step: f64,
    /// The memory that it takes.
    pub memory: TrainingMemory,
    /// Seconds of a step on this machine, the middle one of three; `None` if none was taken.
    pub seconds_per_step: Option<f64>,
}

impl Plan {
    /// Clean tokens of all stages.
    pub fn tokens(&self) -> u64 {
        self.stages.iter().map(|stage| stage.steps.saturating_mul(stage.tokens_per_step)).sum()
    }

    /// Floating-point operations of all stages.
    pub fn flop(&self) -> f64 {
        self.stages.iter().map(|stage| stage.steps as f64 * stage.flop_per_step).sum()
    }

    /// Seconds of all stages on this machine, if every one was measured: steps alone, without scoring and saving.
    pub fn seconds(&self) -> Option<f64> {
        let seconds = |stage: &StagePlan| Some(stage.steps as f64 * stage.seconds_per_step?);
        self.stages.iter().map(seconds).sum()
    }
}

/// Plans a recipe: opens its data, and counts. Where `measures` says that its memory may be taken, each stage takes four
/// steps in memory, of which three are timed. Nothing is written but packed text, into `cache`.
///
/// # Errors
/// As of a run that begins.
pub fn plan(
    recipe: &Recipe,
    (device, cache): (&Device, &Path),
    measures: &mut dyn FnMut(&TrainingMemory) -> bool,
) -> Result<Plan> {
    let data = RunData::open(recipe, cache, &mut |_| {})?;
    let config = config_of(recipe, &data)?;
    let mut stages = Vec::new();
    for stage in &recipe.stage {
        stages.push(Planned::new(recipe, &data, stage)?.counted(&config)?);
    }
    let memory = stages.iter().map(|stage| stage.memory).max_by_key(|memory| memory.total());
    let memory = memory.expect("validated: a stage");
    if measures(&memory) {
        let mut model = build_model(recipe, &data, None, device, &mut |_| {})?;
        for (stage, planned) in recipe.stage.iter().zip(&mut stages) {
            model.set_mode(data.mode(stage)?);
            model.set_predicts(stage.predicts());
            model.set_attention(stage.attention());
            let seconds = Planned::new(recipe, &data, stage)?.seconds(&model)?;
            planned.seconds_per_step = Some(seconds);
        }
    }
    let side: u64 = data.side_files().iter().map(|(_, text)| text.len() as u64).sum();
    Ok(Plan {
        parameters: config.parameter_count(),
        memory,
        checkpoint_bytes: checkpoint_bytes(recipe, &config).saturating_add(side),
        windows: (data.train.dataset().windows(), data.held_out.windows()),
        window: recipe.data.window,
        stages,
    })
}

/// The configuration of the model that a recipe trains.
fn config_of(recipe: &Recipe, data: &RunData) -> Result<Config> {
    match &recipe.model.from {
        Some(from) => Ok(Weights::inspect(from)?.config().clone()),
        None => fresh_config(recipe, data),
    }
}

/// The bytes of a checkpoint's tensors: the weights or the adapters as they are written, and of everything that is
/// trained its moments and f32 copies.
fn checkpoint_bytes(recipe: &Recipe, config: &Config) -> u64 {
    let trained = recipe.trained(config);
    let weights = match recipe.lora {
        Some(_) => 4 * trained.adapters,
        None => {
            let bytes = recipe.written_dtype().size_in_bytes() as u64;
            config.parameter_count().saturating_mul(bytes)
        }
    };
    weights
        .saturating_add(trained.moment_bytes())
        .saturating_add(trained.numbers.saturating_mul(4 * trained.copies))
}

/// Refuses a run on the CPU that would take more memory than it may.
///
/// # Errors
/// Says what the largest stage takes, part by part, and which keys would make it fit.
pub(crate) fn check_memory(
    recipe: &Recipe,
    data: &RunData,
    ranks: usize,
    limit: u64,
) -> Result<()> {
    let config = config_of(recipe, data)?;
    for (i, stage) in recipe.stage.iter().enumerate() {
        let planned = Planned::new(recipe, data, stage)?;
        let own = planned.shape();
        let memory = planned.memory(&config, own, ranks);
        if memory.total() <= limit {
            continue;
        }
        // A pair of complementary masks is not taken apart.
        let smallest = planned.objective.rows_per_window();
        let remedies = [
            PassShape { recompute: true, ..own },
            PassShape { micro_batch: smallest, ..own },
            PassShape { micro_batch: smallest, recompute: true },
        ];
        let fitting = remedies.into_iter().find_map(|shape| {
            let total = planned.memory(&config, shape, ranks).total();
            (total <= limit)
                .then(|| format!("{} needs about {}; ", shape.keys(i, own), shown_size(total)))
        });
        return Err(recipe.fault(format!(
            "{} needs about {}; {} may be taken; {}--memory unlimited tries it all the same",
            stage.place(i),
            told(memory),
            shown_size(limit),
            fitting.unwrap_or_default()
        )));
    }
    Ok(())
}

/// Memory part by part, in words.
fn told(memory: TrainingMemory) -> String {
    let TrainingMemory { weights, gradients, moments, copies, activations, program } = memory;
    let parts = [
        (weights, "weights"),
        (gradients, "gradients"),
        (moments, "moments"),
        (copies, "further copies of weights"),
        (activations, "activations"),
        (program, "program and tokenizer"),
    ];
    let parts = parts.into_iter().filter(|(bytes, _)| *bytes > 0);
    let parts: Vec<_> = parts.map(|(bytes, of)| format!("{} of {of}", shown_size(bytes))).collect();
    format!("{}: {}", shown_size(memory.total()), parts.join(", "))
}

/// The shape of a pass, as far as a recipe's keys decide it.
#[derive(Clone, Copy, PartialEq, Eq)]
struct PassShape {
    micro_batch: usize,
    recompute: bool,
}

impl PassShape {
    /// The keys of stage `i` that make this shape of `other`.
    fn keys(self, i: usize, other: Self) -> String {
        let recompute = (self.recompute != other.recompute)
            .then(|| format!("stage.{i}.recompute_activations = {}", self.recompute));
        let micro_batch = (self.micro_batch != other.micro_batch)
            .then(|| format!("stage.{i}.micro_batch_size = {}", self.micro_batch));
        let keys: Vec<_> = micro_batch.into_iter().chain(recompute).collect();
        keys.join(" with ")
    }
}

/// A stage on its way to a plan, with examples of a step behind the warmup.
struct Planned<'a> {
    recipe: &'a Recipe,
    stage: &'a Stage,
    objective: StageObjective,
    examples: Vec<Example>,
    /// Windows that the stage is taken from.
    windows: usize,
}

impl<'a> Planned<'a> {
    fn new(recipe: &'a Recipe, data: &RunData, stage: &'a Stage) -> Result<Self> {
        let objective = data.objective(recipe, stage)?;
        let batches = match (stage.data, &data.sft) {
            (StageData::Sft, Some(sft)) => sft,
            _ => &data.train,
        };
        let times = objective.rows_per_window();
        let count = NonZeroUsize::new(stage.batch_size / times).expect("validated: at least one");
        let rows = batches.rows(0, count)?.into_iter();
        let windows: Vec<_> = rows.flat_map(|row| std::iter::repeat_n(row.window, times)).collect();
        let examples = objective.examples(&windows, recipe.seed, 0, stage.steps - 1)?;
        Ok(Self { recipe, stage, objective, examples, windows: batches.dataset().windows() })
    }

    fn counted(&self, config: &Config) -> Result<StagePlan> {
        let Self { recipe, stage, objective, examples, windows } = self;
        let seen = stage.steps as f64 * (stage.batch_size / objective.rows_per_window()) as f64;
        Ok(StagePlan {
            name: stage.name.clone(),
            steps: stage.steps,
            tokens_per_step: (stage.batch_size * recipe.data.window) as u64,
            epochs: seen / (*windows).max(1) as f64,
            flop_per_step: step_flop(objective, config, examples)?,
            memory: self.memory(config, self.shape(), 1),
            seconds_per_step: None,
        })
    }

    /// The shape of a pass as the recipe has it.
    fn shape(&self) -> PassShape {
        let Stage { micro_batch_size, batch_size, recompute_activations, .. } = self.stage;
        let micro_batch = micro_batch_size.unwrap_or(*batch_size);
        PassShape { micro_batch, recompute: *recompute_activations }
    }

    /// The memory of each of some ranks, which share out micro-batches and optimizer.
    fn memory(&self, config: &Config, shape: PassShape, ranks: usize) -> TrainingMemory {
        let Self { recipe, stage, examples, .. } = self;
        let PassShape { micro_batch, recompute } = shape;
        let halves = match stage.objective {
            ObjectiveKind::BlockDiffusion => 2,
            _ => 1,
        };
        let predicted: usize = examples.iter().map(|example| example.targets.len()).sum();
        let trained = recipe.trained(config);
        let memory = config.training_memory(TrainingWork {
            rows: micro_batch * recipe.data.window * halves,
            predicted: predicted * micro_batch / examples.len().max(1),
            micro_batches: stage.batch_size.div_ceil(micro_batch).div_ceil(ranks),
            recompute,
            trained,
        });
        let ranks = ranks as u64;
        let (moments, copies) = (memory.moments.div_ceil(ranks), memory.copies.div_ceil(ranks));
        // At the end a model is made of the running means, for which memory that was freed has not always the room.
        let averaged = if recipe.optimizer.ema_decay > 0.0 { 4 * trained.numbers } else { 0 };
        let copies = copies + averaged;
        TrainingMemory { moments, copies, ..memory }
    }

    /// The middle of three steps, after one that nobody times.
    fn seconds(&self, model: &Transformer) -> Result<f64> {
        let mut optimizer = self.recipe.optimizer_of(model, &Collective::Alone)?;
        let settings = StepSettings {
            micro_batch_size: self.stage.micro_batch_size.unwrap_or(self.stage.batch_size),
            learning_rate: 0.0,
            collective: &Collective::Alone,
            skip_above: None,
        };
        let mut seconds = [0.0; 4];
        for taken in &mut seconds {
            let began = Instant::now();
            step(model, &self.objective, &mut optimizer, &self.examples, settings)?;
            *taken = began.elapsed().as_secs_f64();
        }
        let timed = &mut seconds[1..];
        timed.sort_by(f64::total_cmp);
        Ok(timed[1])
    }
}

//! Keeps a model in training on a machine: its state from step to step, micro-batches whose gradients add up, updates.

use half::bf16;

use crate::arena::{Arena, Region};
use crate::batch::{ListSizes, Lists, Rows, TrainingBatch};
use crate::error::{Error, Result};
use crate::launch::{Bytes, Machine, Recording, Upload};
use crate::layout::{Layout, Place};
use crate::step::{Optimizer, StepOptions, TrainingStep, Update};

/// A model in training on a machine.
///
/// A step is any number of [`micro_batch`](Self::micro_batch)es, whose gradients add up in f32, then a look at
/// [`gradient_norm`](Self::gradient_norm), then an [`update`](Self::update). Batches of as many rows, and of about as many
/// wanted ones, have one plan, which the machine records once and plays again.
#[derive(Debug)]
pub struct Training<'m> {
    machine: Hidden<'m>,
    layout: Layout,
    options: StepOptions,
    optimizer: Optimizer,
    update: Update,
    /// The recordings of the norm and of the update, once they are made.
    updates: Option<[Recording; 2]>,
    plans: Vec<Kept>,
    counts: TrainingCounts,
    /// Micro-batches since the last update.
    added: usize,
    /// Bytes that the machine has been asked for.
    reserved: u64,
    peak: u64,
}

/// The work of training so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TrainingCounts {
    /// Plans of micro-batches that were made and recorded.
    pub plans: u64,
    /// Micro-batches: recordings that were played.
    pub micro_batches: u64,
}

/// Plans that are kept; of more the one that was played longest ago is dropped.
const MOST_PLANS: usize = 16;

/// A plan that is recorded, with what it is for.
#[derive(Clone, Copy, Debug)]
struct Kept {
    sizes: ListSizes,
    recompute: bool,
    adds: bool,
    /// The first byte of the batch's lists.
    lists: u64,
    loss: u64,
    nll: u64,
    recording: Recording,
    /// The number of the micro-batch that it was played for last.
    played: u64,
}

/// A machine, of which there is nothing to show.
struct Hidden<'m>(&'m mut dyn Machine);

impl std::fmt::Debug for Hidden<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Machine")
    }
}

/// A parameter's numbers and what AdamW keeps of it.
#[derive(Clone, PartialEq, Debug)]
pub struct ParameterState {
    /// The numbers in f32; kernels read them rounded to bf16.
    pub master: Vec<f32>,
    /// The first moment.
    pub first: Vec<f32>,
    /// The second moment.
    pub second: Vec<f32>,
}

/// The results of a micro-batch.
#[derive(Clone, PartialEq, Debug)]
pub struct MicroBatch {
    /// The sum of weighted losses.
    pub loss: f64,
    /// The loss of each wanted row in nats, unweighted.
    pub nll: Vec<f32>,
    /// Operations of the products that a step is made of, as [`TrainingStep::operations`] counts them.
    pub operations: f64,
}

impl<'m> Training<'m> {
    /// A model before its state is written: [`write`](Self::write) every parameter of the [`Layout`] then.
    ///
    /// `options.optimizer`, `options.adds` and `options.rounds` are not looked at: this decides when there is an update,
    /// what is added to, and which batches share a plan.
    ///
    /// # Errors
    /// Errors if the model has no kernels, or the machine no room for its state.
    pub fn new(
        machine: &'m mut dyn Machine,
        layout: Layout,
        options: &StepOptions,
        optimizer: Optimizer,
    ) -> Result<Self> {
        let update = Update::new(&layout, options.card, optimizer)?;
        let bytes = update.arena_bytes();
        let machine = Hidden(machine);
        let mut training = Self {
            machine,
            layout,
            options: StepOptions { optimizer: None, rounds: true, ..*options },
            optimizer,
            update,
            updates: None,
            plans: Vec::new(),
            counts: TrainingCounts::default(),
            added: 0,
            reserved: 0,
            peak: bytes,
        };
        training.machine.0.reserve(bytes)?;
        training.reserved = bytes;
        training.write_tables()?;
        Ok(training)
    }

    /// The places of the parameters, for [`read`](Self::read) and [`write`](Self::write).
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The most bytes of the machine's memory that any step has taken.
    pub fn peak_bytes(&self) -> u64 {
        self.peak
    }

    /// Decides for the micro-batches to come if of each layer only its input is kept.
    pub fn set_recompute(&mut self, recompute: bool) {
        self.options.recompute = recompute;
    }

    /// Writes a parameter's state.
    ///
    /// # Errors
    /// Errors if the numbers are not as many as the parameter's, or the machine fails.
    pub fn write(&mut self, place: Place, state: &ParameterState) -> Result<()> {
        let ParameterState { master, first, second } = state;
        let counts = [master.len(), first.len(), second.len()];
        if counts.iter().any(|count| *count != place.len) {
            let reason =
                format!("{counts:?} numbers of a parameter's state, expected {}", place.len);
            return Err(Error::Input(reason));
        }
        let rounded: Vec<bf16> = master.iter().map(|x| bf16::from_f32(*x)).collect();
        let floats = |list: &[f32]| Bytes::of(list, f32::to_ne_bytes);
        let all = [
            (place.values, Bytes::of(&rounded, bf16::to_ne_bytes)),
            (place.master, floats(master)),
            (place.first, floats(first)),
            (place.second, floats(second)),
        ];
        all.into_iter().try_for_each(|(at, data)| self.machine.0.write(at, &data))
    }

    /// Reads a parameter's state.
    ///
    /// # Errors
    /// Errors if the machine fails.
    pub fn read(&mut self, place: Place) -> Result<ParameterState> {
        let mut floats = |at| self.floats(at, place.len);
        let (master, first, second) =
            (floats(place.master)?, floats(place.first)?, floats(place.second)?);
        Ok(ParameterState { master, first, second })
    }

    /// Adds the gradients of a batch to those of the step's batches before.
    ///
    /// # Errors
    /// Errors if the batch does not fit the model or the machine's memory, or the machine fails.
    pub fn micro_batch(&mut self, batch: TrainingBatch<'_>) -> Result<MicroBatch> {
        let rows = Rows::new(batch, &self.layout, true)?;
        let lists = rows.lists(self.layout.config.vocab_size, true);
        let operations = rows.operations(&self.layout.config);
        let at = self.plan(lists.sizes, &lists.all)?;
        let Kept { lists: place, loss, nll, recording, .. } = self.plans[at];
        if let Some(Upload { data, .. }) = Upload::joined(placed(place, lists.all)) {
            self.machine.0.write(place, &data)?;
        }
        self.machine.0.play(recording)?;
        self.counts.micro_batches += 1;
        self.plans[at].played = self.counts.micro_batches;
        self.added += 1;
        let mut bytes = [0; 8];
        self.machine.0.read(loss, &mut bytes)?;
        let nll = self.floats(nll, batch.wanted.len())?;
        Ok(MicroBatch { loss: f64::from_ne_bytes(bytes), nll, operations })
    }

    /// Its work so far.
    pub fn counts(&self) -> TrainingCounts {
        self.counts
    }

    /// The place of the plan for lists of these sizes among those that are kept; it is made where it is not there.
    fn plan(&mut self, sizes: ListSizes, lists: &[Bytes]) -> Result<usize> {
        let options = StepOptions { adds: self.added > 0, ..self.options };
        let StepOptions { recompute, adds, .. } = options;
        let of = (sizes, recompute, adds);
        let fits = |kept: &Kept| (kept.sizes, kept.recompute, kept.adds) == of;
        if let Some(at) = self.plans.iter().position(fits) {
            return Ok(at);
        }
        let all = lists.to_vec();
        let step = TrainingStep::of_lists(&self.layout, Lists { sizes, all }, (0., 0), &options)?;
        // It may drop what is recorded.
        self.reserve(step.plan.arena_bytes)?;
        self.peak = self.peak.max(step.plan.arena_bytes);
        if self.plans.len() == MOST_PLANS {
            let oldest = self.plans.iter().enumerate().min_by_key(|(_, kept)| kept.played);
            let oldest = oldest.map_or(0, |(at, _)| at);
            self.machine.0.forget(self.plans.swap_remove(oldest).recording);
        }
        let recording = self.machine.0.record(&step.plan.steps)?;
        self.counts.plans += 1;
        let lists = step.plan.uploads.first().map_or(0, |first| first.at);
        let TrainingStep { loss, nll, .. } = step;
        let played = self.counts.micro_batches;
        self.plans.push(Kept { sizes, recompute, adds, lists, loss, nll, recording, played });
        Ok(self.plans.len() - 1)
    }

    /// The norm of the sum of all gradients, before it is clipped.
    ///
    /// # Errors
    /// Errors if the machine fails.
    pub fn gradient_norm(&mut self) -> Result<f64> {
        let [norm, _] = self.updates()?;
        self.machine.0.play(norm)?;
        Ok(f64::from(self.floats(self.layout.norm, 1)?[0]))
    }

    /// Updates every parameter by the gradients whose norm was looked at last. `step` counts updates from 1.
    ///
    /// # Errors
    /// Errors if there are no gradients, or the machine fails.
    pub fn update(&mut self, step: u64, learning_rate: f64) -> Result<()> {
        if self.added == 0 {
            return Err(Error::Input("an update without a micro-batch".into()));
        }
        let numbers = self.optimizer.step(step, learning_rate);
        self.machine.0.write(self.layout.step, &numbers)?;
        let [_, update] = self.updates()?;
        self.machine.0.play(update)?;
        self.added = 0;
        Ok(())
    }

    /// The recordings of the norm and of the update.
    fn updates(&mut self) -> Result<[Recording; 2]> {
        if let Some(updates) = self.updates {
            return Ok(updates);
        }
        let Update { norm, step } = &self.update;
        let updates = [self.machine.0.record(&norm.steps)?, self.machine.0.record(&step.steps)?];
        self.updates = Some(updates);
        Ok(updates)
    }

    /// Sees to it that an arena has this many bytes. One that grows gets an eighth more behind the state where there is
    /// room: batches differ a little in what they take. What was recorded is lost.
    fn reserve(&mut self, bytes: u64) -> Result<()> {
        if bytes <= self.reserved {
            return Ok(());
        }
        let Region { at, bytes: state } = self.layout.region();
        self.plans.clear();
        self.updates = None;
        let larger = bytes + (bytes - state) / 8;
        // Of an arena that could not grow nothing may be left.
        self.reserved = 0;
        self.reserved = self.machine.0.grow(larger, bytes, at..at + state)?;
        self.write_tables()
    }

    /// Writes the tables, whose pointers lead into the arena where it lies now.
    fn write_tables(&mut self) -> Result<()> {
        let mut uploads = self.layout.uploads().iter();
        uploads.try_for_each(|upload| self.machine.0.write(upload.at, &upload.data))
    }

    fn floats(&mut self, at: u64, n: usize) -> Result<Vec<f32>> {
        let mut bytes = vec![0; 4 * n];
        self.machine.0.read(at, &mut bytes)?;
        let words = bytes.chunks_exact(4);
        Ok(words.map(|word| f32::from_ne_bytes([word[0], word[1], word[2], word[3]])).collect())
    }
}

/// Lists one behind the other from a place on, as a plan lays them.
fn placed(at: u64, lists: Vec<Bytes>) -> Vec<Upload> {
    let mut arena = Arena::behind(at);
    let upload = |data: Bytes| Upload { at: arena.take(data.bytes.len() as u64).at, data };
    lists.into_iter().map(upload).collect()
}

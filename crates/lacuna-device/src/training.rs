//! Keeps a model in training on a machine: its state from step to step, micro-batches whose gradients add up, updates.

use half::bf16;

use crate::arena::Region;
use crate::batch::TrainingBatch;
use crate::error::{Error, Result};
use crate::launch::{Bytes, Machine, Plan};
use crate::layout::{Layout, Place};
use crate::step::{Optimizer, StepOptions, TrainingStep, Update};

/// A model in training on a machine.
///
/// A step is any number of [`micro_batch`](Self::micro_batch)es, whose gradients add up in f32, then a look at
/// [`gradient_norm`](Self::gradient_norm), then an [`update`](Self::update).
#[derive(Debug)]
pub struct Training<'m> {
    machine: Hidden<'m>,
    layout: Layout,
    options: StepOptions,
    optimizer: Optimizer,
    update: Update,
    /// Micro-batches since the last update.
    added: usize,
    /// Bytes that the machine has been asked for.
    reserved: u64,
    peak: u64,
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
    /// `options.optimizer` and `options.adds` are not looked at: this decides when there is an update, and what is
    /// added to.
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
        let (options, added) = (StepOptions { optimizer: None, ..*options }, 0);
        let mut training =
            Self { machine, layout, options, optimizer, update, added, reserved: 0, peak: bytes };
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
        let options = StepOptions { adds: self.added > 0, ..self.options };
        let step = TrainingStep::new(&self.layout, batch, &options)?;
        self.run(&step.plan)?;
        self.added += 1;
        let mut loss = [0; 8];
        self.machine.0.read(step.loss, &mut loss)?;
        let nll = self.floats(step.nll, step.wanted)?;
        let loss = f64::from_ne_bytes(loss);
        Ok(MicroBatch { loss, nll, operations: step.operations })
    }

    /// The norm of the sum of all gradients, before it is clipped.
    ///
    /// # Errors
    /// Errors if the machine fails.
    pub fn gradient_norm(&mut self) -> Result<f64> {
        self.machine.0.run(&self.update.norm.steps)?;
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
        self.machine.0.run(&self.update.step.steps)?;
        self.added = 0;
        Ok(())
    }

    fn run(&mut self, plan: &Plan) -> Result<()> {
        self.reserve(plan.arena_bytes)?;
        self.peak = self.peak.max(plan.arena_bytes);
        for upload in &plan.uploads {
            self.machine.0.write(upload.at, &upload.data)?;
        }
        self.machine.0.run(&plan.steps)
    }

    /// Sees to it that an arena has this many bytes. One that grows loses what it held, so the state is carried over by
    /// way of the host, and the arena gets an eighth more than is asked for: batches differ a little in what they take.
    fn reserve(&mut self, bytes: u64) -> Result<()> {
        if bytes <= self.reserved {
            return Ok(());
        }
        let Region { at, bytes: state_bytes } = self.layout.region();
        let too_large = |_| Error::Input(format!("a state of {state_bytes} bytes"));
        let mut state = vec![0; usize::try_from(state_bytes).map_err(too_large)?];
        self.machine.0.read(at, &mut state)?;
        let larger = bytes + (bytes - state_bytes) / 8;
        self.reserved = match self.machine.0.reserve(larger) {
            Ok(()) => larger,
            Err(_) => self.machine.0.reserve(bytes).map(|()| bytes)?,
        };
        self.machine.0.write(at, &Bytes { bytes: state, pointers: Vec::new() })?;
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

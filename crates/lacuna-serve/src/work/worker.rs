//! Runs the thread that decodes: between two passes it hears orders, drops who is gone, reads a part of a prompt.

use lacuna_engine::{
    Completion, Engine, EngineOptions, Event, FinishReason, Id, MemoryLimit, Model, Reading,
};
use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

use super::cost::Costs;
use super::job::{Job, Place, Reply, Seen, Task, Written};
use super::queue::{Class, Queue};
use crate::metrics::Metrics;

/// The way to the thread.
pub(crate) type Orders = mpsc::UnboundedSender<Job>;

/// Editors that are decoded beside as many others as there may be.
const EDITORS: usize = 2;

/// The share of what is read between two passes that a prompt gets which nobody waits for, while others are decoded.
const BACKGROUND_SHARE: usize = 4;

/// The settings of the thread.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) running_max: NonZeroUsize,
    pub(crate) prompt_rows: NonZeroUsize,
    pub(crate) prefix_bytes: u64,
    pub(crate) memory: MemoryLimit,
    pub(crate) block_size: NonZeroUsize,
    pub(crate) costs: Costs,
}

/// The things that handlers see of the thread.
#[derive(Clone, Debug)]
pub(crate) struct Counters {
    pub(crate) metrics: Arc<Metrics>,
    /// Set when all that is under way is to end.
    pub(crate) ending: Arc<AtomicBool>,
}

/// Starts the thread; it ends when all senders of orders are dropped and nothing is left to do.
pub(crate) fn start(
    model: Arc<Model>,
    settings: Settings,
    counters: Counters,
) -> std::io::Result<(Orders, std::thread::JoinHandle<()>)> {
    let (to, orders) = mpsc::unbounded_channel();
    let run = move || Worker::new(&model, settings, counters, orders).run();
    let thread = std::thread::Builder::new().name("decode".into()).spawn(run)?;
    Ok((to, thread))
}

/// A request whose prompt is being read.
#[derive(Debug)]
pub(super) struct Opening {
    pub(super) job: Job,
    reading: Reading,
    began: Instant,
}

/// A request that is decoded with others.
#[derive(Debug)]
struct Running {
    job: Job,
    remembered: usize,
    prompt_seconds: f64,
    joined: Instant,
    /// Tokens of its prompt, and those that its key was charged for.
    prompt_tokens: usize,
    blocks: usize,
}

/// A request that is decoded by itself, a pass at a time, with a pass of all others after each of its own.
#[derive(Debug)]
pub(super) enum Solo {
    Edit { opening: Box<Opening>, draft: Vec<u32> },
    Score { job: Job, tokens: Vec<u32>, best: usize },
}

#[derive(Debug)]
pub(super) struct Worker<'m> {
    pub(super) model: &'m Model,
    pub(super) engine: Engine<'m>,
    settings: Settings,
    counters: Counters,
    orders: mpsc::UnboundedReceiver<Job>,
    /// No more orders come.
    closed: bool,
    queue: Queue<Job>,
    /// At most one of each class.
    openings: Vec<Opening>,
    running: BTreeMap<Id, Running>,
    solos: VecDeque<Solo>,
    /// A solo is under way.
    pub(super) is_solo: bool,
    pub(super) solo_passes: usize,
}

impl<'m> Worker<'m> {
    fn new(
        model: &'m Model,
        settings: Settings,
        counters: Counters,
        orders: mpsc::UnboundedReceiver<Job>,
    ) -> Self {
        let running_max = settings.running_max.saturating_add(EDITORS);
        let options = EngineOptions { running_max, memory: settings.memory, details: true };
        let engine = Engine::new(model, options).remembering(settings.prefix_bytes);
        Self {
            model,
            engine,
            settings,
            counters,
            orders,
            closed: false,
            queue: Queue::new(),
            openings: Vec::new(),
            running: BTreeMap::new(),
            solos: VecDeque::new(),
            is_solo: false,
            solo_passes: 0,
        }
    }

    fn run(mut self) {
        loop {
            if self.is_idle() {
                self.publish();
                match self.orders.blocking_recv() {
                    Some(job) => self.take(job),
                    None => return,
                }
            }
            self.turn();
            if let Some(solo) = self.solos.pop_front() {
                self.is_solo = true;
                self.alone(solo);
                self.is_solo = false;
            }
        }
    }

    fn is_idle(&self) -> bool {
        self.queue.is_empty()
            && self.openings.is_empty()
            && self.running.is_empty()
            && self.solos.is_empty()
    }

    /// All that happens between two passes, and a pass of all that are decoded together.
    pub(super) fn turn(&mut self) {
        while !self.closed {
            match self.orders.try_recv() {
                Ok(job) => self.take(job),
                Err(mpsc::error::TryRecvError::Empty) => break,
                Err(mpsc::error::TryRecvError::Disconnected) => self.closed = true,
            }
        }
        self.drop_gone();
        self.read_prompts();
        if !self.engine.is_empty() {
            for event in self.engine.step() {
                self.tell(event);
            }
            self.end_late();
        }
        self.publish();
    }

    pub(super) fn is_ending(&self) -> bool {
        self.counters.ending.load(Ordering::Relaxed)
    }

    fn take(&mut self, job: Job) {
        if job.class == Class::Background {
            // Only the newest text of an editor is worth reading ahead.
            let slot = job.slot;
            self.queue.drop_if(|other| other.class == Class::Background && other.slot == slot);
        }
        self.queue.push(job.class, job.key, job);
    }

    /// Ends what nobody listens to any more, and everything once the server is to end.
    fn drop_gone(&mut self) {
        let ending = self.is_ending();
        let mut gone = self.queue.drop_if(|job| ending || job.is_gone());
        for at in (0..self.openings.len()).rev() {
            if ending || self.openings[at].job.is_gone() {
                let Opening { reading, .. } = self.openings.remove(at);
                self.engine.abandon(reading);
                gone += 1;
            }
        }
        let left: Vec<Id> = self
            .running
            .iter()
            .filter(|(_, one)| ending || one.job.is_gone())
            .map(|(id, _)| *id)
            .collect();
        for id in left {
            self.cancel(id);
            gone += 1;
        }
        let before = self.solos.len();
        self.solos.retain(|solo| !ending && !solo.job().is_gone());
        gone += before - self.solos.len();
        Metrics::add(&self.counters.metrics.cancelled, gone);
    }

    /// Ends a request of which nothing is told any more.
    fn cancel(&mut self, id: Id) -> Option<(Running, Completion)> {
        let one = self.running.remove(&id)?;
        let completion = self.engine.cancel(id).ok()?;
        Some((one, completion))
    }

    /// Reads so many tokens of prompts, those of editors first, and lets the requests join whose prompts are read.
    fn read_prompts(&mut self) {
        let mut rows = self.settings.prompt_rows.get();
        while rows > 0 {
            for class in Class::ALL {
                if !self.openings.iter().any(|opening| opening.job.class == class)
                    && self.has_room(class)
                {
                    self.open(class);
                }
            }
            let Some(at) = self.next_opening() else { return };
            let opening = &mut self.openings[at];
            let before = self.engine.prompt_rows();
            if opening.job.class == Class::Background && !self.running.is_empty() {
                // Nobody waits for it, and others wait while it is read.
                rows = rows.min(self.settings.prompt_rows.get() / BACKGROUND_SHARE);
            }
            let part = NonZeroUsize::new(rows).unwrap_or(NonZeroUsize::MIN);
            let read = self.engine.read(&mut opening.reading, part);
            let taken = self.engine.prompt_rows() - before;
            rows = rows.saturating_sub(taken.max(1));
            self.queue.charge(self.openings[at].job.key, taken);
            match read {
                Ok(false) => {}
                Ok(true) => {
                    let opening = self.openings.remove(at);
                    self.join(opening);
                }
                Err(error) => {
                    let Opening { job, reading, .. } = self.openings.remove(at);
                    self.engine.abandon(reading);
                    job.tell(Reply::Failed(error.to_string()));
                }
            }
        }
    }

    /// The prompt that is read next: an editor's before others', and a background one only when nobody waits.
    fn next_opening(&self) -> Option<usize> {
        let classes = self.openings.iter().enumerate().map(|(at, one)| (one.job.class, at));
        classes.min().map(|(_, at)| at)
    }

    /// Tells whether another request of a class may begin.
    fn has_room(&self, class: Class) -> bool {
        let others = |one: &&Opening| one.job.class != Class::Background;
        let taken = self.running.len()
            + self.openings.iter().filter(others).count()
            + self.solos.len()
            + usize::from(self.is_solo);
        let deadline = self.running.values().filter_map(|one| one.job.deadline).min();
        let Settings { running_max, block_size, costs, .. } = &self.settings;
        match class {
            Class::Editor => taken < running_max.get() + EDITORS,
            Class::Batch => taken < costs.at_once(*block_size, deadline, running_max.get()),
            Class::Background => true,
        }
    }

    /// Begins to read the prompt of the next request of a class, if one waits.
    fn open(&mut self, class: Class) {
        let Some(mut job) = self.queue.pop(class) else { return };
        if let Some(slot) = job.slot {
            self.end_reading_ahead(slot);
        }
        let task = std::mem::replace(&mut job.task, Task::Score { tokens: Vec::new(), best: 0 });
        let request = match task {
            Task::Score { tokens, best } => {
                self.queue.charge(job.key, tokens.len());
                return self.solos.push_back(Solo::Score { job, tokens, best });
            }
            Task::Edit { request, draft } => {
                job.task = Task::Edit { request: request.clone(), draft };
                request
            }
            Task::Write(request) | Task::Read(request) => request,
        };
        match self.engine.begin(*request, job.slot) {
            Ok(reading) => {
                Metrics::add(&self.counters.metrics.remembered_tokens, reading.remembered());
                self.openings.push(Opening { job, reading, began: Instant::now() });
            }
            Err(error) => {
                job.tell(Reply::Refused(error.to_string()));
            }
        }
    }

    /// Leaves what was read ahead for an editor to its next request.
    fn end_reading_ahead(&mut self, slot: u64) {
        let ahead =
            |one: &Opening| one.job.class == Class::Background && one.job.slot == Some(slot);
        while let Some(at) = self.openings.iter().position(ahead) {
            let Opening { reading, .. } = self.openings.remove(at);
            self.engine.abandon(reading);
        }
    }

    /// A request whose prompt is read goes on.
    fn join(&mut self, mut opening: Opening) {
        match std::mem::replace(&mut opening.job.task, Task::Score { tokens: Vec::new(), best: 0 })
        {
            Task::Edit { draft, .. } => {
                self.solos.push_back(Solo::Edit { opening: Box::new(opening), draft });
            }
            _ if opening.job.class == Class::Background => self.engine.abandon(opening.reading),
            _ => {
                let Opening { job, reading, began } = opening;
                let remembered = reading.remembered();
                let prompt_tokens = reading.request().prompt.len();
                let joined = Instant::now();
                let prompt_seconds = (joined - began).as_secs_f64();
                match self.engine.join(reading) {
                    Ok(id) => {
                        let blocks = 0;
                        let running = Running {
                            job,
                            remembered,
                            prompt_seconds,
                            joined,
                            prompt_tokens,
                            blocks,
                        };
                        self.running.insert(id, running);
                    }
                    Err(error) => {
                        job.tell(Reply::Refused(error.to_string()));
                    }
                }
            }
        }
    }

    /// Tells a handler what a pass made of its request; ends those who take nothing.
    fn tell(&mut self, event: Event) {
        let id = event.id();
        let Some(one) = self.running.get_mut(&id) else { return };
        let told = match event {
            Event::Text { piece, .. } => one.job.tell(Reply::Text(piece)),
            Event::Refinement { refinement, .. } if one.job.watch => {
                let prompt = one.prompt_tokens;
                one.job.tell(Reply::Seen(seen(self.model, &refinement, prompt)))
            }
            Event::Block { block_start, tokens, .. } => {
                one.blocks += 1;
                self.queue.charge(one.job.key, tokens.len());
                let start = block_start.saturating_sub(one.prompt_tokens);
                match one.job.watch {
                    true => one.job.tell(Reply::Seen(finished(self.model, start, &tokens))),
                    false => true,
                }
            }
            Event::Refinement { .. } => true,
            Event::Finished { completion, .. } => {
                return self.finish(id, completion, false);
            }
            Event::Failed { error, .. } => {
                one.job.tell(Reply::Failed(error.to_string()));
                self.running.remove(&id);
                return;
            }
        };
        if !told {
            self.cancel(id);
            Metrics::add(&self.counters.metrics.cancelled, 1);
        }
    }

    fn finish(&mut self, id: Id, completion: Completion, late: bool) {
        let Some(one) = self.running.remove(&id) else { return };
        let Running { job, remembered, prompt_seconds, .. } = one;
        let read = completion.prompt_tokens.saturating_sub(remembered);
        Metrics::add(&self.counters.metrics.prompt_tokens, read);
        Metrics::add(&self.counters.metrics.new_tokens, completion.tokens.len());
        job.tell(Reply::Done(Box::new(Written { completion, remembered, prompt_seconds, late })));
    }

    /// Ends the requests whose time is up: with their finished blocks, of which there is at least one.
    fn end_late(&mut self) {
        let late = self.running.iter().filter(|(_, one)| {
            one.blocks > 0 && one.job.deadline.is_some_and(|most| one.joined.elapsed() >= most)
        });
        let late: Vec<Id> = late.map(|(id, _)| *id).collect();
        for id in late {
            let Ok(completion) = self.engine.cancel(id) else { continue };
            self.finish(id, Completion { finish: FinishReason::Length, ..completion }, true);
        }
    }

    /// Counts a solo's end as one of those decoded together is counted.
    pub(super) fn solo_done(&mut self, job: &Job, completion: &Completion, remembered: usize) {
        self.queue.charge(job.key, completion.tokens.len());
        let read = completion.prompt_tokens.saturating_sub(remembered);
        Metrics::add(&self.counters.metrics.prompt_tokens, read);
        Metrics::add(&self.counters.metrics.new_tokens, completion.tokens.len());
    }

    fn publish(&self) {
        let Counters { metrics, .. } = &self.counters;
        let running = self.running.len() + self.openings.len() + usize::from(self.is_solo);
        Metrics::set(&metrics.running, running as u64);
        Metrics::set(&metrics.waiting, (self.queue.len() + self.solos.len()) as u64);
        Metrics::set(&metrics.passes, (self.engine.passes() + self.solo_passes) as u64);
        Metrics::set(&metrics.prefix_bytes, self.engine.remembered_bytes());
    }
}

impl Opening {
    /// The request, what was read of it, and how long that took.
    pub(super) fn into_parts(self) -> (Job, Reading, Duration) {
        (self.job, self.reading, self.began.elapsed())
    }
}

impl Solo {
    fn job(&self) -> &Job {
        match self {
            Self::Edit { opening, .. } => &opening.job,
            Self::Score { job, .. } => job,
        }
    }
}

/// The text that a token stands for, as far as it is text by itself.
fn text_of(model: &Model, id: u32) -> String {
    let bytes = model.tokenizer.as_ref().and_then(|tokenizer| tokenizer.bytes_of(id).ok());
    String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned()
}

/// The open block after a pass.
pub(super) fn seen(model: &Model, refinement: &lacuna_engine::Refinement, prompt: usize) -> Seen {
    let places = refinement.candidates.iter().map(|candidate| Place {
        position: candidate.position.saturating_sub(prompt),
        text: text_of(model, candidate.token),
        confidence: candidate.confidence,
        filled: refinement.filled.binary_search(&candidate.position).is_ok(),
    });
    Seen {
        start: refinement.block_start.saturating_sub(prompt),
        refinement: refinement.refinement,
        places: places.collect(),
        finished: false,
    }
}

/// A finished block.
pub(super) fn finished(model: &Model, start: usize, tokens: &[u32]) -> Seen {
    let places = tokens.iter().enumerate().map(|(at, token)| Place {
        position: start + at,
        text: text_of(model, *token),
        confidence: 1.0,
        filled: true,
    });
    Seen { start, refinement: 0, places: places.collect(), finished: true }
}

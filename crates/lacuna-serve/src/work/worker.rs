//! Runs the thread that decodes: between two passes it hears orders, drops who is gone, reads a part of a prompt.

use lacuna_engine::{
    Completion, Engine, EngineOptions, Event, FinishReason, Id, MemoryLimit, Model, Reading,
};
use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread::Thread;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

use super::cost::Costs;
use super::job::{Job, Reply, Written};
use super::news::{finished, seen};
use super::queue::{Class, Queue};
use super::running::{Running, Times};
use super::turns::Turns;
use crate::metrics::Metrics;

/// The way to the thread.
#[derive(Clone, Debug)]
pub(crate) struct Orders {
    to: mpsc::UnboundedSender<Job>,
    thread: Thread,
}

impl Orders {
    /// Hands a request over, and says whether the thread is there to take it.
    pub(crate) fn send(&self, job: Job) -> bool {
        let sent = self.to.send(job).is_ok();
        self.thread.unpark();
        sent
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.to.is_closed()
    }
}

/// The time after which the thread looks again at readers that lag, where it has nothing else to do.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

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
    Ok((Orders { to, thread: thread.thread().clone() }, thread))
}

/// A request whose prompt is being read.
#[derive(Debug)]
pub(super) struct Opening {
    pub(super) job: Job,
    pub(super) reading: Reading,
    pub(super) began: Instant,
    /// Seconds until it was begun.
    pub(super) waited: f64,
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
    pub(super) settings: Settings,
    pub(super) counters: Counters,
    orders: mpsc::UnboundedReceiver<Job>,
    /// No more orders come.
    closed: bool,
    pub(super) queue: Queue<Job>,
    /// At most one of each class.
    pub(super) openings: Vec<Opening>,
    pub(super) running: BTreeMap<Id, Running>,
    /// Editors' before others'.
    pub(super) solos: VecDeque<Solo>,
    /// The class of the solo that is under way.
    pub(super) solo: Option<Class>,
    pub(super) solo_passes: usize,
    pub(super) turns: Turns,
    /// Those of texts that have had much, while others have had little.
    pub(super) late_turns: Turns,
    /// The time at which an editor asked for something last.
    pub(super) typed: Option<Instant>,
}

impl<'m> Worker<'m> {
    fn new(
        model: &'m Model,
        settings: Settings,
        counters: Counters,
        orders: mpsc::UnboundedReceiver<Job>,
    ) -> Self {
        // As many as have room are let in; those whose readers lag leave their places to others.
        let options = EngineOptions {
            running_max: NonZeroUsize::MAX,
            memory: settings.memory,
            details: true,
        };
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
            solo: None,
            solo_passes: 0,
            turns: Turns::default(),
            late_turns: Turns::default(),
            typed: None,
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
            let worked = self.turn();
            if let Some(solo) = self.solos.pop_front() {
                self.alone(solo);
            } else if !worked {
                // All wait for readers that lag, or for those to go; an order wakes this thread.
                std::thread::park_timeout(LOOK_AGAIN);
            }
        }
    }

    fn is_idle(&self) -> bool {
        self.queue.is_empty()
            && self.openings.is_empty()
            && self.running.is_empty()
            && self.solos.is_empty()
    }

    /// All that happens between two passes, and a pass of those that are decoded together. Tells whether there was anything
    /// to do.
    pub(super) fn turn(&mut self) -> bool {
        while !self.closed {
            match self.orders.try_recv() {
                Ok(job) => self.take(job),
                Err(mpsc::error::TryRecvError::Empty) => break,
                Err(mpsc::error::TryRecvError::Disconnected) => self.closed = true,
            }
        }
        self.drop_gone();
        let editors_wait = self.editors_wait();
        let others = self.others_reading() + self.others_share(&self.taking_part(true)).1;
        let all = !editors_wait || self.turns.may(others);
        let began = Instant::now();
        let (reading, read) = self.read_prompts(all);
        let (writing, wrote) = self.pass(all);
        let of_others = reading + writing;
        match editors_wait {
            true => self.turns.passed(began.elapsed().as_secs_f64() - of_others, of_others),
            false => self.turns.had_alone(of_others),
        }
        self.publish();
        // Whoever asks for something has been kept from a core by the pass.
        std::thread::yield_now();
        read || wrote
    }

    /// Tells whether an editor is under way, which others should keep waiting as little as can be.
    pub(super) fn editors_wait(&self) -> bool {
        let waits = self.queue.has(Class::Editor) && self.has_room(Class::Editor);
        let opened = self.openings.iter().any(|one| one.job.class == Class::Editor);
        let is_solo = self.solo == Some(Class::Editor);
        let runs = |one: &Running| one.is_editor() && !one.job.lags();
        // One that has no memory yet waits for the others to end.
        let has_memory = self.engine.waiting() == 0;
        has_memory && (waits || is_solo || opened || self.running.values().any(runs))
    }

    /// Lets all others have their turn after a pass of a solo, and an editor as many as it is due.
    pub(super) fn after_solo_pass(&mut self, class: Class, pass: Duration) {
        match class {
            Class::Editor => self.turns.passed(pass.as_secs_f64(), 0.0),
            _ if self.editors_wait() => self.turns.passed(0.0, pass.as_secs_f64()),
            _ => self.turns.had_alone(pass.as_secs_f64()),
        }
        let of_others = if class == Class::Editor { 0.0 } else { pass.as_secs_f64() };
        self.used(of_others, pass.as_secs_f64());
        self.turn();
        if class == Class::Editor {
            return;
        }
        while self.solos.front().is_some_and(|solo| solo.job().class == Class::Editor)
            && let Some(solo) = self.solos.pop_front()
        {
            self.alone(solo);
        }
        while self.editors_wait() && !self.turns.may(0.0) {
            self.turn();
        }
    }

    /// Puts a solo behind those that are as urgent.
    pub(super) fn push_solo(&mut self, solo: Solo) {
        let class = solo.job().class;
        let at = self.solos.iter().position(|other| other.job().class > class);
        self.solos.insert(at.unwrap_or(self.solos.len()), solo);
    }

    pub(super) fn is_ending(&self) -> bool {
        self.counters.ending.load(Ordering::Relaxed)
    }

    fn take(&mut self, job: Job) {
        if job.class == Class::Editor {
            self.typed = Some(Instant::now());
        }
        if job.class == Class::Background {
            // Only the newest text of an editor is worth reading ahead.
            let slot = job.slot;
            self.queue.drop_if(|other| other.class == Class::Background && other.slot == slot);
        }
        let running = self.running.values().map(|one| &one.job);
        let opened = self.openings.iter().map(|one| &one.job);
        let under_way: Vec<usize> = running.chain(opened).map(|job| job.key).collect();
        self.queue.push(job.class, job.key, job, &under_way);
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
        // A reader that lags has its place for as long as nobody waits for the memory.
        let is_short = self.engine.waiting() > 0;
        let left = self
            .running
            .iter()
            .filter(|(_, one)| ending || one.job.is_gone() || is_short && one.job.lags());
        let left: Vec<Id> = left.map(|(id, _)| *id).collect();
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

    /// Tells a handler what a pass made of its request; ends those who take nothing.
    pub(super) fn tell(&mut self, event: Event) {
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
                one.written += tokens.len();
                one.queued = one.block_size;
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
        let Running { job, remembered, times, .. } = one;
        let read = completion.prompt_tokens.saturating_sub(remembered);
        Metrics::add(&self.counters.metrics.prompt_tokens, read);
        Metrics::add(&self.counters.metrics.new_tokens, completion.tokens.len());
        job.tell(Reply::Done(Box::new(Written { completion, remembered, times, late })));
    }

    /// Ends the requests whose time is up: with their finished blocks, of which there is at least one.
    pub(super) fn end_late(&mut self) {
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
        // Its rows were not counted pass by pass.
        self.queue.charge(job.key, 2 * completion.tokens.len());
        let read = completion.prompt_tokens.saturating_sub(remembered);
        Metrics::add(&self.counters.metrics.prompt_tokens, read);
        Metrics::add(&self.counters.metrics.new_tokens, completion.tokens.len());
    }

    /// Counts seconds that were worked, and those of them that were no editor's.
    pub(super) fn used(&self, of_others: f64, all: f64) {
        let metrics = &self.counters.metrics;
        Metrics::used(&metrics.others_us, of_others);
        Metrics::used(&metrics.editors_us, all - of_others);
    }

    fn publish(&self) {
        let Counters { metrics, .. } = &self.counters;
        let running = self.running.len() + self.openings.len() + usize::from(self.solo.is_some());
        Metrics::set(&metrics.running, running as u64);
        Metrics::set(&metrics.waiting, (self.queue.len() + self.solos.len()) as u64);
        Metrics::set(&metrics.passes, (self.engine.passes() + self.solo_passes) as u64);
        Metrics::set(&metrics.prefix_bytes, self.engine.remembered_bytes());
    }
}

impl Opening {
    /// The request, what was read of it, and how long it took so far.
    pub(super) fn into_parts(self) -> (Job, Reading, Times) {
        let prompt = self.began.elapsed().as_secs_f64();
        let times = Times { waited: self.waited, prompt, ..Times::default() };
        (self.job, self.reading, times)
    }
}

impl Solo {
    pub(super) fn job(&self) -> &Job {
        match self {
            Self::Edit { opening, .. } => &opening.job,
            Self::Score { job, .. } => job,
        }
    }
}

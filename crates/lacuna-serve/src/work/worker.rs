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
use super::job::{Job, Reply, Written};
use super::news::{finished, seen};
use super::prompts::EDITORS;
use super::queue::{Class, Queue};
use super::turns::Turns;
use crate::metrics::Metrics;

/// The way to the thread.
pub(crate) type Orders = mpsc::UnboundedSender<Job>;

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
    pub(super) reading: Reading,
    pub(super) began: Instant,
}

/// A request that is decoded with others.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) job: Job,
    pub(super) remembered: usize,
    pub(super) prompt_seconds: f64,
    pub(super) joined: Instant,
    /// Tokens of its prompt, and those that its key was charged for.
    pub(super) prompt_tokens: usize,
    pub(super) blocks: usize,
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
            solo: None,
            solo_passes: 0,
            turns: Turns::default(),
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
                self.alone(solo);
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
        let editors_wait = self.editors_wait();
        let others = self.others_seconds();
        let all = !editors_wait || self.turns.may(others);
        let began = Instant::now();
        let mut of_others = self.read_prompts(all);
        if !self.engine.is_empty() {
            let Self { engine, running, .. } = self;
            engine.hold(|id| !all && running.get(&id).is_some_and(|one| !one.is_editor()));
            let (share, pass) = (self.others_share(), Instant::now());
            for event in self.engine.step() {
                self.tell(event);
            }
            of_others += if all { share * pass.elapsed().as_secs_f64() } else { 0.0 };
            self.end_late();
        }
        match editors_wait {
            true => self.turns.passed(began.elapsed().as_secs_f64() - of_others, of_others),
            false => self.turns.settle(),
        }
        self.publish();
    }

    /// Tells whether an editor is under way, which others should keep waiting as little as can be.
    pub(super) fn editors_wait(&self) -> bool {
        // One that has no room yet waits for the others to end.
        let has_room = self.engine.waiting() == 0;
        let opened = self.openings.iter().any(|one| one.job.class == Class::Editor);
        let is_solo = self.solo == Some(Class::Editor);
        has_room && (is_solo || opened || self.running.values().any(Running::is_editor))
    }

    /// The seconds that the others are likely to take of a turn of all.
    fn others_seconds(&self) -> f64 {
        let Settings { block_size, costs, .. } = &self.settings;
        self.others_reading()
            + self.others_share() * costs.seconds(self.running.len() * block_size.get())
    }

    /// The part of a pass of all that the others are.
    fn others_share(&self) -> f64 {
        let Settings { block_size, costs, .. } = &self.settings;
        let editors = self.running.values().filter(|one| one.is_editor()).count();
        let seconds = |requests: usize| match requests {
            0 => 0.0,
            some => costs.seconds(some * block_size.get()),
        };
        let all = seconds(self.running.len());
        if all > 0.0 { 1.0 - seconds(editors) / all } else { 0.0 }
    }

    /// Lets all others have their turn after a pass of a solo, and an editor as many as it is due.
    pub(super) fn after_solo_pass(&mut self, class: Class, pass: Duration) {
        match class {
            Class::Editor => self.turns.passed(pass.as_secs_f64(), 0.0),
            _ if self.editors_wait() => self.turns.passed(0.0, pass.as_secs_f64()),
            _ => {}
        }
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
        let running = self.running.len() + self.openings.len() + usize::from(self.solo.is_some());
        Metrics::set(&metrics.running, running as u64);
        Metrics::set(&metrics.waiting, (self.queue.len() + self.solos.len()) as u64);
        Metrics::set(&metrics.passes, (self.engine.passes() + self.solo_passes) as u64);
        Metrics::set(&metrics.prefix_bytes, self.engine.remembered_bytes());
    }
}

impl Running {
    fn is_editor(&self) -> bool {
        self.job.class == Class::Editor
    }
}

impl Opening {
    /// The request, what was read of it, and how long that took.
    pub(super) fn into_parts(self) -> (Job, Reading, Duration) {
        (self.job, self.reading, self.began.elapsed())
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

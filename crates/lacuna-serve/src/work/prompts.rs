//! Reads prompts a part at a time, between the passes of those that are decoded, and lets requests in.

use std::num::NonZeroUsize;
use std::time::Instant;

use super::job::{Reply, Task};
use super::queue::Class;
use super::worker::{Opening, Running, Settings, Solo, Worker};
use crate::metrics::Metrics;

/// Editors that are decoded beside as many others as there may be.
pub(super) const EDITORS: usize = 2;

/// The share of what is read between two passes that a prompt gets which is less urgent than what is decoded.
const SMALL_PART: usize = 4;

impl Worker<'_> {
    /// Reads so many tokens of prompts, those of editors first, and lets the requests join whose prompts are read. Those of
    /// others go on where `all` may. Returns the seconds that these took.
    pub(super) fn read_prompts(&mut self, all: bool) -> f64 {
        let (mut rows, mut of_others) = (self.settings.prompt_rows.get(), 0.0);
        let editors_wait = self.editors_wait();
        while rows > 0 {
            for class in Class::ALL.into_iter().filter(|class| all || *class == Class::Editor) {
                if !self.openings.iter().any(|opening| opening.job.class == class)
                    && self.has_room(class)
                {
                    self.open(class);
                }
            }
            let Some(at) = self.next_opening(all) else { return of_others };
            let (class, began) = (self.openings[at].job.class, Instant::now());
            let opening = &mut self.openings[at];
            let before = self.engine.prompt_rows();
            let is_urgent = match class {
                Class::Editor => true,
                Class::Batch => !editors_wait,
                Class::Background => self.running.is_empty(),
            };
            if !is_urgent {
                // Others wait while it is read.
                rows = rows.min(self.settings.prompt_rows.get() / SMALL_PART);
            }
            let part = NonZeroUsize::new(rows).unwrap_or(NonZeroUsize::MIN);
            let read = self.engine.read(&mut opening.reading, part);
            let taken = self.engine.prompt_rows() - before;
            rows = rows.saturating_sub(taken.max(1));
            self.queue.charge(self.openings[at].job.key, taken);
            if class != Class::Editor {
                of_others += began.elapsed().as_secs_f64();
            }
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
        of_others
    }

    /// The seconds that a part of another's prompt is likely to take beside editors; none where nothing is to be read.
    pub(super) fn others_reading(&self) -> f64 {
        let is_other = |class: Class| class != Class::Editor;
        let opened = self.openings.iter().any(|one| is_other(one.job.class));
        let waits = || Class::ALL.into_iter().any(|class| is_other(class) && self.queue.has(class));
        match opened || waits() {
            true => self.settings.costs.seconds(self.settings.prompt_rows.get() / SMALL_PART),
            false => 0.0,
        }
    }

    /// The prompt that is read next: an editor's before others', and a background one only when nobody waits.
    fn next_opening(&self, all: bool) -> Option<usize> {
        let classes = self.openings.iter().enumerate().map(|(at, one)| (one.job.class, at));
        classes.filter(|(class, _)| all || *class == Class::Editor).min().map(|(_, at)| at)
    }

    /// Tells whether another request of a class may begin.
    fn has_room(&self, class: Class) -> bool {
        let others = |one: &&Opening| one.job.class != Class::Background;
        let taken = self.running.len()
            + self.openings.iter().filter(others).count()
            + self.solos.len()
            + usize::from(self.solo.is_some());
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
                return self.push_solo(Solo::Score { job, tokens, best });
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
                self.push_solo(Solo::Edit { opening: Box::new(opening), draft });
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
}

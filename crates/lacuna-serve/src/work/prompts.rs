//! Reads prompts a part at a time, between the passes of those that are decoded, and lets requests in.

use std::num::NonZeroUsize;
use std::time::Instant;

use super::cost::Load;
use super::job::{Reply, Task};
use super::queue::Class;
use super::running::Running;
use super::worker::{Opening, Settings, Solo, Worker};
use crate::metrics::Metrics;

/// Editors that are decoded beside as many others as there may be.
const EDITORS: usize = 2;

impl Worker<'_> {
    /// Reads a part of the prompts, those of editors first, and lets the requests join whose prompts are read. Those of
    /// others go on where `all` may. Returns the seconds that these took, and whether there was anything to do.
    pub(super) fn read_prompts(&mut self, all: bool) -> (f64, bool) {
        let (mut left, mut of_others, mut worked) = (1.0, 0.0, false);
        while left > 0.0 {
            for class in Class::ALL.into_iter().filter(|class| all || *class == Class::Editor) {
                if !self.openings.iter().any(|opening| opening.job.class == class)
                    && self.has_room(class)
                {
                    self.open(class);
                }
            }
            let Some(at) = self.next_opening(all) else { return (of_others, worked) };
            worked = true;
            let (class, began) = (self.openings[at].job.class, Instant::now());
            let most = self.rows_at_once(class);
            let part = NonZeroUsize::new((most as f64 * left).ceil() as usize);
            let before = self.engine.prompt_rows();
            let opening = &mut self.openings[at];
            let read = self.engine.read(&mut opening.reading, part.unwrap_or(NonZeroUsize::MIN));
            let taken = self.engine.prompt_rows() - before;
            left -= taken.max(1) as f64 / most as f64;
            self.queue.charge(self.openings[at].job.key, taken);
            let seconds = began.elapsed().as_secs_f64();
            let is_other = class != Class::Editor;
            of_others += if is_other { seconds } else { 0.0 };
            self.used(if is_other { seconds } else { 0.0 }, seconds);
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
        (of_others, worked)
    }

    /// Tokens of a prompt that are read between two passes: as many as the settings say, and where somebody waits
    /// meanwhile who is as urgent, no more than are read in a [short](Self::short) time.
    fn rows_at_once(&self, class: Class) -> usize {
        let most = self.settings.prompt_rows.get();
        let runs = |one: &Running| one.job.class <= class && !one.job.lags();
        let waits = self.running.values().any(runs) || self.queue.has(Class::Editor);
        match waits || class != Class::Editor && self.is_typed() {
            true => self.settings.costs.rows_within(self.short(), most),
            false => most,
        }
    }

    /// The seconds that a part of another's prompt is likely to take beside editors; none where nothing is to be read.
    pub(super) fn others_reading(&self) -> f64 {
        let is_other = |class: Class| class != Class::Editor;
        let opened = self.openings.iter().any(|one| is_other(one.job.class));
        let waits = |class: Class| is_other(class) && self.queue.has(class) && self.has_room(class);
        match opened || Class::ALL.into_iter().any(waits) {
            true => self.settings.costs.seconds(self.rows_at_once(Class::Batch)),
            false => 0.0,
        }
    }

    /// The prompt that is read next: an editor's before others', and a background one only when nobody waits.
    fn next_opening(&self, all: bool) -> Option<usize> {
        let classes = self.openings.iter().enumerate().map(|(at, one)| (one.job.class, at));
        classes.filter(|(class, _)| all || *class == Class::Editor).min().map(|(_, at)| at)
    }

    /// Tells whether another request of a class may begin: the next of others where it adds to the tokens a second, or all
    /// that are decoded have had much.
    pub(super) fn has_room(&self, class: Class) -> bool {
        let Settings { running_max, block_size, costs, .. } = &self.settings;
        let takes_part = || self.running.values().filter(|one| !one.job.lags());
        let others = |one: &&Opening| one.job.class != Class::Background;
        let apart = self.openings.iter().filter(others).count()
            + self.solos.len()
            + usize::from(self.solo.is_some());
        let taken = takes_part().count() + apart;
        match class {
            Class::Background => true,
            Class::Editor => taken < running_max.get() + EDITORS,
            Class::Batch => {
                let sizes = takes_part().filter(|one| !one.had_much()).map(|one| one.block_size);
                let sizes = sizes.chain(std::iter::repeat_n(block_size.get(), apart));
                let rows: usize = sizes.sum();
                // Tokens are not known yet: as many a row as the others have.
                let load = |rows: usize| Load { rows, tokens: rows as f64 };
                taken < running_max.get() && costs.gains(load(rows), load(block_size.get()))
            }
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
                let waited = job.came.elapsed().as_secs_f64();
                self.openings.push(Opening { job, reading, began: Instant::now(), waited });
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
                let (job, reading, times) = opening.into_parts();
                let remembered = reading.remembered();
                let request = reading.request();
                let (prompt_tokens, block_size) = (request.prompt.len(), request.block_size());
                match self.engine.join(reading) {
                    Ok(id) => {
                        let running = Running {
                            job,
                            remembered,
                            times,
                            joined: Instant::now(),
                            prompt_tokens,
                            blocks: 0,
                            written: 0,
                            block_size,
                            queued: prompt_tokens % block_size,
                            had: 0,
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

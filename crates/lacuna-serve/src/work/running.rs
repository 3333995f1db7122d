//! Runs a pass over the texts that are decoded together: who takes part in it, what it cost them, and who is left out.

use lacuna_engine::Id;
use std::time::{Duration, Instant};

use super::cost::Load;
use super::job::Job;
use super::queue::Class;
use super::sharing::{Part, chosen};
use super::worker::{Settings, Worker};

/// The passes of one text that a pass of others, or a part of a prompt of theirs, may take as long as while editors are
/// about: an editor's request has to wait for what it finds under way.
const PASSES_WAITED: f64 = 2.0;

/// The time for which somebody is about who has typed.
const ABOUT: Duration = Duration::from_secs(60);

/// Rows after which a text has had much: whoever comes then need not wait for it.
const MUCH: u64 = 512;

/// A request that is decoded with others.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) job: Job,
    pub(super) remembered: usize,
    pub(super) times: Times,
    pub(super) joined: Instant,
    /// Tokens of its prompt.
    pub(super) prompt_tokens: usize,
    /// Finished blocks, and the tokens in them.
    pub(super) blocks: usize,
    pub(super) written: usize,
    pub(super) block_size: usize,
    /// Rows of its next pass besides those of its open block: finished tokens that it brings along.
    pub(super) queued: usize,
    /// The rows that it has had.
    pub(super) had: u64,
}

/// The way of a request through the thread that decodes, for whoever asks why it took so long.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Times {
    /// Seconds until its prompt was begun: the pass that it found under way, and all that came first.
    pub(crate) waited: f64,
    /// Seconds in which its prompt was read, those of others between its parts included.
    pub(crate) prompt: f64,
    /// Seconds in which others had passes and it had none.
    pub(crate) held: f64,
    /// Passes that it took part in, and the rows of others in them.
    pub(crate) passes: usize,
    pub(crate) beside: usize,
}

impl Times {
    /// Rows of others in a pass, on average.
    pub(crate) fn rows_beside(&self) -> f64 {
        self.beside as f64 / self.passes.max(1) as f64
    }
}

impl Running {
    pub(super) fn is_editor(&self) -> bool {
        self.job.class == Class::Editor
    }

    /// Tells whether it has had so much that those come first who have had little.
    pub(super) fn had_much(&self) -> bool {
        self.had >= MUCH
    }

    /// The rows of its next pass, and the tokens that it has written in one so far; at first half of a block.
    fn load(&self) -> Load {
        let first = self.block_size.div_ceil(2);
        let tokens = (self.written + first) as f64 / (self.times.passes + 1) as f64;
        Load { rows: self.block_size + self.queued, tokens }
    }
}

impl Worker<'_> {
    /// The texts that take part in the next pass: editors', and others' where `all` may. Nobody writes for a reader that
    /// lags behind.
    pub(super) fn taking_part(&self, all: bool) -> Vec<Id> {
        let ready = || self.running.iter().filter(|(_, one)| !one.job.lags());
        let editors = || ready().filter(|(_, one)| one.is_editor());
        let mut ids: Vec<Id> = editors().map(|(id, _)| *id).collect();
        if all {
            let others = || ready().filter(|(_, one)| !one.is_editor());
            let much = others().filter(|(_, one)| one.had_much());
            let least = much.map(|(_, one)| one.load().rows).min().unwrap_or(0);
            // Those that have had much come first where it is their turn.
            let their_turn = self.late_turns.are_due(self.settings.costs.seconds(least));
            let parts = others().map(|(id, one)| Part {
                id: *id,
                load: one.load(),
                of_key: self.queue.had(one.job.key),
                is_late: one.had_much() != their_turn,
                had: one.had,
            });
            let beside = sum(editors().map(|(_, one)| one.load()));
            let costs = &self.settings.costs;
            ids.extend(chosen(costs, beside, parts.collect(), self.pass_max()));
        }
        ids
    }

    /// The seconds that a pass of others may take.
    fn pass_max(&self) -> f64 {
        match self.is_typed() {
            true => self.short(),
            false => f64::INFINITY,
        }
    }

    /// A time that an editor can wait: that of a few passes of a text of its own.
    pub(super) fn short(&self) -> f64 {
        let Settings { block_size, costs, .. } = &self.settings;
        PASSES_WAITED * costs.seconds(block_size.get())
    }

    /// Tells whether somebody is about who types, and may ask for something at any time.
    pub(super) fn is_typed(&self) -> bool {
        self.typed.is_some_and(|at| at.elapsed() < ABOUT)
    }

    /// The part of a pass of these texts that those are which are no editor's, and the seconds that it is likely to take.
    pub(super) fn others_share(&self, ids: &[Id]) -> (f64, f64) {
        let costs = &self.settings.costs;
        let of = |is_all: bool| {
            let some = ids.iter().filter_map(|id| self.running.get(id));
            let some = some.filter(|one| is_all || one.is_editor()).map(Running::load);
            costs.seconds(sum(some).rows)
        };
        let (editors, all) = (of(false), of(true));
        let share = if all > 0.0 { 1.0 - editors / all } else { 0.0 };
        (share, all - editors)
    }

    /// A pass over the texts that take part, and the events of it. Returns the seconds that those had of it which are no
    /// editor's, and whether there was anything to do.
    pub(super) fn pass(&mut self, all: bool) -> (f64, bool) {
        let ids = self.taking_part(all);
        if ids.is_empty() {
            return (0.0, false);
        }
        let (share, began) = (self.others_share(&ids).0, Instant::now());
        let (late, [has_little, has_much]) = self.late_share(&ids);
        self.book(&ids);
        self.engine.hold(|id| !ids.contains(&id));
        let events = self.engine.step();
        let seconds = began.elapsed().as_secs_f64();
        for (id, one) in &mut self.running {
            if !ids.contains(id) {
                one.times.held += seconds;
            }
        }
        for event in events {
            self.tell(event);
        }
        self.end_late();
        let of_others = share * seconds;
        match (has_little, has_much) {
            (true, true) => self.late_turns.passed(of_others * (1.0 - late), of_others * late),
            _ => self.late_turns.had_alone(of_others * late),
        }
        self.used(of_others, seconds);
        (of_others, true)
    }

    /// The part that those are which have had much of what others than editors have of a pass; and whether there are any
    /// that have had little, and much.
    fn late_share(&self, ids: &[Id]) -> (f64, [bool; 2]) {
        let others = || self.running.iter().filter(|(_, one)| !one.is_editor() && !one.job.lags());
        let rows = |is_much: bool| {
            let some = others().filter(|(id, one)| ids.contains(id) && one.had_much() == is_much);
            some.map(|(_, one)| one.load().rows).sum::<usize>() as f64
        };
        let (little, much) = (rows(false), rows(true));
        let any = [false, true].map(|is_much| others().any(|(_, one)| one.had_much() == is_much));
        (much / (little + much).max(1.0), any)
    }

    /// Counts the rows of a pass for those that take part in it.
    fn book(&mut self, ids: &[Id]) {
        let rows = ids.iter().filter_map(|id| self.running.get(id)).map(|one| one.load().rows);
        let rows: usize = rows.sum();
        for id in ids {
            let Some(one) = self.running.get_mut(id) else { continue };
            let own = one.load().rows;
            one.had += own as u64;
            one.queued = 0;
            one.times.passes += 1;
            one.times.beside += rows - own;
            self.queue.charge(one.job.key, own);
        }
    }
}

fn sum(loads: impl Iterator<Item = Load>) -> Load {
    loads.fold(Load::default(), |all, one| Load {
        rows: all.rows + one.rows,
        tokens: all.tokens + one.tokens,
    })
}

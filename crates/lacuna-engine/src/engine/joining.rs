//! Says who takes part in a step: lets requests join, and leaves some out.

use super::{Engine, Event, Id, Waiting};
use std::time::Instant;

/// Tokens of prompts that join in one step. A longer prompt joins in a step of its own, so that those under way do not
/// wait for several.
const JOINING_MAX: usize = 2048;

impl Engine<'_> {
    /// Leaves requests out of the steps that follow, as long as `is_held` says so at the next call too, and lets the
    /// others go on. Those that wait join first, as far as there is room, and are asked for as well. So a request that is
    /// urgent has passes of its own; what any of them writes does not depend on it.
    pub fn hold(&mut self, is_held: impl Fn(Id) -> bool) {
        self.admit();
        let Self { decoder, running, .. } = self;
        decoder.hold(|number| running.get(&number).is_some_and(|one| is_held(one.id)));
    }

    /// Lets the first of those that wait join, as many as there is room for.
    pub(super) fn admit(&mut self) {
        let mut joining = 0;
        while let Some(next) = self.waiting.front() {
            let taken: u64 = self.running.values().map(|one| one.memory).sum();
            let memory = taken.saturating_add(next.running.memory);
            let read = next.prefix.as_ref().map_or(0, |prefix| prefix.tokens().len());
            joining += next.request.prompt.len() - read;
            let no_room = self.running.len() >= self.options.running_max.get()
                || self.memory_max.is_some_and(|most| memory > most);
            if no_room || joining > JOINING_MAX.max(next.request.prompt.len()) {
                return;
            }
            let Some(Waiting { request, guidance, prefix, mut running }) = self.waiting.pop_front()
            else {
                return;
            };
            running.began = Instant::now();
            match self.decoder.push_with(request, guidance) {
                Ok(number) => {
                    self.session.read_prompt_in(number, running.prompt_precision);
                    if let Some(prefix) = prefix {
                        self.session.seat(number, prefix);
                    }
                    self.running.insert(number, running);
                }
                Err(error) => {
                    self.events.push(Event::Failed { id: running.id, error: error.into() });
                }
            }
        }
    }
}

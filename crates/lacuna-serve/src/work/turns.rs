//! Shares the time out between those who come first and all others: between editors, for which somebody waits at a keyboard,
//! and the rest, and among these between texts that have had little and those that have had much.

/// The part of the time that the others get while an editor, or a text that has had little, waits.
const OTHERS_SHARE: f64 = 0.25;

/// The seconds for which the others may have had the machine in advance. As long as they get their part between editors'
/// requests, an editor has it to itself: with this much for three times as long.
const ADVANCE_MAX: f64 = 1.0;

/// The time that the others have to their credit: a part of what editors have had, less what they had themselves.
#[derive(Debug, Default)]
pub(super) struct Turns {
    seconds: f64,
}

impl Turns {
    /// Tells whether the others may do what is likely to take so many seconds. They lose what they have to their credit
    /// beyond twice that: they did not want it.
    pub(super) fn may(&mut self, seconds: f64) -> bool {
        self.seconds = self.seconds.min(2.0 * seconds);
        self.seconds >= seconds
    }

    /// Tells whether they have as much to their credit.
    pub(super) fn are_due(&self, seconds: f64) -> bool {
        self.seconds >= seconds
    }

    /// Counts seconds in which an editor waited: those that were its own, and those of the others.
    pub(super) fn passed(&mut self, editors: f64, others: f64) {
        self.seconds += editors * OTHERS_SHARE / (1.0 - OTHERS_SHARE) - others;
    }

    /// Counts seconds that the others had while no editor waited; nobody owes them anything then.
    pub(super) fn had_alone(&mut self, others: f64) {
        self.seconds = (self.seconds.min(0.0) - others).max(-ADVANCE_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Turns of an editor that take a second each, beside others that take as long as they are said to.
    fn shared(others: &[f64], turns: usize) -> (f64, f64) {
        let (mut turns_of, mut editor, mut had) = (Turns::default(), 0.0, 0.0);
        let mut next = others.iter().cycle();
        let mut wanted = *next.next().unwrap();
        for _ in 0..turns {
            let taken = if turns_of.may(wanted) { wanted } else { 0.0 };
            if taken > 0.0 {
                wanted = *next.next().unwrap();
            }
            turns_of.passed(1.0, taken);
            (editor, had) = (editor + 1.0, had + taken);
        }
        (editor, had)
    }

    #[test]
    fn the_others_get_a_quarter_of_the_time_however_long_each_of_their_turns_is() {
        for others in [&[1.0][..], &[7.0], &[0.5, 30.0, 1.0]] {
            let (editor, had) = shared(others, 3000);
            let share = had / (editor + had);
            assert!((0.24..0.2501).contains(&share), "{others:?}: {share}");
        }
        let (editor, had) = shared(&[0.1], 3000);
        assert!((had / editor - 0.1).abs() < 1e-3, "all that they want, where that is less: {had}");
    }

    #[test]
    fn an_editor_that_comes_is_not_kept_waiting_by_what_it_did_not_use() {
        let mut turns = Turns::default();
        assert!(!turns.may(0.1), "the editor's turn comes first");
        turns.passed(100.0, 0.0);
        assert!(turns.may(0.1));
        turns.passed(0.0, 0.15);
        assert!(!turns.may(0.1), "what was not wanted is no credit");
        turns.passed(100.0, 0.0);
        turns.had_alone(0.0);
        assert!(!turns.may(0.1));
    }

    #[test]
    fn editors_have_the_machine_to_themselves_while_the_others_get_their_part_between() {
        // Requests of half a second, and half a second of others' between each two.
        let mut turns = Turns::default();
        turns.had_alone(0.5);
        for _ in 0..100 {
            for _ in 0..50 {
                assert!(!turns.may(0.01));
                turns.passed(0.01, 0.0);
            }
            turns.had_alone(0.5);
        }
        // An editor that types on without a pause shares after a while.
        let mut editor = 0.0;
        while !turns.may(0.01) {
            turns.passed(0.01, 0.0);
            editor += 0.01;
        }
        let most = ADVANCE_MAX * (1.0 - OTHERS_SHARE) / OTHERS_SHARE;
        assert!((most..most + 0.1).contains(&editor), "{editor}");
    }
}

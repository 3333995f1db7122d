//! Chooses which texts take part in a pass: all of whose rows pay, and no more than an editor that comes meanwhile can
//! wait for.

use super::cost::{Costs, Load};

/// A text that could take part in the next pass.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part<I> {
    pub(super) id: I,
    /// The rows that it adds, and the tokens that it is likely to get of them.
    pub(super) load: Load,
    /// The rows that its key has had.
    pub(super) of_key: u64,
    /// True if it is not the turn of those like it: of texts that have had much, or little.
    pub(super) is_late: bool,
    /// The rows that it has had itself.
    pub(super) had: u64,
}

/// The texts that take part in a pass beside a load that does in any case.
///
/// First comes the one whose key has had least, and of that key, among those whose turn it is, the one that has had least
/// itself: so each gets its part of the time, whatever its rows cost. The others follow by the tokens that a row writes,
/// those with the fewest last, as long as each adds to the tokens a second and the pass takes at most `seconds_max`.
pub(super) fn chosen<I: Copy + Ord>(
    costs: &Costs,
    beside: Load,
    mut parts: Vec<Part<I>>,
    seconds_max: f64,
) -> Vec<I> {
    let by_turn = |part: &Part<I>| (part.of_key, part.is_late, part.had, part.id);
    let Some(first) = parts.iter().copied().min_by_key(by_turn) else { return Vec::new() };
    parts.retain(|part| part.id != first.id);
    let gain = |part: &Part<I>| part.load.tokens / part.load.rows.max(1) as f64;
    parts.sort_by(|a, b| gain(b).total_cmp(&gain(a)).then(by_turn(a).cmp(&by_turn(b))));
    let (mut load, mut ids) = (sum(beside, first.load), vec![first.id]);
    for part in parts {
        let more = sum(load, part.load);
        if costs.gains(load, part.load) && costs.seconds(more.rows) <= seconds_max {
            ids.push(part.id);
            load = more;
        }
    }
    ids
}

fn sum(a: Load, b: Load) -> Load {
    Load { rows: a.rows + b.rows, tokens: a.tokens + b.tokens }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(id: usize, rows: usize, tokens: f64) -> Part<usize> {
        Part { id, load: Load { rows, tokens }, of_key: 0, is_late: false, had: 0 }
    }

    #[test]
    fn all_take_part_where_rows_are_nearly_free() {
        let costs = Costs::new(vec![(1, 1.0), (32, 1.1)]);
        let parts: Vec<_> = (0..8).map(|id| part(id, 8, 1.0)).collect();
        let all = chosen(&costs, Load::default(), parts, f64::INFINITY);
        assert_eq!(all.len(), 8);
    }

    #[test]
    fn who_gains_least_comes_last_and_is_left_out_first() {
        let costs = Costs::new(vec![(1, 1.0), (32, 4.0)]);
        let parts = vec![part(0, 4, 2.0), part(1, 64, 1.0), part(2, 8, 4.0), part(3, 8, 4.0)];
        assert_eq!(chosen(&costs, Load::default(), parts.clone(), f64::INFINITY), [0, 2, 3]);
        assert_eq!(chosen(&costs, Load::default(), parts, 2.2), [0, 2]);
    }

    #[test]
    fn each_has_as_many_rows_however_many_it_needs_for_a_token() {
        let costs = Costs::new(vec![(1, 1.0), (32, 32.0)]);
        let mut parts = vec![part(0, 4, 2.0), part(1, 64, 1.0), part(2, 4, 2.0)];
        for _ in 0..1000 {
            for id in chosen(&costs, Load::default(), parts.clone(), f64::INFINITY) {
                parts[id].had += parts[id].load.rows as u64;
            }
            let had = parts.iter().map(|part| part.had);
            assert!(had.clone().max().unwrap() - had.min().unwrap() <= 64 + 4, "{parts:?}");
        }
    }

    #[test]
    fn a_pass_takes_no_longer_than_it_may_unless_one_text_alone_does() {
        let costs = Costs::new(vec![(1, 1.0), (32, 4.0)]);
        for seconds_max in [0.5, 1.5, 2.5, 9.0] {
            let parts: Vec<_> = (0..12).map(|id| part(id, 6, 3.0)).collect();
            let ids = chosen(&costs, Load::default(), parts, seconds_max);
            assert!(ids.len() == 1 || costs.seconds(6 * ids.len()) <= seconds_max);
            assert!(costs.seconds(6 * (ids.len() + 1)) > seconds_max || ids.len() == 12);
        }
    }

    #[test]
    fn the_key_that_has_had_least_comes_first() {
        let costs = Costs::new(vec![(1, 1.0), (32, 32.0)]);
        let mut parts: Vec<_> = (0..4).map(|id| part(id, 4, 1.0)).collect();
        parts[0].of_key = 100;
        (parts[1].of_key, parts[2].of_key, parts[3].of_key) = (7, 7, 7);
        (parts[1].had, parts[2].had, parts[3].had) = (5, 9, 4);
        assert_eq!(chosen(&costs, Load::default(), parts.clone(), f64::INFINITY), [3]);
        parts[3].is_late = true;
        assert_eq!(chosen(&costs, Load::default(), parts, f64::INFINITY), [1]);
    }
}

//! Plans the work of one pass: queries come in panels of vector lanes, keys in tiles.

use std::ops::Range;

use super::KeyRanges;

/// The number of keys in a tile: scores of a panel against it, and the tile itself, stay in the first-level cache.
pub(crate) const TILE: usize = 64;

/// A run of keys that at least one query of a panel sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tile {
    pub(crate) keys: Range<usize>,
    /// True if every query of the panel sees every key, so that no mask is applied.
    pub(crate) full: bool,
}

/// The tiles that each panel visits. A tile that none of its queries sees is not among them.
#[derive(Debug)]
pub(crate) struct Plan {
    panels: Vec<Vec<Tile>>,
}

impl Plan {
    /// Plans the panels of a key head, of `lanes` query lanes each. Lane r is query r / `group` of the key head's
    /// query head r % `group`.
    pub(crate) fn new(ranges: &KeyRanges, group: usize, lanes: usize) -> Self {
        let n_lanes = ranges.q_len() * group;
        let panel = |first: usize| {
            let last = (first + lanes).min(n_lanes) - 1;
            panel_tiles(ranges, first / group..last / group + 1)
        };
        Self { panels: (0..n_lanes).step_by(lanes).map(panel).collect() }
    }

    pub(crate) fn panels(&self) -> usize {
        self.panels.len()
    }

    pub(crate) fn tiles(&self, panel: usize) -> &[Tile] {
        &self.panels[panel]
    }

    /// The number of tiles in all panels.
    pub(crate) fn all_tiles(&self) -> usize {
        self.panels.iter().map(Vec::len).sum()
    }
}

fn panel_tiles(ranges: &KeyRanges, queries: Range<usize>) -> Vec<Tile> {
    let mut seen = queries
        .clone()
        .flat_map(|q| ranges.ranges(q).iter().cloned())
        .chain(std::iter::once(0..ranges.prefix()))
        .filter(|r| !r.is_empty())
        .collect::<Vec<_>>();
    seen.sort_unstable_by_key(|r| (r.start, r.end));
    let mut merged: Vec<Range<usize>> = Vec::new();
    for range in seen {
        match merged.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    let mut tiles = Vec::new();
    for run in merged {
        for start in run.clone().step_by(TILE) {
            let keys = start..(start + TILE).min(run.end);
            let full = queries.clone().all(|q| sees_all(ranges, q, &keys));
            tiles.push(Tile { keys, full });
        }
    }
    tiles
}

fn sees_all(ranges: &KeyRanges, q: usize, keys: &Range<usize>) -> bool {
    // Ranges ascend, so walking them once covers `keys` from the left or leaves a gap.
    let mut from = keys.start.max(ranges.prefix());
    for range in ranges.ranges(q) {
        if range.contains(&from) {
            from = range.end;
        }
    }
    from >= keys.end
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::AttentionMask;
    use std::num::NonZeroUsize;

    #[test]
    fn tiles_cover_what_is_seen_and_full_ones_only_that() {
        let block_size = NonZeroUsize::new(4).unwrap();
        let mask = AttentionMask::BlockDiffusion { block_size, seq_len: 150 };
        for (prefix, group) in [(0, 1), (70, 3)] {
            let ranges = KeyRanges::new(mask, 300, 300 + prefix, prefix);
            let plan = Plan::new(&ranges, group, 16);
            assert_eq!(plan.panels(), (300 * group).div_ceil(16));
            for lane in 0..300 * group {
                let tiles = plan.tiles(lane / 16);
                let tile_of = |kv| tiles.iter().find(|t| t.keys.contains(&kv));
                for kv in 0..300 + prefix {
                    match (ranges.visible(lane / group, kv), tile_of(kv)) {
                        (true, tile) => assert!(tile.is_some(), "{lane} {kv}"),
                        (false, tile) => assert!(!tile.is_some_and(|t| t.full), "{lane} {kv}"),
                    }
                }
            }
        }
    }

    #[test]
    fn the_training_pass_skips_what_it_does_not_see() {
        let block_size = NonZeroUsize::new(4).unwrap();
        let seq_len = 1024;
        let mask = AttentionMask::BlockDiffusion { block_size, seq_len };
        let ranges = KeyRanges::new(mask, 2 * seq_len, 2 * seq_len, 0);
        let plan = Plan::new(&ranges, 1, 16);
        let visited = (0..plan.panels())
            .flat_map(|p| plan.tiles(p))
            .map(|t| 16 * t.keys.len())
            .sum::<usize>();
        let pairs = ranges.pairs();
        assert_eq!(pairs, seq_len * seq_len + 4 * seq_len);
        assert!(visited < pairs + pairs / 40, "{visited} of {pairs} visible pairs");
    }
}

//! Plans the memory of a pass before it runs: where each buffer lies in one arena, and how large that must be.

/// Every buffer begins at a multiple of this, which every kernel's loads want and a row of a cache line is.
const ALIGNMENT: u64 = 256;

/// A piece of the arena, by its distance from the arena's beginning.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Region {
    /// Bytes from the arena's beginning.
    pub at: u64,
    /// Bytes that it holds.
    pub bytes: u64,
}

impl Region {
    /// The first byte behind it.
    pub fn end(self) -> u64 {
        self.at + self.bytes
    }
}

/// Deals out regions of an arena, first fit, and takes them back: launches are known in their order, so the same memory
/// may serve buffers that are not alive together, and the most that is ever taken is known before anything runs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Arena {
    /// Stretches that were given back, ascending and apart.
    free: Vec<Region>,
    /// The end of all that was ever taken.
    end: u64,
}

impl Arena {
    /// An arena whose first bytes are somebody else's.
    pub(crate) fn behind(bytes: u64) -> Self {
        Self { free: Vec::new(), end: bytes.next_multiple_of(ALIGNMENT) }
    }

    /// The most bytes that were in use at a time, those before the arena's own included.
    pub(crate) fn bytes(&self) -> u64 {
        self.end
    }

    /// True if nothing that was taken has been given back.
    pub(crate) fn is_whole(&self) -> bool {
        self.free.is_empty()
    }

    /// Takes `bytes`, rounded up to whole lines.
    pub(crate) fn take(&mut self, bytes: u64) -> Region {
        let bytes = bytes.max(1).next_multiple_of(ALIGNMENT);
        if let Some(i) = self.free.iter().position(|free| free.bytes >= bytes) {
            let free = &mut self.free[i];
            let region = Region { at: free.at, bytes };
            (free.at, free.bytes) = (free.at + bytes, free.bytes - bytes);
            if free.bytes == 0 {
                self.free.remove(i);
            }
            return region;
        }
        // The last free stretch may end where the arena does: it grows.
        let at = match self.free.pop_if(|last| last.end() == self.end) {
            Some(last) => last.at,
            None => self.end,
        };
        self.end = at + bytes;
        Region { at, bytes }
    }

    /// Gives a region back.
    pub(crate) fn give_back(&mut self, region: Region) {
        let i = self.free.partition_point(|free| free.at < region.at);
        self.free.insert(i, region);
        if i + 1 < self.free.len() && self.free[i].end() == self.free[i + 1].at {
            self.free[i].bytes += self.free.remove(i + 1).bytes;
        }
        if i > 0 && self.free[i - 1].end() == self.free[i].at {
            self.free[i - 1].bytes += self.free.remove(i).bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_given_back_is_taken_again_and_neighbours_join() {
        let mut arena = Arena::behind(100);
        let [a, b, c] = [10, 300, 1].map(|bytes| arena.take(bytes));
        assert_eq!([a.at, b.at, c.at, arena.bytes()], [256, 512, 1024, 1280]);
        arena.give_back(b);
        assert_eq!(arena.take(256).at, 512, "the first that fits");
        arena.give_back(Region { at: 512, bytes: 256 });
        arena.give_back(a);
        assert_eq!(arena.take(768).at, 256, "three neighbours, joined");
        arena.give_back(c);
        assert_eq!(arena.take(600), Region { at: 1024, bytes: 768 }, "the last stretch grows");
        assert_eq!(arena.bytes(), 1792);
    }

    #[test]
    fn regions_in_use_never_overlap() {
        let mut arena = Arena::default();
        let mut alive: Vec<Region> = Vec::new();
        let mut state = 1u64;
        for _ in 0..2000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let dice = state >> 33;
            if dice.is_multiple_of(2) || alive.is_empty() {
                let new = arena.take(dice % 5000);
                assert!(alive.iter().all(|old| old.end() <= new.at || new.end() <= old.at));
                assert!(new.end() <= arena.bytes());
                alive.push(new);
            } else {
                arena.give_back(alive.swap_remove(dice as usize % alive.len()));
            }
        }
    }
}

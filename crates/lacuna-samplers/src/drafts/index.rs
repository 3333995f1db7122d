//! Finds where a text has been before: the last place at which its newest tokens stand.

use std::collections::{HashMap, VecDeque};

/// Lengths of the runs that are remembered, ascending.
pub(crate) const LENGTHS: [usize; 4] = [2, 4, 8, 16];

/// Tokens of a text that are remembered by default: some thousand lines of code, about 8 MB of index.
pub(crate) const CAPACITY: usize = 1 << 16;

/// The longest run that is compared token by token.
const RUN_MAX: usize = 64;

/// The newest tokens of a growing text, and where each run of some lengths in it ended last.
///
/// A token costs a step for each of [`LENGTHS`], whatever the length of the text. Beyond its capacity the oldest
/// tokens are forgotten, so that memory is bounded.
#[derive(Clone, Debug)]
pub(crate) struct Index {
    tokens: VecDeque<u32>,
    /// Tokens that were forgotten: places count from the beginning of all.
    forgotten: usize,
    capacity: usize,
    /// By the hash of each run: the place of the token behind its last occurrence.
    ends: [HashMap<u64, usize>; LENGTHS.len()],
}

/// A place in the text that its newest tokens have been at before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// The place of the token that followed there.
    pub(crate) place: usize,
    /// The tokens in front of it that are the newest ones, as far as they were compared.
    pub(crate) run: usize,
}

impl Index {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { tokens: VecDeque::new(), forgotten: 0, capacity, ends: Default::default() }
    }

    /// Appends a token.
    pub(crate) fn push(&mut self, token: u32) {
        // A run is entered once a token follows it, so that the newest one is never found itself.
        let place = self.len();
        for (level, length) in LENGTHS.into_iter().enumerate() {
            if let Some(run) = self.run(place, length) {
                self.ends[level].insert(run, place);
            }
        }
        self.tokens.push_back(token);
        while self.tokens.len() > self.capacity {
            self.forget();
        }
    }

    /// The place behind the newest token.
    pub(crate) fn len(&self) -> usize {
        self.forgotten + self.tokens.len()
    }

    /// The token at a place, unless it is forgotten or not written yet.
    pub(crate) fn get(&self, place: usize) -> Option<u32> {
        self.tokens.get(place.checked_sub(self.forgotten)?).copied()
    }

    /// The last place at which the longest run was before that the text ends with; of [`LENGTHS`], those of at least
    /// `run_min`.
    pub(crate) fn find(&self, run_min: usize) -> Option<Found> {
        let end = self.len();
        let levels = (0..LENGTHS.len()).rev().filter(|&level| LENGTHS[level] >= run_min);
        levels.into_iter().find_map(|level| {
            let place = *self.ends[level].get(&self.run(end, LENGTHS[level])?)?;
            let run = self.common(place, end);
            // Two runs may have one hash.
            (run >= LENGTHS[level]).then_some(Found { place, run })
        })
    }

    /// The number of tokens in front of two places that are the same.
    fn common(&self, a: usize, b: usize) -> usize {
        let same = |back: &usize| {
            let at = |place: usize| place.checked_sub(*back).and_then(|place| self.get(place));
            at(a).is_some() && at(a) == at(b)
        };
        (1..=RUN_MAX).take_while(same).count()
    }

    /// The hash of the `length` tokens in front of a place, if all of them are there.
    fn run(&self, end: usize, length: usize) -> Option<u64> {
        let start = end.checked_sub(length)?.checked_sub(self.forgotten)?;
        let tokens = self.tokens.range(start..start + length);
        Some(tokens.fold(length as u64, |hash, &token| {
            let mixed = (hash ^ u64::from(token)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            mixed ^ (mixed >> 29)
        }))
    }

    /// Drops the oldest token, and all runs that begin with it.
    fn forget(&mut self) {
        for (level, length) in LENGTHS.into_iter().enumerate() {
            let end = self.forgotten + length;
            if let Some(run) = self.run_if_there(end, length)
                && self.ends[level].get(&run) == Some(&end)
            {
                self.ends[level].remove(&run);
            }
        }
        self.tokens.pop_front();
        self.forgotten += 1;
    }

    fn run_if_there(&self, end: usize, length: usize) -> Option<u64> {
        if end > self.len() { None } else { self.run(end, length) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The same by looking everywhere, in the newest `capacity` tokens of the text.
    fn naive(text: &[u32], capacity: usize, run_min: usize) -> Option<Found> {
        let first = text.len().saturating_sub(capacity);
        let known = &text[first..];
        let ends_with = |place: usize, length: usize| {
            place >= length && known[place - length..place] == known[known.len() - length..]
        };
        let longest = LENGTHS.into_iter().rev().filter(|length| *length >= run_min);
        longest.into_iter().find_map(|length| {
            let place = (0..known.len()).rev().find(|&place| ends_with(place, length))?;
            let pairs = known[..place].iter().rev().zip(known.iter().rev());
            let run = pairs.take(RUN_MAX).take_while(|(a, b)| a == b).count();
            Some(Found { place: first + place, run })
        })
    }

    proptest! {
        #[test]
        fn what_is_found_is_what_a_search_of_the_whole_text_finds(
            text in prop::collection::vec(0u32..4, 0..200),
            copied in prop::collection::vec((0usize..200, 0usize..40), 0..4),
            capacity in prop_oneof![1usize..40, Just(1000)], run_min in 0usize..10,
        ) {
            let mut text = text;
            for (start, length) in copied {
                let copy: Vec<u32> = text.iter().skip(start).take(length).copied().collect();
                text.extend(copy);
            }
            let mut index = Index::new(capacity);
            for (n, &token) in text.iter().enumerate() {
                prop_assert_eq!(index.find(run_min), naive(&text[..n], capacity, run_min));
                index.push(token);
            }
            prop_assert_eq!(index.find(run_min), naive(&text, capacity, run_min));
        }

        #[test]
        fn memory_does_not_grow_beyond_the_capacity(
            text in prop::collection::vec(any::<u32>(), 0..500), capacity in 1usize..50,
        ) {
            let mut index = Index::new(capacity);
            text.iter().for_each(|token| index.push(*token));
            prop_assert_eq!(index.len(), text.len());
            prop_assert!(index.tokens.len() <= capacity);
            prop_assert!(index.ends.iter().all(|ends| ends.len() <= capacity));
        }
    }
}

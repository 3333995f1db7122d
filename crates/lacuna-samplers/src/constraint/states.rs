//! Holds sets of states and of tokens, a bit each.

/// A set of tokens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Mask(Vec<u64>);

impl Mask {
    /// No token of `tokens`.
    pub(crate) fn none(tokens: usize) -> Self {
        Self(vec![0; tokens.div_ceil(64)])
    }

    /// These tokens.
    pub(crate) fn of(tokens: usize, ids: impl IntoIterator<Item = u32>) -> Self {
        let mut mask = Self::none(tokens);
        ids.into_iter().for_each(|id| mask.insert(id));
        mask
    }

    pub(crate) fn insert(&mut self, id: u32) {
        self.0[id as usize / 64] |= 1 << (id % 64);
    }

    /// Takes in the tokens of a set of no more tokens.
    pub(crate) fn extend(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(word, other)| *word |= other);
    }

    pub(crate) fn holds(&self, id: usize) -> bool {
        self.0.get(id / 64).is_some_and(|word| word >> (id % 64) & 1 == 1)
    }
}

/// A set of states of an automaton, and perhaps the state behind the end of a text.
#[derive(Clone, Debug)]
pub(crate) struct States {
    words: Vec<u64>,
    pub(crate) ended: bool,
}

impl States {
    pub(crate) fn none(states: usize) -> Self {
        Self { words: vec![0; states.div_ceil(64)], ended: false }
    }

    pub(crate) fn insert(&mut self, state: u32) {
        self.words[state as usize / 64] |= 1 << (state % 64);
    }

    pub(crate) fn holds(&self, state: u32) -> bool {
        self.words[state as usize / 64] >> (state % 64) & 1 == 1
    }

    pub(crate) fn is_empty(&self) -> bool {
        !self.ended && self.words.iter().all(|word| *word == 0)
    }

    /// Tells whether the text has ended before, whatever is filled in.
    pub(crate) fn is_over(&self) -> bool {
        self.ended && self.words.iter().all(|word| *word == 0)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> {
        let words = (0u32..).zip(&self.words);
        words.flat_map(|(at, word)| {
            (0..64).filter(move |bit| word >> bit & 1 == 1).map(move |bit| 64 * at + bit)
        })
    }

    pub(crate) fn retain(&mut self, keep: impl Fn(u32) -> bool) {
        let left: Vec<u32> = self.iter().filter(|state| !keep(*state)).collect();
        left.into_iter().for_each(|state| self.words[state as usize / 64] &= !(1 << (state % 64)));
    }
}

//! Holds a text to a finite automaton while its blocks are filled in any order.
//!
//! A text is allowed if an automaton over its bytes accepts it. Within a block, positions are filled out of order, so
//! what stands before a masked position is not known. Between two positions there is a *set* of states instead: those
//! that some filling of the masked positions before leads to, as far as what is filled behind can still be read from
//! them. A token may stand at a masked position if it leads from a state of the set before it to one of the set behind
//! it. As positions form a chain, that is exact: a token is allowed if and only if some filling of all other masked
//! positions leads to a state from which the text can be completed. Where one refinement fills several positions, each is
//! allowed anew once those ranked above it stand.
//!
//! An end of text leads from an accepting state to a state of its own, where nothing counts any more.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::error::{Result, setting};
pub(crate) use states::Mask;
use states::States;

mod states;

/// States of an automaton at most.
const STATES_MAX: usize = 20_000;

/// A deterministic automaton over bytes.
#[derive(Clone, Debug)]
pub struct ByteAutomaton {
    /// By state and byte; [`DEAD`] where no accepted text goes on so. State 0 is the first.
    next: Vec<[u32; 256]>,
    accepting: Vec<bool>,
}

/// No state.
const DEAD: u32 = u32::MAX;

impl ByteAutomaton {
    /// The automaton that walks from `start` as `next` says; None ends a walk for good. `accepts` tells whether a text
    /// may end in a state.
    ///
    /// # Errors
    /// More than 20,000 states, of which each takes a kilobyte.
    pub fn explore<S: Copy + Eq + Hash>(
        start: S,
        mut next: impl FnMut(S, u8) -> Option<S>,
        mut accepts: impl FnMut(S) -> bool,
    ) -> Result<Self> {
        let mut numbers = HashMap::from([(start, 0)]);
        let mut waiting = VecDeque::from([start]);
        let mut automaton = Self { next: Vec::new(), accepting: Vec::new() };
        while let Some(state) = waiting.pop_front() {
            let mut row = [DEAD; 256];
            for byte in 0..=u8::MAX {
                let Some(target) = next(state, byte) else { continue };
                let fresh = numbers.len() as u32;
                row[usize::from(byte)] = *numbers.entry(target).or_insert_with(|| {
                    waiting.push_back(target);
                    fresh
                });
            }
            if numbers.len() > STATES_MAX {
                let expected = format!("at most {STATES_MAX}: fewer and shorter repetitions");
                return setting("states", numbers.len(), expected);
            }
            automaton.next.push(row);
            automaton.accepting.push(accepts(state));
        }
        Ok(automaton)
    }

    /// Tells whether the whole text is accepted.
    pub fn accepts(&self, text: &[u8]) -> bool {
        self.walk(0, text).is_some_and(|state| self.accepting[state as usize])
    }

    fn walk(&self, state: u32, text: &[u8]) -> Option<u32> {
        let step = |state: u32, byte: &u8| self.next[state as usize][usize::from(*byte)];
        let end = text.iter().try_fold(state, |state, byte| {
            let next = step(state, byte);
            (next != DEAD).then_some(next)
        });
        end.filter(|end| *end != DEAD)
    }
}

/// The bytes of every token, in the order of a dictionary, so that an automaton reads common beginnings once. It belongs
/// to a tokenizer, and any number of constraints share it.
#[derive(Debug)]
pub struct Vocabulary {
    /// The bytes of each token; empty for those that are no text.
    tokens: Vec<Box<[u8]>>,
    /// Tokens that are text in order of their bytes, each with the number of bytes that it begins like the one before.
    sorted: Vec<(u32, usize)>,
    /// True if every byte is a token by itself.
    has_all_bytes: bool,
}

impl Vocabulary {
    /// The vocabulary of tokens 0, 1, …; a token without bytes is no text and never written under a constraint.
    pub fn new(tokens: impl IntoIterator<Item = Vec<u8>>) -> Self {
        let tokens: Vec<Box<[u8]>> = tokens.into_iter().map(Vec::into_boxed_slice).collect();
        let mut order: Vec<u32> = (0u32..).zip(&tokens).map(|(id, _)| id).collect();
        order.retain(|id| !tokens[*id as usize].is_empty());
        order.sort_by_key(|id| (&tokens[*id as usize], *id));
        let common = |a: &[u8], b: &[u8]| a.iter().zip(b).take_while(|(a, b)| a == b).count();
        let mut before: &[u8] = &[];
        let sorted = order.iter().map(|id| {
            let bytes = &tokens[*id as usize];
            let shared = common(before, bytes);
            before = bytes;
            (*id, shared)
        });
        let sorted = sorted.collect();
        let mut single = [false; 256];
        for bytes in &tokens {
            if let [byte] = **bytes {
                single[usize::from(byte)] = true;
            }
        }
        Self { tokens, sorted, has_all_bytes: single.iter().all(|found| *found) }
    }

    /// Calls `found` with every token that can be read from a state, and the state that it leads to.
    fn read(&self, automaton: &ByteAutomaton, from: u32, mut found: impl FnMut(u32, u32)) {
        // The states behind each byte of the token that was read last, as far as it could be.
        let mut path = vec![from];
        // Bytes of the last token that could be read, where that was not all of them.
        let mut stuck = usize::MAX;
        for &(id, shared) in &self.sorted {
            if shared > stuck {
                continue;
            }
            stuck = usize::MAX;
            path.truncate(shared + 1);
            let bytes = &self.tokens[id as usize];
            for byte in &bytes[path.len() - 1..] {
                let state = path[path.len() - 1];
                let next = automaton.next[state as usize][usize::from(*byte)];
                if next == DEAD {
                    stuck = path.len() - 1;
                    break;
                }
                path.push(next);
            }
            if stuck == usize::MAX {
                found(id, path[path.len() - 1]);
            }
        }
    }
}

/// The tokens that lead from one state to another.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Tokens {
    Few(Box<[u32]>),
    Many(Mask),
}

/// The ways out of a state: the states that one token leads to, with those tokens.
type Steps = Vec<(u32, Arc<Tokens>)>;

/// A rule for the text of a request: its automaton, over the tokens of a vocabulary.
#[derive(Debug)]
pub struct Constraint {
    automaton: ByteAutomaton,
    vocabulary: Arc<Vocabulary>,
    /// Tokens that end a text, ascending.
    ends: Vec<u32>,
    /// True if every byte is a token, so that states which bytes lead to are states which tokens lead to.
    by_bytes: bool,
    /// Made when first wanted.
    steps: Vec<OnceLock<Steps>>,
    /// The sets of tokens in `steps`, each once: most states of a repetition have the same.
    sets: Mutex<HashSet<Arc<Tokens>>>,
}

impl Constraint {
    /// The rule that a text be accepted by `automaton` when one of the tokens `ends` comes; those are no text.
    ///
    /// # Errors
    /// No end; an automaton that accepts no text of these tokens.
    pub fn new(
        automaton: ByteAutomaton,
        vocabulary: Arc<Vocabulary>,
        ends: &[u32],
    ) -> Result<Self> {
        if ends.is_empty() {
            let expected = "an end-of-text token, which a constrained text ends with";
            return setting("eos_ids", "empty", expected);
        }
        let mut ends = ends.to_vec();
        ends.sort_unstable();
        ends.dedup();
        let is_byte = |id: &u32| vocabulary.tokens.get(*id as usize).is_some_and(|t| t.len() == 1);
        let by_bytes = vocabulary.has_all_bytes && !ends.iter().any(is_byte);
        let steps = automaton.next.iter().map(|_| OnceLock::new()).collect();
        let sets = Mutex::default();
        let mut constraint = Self { automaton, vocabulary, ends, by_bytes, steps, sets };
        let live = constraint.live();
        if !live[0] {
            return setting("constraint", "unsatisfiable", "a pattern that some text matches");
        }
        if by_bytes {
            let rows = constraint.automaton.next.iter_mut().flatten();
            rows.filter(|next| **next != DEAD && !live[**next as usize])
                .for_each(|next| *next = DEAD);
        } else {
            // Between two bytes of a token a state may lead nowhere by tokens of its own.
            for (state, steps) in (0u32..).zip(&constraint.steps) {
                let _ = steps.set(constraint.made(state, |target| live[target as usize]));
            }
        }
        Ok(constraint)
    }

    /// The states from which tokens lead to an accepting one.
    fn live(&self) -> Vec<bool> {
        let automaton = &self.automaton;
        let mut into: Vec<Vec<u32>> = vec![Vec::new(); automaton.next.len()];
        for (from, row) in (0u32..).zip(&automaton.next) {
            let mut link = |target: u32| {
                if into[target as usize].last() != Some(&from) {
                    into[target as usize].push(from);
                }
            };
            if self.by_bytes {
                row.iter().filter(|next| **next != DEAD).for_each(|next| link(*next));
            } else {
                let is_end = |id: u32| self.ends.binary_search(&id).is_ok();
                self.vocabulary.read(automaton, from, |id, target| {
                    if !is_end(id) {
                        link(target);
                    }
                });
            }
        }
        let mut live = automaton.accepting.clone();
        let mut waiting: Vec<u32> =
            (0..).zip(&live).filter(|(_, live)| **live).map(|(at, _)| at).collect();
        while let Some(state) = waiting.pop() {
            for &from in &into[state as usize] {
                if !std::mem::replace(&mut live[from as usize], true) {
                    waiting.push(from);
                }
            }
        }
        live
    }

    fn steps(&self, state: u32) -> &Steps {
        self.steps[state as usize].get_or_init(|| self.made(state, |_| true))
    }

    fn made(&self, state: u32, lives: impl Fn(u32) -> bool) -> Steps {
        let mut found: Vec<(u32, u32)> = Vec::new();
        self.vocabulary.read(&self.automaton, state, |id, target| {
            if lives(target) && self.ends.binary_search(&id).is_err() {
                found.push((target, id));
            }
        });
        found.sort_unstable();
        let groups = found.chunk_by(|a, b| a.0 == b.0);
        let steps = groups.map(|group| {
            let ids = group.iter().map(|(_, id)| *id);
            let words = self.vocabulary.tokens.len() / 64 + 1;
            let tokens = match group.len() > 2 * words {
                true => Tokens::Many(Mask::of(self.vocabulary.tokens.len(), ids)),
                false => Tokens::Few(ids.collect()),
            };
            (group[0].0, self.shared(tokens))
        });
        steps.collect()
    }

    /// The one copy of a set of tokens.
    fn shared(&self, tokens: Tokens) -> Arc<Tokens> {
        let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = sets.get(&tokens) {
            return Arc::clone(known);
        }
        let tokens = Arc::new(tokens);
        sets.insert(Arc::clone(&tokens));
        tokens
    }

    /// The state that a token leads to, from which the text can be completed.
    fn step(&self, state: u32, token: u32) -> Option<u32> {
        let bytes = self.vocabulary.tokens.get(token as usize).filter(|bytes| !bytes.is_empty())?;
        let target = self.automaton.walk(state, bytes)?;
        let leads =
            self.by_bytes || self.steps(state).binary_search_by_key(&target, |step| step.0).is_ok();
        leads.then_some(target)
    }

    fn is_end(&self, token: u32) -> bool {
        self.ends.binary_search(&token).is_ok()
    }

    fn accepts(&self, state: u32) -> bool {
        self.automaton.accepting[state as usize]
    }

    /// The ends of a text that the rule knows, ascending.
    pub(crate) fn ends(&self) -> &[u32] {
        &self.ends
    }

    /// The state behind tokens that hold no end; None where no text goes on so.
    pub(crate) fn behind(&self, state: u32, tokens: &[u32]) -> Option<u32> {
        tokens.iter().try_fold(state, |state, token| self.step(state, *token))
    }

    /// Tells whether masked positions (None) can be filled so that the text can be completed, from a state on.
    pub(crate) fn can_hold(&self, state: u32, slots: &[Option<u32>]) -> bool {
        let states = self.forward(state, slots);
        states.last().is_some_and(|last| !last.is_empty())
    }

    /// The tokens that may stand at each masked position of `slots`, in order, from a state on. None: any.
    pub(crate) fn masks(&self, state: u32, slots: &[Option<u32>]) -> Vec<Option<Mask>> {
        let forward = self.forward(state, slots);
        let backward = self.backward(&forward, slots);
        let holes = (0..slots.len()).filter(|at| slots[*at].is_none());
        holes.map(|at| self.mask(&forward[at], &backward[at + 1])).collect()
    }

    /// The tokens that lead from one set of states into another.
    fn mask(&self, before: &States, behind: &States) -> Option<Mask> {
        if before.is_over() {
            return None;
        }
        let tokens = self.vocabulary.tokens.len().max(self.ends[self.ends.len() - 1] as usize + 1);
        let mut mask = Mask::none(tokens);
        let mut may_end = before.ended;
        for state in before.iter() {
            may_end |= self.accepts(state);
            for (target, tokens) in self.steps(state) {
                match &**tokens {
                    _ if !behind.holds(*target) => {}
                    Tokens::Few(ids) => ids.iter().for_each(|id| mask.insert(*id)),
                    Tokens::Many(ids) => mask.extend(ids),
                }
            }
        }
        if may_end {
            self.ends.iter().for_each(|id| mask.insert(*id));
        }
        Some(mask)
    }

    /// The states in front of each position, and behind the last one.
    fn forward(&self, state: u32, slots: &[Option<u32>]) -> Vec<States> {
        let mut before = States::none(self.steps.len());
        before.insert(state);
        let mut all = vec![before];
        for slot in slots {
            let before = &all[all.len() - 1];
            let mut behind = States::none(self.steps.len());
            behind.ended = before.ended;
            for state in before.iter() {
                match slot {
                    None => {
                        self.steps(state).iter().for_each(|(target, _)| behind.insert(*target));
                        behind.ended |= self.accepts(state);
                    }
                    Some(token) if self.is_end(*token) => behind.ended |= self.accepts(state),
                    Some(token) => {
                        self.step(state, *token).into_iter().for_each(|next| behind.insert(next));
                    }
                }
            }
            all.push(behind);
        }
        all
    }

    /// Of the states in front of each position those from which what stands behind can be read.
    fn backward(&self, forward: &[States], slots: &[Option<u32>]) -> Vec<States> {
        let mut all = forward.to_vec();
        for at in (0..slots.len()).rev() {
            let (front, rest) = all.split_at_mut(at + 1);
            let behind = &rest[0];
            let leads = |state: u32| match slots[at] {
                None => {
                    self.accepts(state)
                        || self.steps(state).iter().any(|(target, _)| behind.holds(*target))
                }
                Some(token) if self.is_end(token) => self.accepts(state),
                Some(token) => self.step(state, token).is_some_and(|next| behind.holds(next)),
            };
            front[at].retain(leads);
        }
        all
    }
}

#[cfg(test)]
mod tests;

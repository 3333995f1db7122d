//! Orders what waits: editors before others, and among equals the one whose key has had least.

use std::collections::{BTreeMap, VecDeque};

/// The urgency of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    /// Somebody waits for it while typing.
    Editor,
    /// Everything else that is waited for.
    Batch,
    /// Nobody waits for it.
    Background,
}

impl Class {
    pub(crate) const ALL: [Self; 3] = [Self::Editor, Self::Batch, Self::Background];
}

/// Requests that wait, by class and by key. Within a class the key that has had the fewest rows of passes so far comes
/// next, and its requests in the order in which they came.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    waiting: BTreeMap<(Class, usize), VecDeque<T>>,
    /// Rows that each key has had.
    had: BTreeMap<usize, u64>,
}

impl<T> Queue<T> {
    pub(crate) fn new() -> Self {
        Self { waiting: BTreeMap::new(), had: BTreeMap::new() }
    }

    /// Takes a request, given the keys of those that are under way.
    pub(crate) fn push(&mut self, class: Class, key: usize, item: T, under_way: &[usize]) {
        let here = || self.waiting.keys().map(|(_, key)| key).chain(under_way);
        if !here().any(|other| *other == key) {
            // A key that comes back does not get what was free while nobody was there.
            let least = here().map(|key| self.had(*key)).min().unwrap_or(0);
            let had = self.had.entry(key).or_default();
            *had = (*had).max(least);
        }
        self.waiting.entry((class, key)).or_default().push_back(item);
    }

    /// Counts rows that a key has had.
    pub(crate) fn charge(&mut self, key: usize, rows: usize) {
        *self.had.entry(key).or_default() += rows as u64;
    }

    /// The rows that a key has had.
    pub(crate) fn had(&self, key: usize) -> u64 {
        self.had.get(&key).copied().unwrap_or(0)
    }

    /// The next of a class.
    pub(crate) fn pop(&mut self, class: Class) -> Option<T> {
        let keys = self.waiting.keys().filter(|(waiting, _)| *waiting == class);
        let next = keys.min_by_key(|(_, key)| self.had(*key));
        let next = *next?;
        let items = self.waiting.get_mut(&next)?;
        let item = items.pop_front();
        if items.is_empty() {
            self.waiting.remove(&next);
        }
        item
    }

    /// Takes out those that `is_gone`.
    pub(crate) fn drop_if(&mut self, mut is_gone: impl FnMut(&T) -> bool) -> usize {
        let before = self.len();
        for items in self.waiting.values_mut() {
            items.retain(|item| !is_gone(item));
        }
        self.waiting.retain(|_, items| !items.is_empty());
        before - self.len()
    }

    /// Tells whether one of a class waits.
    pub(crate) fn has(&self, class: Class) -> bool {
        self.waiting.keys().any(|(waiting, _)| *waiting == class)
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.values().map(VecDeque::len).sum()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(queue: &mut Queue<&'static str>, class: Class) -> Vec<&'static str> {
        std::iter::from_fn(|| {
            let next = queue.pop(class)?;
            queue.charge(next.as_bytes()[0].into(), 10);
            Some(next)
        })
        .collect()
    }

    #[test]
    fn keys_take_turns_however_many_requests_one_has() {
        let mut queue = Queue::new();
        for item in ["a1", "a2", "a3", "a4", "b1", "b2"] {
            queue.push(Class::Batch, item.as_bytes()[0].into(), item, &[]);
        }
        assert_eq!(order(&mut queue, Class::Batch), ["a1", "b1", "a2", "b2", "a3", "a4"]);
        assert!(queue.is_empty());
    }

    #[test]
    fn who_comes_late_does_not_get_what_others_had_before() {
        let mut queue = Queue::new();
        queue.charge(usize::from(b'a'), 1000);
        for item in ["a1", "a2", "b1", "b2"] {
            queue.push(Class::Batch, item.as_bytes()[0].into(), item, &[]);
        }
        assert_eq!(order(&mut queue, Class::Batch), ["a1", "b1", "a2", "b2"]);
    }

    #[test]
    fn who_comes_while_others_are_decoded_begins_where_they_are() {
        let mut queue = Queue::new();
        queue.charge(0, 1000);
        queue.push(Class::Batch, 1, "late", &[0]);
        assert_eq!(queue.had(1), 1000);
        queue.push(Class::Batch, 2, "with nobody there", &[]);
        assert_eq!(queue.had(2), 1000, "one that waits is there");
    }

    #[test]
    fn classes_are_asked_for_apart_and_the_gone_are_dropped() {
        let mut queue = Queue::new();
        queue.push(Class::Batch, 0, "batch", &[]);
        queue.push(Class::Editor, 0, "gone", &[]);
        queue.push(Class::Editor, 0, "editor", &[]);
        assert_eq!(queue.drop_if(|item| *item == "gone"), 1);
        assert_eq!(queue.len(), 2);
        assert_eq!(queue.pop(Class::Background), None);
        assert_eq!(queue.pop(Class::Editor), Some("editor"));
        assert_eq!(queue.pop(Class::Batch), Some("batch"));
    }
}

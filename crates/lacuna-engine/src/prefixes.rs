//! Keeps what was read of texts that are done with, within a number of bytes, for the next texts that begin as they do.

use lacuna_model::Activations;
use lacuna_samplers::View;

use crate::error::Result;
use crate::session::Prefix;

/// The beginnings of texts that a model has read: one a slot, and others, the least recently used of which make room.
/// Those without a slot go first as long as they take more than a quarter, so that a long text which nobody asks for again
/// does not cost editors theirs.
///
/// They are found by comparing tokens, block by block from the first: a few dozen beginnings are compared in less time
/// than an index over them would take to keep.
#[derive(Debug)]
pub(crate) struct Prefixes {
    bytes_max: u64,
    bytes_per_token: u64,
    /// The least recently used one first.
    kept: Vec<Kept>,
}

#[derive(Debug)]
struct Kept {
    slot: Option<u64>,
    prefix: Prefix,
}

impl Prefixes {
    pub(crate) fn new(bytes_max: u64, bytes_per_token: u64) -> Self {
        Self { bytes_max, bytes_per_token, kept: Vec::new() }
    }

    /// Bytes that they take.
    pub(crate) fn bytes(&self) -> u64 {
        self.kept.iter().map(|one| self.bytes_of(&one.prefix)).sum()
    }

    fn bytes_of(&self, prefix: &Prefix) -> u64 {
        self.bytes_per_token.saturating_mul(prefix.capacity() as u64)
    }

    /// The longest beginning of `tokens` that is kept, that of the slot among equals. It is taken out where most of it
    /// is used or it is the slot's own, and copied otherwise, so that another text keeps it.
    pub(crate) fn take(
        &mut self,
        slot: Option<u64>,
        tokens: &[u32],
        (view, precision): (View, Activations),
    ) -> Result<Option<Prefix>> {
        let lengths = self.kept.iter().enumerate().map(|(at, one)| {
            let own = one.slot.is_some() && one.slot == slot;
            (one.prefix.shared(tokens, view, precision), own, at)
        });
        let Some((len, own, at)) = lengths.max().filter(|(len, ..)| *len > 0) else {
            return Ok(None);
        };
        let held = self.kept[at].prefix.tokens().len();
        let free = self.kept[at].slot.is_none() || own;
        if free && 2 * len >= held {
            let mut prefix = self.kept.remove(at).prefix;
            prefix.truncate(len);
            return Ok(Some(prefix));
        }
        if own {
            // The slot's next text has another beginning; this one may come back.
            self.kept[at].slot = None;
        }
        let used = self.kept.remove(at);
        let copy = used.prefix.copied(len);
        self.kept.push(used);
        copy.map(Some)
    }

    /// Keeps a beginning, in the place of the slot's last one, and lets the oldest go until all fit. One that is larger
    /// than all may be is not kept.
    pub(crate) fn put(&mut self, slot: Option<u64>, prefix: Prefix) {
        if prefix.tokens().is_empty() {
            return;
        }
        self.kept.retain(|one| slot.is_none() || one.slot != slot);
        if self.bytes_of(&prefix) > self.bytes_max {
            return;
        }
        self.kept.push(Kept { slot, prefix });
        while self.bytes() > self.bytes_max {
            let Some(at) = self.oldest() else { return };
            self.kept.remove(at);
        }
    }

    /// The one to let go: the oldest of those without a slot where they take more than a quarter, else the oldest of a slot.
    fn oldest(&self) -> Option<usize> {
        let free = |one: &&Kept| one.slot.is_none();
        let bytes: u64 = self.kept.iter().filter(free).map(|one| self.bytes_of(&one.prefix)).sum();
        let is_free = bytes > self.bytes_max / 4;
        self.kept.iter().position(|one| one.slot.is_none() == is_free)
    }
}

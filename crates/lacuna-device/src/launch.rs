//! Describes what a device is asked to do: launches of kernels, with their arguments as offsets into an arena, in an
//! order that is known before any of them runs.

use std::borrow::Cow;
use std::ops::Range;

use crate::error::{Error, Result};

/// A work of a device, from the first launch to the last, and the memory that it takes.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Plan {
    /// Bytes that are written to the arena before the first step.
    pub uploads: Vec<Upload>,
    /// The steps, one after the other.
    pub steps: Vec<Step>,
    /// The bytes of the arena: no step touches anything behind them.
    pub arena_bytes: u64,
}

impl Plan {
    /// The launches in their order.
    pub fn launches(&self) -> impl Iterator<Item = &Launch> {
        self.steps.iter().filter_map(|step| match step {
            Step::Launch(launch) => Some(launch),
            Step::Zero { .. } | Step::Fresh { .. } | Step::Copy { .. } => None,
        })
    }
}

/// One step of a plan.
#[derive(Clone, PartialEq, Debug)]
pub enum Step {
    /// Starts a kernel.
    Launch(Launch),
    /// Fills a region with zeros.
    Zero {
        /// The region's first byte.
        at: u64,
        /// Its length.
        bytes: u64,
    },
    /// Copies a region to another, which does not overlap it.
    Copy {
        /// The first byte that is read.
        from: u64,
        /// The first byte that is written.
        to: u64,
        /// The length of both.
        bytes: u64,
    },
    /// Says that a buffer begins its life here and holds nothing yet. A machine that looks for mistakes fills it with
    /// NaNs; a card has nothing to do.
    Fresh {
        /// The region's first byte.
        at: u64,
        /// Its length.
        bytes: u64,
    },
}

/// One start of a kernel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Launch {
    /// The name that the kernel is exported by.
    pub kernel: &'static str,
    /// Blocks in each direction.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub threads: u32,
    /// Bytes of shared memory that a block takes.
    pub shared: u32,
    /// The one argument, a struct.
    pub args: Bytes,
    /// True if it belongs to the group of the launch before it. Launches of a group may run at the same time: none reads or
    /// writes what another writes.
    pub beside: bool,
}

/// Bytes that a kernel reads as a struct: numbers as they are, and pointers, which are offsets until an arena has its
/// place.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Bytes {
    /// The bytes; those of a pointer hold its offset.
    pub bytes: Vec<u8>,
    /// The places of the pointers among them. A null pointer is none.
    pub pointers: Vec<usize>,
}

/// Bytes for a place in the arena.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Upload {
    /// The place.
    pub at: u64,
    /// The bytes.
    pub data: Bytes,
}

impl Upload {
    /// Uploads that lie one behind the other, as one.
    pub(crate) fn joined(uploads: Vec<Self>) -> Option<Self> {
        let at = uploads.first()?.at;
        let mut data = Bytes::default();
        for upload in uploads {
            data.put((upload.at - at) as usize, upload.data);
        }
        Some(Self { at, data })
    }
}

impl Bytes {
    /// The bytes with every pointer shifted by the arena's address.
    pub fn in_arena(&self, base: u64) -> Cow<'_, [u8]> {
        if self.pointers.is_empty() {
            return Cow::Borrowed(&self.bytes);
        }
        let mut bytes = self.bytes.clone();
        for place in &self.pointers {
            let slot = &mut bytes[*place..*place + 8];
            let offset = u64::from_ne_bytes(slot.try_into().expect("a pointer has eight bytes"));
            slot.copy_from_slice(&(base + offset).to_ne_bytes());
        }
        Cow::Owned(bytes)
    }

    /// The offsets that the pointers hold.
    pub fn offsets(&self) -> impl Iterator<Item = u64> {
        let of = |place: &usize| self.bytes[*place..*place + 8].try_into().map(u64::from_ne_bytes);
        self.pointers.iter().map(move |place| of(place).expect("a pointer has eight bytes"))
    }

    /// A slice of numbers.
    pub(crate) fn of<const N: usize, T: Copy>(values: &[T], bytes: impl Fn(T) -> [u8; N]) -> Self {
        let mut all = vec![0; N * values.len()];
        for (slot, value) in all.chunks_exact_mut(N).zip(values) {
            slot.copy_from_slice(&bytes(*value));
        }
        Self { bytes: all, pointers: vec![] }
    }

    /// Puts bytes at a distance from the beginning, behind all that is there; what lies between is zeros.
    pub(crate) fn put(&mut self, at: usize, part: Self) {
        debug_assert!(self.bytes.len() <= at, "parts are put one behind the other");
        self.bytes.resize(at, 0);
        self.bytes.extend(part.bytes);
        self.pointers.extend(part.pointers.into_iter().map(|place| place + at));
    }

    fn align(mut self, to: usize) -> Self {
        self.bytes.resize(self.bytes.len().next_multiple_of(to), 0);
        self
    }

    fn push<const N: usize>(self, bytes: [u8; N]) -> Self {
        let mut aligned = self.align(N);
        aligned.bytes.extend(bytes);
        aligned
    }

    /// A pointer into the arena.
    pub(crate) fn pointer(self, at: u64) -> Self {
        let mut aligned = self.align(8);
        aligned.pointers.push(aligned.bytes.len());
        aligned.push(at.to_ne_bytes())
    }

    /// A pointer that may be null.
    pub(crate) fn pointer_or_null(self, at: Option<u64>) -> Self {
        match at {
            Some(at) => self.pointer(at),
            None => self.push(0u64.to_ne_bytes()),
        }
    }

    /// An `int`; sizes are bounded where a plan begins.
    pub(crate) fn int(self, value: usize) -> Self {
        debug_assert!(i32::try_from(value).is_ok(), "{value} is no int");
        self.push((value as i32).to_ne_bytes())
    }

    /// A `long long`.
    pub(crate) fn long(self, value: usize) -> Self {
        self.push((value as i64).to_ne_bytes())
    }

    /// A `float`.
    pub(crate) fn float(self, value: f64) -> Self {
        self.push((value as f32).to_ne_bytes())
    }

    /// A `double`.
    pub(crate) fn double(self, value: f64) -> Self {
        self.push(value.to_ne_bytes())
    }

    /// A `bool`.
    pub(crate) fn flag(self, value: bool) -> Self {
        self.push([u8::from(value)])
    }

    /// The end of a struct that holds pointers, or the place where one begins.
    pub(crate) fn end(self) -> Self {
        self.align(8)
    }
}

/// Steps that a machine has taken down, by their number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Recording(pub u64);

/// A machine that keeps an arena and runs plans on it: a card, or its emulation.
pub trait Machine: Send {
    /// Makes the arena as large as `bytes`; what it held is lost if it has to grow.
    ///
    /// # Errors
    /// Errors if there is no room.
    fn reserve(&mut self, bytes: u64) -> Result<()>;

    /// Makes the arena larger, to `bytes` if there is room for so many, else to `least`, which is no more, and keeps the bytes
    /// that stand in `kept`. Returns its size in bytes. Recordings are lost, and the arena may lie elsewhere.
    ///
    /// # Errors
    /// Errors if `kept` does not lie in the arena, or there is no room; then nothing may be left of what it held.
    fn grow(&mut self, bytes: u64, least: u64, kept: Range<u64>) -> Result<u64> {
        self.grow_by_host(bytes, least, kept)
    }

    /// [`grow`](Self::grow) by reading what is kept to the host's memory, and writing it back.
    ///
    /// # Errors
    /// As [`grow`](Self::grow).
    fn grow_by_host(&mut self, bytes: u64, least: u64, kept: Range<u64>) -> Result<u64> {
        let by_host = usize::try_from(kept.end.saturating_sub(kept.start));
        let by_host = by_host.map_err(|_| Error::Input(format!("{kept:?} to be kept")))?;
        let mut held = vec![0; by_host];
        self.read(kept.start, &mut held)?;
        let bytes = match self.reserve(bytes) {
            Ok(()) => bytes,
            Err(_) => self.reserve(least).map(|()| least)?,
        };
        self.write(kept.start, &Bytes { bytes: held, pointers: Vec::new() })?;
        Ok(bytes)
    }

    /// Writes bytes to a place of the arena.
    ///
    /// # Errors
    /// Errors if they do not lie in the arena, or the machine fails.
    fn write(&mut self, at: u64, data: &Bytes) -> Result<()>;

    /// Reads bytes from a place of the arena, behind all that was run.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    fn read(&mut self, at: u64, bytes: &mut [u8]) -> Result<()>;

    /// Runs steps, one after the other.
    ///
    /// # Errors
    /// Errors if a kernel is missing or can't be started as it is asked to.
    fn run(&mut self, steps: &[Step]) -> Result<()>;

    /// Takes steps down without running them, so that all of them can be started at once and as often as wanted: a card
    /// keeps them as a graph. What is written to the arena later is read when they are played. An arena that grows
    /// drops every recording.
    ///
    /// # Errors
    /// As [`run`](Self::run), and if the machine can't record.
    fn record(&mut self, steps: &[Step]) -> Result<Recording>;

    /// Runs the steps of a recording.
    ///
    /// # Errors
    /// Errors if there is no such recording any more, or the machine fails.
    fn play(&mut self, recording: Recording) -> Result<()>;

    /// Drops a recording; one that is not there is left alone.
    fn forget(&mut self, recording: Recording);

    /// Bytes that an arena may have, the present one's included; `None` where the machine can't tell.
    fn room(&mut self) -> Option<u64>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_keep_their_pointers_wherever_they_are_put() {
        let mut whole = Bytes::default().int(1);
        whole.put(16, Bytes::default().long(2).pointer(512));
        assert_eq!((whole.bytes.len(), &whole.pointers[..]), (32, &[24][..]));
        assert_eq!(whole.offsets().collect::<Vec<_>>(), [512]);
    }

    #[test]
    fn fields_lie_where_c_puts_them() {
        let of = Bytes::default().flag(true).int(7).pointer(16).float(0.5).pointer_or_null(None);
        let of = of.int(1).end();
        let bytes = of.in_arena(1 << 20);
        assert_eq!((bytes.len(), &of.pointers[..]), (40, &[8][..]));
        assert_eq!((bytes[0], bytes[4]), (1, 7));
        assert_eq!(bytes[8..16], ((1u64 << 20) + 16).to_ne_bytes());
        assert_eq!((&bytes[16..20], &bytes[24..32]), (&0.5f32.to_ne_bytes()[..], &[0; 8][..]));
    }
}

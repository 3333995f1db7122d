//! Reads the numbers of CPU tensors, and writes results in parallel without zeroing their memory first.
//!
//! Memory that is about to be written is a slice of `MaybeUninit`. A loop that has written all of it gets it back as
//! floats from the functions here, and those floats are the only proof that [`filled`] takes: a loop that leaves an
//! element out does not compile, or panics.
#![allow(unsafe_code, reason = "the one place where memory is handed out before it is written")]

use std::cell::Cell;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::{Deref, Range};
use std::sync::Mutex;

use candle_core::{CpuStorage, InplaceOp1, Layout, Result, Storage, Tensor, bail};
use rayon::prelude::*;

/// Elements below which the calling thread works alone: a decoding pass has over a hundred small
/// elementwise operations, each shorter than waking a thread takes.
pub(crate) const SERIAL: usize = 64 << 10;

/// The elements of a contiguous f32 storage.
pub(crate) fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => bail!("kernel: a strided tensor came in, expected a contiguous one"),
    }
}

/// The elements of a contiguous f32 CPU tensor, for as long as this lives.
struct Elements<G> {
    storage: G,
    range: Range<usize>,
}

impl<G: Deref<Target = Storage>> Deref for Elements<G> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(values)) => &values[self.range.clone()],
            _ => unreachable!("`elements` has looked at the storage"),
        }
    }
}

/// The elements of several contiguous f32 CPU tensors.
pub(crate) fn elements<const N: usize>(
    tensors: [&Tensor; N],
) -> Result<[impl Deref<Target = [f32]>; N]> {
    if !tensors.into_iter().all(Tensor::is_contiguous) {
        bail!("kernel: a strided tensor came in, expected a contiguous one")
    }
    let held = tensors.map(|tensor| {
        let (storage, layout) = tensor.storage_and_layout();
        let start = layout.start_offset();
        Elements { storage, range: start..start + tensor.elem_count() }
    });
    match held.iter().all(|held| matches!(&*held.storage, Storage::Cpu(CpuStorage::F32(_)))) {
        true => Ok(held),
        false => bail!("kernel: a tensor is not of f32 on the CPU"),
    }
}

/// Runs `f` on a CPU tensor's storage and the range of it that is a contiguous tensor's own.
pub(crate) fn lend_storage<F>(tensor: &Tensor, f: F) -> Result<()>
where
    F: FnOnce(&mut CpuStorage, Range<usize>) -> Result<()>,
{
    /// candle hands out an operation's target only; everything else rides in the operation.
    struct Lent<F>(Cell<Option<F>>);

    impl<F: FnOnce(&mut CpuStorage, Range<usize>) -> Result<()>> InplaceOp1 for Lent<F> {
        fn name(&self) -> &'static str {
            "in place"
        }

        fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
            match (layout.contiguous_offsets(), self.0.take()) {
                (Some((start, end)), Some(f)) => f(storage, start..end),
                _ => bail!("kernel: a strided tensor came in, expected a contiguous one"),
            }
        }
    }

    tensor.inplace_op1(&Lent(Cell::new(Some(f))))
}

/// Runs `f` on the elements of a contiguous f32 CPU tensor, to be overwritten.
pub(crate) fn lend(tensor: &Tensor, f: impl FnOnce(&mut [f32]) -> Result<()>) -> Result<()> {
    lend_storage(tensor, |storage, own| match storage {
        CpuStorage::F32(values) => f(&mut values[own]),
        _ => bail!("kernel: a tensor is not of f32 on the CPU"),
    })
}

/// A tensor on the CPU that holds `values`, shaped as `like`.
pub(crate) fn shaped(values: Vec<f32>, like: &Tensor) -> Result<Tensor> {
    Tensor::from_vec(values, like.shape(), like.device())
}

/// Floats that are about to be written.
pub(crate) type Slots = [MaybeUninit<f32>];

/// `N` vectors of `len` floats, written in tasks of `chunk` elements; if they are few, by this thread alone. `write`
/// gets a task's number and its part of each vector.
pub(crate) fn filled<const N: usize>(
    len: usize,
    chunk: usize,
    write: impl for<'a> Fn(usize, [&'a mut Slots; N]) -> [&'a mut [f32]; N] + Sync,
) -> [Vec<f32>; N] {
    filled_and(len, chunk, |task, parts| (write(task, parts), ())).0
}

/// [`filled`], with the values that the tasks return besides.
pub(crate) fn filled_and<const N: usize, R: Send>(
    len: usize,
    chunk: usize,
    write: impl for<'a> Fn(usize, [&'a mut Slots; N]) -> ([&'a mut [f32]; N], R) + Sync,
) -> ([Vec<f32>; N], Vec<R>) {
    let mut vectors = [(); N].map(|()| Vec::with_capacity(len));
    let outputs =
        vectors.each_mut().map(|vector| Disjoint::new(&mut vector.spare_capacity_mut()[..len]));
    let task = |task: usize| {
        let (at, size) = (task * chunk, chunk.min(len - task * chunk));
        // SAFETY: tasks are a chunk apart.
        let parts = outputs.each_ref().map(|output| unsafe { output.part(at, size) });
        let starts = parts.each_ref().map(|part| part.as_ptr().addr());
        let (written, yielded) = write(task, parts);
        for (start, written) in starts.into_iter().zip(written) {
            assert!(start == written.as_ptr().addr() && size == written.len(), "another slice");
        }
        yielded
    };
    let tasks = 0..len.div_ceil(chunk.max(1));
    let yielded = match len < SERIAL {
        true => tasks.map(task).collect(),
        false => tasks.into_par_iter().map(task).collect(),
    };
    for vector in &mut vectors {
        // SAFETY: every task has given back its part as floats, at the same address and of the same length.
        unsafe { vector.set_len(len) };
    }
    (vectors, yielded)
}

/// A vector of `len` floats that `write` writes in one go.
pub(crate) fn filled_at_once(
    len: usize,
    write: impl for<'a> FnOnce(&'a mut Slots) -> &'a mut [f32],
) -> Vec<f32> {
    let mut vector = Vec::with_capacity(len);
    let slots = &mut vector.spare_capacity_mut()[..len];
    let start = slots.as_ptr().addr();
    let written = write(slots);
    assert!(start == written.as_ptr().addr() && len == written.len(), "another slice");
    // SAFETY: all of it came back as floats.
    unsafe { vector.set_len(len) };
    vector
}

/// Writes one value after the other.
#[inline(always)]
pub(crate) fn write(to: &mut Slots, values: impl Iterator<Item = f32>) -> &mut [f32] {
    let mut count = 0;
    for (slot, value) in to.iter_mut().zip(values) {
        slot.write(value);
        count += 1;
    }
    assert!(count == to.len(), "too few values");
    // SAFETY: the loop has written all of them.
    unsafe { written(to) }
}

/// Writes three slices of one length at once.
#[inline(always)]
pub(crate) fn write_three(
    [a, b, c]: [&mut Slots; 3],
    values: impl Iterator<Item = [f32; 3]>,
) -> [&mut [f32]; 3] {
    #[inline(always)]
    fn all(
        a: &mut Slots,
        b: &mut Slots,
        c: &mut Slots,
        values: impl Iterator<Item = [f32; 3]>,
    ) -> usize {
        let mut count = 0;
        for (((a, b), c), [x, y, z]) in a.iter_mut().zip(b).zip(c).zip(values) {
            a.write(x);
            b.write(y);
            c.write(z);
            count += 1;
        }
        count
    }
    let count = all(a, b, c, values);
    assert!(count == a.len() && count == b.len() && count == c.len(), "too few values");
    // SAFETY: the loop has written all of them.
    unsafe { [written(a), written(b), written(c)] }
}

/// Writes both halves of a slice side by side: the first number of each pair goes into the first half, the second
/// into the other.
#[inline(always)]
pub(crate) fn write_halves(to: &mut Slots, values: impl Iterator<Item = (f32, f32)>) -> &mut [f32] {
    let half = to.len() / 2;
    assert!(2 * half == to.len(), "two halves");
    let (low, high) = to.split_at_mut(half);
    let mut count = 0;
    for ((low, high), (x, y)) in low.iter_mut().zip(high).zip(values) {
        low.write(x);
        high.write(y);
        count += 1;
    }
    assert!(count == half, "too few values");
    // SAFETY: the loop has written both halves.
    unsafe { written(to) }
}

/// Copies a slice of the same length.
#[inline(always)]
pub(crate) fn copy<'a>(to: &'a mut Slots, from: &[f32]) -> &'a mut [f32] {
    assert_eq!(to.len(), from.len());
    // SAFETY: floats are initialised slots; they are only read.
    to.copy_from_slice(unsafe { &*(std::ptr::from_ref(from) as *const Slots) });
    // SAFETY: the line above has written all of it.
    unsafe { written(to) }
}

/// Writes zeros.
pub(crate) fn zeros(to: &mut Slots) -> &mut [f32] {
    to.fill(MaybeUninit::new(0.));
    // SAFETY: the line above has written all of it.
    unsafe { written(to) }
}

/// Writes a slice row by row, or as many elements of the last as there are.
#[inline(always)]
pub(crate) fn write_rows(
    to: &mut Slots,
    row_len: usize,
    mut write: impl for<'a> FnMut(usize, &'a mut Slots) -> &'a mut [f32],
) -> &mut [f32] {
    for (i, row) in to.chunks_mut(row_len).enumerate() {
        let (start, len) = (row.as_ptr().addr(), row.len());
        let row = write(i, row);
        assert!(start == row.as_ptr().addr() && len == row.len(), "another slice");
    }
    // SAFETY: every row came back as floats.
    unsafe { written(to) }
}

/// A slice that a loop writes row by row: [`write_rows`] for loops compiled for an instruction set. Their bodies may
/// not stand in closures, which the compiler does not put into their caller reliably; then each fused
/// multiplication becomes a call.
pub(crate) struct RowsToWrite<'a> {
    slots: &'a mut Slots,
    row_len: usize,
    /// The number of elements in the rows written so far.
    written: usize,
}

impl<'a> RowsToWrite<'a> {
    #[inline(always)]
    pub(crate) fn new(slots: &'a mut Slots, row_len: usize) -> Self {
        Self { slots, row_len, written: 0 }
    }

    /// Writes the next row, which the caller may go on with.
    #[inline(always)]
    pub(crate) fn write(&mut self, values: impl Iterator<Item = f32>) -> &mut [f32] {
        let row = &mut self.slots[self.written..][..self.row_len];
        self.written += self.row_len;
        write(row, values)
    }

    /// The whole slice as floats. Panics if a row has not been written.
    #[inline(always)]
    pub(crate) fn floats(self) -> &'a mut [f32] {
        assert!(self.written == self.slots.len(), "a row is missing");
        // SAFETY: `write` has written as many rows as there are.
        unsafe { written(self.slots) }
    }
}

/// [`write_rows`] with a task for each row.
pub(crate) fn write_chunks(
    to: &mut Slots,
    chunk: usize,
    write: impl for<'a> Fn(usize, &'a mut Slots) -> &'a mut [f32] + Sync,
) -> &mut [f32] {
    to.par_chunks_mut(chunk).enumerate().for_each(|(i, part)| {
        let (start, len) = (part.as_ptr().addr(), part.len());
        let part = write(i, part);
        assert!(start == part.as_ptr().addr() && len == part.len(), "another slice");
    });
    // SAFETY: every part came back as floats.
    unsafe { written(to) }
}

/// # Safety
/// All of it has been written.
#[inline(always)]
unsafe fn written(slots: &mut Slots) -> &mut [f32] {
    // SAFETY: the caller's promise; the layout is the same.
    unsafe { &mut *(std::ptr::from_mut(slots) as *mut [f32]) }
}

/// A mutable slice that several threads write at once, each its own part.
pub(crate) struct Disjoint<'a, T = f32> {
    start: *mut T,
    len: usize,
    owner: PhantomData<&'a mut [T]>,
}

// SAFETY: the only access is `part`, whose callers promise that no two parts overlap.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}
// SAFETY: as above; a mutable slice may be sent.
unsafe impl<T: Send> Send for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), owner: PhantomData }
    }

    /// `len` elements from `at` on.
    ///
    /// # Safety
    /// No other part that overlaps this one may be alive.
    #[allow(clippy::mut_from_ref, reason = "the caller keeps parts apart")]
    pub(crate) unsafe fn part(&self, at: usize, len: usize) -> &mut [T] {
        assert!(at <= self.len && len <= self.len - at, "part {at}+{len} of {}", self.len);
        // SAFETY: in bounds by the line above, exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(at), len) }
    }
}

/// Keeps temporary buffers from call to call, so that their pages are not faulted in again each time.
static POOL: Mutex<Vec<Vec<f32>>> = Mutex::new(Vec::new());

/// The largest number of buffers that are kept; further ones are freed.
const POOL_BUFFERS: usize = 32;

/// A buffer from the pool, given back when dropped. Its contents are whatever was there.
pub(crate) struct Scratch {
    buffer: Vec<f32>,
    len: usize,
}

impl Scratch {
    pub(crate) fn new(len: usize) -> Self {
        let mut pool = POOL.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        // The smallest that is large enough, else the largest, which is replaced.
        let fit = (0..pool.len())
            .filter(|i| pool[*i].len() >= len)
            .min_by_key(|i| pool[*i].len())
            .or_else(|| (0..pool.len()).max_by_key(|i| pool[*i].len()));
        let mut buffer = fit.map(|i| pool.swap_remove(i)).unwrap_or_default();
        drop(pool);
        if buffer.len() < len {
            buffer = vec![0.; len];
        }
        Self { buffer, len }
    }

    pub(crate) fn zeroed(len: usize) -> Self {
        let mut scratch = Self::new(len);
        scratch.fill(0.);
        scratch
    }
}

impl std::ops::Deref for Scratch {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &self.buffer[..self.len]
    }
}

impl std::ops::DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.buffer[..self.len]
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let mut pool = POOL.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if pool.len() < POOL_BUFFERS {
            pool.push(std::mem::take(&mut self.buffer));
        }
    }
}

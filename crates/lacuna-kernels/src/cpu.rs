//! Getting at the numbers of CPU tensors, and writing results in parallel.

use std::marker::PhantomData;
use std::sync::Mutex;

use candle_core::{CpuStorage, Layout, Result, Storage, Tensor, bail};

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

/// Runs `f` on the elements of a contiguous f32 CPU tensor.
pub(crate) fn with<R>(t: &Tensor, f: impl FnOnce(&[f32]) -> Result<R>) -> Result<R> {
    let (storage, layout) = t.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => f(slice(storage, layout)?),
        _ => bail!("kernel: a tensor is on {:?}, expected the CPU", t.device().location()),
    }
}

/// A vector of `len` floats that `write` fills: memory that is about to be overwritten need not be
/// zeroed first.
///
/// # Safety
/// `write` writes every element and reads none before it has.
pub(crate) unsafe fn written(len: usize, write: impl FnOnce(&mut [f32])) -> Vec<f32> {
    let mut values = Vec::<f32>::with_capacity(len);
    // SAFETY: the capacity is `len`, and any bits are a float; the caller promises that they are
    // not looked at before they are written.
    unsafe {
        write(std::slice::from_raw_parts_mut(values.as_mut_ptr(), len));
        values.set_len(len);
    }
    values
}

/// A tensor on the CPU that holds `values`, shaped as `like`.
pub(crate) fn shaped(values: Vec<f32>, like: &Tensor) -> Result<Tensor> {
    Tensor::from_vec(values, like.shape(), like.device())
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

/// Temporary buffers that outlive a call, so that their pages are not faulted in again each time.
static POOL: Mutex<Vec<Vec<f32>>> = Mutex::new(Vec::new());

/// Buffers kept at most; beyond that they are freed.
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

//! Runs plans on a card through the CUDA driver, step by step or recorded as a graph.
#![allow(unsafe_code, reason = "every call of the driver is; each says why it may be made")]

use cudarc::driver::{
    CudaContext, CudaEvent, CudaFunction, CudaGraph, CudaModule, CudaStream, DriverError, result,
    sys,
};
use cudarc::nvrtc::Ptx;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use crate::card::Card;
use crate::error::{Error, Result};
use crate::launch::{Bytes, Launch, Machine, Recording, Step};

/// A card with an arena in its memory, and the kernels that were loaded.
pub struct Driver {
    context: Arc<CudaContext>,
    /// A stream of its own: the default one can't be recorded.
    stream: Arc<CudaStream>,
    /// Streams beside the main one, so that queries, keys and values have one each; each with the event that it ends with.
    sides: [(Arc<CudaStream>, CudaEvent); SIDES],
    /// The place of `stream` from which its sides go on.
    fork: CudaEvent,
    modules: Vec<Arc<CudaModule>>,
    functions: HashMap<&'static str, CudaFunction>,
    base: sys::CUdeviceptr,
    bytes: u64,
    /// Recordings of this arena, by their numbers; `None` is one without a step.
    graphs: HashMap<u64, Option<CudaGraph>>,
    recorded: u64,
}

// SAFETY: of its fields graphs alone are not `Send`, for the handles in them. The driver takes a handle from any thread
// that has bound its context, as every function here does first, and `&mut self` keeps two threads from using one at a time.
unsafe impl Send for Driver {}

/// Launches that run beside another at most: of queries, keys and values two.
const SIDES: usize = 2;
/// Bytes of shared memory that every kernel may take without asking.
const PLAIN_SHARED: u32 = 48 << 10;

impl Driver {
    /// Opens a card. `images` are the kernels' code, as `nvcc -cubin` or `-fatbin` writes it, for this card.
    ///
    /// # Errors
    /// Errors if there is no such card, or an image is not for it.
    pub fn new(ordinal: usize, images: Vec<Vec<u8>>) -> Result<Self> {
        // Without this question the first call of the driver would panic.
        // SAFETY: what a driver's library does when it is loaded is the same for every program that uses a card.
        let loads = |name: &str| unsafe { libloading::Library::new(name) }.is_ok();
        if !["libcuda.so.1", "libcuda.so", "nvcuda.dll"].into_iter().any(loads) {
            let why = "there is no NVIDIA driver on this machine (libcuda.so.1); install version 580 or newer, or use the CPU";
            return Err(Error::NoCard(why.into()));
        }
        let none = |error: DriverError| Error::NoCard(error.to_string());
        let count = CudaContext::device_count().map_err(|error| {
            let why =
                "the NVIDIA driver finds no GPU that it can use; `nvidia-smi` shows what it sees";
            Error::NoCard(format!("{why}: {error}"))
        })?;
        there_is(ordinal, usize::try_from(count).unwrap_or(0))?;
        let context = CudaContext::new(ordinal).map_err(none)?;
        let open = || context.new_stream().map_err(failed("opening a stream"));
        let event = || context.new_event(None).map_err(failed("making an event"));
        let stream = open()?;
        let sides = [(open()?, event()?), (open()?, event()?)];
        let fork = event()?;
        let load = |image| context.load_module(Ptx::from_binary(image));
        let modules = images.into_iter().map(load).collect::<std::result::Result<_, _>>();
        let modules = modules.map_err(failed("loading kernels"))?;
        Ok(Self {
            context,
            stream,
            sides,
            fork,
            modules,
            functions: HashMap::new(),
            base: 0,
            bytes: 0,
            graphs: HashMap::new(),
            recorded: 0,
        })
    }

    /// The card's name.
    ///
    /// # Errors
    /// Errors if the driver does not tell it.
    pub fn name(&self) -> Result<String> {
        self.context.name().map_err(failed("asking what card it is"))
    }

    /// The kernels that serve the card best.
    ///
    /// # Errors
    /// Errors if the driver does not say what card it is, or it is older than sm_80.
    pub fn card(&self) -> Result<Card> {
        match self.context.compute_capability().map_err(failed("asking what card it is"))? {
            (9, _) => Ok(Card::Hopper),
            (8, 0) => Ok(Card::Large),
            (8.., _) => Ok(Card::Small),
            (major, minor) => Err(Error::Unsupported {
                what: format!("a card of compute capability {major}.{minor}"),
                expected: "8.0 and newer",
            }),
        }
    }

    /// A kernel by its name, from whichever image has it, allowed to take its shared memory.
    fn function(&mut self, launch: &Launch) -> Result<CudaFunction> {
        let name = launch.kernel;
        if let Some(function) = self.functions.get(name) {
            return Ok(function.clone());
        }
        let found = self.modules.iter().find_map(|module| module.load_function(name).ok());
        let function = found.ok_or_else(|| Error::Machine {
            doing: name.into(),
            reason: "no image has this kernel".into(),
        })?;
        if launch.shared > PLAIN_SHARED {
            let most =
                sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            function.set_attribute(most, launch.shared as i32).map_err(failed(name))?;
        }
        self.functions.insert(name, function.clone());
        Ok(function)
    }

    /// The address of `bytes` at a place of the arena.
    fn address(&self, at: u64, bytes: u64) -> Result<sys::CUdeviceptr> {
        match at.checked_add(bytes) {
            Some(end) if end <= self.bytes => Ok(self.base + at),
            _ => Err(Error::Input(format!(
                "{bytes} bytes at {at} do not lie in an arena of {}",
                self.bytes
            ))),
        }
    }

    /// Puts steps into the stream, which runs or records them.
    fn start(&mut self, steps: &[Step]) -> Result<()> {
        self.context.bind_to_thread().map_err(failed("choosing the card"))?;
        let mut group = None;
        let started = self.start_in_groups(steps, &mut group);
        // The sides end here whatever has failed: a stream that is waited for, or recorded, must not leave them behind.
        let joined = if group.is_some() { self.join() } else { Ok(()) };
        started.and(joined)
    }

    /// The same, but for the end of the last group. `group`: launches of the group under way, on the stream itself and on
    /// its sides in turn; none between groups.
    fn start_in_groups(&mut self, steps: &[Step], group: &mut Option<usize>) -> Result<()> {
        for (i, step) in steps.iter().enumerate() {
            let beside = matches!(step, Step::Launch(launch) if launch.beside);
            if group.is_some() && !beside && !matches!(step, Step::Fresh { .. }) {
                self.join()?;
                *group = None;
            }
            match step {
                Step::Fresh { .. } => {}
                Step::Zero { at, bytes } => {
                    let to = self.address(*at, *bytes)?;
                    let stream = self.stream.cu_stream();
                    // SAFETY: the region lies in the arena, which lives until the stream is done (`drop`, `reserve`).
                    unsafe { result::memset_d8_async(to, 0, *bytes as usize, stream) }
                        .map_err(failed("filling with zeros"))?;
                }
                Step::Copy { from, to, bytes } => {
                    let [from, to] = [self.address(*from, *bytes)?, self.address(*to, *bytes)?];
                    let stream = self.stream.cu_stream();
                    // SAFETY: both regions lie in the arena, as above.
                    unsafe { result::memcpy_dtod_async(to, from, *bytes as usize, stream) }
                        .map_err(failed("copying on the card"))?;
                }
                Step::Launch(launch) => {
                    if !launch.beside && goes_on_beside(&steps[i + 1..]) {
                        *group = Some(0);
                        self.fork()?;
                    }
                    let place = group.unwrap_or(0) % (SIDES + 1);
                    *group = group.map(|launches| launches + 1);
                    let stream = match place {
                        0 => &self.stream,
                        side => &self.sides[side - 1].0,
                    };
                    self.start_kernel(launch, Arc::clone(stream))?;
                }
            }
        }
        Ok(())
    }

    /// Lets the sides go on from here.
    fn fork(&self) -> Result<()> {
        let forked = self.fork.record(&self.stream);
        let waits = |(side, _): &(Arc<CudaStream>, CudaEvent)| side.wait(&self.fork);
        forked
            .and_then(|()| self.sides.iter().try_for_each(waits))
            .map_err(failed("parting a stream"))
    }

    /// Waits for the sides.
    fn join(&self) -> Result<()> {
        let waits = |(side, end): &(Arc<CudaStream>, CudaEvent)| {
            end.record(side).and_then(|()| self.stream.wait(end))
        };
        self.sides.iter().try_for_each(waits).map_err(failed("joining streams"))
    }

    fn start_kernel(&mut self, launch: &Launch, stream: Arc<CudaStream>) -> Result<()> {
        let function = self.function(launch)?;
        for at in launch.args.offsets() {
            self.address(at, 1)?;
        }
        // Words, so that the struct lies at a multiple of its alignment.
        let bytes = launch.args.in_arena(self.base);
        let words = bytes.chunks(8).map(|chunk| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            u64::from_ne_bytes(word)
        });
        let mut words: Vec<u64> = words.collect();
        let [x, y, z] = launch.grid;
        // SAFETY: the function's module lives as long as `self`. The driver copies the one argument, a struct of this
        // many bytes, before it returns. Its pointers begin in the arena; that the kernel stays there is the plan's word,
        // as tests on the emulated kernels hold it.
        unsafe {
            result::launch_kernel(
                function.cu_function(),
                (x, y, z),
                (launch.threads, 1, 1),
                launch.shared,
                stream.cu_stream(),
                &mut [words.as_mut_ptr().cast()],
            )
        }
        .map_err(failed(launch.kernel))
    }

    fn release(&mut self) -> Result<()> {
        let sides = self.sides.iter().map(|(side, _)| side);
        let mut streams = std::iter::once(&self.stream).chain(sides);
        streams
            .try_for_each(|stream| stream.synchronize())
            .map_err(failed("waiting for the card"))?;
        self.graphs.clear();
        let base = std::mem::take(&mut self.base);
        self.bytes = 0;
        free(base)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // A card that fails here has failed before; its memory goes with the process.
        let _ = self.context.bind_to_thread();
        let _ = self.release();
    }
}

impl Machine for Driver {
    fn reserve(&mut self, bytes: u64) -> Result<()> {
        if bytes <= self.bytes {
            return Ok(());
        }
        self.context.bind_to_thread().map_err(failed("choosing the card"))?;
        self.release()?;
        (self.base, self.bytes) = (allocate(bytes)?, bytes);
        Ok(())
    }

    fn grow(&mut self, bytes: u64, least: u64, kept: Range<u64>) -> Result<u64> {
        self.context.bind_to_thread().map_err(failed("choosing the card"))?;
        let length = kept.end.saturating_sub(kept.start);
        let from = self.address(kept.start, length)?;
        // On the card where the old arena and the new one have room together, if need be the smallest that will do: by way of
        // the host a state takes as much memory there.
        let larger =
            [bytes, least].into_iter().find_map(|bytes| Some((allocate(bytes).ok()?, bytes)));
        let Some((base, bytes)) = larger else { return self.grow_by_host(bytes, least, kept) };
        // SAFETY: the old region lies in the arena, the new one in an allocation that is larger; the stream is waited for
        // before the old one goes.
        let copied = unsafe {
            let stream = self.stream.cu_stream();
            result::memcpy_dtod_async(base + kept.start, from, length as usize, stream)
        };
        let moved = copied.map_err(failed("copying on the card")).and_then(|()| self.release());
        if let Err(error) = moved {
            // The first error says why; memory that can't be freed goes with the process.
            let _ = free(base);
            return Err(error);
        }
        (self.base, self.bytes) = (base, bytes);
        Ok(bytes)
    }

    fn write(&mut self, at: u64, data: &Bytes) -> Result<()> {
        self.context.bind_to_thread().map_err(failed("choosing the card"))?;
        let bytes = data.in_arena(self.base);
        let to = self.address(at, bytes.len() as u64)?;
        // On the stream, so that it comes behind the kernels that read what was there and before those that read this: a copy
        // that is not on it may still be on its way when the next kernel starts.
        // SAFETY: the region lies in the arena, and the bytes live until the stream has been waited for.
        unsafe { result::memcpy_htod_async(to, &bytes, self.stream.cu_stream()) }
            .map_err(failed("writing to the card"))?;
        self.stream.synchronize().map_err(failed("writing to the card"))
    }

    fn read(&mut self, at: u64, bytes: &mut [u8]) -> Result<()> {
        self.context.bind_to_thread().map_err(failed("choosing the card"))?;
        let from = self.address(at, bytes.len() as u64)?;
        self.stream.synchronize().map_err(failed("waiting for the card"))?;
        // SAFETY: the region lies in the arena, no kernel is under way, and the bytes live until the call returns.
        unsafe { result::memcpy_dtoh_sync(bytes, from) }.map_err(failed("reading from the card"))
    }

    fn run(&mut self, steps: &[Step]) -> Result<()> {
        self.start(steps)
    }

    fn record(&mut self, steps: &[Step]) -> Result<Recording> {
        // Functions are looked up first: that is nothing to be recorded.
        self.context.bind_to_thread().map_err(failed("choosing the card"))?;
        for step in steps {
            if let Step::Launch(launch) = step {
                self.function(launch)?;
            }
        }
        let own = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        self.stream.begin_capture(own).map_err(failed("recording"))?;
        let started = self.start(steps);
        let flags = sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        let graph = self.stream.end_capture(flags).map_err(failed("recording"));
        started?;
        self.recorded += 1;
        self.graphs.insert(self.recorded, graph?);
        Ok(Recording(self.recorded))
    }

    fn play(&mut self, recording: Recording) -> Result<()> {
        self.context.bind_to_thread().map_err(failed("choosing the card"))?;
        match self.graphs.get(&recording.0) {
            Some(Some(graph)) => graph.launch().map_err(failed("playing a recording")),
            Some(None) => Ok(()),
            None => Err(Error::Input("the recording was made for another arena".into())),
        }
    }

    fn forget(&mut self, recording: Recording) {
        let Some(graph) = self.graphs.remove(&recording.0) else { return };
        // A graph that is under way may not be destroyed; a card that fails here fails at the next call.
        let _ = self.context.bind_to_thread();
        let _ = self.stream.synchronize();
        drop(graph);
    }

    fn room(&mut self) -> Option<u64> {
        self.context.bind_to_thread().ok()?;
        let (free, _) = result::mem_get_info().ok()?;
        Some(free as u64 + self.bytes)
    }
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

/// Tells whether the next launch is of the group of the one before.
fn goes_on_beside(steps: &[Step]) -> bool {
    let next = steps.iter().find(|step| !matches!(step, Step::Fresh { .. }));
    matches!(next, Some(Step::Launch(launch)) if launch.beside)
}

/// Memory of the current card.
fn allocate(bytes: u64) -> Result<sys::CUdeviceptr> {
    // SAFETY: whoever asks for it frees it, once.
    unsafe { result::malloc_sync(bytes as usize) }
        .map_err(failed(&format!("allocating {bytes} bytes on the card")))
}

/// Frees what [`allocate`] gave, unless it is null.
fn free(base: sys::CUdeviceptr) -> Result<()> {
    if base == 0 {
        return Ok(());
    }
    // SAFETY: it was allocated, nothing in a stream uses it any more, and nobody frees it again.
    unsafe { result::free_sync(base) }.map_err(failed("freeing memory"))
}

/// Errors where a machine has too few cards for this one to be among them.
fn there_is(ordinal: usize, count: usize) -> Result<()> {
    match count {
        0 => Err(Error::NoCard(
            "the NVIDIA driver finds no GPU; `nvidia-smi` shows what it sees".into(),
        )),
        _ if ordinal < count => Ok(()),
        _ => Err(Error::NoCard(format!(
            "GPU {ordinal} is asked for, and this machine has {count}, counted from 0: each rank takes the GPU of its local \
             rank; start as many ranks on a machine as it has GPUs"
        ))),
    }
}

/// The driver's own words, with what was being done.
fn failed(doing: &str) -> impl FnOnce(DriverError) -> Error {
    let doing = doing.to_owned();
    move |error| Error::Machine { doing, reason: error.to_string() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test panics where it fails")]
mod tests {
    use super::*;

    #[test]
    fn a_rank_beyond_the_last_card_is_told_how_many_there_are() {
        assert!(there_is(1, 2).is_ok());
        let error = there_is(2, 2).unwrap_err().to_string();
        assert!(error.contains("GPU 2") && error.contains("has 2"), "{error}");
        assert!(there_is(0, 0).unwrap_err().to_string().contains("finds no GPU"));
    }
}

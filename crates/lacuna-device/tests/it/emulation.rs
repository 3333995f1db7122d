//! Runs plans on the CUDA kernels as g++ compiles them for the CPU: a [`Machine`] without a card. Where [`CARD`] is set the same
//! tests run on a card, with kernels that were built into their program.

use lacuna_device::{Bytes, Error, Machine, Recording, Result, Step};
use std::alloc::{Layout, alloc, dealloc};
use std::collections::{BTreeSet, HashMap};
use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};

/// The variable that names the library.
const LIBRARY: &str = "LACUNA_EMULATED_KERNELS";
/// The variable that asks for the card with this number.
const CARD: &str = "LACUNA_CARD";
/// NaNs behind the arena, for kernels that a fault sends there.
const SLACK: usize = 16 << 20;

type Start = unsafe extern "C" fn(
    name: *const c_char,
    grid: *const [c_uint; 3],
    threads: c_uint,
    shared: usize,
    args: *const c_void,
    args_bytes: usize,
    schedule: c_int,
) -> *const c_char;

/// The library's functions. It has one state for all callers: they take turns.
struct Library {
    start: Start,
    schedules: c_int,
}

static LOADED: OnceLock<Library> = OnceLock::new();
static TAKEN: Mutex<bool> = Mutex::new(false);
static FREE: Condvar = Condvar::new();

/// The turn of one caller, which may go from thread to thread with it.
struct Turn;

impl Turn {
    fn take() -> Self {
        let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        while *taken {
            taken = FREE.wait(taken).unwrap_or_else(PoisonError::into_inner);
        }
        *taken = true;
        Self
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *TAKEN.lock().unwrap_or_else(PoisonError::into_inner) = false;
        FREE.notify_one();
    }
}

fn library() -> &'static Library {
    LOADED.get_or_init(|| {
        let path = std::env::var_os(LIBRARY).unwrap_or_else(|| {
            panic!("{LIBRARY} names no library: run `cargo xtask cuda emulate plan`")
        });
        // SAFETY: the library is built from `emulation/library.cpp` of this tree, whose constructors touch nothing of
        // ours, and is never unloaded.
        let library = Box::leak(Box::new(unsafe { libloading::Library::new(path) }.unwrap()));
        // SAFETY: the types are those of the functions in `emulation/library.cpp`.
        unsafe {
            let schedules = *library.get::<extern "C" fn() -> c_int>(b"lacuna_schedules").unwrap();
            let start = *library.get::<Start>(b"lacuna_launch").unwrap();
            Library { start, schedules: schedules() }
        }
    })
}

/// A mistake that is made in everything that is recorded.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// A kernel is left out.
    LeftOut(&'static str),
    /// Tables that are written stay as they were when as many bytes were first written to their place.
    Stale,
}

/// An arena in the CPU's memory, and the emulated kernels under one schedule of their threads.
pub(crate) struct Emulation {
    base: *mut u8,
    bytes: usize,
    schedule: c_int,
    recordings: HashMap<Recording, Vec<Step>>,
    recorded: u64,
    fault: Option<Fault>,
    /// The kernels that were recorded, for whoever holds it too.
    kernels: Arc<Mutex<BTreeSet<&'static str>>>,
    /// The first bytes that were written to a place since something was recorded, by their number.
    written: HashMap<(u64, usize), Bytes>,
    /// The card that takes its place, on which there are no schedules.
    card: Option<Box<dyn Machine>>,
    _turn: Turn,
}

// SAFETY: the memory at `base` is its own.
unsafe impl Send for Emulation {}

impl Emulation {
    /// A machine whose warps run in the order of schedule `schedule` (`emulation/machine.h` lists them). Another test's
    /// is waited for.
    pub(crate) fn new(schedule: c_int) -> Self {
        let turn = Turn::take();
        let card = std::env::var(CARD).ok().map(|number| {
            let number = number.parse().unwrap_or_else(|_| panic!("{CARD}={number}"));
            lacuna_device::open(number).unwrap().machine
        });
        assert!(card.is_some() || (0..library().schedules).contains(&schedule));
        Self {
            base: std::ptr::null_mut(),
            bytes: 0,
            schedule,
            recordings: HashMap::new(),
            recorded: 0,
            fault: None,
            kernels: Arc::default(),
            written: HashMap::new(),
            card,
            _turn: turn,
        }
    }

    /// The same with a mistake, which tells the kernels that it meets.
    pub(crate) fn with_fault(
        mut self,
        fault: Option<Fault>,
        kernels: Arc<Mutex<BTreeSet<&'static str>>>,
    ) -> Self {
        (self.fault, self.kernels) = (fault, kernels);
        self
    }

    /// The steps, under all schedules but the first with the launches of each group in reverse, behind the buffers that
    /// begin among them: which of a group comes first must not matter.
    fn in_an_order(&self, steps: &[Step]) -> Vec<Step> {
        let mut ordered = steps.to_vec();
        if self.schedule == 0 {
            return ordered;
        }
        let launch = |step: &Step| match step {
            Step::Launch(launch) => Some(launch.beside),
            _ => None,
        };
        let mut first = 0;
        for i in 0..ordered.len() {
            match launch(&ordered[i]) {
                Some(false) => first = i,
                Some(true) => {
                    // One more of the group: it comes before the others, its buffer before all.
                    ordered[first..=i].sort_by_key(|step| launch(step).is_some());
                    let launches =
                        first + ordered[first..=i].partition_point(|step| launch(step).is_none());
                    ordered[launches..=i].rotate_right(1);
                }
                None => {}
            }
        }
        ordered
    }

    fn layout(&self) -> Layout {
        Layout::from_size_align(self.bytes + SLACK, 4096).unwrap()
    }

    fn release(&mut self) {
        if !self.base.is_null() {
            // SAFETY: `reserve` allocated it with this layout.
            unsafe { dealloc(self.base, self.layout()) };
        }
    }

    fn check(&self, at: u64, bytes: usize, doing: &str) -> Result<usize> {
        let at = usize::try_from(at).unwrap();
        if at + bytes > self.bytes {
            let reason = format!("{bytes} bytes from {at} on, in an arena of {}", self.bytes);
            return Err(Error::Machine { doing: doing.into(), reason });
        }
        Ok(at)
    }

    pub(crate) fn fill(&mut self, at: u64, bytes: u64, with: u8) -> Result<()> {
        if let Some(card) = &mut self.card {
            return card.write(at, &Bytes { bytes: vec![with; bytes as usize], pointers: vec![] });
        }
        let at = self.check(at, bytes as usize, "filling memory")?;
        // SAFETY: `check` has found the region inside of the arena.
        unsafe { self.base.add(at).write_bytes(with, bytes as usize) };
        Ok(())
    }
}

impl Drop for Emulation {
    fn drop(&mut self) {
        self.release();
    }
}

impl Machine for Emulation {
    fn reserve(&mut self, bytes: u64) -> Result<()> {
        if bytes as usize <= self.bytes {
            return Ok(());
        }
        self.release();
        self.recordings.clear();
        self.bytes = bytes as usize;
        if let Some(card) = &mut self.card {
            card.reserve(bytes)?;
            return self.fill(0, bytes, 0xff);
        }
        // SAFETY: the layout has a size. Every byte is written before anything is read.
        unsafe {
            self.base = alloc(self.layout());
            assert!(!self.base.is_null(), "no memory");
            self.base.write_bytes(0xff, self.bytes + SLACK);
        }
        Ok(())
    }

    fn grow(&mut self, bytes: u64, least: u64, kept: Range<u64>) -> Result<u64> {
        let Some(card) = &mut self.card else { return self.grow_by_host(bytes, least, kept) };
        let bytes = card.grow(bytes, least, kept)?;
        self.bytes = bytes as usize;
        Ok(bytes)
    }

    fn write(&mut self, at: u64, data: &Bytes) -> Result<()> {
        let mut data = data;
        if self.recorded > 0 && matches!(self.fault, Some(Fault::Stale)) {
            let first = self.written.entry((at, data.bytes.len()));
            data = first.or_insert_with(|| data.clone());
        }
        if let Some(card) = &mut self.card {
            return card.write(at, data);
        }
        let bytes = data.in_arena(self.base as u64).into_owned();
        let at = self.check(at, bytes.len(), "writing")?;
        // SAFETY: `check` has found the region inside of the arena, which nobody else refers to.
        unsafe { self.base.add(at).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        Ok(())
    }

    fn read(&mut self, at: u64, bytes: &mut [u8]) -> Result<()> {
        if let Some(card) = &mut self.card {
            return card.read(at, bytes);
        }
        let at = self.check(at, bytes.len(), "reading")?;
        // SAFETY: as in `write`; every byte of the arena has been written.
        unsafe { self.base.add(at).copy_to_nonoverlapping(bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    fn run(&mut self, steps: &[Step]) -> Result<()> {
        if let Some(card) = &mut self.card {
            return card.run(steps);
        }
        for step in &self.in_an_order(steps) {
            let launch = match step {
                Step::Zero { at, bytes } => {
                    self.fill(*at, *bytes, 0)?;
                    continue;
                }
                Step::Fresh { at, bytes } => {
                    self.fill(*at, *bytes, 0xff)?;
                    continue;
                }
                Step::Copy { from, to, bytes } => {
                    let [from, to] = [
                        self.check(*from, *bytes as usize, "copying")?,
                        self.check(*to, *bytes as usize, "copying")?,
                    ];
                    assert!(from.abs_diff(to) >= *bytes as usize, "a copy onto itself");
                    // SAFETY: `check` has found both regions inside of the arena, and they are apart.
                    unsafe {
                        let base = self.base;
                        base.add(to).copy_from_nonoverlapping(base.add(from), *bytes as usize);
                    }
                    continue;
                }
                Step::Launch(launch) => launch,
            };
            let name = CString::new(launch.kernel).unwrap();
            let args = launch.args.in_arena(self.base as u64);
            // SAFETY: `Turn` makes this the only caller. Name, grid and arguments live until the call returns. The kernel
            // reads and writes where its arguments point: into the arena, which nobody refers to meanwhile; a planted
            // fault may send it a little beyond, into the slack.
            let said = unsafe {
                (library().start)(
                    name.as_ptr(),
                    &raw const launch.grid,
                    launch.threads,
                    launch.shared as usize,
                    args.as_ptr().cast(),
                    args.len(),
                    self.schedule,
                )
            };
            if !said.is_null() {
                // SAFETY: the library gives strings that live until its next call.
                let reason = unsafe { CStr::from_ptr(said) }.to_string_lossy().into_owned();
                return Err(Error::Machine { doing: launch.kernel.into(), reason });
            }
        }
        Ok(())
    }
    fn record(&mut self, steps: &[Step]) -> Result<Recording> {
        self.recorded += 1;
        let mut steps = steps.to_vec();
        let names = steps.iter().filter_map(|step| match step {
            Step::Launch(launch) => Some(launch.kernel),
            _ => None,
        });
        self.kernels.lock().unwrap_or_else(PoisonError::into_inner).extend(names);
        if let Some(Fault::LeftOut(kernel)) = self.fault {
            steps.retain(|step| !matches!(step, Step::Launch(launch) if launch.kernel == kernel));
        }
        if let Some(card) = &mut self.card {
            return card.record(&steps);
        }
        self.recordings.insert(Recording(self.recorded), steps);
        Ok(Recording(self.recorded))
    }

    fn play(&mut self, recording: Recording) -> Result<()> {
        if let Some(card) = &mut self.card {
            return card.play(recording);
        }
        let Some(steps) = self.recordings.remove(&recording) else {
            return Err(Error::Input("the recording was made for another arena".into()));
        };
        let played = self.run(&steps);
        self.recordings.insert(recording, steps);
        played
    }

    fn forget(&mut self, recording: Recording) {
        if let Some(card) = &mut self.card {
            return card.forget(recording);
        }
        self.recordings.remove(&recording);
    }

    fn room(&mut self) -> Option<u64> {
        Some(64 << 20)
    }
}

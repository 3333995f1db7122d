//! Counts what a call held in memory at most.
//!
//! A test program that wants it makes [`Counting`] its allocator. Threads are counted apart, so that tests which run
//! beside each other do not disturb the count.

#![allow(unsafe_code, reason = "an allocator is unsafe by its trait")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// The system's allocator, with a count of each thread's live bytes and their peak.
#[derive(Debug)]
pub struct Counting;

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    // A thread that is ending has no counters any more, and nothing to measure.
    let _ = LIVE.try_with(|live| {
        live.set(live.get() + bytes);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(live.get())));
    });
}

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promises are those that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size as isize - layout.size() as isize);
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// The result of `read`, and the bytes that it held at most.
///
/// # Panics
/// If the program's allocator is not [`Counting`], which would count nothing.
pub fn measured<T>(read: impl FnOnce() -> T) -> (T, isize) {
    let seen = LIVE.get();
    let probe = std::hint::black_box(Box::new([0u8; 64]));
    assert!(LIVE.get() > seen, "`Counting` is not this program's #[global_allocator]");
    drop(probe);
    let before = LIVE.get();
    PEAK.set(before);
    let result = read();
    (result, PEAK.get() - before)
}

//! Gives the terminal back as it was found, whatever ends the program.

use crossterm::cursor;
use crossterm::execute;
use crossterm::style::ResetColor;
use crossterm::terminal::{LeaveAlternateScreen, disable_raw_mode};
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, Once, TryLockError};
use std::time::{Duration, Instant};

/// True if the terminal is ours.
pub(super) static TAKEN: AtomicBool = AtomicBool::new(false);
/// True if keys come to us one by one.
pub(super) static RAW: AtomicBool = AtomicBool::new(false);
/// Held while a picture goes out, so that nothing comes behind the terminal's return.
static DRAWING: Mutex<()> = Mutex::new(());

/// Gives the terminal back at once, if it is ours: for handlers of signals and for panics.
pub(crate) fn restore() {
    let _alone = alone();
    give_back(&mut std::io::stdout());
}

/// Tells whether the terminal is ours now: what is written to it would go into the picture.
pub(crate) fn is_taken() -> bool {
    TAKEN.load(Ordering::SeqCst)
}

/// The right to draw; `None` once the terminal was given back.
pub(super) fn drawing() -> Option<MutexGuard<'static, ()>> {
    let guard = DRAWING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    is_taken().then_some(guard)
}

/// Waits for a picture that is on its way; not for ever, since whoever draws may be the one that failed.
fn alone() -> Option<MutexGuard<'static, ()>> {
    let began = Instant::now();
    loop {
        match DRAWING.try_lock() {
            Ok(guard) => return Some(guard),
            Err(TryLockError::Poisoned(guard)) => return Some(guard.into_inner()),
            Err(TryLockError::WouldBlock) if began.elapsed() > Duration::from_millis(300) => {
                return None;
            }
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// Leaves the terminal as it was found; does nothing the second time.
pub(super) fn give_back(out: &mut impl Write) {
    if RAW.swap(false, Ordering::SeqCst) {
        // If the terminal is gone, there is nothing to give back.
        let _ = disable_raw_mode();
    }
    if TAKEN.swap(false, Ordering::SeqCst) {
        let _ = execute!(out, ResetColor, cursor::Show, LeaveAlternateScreen);
    }
}

/// From now on a panic gives the terminal back before it is reported.
pub(super) fn restore_on_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            restore();
            report(info);
        }));
    });
}

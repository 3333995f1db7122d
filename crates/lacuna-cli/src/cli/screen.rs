//! Gives the terminal back as it was found, whatever ends the program.

use crossterm::cursor;
use crossterm::execute;
use crossterm::style::ResetColor;
use crossterm::terminal::LeaveAlternateScreen;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

/// True if the terminal is ours.
pub(super) static TAKEN: AtomicBool = AtomicBool::new(false);

/// Gives the terminal back at once, if it is ours: for handlers of signals.
pub(crate) fn restore() {
    give_back(&mut std::io::stdout());
}

/// Leaves the terminal as it was found; does nothing the second time.
pub(super) fn give_back(out: &mut impl Write) {
    if TAKEN.swap(false, Ordering::SeqCst) {
        // If the terminal is gone, there is nothing to give back.
        let _ = execute!(out, ResetColor, cursor::Show, LeaveAlternateScreen);
    }
}

//! Knows the ways to stop a run: Ctrl-C, what schedulers send, a closed terminal. All mean the
//! same.

use anyhow::{Context, Result};
use lacuna::train::Event;
use std::process::exit;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::{Duration, Instant};

use super::super::screen;
#[cfg(unix)]
use super::super::signals::heeded;

/// Set when the run is to save and end.
static STOP: AtomicBool = AtomicBool::new(false);
/// The first signal's number.
static SIGNAL: AtomicI32 = AtomicI32::new(0);
/// True if steps were taken that no checkpoint has yet (as far as the program knows).
static UNSAVED: AtomicBool = AtomicBool::new(false);

/// Some senders repeat themselves: systemd adds SIGHUP to its SIGTERM, a closed terminal is told by the shell and by
/// the system. What comes so soon is the same request, not a second one.
const SAME_REQUEST: Duration = Duration::from_millis(200);

/// Listens for signals while it lives, which is as long as the program.
#[derive(Debug)]
pub(super) struct Stop;

impl Stop {
    pub(super) fn listen() -> Result<Self> {
        listen().context("installing the handler of Ctrl-C and other signals")?;
        Ok(Self)
    }

    pub(super) fn flag(&self) -> &'static AtomicBool {
        &STOP
    }

    /// Follows the run: while it packs or measures, all there is to save is saved, and a signal ends it at once.
    pub(super) fn hear(&self, event: &Event<'_>) {
        match event {
            Event::Ready { .. } | Event::Step { .. } | Event::StageEnd { .. } => {
                UNSAVED.store(true, Ordering::SeqCst);
            }
            Event::Evaluating(..) => self.nothing_to_save(),
            // Everything that is measured and shown on the way stands behind steps that may not be saved yet.
            _ => {}
        }
    }

    /// Everything is saved: a signal that came meanwhile is obeyed now, one that comes later at once.
    pub(super) fn nothing_to_save(&self) {
        UNSAVED.store(false, Ordering::SeqCst);
        if STOP.load(Ordering::SeqCst) {
            self.exit();
        }
    }

    /// Ends as a program that the signal ended does, so that nobody takes the run for finished.
    pub(super) fn exit(&self) -> ! {
        if screen::is_taken() {
            screen::restore();
            note!("stopped; everything there was to save is saved, --resume goes on");
        }
        exit(128 + SIGNAL.load(Ordering::SeqCst).max(1))
    }
}

/// Tells whether the run is asked to save and end.
pub(super) fn is_asked() -> bool {
    STOP.load(Ordering::SeqCst)
}

/// Does what Ctrl-C does, where the terminal hands its keys to us.
pub(super) fn interrupt() {
    signalled(2);
}

/// Called for each signal: the first asks the run to save and end, a second one ends at once.
fn signalled(number: i32) {
    static FIRST: OnceLock<Instant> = OnceLock::new();
    let mut news = false;
    let first = FIRST.get_or_init(|| {
        news = true;
        Instant::now()
    });
    if !news {
        if first.elapsed() > SAME_REQUEST {
            screen::restore();
            exit(128 + number);
        }
        return;
    }
    SIGNAL.store(number, Ordering::SeqCst);
    STOP.store(true, Ordering::SeqCst);
    // The terminal may be gone: nothing depends on anybody reading this.
    if !UNSAVED.load(Ordering::SeqCst) {
        screen::restore();
        note!("\nstopped; everything there was to save is saved, --resume goes on");
        exit(128 + number);
    }
    // The dashboard says so itself.
    if !screen::is_taken() {
        note!("\nfinishing the step and writing a checkpoint; a second signal ends at once");
    }
}

#[cfg(unix)]
fn listen() -> Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGXCPU};
    let wanted = [SIGINT, SIGQUIT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2, SIGXCPU];
    let mut signals = signal_hook::iterator::Signals::new(heeded(&wanted))?;
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || signals.forever().for_each(signalled))?;
    Ok(())
}

#[cfg(not(unix))]
fn listen() -> Result<()> {
    // Ctrl-C, a closed console and a shutdown all come as one; 2 is the number of Ctrl-C.
    ctrlc::set_handler(|| signalled(2))?;
    Ok(())
}

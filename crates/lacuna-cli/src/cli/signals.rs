//! Watches for what ends the program from outside, for commands that hold the terminal.

use std::io;

use super::screen;

/// Calls `interrupted` on every Ctrl-C. A shutdown or a closed terminal gives the terminal back, then ends the
/// program as it would without us.
///
/// # Errors
/// When the system takes no handler, or there is one already.
#[cfg(unix)]
pub(crate) fn on_interrupt(interrupted: impl Fn() + Send + 'static) -> io::Result<()> {
    use signal_hook::consts::{SIGALRM, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
    use std::sync::atomic::{AtomicBool, Ordering};
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::SeqCst) {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    let ending = [SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGALRM, SIGUSR1, SIGUSR2];
    let mut signals = signal_hook::iterator::Signals::new(ending)?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever() {
            if signal == SIGINT {
                interrupted();
                continue;
            }
            screen::restore();
            // Its caller sees which signal it was.
            let _ = signal_hook::low_level::emulate_default_handler(signal);
        }
    })?;
    Ok(())
}

#[cfg(not(unix))]
pub(crate) fn on_interrupt(interrupted: impl Fn() + Send + 'static) -> io::Result<()> {
    ctrlc::set_handler(interrupted).map_err(io::Error::other)
}

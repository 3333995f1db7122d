//! Watches for what ends the program from outside, for commands that hold the terminal.

use std::io;
use std::path::Path;

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

/// Has the signals that end the program remove what it was writing into a folder, and the folder, if it was `made` for
/// that. The program ends by the signal all the same. Without handlers to be had, the next writer removes it.
#[cfg(unix)]
pub(crate) fn leave_nothing_in(folder: &Path, made: bool) {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
    let Ok(mut signals) =
        signal_hook::iterator::Signals::new(heeded(&[SIGINT, SIGQUIT, SIGTERM, SIGHUP]))
    else {
        return;
    };
    let folder = folder.to_owned();
    let _ = std::thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever() {
            lacuna_files::remove_own_leftovers(&folder);
            if made {
                let _ = lacuna_files::remove_if_there(&folder.join(".lock"));
                // It fails, as it should, if somebody has put something into it.
                let _ = lacuna_files::remove_empty_folder(&folder);
            }
            let _ = signal_hook::low_level::emulate_default_handler(signal);
        }
    });
}

#[cfg(not(unix))]
pub(crate) fn leave_nothing_in(_: &Path, _: bool) {}

/// Those of some signals that whoever started the program does not ignore: `nohup` and `&` in a script ignore some for
/// their children, who are meant to go on.
#[cfg(unix)]
pub(crate) fn heeded(wanted: &[i32]) -> Vec<i32> {
    let status = lacuna_files::read_text("/proc/self/status".as_ref(), 1 << 20);
    let status = status.unwrap_or_default();
    // One bit each; none where the system does not tell.
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    wanted.iter().copied().filter(|signal| mask >> (signal - 1) & 1 == 0).collect()
}

#[cfg(not(unix))]
pub(crate) fn on_interrupt(interrupted: impl Fn() + Send + 'static) -> io::Result<()> {
    ctrlc::set_handler(interrupted).map_err(io::Error::other)
}

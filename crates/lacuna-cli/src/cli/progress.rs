//! Shows what a command is at, how much of it is done and how long the rest takes: on stderr, where
//! that is a terminal, from half a second on, and gone afterwards.

use indicatif::{
    HumanCount, ProgressBar, ProgressDrawTarget, ProgressFinish, ProgressState, ProgressStyle,
};
use lacuna::{Download, Model};
use std::cell::RefCell;
use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::train::pace::duration;

/// A task that is done sooner than this is not worth a line.
const MOMENT: Duration = Duration::from_millis(400);
const TICK: Duration = Duration::from_millis(100);

static QUIET: AtomicBool = AtomicBool::new(false);

/// Shows nothing from now on (`--quiet`).
pub(crate) fn be_quiet() {
    QUIET.store(true, Ordering::Relaxed);
}

/// True if nothing is to be shown.
pub(crate) fn is_quiet() -> bool {
    QUIET.load(Ordering::Relaxed)
}

/// Tells whether anything is shown: on a terminal, without `--quiet`.
pub(crate) fn shows_progress() -> bool {
    !is_quiet() && std::io::stderr().is_terminal()
}

/// Draws a bar on stderr for every file that comes from the hub, if anything is to be shown.
pub(crate) fn downloads(shown: bool) -> impl Fn(Download<'_>) {
    let current: RefCell<Option<(String, ProgressBar)>> = RefCell::new(None);
    move |Download { file, done, total }| {
        if !shown || total == 0 {
            return;
        }
        let mut current = current.borrow_mut();
        if current.as_ref().is_none_or(|(name, _)| name != file) {
            let style = style_of("{bar:24} {bytes}/{total_bytes}  {bytes_per_sec}{left}  {msg}");
            let bar = ProgressBar::new(total).with_style(style).with_message(file.to_owned());
            *current = Some((file.to_owned(), bar.with_finish(ProgressFinish::AndClear)));
        }
        let Some((_, bar)) = &*current else { return };
        bar.set_position(done);
        if done == total {
            bar.finish_and_clear();
        }
    }
}

/// The progress of something.
#[derive(Clone, Debug)]
pub(crate) struct At {
    pub(crate) what: String,
    /// Done and to do; `None` where that is not known.
    pub(crate) part: Option<(u64, u64)>,
}

/// A line that is kept up to date until this is dropped.
#[derive(Debug)]
pub(crate) struct Progress {
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Progress {
    /// Asks `at` ten times a second.
    pub(crate) fn watching(at: impl Fn() -> At + Send + 'static) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        if !shows_progress() || bar.is_hidden() {
            return Self { end: None, thread: None };
        }
        let (end, ended) = channel::<()>();
        let thread = std::thread::Builder::new().name("progress".into()).spawn(move || {
            if ended.recv_timeout(MOMENT) != Err(RecvTimeoutError::Timeout) {
                return;
            }
            let mut known = None;
            loop {
                let At { what, part } = at();
                // Before anything is done, there is no speed to reckon the time left from.
                let part = part.filter(|(done, _)| *done > 0);
                if known != Some(part.is_some()) {
                    known = Some(part.is_some());
                    bar.set_style(style(part.is_some()));
                }
                // The length goes first: the time left is reckoned when the position is set.
                if let Some((done, total)) = part {
                    bar.set_length(total);
                    bar.set_position(done.min(total));
                }
                bar.set_message(what);
                bar.tick();
                if ended.recv_timeout(TICK) != Err(RecvTimeoutError::Timeout) {
                    break;
                }
            }
            bar.finish_and_clear();
        });
        // A machine that has no thread to spare shows nothing.
        Self { end: Some(end), thread: thread.ok() }
    }

    /// Something whose end is not known.
    pub(crate) fn spinning(what: impl Into<String>) -> Self {
        let what = what.into();
        Self::watching(move || At { what: what.clone(), part: None })
    }

    /// So many passes of a model, counted in layers.
    pub(crate) fn passes(what: impl Into<String>, model: &Model, passes: u64) -> Self {
        let what = what.into();
        let layers = Layers::of(model, passes);
        Self::watching(move || At { what: what.clone(), part: Some(layers.part()) })
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The number of layers that a model has computed of those that some passes take.
#[derive(Debug)]
pub(crate) struct Layers {
    done: Arc<AtomicU64>,
    before: u64,
    total: u64,
}

impl Layers {
    pub(crate) fn of(model: &Model, passes: u64) -> Self {
        let done = model.transformer.layers_done();
        let before = done.load(Ordering::Relaxed);
        let layers = model.config().num_layers as u64;
        Self { done, before, total: layers.saturating_mul(passes).max(1) }
    }

    pub(crate) fn part(&self) -> (u64, u64) {
        (self.done.load(Ordering::Relaxed).saturating_sub(self.before), self.total)
    }
}

/// One line of a narrow terminal.
fn style(known: bool) -> ProgressStyle {
    let template = match known {
        true => "{wide_msg} {bar:20} {percent:>3} %{left}",
        false => "{spinner} {wide_msg} {elapsed}",
    };
    style_of(template).progress_chars("━╸ ")
}

/// The style of a bar in whose template `{left}` is the time that the rest takes, behind a comma; nothing while nobody can
/// know it, and where all is done that is counted.
pub(crate) fn style_of(template: &str) -> ProgressStyle {
    let style = ProgressStyle::with_template(template).expect("a fixed template");
    style.with_key("left", |state: &ProgressState, out: &mut dyn std::fmt::Write| {
        let (done, all) = (state.pos(), state.len().unwrap_or(0));
        // A text that can't be written is seen by nobody.
        let _ = out.write_str(&time_left(done, all, state.eta()));
    })
}

fn time_left(done: u64, all: u64, left: Duration) -> String {
    match done > 0 && done < all && !left.is_zero() {
        true => format!(", {} left", duration(left.as_secs_f64())),
        false => String::new(),
    }
}

/// `1,234,567`.
pub(crate) fn count(n: usize) -> String {
    HumanCount(n as u64).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_bar_says_that_nothing_is_left_while_something_is() {
        let second = Duration::from_secs(1);
        assert_eq!(time_left(0, 100, Duration::ZERO), "");
        assert_eq!(time_left(50, 100, Duration::ZERO), "");
        assert_eq!(time_left(50, 100, second / 10), ", 1 s left");
        assert_eq!(time_left(50, 100, 200 * second), ", 3 min left");
        assert_eq!(time_left(100, 100, second), "", "what follows is not counted");
        style_of("{msg}{left}");
    }
}

//! Draws a run's plots and its report again while it goes on.

use lacuna::train::{Event, HeldOutPoint};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{plot, report};

/// The pictures of a run under way. They are drawn at its end, and on the way when there is something new to see, as
/// long as that takes less than a hundredth of the time.
#[derive(Debug)]
pub(super) struct Redraw {
    dir: PathBuf,
    /// The time of the last drawing, and how long it took.
    last: Instant,
    took: Duration,
    /// True if the last failure was told.
    told: bool,
}

/// No sooner than this after the last.
const SOONEST: Duration = Duration::from_secs(10);

impl Redraw {
    pub(super) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), last: Instant::now(), took: Duration::ZERO, told: false }
    }

    /// Draws, if it is time for that. Returns sentences for the user if it fails.
    pub(super) fn hear(&mut self, event: &Event<'_>) -> Vec<String> {
        match event {
            Event::Recorded { held_out, .. } => self.draw(held_out),
            Event::Checkpoint(_) | Event::HeldOut { .. } | Event::StageEnd { .. } => {
                let pause = SOONEST.max(self.took * 100);
                if self.last.elapsed() < pause { Vec::new() } else { self.draw(&[]) }
            }
            _ => Vec::new(),
        }
    }

    fn draw(&mut self, held_out: &[HeldOutPoint]) -> Vec<String> {
        let began = Instant::now();
        let mut failed = Vec::new();
        if let Err(reason) = plot::draw_run(&self.dir, held_out) {
            failed.push(format!("no plots: {reason:#}"));
        }
        if let Err(reason) = report::write_into(&self.dir) {
            failed.push(format!("no report: {reason:#}"));
        }
        (self.took, self.last) = (began.elapsed(), Instant::now());
        // A failure that was told is not told again at every checkpoint.
        let was_told = std::mem::replace(&mut self.told, !failed.is_empty());
        if was_told { Vec::new() } else { failed }
    }
}

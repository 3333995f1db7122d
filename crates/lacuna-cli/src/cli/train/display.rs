//! Shows a run while it goes on: as a line on a terminal, as lines elsewhere, or as a dashboard.

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use lacuna::data::cache::Step;
use lacuna::train::{Evaluation, Event, Recipe, Sample, StepMetrics};
use std::io::IsTerminal;
use std::time::Duration;

use super::board::Board;
use super::pace::Pace;

/// The way in which a run is shown.
pub(super) struct Display {
    line: Line,
    board: Option<Board>,
    quiet: bool,
}

impl Display {
    /// `tui` asks for the dashboard.
    ///
    /// # Errors
    /// Errors if the terminal can't be taken.
    pub(super) fn new(quiet: bool, tui: bool, recipe: &Recipe) -> Result<Self> {
        let board = tui.then(|| Board::open(recipe)).transpose()?;
        let line = Line::new(quiet || tui, recipe.total_steps());
        Ok(Self { line, board, quiet })
    }

    pub(super) fn show(&mut self, event: &Event<'_>) {
        match event {
            Event::Notice(text) => self.warn(text),
            Event::Packing(Step::Damaged(reason)) => {
                self.warn(&format!("a packed corpus is damaged, it is packed again: {reason}"));
            }
            _ => {}
        }
        for text in told(event) {
            self.say(&text);
        }
        match &mut self.board {
            Some(board) => board.hear(event),
            None => self.line.hear(event, self.quiet),
        }
    }

    /// Tells the quiet too. A reader that went away, or a log on a full disk, stops no training.
    pub(super) fn warn(&self, text: &str) {
        self.tell(&format!("warning: {}", lacuna_files::printable(text)));
    }

    /// Shows what the model wrote: the first sample's first lines.
    pub(super) fn samples(&mut self, step: u64, samples: &[Sample]) {
        if let Some(board) = &mut self.board {
            board.samples(step, samples);
        } else if let Some(first) = samples.first() {
            const LINES: usize = 4;
            let text = format!("{}{}", first.prompt, first.text);
            let text = lacuna_files::printable(&text);
            let lines: Vec<_> =
                text.lines().take(LINES).map(|line| format!("  | {line}")).collect();
            self.say(&format!("after step {step} it writes\n{}", lines.join("\n")));
        }
    }

    fn say(&self, text: &str) {
        if !self.quiet {
            self.tell(text);
        }
    }

    fn tell(&self, text: &str) {
        match &self.board {
            Some(board) => board.say(text),
            None => self.line.tell(text),
        }
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        self.line.bar.finish_and_clear();
    }
}

/// The words of an event, a text for each thing that it says.
fn told(event: &Event<'_>) -> Vec<String> {
    match event {
        Event::Ready { data, model, step } => {
            let parameters = model.parameters().map_or(0, |all| {
                all.iter().map(|(_, parameter)| parameter.elem_count()).sum::<usize>()
            });
            let (windows, window) =
                (data.train.dataset().windows(), data.train.dataset().window_len());
            let mut told = vec![format!(
                "{:.2} M parameters; {windows} training windows of {window} tokens, {} held out",
                parameters as f64 / 1e6,
                data.held_out.windows()
            )];
            let skipped = data.skipped.iter().cloned().chain(data.sft_skipped.lines());
            told.extend(skipped.map(|line| format!("passed over {line}")));
            if data.held_out.windows() == 0 {
                told.push("nothing is held out: stages end without scores".to_owned());
            }
            if *step > 0 {
                told.push(format!("going on after step {step}"));
            }
            told
        }
        Event::Start { evaluation } => {
            vec![format!("before the first step:\n  {}", scores(evaluation))]
        }
        Event::Checkpoint(path) => vec![format!("checkpoint {}", path.display())],
        Event::HeldOut { step, evaluation, is_best } => {
            let best = if *is_best { ", the best so far" } else { "" };
            vec![format!("held out after step {step}: {}{best}", scores(evaluation))]
        }
        Event::StageEnd { stage, evaluation } => {
            let scored = evaluation.map_or(String::new(), |e| format!(":\n  {}", scores(e)));
            vec![format!("stage `{}` done{scored}", stage.name)]
        }
        _ => Vec::new(),
    }
}

/// The model's scores. Those of counting, which are the same after each stage, are in the table at the end.
fn scores(evaluation: &Evaluation) -> String {
    let own = evaluation.scores.iter().filter(|(name, _)| !name.is_baseline());
    let own = own.map(|(name, score)| format!("{} {:.3}", name.label(), score.nats_per_token()));
    format!("{} nats/token", own.collect::<Vec<_>>().join(", "))
}

/// The progress line on a terminal; a line now and then elsewhere.
struct Line {
    bar: ProgressBar,
    terminal: bool,
    total: u64,
    pace: Pace,
}

impl Line {
    fn new(hidden: bool, total: u64) -> Self {
        let terminal = std::io::stderr().is_terminal() && !hidden;
        let bar = if terminal { ProgressBar::new(total) } else { ProgressBar::hidden() };
        // One line of a narrow terminal: what is wider is torn, and can't be taken away again.
        let template = "{bar:8} {pos}/{len}  {wide_msg}";
        bar.set_style(ProgressStyle::with_template(template).expect("a fixed template"));
        Self { bar, terminal, total, pace: Pace::begin() }
    }

    fn tell(&self, text: &str) {
        match self.terminal {
            true => self.bar.println(text),
            false => note!("{text}"),
        }
    }

    fn hear(&mut self, event: &Event<'_>, quiet: bool) {
        match event {
            Event::Ready { step, .. } => {
                self.pace = Pace::begin();
                self.bar.set_position(*step);
                self.bar.enable_steady_tick(Duration::from_millis(500));
            }
            Event::Step { metrics, .. } => self.step(metrics, quiet),
            Event::Evaluating(done, all) | Event::Watching(done, all) => {
                self.bar.set_message(format!("scoring held-out text {done}/{all}"));
            }
            _ => {}
        }
    }

    fn step(&mut self, m: &StepMetrics, quiet: bool) {
        const LINES: u64 = 20;
        self.pace.step(m);
        let mut line = match m.supervised {
            0 => format!("{}: nothing masked", m.stage),
            _ => format!("{}: loss {:.3}", m.stage, m.loss_unweighted),
        };
        if let Some(rate) = self.pace.tokens_per_second() {
            line.push_str(&format!("  {rate:.0} tokens/s"));
        }
        if let Some(left) = self.pace.left(self.total.saturating_sub(m.step)) {
            // A narrow terminal has room for the bar and this.
            let about = if self.terminal { "" } else { "about " };
            line.push_str(&format!("  {about}{left} left"));
        }
        self.bar.set_position(m.step);
        self.bar.set_message(line.clone());
        let is_due = m.step.is_multiple_of((self.total / LINES).max(1)) || m.step == self.total;
        if !self.terminal && !quiet && is_due {
            self.tell(&format!("step {}/{}  {line}", m.step, self.total));
        }
    }
}

//! Shows a run as a dashboard: the losses as they fall, the numbers of the last step, what the model writes.
//!
//! A thread of its own draws, four times a second and whenever a key or a new size comes in, so that the picture lives
//! while a step takes minutes. The terminal is given back at the end, on a panic, by every signal that ends the program
//! and when it is closed; only a process that is killed (SIGKILL) can't.

use anyhow::{Context, Result};
use crossterm::event::{self, Event as Input, KeyCode, KeyEventKind, KeyModifiers};
use crossterm::terminal::{EnterAlternateScreen, enable_raw_mode};
use crossterm::{cursor, execute};
use lacuna::train::{Event, Recipe, Sample, StepMetrics};
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::super::screen::{RAW, TAKEN, drawing, restore, restore_on_panic};
use super::pace::Pace;
use super::stop;

mod view;

/// The dashboard; the terminal is given back when it is dropped.
pub(super) struct Board {
    state: Arc<Mutex<State>>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Everything that is shown.
#[derive(Debug)]
struct State {
    name: String,
    /// Names of the stages, in order.
    stages: Vec<String>,
    total: u64,
    last: StepMetrics,
    pace: Pace,
    /// Steps and losses of them, at most [`MOST_POINTS`]: pairs are joined as they become too many.
    losses: Thinned,
    held_out: Vec<(f64, f64)>,
    measure: &'static str,
    best: Option<(u64, f64)>,
    doing: String,
    messages: VecDeque<String>,
    /// The step after which the sample was written, and it.
    sample: Option<(u64, String)>,
    is_log: bool,
}

/// A curve has about this many points.
const MOST_POINTS: usize = 400;
const MOST_MESSAGES: usize = 50;

/// Means of so many neighbours each, twice as many whenever there are too many points.
#[derive(Debug)]
struct Thinned {
    points: Vec<(f64, f64)>,
    each: usize,
    open: Vec<(f64, f64)>,
}

impl Thinned {
    fn push(&mut self, point: (f64, f64)) {
        self.open.push(point);
        if self.open.len() < self.each {
            return;
        }
        self.points.push(mean(&self.open));
        self.open.clear();
        if self.points.len() >= MOST_POINTS {
            self.points = self.points.chunks(2).map(mean).collect();
            self.each *= 2;
        }
    }
}

fn mean(points: &[(f64, f64)]) -> (f64, f64) {
    let n = points.len().max(1) as f64;
    let (x, y) = points.iter().fold((0.0, 0.0), |sum, point| (sum.0 + point.0, sum.1 + point.1));
    (x / n, y / n)
}

impl State {
    fn new(recipe: &Recipe) -> Self {
        Self {
            name: recipe.name.clone(),
            stages: recipe.stage.iter().map(|stage| stage.name.clone()).collect(),
            total: recipe.total_steps(),
            last: StepMetrics::default(),
            pace: Pace::begin(),
            losses: Thinned { points: Vec::new(), each: 1, open: Vec::new() },
            held_out: Vec::new(),
            measure: "",
            best: None,
            doing: "reading and packing text".to_owned(),
            messages: VecDeque::new(),
            sample: None,
            is_log: false,
        }
    }

    fn hear(&mut self, event: &Event<'_>) {
        match event {
            Event::Ready { step, .. } => {
                self.last.step = *step;
                self.pace = Pace::begin();
                self.doing = String::new();
            }
            Event::Step { metrics, .. } => self.step(metrics),
            Event::Evaluating(done, all) | Event::Watching(done, all) => {
                self.doing = format!("scoring held-out text {done}/{all}");
            }
            Event::HeldOut { step, evaluation, is_best } => {
                self.scored(*step, evaluation);
                if let (true, Some(&(_, y))) = (*is_best, self.held_out.last()) {
                    self.best = Some((*step, y));
                }
            }
            Event::StageEnd { evaluation: Some(evaluation), .. } => {
                self.scored(self.last.step, evaluation);
                self.best = None;
            }
            Event::Recorded { .. } => self.doing = "writing the end".to_owned(),
            _ => {}
        }
    }

    fn step(&mut self, metrics: &StepMetrics) {
        self.pace.step(metrics);
        if metrics.supervised > 0 && metrics.loss_unweighted.is_finite() {
            self.losses.push((metrics.step as f64, metrics.loss_unweighted));
        }
        self.last.clone_from(metrics);
        self.doing.clear();
    }

    fn scored(&mut self, step: u64, evaluation: &lacuna::train::Evaluation) {
        let Some((name, score)) = evaluation.scores.first() else { return };
        if self.measure != name.label() {
            // Another measure is another curve.
            self.measure = name.label();
            self.held_out.clear();
        }
        self.held_out.push((step as f64, score.nats_per_token()));
    }

    fn say(&mut self, text: &str) {
        for line in text.lines() {
            self.messages.push_back(line.to_owned());
        }
        while self.messages.len() > MOST_MESSAGES {
            self.messages.pop_front();
        }
    }
}

impl Board {
    /// Takes the terminal.
    ///
    /// # Errors
    /// Errors if it can't be taken.
    pub(super) fn open(recipe: &Recipe) -> Result<Self> {
        restore_on_panic();
        enable_raw_mode().context("taking the terminal")?;
        RAW.store(true, Ordering::SeqCst);
        TAKEN.store(true, Ordering::SeqCst);
        let mut board = Self {
            state: Arc::new(Mutex::new(State::new(recipe))),
            ended: Arc::new(AtomicBool::new(false)),
            thread: None,
        };
        let mut out = std::io::stdout();
        execute!(out, EnterAlternateScreen, cursor::Hide).context("taking the terminal")?;
        let terminal = Terminal::new(CrosstermBackend::new(out)).context("taking the terminal")?;
        let (state, ended) = (Arc::clone(&board.state), Arc::clone(&board.ended));
        let thread = std::thread::Builder::new().name("dashboard".into());
        let thread = thread.spawn(move || draw_until(&ended, terminal, &state));
        board.thread = Some(thread.context("starting the dashboard")?);
        Ok(board)
    }

    pub(super) fn hear(&mut self, event: &Event<'_>) {
        locked(&self.state).hear(event);
    }

    pub(super) fn say(&self, text: &str) {
        locked(&self.state).say(text);
    }

    pub(super) fn samples(&mut self, step: u64, samples: &[Sample]) {
        if let Some(first) = samples.first() {
            let text = format!("{}{}", first.prompt, first.text);
            locked(&self.state).sample = Some((step, text));
        }
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        // A terminal that was closed may hold whoever reads its keys for ever; nobody waits for that.
        const LONGEST: Duration = Duration::from_secs(1);
        let began = Instant::now();
        while self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
            && began.elapsed() < LONGEST
        {
            std::thread::sleep(Duration::from_millis(5));
        }
        restore();
    }
}

fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Draws until the run is over or the terminal is not ours any more.
fn draw_until(
    ended: &AtomicBool,
    mut terminal: Terminal<CrosstermBackend<std::io::Stdout>>,
    state: &Mutex<State>,
) {
    const TICK: Duration = Duration::from_millis(250);
    while !ended.load(Ordering::SeqCst) {
        {
            let Some(_drawing) = drawing() else { return };
            let state = locked(state);
            if terminal.draw(|frame| view::draw(frame, &state)).is_err() {
                // The terminal is gone; SIGHUP tells the run.
                return;
            }
        }
        match event::poll(TICK) {
            Ok(false) => {}
            Ok(true) => {
                if let Ok(input) = event::read() {
                    heed(&input, state);
                }
            }
            // Without keys it is a picture still.
            Err(_) => std::thread::sleep(TICK),
        }
    }
}

fn heed(input: &Input, state: &Mutex<State>) {
    let Input::Key(key) = input else { return };
    if key.kind == KeyEventKind::Release {
        return;
    }
    let with_control = key.modifiers.contains(KeyModifiers::CONTROL);
    match key.code {
        KeyCode::Char('c') if with_control => stop::interrupt(),
        KeyCode::Char('q') => stop::interrupt(),
        KeyCode::Char('l') => {
            let mut state = locked(state);
            state.is_log = !state.is_log;
        }
        _ => {}
    }
}

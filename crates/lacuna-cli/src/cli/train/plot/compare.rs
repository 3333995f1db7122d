//! Draws several runs into one picture, each in a colour of its own: losses, gradient norm, learning rate, speed.
//! Held-out measures are told by the forms of their marks.

use anyhow::{Context, Result, bail};
use lacuna::train::{HeldOutPoint, StepMetrics, read_held_out, read_metrics};
use plotters::coord::Shift;
use plotters::prelude::*;
use std::path::{Path, PathBuf};

use super::chart::{Axis, Labels, Mark, Scale, Series, curve, panel};
use super::points::{Points, calm};
use super::{
    AUTOREGRESSIVE, DrawResult, NORM, PINK, RATE, SIZE, TEAL, UNWEIGHTED, WEIGHTED, drawn,
    free_names, named_after, put, put_pixels, register_font, stages_of,
};

/// The axis from left to right, against which runs are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Against {
    /// Optimizer steps.
    Steps,
    /// Clean tokens that the run has seen.
    Tokens,
    /// Hours of steps, without scoring and saving.
    Hours,
}

/// Colours that are told apart on white, also by most who see few of them.
const COLOURS: [RGBColor; 8] =
    [UNWEIGHTED, WEIGHTED, AUTOREGRESSIVE, RATE, NORM, TEAL, PINK, RGBColor(0x55, 0x55, 0x55)];

/// A run as it is drawn.
struct Shown {
    name: String,
    colour: RGBColor,
    steps: Vec<StepMetrics>,
    held_out: Vec<HeldOutPoint>,
    /// The place of each step on the axis.
    at: Vec<f64>,
}

impl Shown {
    fn column(&self, f: &dyn Fn(&StepMetrics) -> Option<f64>) -> Points {
        let points = self.at.iter().zip(&self.steps);
        points.filter_map(|(x, m)| Some((*x, f(m).filter(|y| y.is_finite())?))).collect()
    }

    /// The scores of each of some measures, in the run's colour.
    fn held_out<'a>(&'a self, measures: &'a [&str]) -> impl Iterator<Item = Series> + 'a {
        let place = |step: u64| {
            let at = self.steps.partition_point(|m| m.step < step).min(self.at.len() - 1);
            self.at[at]
        };
        measures.iter().enumerate().map(move |(number, measure)| {
            let finite = self.held_out.iter().filter(|point| point.nats_per_token.is_finite());
            let own = finite.filter(|point| point.label == *measure);
            let points = own.map(|point| (place(point.step), point.nats_per_token)).collect();
            Series {
                label: String::new(),
                color: self.colour,
                points,
                mark: Some(Mark::of(number)),
            }
        })
    }

    fn stages(&self) -> Vec<(f64, f64, &str)> {
        stages_of(&self.steps, |step| self.at[step])
    }
}

/// The measures of all runs, in the order in which they come.
fn measures(runs: &[Shown]) -> Vec<&'static str> {
    let mut found: Vec<&str> = Vec::new();
    for point in runs.iter().flat_map(|run| &run.held_out) {
        if !found.contains(&point.label) {
            found.push(point.label);
        }
    }
    found
}

/// True if every run has its stages where the longest one has them, as far as it came.
fn share_stages(runs: &[Shown], width: f64) -> bool {
    let longest = runs.iter().map(Shown::stages).max_by_key(Vec::len).unwrap_or_default();
    runs.iter().all(|run| {
        let own = run.stages();
        let whole = own.len().saturating_sub(1);
        own.iter().zip(&longest).enumerate().all(|(i, (own, other))| {
            own.2 == other.2 && (i >= whole || (own.1 - other.1).abs() < 0.005 * width)
        })
    })
}

/// Draws the runs in these folders into `name.svg` and `name.png`, and returns the two paths.
///
/// # Errors
/// Errors if a run has no steps that can be read, there are more runs than colours, or a file can't be written.
pub(crate) fn compare(runs: &[PathBuf], against: Against, name: &Path) -> Result<[PathBuf; 2]> {
    if runs.len() > COLOURS.len() {
        bail!("{} runs: {} at most are told apart by their colours", runs.len(), COLOURS.len());
    }
    register_font();
    let mut shown = Vec::new();
    for (run, colour) in runs.iter().zip(COLOURS) {
        shown.push(open(run, colour, against)?);
    }
    tell_apart(&mut shown, runs);
    let [svg, png] = free_names(name)?;
    let mut text = String::new();
    let area = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
    drawn(&svg, picture(&area, &shown, against))?;
    drop(area);
    put(&svg, text.as_bytes())?;
    let mut pixels = vec![0; SIZE.0 as usize * SIZE.1 as usize * 3];
    let area = BitMapBackend::with_buffer(&mut pixels, SIZE).into_drawing_area();
    drawn(&png, picture(&area, &shown, against))?;
    drop(area);
    put_pixels(&png, &pixels, SIZE)?;
    Ok([svg, png])
}

fn open(run: &Path, colour: RGBColor, against: Against) -> Result<Shown> {
    let path = if run.is_dir() { run.join("metrics.jsonl") } else { run.to_owned() };
    let folder = if run.is_dir() { run } else { run.parent().unwrap_or(run) };
    let steps = read_metrics(&path).with_context(|| {
        format!("{}: a run's folder, or its metrics.jsonl, is wanted", run.display())
    })?;
    if steps.is_empty() {
        bail!("{}: no step has been taken yet", path.display());
    }
    let (mut tokens, mut hours) = (0, 0.0);
    let at = steps.iter().map(|m| match against {
        Against::Steps => m.step as f64,
        Against::Tokens => m.tokens as f64,
        Against::Hours => {
            let taken = m.tokens.saturating_sub(std::mem::replace(&mut tokens, m.tokens));
            hours += taken as f64 / m.tokens_per_second.max(1e-9) / 3600.0;
            hours
        }
    });
    let at = at.collect();
    Ok(Shown { name: named_after(folder), colour, steps, held_out: read_held_out(&path)?, at })
}

/// Runs of one name are told apart by the path that the user gave.
fn tell_apart(shown: &mut [Shown], runs: &[PathBuf]) {
    let names: Vec<String> = shown.iter().map(|run| run.name.clone()).collect();
    for (i, run) in shown.iter_mut().enumerate() {
        if names.iter().filter(|name| **name == names[i]).count() > 1 {
            run.name = lacuna_files::printable(&runs[i].display().to_string()).into_owned();
        }
    }
}

fn picture<DB: DrawingBackend>(
    area: &DrawingArea<DB, Shift>,
    runs: &[Shown],
    against: Against,
) -> DrawResult<DB::ErrorType> {
    area.fill(&WHITE)?;
    let names: Vec<&str> = runs.iter().map(|run| run.name.as_str()).collect();
    let title = match names.join(", ") {
        names if names.len() <= 90 => names,
        _ => format!("{} runs", runs.len()),
    };
    let area = area.titled(&title, ("sans-serif", 17))?.margin(4, 8, 8, 8);
    let (losses, rest) = area.split_vertically(460);
    let (norms, rest) = rest.split_vertically(170);
    let (rates, speeds) = rest.split_vertically(150);
    let ends = runs.iter().map(|run| run.at.last().copied().unwrap_or(1.0));
    let label = match against {
        Against::Steps => "step",
        Against::Tokens => "tokens",
        Against::Hours => "hours",
    };
    let range = 0.0..ends.fold(1e-9, f64::max) * 1.012;
    let width = range.end;
    let mut axis = Axis { range, label, stages: Vec::new(), borders: Vec::new() };
    if share_stages(runs, width) {
        let longest =
            runs.iter().max_by(|a, b| a.at.last().partial_cmp(&b.at.last()).expect("finite"));
        axis.stages = longest.map(Shown::stages).unwrap_or_default();
    } else {
        let border = |run: &Shown| {
            let stages = run.stages();
            stages.into_iter().map(|(_, end, _)| (end, run.colour)).collect::<Vec<_>>()
        };
        axis.borders = runs.iter().flat_map(border).collect();
    }
    let axis = &axis;
    // The colours are told once, beside the losses.
    let of = |column: &dyn Fn(&Shown) -> Points| -> Vec<Series> {
        runs.iter().map(|run| curve("", run.colour, column(run))).collect()
    };
    let masked = |m: &StepMetrics| m.supervised > 0;
    let mut loss = of(&|run| calm(&run.column(&|m| Some(m.loss_unweighted).filter(|_| masked(m)))));
    loss.iter_mut().zip(runs).for_each(|(curve, run)| curve.label.clone_from(&run.name));
    let measures = measures(runs);
    loss.extend(runs.iter().flat_map(|run| run.held_out(&measures)));
    // The marks are told by their forms: a point outside of the panel gives each its line beside it.
    let nowhere = vec![(f64::NAN, f64::NAN)];
    loss.extend(measures.iter().enumerate().map(|(number, measure)| Series {
        label: format!("held out, {measure}"),
        color: BLACK,
        points: nowhere.clone(),
        mark: Some(Mark::of(number)),
    }));
    panel(&losses, axis, "nats per token", loss, Scale::Close, Labels::Stages)?;
    let norm = of(&|run| calm(&run.column(&|m| Some(m.grad_norm).filter(|_| masked(m)))));
    panel(&norms, axis, "gradient norm", norm, Scale::Log, Labels::None)?;
    let rate = of(&|run| run.column(&|m| Some(m.lr)));
    panel(&rates, axis, "learning rate", rate, Scale::Linear, Labels::None)?;
    let speed = of(&|run| calm(&run.column(&|m| Some(m.tokens_per_second).filter(|_| masked(m)))));
    panel(&speeds, axis, "tokens per second", speed, Scale::Linear, Labels::Steps)?;
    area.present()
}

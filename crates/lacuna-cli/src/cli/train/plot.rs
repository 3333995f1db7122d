//! Draws a run's plots from its metrics, as SVG and PNG: `loss` (losses, mask rate, gradient norm and learning rate over
//! the steps) and `telemetry` (loss by mask rate and by position in the block, and what the corruption did).

use anyhow::{Context, Result, bail};
use image::codecs::png::PngEncoder;
use image::{ColorType, ImageEncoder};
use lacuna::train::{
    DiffusionMetrics, HeldOutPoint, MASK_RATE_BUCKETS, StepMetrics, read_held_out, read_metrics,
};
use plotters::coord::Shift;
use plotters::prelude::*;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Once;

pub(crate) use chart::{Axis, Labels, Mark, Scale, Series, curve, panel};
use points::{Points, highest, mean_columns, smoothed};

mod chart;
mod compare;
mod points;

pub(crate) use compare::{Against, compare};

#[cfg(test)]
mod tests;

pub(crate) const WEIGHTED: RGBColor = RGBColor(0xb4, 0x3a, 0x2f);
pub(crate) const UNWEIGHTED: RGBColor = RGBColor(0x1f, 0x5a, 0x8a);
pub(crate) const AUTOREGRESSIVE: RGBColor = RGBColor(0x3a, 0x7d, 0x44);
pub(crate) const RATE: RGBColor = RGBColor(0x8a, 0x63, 0x1f);
const NORM: RGBColor = RGBColor(0x5b, 0x4a, 0x8a);
const HELD_OUT: RGBColor = RGBColor(0x22, 0x22, 0x22);
const TEAL: RGBColor = RGBColor(0x1f, 0x8a, 0x8a);
const PINK: RGBColor = RGBColor(0xb0, 0x44, 0x7a);
/// The colours of held-out measures, none of which a curve of the same panel has.
const MARKED: [RGBColor; 5] = [HELD_OUT, RATE, NORM, TEAL, PINK];
const FAINT: RGBColor = RGBColor(0xb0, 0xb0, 0xb0);

/// Pixels right of the curves, for what they are.
const LEGEND: i32 = 235;
pub(crate) type DrawResult<E> = std::result::Result<(), DrawingAreaErrorKind<E>>;

/// Draws what stands in a run's `metrics.jsonl`, as [`draw`] does.
///
/// # Errors
/// Errors if the metrics can't be read or an image can't be written.
pub(super) fn draw_run(dir: &Path, held_out: &[HeldOutPoint]) -> Result<()> {
    let path = dir.join("metrics.jsonl");
    if !path.exists() {
        return Ok(());
    }
    let mut points = read_held_out(&path)?;
    let known = |point: &&HeldOutPoint| {
        points.iter().any(|other| (other.step, other.label) == (point.step, point.label))
    };
    // Scores that could not be written down are known to the run alone.
    let unwritten: Vec<_> = held_out.iter().filter(|point| !known(point)).cloned().collect();
    points.extend(unwritten);
    points.sort_by_key(|point| point.step);
    draw(dir, &read_metrics(&path)?, &points)
}

/// Draws the same four panels of one run into `name.svg` and `name.png`.
///
/// # Errors
/// As [`draw_run`].
pub(crate) fn draw_as(run: &Path, name: &Path) -> Result<[PathBuf; 2]> {
    let metrics = run.join("metrics.jsonl");
    let (steps, held_out) = (read_metrics(&metrics)?, read_held_out(&metrics)?);
    if steps.is_empty() {
        bail!("{}: no step has been taken yet", metrics.display());
    }
    register_font();
    let title = named_after(run);
    let run = Run { name: &title, metrics: &steps, held_out: &held_out };
    Page::Loss.write(name, SIZE, &run)
}

/// The pictures of a run as SVG: one or two.
///
/// # Errors
/// As [`draw_run`].
pub(super) fn as_svg(run: &Path) -> Result<Vec<String>> {
    let metrics = run.join("metrics.jsonl");
    let (steps, held_out) = (read_metrics(&metrics)?, read_held_out(&metrics)?);
    let mut pictures = Vec::new();
    if steps.is_empty() {
        return Ok(pictures);
    }
    register_font();
    let title = named_after(run);
    let has_diffusion = steps.iter().any(|m| m.diffusion.is_some());
    let run = Run { name: &title, metrics: &steps, held_out: &held_out };
    let pages = [Some((Page::Loss, SIZE)), has_diffusion.then_some((Page::Telemetry, TELEMETRY))];
    for (page, size) in pages.into_iter().flatten() {
        let mut text = String::new();
        drawn("report.html".as_ref(), page.draw(SVGBackend::with_string(&mut text, size), &run))?;
        pictures.push(text);
    }
    Ok(pictures)
}

/// The name of a run's folder.
pub(super) fn named_after(dir: &Path) -> String {
    let name = dir.file_name().or_else(|| dir.parent()?.file_name());
    name.map_or_else(
        || "run".into(),
        |name| lacuna_files::printable(&name.to_string_lossy()).into_owned(),
    )
}

const SIZE: (u32, u32) = (1120, 1000);
const TELEMETRY: (u32, u32) = (1120, 860);

/// Draws `loss.{svg,png}` and, after a diffusion stage, `telemetry.{svg,png}` into a run's folder, whose name is the
/// title. Steps whose numbers are not finite are left out.
///
/// # Errors
/// Errors if an image can't be written.
fn draw(dir: &Path, metrics: &[StepMetrics], held_out: &[HeldOutPoint]) -> Result<()> {
    if metrics.is_empty() {
        return Ok(());
    }
    register_font();
    let name = named_after(dir);
    let run = Run { name: &name, metrics, held_out };
    Page::Loss.write(&dir.join("loss"), SIZE, &run)?;
    if metrics.iter().any(|m| m.diffusion.is_some()) {
        Page::Telemetry.write(&dir.join("telemetry"), TELEMETRY, &run)?;
    }
    Ok(())
}

/// One of the pictures.
#[derive(Clone, Copy)]
enum Page {
    Loss,
    Telemetry,
}

impl Page {
    /// Draws in memory, as SVG and as PNG, so that an older picture stands until the new one is whole.
    fn write(self, name: &Path, size: (u32, u32), run: &Run<'_>) -> Result<[PathBuf; 2]> {
        let [svg, png] = free_names(name)?;
        let mut text = String::new();
        drawn(&svg, self.draw(SVGBackend::with_string(&mut text, size), run))?;
        put(&svg, text.as_bytes())?;
        let mut pixels = vec![0; size.0 as usize * size.1 as usize * 3];
        drawn(&png, self.draw(BitMapBackend::with_buffer(&mut pixels, size), run))?;
        put_pixels(&png, &pixels, size)?;
        Ok([svg, png])
    }

    fn draw<B: DrawingBackend>(self, backend: B, run: &Run<'_>) -> DrawResult<B::ErrorType> {
        let area = backend.into_drawing_area();
        match self {
            Page::Loss => loss(&area, run),
            Page::Telemetry => telemetry(&area, run),
        }
    }
}

/// The two names of a picture; each is free, or an older picture's.
fn free_names(name: &Path) -> Result<[PathBuf; 2]> {
    let with = |end: &str| {
        let mut name = name.as_os_str().to_owned();
        name.push(end);
        free(PathBuf::from(name))
    };
    Ok([with(".svg")?, with(".png")?])
}

fn put_pixels(png: &Path, pixels: &[u8], size: (u32, u32)) -> Result<()> {
    let mut bytes = Vec::new();
    PngEncoder::new(&mut bytes)
        .write_image(pixels, size.0, size.1, ColorType::Rgb8)
        .with_context(|| named(png))?;
    put(png, &bytes)
}

/// A name that is free for a plot, or an older plot's: a pipe would be waited for, for ever.
pub(crate) fn free(path: PathBuf) -> Result<PathBuf> {
    match path.metadata() {
        Ok(there) if !there.is_file() => {
            bail!("{}: there is something of this name that is no file", named(&path))
        }
        _ => Ok(path),
    }
}

pub(crate) fn put(path: &Path, bytes: &[u8]) -> Result<()> {
    let written = lacuna_files::write_file(path, bytes);
    written.map_err(lacuna_files::Error::into_source).with_context(|| named(path))
}

pub(crate) fn drawn<E: std::error::Error + Send + Sync + 'static>(
    path: &Path,
    outcome: DrawResult<E>,
) -> Result<()> {
    outcome.with_context(|| named(path))
}

fn named(path: &Path) -> String {
    format!("plot {}", path.display())
}

/// Plots look the same on a machine without fonts: DejaVu Sans travels in the binary.
pub(crate) fn register_font() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        for family in ["sans-serif", "sans"] {
            // A font that can't be read shows as an error of the first text drawn.
            let _ =
                plotters::style::register_font(family, FontStyle::Normal, dejavu::sans::regular());
        }
    });
}

/// Everything that is drawn.
struct Run<'a> {
    name: &'a str,
    metrics: &'a [StepMetrics],
    held_out: &'a [HeldOutPoint],
}

impl Run<'_> {
    /// One number of each step that has it.
    fn column(&self, f: &dyn Fn(&StepMetrics) -> Option<f64>) -> Points {
        let finite = |m: &StepMetrics| Some((m.step as f64, f(m).filter(|y| y.is_finite())?));
        self.metrics.iter().filter_map(finite).collect()
    }

    fn axis(&self) -> Axis<'_> {
        let (range, stages) =
            (self.steps(), stages_of(self.metrics, |i| self.metrics[i].step as f64));
        Axis { range, label: "step", stages, borders: Vec::new() }
    }

    fn steps(&self) -> Range<f64> {
        let first = self.metrics.first().map_or(0.0, |m| m.step as f64 - 1.0);
        let last = self.metrics.last().map_or(1.0, |m| m.step as f64);
        // A little more than there is, so that marks at the last step are whole.
        first..first + (last - first).max(1.0) * 1.012
    }
}

/// Begin and end of each stage on an axis on which step `i` stands at `place(i)`, and its name.
fn stages_of(steps: &[StepMetrics], place: impl Fn(usize) -> f64) -> Vec<(f64, f64, &str)> {
    let (mut begin, mut seen) = (steps.first().map_or(0.0, |_| place(0)), 0);
    let stages = steps.chunk_by(|a, b| a.stage == b.stage).map(|stage| {
        seen += stage.len();
        let end = place(seen - 1);
        (std::mem::replace(&mut begin, end), end, stage[0].stage.as_str())
    });
    stages.collect()
}

/// Four panels over the steps: losses, mask rate, gradient norm, learning rate.
fn loss<DB: DrawingBackend>(
    area: &DrawingArea<DB, Shift>,
    run: &Run<'_>,
) -> DrawResult<DB::ErrorType> {
    area.fill(&WHITE)?;
    let axis = run.axis();
    let title = format!("{}: losses, mask rate, gradient norm, learning rate", run.name);
    let area = area.titled(&title, ("sans-serif", 17))?.margin(4, 8, 8, 8);
    let (losses, rest) = area.split_vertically(430);
    let (rates, rest) = rest.split_vertically(160);
    let (norms, learning) = rest.split_vertically(180);
    let mut series = vec![
        curve(
            "training, per masked token",
            UNWEIGHTED,
            smoothed(&run.column(&|m| Some(m.loss_unweighted).filter(|_| m.supervised > 0))),
        ),
        curve(
            "training, weighted (Eq. 4)",
            WEIGHTED,
            smoothed(&run.column(&|m| m.mask_rate.filter(|_| m.supervised > 0).map(|_| m.loss))),
        ),
        curve("next token, same windows", AUTOREGRESSIVE, run.column(&|m| m.autoregressive_loss)),
    ];
    series.extend(held_out(run));
    panel(&losses, &axis, "nats per token", series, Scale::Linear, Labels::Stages)?;
    let rate = smoothed(&run.column(&|m| m.mask_rate));
    let rate = vec![curve("masked part of the tokens", RATE, rate)];
    panel(&rates, &axis, "mask rate", rate, Scale::Linear, Labels::None)?;
    let norm = run.column(&|m| Some(m.grad_norm).filter(|_| m.supervised > 0));
    let (middle, peaks) = (smoothed(&norm), highest(&norm));
    let norm =
        vec![curve("highest", NORM_PEAKS, peaks), curve("mean, before clipping", NORM, middle)];
    panel(&norms, &axis, "gradient norm", norm, Scale::Log, Labels::None)?;
    let rate = vec![curve("learning rate", UNWEIGHTED, run.column(&|m| Some(m.lr)))];
    panel(&learning, &axis, "learning rate", rate, Scale::Linear, Labels::Steps)?;
    area.present()
}

const NORM_PEAKS: RGBColor = RGBColor(0xc4, 0xbc, 0xda);

/// Held-out scores as marks, one series for each measure.
fn held_out(run: &Run<'_>) -> Vec<Series> {
    let mut series: Vec<Series> = Vec::new();
    for point in run.held_out.iter().filter(|point| point.nats_per_token.is_finite()) {
        let at = (point.step as f64, point.nats_per_token);
        match series.iter_mut().find(|series| series.label == point.label) {
            Some(series) => series.points.push(at),
            None => {
                let color = MARKED[series.len() % MARKED.len()];
                let (label, mark) = (point.label.to_owned(), Some(Mark::of(series.len())));
                series.push(Series { label, color, points: vec![at], mark });
            }
        }
    }
    series
}

/// Two bar charts over the last quarter of the diffusion steps; below, over the steps, how often a block came
/// out empty or had a mask forced, and the mean weight.
fn telemetry<DB: DrawingBackend>(
    area: &DrawingArea<DB, Shift>,
    run: &Run<'_>,
) -> DrawResult<DB::ErrorType> {
    area.fill(&WHITE)?;
    let axis = run.axis();
    let title = format!("{}: loss by mask rate and position, what the corruption did", run.name);
    let area = area.titled(&title, ("sans-serif", 17))?.margin(4, 8, 8, 8);
    let (bars_area, lines_area) = area.split_vertically(400);
    let (left, right) = bars_area.split_horizontally(550);
    let (fractions, weights) = lines_area.split_vertically(190);
    let diffusion: Vec<_> = run.metrics.iter().filter_map(|m| m.diffusion.as_ref()).collect();
    let recent = &diffusion[diffusion.len() - diffusion.len().div_ceil(4)..];
    let by_rate = mean_columns(recent.iter().map(|d| d.loss_by_mask_rate.as_slice()));
    let by_position = mean_columns(recent.iter().map(|d| d.loss_by_position.as_slice()));
    let rate_label = |i: usize| format!("{:.1}", (i as f64 + 1.0) / MASK_RATE_BUCKETS as f64);
    bars(&left, "mask rate up to", &by_rate, RATE, &rate_label)?;
    bars(&right, "position in the block", &by_position, UNWEIGHTED, &|i| i.to_string())?;
    let column = |f: &dyn Fn(&DiffusionMetrics) -> f64| -> Points {
        smoothed(&run.column(&|m| m.diffusion.as_ref().map(f)))
    };
    let series = vec![
        curve("without a mask, as drawn", NORM, column(&|d| d.zero_mask_fraction)),
        curve("with a forced mask", WEIGHTED, column(&|d| d.forced_fraction)),
    ];
    panel(&fractions, &axis, "part of the blocks", series, Scale::Linear, Labels::None)?;
    let weight = vec![curve("mean over masked tokens", RATE, column(&|d| d.mean_weight))];
    panel(&weights, &axis, "weight", weight, Scale::Linear, Labels::Steps)?;
    area.present()
}

fn bars<DB: DrawingBackend>(
    area: &DrawingArea<DB, Shift>,
    label: &str,
    values: &[Option<f64>],
    color: RGBColor,
    tick: &dyn Fn(usize) -> String,
) -> DrawResult<DB::ErrorType> {
    let highest = values.iter().flatten().fold(0.0f64, |a, b| a.max(*b)).max(1e-3);
    let mut chart = ChartBuilder::on(area)
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(56)
        .build_cartesian_2d(0.0..values.len() as f64, 0.0..highest * 1.1)?;
    let at_middle = |x: &f64| {
        let i = x.floor().max(0.0) as usize;
        if (x - x.floor() - 0.5).abs() < 0.01 { tick(i) } else { String::new() }
    };
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(WHITE)
        .bold_line_style(FAINT.mix(0.35))
        .x_desc(label)
        .y_desc("loss of masked tokens, nats (last quarter)")
        .x_labels(values.len() * 2 + 1)
        .x_label_formatter(&at_middle)
        .label_style(("sans-serif", 13))
        .draw()?;
    chart.draw_series(values.iter().enumerate().filter_map(|(i, value)| {
        let x = i as f64;
        Some(Rectangle::new([(x + 0.12, 0.0), (x + 0.88, (*value)?)], color.filled()))
    }))?;
    Ok(())
}

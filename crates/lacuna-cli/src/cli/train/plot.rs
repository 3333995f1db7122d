//! Draws a run's plots from its metrics, as SVG and PNG: `loss` (losses, mask rate, gradient norm and learning rate over
//! the steps) and `telemetry` (loss by mask rate and by position in the block, and what the corruption did).

use anyhow::{Context, Result, bail};
use image::codecs::png::PngEncoder;
use image::{ColorType, ImageEncoder};
use lacuna::train::{DiffusionMetrics, HeldOutPoint, MASK_RATE_BUCKETS, StepMetrics, read_metrics};
use plotters::coord::Shift;
use plotters::coord::ranged1d::{Ranged, ValueFormatter};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Once;

use points::{Points, highest, mean_columns, smoothed, thinned};

mod points;
#[cfg(test)]
mod tests;

const WEIGHTED: RGBColor = RGBColor(0xb4, 0x3a, 0x2f);
const UNWEIGHTED: RGBColor = RGBColor(0x1f, 0x5a, 0x8a);
const AUTOREGRESSIVE: RGBColor = RGBColor(0x3a, 0x7d, 0x44);
const RATE: RGBColor = RGBColor(0x8a, 0x63, 0x1f);
const NORM: RGBColor = RGBColor(0x5b, 0x4a, 0x8a);
const HELD_OUT: RGBColor = RGBColor(0x22, 0x22, 0x22);
const FAINT: RGBColor = RGBColor(0xb0, 0xb0, 0xb0);

/// Pixels right of the curves, for what they are.
const LEGEND: i32 = 235;
type DrawResult<E> = std::result::Result<(), DrawingAreaErrorKind<E>>;

/// Draws what stands in a run's `metrics.jsonl`, as [`draw`] does.
///
/// # Errors
/// Errors if the metrics can't be read or an image can't be written.
pub(super) fn draw_run(dir: &Path, held_out: &[HeldOutPoint]) -> Result<()> {
    draw(dir, &read_metrics(&dir.join("metrics.jsonl"))?, held_out)
}

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
    let name = dir.file_name().map_or_else(|| "run".into(), |name| name.to_string_lossy());
    let run = Run { name: &name, metrics, held_out };
    let size = (1120, 1000);
    Page::Loss.write(&dir.join("loss"), size, &run)?;
    if metrics.iter().any(|m| m.diffusion.is_some()) {
        Page::Telemetry.write(&dir.join("telemetry"), (1120, 860), &run)?;
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
    fn write(self, name: &Path, size: (u32, u32), run: &Run<'_>) -> Result<()> {
        let (svg, png) = (free(name.with_extension("svg"))?, free(name.with_extension("png"))?);
        let mut text = String::new();
        drawn(&svg, self.draw(SVGBackend::with_string(&mut text, size), run))?;
        put(&svg, text.as_bytes())?;
        let mut pixels = vec![0; size.0 as usize * size.1 as usize * 3];
        drawn(&png, self.draw(BitMapBackend::with_buffer(&mut pixels, size), run))?;
        let mut bytes = Vec::new();
        PngEncoder::new(&mut bytes)
            .write_image(&pixels, size.0, size.1, ColorType::Rgb8)
            .with_context(|| named(&png))?;
        put(&png, &bytes)
    }

    fn draw<B: DrawingBackend>(self, backend: B, run: &Run<'_>) -> DrawResult<B::ErrorType> {
        let area = backend.into_drawing_area();
        match self {
            Page::Loss => loss(&area, run),
            Page::Telemetry => telemetry(&area, run),
        }
    }
}

/// A name that is free for a plot, or an older plot's: a pipe would be waited for, for ever.
fn free(path: PathBuf) -> Result<PathBuf> {
    match path.metadata() {
        Ok(there) if !there.is_file() => {
            bail!("{}: there is something of this name that is no file", named(&path))
        }
        _ => Ok(path),
    }
}

fn put(path: &Path, bytes: &[u8]) -> Result<()> {
    let written = lacuna_files::write_file(path, bytes);
    written.map_err(lacuna_files::Error::into_source).with_context(|| named(path))
}

fn drawn<E: std::error::Error + Send + Sync + 'static>(
    path: &Path,
    outcome: DrawResult<E>,
) -> Result<()> {
    outcome.with_context(|| named(path))
}

fn named(path: &Path) -> String {
    format!("plot {}", path.display())
}

/// Plots look the same on a machine without fonts: DejaVu Sans travels in the binary.
fn register_font() {
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

    /// Begin and end of each stage in steps, and its name.
    fn stages(&self) -> Vec<(f64, f64, &str)> {
        let runs = self.metrics.chunk_by(|a, b| a.stage == b.stage);
        let mut begin = self.metrics.first().map_or(0.0, |m| m.step as f64 - 1.0);
        let stage = |steps: &'_ [StepMetrics]| {
            let end = steps.last().map_or(begin, |m| m.step as f64);
            (std::mem::replace(&mut begin, end), end, steps[0].stage.clone())
        };
        let named: Vec<_> = runs.map(stage).collect();
        let find = |name: &str| self.metrics.iter().find(|m| m.stage == name).map(|m| &*m.stage);
        named.iter().filter_map(|(from, to, name)| Some((*from, *to, find(name)?))).collect()
    }

    fn steps(&self) -> Range<f64> {
        let first = self.metrics.first().map_or(0.0, |m| m.step as f64 - 1.0);
        let last = self.metrics.last().map_or(1.0, |m| m.step as f64);
        // A little more than there is, so that marks at the last step are whole.
        first..first + (last - first).max(1.0) * 1.012
    }
}

/// A curve or a row of marks, and what it is.
struct Series {
    label: &'static str,
    color: RGBColor,
    points: Points,
    marks: bool,
}

fn curve(label: &'static str, color: RGBColor, points: Points) -> Series {
    Series { label, color, points: thinned(&points), marks: false }
}

#[derive(Clone, Copy, PartialEq)]
enum Scale {
    Linear,
    /// Ticks at powers of ten.
    Log,
}

/// Four panels over the steps: losses, mask rate, gradient norm, learning rate.
fn loss<DB: DrawingBackend>(
    area: &DrawingArea<DB, Shift>,
    run: &Run<'_>,
) -> DrawResult<DB::ErrorType> {
    area.fill(&WHITE)?;
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
    panel(&losses, run, "nats per token", series, Scale::Linear, Labels::Stages)?;
    let rate = smoothed(&run.column(&|m| m.mask_rate));
    let rate = vec![curve("masked part of the tokens", RATE, rate)];
    panel(&rates, run, "mask rate", rate, Scale::Linear, Labels::None)?;
    let norm = run.column(&|m| Some(m.grad_norm).filter(|_| m.supervised > 0));
    let (middle, peaks) = (smoothed(&norm), highest(&norm));
    let norm =
        vec![curve("highest", NORM_PEAKS, peaks), curve("mean, before clipping", NORM, middle)];
    panel(&norms, run, "gradient norm", norm, Scale::Log, Labels::None)?;
    let rate = vec![curve("learning rate", UNWEIGHTED, run.column(&|m| Some(m.lr)))];
    panel(&learning, run, "learning rate", rate, Scale::Linear, Labels::Steps)?;
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
                let color = [HELD_OUT, RATE, NORM][series.len() % 3];
                series.push(Series { label: point.label, color, points: vec![at], marks: true });
            }
        }
    }
    series
}

/// The words of a panel beside those of its own axis.
#[derive(Clone, Copy, PartialEq)]
enum Labels {
    None,
    /// Stages' names above it.
    Stages,
    /// Steps below it.
    Steps,
}

/// One chart over the steps with the stages' borders, its legend right of the curves.
fn panel<DB: DrawingBackend>(
    area: &DrawingArea<DB, Shift>,
    run: &Run<'_>,
    label: &str,
    series: Vec<Series>,
    scale: Scale,
    labels: Labels,
) -> DrawResult<DB::ErrorType> {
    let values = || series.iter().flat_map(|s| s.points.iter().map(|(_, y)| *y));
    let values = || values().filter(|y| scale == Scale::Linear || *y > 0.0);
    let (low, high) = values()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), y| (low.min(y), high.max(y)));
    if low > high {
        return Ok(());
    }
    let (width, _) = area.dim_in_pixel();
    let (area, beside) = area.split_horizontally(width as i32 - LEGEND);
    legend(&beside, &series)?;
    let mut builder = ChartBuilder::on(&area);
    builder
        .margin(4)
        .margin_top(if labels == Labels::Stages { 22 } else { 6 })
        .x_label_area_size(if labels == Labels::Steps { 38 } else { 22 })
        .y_label_area_size(70);
    match scale {
        Scale::Linear => {
            let top = if high > 0.0 { high * 1.06 } else { 1.0 };
            let chart = builder.build_cartesian_2d(run.steps(), low.min(0.0)..top)?;
            let tick =
                |y: &f64| if top < 0.01 && *y != 0.0 { format!("{y:.1e}") } else { trimmed(*y) };
            on_chart(chart, run, label, &series, low.min(0.0)..top, labels, &tick)
        }
        Scale::Log => {
            let bottom = 10f64.powf(low.log10().floor());
            let top = 10f64.powf(high.log10().ceil()).max(bottom * 10.0);
            let chart = builder.build_cartesian_2d(run.steps(), (bottom..top).log_scale())?;
            let tick = |y: &f64| {
                let power = y.log10();
                let whole = (power - power.round()).abs() < 1e-6;
                if whole { power_of_ten(power.round() as i32) } else { String::new() }
            };
            on_chart(chart, run, label, &series, bottom..top, labels, &tick)
        }
    }
}

/// `0.25`, `2`: no digits that say nothing.
fn trimmed(y: f64) -> String {
    let text = format!("{y:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// `0.01` … `1000` as they are, powers beyond as `1e-5`.
fn power_of_ten(power: i32) -> String {
    if (-3..=4).contains(&power) { trimmed(10f64.powi(power)) } else { format!("1e{power}") }
}

fn on_chart<'a, DB, Y>(
    mut chart: ChartContext<'a, DB, Cartesian2d<plotters::coord::types::RangedCoordf64, Y>>,
    run: &Run<'_>,
    label: &str,
    series: &[Series],
    range: Range<f64>,
    labels: Labels,
    tick: &dyn Fn(&f64) -> String,
) -> DrawResult<DB::ErrorType>
where
    DB: DrawingBackend + 'a,
    Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let mut mesh = chart.configure_mesh();
    mesh.light_line_style(WHITE)
        .bold_line_style(FAINT.mix(0.35))
        .y_desc(label)
        .y_labels(6)
        .y_label_formatter(&tick)
        .x_label_formatter(&|x| format!("{x:.0}"))
        .label_style(("sans-serif", 13));
    if labels == Labels::Steps {
        mesh.x_desc("step");
    }
    mesh.draw()?;
    let all = run.steps();
    for (begin, end, name) in run.stages() {
        let border = vec![(end, range.start), (end, range.end)];
        chart.draw_series(std::iter::once(PathElement::new(border, FAINT)))?;
        // About seven pixels a letter; a stage too short for its name goes without.
        let room = (end - begin) / (all.end - all.start) * 800.0;
        if labels == Labels::Stages && room > 7.0 * name.len() as f64 {
            let style = ("sans-serif", 13).into_font().color(&BLACK.mix(0.6));
            let style = style.pos(Pos::new(HPos::Left, VPos::Bottom));
            chart.draw_series(std::iter::once(Text::new(
                name.to_owned(),
                (begin, range.end),
                style,
            )))?;
        }
    }
    let visible = |y: f64| y >= range.start && y <= range.end;
    for Series { color, points, marks, .. } in series.iter().filter(|s| !s.points.is_empty()) {
        let color = *color;
        let points: Points = points.iter().copied().filter(|(_, y)| visible(*y)).collect();
        if *marks {
            let mark = move |at| Circle::new(at, 5, color.stroke_width(2));
            chart.draw_series(points.into_iter().map(mark))?;
        } else {
            // Piece by piece: where a line turns sharply, a thick one would shoot beyond the point.
            let piece = move |pair: &[(f64, f64)]| PathElement::new(pair, color.stroke_width(2));
            chart.draw_series(points.windows(2).map(piece).collect::<Vec<_>>())?;
        }
    }
    Ok(())
}

/// Names the curves of a panel in an area of its own: a chart's own legend can't leave its chart.
fn legend<DB: DrawingBackend>(
    area: &DrawingArea<DB, Shift>,
    series: &[Series],
) -> DrawResult<DB::ErrorType> {
    let mut chart = ChartBuilder::on(area).build_cartesian_2d(0.0..1.0, 0.0..1.0)?;
    for Series { label, color, marks, .. } in series.iter().filter(|s| !s.points.is_empty()) {
        let color = *color;
        let nothing = std::iter::empty::<PathElement<(f64, f64)>>();
        let named = chart.draw_series(nothing)?.label(*label);
        if *marks {
            named.legend(move |(x, y)| Circle::new((x + 9, y), 5, color.stroke_width(2)));
        } else {
            named.legend(move |(x, y)| {
                PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2))
            });
        }
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .label_font(("sans-serif", 13))
        .draw()
}

/// Two bar charts over the last quarter of the diffusion steps; below, over the steps, how often a block came
/// out empty or had a mask forced, and the mean weight.
fn telemetry<DB: DrawingBackend>(
    area: &DrawingArea<DB, Shift>,
    run: &Run<'_>,
) -> DrawResult<DB::ErrorType> {
    area.fill(&WHITE)?;
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
    panel(&fractions, run, "part of the blocks", series, Scale::Linear, Labels::None)?;
    let weight = vec![curve("mean over masked tokens", RATE, column(&|d| d.mean_weight))];
    panel(&weights, run, "weight", weight, Scale::Linear, Labels::Steps)?;
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

//! The run's plots, as SVG and PNG: `loss` (losses, mask rate, gradient norm over steps) and `telemetry`
//! (loss by mask rate and by position in the block).

use plotters::coord::Shift;
use plotters::prelude::*;
use std::path::Path;
use std::sync::Once;

use crate::error::{Result, TrainError};
use crate::metrics::{DiffusionMetrics, MASK_RATE_BUCKETS, StepMetrics};

const WEIGHTED: RGBColor = RGBColor(0xb4, 0x3a, 0x2f);
const UNWEIGHTED: RGBColor = RGBColor(0x1f, 0x5a, 0x8a);
const AUTOREGRESSIVE: RGBColor = RGBColor(0x3a, 0x7d, 0x44);
const RATE: RGBColor = RGBColor(0x8a, 0x63, 0x1f);
const NORM: RGBColor = RGBColor(0x5b, 0x4a, 0x8a);
const FAINT: RGBColor = RGBColor(0xb0, 0xb0, 0xb0);

type Points = Vec<(f64, f64)>;
type DrawResult<E> = std::result::Result<(), DrawingAreaErrorKind<E>>;

/// Draws `loss.{svg,png}` and, after a diffusion stage, `telemetry.{svg,png}` into `dir`.
///
/// # Errors
/// Errors if an image can't be written.
pub fn draw(dir: &Path, metrics: &[StepMetrics]) -> Result<()> {
    if metrics.is_empty() {
        return Ok(());
    }
    register_font();
    let size = (1000, 860);
    let (svg, png) = (dir.join("loss.svg"), dir.join("loss.png"));
    drawn(&svg, loss(&SVGBackend::new(&svg, size).into_drawing_area(), metrics))?;
    drawn(&png, loss(&BitMapBackend::new(&png, size).into_drawing_area(), metrics))?;
    if metrics.iter().any(|m| m.diffusion.is_some()) {
        let size = (1000, 800);
        let (svg, png) = (dir.join("telemetry.svg"), dir.join("telemetry.png"));
        drawn(&svg, telemetry(&SVGBackend::new(&svg, size).into_drawing_area(), metrics))?;
        drawn(&png, telemetry(&BitMapBackend::new(&png, size).into_drawing_area(), metrics))?;
    }
    Ok(())
}

fn drawn<E: std::error::Error + Send + Sync>(path: &Path, outcome: DrawResult<E>) -> Result<()> {
    outcome.map_err(|e| TrainError::Plot { path: path.to_owned(), reason: e.to_string() })
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

/// Three panels over steps: losses, mask rate, gradient norm.
fn loss<DB: DrawingBackend>(
    area: &DrawingArea<DB, Shift>,
    metrics: &[StepMetrics],
) -> DrawResult<DB::ErrorType> {
    area.fill(&WHITE)?;
    let area = area.margin(10, 10, 10, 16);
    let (losses, rest) = area.split_vertically(460);
    let (rates, norms) = rest.split_vertically(180);
    let column = |f: &dyn Fn(&StepMetrics) -> Option<f64>| -> Points {
        metrics.iter().filter_map(|m| Some((m.step as f64, f(m)?))).collect()
    };
    let weighted = smoothed(
        &column(&|m| m.mask_rate.filter(|_| m.supervised > 0).map(|_| m.loss)),
        metrics.len(),
    );
    let unweighted =
        smoothed(&column(&|m| Some(m.loss_unweighted).filter(|_| m.supervised > 0)), metrics.len());
    let next_token = column(&|m| m.autoregressive_loss);
    let series = [
        ("loss, unweighted (nats per masked token)", UNWEIGHTED, unweighted),
        ("loss, weighted (nats per token)", WEIGHTED, weighted),
        ("next-token loss on the same windows", AUTOREGRESSIVE, next_token),
    ];
    panel(&losses, metrics, "loss, nats", &series, Scale::Linear)?;
    let rate = smoothed(&column(&|m| m.mask_rate), metrics.len());
    panel(
        &rates,
        metrics,
        "mask rate",
        &[("masked part of the tokens", RATE, rate)],
        Scale::Linear,
    )?;
    let norm = column(&|m| Some(m.grad_norm).filter(|_| m.supervised > 0));
    panel(&norms, metrics, "gradient norm", &[("before clipping", NORM, norm)], Scale::Log)?;
    area.present()
}

#[derive(Clone, Copy)]
enum Scale {
    Linear,
    Log,
}

/// One chart over steps with stage borders and their names.
fn panel<DB: DrawingBackend>(
    area: &DrawingArea<DB, Shift>,
    metrics: &[StepMetrics],
    label: &str,
    series: &[(&str, RGBColor, Points)],
    scale: Scale,
) -> DrawResult<DB::ErrorType> {
    let transform = |y: f64| match scale {
        Scale::Linear => y,
        Scale::Log => y.max(1e-12).log10(),
    };
    let values = || series.iter().flat_map(|(_, _, p)| p.iter().map(|(_, y)| transform(*y)));
    let highest = values().fold(f64::NEG_INFINITY, f64::max);
    let lowest = match scale {
        Scale::Linear => 0.0,
        Scale::Log => values().fold(f64::INFINITY, f64::min),
    };
    if !highest.is_finite() {
        return Ok(());
    }
    let last_step = metrics.last().map_or(1.0, |m| m.step as f64);
    let top = highest + 0.08 * (highest - lowest).max(1e-3);
    let bottom = if matches!(scale, Scale::Log) { lowest - 0.1 } else { 0.0 };
    let mut chart = ChartBuilder::on(area)
        .margin(4)
        .x_label_area_size(34)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..last_step, bottom..top)?;
    let tick = |y: &f64| match scale {
        Scale::Linear => format!("{y:.2}"),
        Scale::Log => format!("{:.2}", 10f64.powf(*y)),
    };
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .bold_line_style(FAINT.mix(0.35))
        .x_desc("step")
        .y_desc(label)
        .y_label_formatter(&tick)
        .x_label_formatter(&|x| format!("{x:.0}"))
        .label_style(("sans-serif", 13))
        .draw()?;
    let mut begin = 0.0;
    for (i, m) in metrics.iter().enumerate() {
        let ends = metrics.get(i + 1).is_none_or(|next| next.stage != m.stage);
        if ends {
            let end = m.step as f64;
            let border = vec![(end, bottom), (end, top)];
            chart.draw_series(std::iter::once(PathElement::new(border, FAINT)))?;
            let at = (begin + 0.01 * last_step, top);
            let style = ("sans-serif", 12).into_font().color(&BLACK.mix(0.5));
            chart.draw_series(std::iter::once(Text::new(m.stage.clone(), at, style)))?;
            begin = end;
        }
    }
    for (name, color, points) in series.iter().filter(|(_, _, p)| !p.is_empty()) {
        let color = *color;
        let points = points.iter().map(|(x, y)| (*x, transform(*y)));
        chart
            .draw_series(LineSeries::new(points, color.stroke_width(2)))?
            .label(*name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.85))
        .border_style(FAINT)
        .label_font(("sans-serif", 13))
        .draw()?;
    Ok(())
}

/// Two bar charts over the last quarter of the diffusion steps; below, over the steps, how often a block came
/// out empty or had a mask forced, and the mean weight.
fn telemetry<DB: DrawingBackend>(
    area: &DrawingArea<DB, Shift>,
    metrics: &[StepMetrics],
) -> DrawResult<DB::ErrorType> {
    area.fill(&WHITE)?;
    let (bars_area, lines_area) = area.split_vertically(400);
    let (left, right) = bars_area.split_horizontally(500);
    let (fractions, weights) = lines_area.split_vertically(200);
    let diffusion: Vec<_> = metrics.iter().filter_map(|m| m.diffusion.as_ref()).collect();
    let recent = &diffusion[diffusion.len() - diffusion.len().div_ceil(4)..];
    let by_rate = mean_columns(recent.iter().map(|d| d.loss_by_mask_rate.as_slice()));
    let by_position = mean_columns(recent.iter().map(|d| d.loss_by_position.as_slice()));
    let rate_label = |i: usize| format!("{:.1}", (i as f64 + 1.0) / MASK_RATE_BUCKETS as f64);
    bars(&left, "mask rate up to", &by_rate, RATE, &rate_label)?;
    bars(&right, "position in the block", &by_position, UNWEIGHTED, &|i| i.to_string())?;
    let column = |f: &dyn Fn(&DiffusionMetrics) -> f64| -> Points {
        let points = metrics.iter().filter_map(|m| Some((m.step as f64, f(m.diffusion.as_ref()?))));
        smoothed(&points.collect(), metrics.len())
    };
    let empty = column(&|d| d.zero_mask_fraction);
    let forced = column(&|d| d.forced_fraction);
    let series =
        [("without a mask, before the fallback", NORM, empty), ("a mask forced", WEIGHTED, forced)];
    panel(&fractions, metrics, "part of the blocks", &series, Scale::Linear)?;
    let weight = column(&|d| d.mean_weight);
    panel(
        &weights,
        metrics,
        "weight",
        &[("mean over masked tokens", RATE, weight)],
        Scale::Linear,
    )?;
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

/// Column means of rows with holes.
fn mean_columns<'a>(rows: impl Iterator<Item = &'a [Option<f64>]>) -> Vec<Option<f64>> {
    let mut sums: Vec<(f64, usize)> = Vec::new();
    for row in rows {
        sums.resize(sums.len().max(row.len()), (0.0, 0));
        for (sum, value) in sums.iter_mut().zip(row) {
            if let Some(value) = value {
                *sum = (sum.0 + value, sum.1 + 1);
            }
        }
    }
    sums.into_iter().map(|(sum, n)| (n > 0).then(|| sum / n as f64)).collect()
}

/// Centred moving average over about a hundredth of the run, which does not reach across gaps in the steps.
fn smoothed(points: &Points, n_steps: usize) -> Points {
    let half = (n_steps / 200).min(25);
    let mean = |i: usize| {
        let window = &points[i.saturating_sub(half)..(i + half + 1).min(points.len())];
        window.iter().map(|p| p.1).sum::<f64>() / window.len() as f64
    };
    (0..points.len()).map(|i| (points[i].0, mean(i))).collect()
}

//! Draws one panel: curves and marks over an axis, with their names beside it.

use plotters::coord::Shift;
use plotters::coord::ranged1d::{Ranged, ValueFormatter};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::ops::Range;

use super::points::{Points, thinned};
use super::{DrawResult, FAINT, LEGEND};

/// A curve or a row of marks, and what it is.
pub(crate) struct Series {
    /// Its name beside the panel; empty if another one explains it.
    pub(crate) label: String,
    pub(crate) color: RGBColor,
    pub(crate) points: Points,
    /// The form of its marks; `None` for a curve.
    pub(crate) mark: Option<Mark>,
}

pub(crate) fn curve(label: impl Into<String>, color: RGBColor, points: Points) -> Series {
    Series { label: label.into(), color, points: thinned(&points), mark: None }
}

/// The form of a mark. Two at one place are both seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    Circle,
    Cross,
    Triangle,
    Dot,
}

impl Mark {
    /// The form of the measure with this number; few runs have more than two.
    pub(crate) fn of(number: usize) -> Self {
        [Self::Circle, Self::Cross, Self::Triangle, Self::Dot][number % 4]
    }
}

fn ring<C>(at: C, color: RGBColor) -> Circle<C, i32> {
    Circle::new(at, 5, color.stroke_width(2))
}

fn cross<C>(at: C, color: RGBColor) -> Cross<C, i32> {
    Cross::new(at, 4, color.stroke_width(2))
}

fn triangle<C>(at: C, color: RGBColor) -> TriangleMarker<C, i32> {
    TriangleMarker::new(at, 5, color.filled())
}

fn dot<C>(at: C, color: RGBColor) -> Circle<C, i32> {
    Circle::new(at, 3, color.filled())
}

/// A name that the space beside a panel has room for: its beginning and its end, which tell most.
pub(crate) fn fitted(name: &str) -> String {
    const MOST: usize = 28;
    let letters: Vec<char> = name.chars().collect();
    if letters.len() <= MOST {
        return name.to_owned();
    }
    let (first, last) = (&letters[..MOST / 2 - 1], &letters[letters.len() - MOST / 2..]);
    first.iter().chain(&['…']).chain(last).collect()
}

/// The axis that the panels of a picture share, from left to right.
pub(crate) struct Axis<'a> {
    /// Its two ends.
    pub(crate) range: Range<f64>,
    /// The name of the thing that it counts.
    pub(crate) label: &'a str,
    /// The place on it at which each stage begins, the one at which it ends, and its name.
    pub(crate) stages: Vec<(f64, f64, &'a str)>,
    /// The places at which stages of single runs end, where runs differ in them, in their colours.
    pub(crate) borders: Vec<(f64, RGBColor)>,
}

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Scale {
    Linear,
    /// From the lowest value to the highest: where differences are what is looked for.
    Close,
    /// Ticks at powers of ten.
    Log,
}

/// The words of a panel beside those of its own axis.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Labels {
    None,
    /// Stages' names above it.
    Stages,
    /// Steps below it.
    Steps,
}

/// One chart over the steps with the stages' borders, its legend right of the curves.
pub(crate) fn panel<DB: DrawingBackend>(
    area: &DrawingArea<DB, Shift>,
    axis: &Axis<'_>,
    label: &str,
    series: Vec<Series>,
    scale: Scale,
    labels: Labels,
) -> DrawResult<DB::ErrorType> {
    let values = || series.iter().flat_map(|s| s.points.iter().map(|(_, y)| *y));
    let values = || values().filter(|y| scale != Scale::Log || *y > 0.0);
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
            let chart = builder.build_cartesian_2d(axis.range.clone(), low.min(0.0)..top)?;
            let tick =
                |y: &f64| if top < 0.01 && *y != 0.0 { format!("{y:.1e}") } else { trimmed(*y) };
            on_chart(chart, axis, label, &series, low.min(0.0)..top, labels, &tick)
        }
        Scale::Close => {
            let room = ((high - low) * 0.05).max(1e-6);
            let range = low - room..high + room;
            let chart = builder.build_cartesian_2d(axis.range.clone(), range.clone())?;
            on_chart(chart, axis, label, &series, range, labels, &|y| trimmed(*y))
        }
        Scale::Log => {
            let bottom = 10f64.powf(low.log10().floor());
            let top = 10f64.powf(high.log10().ceil()).max(bottom * 10.0);
            let chart =
                builder.build_cartesian_2d(axis.range.clone(), (bottom..top).log_scale())?;
            let tick = |y: &f64| {
                let power = y.log10();
                let whole = (power - power.round()).abs() < 1e-6;
                if whole { power_of_ten(power.round() as i32) } else { String::new() }
            };
            on_chart(chart, axis, label, &series, bottom..top, labels, &tick)
        }
    }
}

/// `2000`, `1.5 M`: a place on an axis of this width.
fn counted(x: f64, width: f64) -> String {
    match () {
        () if width >= 2e9 => format!("{} B", trimmed(x / 1e9)),
        () if width >= 2e6 => format!("{} M", trimmed(x / 1e6)),
        () if width >= 10.0 => format!("{x:.0}"),
        () => trimmed(x),
    }
}

/// `0.25`, `2`: no digits that say nothing.
fn trimmed(y: f64) -> String {
    let text = format!("{y:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// `0.01` … `1000` as they are, powers beyond as `1e-5`.
pub(super) fn power_of_ten(power: i32) -> String {
    if (-3..=4).contains(&power) { trimmed(10f64.powi(power)) } else { format!("1e{power}") }
}

fn on_chart<'a, DB, Y>(
    mut chart: ChartContext<'a, DB, Cartesian2d<plotters::coord::types::RangedCoordf64, Y>>,
    axis: &Axis<'_>,
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
    let width = axis.range.end - axis.range.start;
    let place = |x: &f64| counted(*x, width);
    let mut mesh = chart.configure_mesh();
    mesh.light_line_style(WHITE)
        .bold_line_style(FAINT.mix(0.35))
        .y_desc(label)
        .y_labels(6)
        .y_label_formatter(&tick)
        .x_label_formatter(&place)
        .label_style(("sans-serif", 13));
    if labels == Labels::Steps {
        mesh.x_desc(axis.label);
    }
    mesh.draw()?;
    let all = &axis.range;
    for &(begin, end, name) in &axis.stages {
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
    for (place, color) in &axis.borders {
        let border = vec![(*place, range.start), (*place, range.end)];
        chart.draw_series(std::iter::once(PathElement::new(border, color.mix(0.35))))?;
    }
    let visible = |y: f64| y >= range.start && y <= range.end;
    for Series { color, points, mark, .. } in series.iter().filter(|s| !s.points.is_empty()) {
        let color = *color;
        let points: Points = points.iter().copied().filter(|(_, y)| visible(*y)).collect();
        if let Some(mark) = *mark {
            if points.len() > 2 {
                let piece = move |pair: &[(f64, f64)]| PathElement::new(pair, color.mix(0.5));
                chart.draw_series(points.windows(2).map(piece).collect::<Vec<_>>())?;
            }
            let points = points.into_iter();
            match mark {
                Mark::Circle => chart.draw_series(points.map(|at| ring(at, color)))?,
                Mark::Cross => chart.draw_series(points.map(|at| cross(at, color)))?,
                Mark::Triangle => chart.draw_series(points.map(|at| triangle(at, color)))?,
                Mark::Dot => chart.draw_series(points.map(|at| dot(at, color)))?,
            };
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
    let named = |series: &&Series| !series.points.is_empty() && !series.label.is_empty();
    if !series.iter().any(|series| named(&series)) {
        return Ok(());
    }
    for Series { label, color, mark, .. } in series.iter().filter(named) {
        let color = *color;
        let nothing = std::iter::empty::<PathElement<(f64, f64)>>();
        let named = chart.draw_series(nothing)?.label(fitted(label));
        match *mark {
            None => named.legend(move |(x, y)| {
                PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2))
            }),
            Some(Mark::Circle) => named.legend(move |(x, y)| ring((x + 9, y), color)),
            Some(Mark::Cross) => named.legend(move |(x, y)| cross((x + 9, y), color)),
            Some(Mark::Triangle) => named.legend(move |(x, y)| triangle((x + 9, y), color)),
            Some(Mark::Dot) => named.legend(move |(x, y)| dot((x + 9, y), color)),
        };
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .label_font(("sans-serif", 13))
        .draw()
}

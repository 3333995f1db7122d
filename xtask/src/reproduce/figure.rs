//! Draws an experiment's figures as SVG.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::Experiment;
use super::measures::{Measured, Sample, median};
use super::page::with_unit;

/// Colours that readers with any sight tell apart (Okabe and Ito), and that print on white.
const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(110, 110, 110),
    RGBColor(0, 0, 0),
];
const WIDTH: u32 = 860;
/// The height of a chart over the steps, and of the line that names one of its arms.
const CHART: u32 = 400;
const ROW: u32 = 22;
const FONT: (&str, i32) = ("sans-serif", 14);

/// Each arm's first score: its seeds as points, their mean with the interval that holds it nineteen times of twenty.
pub(super) fn scores(
    path: &Path,
    experiment: &Experiment,
    measured: &[Vec<Measured>],
) -> Result<()> {
    let score = &experiment.scores[0];
    let values = |runs: &Vec<Measured>| -> Vec<f64> {
        runs.iter().filter_map(|run| run.scores.get(score).copied()).collect()
    };
    let rows: Vec<Vec<f64>> = measured.iter().map(values).collect();
    let ends = |all: &[f64]| {
        let least = all.iter().copied().fold(f64::INFINITY, f64::min);
        (least, all.iter().copied().fold(f64::NEG_INFINITY, f64::max))
    };
    let points = rows.concat();
    let (least, most) = ends(&points);
    // Of two seeds an interval is so wide that nothing else could be seen.
    let half = |values: &[f64]| Sample::of(values).interval().min(most - least);
    let edges = rows
        .iter()
        .flat_map(|row| [Sample::of(row).mean - half(row), Sample::of(row).mean + half(row)]);
    let (low, high) = match points.is_empty() {
        // Runs of a few steps may not have it, and plotters loops forever on an axis with infinite bounds.
        true => (0.0, 1.0),
        false => ends(&edges.chain(points.iter().copied()).collect::<Vec<_>>()),
    };
    let margin = (0.04 * (high - low)).max(0.01);
    let count = rows.len() as f64;
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, (WIDTH, 60 + 42 * rows.len() as u32));
        let root = root.into_drawing_area();
        root.fill(&WHITE).map_err(failed)?;
        let mut chart = ChartBuilder::on(&root)
            .margin(12)
            .set_label_area_size(LabelAreaPosition::Left, 290)
            .set_label_area_size(LabelAreaPosition::Bottom, 44)
            .build_cartesian_2d(low - margin..high + margin, -0.5..count - 0.5)
            .map_err(failed)?;
        let name = |y: &f64| {
            // From the top, in the order of the table.
            let row = (count - 1.0 - y).round() as usize;
            experiment.arm.get(row).map(|arm| arm.name.clone()).unwrap_or_default()
        };
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .y_labels(rows.len())
            .y_label_formatter(&name)
            .x_desc(with_unit(experiment, score))
            .label_style(FONT)
            .draw()
            .map_err(failed)?;
        for (row, values) in rows.iter().enumerate().filter(|(_, values)| !values.is_empty()) {
            let (y, colour) = (count - 1.0 - row as f64, COLOURS[row % COLOURS.len()]);
            let sample = Sample::of(values);
            let half = half(values);
            let interval = [(sample.mean - half, y), (sample.mean + half, y)];
            chart.draw_series(LineSeries::new(interval, colour.stroke_width(2))).map_err(failed)?;
            let points = values.iter().map(|x| Circle::new((*x, y), 4, colour.mix(0.45).filled()));
            chart.draw_series(points).map_err(failed)?;
            let mean = [(sample.mean, y - 0.22), (sample.mean, y + 0.22)];
            chart.draw_series(LineSeries::new(mean, colour.stroke_width(3))).map_err(failed)?;
        }
        root.present().map_err(failed)?;
    }
    std::fs::write(path, text)?;
    Ok(())
}

/// A number of every step, a line an arm: the median of its seeds, over ten steps.
pub(super) fn curve(
    path: &Path,
    key: &str,
    experiment: &Experiment,
    measured: &[Vec<Measured>],
) -> Result<()> {
    let of = |runs: &Vec<Measured>| runs.iter().map(|run| run.curve(key)).collect();
    let lines: Vec<_> = measured.iter().map(|runs| smoothed(of(runs))).collect();
    draw(path, &key.replace('_', " "), experiment, &lines)
}

/// The held-out score of each arm's objective on the way, the median of its seeds.
pub(super) fn held_out(
    path: &Path,
    experiment: &Experiment,
    measured: &[Vec<Measured>],
) -> Result<()> {
    let of = |runs: &Vec<Measured>| runs.iter().map(|run| run.tracked.clone()).collect();
    let lines: Vec<_> = measured.iter().map(|runs| smoothed(of(runs))).collect();
    draw(path, "held-out, nats per token", experiment, &lines)
}

/// Draws lines over the steps, one an arm, on a logarithmic scale.
fn draw(path: &Path, unit: &str, experiment: &Experiment, lines: &[Vec<(f64, f64)>]) -> Result<()> {
    let all = || lines.iter().flatten().copied().filter(|(_, y)| *y > 0.0);
    let end = all().map(|(x, _)| x).fold(1.0, f64::max);
    let (low, high) = match all().next() {
        None => (1.0, 1.0),
        Some(_) => (
            all().map(|(_, y)| y).fold(f64::INFINITY, f64::min),
            all().map(|(_, y)| y).fold(f64::MIN_POSITIVE, f64::max),
        ),
    };
    let mut text = String::new();
    {
        let height = CHART + ROW * lines.len() as u32 + 8;
        let root = SVGBackend::with_string(&mut text, (WIDTH, height)).into_drawing_area();
        root.fill(&WHITE).map_err(failed)?;
        // The names stand below, where they cover no line.
        let (upper, names) = root.split_vertically(CHART);
        let mut chart = ChartBuilder::on(&upper)
            .margin(12)
            .set_label_area_size(LabelAreaPosition::Left, 64)
            .set_label_area_size(LabelAreaPosition::Bottom, 44)
            .build_cartesian_2d(
                0.0..end,
                (low / 1.2..high * 1.2).log_scale().with_key_points(marks(low / 1.2, high * 1.2)),
            )
            .map_err(failed)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .x_label_formatter(&|step| format!("{step:.0}"))
            .y_labels(16)
            .y_label_formatter(&|y| y.to_string())
            .x_desc("step")
            .y_desc(unit)
            .label_style(FONT)
            .draw()
            .map_err(failed)?;
        for (row, line) in lines.iter().enumerate() {
            let colour = COLOURS[row % COLOURS.len()];
            let drawn = line.iter().copied().filter(|(_, y)| *y > 0.0);
            chart.draw_series(LineSeries::new(drawn, colour.stroke_width(2))).map_err(failed)?;
            let y = (ROW * row as u32 + ROW / 2) as i32;
            let sample = PathElement::new([(76, y), (100, y)], colour.stroke_width(3));
            names.draw(&sample).map_err(failed)?;
            let name = experiment.arm[row].name.as_str();
            let style = FONT.into_text_style(&names).pos(Pos::new(HPos::Left, VPos::Center));
            names.draw(&Text::new(name, (108, y), style)).map_err(failed)?;
        }
        root.present().map_err(failed)?;
    }
    std::fs::write(path, text)?;
    Ok(())
}

/// The numbers of one digit between two others: all, or those of 1, 2 and 5, or of 1 alone, the farther these are apart.
fn marks(low: f64, high: f64) -> Vec<f64> {
    let digits: &[i32] = match high / low {
        ratio if ratio > 1e3 => &[1],
        ratio if ratio > 12.0 => &[1, 2, 5],
        _ => &[1, 2, 3, 4, 5, 6, 7, 8, 9],
    };
    let mark = |power: i32, digit: i32| format!("{digit}e{power}").parse().expect("a number");
    let all = (-12..12).flat_map(|power| digits.iter().map(move |digit| mark(power, *digit)));
    all.filter(|mark| (low..=high).contains(mark)).collect()
}

/// The median of several seeds' lines, and of ten steps where there are many.
fn smoothed(curves: Vec<Vec<(f64, f64)>>) -> Vec<(f64, f64)> {
    const STEPS: usize = 10;
    let Some(first) = curves.first() else { return Vec::new() };
    let starts = (0..first.len()).step_by(if first.len() > 20 * STEPS { STEPS } else { 1 });
    let width = if first.len() > 20 * STEPS { STEPS } else { 1 };
    let point = |start: usize| {
        let window = start..(start + width).min(first.len());
        let values = curves.iter().filter_map(|curve| curve.get(window.clone())).flatten();
        (first[start].0, median(values.map(|(_, y)| *y).collect()))
    };
    starts.map(point).collect()
}

fn failed<E: std::error::Error + Send + Sync>(error: DrawingAreaErrorKind<E>) -> anyhow::Error {
    anyhow!("drawing: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_no_run_has_make_an_empty_figure() {
        let experiment: Experiment = toml::from_str(
            r#"
            title = "t"
            about = "a"
            published = "p"
            hours = 1.0
            recipe = "r.toml"
            seeds = [1]
            reference = "one"
            scores = ["before", "nelbo"]
            smoke = []
            smoke_arms = []
            [[arm]]
            name = "one"
            [[arm]]
            name = "two"
            "#,
        )
        .unwrap();
        let path = std::env::temp_dir().join(format!("lacuna-figure-{}.svg", std::process::id()));
        let mut measured = vec![vec![Measured::default()], vec![Measured::default()]];
        let read = || std::fs::read_to_string(&path).unwrap();
        scores(&path, &experiment, &measured).unwrap();
        assert!(read().contains("<svg") && !read().contains("<circle"));
        held_out(&path, &experiment, &measured).unwrap();
        assert!(read().contains("held-out"));
        // One arm has it, and in one place.
        measured[1][0].scores.insert("before".into(), 0.25);
        measured[1][0].tracked.push((100.0, 3.5));
        scores(&path, &experiment, &measured).unwrap();
        assert!(read().contains("<circle"));
        held_out(&path, &experiment, &measured).unwrap();
        assert!(read().contains("polyline"));
        std::fs::remove_file(path).unwrap();
    }
}

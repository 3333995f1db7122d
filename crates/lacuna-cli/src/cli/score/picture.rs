//! Draws the order of filling: accuracy by order, calibration, and what thresholds give.

use anyhow::{Result, bail};
use plotters::prelude::*;
use std::path::Path;

use super::super::train::plot::{
    AUTOREGRESSIVE, Axis, DrawResult, Labels, Mark, RATE, Scale, Series, UNWEIGHTED, WEIGHTED,
    curve, drawn, free, panel, put, register_font,
};
use super::orders::{Followed, part};

const SIZE: (u32, u32) = (1120, 1000);

/// Writes the picture as SVG.
pub(super) fn draw(path: &Path, followed: &Followed) -> Result<()> {
    if path.extension().is_none_or(|ending| ending != "svg") {
        bail!("--plot {}: expected a name that ends with .svg", path.display());
    }
    let path = free(path.to_owned())?;
    register_font();
    let mut text = String::new();
    drawn(&path, panels(SVGBackend::with_string(&mut text, SIZE), followed))?;
    put(&path, text.as_bytes())
}

fn marks(label: &str, color: RGBColor, points: Vec<(f64, f64)>) -> Series {
    Series { label: label.into(), color, points, mark: Some(Mark::Circle) }
}

/// Four panels: accuracy and confidence in the order of filling; accuracy by confidence; tokens a pass and accuracy over
/// the thresholds.
fn panels<B: DrawingBackend>(backend: B, followed: &Followed) -> DrawResult<B::ErrorType> {
    let area = backend.into_drawing_area();
    area.fill(&WHITE)?;
    let title = format!("order of filling: {}", followed.rule);
    let area = area.titled(&title, ("sans-serif", 17))?.margin(4, 8, 8, 8);
    let areas = area.split_evenly((4, 1));
    let [order, calibration, tokens, right] = &areas[..] else {
        unreachable!("four panels were asked for")
    };
    let (name, groups) = followed.by_order();
    let each = |value: &dyn Fn(&lacuna::likelihood::Group) -> Option<f64>| -> Vec<(f64, f64)> {
        let known = |(n, (_, group)): (usize, &(String, _))| Some((n as f64 + 1.0, value(group)?));
        groups.iter().enumerate().filter_map(known).collect()
    };
    let label = match name {
        "filled" => "rank in the order of filling",
        _ => "tenth of the block, in the order of filling",
    };
    let axis = Axis {
        range: 0.8..groups.len() as f64 + 0.2,
        label,
        stages: Vec::new(),
        borders: Vec::new(),
    };
    let series = vec![
        marks("right candidates", UNWEIGHTED, each(&|group| group.accuracy())),
        marks("confidence, mean", WEIGHTED, each(&|group| group.mean_confidence())),
    ];
    panel(order, &axis, "part", series, Scale::Linear, Labels::Steps)?;

    let axis =
        Axis { range: 0.0..1.0, label: "confidence", stages: Vec::new(), borders: Vec::new() };
    let known = followed.orders.by_confidence.iter();
    let points = known.filter_map(|group| Some((group.mean_confidence()?, group.accuracy()?)));
    let diagonal = (0..=10).map(|n| (part(n), part(n))).collect();
    let series = vec![
        marks("right candidates", UNWEIGHTED, points.collect()),
        curve("as sure as right", RATE, diagonal),
    ];
    panel(calibration, &axis, "part", series, Scale::Linear, Labels::Steps)?;

    let lowest = followed.thresholds.iter().map(|(tau, _)| *tau).fold(1.0, f64::min);
    let axis = Axis {
        range: (lowest - 0.02).max(0.0)..1.0,
        label: "threshold",
        stages: Vec::new(),
        borders: Vec::new(),
    };
    let points = followed.thresholds.iter().map(|(tau, orders)| (*tau, orders.tokens_per_pass()));
    let series = vec![marks("tokens a pass", AUTOREGRESSIVE, points.collect())];
    panel(tokens, &axis, "tokens a pass", series, Scale::Linear, Labels::Steps)?;
    let points = followed.thresholds.iter();
    let points = points.filter_map(|(tau, orders)| Some((*tau, orders.all.accuracy()?)));
    let series = vec![marks("right candidates", UNWEIGHTED, points.collect())];
    panel(right, &axis, "part", series, Scale::Close, Labels::Steps)?;
    area.present()
}

//! Draws bars as SVG.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use crate::rows::Row;

/// One bar per benchmark: how many times faster than plain tensor operations, on a logarithmic axis.
pub(crate) fn speedups(file: &Path, rows: &[Row]) -> Result<()> {
    let bars: Vec<_> = rows.iter().map(|row| (row.name, row.pair.speedup)).collect();
    draw(file, &bars).map_err(|error| anyhow!("can't draw {}: {error}", file.display()))
}

const BAR_HEIGHT: i32 = 26;
const LABEL_WIDTH: i32 = 290;
const PLOT_WIDTH: i32 = 480;

fn draw(file: &Path, bars: &[(&str, f64)]) -> Result<(), Box<dyn std::error::Error>> {
    let height = BAR_HEIGHT * (bars.len() as i32 + 2);
    let root = SVGBackend::new(file, ((LABEL_WIDTH + PLOT_WIDTH + 80) as u32, height as u32))
        .into_drawing_area();
    root.fill(&WHITE)?;
    let most = bars.iter().fold(2f64, |most, bar| most.max(bar.1));
    let least = bars.iter().fold(1f64, |least, bar| least.min(bar.1));
    let x = |value: f64| {
        let share = (value / least).ln() / (most / least).ln();
        LABEL_WIDTH + (share * f64::from(PLOT_WIDTH)) as i32
    };
    let text = ("sans-serif", 14).into_font().color(&BLACK);
    root.draw(&Text::new(
        "times faster than plain tensor operations",
        (LABEL_WIDTH, 6),
        text.clone(),
    ))?;
    for (index, (name, value)) in bars.iter().enumerate() {
        let top = BAR_HEIGHT * (index as i32 + 1);
        let (left, right) = (x(value.min(1.0)), x(value.max(1.0)));
        let color = if *value < 1.0 { RGBColor(200, 90, 70) } else { RGBColor(60, 120, 180) };
        root.draw(&Rectangle::new(
            [(left, top + 4), (right, top + BAR_HEIGHT - 4)],
            color.filled(),
        ))?;
        root.draw(&Text::new(name.to_string(), (8, top + 6), text.clone()))?;
        root.draw(&Text::new(format!("{value:.1}×"), (right + 6, top + 6), text.clone()))?;
    }
    let one = [(x(1.0), BAR_HEIGHT), (x(1.0), height - BAR_HEIGHT)];
    root.draw(&PathElement::new(one, BLACK))?;
    root.present()?;
    Ok(())
}

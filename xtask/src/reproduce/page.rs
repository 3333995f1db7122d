//! Writes an experiment's page: what was asked, the table, the figures, and what is to be said of them.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;

use super::measures::{Measured, Sample, median};
use super::{Experiment, figure};

/// Writes `README.md` and the figures beside it. `measured` has a list for each arm, with an entry for each seed.
pub(super) fn write(
    folder: &Path,
    name: &str,
    experiment: &Experiment,
    seeds: &[u64],
    measured: &[Vec<Measured>],
) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    let mut page = format!(
        "# {}\n\n{}\n\n```sh\ncargo xtask reproduce {name}\n```\n\n",
        experiment.title,
        experiment.about.trim()
    );
    writeln!(page, "**Published:** {}\n", experiment.published.trim())?;
    writeln!(page, "{}", table(experiment, measured))?;
    let listed: Vec<_> = seeds.iter().map(u64::to_string).collect();
    let noise = "Noise: standard deviation of the loss over the last half of the steps, by its mean. Norm: of the gradient, its \
                 median over the steps and that of the first step.";
    let reference = &experiment.reference;
    match listed.as_slice() {
        [seed] => writeln!(
            page,
            "Seed {seed} alone, so that nothing is known of the scatter. *Against* is the difference to “{reference}”. {noise}\n"
        )?,
        _ => writeln!(
            page,
            "Means over seeds {} and ± the standard deviation of one run. *Against* is the mean of the differences within a \
             seed to “{reference}”, ± their standard deviation. {noise}\n",
            listed.join(", "),
        )?,
    }
    figure::scores(&folder.join("scores.svg"), experiment, measured)?;
    writeln!(page, "![{} of each arm](scores.svg)\n", label(&experiment.scores[0]))?;
    writeln!(
        page,
        "In this figure a point is a run, the tick the mean of an arm, the bar the interval that holds the true mean nineteen times of \
         twenty (Student's t).\n"
    )?;
    if experiment.track {
        figure::held_out(&folder.join("held-out.svg"), experiment, measured)?;
        writeln!(page, "![held-out score over the steps](held-out.svg)\n")?;
    }
    for curve in &experiment.curves {
        figure::curve(&folder.join(format!("{curve}.svg")), curve, experiment, measured)?;
        writeln!(page, "![{curve} over the steps]({curve}.svg)\n")?;
    }
    if let Ok(said) = std::fs::read_to_string(folder.join("discussion.md")) {
        page.push_str(&said);
    }
    std::fs::write(folder.join("README.md"), page.trim_end().to_owned() + "\n")?;
    Ok(())
}

/// The table, a line an arm.
fn table(experiment: &Experiment, measured: &[Vec<Measured>]) -> String {
    let mut head = String::from("| arm |");
    for score in &experiment.scores {
        head.push_str(&format!(" {} | against |", with_unit(experiment, score)));
    }
    head.push_str(" noise | norm, median | norm, first |\n|---|");
    head.push_str(&"---|".repeat(2 * experiment.scores.len() + 3));
    let reference = experiment.arm.iter().position(|arm| arm.name == experiment.reference);
    let reference = &measured[reference.expect("checked when it was read")];
    let lines = experiment.arm.iter().zip(measured).map(|(arm, runs)| {
        let is_reference = arm.name == experiment.reference;
        let mut line = match is_reference {
            true => format!("| **{}** |", arm.name),
            false => format!("| {} |", arm.name),
        };
        for score in &experiment.scores {
            let (digits, _) = form(experiment, score);
            line.push_str(&cells(score, digits, runs, reference, is_reference));
        }
        let of = |number: &dyn Fn(&Measured) -> f64| {
            Sample::of(&runs.iter().map(number).collect::<Vec<_>>()).mean
        };
        let first = |run: &Measured| run.norms().first().copied().unwrap_or(f64::NAN);
        line.push_str(&format!(
            " {:.3} | {:.2} | {:.2} |",
            of(&Measured::loss_noise),
            of(&|run| median(run.norms())),
            of(&first)
        ));
        line
    });
    format!("{head}\n{}\n", lines.collect::<Vec<_>>().join("\n"))
}

/// A score of an arm, and its difference to the reference's. An arm may lack a score that others have.
fn cells(
    score: &str,
    digits: usize,
    runs: &[Measured],
    reference: &[Measured],
    is_reference: bool,
) -> String {
    let values = |runs: &[Measured]| -> Option<Vec<f64>> {
        runs.iter().map(|run| run.scores.get(score).copied()).collect()
    };
    let Some(own) = values(runs) else { return " – | – |".into() };
    let scatter = |sample: &Sample| match own.len() {
        1 => String::new(),
        _ => format!(" ± {:.digits$}", sample.deviation),
    };
    let sample = Sample::of(&own);
    let mut cells = format!(" {:.digits$}{} |", sample.mean, scatter(&sample));
    match values(reference).filter(|_| !is_reference) {
        None => cells.push_str(" – |"),
        Some(reference) => {
            let pairs: Vec<_> = own.iter().zip(&reference).map(|(own, its)| own - its).collect();
            let sample = Sample::of(&pairs);
            cells.push_str(&format!(" {:+.digits$}{} |", sample.mean, scatter(&sample)));
        }
    }
    cells
}

/// The digits of a score behind the point, and its unit as it follows the name.
fn form(experiment: &Experiment, score: &str) -> (usize, &'static str) {
    match score {
        "step of the best" => (0, ""),
        score if experiment.measure.iter().any(|measure| measure.in_percent(score)) => (1, ", %"),
        score if score.ends_with("tokens a pass") || score.ends_with("share right") => (3, ""),
        _ => (3, ", nats/token"),
    }
}

/// A score's name and unit, as people read them.
pub(super) fn with_unit(experiment: &Experiment, score: &str) -> String {
    let (_, unit) = form(experiment, score);
    label(score) + unit
}

/// A score's name as people read it.
pub(super) fn label(score: &str) -> String {
    match score {
        "exact-nelbo" => "exact NELBO".into(),
        "nelbo" => "NELBO".into(),
        "left-to-right" => "left-to-right NLL".into(),
        "autoregressive" => "autoregressive NLL".into(),
        "own" => "held-out score at the end".into(),
        "own, best" => "best held-out score".into(),
        other => other.to_owned(),
    }
}

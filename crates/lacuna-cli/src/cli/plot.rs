//! `lacuna plot` draws runs: one with all that is known of it, or several to compare.

use anyhow::Result;
use std::path::PathBuf;

use super::Usage;
use super::train::plot::{Against, compare, draw_as};
use super::train::report;

/// Draw a run, or compare several: losses, held-out scores, gradient norm, learning rate, speed.
///
/// One run is drawn as training draws it; of several, each has a colour. Nothing is written into the runs' folders, and
/// a run that is under way can be drawn too.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lacuna plot runs/tiny                              tiny.svg, tiny.png
  lacuna plot runs/tiny runs/tiny-2 --against tokens
  lacuna plot runs/a runs/b --out compared           compared.svg, compared.png
  lacuna plot runs/tiny --html tiny.html             a report, in one file")]
pub(crate) struct Args {
    /// Folders of runs, or their metrics.jsonl; 8 at most
    #[arg(value_name = "RUN", required = true)]
    runs: Vec<PathBuf>,
    /// The pictures' name, without its ending; default: that of the run, or `compare`
    #[arg(long, value_name = "NAME")]
    out: Option<PathBuf>,
    /// The axis from left to right
    #[arg(long, value_enum, default_value = "steps")]
    against: Against,
    /// Write one run's report instead: curves, recipe, samples with their denoising, machine
    #[arg(long, value_name = "OUT.html", conflicts_with_all = ["out", "against"])]
    html: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    if let Some(html) = &args.html {
        let [run] = &args.runs[..] else {
            return Err(Usage("--html writes the report of one run".into()).into());
        };
        let page = report::page(run)?;
        lacuna_files::write_file(html, page.as_bytes())?;
        out!("{}", html.display());
        return Ok(());
    }
    let name = match (&args.out, &args.runs[..]) {
        (Some(out), _) => without_ending(out),
        (None, [run]) => {
            let run = std::path::absolute(run)?;
            let name = run.file_name().filter(|name| *name != "metrics.jsonl");
            PathBuf::from(name.unwrap_or("run".as_ref()))
        }
        (None, _) => PathBuf::from("compare"),
    };
    let drawn = match &args.runs[..] {
        [run] if run.is_dir() && args.against == Against::Steps => draw_as(run, &name)?,
        runs => compare(runs, args.against, &name)?,
    };
    for path in drawn {
        out!("{}", path.display());
    }
    Ok(())
}

/// `a` of `a`, `a.png` and `a.svg`: both are written.
fn without_ending(out: &std::path::Path) -> PathBuf {
    let is_picture = out.extension().is_some_and(|end| end == "png" || end == "svg");
    if is_picture { out.with_extension("") } else { out.to_owned() }
}

//! `lacuna average` writes the mean of some checkpoints' weights as a model.

use anyhow::Result;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use super::Usage;
use super::console::tell_renamed;
use super::convert::folder_of;
use super::ranges;
use super::signals::leave_nothing_in;

/// Write the mean of a run's last checkpoints, or of any checkpoints of one model.
///
/// The mean often scores better than the last checkpoint alone, above all where the learning rate has not fallen to 0.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lacuna average runs/tiny --last 3 --out averaged
  lacuna average M N --out averaged      any checkpoints of one model")]
pub(crate) struct Args {
    /// A run's folder, or two or more checkpoints; the last one's configuration and tokenizer go along
    #[arg(value_name = "FROM", required = true)]
    from: Vec<PathBuf>,
    /// The number of the run's newest checkpoints that are taken
    #[arg(long, value_name = "N", default_value = "3", allow_hyphen_values = true, value_parser = ranges::size)]
    last: NonZeroUsize,
    /// The folder to write
    #[arg(long, value_name = "OUT")]
    out: PathBuf,
    /// Replace the checkpoint at OUT
    #[arg(long)]
    force: bool,
    /// No report
    #[arg(long, short)]
    quiet: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let checkpoints = match args.from.as_slice() {
        [run] => of_run(run, args.last.get())?,
        several => several.to_vec(),
    };
    leave_nothing_in(folder_of(&args.out), false);
    let renamed = lacuna::average(&checkpoints, &args.out, args.force)?;
    tell_renamed(&renamed);
    if !args.quiet {
        let names = checkpoints.iter().map(|path| path.display().to_string());
        let names = names.collect::<Vec<_>>().join(", ");
        out!("{}: the mean of {} checkpoints: {names}", args.out.display(), checkpoints.len());
    }
    Ok(())
}

/// The run's newest checkpoints, the newest last.
fn of_run(run: &std::path::Path, last: usize) -> Result<Vec<PathBuf>> {
    let all = lacuna::train::checkpoints(run)?;
    if all.len() < last {
        let reason = format!(
            "{} has {} checkpoints, --last asks for {last}; take fewer, or have the next run keep more \
             (keep_checkpoints)",
            run.display(),
            all.len()
        );
        return Err(Usage(reason).into());
    }
    let newest = all.into_iter().take(last).map(|(_, path)| path);
    let mut newest: Vec<_> = newest.collect();
    newest.reverse();
    Ok(newest)
}

//! `lacuna man` writes a manual page for every command.

use anyhow::{Context, Result};
use clap::CommandFactory;
use std::path::PathBuf;

/// Write man pages: one for the program and one for each command.
///
/// They say what `lacuna help` says.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lacuna man ~/.local/share/man/man1     then: man lacuna-generate
  lacuna man . && man ./lacuna-chat.1")]
pub(crate) struct Args {
    /// The folder for them, made if it is not there
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let place = || args.folder.display().to_string();
    lacuna_files::create_folder(&args.folder).with_context(place)?;
    let command = super::Cli::command().disable_help_subcommand(true);
    let pages = command.get_subcommands().count() + 1;
    clap_mangen::generate_to(command, &args.folder).with_context(place)?;
    out!("{pages} pages in {}", args.folder.display());
    Ok(())
}

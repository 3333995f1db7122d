//! `lacuna tokenizer` trains a tokenizer on a corpus.

use super::corpus_args::{CorpusArgs, reading_bar, show_reading, skipped_lines};
use anyhow::{Result, bail};
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use lacuna::data::Corpus;
use lacuna::text::{SPECIAL_TOKENS, Tokenizer};
use std::path::PathBuf;
use std::time::Duration;

use super::ranges;

/// Train a byte-level BPE tokenizer on source code.
///
/// Only the training part of the text is read (see --held-out), so held-out scores stay honest. The same
/// text gives the same file, byte for byte.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  lacuna tokenizer --vocab-size 4096 --extension py --out tokenizer.json src/")]
pub(crate) struct Args {
    /// Tokens, special ones included
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = ranges::at_least_one)]
    vocab_size: usize,
    /// The tokenizer.json to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Print nothing but errors
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    corpus: CorpusArgs,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let options = args.corpus.options();
    let bar = reading_bar(args.quiet);
    let corpus = Corpus::read_with(&args.corpus.inputs, &options, &mut |reading| {
        show_reading(&bar, reading, "");
    })?;
    bar.finish_and_clear();
    let (documents, bytes) = (corpus.documents.len(), corpus.text_bytes());
    let skipped = corpus.skipped.clone();
    let (train, held_out) = corpus.split(args.corpus.held_out);
    if train.is_empty() {
        bail!(
            "all {documents} documents are held out, by the hash of their paths; --held-out 0 takes them"
        );
    }
    let bar = if args.quiet { ProgressBar::hidden() } else { ProgressBar::new_spinner() };
    let template = "{spinner} learning from {msg}, {elapsed}";
    bar.set_style(ProgressStyle::with_template(template).expect("a fixed template"));
    bar.set_message(HumanBytes(bytes).to_string());
    bar.enable_steady_tick(Duration::from_millis(250));
    let texts = train.iter().map(|d| d.text.as_str());
    let tokenizer = Tokenizer::train_bpe(texts, args.vocab_size, &SPECIAL_TOKENS)?;
    bar.finish_and_clear();
    tokenizer.save(&args.out)?;
    if !args.quiet {
        note!(
            "{} tokens from {} documents ({} held out) in {}{}",
            tokenizer.vocab_size(),
            train.len(),
            held_out.len(),
            args.out.display(),
            skipped_lines(&skipped)
        );
    }
    Ok(())
}

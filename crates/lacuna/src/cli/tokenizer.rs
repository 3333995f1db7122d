use anyhow::Result;
use lacuna::data::{Corpus, CorpusOptions, SPECIAL_TOKENS, Tokenizer};
use std::path::PathBuf;

use super::progress::{Progress, count};
use super::ranges;

/// Train a byte-level BPE tokenizer on source code.
///
/// Only the training part of the text is read (see --held-out), so held-out scores stay honest. The same
/// text gives the same file, byte for byte.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  lacuna tokenizer --vocab-size 4096 --extension py --extension rs --out tokenizer.json fixtures/corpus")]
pub(crate) struct Args {
    /// Tokens, special ones included
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = ranges::at_least_one)]
    vocab_size: usize,
    /// The tokenizer.json to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Part of the files left out, as recipes do
    #[arg(long, value_name = "PART", default_value_t = 0.08, allow_hyphen_values = true, value_parser = ranges::part)]
    held_out: f64,
    /// Only files with these endings; may be repeated
    #[arg(long, value_name = "EXT")]
    extension: Vec<String>,
    /// Source trees, text files, .jsonl[.gz|.zst], .tar.gz
    #[arg(required = true, value_name = "INPUT")]
    inputs: Vec<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let options = CorpusOptions { extensions: args.extension.clone(), ..CorpusOptions::default() };
    let reading = Progress::spinning("reading the text");
    let corpus = Corpus::read(&args.inputs, &options)?;
    drop(reading);
    let skipped = corpus.skipped;
    let (train, held_out) = corpus.split(args.held_out);
    let texts = train.iter().map(|d| d.text.as_str());
    let training = Progress::spinning(format!("training on {} documents", count(train.len())));
    let tokenizer = Tokenizer::train_bpe(texts, args.vocab_size, &SPECIAL_TOKENS)?;
    drop(training);
    tokenizer.save(&args.out)?;
    note!(
        "{} tokens from {} documents ({} held out; {skipped}) in {}",
        tokenizer.vocab_size(),
        train.len(),
        held_out.len(),
        args.out.display()
    );
    Ok(())
}

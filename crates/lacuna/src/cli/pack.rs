use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use lacuna::data::corpus::{for_each_document, is_held_out};
use lacuna::data::{
    CorpusOptions, Remainder, SPECIAL_TOKENS, ShardOptions, ShardWriter, Tokenizer,
};
use std::num::NonZeroUsize;
use std::path::PathBuf;

use super::ranges;

/// Turn text into memory-mapped shards of packed windows.
///
/// OUT gets two folders, train and held-out, each with a manifest. Documents are joined with the end-of-text
/// token; which files are held out is decided by the hash of their paths. A recipe reads the result with
/// data.shards = "OUT".
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  lacuna pack --tokenizer tokenizer.json --window 1024 --out shards src/ more.jsonl.zst")]
pub(crate) struct Args {
    /// A tokenizer.json
    #[arg(long, value_name = "FILE")]
    tokenizer: PathBuf,
    /// The folder to write
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Tokens in a window
    #[arg(long, value_name = "L", default_value = "1024", allow_hyphen_values = true, value_parser = ranges::size)]
    window: NonZeroUsize,
    /// Part of the files kept out of training
    #[arg(long, value_name = "PART", default_value_t = 0.08, allow_hyphen_values = true, value_parser = ranges::part)]
    held_out: f64,
    /// Token that ends a document; default: <[end▁of▁sentence]>, <|endoftext|>, <|im_end|> or </s>
    #[arg(long, value_name = "TOKEN")]
    eos: Option<String>,
    /// Only files with these endings; may be repeated
    #[arg(long, value_name = "EXT")]
    extension: Vec<String>,
    /// Print nothing but errors
    #[arg(long, short)]
    quiet: bool,
    /// Source trees, text files, .jsonl[.gz|.zst], .tar.gz
    #[arg(required = true, value_name = "INPUT")]
    inputs: Vec<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let tokenizer = Tokenizer::from_file(&args.tokenizer)?;
    let eos = end_of_text(args, &tokenizer)?;
    let pad = tokenizer.token_to_id(SPECIAL_TOKENS[1]).unwrap_or(eos);
    let writer = |part: &str, remainder| {
        let options = ShardOptions {
            window_len: args.window,
            remainder,
            vocab_size: tokenizer.vocab_size(),
            tokenizer: tokenizer.fingerprint(),
            shard_tokens: 1 << 25,
        };
        ShardWriter::create(args.out.join(part), options)
    };
    let mut train = writer("train", Remainder::Drop)?;
    let mut held_out = writer("held-out", Remainder::Pad(pad))?;
    let bar = if args.quiet { ProgressBar::hidden() } else { ProgressBar::new_spinner() };
    bar.set_style(ProgressStyle::with_template("{spinner} {pos} documents, {msg}").expect("fixed"));
    let options = CorpusOptions { extensions: args.extension.clone(), ..CorpusOptions::default() };
    let (mut tokens_total, mut bytes, mut kept_out) = (0usize, 0usize, 0usize);
    let skipped = for_each_document(&args.inputs, &options, |document| {
        let tokens = tokenizer.encode_ordinary(&document.text)?;
        tokens_total += tokens.len() + 1;
        bytes += document.text.len();
        bar.inc(1);
        bar.set_message(format!("{:.1} M tokens", tokens_total as f64 / 1e6));
        let out = is_held_out(&document.path, args.held_out);
        kept_out += usize::from(out);
        let part = if out { &mut held_out } else { &mut train };
        part.push(&tokens, eos, document.text.len())
    })?;
    let documents = bar.position();
    bar.finish_and_clear();
    let train = train.finish().context("writing the training part")?;
    if kept_out > 0 {
        held_out.finish().context("writing the held-out part")?;
    }
    if !args.quiet {
        out!(
            "{documents} documents ({kept_out} held out), {tokens_total} tokens, {bytes} bytes \
             ({:.2} bytes a token); {} training windows of {} in {}\n{skipped}",
            bytes as f64 / tokens_total.max(1) as f64,
            train.windows,
            args.window,
            args.out.display()
        );
    }
    Ok(())
}

fn end_of_text(args: &Args, tokenizer: &Tokenizer) -> Result<u32> {
    if let Some(name) = &args.eos {
        let id = tokenizer.token_to_id(name);
        return id.with_context(|| format!("--eos {name}: the tokenizer has no such token"));
    }
    let known = [SPECIAL_TOKENS[2], "<|endoftext|>", "<|im_end|>", "</s>"];
    let id = known.iter().find_map(|name| tokenizer.token_to_id(name));
    id.context(
        "the tokenizer has no end-of-text token that is known here; name it with --eos TOKEN",
    )
}

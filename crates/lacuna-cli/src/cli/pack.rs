//! `lacuna pack` turns a corpus into shards of windows.

use super::corpus_args::{CorpusArgs, reading_bar, show_reading, skipped_lines};
use anyhow::{Context, Result, bail};
use lacuna::data::corpus::{for_each_document, is_held_out};
use lacuna::data::{Remainder, ShardFolders, ShardOptions, ShardWriter};
use lacuna::text::{SPECIAL_TOKENS, Tokenizer};
use std::cell::Cell;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use super::console::tell_renamed;
use super::ranges;

/// Turn text into memory-mapped shards of packed windows.
///
/// OUT gets two folders, train and held-out, each with a manifest. Documents are joined with the end-of-text
/// token; which files are held out is decided by the hash of their paths. A recipe reads the result with
/// data.shards = "OUT".
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  lacuna pack --tokenizer tok.json --window 1024 --out shards src/ more.jsonl")]
pub(crate) struct Args {
    /// A tokenizer.json, a model's folder or a GGUF file
    #[arg(long, value_name = "FILE")]
    tokenizer: PathBuf,
    /// The folder to write
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Tokens in a window
    #[arg(long, value_name = "L", default_value = "1024", allow_hyphen_values = true, value_parser = ranges::size)]
    window: NonZeroUsize,
    /// Token that ends a document; default: <[end▁of▁sentence]>, <|endoftext|>, <|im_end|> or </s>
    #[arg(long, value_name = "TOKEN")]
    eos: Option<String>,
    /// Print nothing but errors
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    corpus: CorpusArgs,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let existed = args.out.exists();
    let done = pack(args);
    if done.is_err() && !existed {
        // A folder that is not empty stays: it is not ours.
        let _ = lacuna_files::remove_empty_folder(&args.out);
    }
    done
}

fn pack(args: &Args) -> Result<()> {
    let options = args.corpus.options();
    // Refuses what no recipe can say, so that what is written here is read there.
    if !(2..=1 << 24).contains(&args.window.get()) {
        bail!(super::Usage(format!("--window is {}, expected 2 to {}", args.window, 1 << 24)));
    }
    let tokenizer = lacuna::train::open_tokenizer(&args.tokenizer)?;
    let eos = eos_of(args, &tokenizer)?;
    let pad = tokenizer.token_to_id(SPECIAL_TOKENS[1]).unwrap_or(eos);
    if args.out.join("train").exists() {
        bail!("{} already holds shards; remove it or name another folder", args.out.display());
    }
    let folders = ShardFolders::begin(&args.out)?;
    let writer = |folder: &Path, remainder| {
        let options = ShardOptions {
            window_len: args.window,
            remainder,
            vocab_size: tokenizer.vocab_size(),
            tokenizer: tokenizer.fingerprint(),
            shard_tokens: 1 << 25,
        };
        ShardWriter::create(folder, options)
    };
    let mut train = writer(folders.train(), Remainder::Drop)?;
    let mut held_out = writer(folders.held_out(), Remainder::Pad(pad))?;
    let bar = reading_bar(args.quiet);
    let (mut tokens_total, mut bytes, mut documents, mut kept_out) =
        (0usize, 0usize, 0usize, 0usize);
    let told = Cell::new(0);
    let mut show = |reading| {
        show_reading(&bar, reading, &format!(", {:.1} M tokens", told.get() as f64 / 1e6));
    };
    let skipped = for_each_document(&args.corpus.inputs, &options, &mut show, |document| {
        let tokens = tokenizer.encode_ordinary(&document.text)?;
        tokens_total += tokens.len() + 1;
        told.set(tokens_total);
        bytes += document.text.len();
        documents += 1;
        let out = is_held_out(&document.path, args.corpus.held_out);
        kept_out += usize::from(out);
        let part = if out { &mut held_out } else { &mut train };
        part.push(&tokens, eos, document.text.len())
    })?;
    bar.finish_and_clear();
    if kept_out == documents {
        bail!(
            "all {documents} documents are held out, by the hash of their paths; --held-out 0 takes them"
        );
    }
    let train = train.finish().context("the training part")?;
    let held_out = if kept_out > 0 { Some(held_out.finish()?) } else { None };
    tell_renamed(&folders.publish(held_out.is_some())?);
    if !args.quiet {
        out!(
            "{documents} documents ({kept_out} held out), {tokens_total} tokens, {bytes} bytes \
             ({:.2} bytes a token); {} training windows of {} in {}{}",
            bytes as f64 / tokens_total.max(1) as f64,
            train.windows,
            args.window,
            args.out.display(),
            skipped_lines(&skipped)
        );
    }
    Ok(())
}

fn eos_of(args: &Args, tokenizer: &Tokenizer) -> Result<u32> {
    if let Some(name) = &args.eos {
        let id = tokenizer.token_to_id(name);
        return id.with_context(|| format!("--eos {name}: the tokenizer has no such token"));
    }
    lacuna::data::packing::end_of_text(tokenizer).context(
        "the tokenizer has no end-of-text token that is known here; name it with --eos TOKEN",
    )
}

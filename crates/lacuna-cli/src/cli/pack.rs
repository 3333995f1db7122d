//! `lacuna pack` turns a corpus, or conversations, into shards of windows.

use super::console::tell_renamed;
use super::corpus_args::{CorpusArgs, reading_bar, show_reading, skipped_lines};
use super::ranges;
use super::signals::leave_nothing_in;
use anyhow::{Context, Result, bail};
use lacuna::data::{
    ChatOptions, ChatPacking, HoleOrder, Holes, PackOptions, PackReport, Packing, pack_chat_shards,
    pack_corpus,
};
use lacuna::text::{SPECIAL_TOKENS, Tokenizer};
use std::num::NonZeroUsize;
use std::path::PathBuf;

/// Turn text into memory-mapped shards of packed windows.
///
/// OUT gets two folders, train and held-out, each with a manifest; they get their names when both are whole. Documents
/// are joined with the token that ends a document. Equal texts are taken once, and everything that is passed over is
/// counted by its reason. All cores tokenize, and the bytes are the same for any --threads. A recipe reads the result
/// with data.shards = "OUT".
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lacuna pack --tokenizer tok.json --window 1024 --out shards src/ more.jsonl
  lacuna pack --tokenizer M --out shards --languages python,rust ~/code
  lacuna pack --tokenizer M --out shards --skip-generated --skip-minified ~/code
  lacuna pack --tokenizer M --out shards --text-field content data/*.parquet
  lacuna pack --tokenizer M --out shards --fim-rate 0.5 src/
  lacuna pack --tokenizer M --out talk --conversations talk.jsonl")]
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
    /// Token that ends a document; default: the one that the model read in pretraining, as `lacuna train` finds it.
    /// With --conversations, the token that ends a sample; default: the model's end of text
    #[arg(long, visible_alias = "eos", value_name = "TOKEN")]
    document_end: Option<String>,
    /// Part of the training documents that is rewritten for filling in the middle, with the tokenizer's marks; default:
    /// none
    #[arg(long, value_name = "PART", conflicts_with = "conversations", allow_hyphen_values = true, value_parser = ranges::probability)]
    fim_rate: Option<f64>,
    /// Order of the parts: as the tokenizer's family is asked, prefix-suffix-middle, suffix-prefix-middle, or both
    #[arg(long, value_name = "ORDER", default_value = "model", conflicts_with = "conversations", value_parser = ["model", "psm", "spm", "both"])]
    fim_order: String,
    /// Cut rewritten documents into pieces of at most so many tokens where lines end, each with a hole, so that a window
    /// holds a hole and what stands around it; default: one hole in a document
    #[arg(long, value_name = "TOKENS", requires = "fim_rate", conflicts_with = "conversations", allow_hyphen_values = true, value_parser = ranges::size)]
    fim_context: Option<NonZeroUsize>,
    /// Decides which documents are rewritten and where, and how many end tokens follow a conversation
    #[arg(long, value_name = "N", default_value = "0", allow_hyphen_values = true, value_parser = ranges::seed)]
    seed: u64,
    /// Tokens in a shard; more make fewer files, not more memory
    #[arg(long, value_name = "N", default_value = "33554432", allow_hyphen_values = true, value_parser = ranges::at_least_one)]
    shard_tokens: usize,
    /// The inputs are files of conversations (messages, prompt and completion, …); what the assistant says is learnt
    #[arg(long)]
    conversations: bool,
    /// With --conversations: the format they are written in: model, seed-coder, or a .jinja file; default: the
    /// model's, else Seed-Coder's
    #[arg(long, value_name = "FORMAT", requires = "conversations")]
    template: Option<String>,
    /// With --conversations: split-long (those longer than a window fill several), whole (they are passed over), or
    /// run-on (one behind the other, cut where a window ends)
    #[arg(long, value_name = "HOW", default_value = "split-long", requires = "conversations", value_parser = ["whole", "split-long", "run-on"])]
    packing: String,
    /// With --conversations: the fewest and the most end tokens behind a sample
    #[arg(long, value_name = "MIN,MAX", default_value = "1,4", requires = "conversations", value_parser = closing)]
    closing_eos: (u32, u32),
    /// Print nothing but errors
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    corpus: CorpusArgs,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let existed = args.out.exists();
    leave_nothing_in(&args.out, !existed);
    let done = pack(args);
    if done.is_err() && !existed {
        // A folder that is not empty stays: it is not ours.
        let _ = lacuna_files::remove_empty_folder(&args.out);
    }
    done
}

fn pack(args: &Args) -> Result<()> {
    // Refuses what no recipe can say, so that what is written here is read there.
    if !(2..=1 << 24).contains(&args.window.get()) {
        bail!(super::Usage(format!("--window is {}, expected 2 to {}", args.window, 1 << 24)));
    }
    check_flags(args)?;
    let tokenizer = lacuna::train::open_tokenizer(&args.tokenizer)?;
    if args.out.join("train").exists() {
        bail!("{} already holds shards; remove it or name another folder", args.out.display());
    }
    let bar = reading_bar(args.quiet);
    let mut show = |Packing { reading, tokens }| {
        show_reading(&bar, reading, &format!(", {:.1} M tokens", tokens as f64 / 1e6));
    };
    let report = match args.conversations {
        true => conversations(args, &tokenizer, &mut show),
        false => documents(args, &tokenizer, &mut show),
    };
    bar.finish_and_clear();
    let report = report?;
    tell_renamed(&report.renamed);
    if !args.quiet {
        out!("{}", told(args, &report));
    }
    Ok(())
}

/// Refuses flags that would change nothing: those of documents with conversations, and the other way round. The parser
/// asks nobody for --conversations where a flag that conflicts with it is given too.
fn check_flags(args: &Args) -> Result<()> {
    let given = args.corpus.given();
    let reason = match (args.conversations, given.first(), &args.template) {
        (true, Some(flag), _) => {
            format!("{flag} chooses documents, and --conversations reads none; leave it out")
        }
        (false, _, Some(_)) => "--template is for --conversations; give both".to_owned(),
        _ => return Ok(()),
    };
    Err(super::Usage(reason).into())
}

fn documents(
    args: &Args,
    tokenizer: &Tokenizer,
    show: &mut dyn FnMut(Packing),
) -> Result<PackReport> {
    let document_end = match named_end(args, tokenizer)? {
        Some(id) => id,
        None => {
            let ends = lacuna::train::ends_of_text(&args.tokenizer);
            lacuna::data::packing::document_end(tokenizer, &ends).context(
                "the tokenizer has no token that is known to end documents; name it with --document-end TOKEN",
            )?
        }
    };
    let order = match args.fim_order.as_str() {
        "psm" => HoleOrder::PrefixSuffix,
        "spm" => HoleOrder::SuffixPrefix,
        "both" => HoleOrder::Both,
        _ => HoleOrder::Model,
    };
    let holes = match args.fim_rate {
        None | Some(0.0) => None,
        Some(rate) => {
            let holes = Holes::new(tokenizer, rate, order, args.seed)?;
            Some(holes.in_pieces(args.fim_context))
        }
    };
    let options = PackOptions {
        pad: pad(tokenizer, document_end),
        held_out: args.corpus.held_out,
        holes,
        shard_tokens: args.shard_tokens,
        threads: threads(),
        ..PackOptions::new(tokenizer, document_end, args.window)
    };
    Ok(pack_corpus(&args.corpus.inputs, &args.corpus.options(), &options, &args.out, show)?)
}

fn conversations(
    args: &Args,
    tokenizer: &Tokenizer,
    show: &mut dyn FnMut(Packing),
) -> Result<PackReport> {
    let eos = match named_end(args, tokenizer)? {
        Some(id) => id,
        None => {
            let ends = lacuna::train::ends_of_text(&args.tokenizer);
            let known = || lacuna::data::packing::end_of_text(tokenizer);
            ends.first().copied().or_else(known).context(
                "the tokenizer has no end-of-text token that is known here; name it with --document-end TOKEN",
            )?
        }
    };
    let template = lacuna::train::open_template(&args.tokenizer, args.template.as_deref())?;
    let options = ChatOptions {
        closing_eos: args.closing_eos,
        pad: pad(tokenizer, eos),
        packing: match args.packing.as_str() {
            "whole" => ChatPacking::Whole,
            "run-on" => ChatPacking::RunOn,
            _ => ChatPacking::SplitLong,
        },
        held_out: args.corpus.held_out,
        seed: args.seed,
        ..ChatOptions::new(&template, tokenizer, eos, args.window)
    };
    Ok(pack_chat_shards(&args.corpus.inputs, &options, &args.out, args.shard_tokens, show)?)
}

fn named_end(args: &Args, tokenizer: &Tokenizer) -> Result<Option<u32>> {
    let Some(name) = &args.document_end else { return Ok(None) };
    let id = tokenizer.token_to_id(name);
    let id =
        id.with_context(|| format!("--document-end {name}: the tokenizer has no such token"))?;
    Ok(Some(id))
}

fn pad(tokenizer: &Tokenizer, otherwise: u32) -> u32 {
    tokenizer.token_to_id(SPECIAL_TOKENS[1]).unwrap_or(otherwise)
}

/// The threads of the pool that everything else computes in, so that `--threads` holds here too.
fn threads() -> NonZeroUsize {
    NonZeroUsize::new(rayon::current_num_threads()).unwrap_or(NonZeroUsize::MIN)
}

fn told(args: &Args, report: &PackReport) -> String {
    let PackReport { documents, held_out_documents, rewritten_documents, tokens, .. } = report;
    let what = if args.conversations { "conversations" } else { "documents" };
    // Those that were read: of some of them the text was there already.
    let again = report.skipped.count(lacuna::data::corpus::Reason::Duplicate);
    let documents = documents + again;
    let equal = match again {
        0 => String::new(),
        n => format!(", {n} the same as one before and left out"),
    };
    let rewritten = match rewritten_documents {
        0 => String::new(),
        n => format!(", {n} rewritten for filling in the middle"),
    };
    let per_token = report.text_bytes as f64 / (*tokens).max(1) as f64;
    format!(
        "{documents} {what} ({held_out_documents} held out{rewritten}){equal}, {tokens} tokens, {} bytes ({per_token:.2} \
         bytes a token); {} training windows of {} in {}{}",
        report.text_bytes,
        report.train.windows,
        args.window,
        args.out.display(),
        skipped_lines(&report.skipped)
    )
}

/// `1,4`: from 1 to 64, the smaller first.
fn closing(text: &str) -> Result<(u32, u32), String> {
    let parts = text.split_once(',').map(|(least, most)| (least.trim(), most.trim()));
    let parts = parts.and_then(|(least, most)| Some((least.parse().ok()?, most.parse().ok()?)));
    parts
        .filter(|(least, most)| 1 <= *least && least <= most && *most <= 64)
        .ok_or_else(|| "expected two numbers from 1 to 64, the smaller first: 1,4".to_owned())
}

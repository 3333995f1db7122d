//! `lacuna score` measures texts under a model, in nats per token.

use anyhow::Result;
use lacuna::checkpoint::Workload;
use lacuna::samplers::FillRule;
use lacuna::{Attention, CachePrecision, Model};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::exit;

use super::Usage;
use super::corpus_args::CorpusFilters;
use super::decode_args::{fill_rule, in_vocabulary};
use super::edit::region::{self, Lines};
use super::model_args::ModelArgs;
use super::progress::{count, is_quiet};
use super::ranges::{self, Ids};
use super::user_file::shown;
use input::{Body, Source, cut_to_fit, sources};
use lined::Lined;
use many::{announce, hear_interrupts, nothing, score};
use plan::{Named, Plan, attention};
use serde_json::Value;
use tokens::{Encoder, Infill, Prepared, Tokens, TooShort};
use told::{Scores, told};

mod input;
mod lined;
mod many;
mod orders;
mod picture;
mod plan;
mod tokens;
mod told;
mod usage;

/// Noisy versions of a text in one pass.
const BATCH: usize = 4;
/// From here on the number of passes is said before they are made.
const MANY_PASSES: u64 = 1000;
const DEFAULT_SAMPLES: usize = 64;
/// Scored tokens of one block of all the text up to which its patterns are enumerated unasked: 255 passes.
const ENUMERATED_MAX: usize = 8;

/// Likelihood of texts: nats and bits per token and byte.
///
/// The first token of a text is context and not scored; all others are. exact: the NELBO of block diffusion by
/// enumeration, 2^B − 1 passes. left-to-right: blocks filled from the left, B passes; compares with ar. Several methods
/// stand side by side in a table, of the same tokens.
///
/// A folder is read as `lacuna pack` reads it, each file a text. A text that is longer than the model's positions is
/// scored in windows that overlap, each token once. Of a prompt with a response the response alone is scored, of a middle
/// between prefix and suffix the middle.
///
/// --any-order follows a fill rule over the texts: in which order it fills the tokens of a block, how sure the model is of
/// each, and how often it is right.
///
/// A model that was trained under full attention sees the whole text as one block. One that was trained under causal
/// attention is scored token by token behind clean text by exact and left-to-right, which are the same there, and on
/// noisy text, as it was trained, by monte-carlo.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Texts")]
#[command(after_help = "\
Examples:
  lacuna score --model M --text file.py
  lacuna score -m M --text src/ --languages python --method all
  lacuna score -m M --text long.txt --window 1024 --stride 256
  lacuna score -m M --text file.py --lines 12:15         a middle
  lacuna score -m M --jsonl texts.jsonl --out scores.jsonl
  lacuna score -m M --text src/ --any-order --plot order.svg
  lacuna score -m M --ids 1,2,3 --method left-to-right --block-size 4 --json

Lines of --jsonl, with an \"id\" or numbered:
  {\"text\": \"…\"}
  {\"ids\": [5, 6, 7]}
  {\"prompt\": \"…\", \"response\": \"…\"}
  {\"prefix\": \"…\", \"middle\": \"…\", \"suffix\": \"…\"}")]
pub(crate) struct Args {
    /// A text to score, or a folder of them; may be repeated; `-` reads stdin
    #[arg(long, value_name = "PATH")]
    text: Vec<PathBuf>,
    /// Token ids to score: 1,2,3
    #[arg(long, value_name = "LIST", allow_hyphen_values = true)]
    ids: Option<Ids>,
    /// Score every line of a file, and write a JSON line for each; `-` reads stdin
    #[arg(long, value_name = "FILE")]
    jsonl: Option<PathBuf>,
    /// Write a JSON line for each text, in their order. A file that has some of them already is gone on with: run the
    /// same command again
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Texts by themselves (apart), or one behind the other with the token that ends a document between them (joined)
    #[arg(long, value_name = "HOW", default_value = "apart", value_parser = ["apart", "joined"])]
    documents: String,
    /// Tokens that are read at once; default: the model's positions
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = ranges::size)]
    window: Option<NonZeroUsize>,
    /// Tokens of a long text that each window after the first scores, behind the other N of the window as context;
    /// default: half of a window. In blocks both are whole ones
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = ranges::size)]
    stride: Option<NonZeroUsize>,
    /// Score these lines of the --text alone, from 1 and both included, as a middle between what stands around them
    #[arg(long, value_name = "A:B", allow_hyphen_values = true, value_parser = region::lines)]
    lines: Option<Lines>,
    /// The text before a middle; `-` reads stdin
    #[arg(long, value_name = "FILE")]
    prefix: Option<PathBuf>,
    /// The middle that is scored; `-` reads stdin
    #[arg(long, value_name = "FILE")]
    middle: Option<PathBuf>,
    /// The text after a middle; `-` reads stdin
    #[arg(long, value_name = "FILE")]
    suffix: Option<PathBuf>,
    /// Place of a middle: fim, behind prefix and suffix with the marks of the model's family, or in-place, between them;
    /// default: in-place under full attention, else fim
    #[arg(long, value_name = "FORM", value_parser = clap::value_parser!(Infill))]
    infill: Option<Infill>,
    #[command(flatten, next_help_heading = "Files of folders")]
    filters: CorpusFilters,
    #[command(flatten, next_help_heading = "Method")]
    how: How,
    #[command(flatten, next_help_heading = "Order of filling")]
    order: OrderArgs,
    /// Print one JSON object
    #[arg(long, help_heading = "Output")]
    json: bool,
    /// No progress
    #[arg(long, short, help_heading = "Output")]
    quiet: bool,
    #[command(flatten)]
    model: ModelArgs,
}

/// Flags that say how texts are scored.
#[derive(Debug, clap::Args)]
struct How {
    /// Methods, one or several: ar,exact,left-to-right,monte-carlo, or all that the checkpoint can have; default: exact for
    /// block-diffusion checkpoints (monte-carlo under full attention where more than 8 tokens are scored), ar for
    /// autoregressive ones
    #[arg(
        long,
        value_name = "NAME,…",
        value_enum,
        value_delimiter = ',',
        hide_possible_values = true
    )]
    method: Vec<Named>,
    /// Tokens in a block; default: the checkpoint's, else 4
    #[arg(long, value_name = "B", allow_hyphen_values = true, value_parser = ranges::size)]
    block_size: Option<NonZeroUsize>,
    /// Tokens that a masked one sees: block-causal, full or causal; default: as the checkpoint was trained, and
    /// block-causal with --block-size where that is full
    #[arg(long, value_name = "A")]
    attention: Option<Attention>,
    /// MASK id; default: the checkpoint's
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = ranges::token_id)]
    mask_id: Option<u32>,
    /// Passes of monte-carlo
    #[arg(long, value_name = "N", default_value_t = DEFAULT_SAMPLES, allow_hyphen_values = true, value_parser = ranges::at_least_one)]
    samples: usize,
    /// Names the random stream of monte-carlo, and of --fill random
    #[arg(long, value_name = "N", default_value_t = 0, allow_hyphen_values = true, value_parser = ranges::seed)]
    seed: u64,
    /// Score an autoregressive checkpoint as block diffusion, or the reverse
    #[arg(long)]
    allow_mode_mismatch: bool,
}

/// Flags of the order of filling.
#[derive(Debug, clap::Args)]
struct OrderArgs {
    /// Follow a fill rule over the texts: what is filled when, and whether it is right
    #[arg(long)]
    any_order: bool,
    /// With --any-order: the rule, as `lacuna generate --fill` has it [default: low-confidence]
    #[arg(long, value_name = "RULE", value_parser = fill_rule)]
    fill: Option<FillRule>,
    /// With --any-order: thresholds that are compared beside it; none with an empty list
    /// [default: 0.5,0.6,0.7,0.8,0.9,0.95,0.99]
    #[arg(long, value_name = "LIST", allow_hyphen_values = true)]
    thresholds: Option<Thresholds>,
    /// With --any-order: draw it
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
}

/// Thresholds as the command line has them: `0.5,0.9`.
#[derive(Clone, Debug)]
struct Thresholds(Vec<f64>);

impl std::str::FromStr for Thresholds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        parts.map(ranges::probability).collect::<Result<_, _>>().map(Self)
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    usage::check(args).map_err(Usage)?;
    let mut sources = sources(args)?;
    let longest = sources.iter().map(|source| source.body.tokens_about()).max().unwrap_or(0);
    let window = args.window.map_or(usize::MAX, NonZeroUsize::get);
    let work = work(longest.min(window).min(args.model.positions()?));
    let model = args.model.open_tensors(work, "score")?;
    in_vocabulary("--mask-id", args.how.mask_id.as_slice(), model.config().vocab_size)?;
    let attention = attention(args, &model);
    if args.infill == Some(Infill::InPlace) && attention != Attention::Full {
        let message = format!(
            "--infill in-place: under {attention} attention a middle does not see what stands behind it; leave it out, or \
             give --attention full"
        );
        return Err(Usage(message).into());
    }
    if args.order.any_order {
        orders::check(args, &model, attention)?;
    }
    if args.lines.is_some() {
        cut_to_fit(&mut sources, &model, window.min(model.config().max_position_embeddings))?;
    }
    let encoder = Encoder::new(&model, args.infill, attention);
    let mut texts = encoded(&sources, &encoder, args.jsonl.is_some())?;
    if args.documents == "joined" {
        texts = vec![in_a_row(&texts, &encoder, &model)?];
    }
    let lengths = texts.iter().flat_map(|text| &text.tokens).map(|text| text.tokens.len());
    let longest = lengths.max().unwrap_or(0);
    let has_middles = sources.iter().any(|source| matches!(source.body, Body::Hole { .. }));
    let scored = texts.iter().flat_map(|text| &text.tokens).map(Tokens::scored).max();
    let in_place = has_middles && encoder.is_in_place();
    let plan = Plan::new(args, &model, scored.unwrap_or(0), in_place)?;
    if longest > plan.window() {
        plan.strides()?;
    }
    if args.order.any_order {
        return orders::run(args, &plan, &texts);
    }
    run_methods(args, &plan, &texts)
}

/// The tokens of all sources, or the reason why one has none. A document of a folder with a single token is passed over,
/// a text that was named by itself is an error.
fn encoded(sources: &[Source], encoder: &Encoder<'_>, are_lines: bool) -> Result<Vec<Prepared>> {
    let is_one = sources.len() == 1 && !are_lines;
    let (mut texts, mut short) = (Vec::new(), 0);
    for source in sources {
        let tokens = match encoder.tokens(source) {
            Err(error) if is_one => return Err(error),
            Err(error) if matches!(source.body, Body::Document(_)) => {
                match error.is::<TooShort>() {
                    true => {
                        short += 1;
                        continue;
                    }
                    // A folder's texts are all read by one tokenizer: what ails one ails all.
                    false => return Err(error),
                }
            }
            tokens => tokens.map_err(|error| super::said(&error)),
        };
        texts.push(Prepared { id: source.id.clone(), tokens });
    }
    if short > 0 && !is_quiet() {
        note!("{} texts of a single token passed over", count(short));
    }
    match texts.is_empty() {
        true => anyhow::bail!("no text of two tokens or more, so there is nothing to score"),
        false => Ok(texts),
    }
}

/// All texts as one, with the token that ends a document between them.
fn in_a_row(texts: &[Prepared], encoder: &Encoder<'_>, model: &Model) -> Result<Prepared> {
    let mut all = Vec::with_capacity(texts.len());
    for Prepared { id, tokens } in texts {
        match tokens {
            Ok(tokens) => all.push(tokens),
            Err(reason) => anyhow::bail!("--documents joined: {id}: {reason}"),
        }
    }
    let end = lacuna::data::packing::document_end(model.tokenizer()?, &model.ends_of_text());
    let Some(end) = end else {
        anyhow::bail!(
            "--documents joined: the tokenizer has no token that is known to end documents; score them apart"
        );
    };
    Ok(Prepared { id: "all".into(), tokens: Ok(encoder.in_a_row(&all, end)) })
}

/// Scores the texts by the plan's methods, and tells each and all.
fn run_methods(args: &Args, plan: &Plan<'_>, texts: &[Prepared]) -> Result<()> {
    if let ([Prepared { tokens: Ok(text), .. }], None, None) = (texts, &args.jsonl, &args.out) {
        return run_one(args, plan, text);
    }
    hear_interrupts()?;
    let attention = plan.methods.iter().find_map(|method| told(*method, plan.attention));
    let mut total = nothing(plan);
    let mut lines = Lined::open(args, plan, texts, &mut |line| {
        total.add(&Scores::of_json(line, plan.is_single()));
    })?;
    let done = score(plan, texts, (lines.known, !lines.are_seen()), &mut |number, scores| {
        let line = match &scores {
            Ok(scores) => {
                total.add(scores);
                let mut line = scores.as_json(attention);
                let form = texts[number].tokens.as_ref().ok().and_then(|text| text.form.as_deref());
                if let Some(form) = form {
                    line["form"] = form.into();
                }
                Ok(line)
            }
            Err(reason) => Err(reason.clone()),
        };
        lines.append(number, line)
    })?;
    lines.finish()?;
    let (scored, failed) = (lines.known - lines.failed, lines.failed);
    if scored > 0 && (args.jsonl.is_none() || args.out.is_some()) {
        if args.json {
            let mut object = total.as_json(attention);
            object["texts"] = scored.into();
            object["failed"] = failed.into();
            out!("{object}");
        } else if !(args.quiet && args.out.is_some()) {
            out!("{}\n", words(scored, texts.len()));
            total.print(plan)?;
        }
    }
    if args.jsonl.is_some() && args.out.is_none() && !args.quiet {
        note!("{} scored, {} tokens", words(scored, texts.len()), count(total.tokens()));
    }
    ended(done, lines.known, texts.len(), args.out.as_deref());
    lines.failures(texts.len())
}

/// `12 texts`, or `7 of 12 texts`.
fn words(done: usize, all: usize) -> String {
    match done == all {
        true if all == 1 => "1 text".to_owned(),
        true => format!("{} texts", count(all)),
        false => format!("{} of {} texts", count(done), count(all)),
    }
}

/// Ends the program as Ctrl-C does, if it did, and says what is left.
fn ended(done: bool, known: usize, all: usize, out: Option<&Path>) {
    if done {
        return;
    }
    let go_on = match out {
        Some(out) => format!("; {} has them, the same command goes on", shown(out)),
        None => String::new(),
    };
    note!("stopped after {} texts{go_on}", words(known, all).trim_end_matches(" texts"));
    exit(130);
}

/// Scores a single text that was named.
fn run_one(args: &Args, plan: &Plan<'_>, text: &Tokens) -> Result<()> {
    announce(plan, text)?;
    let mut told_scores = None;
    let alone = [Prepared { id: Value::Null, tokens: Ok(text.clone()) }];
    score(plan, &alone, (0, true), &mut |_, scores| {
        told_scores = Some(scores);
        Ok(())
    })?;
    let scores = match told_scores {
        Some(Ok(scores)) => scores,
        Some(Err(reason)) => anyhow::bail!("{reason}"),
        None => return Ok(()),
    };
    if args.json {
        let attention = plan.methods.iter().find_map(|method| told(*method, plan.attention));
        let mut object = scores.as_json(attention);
        if let Some(form) = &text.form {
            object["form"] = form.as_str().into();
        }
        out!("{object}");
        return Ok(());
    }
    scores.print(plan)?;
    if let Some(form) = &text.form {
        let words = match form.strip_prefix("fim:") {
            Some(family) => format!("behind prefix and suffix, in the form of {family}"),
            None => "in its place, between prefix and suffix".to_owned(),
        };
        out!("the middle alone, {words}");
    }
    let windows = plan.windows(text)?.len();
    if windows > 1 {
        let strides = plan.strides()?;
        out!("{windows} windows of {} tokens, {} apart", strides.window(), strides.stride());
    }
    Ok(())
}

/// The most that scoring so many tokens at once computes: a batch of noisy versions of the text, the clean
/// one's keys and values, and logits a few hundred rows at a time, once as they are and once
/// copied.
fn work(tokens: usize) -> Workload {
    Workload {
        context: tokens,
        rows: BATCH * tokens,
        logit_rows: 2 * tokens.saturating_mul(BATCH).min(256),
        cache: CachePrecision::F32,
    }
}

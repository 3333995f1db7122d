//! `lacuna score` measures a text under a model, in nats per token.

use anyhow::Result;
use indicatif::{HumanCount, HumanDuration};
use lacuna::checkpoint::Workload;
use lacuna::likelihood::{Blocks, Likelihood, Method, Scoring, Text, likelihood};
use lacuna::objective::EXACT_ELIGIBLE_MAX;
use lacuna::{Attention, CachePrecision, Error, Model};
use serde_json::json;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::Usage;
use super::decode_args::{in_vocabulary, whole_canvas};
use super::model_args::ModelArgs;
use super::progress::{Progress, count};
use super::ranges::{self, Ids};
use super::show::read_text;

/// Noisy versions of the text in one pass.
const BATCH: usize = 4;
/// From here on the number of passes is said before they are made.
const MANY_PASSES: u64 = 1000;
const DEFAULT_SAMPLES: usize = 64;
/// Scored tokens of one block of all the text up to which its patterns are enumerated unasked: 255 passes.
const ENUMERATED_MAX: usize = 8;
const YEAR: f64 = 365.0 * 24.0 * 3600.0;

/// Likelihood of a text: nats and bits per token and byte.
///
/// The first token is context and not scored; all others are. exact: the NELBO of block diffusion by
/// enumeration, 2^B − 1 passes. left-to-right: blocks filled from the left, B passes; compares with ar.
///
/// A model that was trained under full attention sees the whole text as one block. One that was trained under causal
/// attention is scored token by token behind clean text by exact and left-to-right, which are the same there, and on
/// noisy text, as it was trained, by monte-carlo.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Score")]
#[command(after_help = "\
Examples:
  lacuna score --model M --text file.py --method exact
  lacuna score -m M --ids 1,2,3 --method left-to-right --block-size 4 --json")]
pub(crate) struct Args {
    /// The text to score; `-` reads stdin
    #[arg(long, value_name = "FILE", required_unless_present = "ids")]
    text: Option<PathBuf>,
    /// Token ids to score: 1,2,3
    #[arg(long, value_name = "LIST", conflicts_with = "text", allow_hyphen_values = true)]
    ids: Option<Ids>,
    /// Method; default: exact for block-diffusion checkpoints (monte-carlo under full attention where more than 8 tokens
    /// are scored), ar for autoregressive ones
    #[arg(long, value_parser = ["ar", "exact", "left-to-right", "monte-carlo"])]
    method: Option<String>,
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
    /// Names the random stream of monte-carlo
    #[arg(long, value_name = "N", default_value_t = 0, allow_hyphen_values = true, value_parser = ranges::seed)]
    seed: u64,
    /// Score an autoregressive checkpoint as block diffusion, or the reverse
    #[arg(long)]
    allow_mode_mismatch: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// No progress
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    model: ModelArgs,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    whole_canvas(args.attention, args.block_size).map_err(Usage)?;
    let text = args.text.as_deref().map(read_text).transpose()?;
    let length = text.as_ref().map_or(0, |text: &String| text.len() / 3 + 1);
    let tokens = args.ids.as_ref().map_or(length, |ids| ids.0.len());
    let model = args.model.open_tensors(work(tokens), "score")?;
    let diffusion = model.is_block_diffusion();
    in_vocabulary("--mask-id", args.mask_id.as_slice(), model.config().vocab_size)?;
    let (tokens, bytes) = tokens_and_bytes(args, &model, text.as_deref())?;
    let attention = attention(args, &model);
    let usual = match (diffusion, attention) {
        (false, _) => "ar",
        (true, Attention::Full) if tokens.len() - 1 > ENUMERATED_MAX => "monte-carlo",
        (true, _) => "exact",
    };
    let method = match args.method.as_deref().unwrap_or(usual) {
        "ar" => Method::Autoregressive,
        "exact" => Method::Exact,
        "left-to-right" => Method::LeftToRight,
        _ => Method::MonteCarlo { samples: args.samples, seed: args.seed },
    };
    if (method != Method::Autoregressive) != diffusion && !args.allow_mode_mismatch {
        return Err(Error::Mode(lacuna::mode_mismatch(!diffusion)).into());
    }
    if let (Method::Autoregressive, Some(other)) =
        (method, args.attention.filter(|one| *one != Attention::Causal))
    {
        let message =
            format!("--attention {other}: --method ar reads causally; leave one of the two out");
        return Err(Usage(message).into());
    }
    let blocks = match method {
        Method::Autoregressive => None,
        _ => Some(Blocks {
            block_size: block_size(args, &model, (method, attention), tokens.len())?,
            mask_id: args
                .mask_id
                .or_else(|| model.mask_id())
                .ok_or_else(|| Error::Unsupported { what: lacuna::no_mask(&model) })?,
        }),
    };
    let max = model.config().max_position_embeddings;
    if tokens.len() > max {
        anyhow::bail!(
            "the text has {} tokens, the model {max} positions; score it in parts",
            tokens.len()
        );
    }
    let (eligible, documents) = (vec![true; tokens.len()], [tokens.len()]);
    let texts = [Text { tokens: &tokens, eligible: &eligible, documents: &documents }];
    let scoring = Scoring { method, blocks, attention, document_mask: false, batch_size: BATCH };
    let passes = passes(&scoring, tokens.len());
    if method == Method::Exact && passes >= 1 << EXACT_ELIGIBLE_MAX {
        anyhow::bail!(
            "--method exact lists every way to mask a block, and one of this text has more than {EXACT_ELIGIBLE_MAX} \
             tokens; --method monte-carlo estimates the same and states its error"
        );
    }
    if passes > MANY_PASSES {
        announce(&model, &texts, &scoring, passes)?;
    }
    // Rows of a batch share a pass, and the clean text is read once.
    let runs = passes.div_ceil(BATCH as u64) + u64::from(passes > 1);
    let what = format!("scoring {} tokens, {} passes", count(tokens.len()), count(passes as usize));
    let progress = Progress::passes(what, &model, runs);
    let score = likelihood(&model.transformer, &texts, &scoring, &mut |_| {})?;
    drop(progress);
    let told = (method != Method::Autoregressive && attention != Attention::BlockCausal)
        .then_some(attention);
    print(&score, bytes, told, args.json)
}

/// The attention that was asked for, else the checkpoint's. A block size that is given to one of full attention has it
/// scored block by block.
fn attention(args: &Args, model: &Model) -> Attention {
    let of_checkpoint = match model.config().attention {
        Attention::Full if args.block_size.is_some() => Attention::BlockCausal,
        other => other,
    };
    args.attention.unwrap_or(of_checkpoint)
}

/// The number of tokens that are masked as one block.
fn block_size(
    args: &Args,
    model: &Model,
    (method, attention): (Method, Attention),
    tokens: usize,
) -> Result<NonZeroUsize> {
    let whole = NonZeroUsize::new(tokens).unwrap_or(NonZeroUsize::MIN);
    let is_sampled = matches!(method, Method::MonteCarlo { .. });
    let one = NonZeroUsize::MIN;
    match (attention, args.block_size) {
        (Attention::BlockCausal, asked) => Ok(model.block_size(asked)),
        (Attention::Full, _) => Ok(whole),
        (Attention::Causal, None) => Ok(if is_sampled { whole } else { one }),
        (Attention::Causal, Some(size)) if size == one && !is_sampled => Ok(one),
        (Attention::Causal, Some(size)) => {
            let message = format!(
                "--block-size {size}: under causal attention exact and left-to-right take the text token by token, and \
                 monte-carlo masks it as a whole; leave it out, or give --attention block-causal"
            );
            Err(Usage(message).into())
        }
    }
}

/// The score as sentences or as one JSON object.
fn print(
    score: &Likelihood,
    bytes: Option<u64>,
    attention: Option<Attention>,
    as_json: bool,
) -> Result<()> {
    let (nats, bits) = (score.nats_per_token(), bytes.map(|bytes| score.bits_per_byte(bytes)));
    if as_json {
        let mut object = json!({
            "nats_per_token": nats,
            "bits_per_byte": bits,
            "tokens": score.tokens,
            "passes": score.passes,
        });
        if let Some(error) = score.standard_error {
            object["standard_error"] = json!(error / score.tokens.max(1) as f64);
        }
        if let Some(attention) = attention {
            object["attention"] = attention.name().into();
        }
        out!("{object}");
        return Ok(());
    }
    let error = score.standard_error.map(|e| format!(" ± {:.4}", e / score.tokens.max(1) as f64));
    out!(
        "{nats:.4}{} nats per token, {:.4} bits per token",
        error.unwrap_or_default(),
        nats / std::f64::consts::LN_2
    );
    if let Some(bits) = bits {
        out!("{bits:.4} bits per byte");
    }
    let passes = if score.passes == 1 { "pass" } else { "passes" };
    let under = attention.map_or_else(String::new, |one| format!(" under {one} attention"));
    out!("{} tokens scored, {} {passes}{under}", score.tokens, score.passes);
    Ok(())
}

/// The number of passes that a score takes.
fn passes(scoring: &Scoring, tokens: usize) -> u64 {
    let size = scoring.blocks.map_or(1, |blocks| blocks.block_size.get());
    // Scored tokens of the largest block: the first token of all is not scored.
    let block = (size.min(tokens) - 1).max(tokens.saturating_sub(size).min(size));
    match scoring.method {
        Method::Autoregressive => 1,
        Method::LeftToRight => block as u64,
        Method::MonteCarlo { samples, .. } => samples as u64,
        Method::Exact => {
            u32::try_from(block).ok().and_then(|b| 1u64.checked_shl(b)).map_or(u64::MAX, |n| n - 1)
        }
    }
}

/// Says what a long score takes, and what would be shorter. The time is that of a few passes on the same text.
fn announce(model: &Model, texts: &[Text<'_>], scoring: &Scoring, passes: u64) -> Result<()> {
    let few = Scoring { method: Method::MonteCarlo { samples: BATCH, seed: 0 }, ..*scoring };
    let timing = Progress::passes("timing a few passes", model, 2);
    let began = Instant::now();
    likelihood(&model.transformer, texts, &few, &mut |_| {})?;
    let seconds = began.elapsed().as_secs_f64() * (passes as f64 / BATCH as f64);
    drop(timing);
    let time = match Duration::try_from_secs_f64(seconds) {
        Ok(time) if seconds < YEAR => HumanDuration(time).to_string(),
        _ => "more than a year".to_owned(),
    };
    let block = scoring.blocks.map_or(1, |blocks| blocks.block_size.get());
    let cheaper = match scoring.method {
        Method::Exact => format!(
            "; --method left-to-right takes {block}, --method monte-carlo {DEFAULT_SAMPLES} and states its error"
        ),
        Method::LeftToRight => {
            format!("; --method monte-carlo takes {DEFAULT_SAMPLES} and states its error")
        }
        _ => "; fewer --samples take less time and leave more error".to_owned(),
    };
    note!("this takes {} passes over the text, about {time}{cheaper}", HumanCount(passes));
    Ok(())
}

/// The most that scoring so many tokens computes: a batch of noisy versions of the text, the clean
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

/// The tokens, and the bytes of those that are scored (unknown for ids without a tokenizer).
fn tokens_and_bytes(
    args: &Args,
    model: &Model,
    text: Option<&str>,
) -> Result<(Vec<u32>, Option<u64>)> {
    let tokens = match (&args.ids, text) {
        (Some(ids), _) => ids.0.clone(),
        (None, Some(text)) => model.tokenizer()?.encode(text)?,
        (None, None) => return Err(Usage("give --text or --ids".into()).into()),
    };
    if tokens.len() < 2 {
        anyhow::bail!("{} tokens: the first is not scored, so at least 2 are needed", tokens.len());
    }
    let vocab = model.config().vocab_size;
    in_vocabulary("--ids", &tokens, vocab)?;
    let bytes = model.tokenizer.as_ref().map(|tokenizer| {
        let lengths = tokenizer.token_bytes();
        tokens[1..].iter().map(|t| u64::from(lengths.get(*t as usize).copied().unwrap_or(0))).sum()
    });
    Ok((tokens, bytes.filter(|b| *b > 0)))
}

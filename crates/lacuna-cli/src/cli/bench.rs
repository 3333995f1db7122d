//! `lacuna bench` times a model on this machine: its prompt, its passes, its writing, beside what the memory allows.

use anyhow::{Context, Result};
use lacuna::checkpoint::{Weights, Workload};
use lacuna::samplers::{Denoiser, Segment, View};
use lacuna::{GenerateOptions, Model, Prompt, Session, generate, greedy_pass};
use rayon::prelude::*;
use serde_json::{Value, json};
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use super::model_args::ModelArgs;
use super::progress::Progress;
use super::ranges;
use super::sizes::shown as size;

/// Rows of the passes that are timed.
const ROWS: [usize; 4] = [1, 4, 8, 16];
/// Memory that is read to see how fast it is read: more than any cache holds.
const READ_BYTES: usize = 256 << 20;
/// Fewer runs say nothing of their spread.
const FEWEST_RUNS: usize = 3;

/// Time a model on this machine: a Markdown table.
///
/// Each time is the median of its runs. The floor of a pass is the time to read the weights once from memory: no program
/// that reads them is faster, unless they fit into a cache.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Measurement")]
#[command(after_help = "\
Examples:
  lacuna bench --model M
  lacuna bench --model M --dtype q4_k --prompt-tokens 1000 --json")]
pub(crate) struct Args {
    /// Tokens of the prompt
    #[arg(long, value_name = "N", default_value = "256", allow_hyphen_values = true, value_parser = ranges::size)]
    prompt_tokens: NonZeroUsize,
    /// Tokens that are written
    #[arg(long, value_name = "N", default_value = "64", allow_hyphen_values = true, value_parser = ranges::size)]
    new_tokens: NonZeroUsize,
    /// Seconds for each measurement, at least three runs
    #[arg(long, value_name = "S", default_value = "2", allow_hyphen_values = true, value_parser = ranges::positive)]
    seconds: f64,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Print nothing but the result
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    model: ModelArgs,
}

/// One line of the table.
struct Row {
    name: String,
    /// Seconds of each run, ascending.
    runs: Vec<f64>,
    /// Tokens that a run reads or writes.
    tokens: usize,
    /// Passes over the weights, which have to be read for each.
    passes: f64,
}

impl Row {
    fn median(&self) -> f64 {
        self.runs[self.runs.len() / 2]
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let (prompt, new) = (args.prompt_tokens.get(), args.new_tokens.get());
    let most = ROWS[ROWS.len() - 1];
    // The floor is the host's memory, which says nothing of a card.
    let model = args.model.open_tensors(Workload::decoding(prompt + new.max(most)), "bench")?;
    let positions = model.config().max_position_embeddings;
    anyhow::ensure!(
        prompt + new.max(most) <= positions,
        "{prompt} tokens of prompt and {} more: the model has {positions} positions; ask for fewer",
        new.max(most)
    );
    let timing = Progress::spinning("timing");
    let bytes = weight_bytes(&model, &args.model)?;
    let rate = read_rate(args.seconds);
    let mut rows = vec![prefill(&model, prompt, args.seconds)?];
    for count in ROWS {
        rows.push(pass(&model, prompt, count, args.seconds)?);
    }
    rows.push(writing(&model, prompt, new, args.seconds)?);
    drop(timing);
    match args.json {
        true => out!("{}", as_json(&model, &rows, bytes, rate)),
        false => out!("{}", table(&model, &rows, bytes, rate)),
    }
    Ok(())
}

/// The bytes that each pass has to read: the weights as they are kept.
fn weight_bytes(model: &Model, args: &ModelArgs) -> Result<f64> {
    Ok(match args.dtype {
        Some(dtype) => model.config().memory(dtype, Workload::decoding(1)).weights as f64,
        None => Weights::open(model.path())?.report().bytes as f64,
    })
}

fn prefill(model: &Model, tokens: usize, seconds: f64) -> Result<Row> {
    let ids = ids(model, tokens);
    let view = View::Blocks { block_size: model.block_size(None) };
    let runs = runs(seconds, || {
        let mut session = Session::of(model);
        session.prefill(0, &ids, view)?;
        Ok(())
    })?;
    Ok(Row { name: format!("prompt of {tokens}"), runs, tokens, passes: 1.0 })
}

/// A pass over so many masked positions behind a prompt, every row wanted.
fn pass(model: &Model, past: usize, count: usize, seconds: f64) -> Result<Row> {
    let block_size = NonZeroUsize::new(count).context("a pass over no row")?;
    // The prompt is whole blocks, so that the rows are one.
    let past = past.next_multiple_of(count);
    let view = View::Blocks { block_size };
    let mut session = Session::of(model);
    session.prefill(0, &ids(model, past), view)?;
    let block = vec![model.mask_id().unwrap_or(0); count];
    let wanted: Vec<usize> = (0..count).collect();
    let runs = runs(seconds, || {
        let segment = Segment { sequence: 0, view, block: &block, rows: &wanted };
        Ok(greedy_pass(&mut session, &[segment])?)
    })?;
    let noun = if count == 1 { "row" } else { "rows" };
    Ok(Row { name: format!("pass over {count} {noun}"), runs, tokens: count, passes: 1.0 })
}

/// A continuation as the checkpoint decodes by itself, without an end.
fn writing(model: &Model, past: usize, new: usize, seconds: f64) -> Result<Row> {
    let options = GenerateOptions {
        max_new_tokens: new,
        eos_ids: Some(Vec::new()),
        ..GenerateOptions::default()
    };
    let (mut taken, mut forwards) = (Vec::new(), 0);
    runs(seconds, || {
        let written = generate(model, Prompt::Ids(ids(model, past)), &options, |_| {})?;
        taken.push(written.seconds.decode);
        forwards = written.forwards;
        Ok(())
    })?;
    // The first one was not measured either.
    taken.remove(0);
    taken.sort_by(f64::total_cmp);
    Ok(Row {
        name: format!("{new} tokens written"),
        runs: taken,
        tokens: new,
        passes: forwards as f64,
    })
}

/// Tokens of no meaning, all different for a while.
fn ids(model: &Model, count: usize) -> Vec<u32> {
    let vocab = model.config().vocab_size.max(1) as u64;
    (0..count as u64).map(|i| u32::try_from(i * 7919 % vocab).unwrap_or(0)).collect()
}

/// Runs once unmeasured, then until the time is up; seconds, ascending.
fn runs(seconds: f64, mut run: impl FnMut() -> Result<()>) -> Result<Vec<f64>> {
    run()?;
    let (began, mut runs) = (Instant::now(), Vec::new());
    while runs.len() < FEWEST_RUNS || began.elapsed().as_secs_f64() < seconds {
        let start = Instant::now();
        run()?;
        runs.push(start.elapsed().as_secs_f64());
    }
    runs.sort_by(f64::total_cmp);
    Ok(runs)
}

/// Bytes a second that all threads read from memory together, at their best.
fn read_rate(seconds: f64) -> f64 {
    let words: Vec<u64> = (0..READ_BYTES as u64 / 8).into_par_iter().collect();
    let share = words.len().div_ceil(8 * rayon::current_num_threads());
    let sum = |part: &[u64]| {
        let mut sums = [0u64; 32];
        for words in part.as_chunks::<32>().0 {
            for (sum, word) in sums.iter_mut().zip(words) {
                *sum = sum.wrapping_add(*word);
            }
        }
        sums.iter().fold(0, |all: u64, sum| all.wrapping_add(*sum))
    };
    let (began, mut best) = (Instant::now(), Duration::MAX);
    while began.elapsed().as_secs_f64() < seconds {
        let start = Instant::now();
        std::hint::black_box(words.par_chunks(share).map(sum).reduce(|| 0, u64::wrapping_add));
        best = best.min(start.elapsed());
    }
    READ_BYTES as f64 / best.as_secs_f64()
}

fn table(model: &Model, rows: &[Row], bytes: f64, rate: f64) -> String {
    let mut text = format!(
        "{}: {} of weights, {} threads, memory read at {:.1} GB/s\n\n| | time | tokens/s | floor | of floor | runs |\n\
         |---|---:|---:|---:|---:|---:|\n",
        lacuna_files::printable(&model.path().display().to_string()),
        size(bytes as u64),
        rayon::current_num_threads(),
        rate / 1e9
    );
    for row in rows {
        let (median, floor) = (row.median(), row.passes * bytes / rate);
        text += &format!(
            "| {} | {} | {:.1} | {} | {:.0} % | {} |\n",
            row.name,
            milliseconds(median),
            row.tokens as f64 / median,
            milliseconds(floor),
            100.0 * floor / median,
            row.runs.len()
        );
    }
    text.trim_end().to_owned()
}

fn as_json(model: &Model, rows: &[Row], bytes: f64, rate: f64) -> Value {
    let one = |row: &Row| {
        json!({
            "name": row.name,
            "seconds": row.median(),
            "best_seconds": row.runs[0],
            "tokens": row.tokens,
            "tokens_per_second": row.tokens as f64 / row.median(),
            "floor_seconds": row.passes * bytes / rate,
            "runs": row.runs.len(),
        })
    };
    json!({
        "model": model.path().display().to_string(),
        "weight_bytes": bytes,
        "threads": rayon::current_num_threads(),
        "memory_bytes_per_second": rate,
        "rows": rows.iter().map(one).collect::<Vec<_>>(),
    })
}

fn milliseconds(seconds: f64) -> String {
    let digits = usize::from(seconds < 0.1) + usize::from(seconds < 0.01);
    format!("{:.digits$} ms", 1e3 * seconds)
}

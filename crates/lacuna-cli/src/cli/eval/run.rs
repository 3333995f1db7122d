//! `lacuna eval run` has a model answer a benchmark's tasks, and judges the answers.

use anyhow::Result;
use lacuna::{EngineOptions, GenerateOptions, Model, Resolved};
use lacuna_eval::{
    Benchmark, Earlier, Judge, PromptForm, Sample, Task, Tests, Writing, Written, judge_all,
    read_samples,
};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::{JudgeArgs, judge, show};
use crate::cli::decode_args::{DecodeArgs, check_against};
use crate::cli::model_args::ModelArgs;
use crate::cli::progress::{At, Progress, count};
use crate::cli::user_file::shown;
use crate::cli::{Usage, ranges};

/// Have a model answer a benchmark's tasks, and judge the answers.
///
/// Greedy without flags of sampling, whatever the checkpoint asks for. Every answer is a line of samples.jsonl, with its
/// tokens, passes, seed and settings; every verdict one of results.jsonl.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lacuna eval run humaneval --model M --out runs/humaneval
  lacuna eval run humaneval+ --model M --prompt-form chat
  lacuna eval run mbpp --model M --samples 10 --temperature 0.2 --top-p 0.95
  lacuna eval run infilling-single-line --model M --limit 100 --batch 32")]
pub(super) struct Args {
    /// Its name; `lacuna eval list` lists them
    #[arg(value_name = "BENCHMARK")]
    benchmark: String,
    /// Form of the prompts: plain goes on with the text, chat asks in the model's template
    #[arg(long, visible_alias = "prompt", value_name = "FORM", default_value = "plain", value_parser = clap::value_parser!(PromptForm))]
    prompt_form: PromptForm,
    /// Samples of each task; more than one need a --temperature
    #[arg(long, value_name = "N", default_value = "1", allow_hyphen_values = true, value_parser = ranges::size)]
    samples: NonZeroUsize,
    /// Answers that are decoded together at most
    #[arg(long, value_name = "N", default_value = "16", allow_hyphen_values = true, value_parser = ranges::size)]
    batch: NonZeroUsize,
    /// Folder for answers and results; a run that was ended is gone on with. Default: runs/eval/BENCHMARK
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    decode: DecodeArgs,
    #[command(flatten)]
    pub(super) judge: JudgeArgs,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let benchmark = Benchmark::named(&args.benchmark).map_err(|error| Usage(error.to_string()))?;
    if args.decode.prompt_ids.is_some() {
        return Err(
            Usage("--prompt-ids: the benchmark has its own prompts; leave it out".into()).into()
        );
    }
    if args.decode.is_reference() {
        let message = "--mode reference: the released algorithm decodes one text at a time, and has no batches; leave \
                       it out";
        return Err(Usage(message.into()).into());
    }
    if benchmark.has_second_try && args.samples.get() > 1 {
        let name = benchmark.name;
        let message = format!("--samples: {name} has two tries of one answer each; leave it out");
        return Err(Usage(message).into());
    }
    if benchmark.has_second_try && args.prompt_form == PromptForm::Plain {
        let message = format!("{} is asked in a chat alone: --prompt-form chat", benchmark.name);
        return Err(Usage(message).into());
    }
    let judge = args.judge.judge()?;
    let (tasks, wanted) = args.judge.tasks(benchmark)?;
    let length = |task: &Task| task.prompt.len() + task.instruction.as_ref().map_or(0, String::len);
    let mut longest = tasks.iter().map(length).max().unwrap_or(0);
    if benchmark.has_second_try {
        // The answer before, and the tests that it failed.
        longest = longest.saturating_add(3 * benchmark.max_new_tokens + 4096);
    }
    let mut work = args.decode.work(longest.saturating_add(3 * benchmark.max_new_tokens));
    work.logit_rows = work.logit_rows.saturating_mul(args.batch.get());
    let model = args.model.open(work)?;
    let mut options = args.decode.options(&model);
    if args.decode.max_new_tokens.is_none() {
        options.max_new_tokens = benchmark.max_new_tokens;
    }
    check_against(&model, &lacuna::Prompt::Ids(Vec::new()), &options)?;
    let rule = Resolved::new(&model, vec![0], &options)?.rule();
    let folder = args.out.clone().unwrap_or_else(|| Path::new("runs/eval").join(benchmark.name));
    lacuna_files::create_folder(&folder)?;
    let writing = Writing {
        model: &model,
        benchmark,
        tasks: &tasks[..wanted],
        python: judge.python(),
        form: args.prompt_form,
        samples: args.samples.get(),
        options: &options,
        engine: EngineOptions {
            running_max: args.batch,
            memory: model.memory_left(args.model.memory.unwrap_or_default()),
            ..EngineOptions::default()
        },
    };
    let file = folder.join("samples.jsonl");
    write(&writing, &file, args.judge.quiet)?;
    let mut samples = wanted_samples(&file, &tasks, wanted, args.samples.get())?;
    let mut facts = facts(args, &model, &options, &rule);
    if benchmark.has_second_try {
        let told = second_tries(&writing, &tasks, &judge, &args.judge, &mut samples, &folder)?;
        facts.push(("tries".to_owned(), format!("two; of the first {told}")));
    }
    // Each program is started by a copy of this process: the smaller, the sooner.
    drop(model);
    show::judged(&args.judge, &judge, benchmark, (&tasks, wanted), &samples, facts, &folder)
}

/// Has the model try again where it failed, told which tests did, and puts these answers in the place of the first. The
/// first tries stay in `samples.jsonl`, the second are in `second.jsonl`. Returns a sentence on how the first tries went.
fn second_tries(
    first: &Writing<'_>,
    all_tasks: &[Task],
    judge: &Judge,
    args: &JudgeArgs,
    samples: &mut [Sample],
    folder: &Path,
) -> Result<String> {
    let judging = Progress::spinning("judging the first tries".to_owned());
    let file = folder.join("first.results.jsonl");
    let verdicts = judge_all(judge, first.tasks, samples, &file, args.jobs(), &mut |_| {})?;
    let mut again: Vec<Task> = Vec::new();
    for (sample, verdict) in samples.iter().zip(&verdicts) {
        let task = first.tasks.iter().find(|task| task.id == sample.task);
        // An answer that could not be written can't be written behind more words.
        let raw = sample.line.get("raw").and_then(serde_json::Value::as_str);
        let (Some(task), Some(raw), false) = (task, raw, verdict.passed) else { continue };
        let told = judge.told(task, &sample.program)?;
        let told = if told.is_empty() { verdict.result.clone() } else { told };
        let mut task = task.clone();
        if let Tests::Exercise { earlier, .. } = &mut task.tests {
            *earlier = Some(Earlier { answer: raw.to_owned(), told });
        }
        again.push(task);
    }
    drop(judging);
    let passed = verdicts.iter().filter(|verdict| verdict.passed).count();
    let sum = |key: &str| -> u64 {
        samples.iter().filter_map(|sample| sample.line.get(key)?.as_u64()).sum()
    };
    let told = format!(
        "{passed} of {} passed, {} tokens in {} passes",
        verdicts.len(),
        sum("tokens"),
        sum("forwards")
    );
    if again.is_empty() {
        return Ok(told);
    }
    let second = Writing { tasks: &again, ..*first };
    let file = folder.join("second.jsonl");
    write(&second, &file, args.quiet)?;
    for answer in read_samples(&file, all_tasks)? {
        let is_asked = again.iter().any(|task| task.id == answer.task);
        let sample = samples.iter_mut().find(|sample| is_asked && sample.task == answer.task);
        if let Some(sample) = sample {
            *sample = answer;
        }
    }
    Ok(told)
}

/// Writes the answers that are not there, with a line of progress.
fn write(writing: &Writing<'_>, file: &Path, is_quiet: bool) -> Result<()> {
    let began = Instant::now();
    let state: Arc<Mutex<Option<Written>>> = Arc::default();
    let line = {
        let state = Arc::clone(&state);
        Progress::watching(move || {
            let state = state.lock().ok().and_then(|state| *state);
            let Some(Written { done, all, tokens, .. }) = state else {
                return At { what: "reading the prompts".into(), part: None };
            };
            let rate = tokens as f64 / began.elapsed().as_secs_f64().max(1e-9);
            let what = format!("{} of {} answers, {rate:.0} tokens/s", count(done), count(all));
            At { what, part: Some((done as u64, all as u64)) }
        })
    };
    let written = writing.run(file, &mut |now| {
        if let Ok(mut state) = state.lock() {
            *state = Some(now);
        }
    })?;
    drop(line);
    if !is_quiet && written.tokens > 0 {
        let seconds = began.elapsed().as_secs_f64();
        note!(
            "{} answers, {} tokens in {seconds:.1} s, {:.1}/s, {} passes",
            count(written.done),
            count(written.tokens),
            written.tokens as f64 / seconds.max(1e-9),
            count(written.passes)
        );
    }
    Ok(())
}

/// The answers of the wanted tasks, of which an earlier run may have made more.
fn wanted_samples(
    file: &Path,
    tasks: &[Task],
    wanted: usize,
    samples: usize,
) -> Result<Vec<Sample>> {
    let mut all = read_samples(file, tasks)?;
    let tasks: std::collections::HashSet<&str> =
        tasks[..wanted].iter().map(|task| &*task.id).collect();
    all.retain(|sample| sample.number < samples && tasks.contains(&*sample.task));
    all.sort_by(|a, b| (&a.task, a.number).cmp(&(&b.task, b.number)));
    Ok(all)
}

/// The facts that a score is to be told with.
fn facts(
    args: &Args,
    model: &Model,
    options: &GenerateOptions,
    rule: &str,
) -> Vec<(String, String)> {
    let sampling = &options.sampling;
    let drawn = match sampling.temperature {
        0.0 => "greedy".to_owned(),
        temperature => {
            let mut words = format!("temperature {temperature}");
            words.extend(sampling.top_p.map(|p| format!(", top-p {p}")));
            words.extend(sampling.top_k.map(|k| format!(", top-k {k}")));
            words.extend(sampling.min_p.map(|p| format!(", min-p {p}")));
            words
        }
    };
    let part = |name: &str, value: String| (name.to_owned(), value);
    vec![
        part("model", shown(model.path())),
        part("prompt", args.prompt_form.to_string()),
        part("samples of a task", args.samples.to_string()),
        part("drawn", drawn),
        part("seed", sampling.seed.to_string()),
        part("decoded", rule.to_owned()),
        part("new tokens at most", options.max_new_tokens.to_string()),
        judge::version(),
    ]
}

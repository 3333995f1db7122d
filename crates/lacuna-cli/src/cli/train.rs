//! `lacuna train` runs a recipe, and resumes a run.

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use lacuna::samplers::FillRule;
use lacuna::train::{
    Collective, Evaluation, Event, Outcome, Recipe, RunOptions, ScoreName, StageData, StepMetrics,
    run as run_recipe,
};
use lacuna::{Attention, GenerateOptions, Model, OpenOptions, select_device};
use std::io::{IsTerminal, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

mod plot;
mod stop;
mod surroundings;
use super::init::quoted;
use super::progress::{Progress as Waiting, be_quiet, downloads};
use stop::Stop;

/// Run a recipe: train, measure, write checkpoints.
///
/// Ctrl-C, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2 and SIGXCPU finish the step, write a checkpoint and end with
/// status 128 plus the signal's number (130, 143, …), so that a scheduler runs the command again; with --resume it
/// goes on from there, and starts from the beginning where nothing was saved. A second signal ends at once.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lacuna train recipes/tiny.toml
  lacuna train my.toml --set stage.1.steps=2000 --set seed=7 --out runs/longer
  lacuna train my.toml --out runs/longer --resume
  lacuna train my.toml --resume --accept-changes --set stage.1.steps=3000

Exit status: 0 finished, 1 failed, 2 wrong usage, 130, 143, 129, … stopped by a signal and saved.")]
pub(crate) struct Args {
    /// The recipe
    #[arg(value_name = "RECIPE.toml")]
    recipe: PathBuf,
    /// Override a value of the recipe; stages are counted from 0
    #[arg(long, value_name = "key.path=value")]
    set: Vec<String>,
    /// The run's directory; default: runs/NAME, or the next free runs/NAME-2, …
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Go on from the newest complete checkpoint; from the beginning if there is none
    #[arg(long)]
    resume: bool,
    /// Resume although learning rates, steps or the like differ from what the run began with; run.json records it
    #[arg(long)]
    accept_changes: bool,
    /// Go on from the checkpoint of this step; newer ones are set aside
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    resume_step: Option<u64>,
    /// Device that the model trains on
    #[arg(long, default_value = "cpu", value_parser = ["cpu", "cuda", "metal"])]
    device: String,
    /// No progress, only the results
    #[arg(long, short)]
    quiet: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let mut recipe = Recipe::load(&args.recipe, &args.set)?;
    if let Some(from) = &mut recipe.model.from {
        *from = lacuna::locate(from, &downloads(!args.quiet && std::io::stderr().is_terminal()))?;
    }
    let device = select_device(&args.device)?;
    let dir = match &args.out {
        Some(dir) => dir.clone(),
        None => default_directory(&recipe.name, args.resume || args.resume_step.is_some()),
    };
    let stop = Stop::listen()?;
    let options = RunOptions {
        dir: dir.clone(),
        resume: args.resume,
        resume_step: args.resume_step,
        accept_changes: args.accept_changes,
        device,
        stop: stop.flag(),
        surroundings: surroundings::of(&args.device),
        collective: Collective::Alone,
    };
    let mut progress = Progress::new(args.quiet, recipe.total_steps());
    if args.quiet {
        be_quiet();
    }
    let mut opening = Some(Waiting::spinning("reading and packing text"));
    let outcome = run_recipe(&recipe, &options, &mut |event| {
        opening = None;
        stop.hear(&event);
        progress.show(&event);
    });
    drop(opening);
    progress.bar.finish_and_clear();
    let outcome = outcome?;
    if outcome.interrupted {
        let model = outcome.model.display();
        // Whoever read it may be gone with the terminal; the status is told all the same.
        let saved = match outcome.model.join("progress.json").exists() {
            true => format!("stopped; checkpoint: {model}"),
            false => "stopped before the first step".to_owned(),
        };
        let told = format!(
            "{saved}\ngo on with: lacuna train {} --out {} --resume\n",
            args.recipe.display(),
            dir.display()
        );
        let _ = std::io::stdout().write_all(told.as_bytes());
        stop.exit();
    }
    // From here on everything is saved: a signal ends the program at once.
    stop.nothing_to_save();
    if outcome.finished_before {
        out!(
            "{} is finished: nothing was done, the model is {}\nto go on with it, raise the steps of its last stage \
             or add a [[stage]] to the recipe, and resume with --accept-changes",
            dir.display(),
            outcome.model.display()
        );
        return Ok(());
    }
    out!("{}", results(&recipe, &dir, &outcome)?.trim_end());
    Ok(())
}

/// runs/NAME, or the next free number; to resume, the highest that exists.
fn default_directory(name: &str, resume: bool) -> PathBuf {
    let numbered = |n: u32| match n {
        1 => Path::new("runs").join(name),
        n => Path::new("runs").join(format!("{name}-{n}")),
    };
    let begun = |dir: PathBuf| dir.join("recipe.toml").exists() || dir.join("checkpoints").exists();
    let number = |entry: &PathBuf| -> Option<u32> {
        let rest = entry.file_name()?.to_str()?.strip_prefix(name)?;
        let n = if rest.is_empty() { 1 } else { rest.strip_prefix('-')?.parse().ok()? };
        (n > 0 && begun(numbered(n))).then_some(n)
    };
    let entries = lacuna_files::list("runs".as_ref()).unwrap_or_default();
    let newest = entries.iter().filter_map(number).max();
    numbered(if resume { newest.unwrap_or(1) } else { newest.map_or(1, |n| n.saturating_add(1)) })
}

/// The progress line on a terminal; a line now and then elsewhere.
struct Progress {
    bar: ProgressBar,
    quiet: bool,
    terminal: bool,
    total: u64,
    tokens_per_second: f64,
}

impl Progress {
    fn new(quiet: bool, total: u64) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let bar = if quiet || !terminal { ProgressBar::hidden() } else { ProgressBar::new(total) };
        // One line of a narrow terminal: what is wider is torn, and can't be taken away again.
        let template = "{bar:12} {pos}/{len}  {wide_msg}  {eta} left";
        bar.set_style(ProgressStyle::with_template(template).expect("a fixed template"));
        Self { bar, quiet, terminal, total, tokens_per_second: 0.0 }
    }

    fn say(&self, text: &str) {
        if !self.quiet {
            self.tell(text);
        }
    }

    /// Prints what is said to the quiet too. A reader that went away, or a log on a full disk,
    /// stops no training.
    fn tell(&self, text: &str) {
        if self.terminal && !self.quiet {
            self.bar.println(text);
        } else {
            note!("{text}");
        }
    }

    fn show(&mut self, event: &Event<'_>) {
        match event {
            Event::Ready { data, model, step } => {
                let parameters: usize = model
                    .parameters()
                    .iter()
                    .flat_map(|all| all.iter())
                    .map(|(_, v)| v.elem_count())
                    .sum();
                let windows = data.train.dataset().windows();
                let window = data.train.dataset().window_len();
                self.say(&format!(
                    "{:.2} M parameters; {windows} training windows of {window} tokens, {} held out",
                    parameters as f64 / 1e6,
                    data.held_out.windows()
                ));
                for line in data.skipped.lines().chain(data.sft_skipped.lines()) {
                    self.say(&format!("passed over {line}"));
                }
                if data.held_out.windows() == 0 {
                    self.say("nothing is held out: stages end without scores");
                }
                if *step > 0 {
                    self.say(&format!("going on after step {step}"));
                }
                self.bar.set_position(*step);
                self.bar.reset_eta();
                self.bar.enable_steady_tick(Duration::from_millis(500));
            }
            Event::Step { metrics, .. } => self.step(metrics),
            Event::Checkpoint(path) => self.say(&format!("checkpoint {}", path.display())),
            Event::Notice(text) => {
                self.tell(&format!("warning: {}", lacuna_files::printable(text)))
            }
            Event::Evaluating(done, all) => {
                self.bar.set_message(format!("scoring held-out text {done}/{all}"));
            }
            Event::Recorded { dir, held_out } => {
                if let Err(reason) = plot::draw_run(dir, held_out) {
                    let told = format!("no plots: {reason:#}");
                    self.tell(&format!("warning: {}", lacuna_files::printable(&told)));
                }
            }
            Event::StageEnd { stage, evaluation } => {
                let mut text = format!("stage `{}` done", stage.name);
                if let Some(evaluation) = evaluation {
                    // Those of counting, which are the same after each stage, are in the table at the end.
                    let own = evaluation.scores.iter().filter(|(name, _)| is_own(*name));
                    let scores = own.map(|(name, score)| {
                        format!("{} {:.3}", name.label(), score.nats_per_token())
                    });
                    let scores: Vec<_> = scores.collect();
                    text.push_str(&format!(":\n  {} nats/token", scores.join(", ")));
                }
                self.say(&text);
            }
        }
    }

    fn step(&mut self, m: &StepMetrics) {
        const LINES: u64 = 20;
        let fresh = if self.tokens_per_second == 0.0 { 1.0 } else { 0.1 };
        self.tokens_per_second += fresh * (m.tokens_per_second - self.tokens_per_second);
        let line = format!(
            "{}: loss {:.3}  {:.0} tokens/s",
            m.stage, m.loss_unweighted, self.tokens_per_second
        );
        self.bar.set_position(m.step);
        self.bar.set_message(line.clone());
        if !self.terminal
            && (m.step.is_multiple_of((self.total / LINES).max(1)) || m.step == self.total)
        {
            let left = (self.total - m.step) as f64 * (m.tokens as f64 / m.step as f64)
                / self.tokens_per_second;
            self.say(&format!("step {}/{}  {line}  about {left:.0} s left", m.step, self.total));
        }
    }
}

/// Prints the end of a finished run: scores, a completion, where everything lies.
fn results(recipe: &Recipe, dir: &Path, outcome: &Outcome) -> Result<String> {
    // Before anything else is loaded: what the training itself took.
    let memory = surroundings::peak_memory_bytes();
    let mut text = String::new();
    if !outcome.evaluations.is_empty() {
        text.push_str(&table(&outcome.evaluations));
    }
    let model = Model::open(&outcome.model, &OpenOptions::default())?;
    for prompt in &recipe.evaluation.prompts {
        // No more than the model has positions for: the training is done, and the rest of its report is wanted.
        let block = match model.config().attention {
            Attention::Full => 0,
            _ => model.config().block_size().map_or(1, NonZeroUsize::get),
        };
        let taken = model.tokenizer()?.encode_with_special_tokens(prompt)?.len() + block;
        let room = model.config().max_position_embeddings.saturating_sub(taken);
        let max_new_tokens = recipe.evaluation.max_new_tokens.min(room);
        // The most confident position a pass: what the model itself can do, not how fast.
        let fill = Some(FillRule::LowConfidence);
        let options = GenerateOptions { max_new_tokens, fill, ..GenerateOptions::default() };
        let written = lacuna::generate(&model, prompt.as_str(), &options, |_| {})?;
        text.push_str(&format!(
            "\ncompletion ({:.2} tokens per forward):\n",
            written.tokens_per_forward()
        ));
        let whole = format!("{prompt}{}", written.text);
        whole.lines().for_each(|line| text.push_str(&format!("  | {line}\n")));
    }
    let (model, dir) = (quoted(&dir.join("final")), dir.display());
    text.push_str(&format!(
        "\nmodel        {dir}/final\nloss plot    {dir}/loss.png, {dir}/loss.svg\n\
         metrics      {dir}/metrics.jsonl\nscores       {dir}/results.json\nrecord       {dir}/run.json\ncheckpoints  {dir}/checkpoints\nrecipe       {dir}/recipe.toml\n"
    ));
    if let Some(peak) = memory {
        text.push_str(&format!("memory       {:.0} MiB at most\n", peak as f64 / (1 << 20) as f64));
    }
    let talks = recipe.stage.last().is_some_and(|stage| stage.data == StageData::Sft);
    text.push_str(&match talks {
        true => format!("\ntry: lacuna chat --model {model}\n"),
        false => format!("\ntry: lacuna generate --model {model} 'def '\n"),
    });
    Ok(text)
}

/// Tells whether a score is the model's, and none of counting tokens.
fn is_own(name: ScoreName) -> bool {
    !matches!(name, ScoreName::Unigram | ScoreName::Bigram)
}

/// Scores on held-out text, one line a score; baselines once.
fn table(evaluations: &[(String, Evaluation)]) -> String {
    let (_, last) = &evaluations[evaluations.len() - 1];
    let tokens = last.scores.first().map_or(0, |(_, s)| s.tokens);
    let mut text = format!(
        "\nheld-out text: {} windows, {tokens} tokens, {} bytes\n\n{:<44} {:>10} {:>10}\n",
        last.windows, last.bytes, "", "nats/token", "bits/byte"
    );
    let mut line = |label: String, score: &lacuna::likelihood::Likelihood, bytes: u64| {
        let (nats, bits) = (score.nats_per_token(), score.bits_per_byte(bytes));
        text.push_str(&format!("{label:<44} {nats:>10.3} {bits:>10.3}\n"));
    };
    for (stage, evaluation) in evaluations {
        for (name, score) in evaluation.scores.iter().filter(|(name, _)| is_own(*name)) {
            line(format!("{} (after {stage})", name.label()), score, evaluation.bytes);
        }
    }
    for name in [ScoreName::Bigram, ScoreName::Unigram] {
        if let Some(score) = last.get(name) {
            line(format!("{} (same corpus)", name.label()), score, last.bytes);
        }
    }
    text
}

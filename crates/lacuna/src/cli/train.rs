use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use lacuna::train::{
    Evaluation, Event, Outcome, Recipe, RunOptions, ScoreName, StepMetrics, run as run_recipe,
};
use lacuna::{GenerateOptions, Model, OpenOptions, select_device};
use std::io::IsTerminal;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Run a recipe: train, measure, write checkpoints.
///
/// Ctrl-C finishes the step, writes a checkpoint and ends; --resume goes on from it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lacuna train recipes/tiny.toml
  lacuna train recipes/tiny.toml --set stage.1.steps=2000 --set seed=7 --out runs/longer
  lacuna train recipes/tiny.toml --out runs/longer --resume")]
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
    /// Go on from the newest complete checkpoint
    #[arg(long)]
    resume: bool,
    /// Where the model trains
    #[arg(long, default_value = "cpu", value_parser = ["cpu", "cuda"])]
    device: String,
    /// No progress, only the results
    #[arg(long, short)]
    quiet: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let mut recipe = Recipe::load(&args.recipe, &args.set)?;
    if let Some(from) = &mut recipe.model.from {
        *from = lacuna::locate(from, !args.quiet && std::io::stderr().is_terminal())?;
    }
    let device = select_device(&args.device)?;
    let dir = match &args.out {
        Some(dir) => dir.clone(),
        None => default_directory(&recipe.name, args.resume),
    };
    let stop = Arc::new(AtomicBool::new(false));
    let on_interrupt = Arc::clone(&stop);
    ctrlc::set_handler(move || {
        if on_interrupt.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        note!("\nfinishing the step and writing a checkpoint; Ctrl-C again ends at once");
    })
    .context("installing the Ctrl-C handler")?;
    let options = RunOptions { dir: dir.clone(), resume: args.resume, device, stop: &stop };
    let mut progress = Progress::new(args.quiet, recipe.total_steps());
    let outcome = run_recipe(&recipe, &options, &mut |event| progress.show(&event));
    progress.bar.finish_and_clear();
    let outcome = outcome?;
    if outcome.interrupted {
        let model = outcome.model.display();
        out!(
            "stopped; checkpoint: {model}\ngo on with: lacuna train {} --out {} --resume",
            args.recipe.display(),
            dir.display()
        );
        return Ok(());
    }
    out!("{}", results(&recipe, &dir, &outcome)?.trim_end());
    Ok(())
}

/// runs/NAME, or the next free one; to resume, the newest that exists.
fn default_directory(name: &str, resume: bool) -> PathBuf {
    let numbered = |n: u32| match n {
        1 => Path::new("runs").join(name),
        n => Path::new("runs").join(format!("{name}-{n}")),
    };
    let free = (1..).find(|n| !numbered(*n).join("metrics.jsonl").exists()).unwrap_or(1);
    numbered(if resume { free.saturating_sub(1).max(1) } else { free })
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
        let template = "{bar:24} {pos}/{len} steps  {msg}  {eta} left";
        bar.set_style(ProgressStyle::with_template(template).expect("a fixed template"));
        Self { bar, quiet, terminal, total, tokens_per_second: 0.0 }
    }

    fn say(&self, text: &str) {
        if self.quiet {
            return;
        }
        if self.terminal {
            self.bar.println(text);
        } else {
            note!("{text}");
        }
    }

    fn show(&mut self, event: &Event<'_>) {
        match event {
            Event::Ready { data, model, step } => {
                let parameters: usize =
                    model.parameters().iter().map(|(_, v)| v.elem_count()).sum();
                let windows = data.train.dataset().windows();
                let window = data.train.dataset().window_len();
                self.say(&format!(
                    "{:.2} M parameters; {windows} training windows of {window} tokens, {} held out",
                    parameters as f64 / 1e6,
                    data.held_out.windows()
                ));
                if *step > 0 {
                    self.say(&format!("going on after step {step}"));
                }
                self.bar.set_position(*step);
                self.bar.reset_eta();
                self.bar.enable_steady_tick(Duration::from_millis(500));
            }
            Event::Step { metrics, .. } => self.step(metrics),
            Event::Checkpoint(path) => self.say(&format!("checkpoint {}", path.display())),
            Event::Evaluating(done, all) => {
                self.bar.set_message(format!("scoring held-out text {done}/{all}"));
            }
            Event::StageEnd { stage, evaluation } => {
                let mut text = format!("stage `{}` done", stage.name);
                if let Some(evaluation) = evaluation {
                    for (name, score) in &evaluation.scores {
                        let nats = score.nats_per_token();
                        text.push_str(&format!("; {} {nats:.3} nats/token", name.label()));
                    }
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

/// What a finished run prints: scores, a completion, where everything lies.
fn results(recipe: &Recipe, dir: &Path, outcome: &Outcome) -> Result<String> {
    // Before anything else is loaded: what the training itself took.
    let memory = peak_memory_bytes();
    let mut text = String::new();
    if !outcome.evaluations.is_empty() {
        text.push_str(&table(&outcome.evaluations));
    }
    let model = Model::open(&outcome.model, &OpenOptions::default())?;
    for prompt in &recipe.evaluation.prompts {
        // No more than the model has positions for: the training is done, and the rest of its report is wanted.
        let block = model.config().block_size().map_or(1, NonZeroUsize::get);
        let taken = model.tokenizer()?.encode_with_special_tokens(prompt)?.len() + block;
        let room = model.config().max_position_embeddings.saturating_sub(taken);
        let max_new_tokens = recipe.evaluation.max_new_tokens.min(room);
        let options = GenerateOptions { max_new_tokens, ..GenerateOptions::default() };
        let written = lacuna::generate(&model, prompt.as_str(), &options, |_| {})?;
        text.push_str(&format!(
            "\ncompletion ({:.2} tokens per forward):\n",
            written.tokens_per_forward()
        ));
        let whole = format!("{prompt}{}", written.text);
        whole.lines().for_each(|line| text.push_str(&format!("  | {line}\n")));
    }
    let dir = dir.display();
    text.push_str(&format!(
        "\nmodel        {dir}/final\nloss plot    {dir}/loss.png, {dir}/loss.svg\n\
         metrics      {dir}/metrics.jsonl\ncheckpoints  {dir}/checkpoints\nrecipe       {dir}/recipe.toml\n"
    ));
    if let Some(peak) = memory {
        text.push_str(&format!("memory       {:.0} MiB at most\n", peak as f64 / (1 << 20) as f64));
    }
    text.push_str(&format!("\ntry: lacuna generate --model {dir}/final 'def '\n"));
    Ok(text)
}

/// The most memory that this process has held, where the system tells.
fn peak_memory_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
}

/// Scores on held-out text, one line a score; baselines once.
fn table(evaluations: &[(String, Evaluation)]) -> String {
    let (_, last) = &evaluations[evaluations.len() - 1];
    let tokens = last.scores.first().map_or(0, |(_, s)| s.tokens);
    let mut text = format!(
        "\nheld-out text: {} windows, {tokens} tokens, {} bytes\n\n{:<44} {:>10} {:>10}\n",
        last.windows, last.bytes, "", "nats/token", "bits/byte"
    );
    let mut line = |label: String, score: &lacuna::train::Likelihood, bytes: u64| {
        let (nats, bits) = (score.nats_per_token(), score.bits_per_byte(bytes));
        text.push_str(&format!("{label:<44} {nats:>10.3} {bits:>10.3}\n"));
    };
    for (stage, evaluation) in evaluations {
        let own = |name: &ScoreName| !matches!(name, ScoreName::Unigram | ScoreName::Bigram);
        for (name, score) in evaluation.scores.iter().filter(|(n, _)| own(n)) {
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

//! Prints the end of a finished run: scores, completions, where everything lies.

use anyhow::Result;
use lacuna::samplers::FillRule;
use lacuna::train::{Evaluation, EvaluationRecipe, Outcome, Recipe, START, ScoreName, StageData};
use lacuna::{Attention, GenerateOptions, Model, OpenOptions};
use std::num::NonZeroUsize;
use std::path::Path;

use super::super::init::quoted;
use super::surroundings;

/// Prints the end of a finished run: scores, a completion, where everything lies.
pub(super) fn results(recipe: &Recipe, dir: &Path, outcome: &Outcome) -> Result<String> {
    // Before anything else is loaded: what the training itself took.
    let memory = surroundings::peak_memory_bytes();
    let mut text = String::new();
    if !outcome.evaluations.is_empty() {
        text.push_str(&table(&outcome.evaluations));
    }
    let model = Model::open(&outcome.model, &OpenOptions::default())?;
    for prompt in &recipe.evaluation.prompts {
        let options = completion(&model, &recipe.evaluation, prompt)?;
        let written = lacuna::generate(&model, prompt.as_str(), &options, |_| {})?;
        text.push_str(&format!(
            "\ncompletion ({:.2} tokens per forward):\n",
            written.tokens_per_forward()
        ));
        let whole = format!("{prompt}{}", written.text);
        whole.lines().for_each(|line| text.push_str(&format!("  | {line}\n")));
    }
    let model = quoted(&dir.join("final"));
    text.push('\n');
    text.push_str(&left_behind(dir));
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

/// The files that stand in a run's folder, a line for each kind. On a full disk some are missing.
fn left_behind(dir: &Path) -> String {
    let mut text = String::new();
    for (label, names) in [
        ("model", &["final"][..]),
        ("loss plot", &["loss.png", "loss.svg"]),
        ("report", &["report.html"]),
        ("metrics", &["metrics.jsonl"]),
        ("scores", &["results.json"]),
        ("record", &["run.json"]),
        ("checkpoints", &["checkpoints"]),
        ("recipe", &["recipe.toml"]),
        ("mean", &["final-ema"]),
        ("adapter", &["final-adapter"]),
    ] {
        let there = names.iter().map(|name| dir.join(name)).filter(|path| path.exists());
        let there: Vec<_> = there.map(|path| path.display().to_string()).collect();
        if !there.is_empty() {
            text.push_str(&format!("{label:<12} {}\n", there.join(", ")));
        }
    }
    text
}

/// The way in which a prompt is completed: by the most confident position a pass, which shows what the model itself can do, not how
/// fast; and by no more than the model has positions for, since the rest of the report is wanted.
pub(super) fn completion(
    model: &Model,
    wanted: &EvaluationRecipe,
    prompt: &str,
) -> Result<GenerateOptions> {
    let block = match model.config().attention {
        Attention::Full => 0,
        _ => model.config().block_size().map_or(1, NonZeroUsize::get),
    };
    let taken = model.tokenizer()?.encode_with_special_tokens(prompt)?.len() + block;
    let room = model.config().max_position_embeddings.saturating_sub(taken);
    let max_new_tokens = wanted.max_new_tokens.min(room);
    let fill = Some(FillRule::LowConfidence);
    Ok(GenerateOptions { max_new_tokens, fill, ..GenerateOptions::default() })
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
        for (name, score) in evaluation.scores.iter().filter(|(name, _)| !name.is_baseline()) {
            let when =
                if stage == START { "at the start".into() } else { format!("after {stage}") };
            line(format!("{} ({when})", name.label()), score, evaluation.bytes);
        }
    }
    for name in [ScoreName::Bigram, ScoreName::Unigram] {
        if let Some(score) = last.get(name) {
            line(format!("{} (same corpus)", name.label()), score, last.bytes);
        }
    }
    text
}

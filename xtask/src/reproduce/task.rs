//! Asks the program about a trained model, where the scores that training ends with don't say what an experiment asks.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::Value;
use sha2::Digest as _;

use super::Experiment;
use crate::cargo::run;

/// A number of a model.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Measure {
    /// Its name, which `scores` may list.
    name: String,
    /// The stage whose last checkpoint is asked, counted from 0; without it, the model that the run ends with.
    stage: Option<usize>,
    /// The arms that it is taken of; without it, all.
    #[serde(default)]
    arms: Vec<String>,
    /// Flags of `lacuna generate`, which goes on with the prompts of the experiment's text. The measure is the part of
    /// answers that are right to the last character of their line, in percent.
    generate: Option<Vec<String>>,
    /// Arguments of `lacuna`, with `{model}`, `{data}` and `{root}` (of the repository) in them. The measure stands at
    /// `value` in the object that the program prints.
    #[serde(default)]
    command: Vec<String>,
    /// A JSON pointer (RFC 6901).
    #[serde(default)]
    value: String,
}

impl Measure {
    /// Refuses one that says nothing, or of arms that there are not.
    pub(super) fn check(&self, experiment: &Experiment) -> Result<()> {
        let name = &self.name;
        ensure!(
            self.generate.is_some() != (!self.command.is_empty() && !self.value.is_empty()),
            "measure `{name}`: either `generate`, or `command` and `value`"
        );
        for arm in &self.arms {
            let known = experiment.arm.iter().any(|one| one.name == *arm);
            ensure!(known, "measure `{name}`: `{arm}` is no arm");
        }
        Ok(())
    }

    /// Tells whether a score is this measure, and a share of answers.
    pub(super) fn in_percent(&self, score: &str) -> bool {
        self.generate.is_some() && self.name == score
    }

    /// Tells whether it is taken of the models of an arm.
    pub(super) fn is_of(&self, arm: &str) -> bool {
        self.arms.is_empty() || self.arms.iter().any(|one| one == arm)
    }

    /// Takes the measure of a run's model, and what else comes with it, by name.
    pub(super) fn take(
        &self,
        program: &Path,
        run: &Path,
        data: &Path,
    ) -> Result<BTreeMap<String, f64>> {
        let model = match self.stage {
            Some(stage) => run.join(format!("checkpoints/step-{}", last_step(run, stage)?)),
            None => run.join("final"),
        };
        match &self.generate {
            Some(flags) => self.answers(program, &model, run, data, flags),
            None => self.asked(program, &model, run, data),
        }
    }

    fn answers(
        &self,
        program: &Path,
        model: &Path,
        folder: &Path,
        data: &Path,
        flags: &[String],
    ) -> Result<BTreeMap<String, f64>> {
        let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
        let file = self.name.chars().map(plain).collect::<String>();
        let out = folder.join(format!("answers-{file}.jsonl"));
        let mut command = Command::new(program);
        command.arg("generate").arg("--model").arg(model).arg("--quiet");
        command.arg("--prompts").arg(data.join("prompts.jsonl")).arg("--out").arg(&out);
        run(command.args(flags).stdout(std::process::Stdio::null()))?;
        let answers = std::fs::read_to_string(data.join("answers.json"))?;
        let answers: BTreeMap<String, String> = serde_json::from_str(&answers)?;
        let (mut right, mut tokens, mut passes) = (0, 0.0, 0.0);
        for line in std::fs::read_to_string(&out)?.lines() {
            let line: Value = serde_json::from_str(line)?;
            let id = line["id"].to_string();
            let text = line["text"].as_str().with_context(|| format!("answer {id} has no text"))?;
            let expected =
                answers.get(&id).with_context(|| format!("answer {id} was not asked"))?;
            right += usize::from(first_line(text) == *expected);
            tokens += line["tokens"].as_array().map_or(0, Vec::len) as f64;
            passes += line["forwards"].as_f64().unwrap_or(f64::NAN);
        }
        let share = 100.0 * right as f64 / answers.len() as f64;
        let speed = format!("{}, tokens a pass", self.name);
        Ok(BTreeMap::from([(self.name.clone(), share), (speed, tokens / passes)]))
    }

    fn asked(
        &self,
        program: &Path,
        model: &Path,
        folder: &Path,
        data: &Path,
    ) -> Result<BTreeMap<String, f64>> {
        // Several measures may stand in one answer.
        let name = sha2::Sha256::digest(self.command.join("\0").as_bytes());
        let name: String = name.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        let file = folder.join(format!("asked-{name}.json"));
        if !file.exists() {
            let mut command = Command::new(program);
            for argument in &self.command {
                let filled = argument
                    .replace("{model}", &model.display().to_string())
                    .replace("{data}", &data.display().to_string())
                    .replace("{root}", &crate::cargo::root().display().to_string());
                command.arg(filled);
            }
            let output = command.stderr(std::process::Stdio::inherit()).output()?;
            ensure!(output.status.success(), "measure `{}`: {}", self.name, output.status);
            std::fs::write(&file, output.stdout)?;
        }
        let said: Value = serde_json::from_str(&std::fs::read_to_string(&file)?)?;
        let number = said.pointer(&self.value).and_then(Value::as_f64);
        let number = number.with_context(|| {
            format!("measure `{}`: no number at {} of {}", self.name, self.value, file.display())
        })?;
        Ok(BTreeMap::from([(self.name.clone(), number)]))
    }
}

/// The step that ended a stage of a run.
fn last_step(run: &Path, stage: usize) -> Result<u64> {
    let path = run.join("results.json");
    let shown = || path.display().to_string();
    let text = std::fs::read_to_string(&path).with_context(shown)?;
    let results: Value = serde_json::from_str(&text).with_context(shown)?;
    let step = results["stages"][stage]["step"].as_u64();
    step.with_context(|| format!("{}: no stage {stage}, counted from 0", shown()))
}

/// A text's first line, without the spaces around it.
fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default().trim()
}

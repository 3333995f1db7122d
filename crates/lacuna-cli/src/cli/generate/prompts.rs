//! `--prompts IN.jsonl --out OUT.jsonl` continues many prompts, decoded together, a line each.

use anyhow::{Context, Result};
use lacuna::{
    Activations, CachePrecision, DraftSource, Engine, EngineOptions, Event, GenerateOptions, Id,
    Model, Pattern, Plan, Prompt, Resolved,
};
use lacuna_files::printable;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use super::super::answers::{self, Answers, Asked, Known, ids_of, name, objects, place, same_file};
use super::super::decode_args::{check_against, used};
use super::super::model_args::ModelArgs;
use super::super::progress::{At, Progress, count, is_quiet};
use super::super::ranges;
use super::super::show::{as_json, read_text};
use super::super::user_file::shown;
use super::super::{Usage, said};

/// Flags for many prompts.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Many prompts")]
pub(crate) struct PromptsArgs {
    /// Continue every prompt of a file: {"id": 1, "prompt": "text"} or {"id": 1, "prompt_ids": [5, 6]} a line; `-`
    /// reads stdin
    #[arg(long, value_name = "FILE", requires = "out",
        conflicts_with_all = ["prompt", "prompt_ids", "stream", "no_stream", "watch", "trace"])]
    pub(super) prompts: Option<PathBuf>,
    /// Write a JSON object a line, in the order of the prompts. A file that has some of them already is gone on with: run
    /// the same command again
    #[arg(long, value_name = "FILE", requires = "prompts")]
    out: Option<PathBuf>,
    /// Prompts that are decoded together at most
    #[arg(long, value_name = "N", requires = "prompts", default_value = "16", value_parser = ranges::size,
        allow_hyphen_values = true)]
    batch: NonZeroUsize,
}

/// One line of the file of prompts.
struct Entry {
    id: Value,
    prompt: Prompt,
}

impl PromptsArgs {
    /// Continues every prompt of the file `from`.
    pub(super) fn run(
        &self,
        from: &Path,
        model: &ModelArgs,
        (decode, draft, pattern): (&super::DecodeArgs, &super::DraftArgs, Option<Pattern>),
        as_object: bool,
    ) -> Result<()> {
        let out = self.out.as_deref().context("--prompts: give --out FILE too")?;
        if decode.is_reference() {
            let message = "--mode reference: the released algorithm decodes one text at a time; leave out --prompts or \
                           --mode";
            return Err(Usage(message.into()).into());
        }
        if out == Path::new("-") {
            let message =
                "--out -: expected a file, so that a run that was ended can be gone on with";
            return Err(Usage(message.into()).into());
        }
        if same_file(from, out) {
            return Err(Usage(format!("--out {}: that is the file of prompts", shown(out))).into());
        }
        let entries = entries(&read_text(from)?, &name(from))?;
        // Three bytes a token, as `work` reckons.
        let longest = entries.iter().map(|entry| match &entry.prompt {
            Prompt::Text(text) => text.len(),
            Prompt::Ids(ids) => 3 * ids.len(),
        });
        let mut work = decode.work(longest.max().unwrap_or(0));
        work.logit_rows = work.logit_rows.saturating_mul(self.batch.get().min(entries.len()));
        let memory = model.memory.unwrap_or_default();
        let model = model.open(work)?;
        let mut options = decode.sampled_options(&model)?;
        draft.set(decode, &mut options)?;
        options.pattern = pattern;
        // Rows of drafts are rows that the others wait for: they pay when few are under way.
        options.drafts.get_or_insert(DraftSource::None);
        // A fault that no prompt can change is said before anything is written.
        check_against(&model, &Prompt::Ids(Vec::new()), &options)?;
        Resolved::new(&model, vec![0], &options)?;
        let place = place(&model);
        let ids: Vec<Value> = entries.iter().map(|entry| entry.id.clone()).collect();
        let key = |at: usize| {
            let prompt: Prompt = entries[at].prompt.clone();
            Ok(key(&place, &Resolved::new(&model, prompt, &options)?))
        };
        let asked = Asked { noun: "prompt", ids: &ids, key: &key };
        let mut answers = Answers::open(out, &asked, &mut |_, _| {})?;
        let known = answers.known;
        let engine = EngineOptions {
            running_max: self.batch,
            memory: model.memory_left(memory),
            ..EngineOptions::default()
        };
        let mut batch = Batch::new(&model, &options, &entries, known.done);
        let began = Instant::now();
        let passes = batch.run(engine, &mut answers)?;
        answers.sync()?;
        batch.report(known, passes, began.elapsed().as_secs_f64(), as_object)?;
        match batch.failed + known.failed {
            0 => Ok(()),
            failed => anyhow::bail!(
                "{failed} of {} prompts failed; their lines in {} say why, and stay as they are: to try those again, give \
                 them to another --out",
                entries.len(),
                shown(out)
            ),
        }
    }
}

/// The prompts on their way through the engine, and their lines on the way to the file.
struct Batch<'a> {
    model: &'a Model,
    /// The path of the model; a part of every answer's key.
    place: PathBuf,
    options: &'a GenerateOptions,
    entries: &'a [Entry],
    /// Entries that have been given to the engine, or were done before.
    pushed: usize,
    /// Entries whose lines are written.
    written: usize,
    /// Their places among the entries, and the names of what was asked.
    running: HashMap<Id, (usize, String)>,
    /// Lines that wait for those before them.
    ready: BTreeMap<usize, Value>,
    failed: usize,
    tokens: Arc<AtomicUsize>,
    ended: Arc<AtomicUsize>,
}

impl<'a> Batch<'a> {
    fn new(
        model: &'a Model,
        options: &'a GenerateOptions,
        entries: &'a [Entry],
        done: usize,
    ) -> Self {
        Self {
            model,
            place: place(model),
            options,
            entries,
            pushed: done,
            written: done,
            running: HashMap::new(),
            ready: BTreeMap::new(),
            failed: 0,
            tokens: Arc::default(),
            ended: Arc::new(AtomicUsize::new(done)),
        }
    }

    /// Decodes all that is left; the passes it took.
    fn run(&mut self, options: EngineOptions, answers: &mut Answers) -> Result<usize> {
        let _line = self.progress();
        let most = options.running_max.get();
        let mut engine = Engine::new(self.model, options);
        loop {
            // A few wait, so that a place is taken as soon as it is free.
            while self.pushed < self.entries.len() && engine.len() < 2 * most {
                self.push(&mut engine);
            }
            if engine.is_empty() {
                self.write(answers)?;
                return Ok(engine.passes());
            }
            for event in engine.step() {
                let id = event.id();
                match event {
                    Event::Finished { completion: written, .. } => {
                        self.tokens.fetch_add(written.tokens.len(), Relaxed);
                        let mut line = as_json(&written);
                        if self.model.tokenizer.is_none() {
                            line["text"] = Value::Null;
                        }
                        let used = used(self.model, &self.options.sampling);
                        for part in ["sampling", "cache_precision"] {
                            line[part] = used[part].clone();
                        }
                        self.end(id, line);
                    }
                    Event::Failed { error, .. } => {
                        self.failed += 1;
                        self.end(id, json!({ "error": said(&error.into()) }));
                    }
                    Event::Text { .. } | Event::Refinement { .. } | Event::Block { .. } => {}
                }
            }
            self.write(answers)?;
        }
    }

    /// Gives the next prompt to the engine. One that can't be decoded fails alone.
    fn push(&mut self, engine: &mut Engine<'a>) {
        let at = self.pushed;
        self.pushed += 1;
        let prompt = self.entries[at].prompt.clone();
        let pushed = Resolved::new(self.model, prompt, self.options).and_then(|request| {
            let key = key(&self.place, &request);
            Ok((engine.push(request)?, key))
        });
        match pushed {
            Ok((id, key)) => drop(self.running.insert(id, (at, key))),
            Err(error) => {
                self.failed += 1;
                self.ready_at(at, json!({ "error": said(&error.into()) }));
            }
        }
    }

    fn end(&mut self, id: Id, mut line: Value) {
        if let Some((at, key)) = self.running.remove(&id) {
            line["request"] = key.into();
            self.ready_at(at, line);
        }
    }

    fn ready_at(&mut self, at: usize, line: Value) {
        self.ready.insert(at, line);
        self.ended.fetch_add(1, Relaxed);
    }

    /// Appends the lines that have all others before them.
    fn write(&mut self, answers: &mut Answers) -> Result<()> {
        while let Some(line) = self.ready.remove(&self.written) {
            answers.append(&self.entries[self.written].id, &line)?;
            self.written += 1;
        }
        Ok(())
    }

    fn progress(&self) -> Progress {
        let (tokens, ended) = (Arc::clone(&self.tokens), Arc::clone(&self.ended));
        let (all, before) = (self.entries.len(), self.written);
        let began = Instant::now();
        Progress::watching(move || {
            let (n, tokens) = (ended.load(Relaxed), tokens.load(Relaxed));
            let rate = tokens as f64 / began.elapsed().as_secs_f64().max(1e-9);
            let what = match n > before {
                true => format!("{} of {} prompts, {rate:.0} tokens/s", count(n), count(all)),
                false => format!("{} of {} prompts", count(n), count(all)),
            };
            At { what, part: Some((n as u64, all as u64)) }
        })
    }

    /// Tells what it took, in a line on stderr or an object on stdout.
    fn report(&self, known: Known, passes: usize, seconds: f64, as_object: bool) -> Result<()> {
        let (tokens, new) = (self.tokens.load(Relaxed), self.written - known.done);
        let rate = tokens as f64 / seconds.max(1e-9);
        if as_object {
            let object = json!({
                "prompts": new, "failed": self.failed, "tokens": tokens, "passes": passes, "seconds": seconds,
                "tokens_per_second": rate,
            });
            out!("{object}");
            return Ok(());
        }
        if is_quiet() {
            return Ok(());
        }
        let noun = if new == 1 { "prompt" } else { "prompts" };
        let earlier = match known.done {
            0 => String::new(),
            n => format!(" ({} were there already)", count(n)),
        };
        note!(
            "{} {noun}{earlier}, {} tokens in {seconds:.1} s, {rate:.1}/s, {} passes",
            count(new),
            count(tokens),
            count(passes)
        );
        Ok(())
    }
}

/// The file of prompts; its faults are named with their lines.
fn entries(text: &str, file: &str) -> Result<Vec<Entry>> {
    let objects = objects((text, file), ("prompt", EXPECTED), false, prompt)?;
    Ok(objects.into_iter().map(|(id, prompt)| Entry { id, prompt }).collect())
}

const EXPECTED: &str = r#"{"id": 1, "prompt": "text"} or {"id": 1, "prompt_ids": [5, 6]}"#;

fn prompt(mut object: Map<String, Value>) -> Result<Prompt, String> {
    let prompt = match (object.remove("prompt"), object.remove("prompt_ids")) {
        (Some(Value::String(text)), None) => Prompt::Text(text),
        (None, Some(ids)) => Prompt::Ids(ids_of("prompt_ids", ids)?),
        (Some(_), Some(_)) => return Err("both prompt and prompt_ids; give one of the two".into()),
        (Some(_), None) => return Err("the prompt is no text".into()),
        (None, None) => return Err(format!("no prompt; expected {EXPECTED}")),
    };
    match object.keys().next() {
        Some(key) => Err(format!(
            "unknown key `{}`: a line has an id and a prompt; flags hold for all of them",
            printable(key)
        )),
        None => Ok(prompt),
    }
}

/// A name for everything that an answer depends on: the model's place, the prompt, and every option. Drafts change none.
fn key(place: &Path, request: &Resolved) -> String {
    let plan = match &request.plan {
        Plan::Autoregressive(request) | Plan::Blocks(request) => json!(request),
        Plan::Reference(settings) => json!(settings),
    };
    let mut all =
        vec![json!(place.to_string_lossy()), json!(request.prompt), json!(request.stop), plan];
    // Exact settings are not named, so that files of earlier versions are continued.
    if request.cache != CachePrecision::F32 {
        all.push(request.cache.name().into());
    }
    if request.prompt_precision != Activations::F32 {
        all.push(request.prompt_precision.name().into());
    }
    if let Some(rule) = &request.constraint {
        all.push(json!({ "regex": rule.regex }));
    }
    answers::key(all)
}

//! `--prompts IN.jsonl --out OUT.jsonl`: many prompts, decoded together, a line each.

use anyhow::{Context, Result};
use lacuna::{Engine, EngineOptions, Event, GenerateOptions, Id, Model, Prompt, Resolved};
use lacuna_files::{Log, printable};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use super::super::decode_args::{ModelArgs, check_against, used};
use super::super::progress::{At, Progress, count};
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
    /// Write a JSON object a line, in the order of the prompts; a file that has some of them already is gone on with
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
        decode: &super::DecodeArgs,
        as_object: bool,
    ) -> Result<()> {
        let out = self.out.as_deref().context("--prompts: give --out FILE too")?;
        if decode.is_reference() {
            let message = "--mode reference: the released algorithm decodes one text at a time; leave out --prompts or \
                           --mode";
            return Err(Usage(message.into()).into());
        }
        if same_file(from, out) {
            return Err(Usage(format!("--out {}: that is the file of prompts", shown(out))).into());
        }
        let entries = entries(&read_text(from)?, &name(from))?;
        let longest = entries.iter().map(|entry| match &entry.prompt {
            Prompt::Text(text) => text.len(),
            Prompt::Ids(ids) => 3 * ids.len(),
        });
        let mut work = decode.work(longest.max().unwrap_or(0));
        work.logit_rows = work.logit_rows.saturating_mul(self.batch.get().min(entries.len()));
        let memory = model.memory.unwrap_or_default();
        let model = model.open(work)?;
        let options = decode.sampled_options(&model)?;
        // What no prompt can change is said before anything is written.
        check_against(&model, &Prompt::Ids(Vec::new()), &options)?;
        Resolved::new(&model, vec![0], &options)?;
        let (mut log, torn) =
            Log::resume(out).with_context(|| format!("opening {}", shown(out)))?;
        if torn > 0 {
            note!("note: {}: a line that was cut off is written again", shown(out));
        }
        let known = known(out, &entries, &model, &options)?;
        let engine = EngineOptions { running_max: self.batch, memory, ..EngineOptions::default() };
        let mut batch = Batch::new(&model, &options, &entries, known.done);
        batch.failed = known.failed;
        let began = Instant::now();
        let passes = batch.run(engine, &mut log, out)?;
        log.sync().with_context(|| format!("writing {}", shown(out)))?;
        let seconds = began.elapsed().as_secs_f64();
        batch.report(known.done, passes, seconds, as_object)?;
        match batch.failed {
            0 => Ok(()),
            failed => anyhow::bail!(
                "{failed} of {} prompts failed; their lines in {} say why",
                entries.len(),
                shown(out)
            ),
        }
    }
}

/// The prompts on their way through the engine, and their lines on the way to the file.
struct Batch<'a> {
    model: &'a Model,
    options: &'a GenerateOptions,
    entries: &'a [Entry],
    /// Entries that have been given to the engine, or were done before.
    pushed: usize,
    /// Entries whose lines are written.
    written: usize,
    running: HashMap<Id, usize>,
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
    fn run(&mut self, options: EngineOptions, log: &mut Log, out: &Path) -> Result<usize> {
        let _line = self.progress();
        let most = options.running_max.get();
        let mut engine = Engine::new(self.model, options);
        loop {
            // A few wait, so that a place is taken as soon as it is free.
            while self.pushed < self.entries.len() && engine.len() < 2 * most {
                self.push(&mut engine);
            }
            if engine.is_empty() {
                self.write(log, out)?;
                return Ok(engine.passes());
            }
            for event in engine.step() {
                let id = event.id();
                match event {
                    Event::Finished { written, .. } => {
                        self.tokens.fetch_add(written.tokens.len(), Relaxed);
                        let mut line = as_json(&written);
                        if self.model.tokenizer.is_none() {
                            line["text"] = Value::Null;
                        }
                        line["sampling"] = used(&self.options.sampling)["sampling"].clone();
                        self.end(id, line);
                    }
                    Event::Failed { error, .. } => {
                        self.failed += 1;
                        self.end(id, json!({ "error": said(&error.into()) }));
                    }
                    Event::Text { .. } | Event::Refinement { .. } | Event::Block { .. } => {}
                }
            }
            self.write(log, out)?;
        }
    }

    /// Gives the next prompt to the engine. One that can't be decoded fails alone.
    fn push(&mut self, engine: &mut Engine<'a>) {
        let at = self.pushed;
        self.pushed += 1;
        let prompt = self.entries[at].prompt.clone();
        let pushed = Resolved::new(self.model, prompt, self.options);
        match pushed.and_then(|request| engine.push(request)) {
            Ok(id) => drop(self.running.insert(id, at)),
            Err(error) => {
                self.failed += 1;
                self.ready_at(at, json!({ "error": said(&error.into()) }));
            }
        }
    }

    fn end(&mut self, id: Id, line: Value) {
        if let Some(at) = self.running.remove(&id) {
            self.ready_at(at, line);
        }
    }

    fn ready_at(&mut self, at: usize, mut line: Value) {
        line["id"] = self.entries[at].id.clone();
        self.ready.insert(at, line);
        self.ended.fetch_add(1, Relaxed);
    }

    /// Appends the lines that have all others before them.
    fn write(&mut self, log: &mut Log, out: &Path) -> Result<()> {
        while let Some(line) = self.ready.remove(&self.written) {
            log.append(format!("{line}\n").as_bytes())
                .with_context(|| format!("writing {}", shown(out)))?;
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

    /// What it took, in a line on stderr or an object on stdout.
    fn report(&self, before: usize, passes: usize, seconds: f64, as_object: bool) -> Result<()> {
        let (tokens, new) = (self.tokens.load(Relaxed), self.written - before);
        let rate = tokens as f64 / seconds.max(1e-9);
        if as_object {
            let object = json!({
                "prompts": new, "failed": self.failed, "tokens": tokens, "passes": passes, "seconds": seconds,
                "tokens_per_second": rate,
            });
            out!("{object}");
            return Ok(());
        }
        let earlier = match before {
            0 => String::new(),
            n => format!(" ({} were there already)", count(n)),
        };
        note!(
            "{} prompts{earlier}, {} tokens in {seconds:.1} s, {rate:.1}/s, {} passes",
            count(new),
            count(tokens),
            count(passes)
        );
        Ok(())
    }
}

/// The file of prompts; its faults are named with their lines.
fn entries(text: &str, file: &str) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    let mut lines: HashMap<String, usize> = HashMap::new();
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let entry = entry(line).map_err(|reason| anyhow::anyhow!("{file}:{number}: {reason}"))?;
        if let Some(first) = lines.insert(entry.id.to_string(), number) {
            let id = printable(&entry.id.to_string()).into_owned();
            anyhow::bail!("{file}:{number}: the id {id} is that of line {first}; expected another");
        }
        entries.push(entry);
    }
    match entries.is_empty() {
        true => anyhow::bail!("{file}: no prompt in it; expected {EXPECTED} a line"),
        false => Ok(entries),
    }
}

const EXPECTED: &str = r#"{"id": 1, "prompt": "text"} or {"id": 1, "prompt_ids": [5, 6]}"#;

fn entry(line: &str) -> Result<Entry, String> {
    let value: Value =
        serde_json::from_str(line).map_err(|error| format!("{error}; expected {EXPECTED}"))?;
    let Value::Object(mut object) = value else {
        return Err(format!("no JSON object; expected {EXPECTED}"));
    };
    let id = match object.remove("id") {
        Some(id @ (Value::String(_) | Value::Number(_))) => id,
        Some(_) => return Err("the id is neither a text nor a number".into()),
        None => return Err(format!("no id; expected {EXPECTED}")),
    };
    let prompt = match (object.remove("prompt"), object.remove("prompt_ids")) {
        (Some(Value::String(text)), None) => Prompt::Text(text),
        (None, Some(Value::Array(ids))) => {
            let id = |id: &Value| id.as_u64().and_then(|id| u32::try_from(id).ok());
            let ids: Option<Vec<u32>> = ids.iter().map(id).collect();
            Prompt::Ids(ids.ok_or("prompt_ids holds something else than token ids")?)
        }
        (Some(_), Some(_)) => return Err("both prompt and prompt_ids; give one of the two".into()),
        (Some(_), None) => return Err("the prompt is no text".into()),
        (None, Some(_)) => return Err("prompt_ids is no list of token ids".into()),
        (None, None) => return Err(format!("no prompt; expected {EXPECTED}")),
    };
    match object.keys().next() {
        Some(key) => Err(format!(
            "unknown key `{}`: a line has an id and a prompt; flags hold for all of them",
            printable(key)
        )),
        None => Ok(Entry { id, prompt }),
    }
}

/// What an earlier run has written.
struct Known {
    done: usize,
    failed: usize,
}

/// Compares the lines that are there with the prompts that they should be of.
fn known(out: &Path, entries: &[Entry], model: &Model, options: &GenerateOptions) -> Result<Known> {
    let mut known = Known { done: 0, failed: 0 };
    if !out.is_file() {
        return Ok(known);
    }
    let sampling = used(&options.sampling)["sampling"].clone();
    for (number, line) in (1..).zip(read_text(out)?.lines()) {
        let other = |reason: String| {
            let out = shown(out);
            anyhow::anyhow!("{out}:{number}: {reason}; give another --out, or remove {out}")
        };
        let line: Value = serde_json::from_str(line)
            .map_err(|error| other(format!("no line of an earlier run ({error})")))?;
        let entry = entries.get(known.done).ok_or_else(|| {
            other(format!("a line more than there are prompts ({})", entries.len()))
        })?;
        if line["id"] != entry.id {
            let (found, id) = (line["id"].to_string(), entry.id.to_string());
            let (found, id) = (printable(&found), printable(&id));
            return Err(other(format!("it has the id {found}, the prompt {id}")));
        }
        if line.get("error").is_some() {
            known.failed += 1;
        } else {
            if line["sampling"] != sampling {
                return Err(other("it was written with other sampling flags".into()));
            }
            let prompt = Resolved::new(model, entry.prompt.clone(), options)?.prompt;
            if line["prompt_tokens"] != prompt.len() {
                return Err(other("it is of another prompt with this id".into()));
            }
        }
        known.done += 1;
    }
    Ok(known)
}

/// The prompts' file as an error names it.
fn name(from: &Path) -> String {
    if from == Path::new("-") { "stdin".into() } else { shown(from) }
}

/// Whether two paths lead to one file.
fn same_file(a: &Path, b: &Path) -> bool {
    match (a.canonicalize(), b.canonicalize()) {
        (Ok(a), Ok(b)) => a == b && a.is_file(),
        _ => false,
    }
}

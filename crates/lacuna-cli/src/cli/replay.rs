//! `lacuna replay` verifies a trace and plays it, on a terminal or as a page.

use anyhow::{Context, Result};
use lacuna::samplers::trace::{Line, Mode, Replayed, Trace};
use lacuna::text::Tokenizer;
use lacuna_files::printable;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::canvas::{Canvas, State, Texts, pieces};
use super::console::Out;
use super::ranges;
use super::show::{finish_name, read_text};
use super::watch::{Screen, visible};

/// Show a recorded decode, refinement by refinement.
///
/// The trace is verified first: the fill rule runs again on the recorded candidates and must fill the same
/// positions and give the same tokens. On a terminal the refinements play; a pipe gets one line each.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lacuna generate --model M --trace t.jsonl 'def f(x):'
  lacuna replay t.jsonl --model M
  lacuna replay t.jsonl --model M --html t.html   a page with a slider")]
pub(crate) struct Args {
    /// A file that --trace wrote; `-` reads stdin
    #[arg(value_name = "TRACE")]
    trace: PathBuf,
    /// Write a self-contained HTML page with a slider over the refinements
    #[arg(long, value_name = "OUT.html")]
    html: Option<PathBuf>,
    /// The model that wrote it, or its tokenizer.json: shows text in place of token ids
    #[arg(long, short, value_name = "M")]
    model: Option<PathBuf>,
    /// Refinements a second
    #[arg(long, value_name = "X", default_value_t = 8.0, allow_hyphen_values = true, value_parser = ranges::per_second)]
    speed: f64,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let text = read_text(&args.trace)?;
    let trace = Trace::parse(&text).with_context(|| args.trace.display().to_string())?;
    let replayed = trace.replay().with_context(|| {
        format!("{} was changed or is damaged: it does not replay", args.trace.display())
    })?;
    if replayed.is_empty() {
        anyhow::bail!("{}: no request; --trace writes one", args.trace.display());
    }
    let tokenizer = args
        .model
        .as_deref()
        .map(|model| open_tokenizer(&lacuna::locate(model, &|_| {})?))
        .transpose()?;
    let texts = Texts(tokenizer.as_ref());
    let timelines: Vec<Timeline<'_>> =
        replayed.iter().map(|replayed| Timeline::new(&trace, replayed)).collect();
    if let Some(path) = &args.html {
        lacuna_files::write_file(path, page(&timelines, texts)?.as_bytes())?;
        for timeline in &timelines {
            note!("{}", timeline.summary());
        }
        note!("wrote {}", path.display());
        return Ok(());
    }
    if std::io::stdout().is_terminal() {
        return play(&timelines, texts, Duration::from_secs_f64(1.0 / args.speed));
    }
    let mut out = Out::new();
    for timeline in &timelines {
        timeline.print(texts, &mut out)?;
    }
    Ok(out.finish()?)
}

/// A model's tokenizer without its weights.
pub(crate) fn open_tokenizer(path: &Path) -> Result<Tokenizer> {
    let file = if path.is_dir() { path.join("tokenizer.json") } else { path.to_owned() };
    if file.extension().is_some_and(|extension| extension == "gguf") {
        let weights = lacuna::checkpoint::Weights::inspect(&file)?;
        let json = weights.tokenizer_json()?;
        let json = json.with_context(|| format!("{} has no tokenizer", file.display()))?;
        return Ok(Tokenizer::of_model(json.as_bytes(), weights.config().vocab_size, &file)?);
    }
    Ok(Tokenizer::from_file(&file)?)
}

/// One request of a verified trace.
struct Timeline<'a> {
    mode: Mode,
    /// The precision in which the prompt was read, if it was not exact.
    prompt_precision: Option<&'a str>,
    /// The format of keys and values, if it was less precise than they were computed.
    cache_precision: Option<&'a str>,
    /// The source of drafts, if there was one.
    drafts: Option<&'a str>,
    /// The regular expression that the text keeps to, if there is one.
    constraint: Option<&'a str>,
    replayed: &'a Replayed,
    /// All its lines but the header.
    lines: Vec<&'a Line>,
}

impl<'a> Timeline<'a> {
    fn new(trace: &'a Trace, replayed: &'a Replayed) -> Self {
        let (prompt_precision, cache_precision, drafts, constraint) = (None, None, None, None);
        let (mode, lines) = (Mode::Fused, Vec::new());
        let mut timeline =
            Self { mode, prompt_precision, cache_precision, drafts, constraint, replayed, lines };
        for line in &trace.lines {
            let request = match line {
                Line::Header { request, .. } | Line::Block { request, .. } => *request,
                Line::End { request, .. } => *request,
                Line::Refinement(refinement) => refinement.request,
            };
            match line {
                _ if request != replayed.request => {}
                Line::Header {
                    mode,
                    prompt_precision,
                    cache_precision,
                    drafts,
                    constraint,
                    ..
                } => {
                    timeline.mode = *mode;
                    timeline.prompt_precision = prompt_precision.as_deref();
                    timeline.cache_precision = cache_precision.as_deref();
                    timeline.drafts = drafts.as_deref();
                    timeline.constraint = constraint.as_deref();
                }
                _ => timeline.lines.push(line),
            }
        }
        timeline
    }

    fn mode(&self) -> &'static str {
        match self.mode {
            Mode::Fused => "fused",
            Mode::Reference => "reference",
            Mode::Autoregressive => "autoregressive",
        }
    }

    /// The fill rule; of next-token decoding none is asked for.
    fn rule(&self) -> String {
        match self.mode {
            Mode::Autoregressive => "token by token".to_owned(),
            _ => self.replayed.settings.fill.to_string(),
        }
    }

    fn finish(&self) -> &'static str {
        self.replayed.finish.map_or("a cut", finish_name)
    }

    fn summary(&self) -> String {
        let Replayed { request, settings, tokens, refinements, .. } = self.replayed;
        format!(
            "request {request} ({}, {}, blocks of {}{}): {} tokens in {refinements} refinements,\n\
             ended by {}; the replay agrees",
            self.mode(),
            self.rule(),
            settings.block_size(),
            self.prompt_precision.map_or_else(String::new, |name| format!(", prompt in {name}"))
                + &self
                    .cache_precision
                    .map_or_else(String::new, |name| format!(", keys and values in {name}"))
                + &self.drafts.map_or_else(String::new, |name| format!(", drafts by {name}"))
                + &self
                    .constraint
                    .map_or_else(String::new, |regex| format!(", held to {}", printable(regex))),
            tokens.len(),
            self.finish(),
        )
    }

    /// The text that was written.
    fn text(&self, texts: Texts<'_>) -> String {
        let Replayed { settings, tokens, text_len, .. } = self.replayed;
        texts.continued(&settings.prompt, &tokens[..*text_len])
    }

    /// A line per refinement: its block, and what it filled with which confidence.
    fn print(&self, texts: Texts<'_>, out: &mut impl Write) -> Result<()> {
        writeln!(out, "{}", self.summary())?;
        let mut canvas = Canvas::new(&self.replayed.settings);
        for line in &self.lines {
            canvas.take(line);
            let Line::Refinement(refinement) = line else { continue };
            let (mut shown, mut filled) = (String::new(), Vec::new());
            let pieces = pieces(&canvas.cells, texts).into_iter();
            for piece in pieces.filter(|piece| piece.end > refinement.block_start) {
                let text = quoted(&piece.text);
                shown.push_str(&text);
                if let State::Filled { confidence, fresh: true } = piece.state {
                    filled.push(format!("{text} {confidence:.3}"));
                }
            }
            let (start, number) = (refinement.block_start, refinement.refinement);
            writeln!(out, "  {start:>5}.{number:<3} {shown}   + {}", filled.join(", "))?;
        }
        let text = self.text(texts);
        Ok(writeln!(out, "{}", text.trim_end_matches('\n'))?)
    }

    /// The data that the page needs to draw every refinement.
    fn data(&self, ids: &mut BTreeSet<u32>) -> Value {
        let Replayed { request, settings, tokens, refinements, .. } = self.replayed;
        ids.extend(&settings.prompt);
        let steps: Vec<Value> = self.lines.iter().map(|line| step(line, ids)).collect();
        json!({
            "request": request,
            "mode": self.mode(),
            "rule": self.rule(),
            "blockSize": settings.block_size(),
            "seed": settings.sampling.seed,
            "temperature": settings.sampling.temperature,
            "promptPrecision": self.prompt_precision,
            "cachePrecision": self.cache_precision,
            "drafts": self.drafts,
            "constraint": self.constraint,
            "finish": self.finish(),
            "tokens": tokens.len(),
            "refinements": refinements,
            "prompt": settings.prompt,
            "steps": steps,
        })
    }
}

/// A line as the page reads it: `r`efinement, `b`lock or `e`nd.
fn step(line: &Line, ids: &mut BTreeSet<u32>) -> Value {
    match line {
        Line::Header { .. } => Value::Null,
        Line::Refinement(refinement) => {
            ids.extend(refinement.candidates.iter().map(|candidate| candidate.token));
            // Three digits are shown; more would only make the page large.
            let digits = |confidence: f64| (confidence * 1e3).round() / 1e3;
            let candidates: Vec<Value> = refinement
                .candidates
                .iter()
                .map(|c| json!([c.position, c.token, digits(c.confidence)]))
                .collect();
            json!({
                "k": "r",
                "at": refinement.block_start,
                "n": refinement.refinement,
                "c": candidates,
                "f": refinement.filled,
            })
        }
        Line::Block { block_start, tokens, .. } => {
            ids.extend(tokens);
            json!({ "k": "b", "at": block_start, "t": tokens })
        }
        Line::End { tokens, .. } => json!({ "k": "e", "n": tokens }),
    }
}

/// White space and control characters spelt out, so that a line stays a line.
fn quoted(text: &str) -> String {
    text.chars()
        .map(|char| match char {
            '\n' => '↵',
            '\t' => '→',
            char => visible(char),
        })
        .collect()
}

/// The refinements one after the other; the text stays when they are over.
fn play(timelines: &[Timeline<'_>], texts: Texts<'_>, pause: Duration) -> Result<()> {
    for timeline in timelines {
        let mut screen = Screen::open("replay")?;
        let mut canvas = Canvas::new(&timeline.replayed.settings);
        let mut number = 0;
        for line in &timeline.lines {
            canvas.take(line);
            let refinement = matches!(line, Line::Refinement(_));
            number += usize::from(refinement);
            let of = timeline.replayed.refinements;
            screen.draw(&canvas, texts, &format!("refinement {number} of {of}"))?;
            if refinement {
                std::thread::sleep(pause);
            }
        }
        std::thread::sleep(pause);
        drop(screen);
        let text = timeline.text(texts);
        out!("{}", text.trim_end_matches('\n'));
        note!("{}", timeline.summary());
    }
    Ok(())
}

/// The style of refinements on a page, and the script that draws them into its element `requests`.
pub(crate) const STYLE: &str = include_str!("replay.css");
pub(crate) const SCRIPT: &str = include_str!("replay.js");

/// The page: the template, which escapes what is put into it.
fn page(timelines: &[Timeline<'_>], texts: Texts<'_>) -> Result<String> {
    let mut ids = BTreeSet::new();
    let requests: Vec<Value> = timelines.iter().map(|timeline| timeline.data(&mut ids)).collect();
    let plain: Vec<String> = timelines.iter().map(|timeline| timeline.text(texts)).collect();
    let mut engine = minijinja::Environment::new();
    engine.set_auto_escape_callback(|_| minijinja::AutoEscape::Html);
    let page = engine.template_from_str(include_str!("replay.html"))?;
    let data = json!({ "requests": requests, "texts": spellings(ids, texts) });
    let data = minijinja::value::Serde(data);
    let (style, script) = (STYLE, SCRIPT);
    let text = plain.join("\n\n");
    Ok(page.render(minijinja::context! { text, data, style, script })?)
}

/// The text of each token. One that is no text by itself goes as its bytes: the page joins them.
fn spellings(ids: BTreeSet<u32>, texts: Texts<'_>) -> Map<String, Value> {
    let spelling = |id| match String::from_utf8(texts.bytes(id)) {
        Ok(text) => Value::from(text),
        Err(bytes) => Value::from(bytes.into_bytes()),
    };
    ids.into_iter().map(|id| (id.to_string(), spelling(id))).collect()
}

/// The data that a page needs to draw the requests of several traces: a title and a trace for each, of which the request of this
/// number is drawn. Traces that can't be read are left out, and so is one that does not replay.
pub(crate) fn page_data(
    traces: &[(String, String, usize)],
    tokenizer: Option<&Tokenizer>,
) -> Value {
    let (mut ids, mut requests) = (BTreeSet::new(), Vec::new());
    for (title, text, number) in traces {
        let Ok(trace) = Trace::parse(text) else { continue };
        let Ok(replayed) = trace.replay() else { continue };
        let Some(own) = replayed.iter().find(|replayed| replayed.request == *number) else {
            continue;
        };
        let mut data = Timeline::new(&trace, own).data(&mut ids);
        data["title"] = Value::from(title.as_str());
        requests.push(data);
    }
    json!({ "requests": requests, "texts": spellings(ids, Texts(tokenizer)) })
}

//! Shows what the commands that write text share: output flags, streaming, traces, the JSON object.

use anyhow::{Context, Result};
use lacuna::samplers::Event;
use lacuna::samplers::trace::Line;
use lacuna::{
    Attention, Completion, FinishReason, GenerateOptions, Model, Prompt, Resolved, TokenText,
    TraceFile,
};
use serde_json::{Value, json};
use std::cell::{Cell, OnceCell};
use std::io::{Error, ErrorKind, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use super::canvas::{Canvas, Texts};
use super::console::Out;
use super::decode_args::check_against;
use super::progress::{At, Layers, Progress, count};
use super::sizes::shown;
use super::watch::Screen;

/// Flags that say how the text is shown.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Output")]
pub(crate) struct ShowArgs {
    /// Print text as soon as its block is finished; on a terminal chat, generate and fill do without being told
    #[arg(long, conflicts_with = "json")]
    pub(crate) stream: bool,
    /// Print text when all of it is written
    #[arg(long, conflicts_with = "stream")]
    no_stream: bool,
    /// Show the denoising live on the terminal
    #[arg(long, conflicts_with = "stream")]
    watch: bool,
    /// Record every refinement: `lacuna replay FILE` shows them
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    /// Print nothing but the text
    #[arg(long, short)]
    pub(crate) quiet: bool,
    /// The decoding of the text that is shown.
    #[arg(skip)]
    rule: OnceCell<String>,
    /// True if the command has its own word for a text that is cut off.
    #[arg(skip)]
    pub(crate) ends_by_itself: Cell<bool>,
}

impl ShowArgs {
    /// The same, streaming if stdout is a terminal and nothing else was asked for.
    pub(crate) fn for_people(&self, model: &Model) -> Self {
        let other = self.json || self.watch || self.no_stream || model.tokenizer.is_none();
        let stream = self.stream || (!other && std::io::stdout().is_terminal());
        Self { stream, ..self.clone() }
    }

    /// The trace that was asked for; its file is made when the first request begins.
    pub(crate) fn trace(&self) -> Option<TraceFile> {
        self.trace.as_deref().map(TraceFile::new)
    }

    /// Gets ready for one decode. Call [`Show::event`] with all its events, then [`Show::end`].
    pub(crate) fn begin<'a>(
        &self,
        model: &'a Model,
        prompt: &Prompt,
        options: &'a GenerateOptions,
        trace: Option<&'a mut TraceFile>,
    ) -> Result<Show<'a>> {
        check_against(model, prompt, options)?;
        let resolved = Resolved::new(model, prompt.clone(), options)?;
        self.rule.get_or_init(|| resolved.rule());
        let stream = match self.stream {
            true => Some(Streamed::new(model, &resolved.prompt, &options.stop)?),
            false => None,
        };
        let progress = (!self.watch).then(|| Decoding::of(model, prompt, options));
        let mut show = Show { stream, trace, watch: None, progress, broken: None };
        if show.trace.is_none() && !self.watch {
            return Ok(show);
        }
        let header = resolved.trace_header()?;
        if let Some(trace) = &mut show.trace {
            let opened = trace.open();
            opened.with_context(|| format!("creating the trace {}", trace.path().display()))?;
            let begun = trace.begin(&header);
            tracing(trace.path(), begun)?;
        }
        if self.watch {
            let Line::Header { settings, .. } = &header else { unreachable!("made as a header") };
            let texts = Texts(model.tokenizer.as_deref());
            let (screen, canvas) = (Screen::open("--watch")?, Canvas::new(settings));
            show.watch = Some(Watch { screen, canvas, texts, passes: 0 });
        }
        Ok(show)
    }

    /// Prints the result: the JSON object with `more` in it, else the text (unless it was streamed) and, on
    /// stderr, what it cost.
    pub(crate) fn print(&self, text: &str, written: &Completion, more: Value) -> Result<()> {
        let mut out = Out::new();
        if self.json {
            let mut object = as_json(written);
            object["text"] = text.into();
            if let (Value::Object(object), Value::Object(more)) = (&mut object, more) {
                object.extend(more);
            }
            writeln!(out, "{object}")?;
            return Ok(out.finish()?);
        }
        if !self.stream {
            out.write_all(text.as_bytes())?;
        }
        // A file gets the text as it is; a terminal's next line begins at its beginning.
        if out.is_terminal() && !text.is_empty() && !text.ends_with('\n') {
            writeln!(out)?;
        }
        out.finish()?;
        if !self.quiet {
            let rule = self.rule.get().map_or("", String::as_str);
            note!("{}{}", summary(written, rule), drawn(&more));
            if written.finish == FinishReason::Length && !self.ends_by_itself.get() {
                note!(
                    "cut off after {} tokens; --max-new-tokens N writes more",
                    written.tokens.len()
                );
            }
        }
        Ok(())
    }
}

/// The law by which tokens were drawn, if it was not the most probable one each time.
fn drawn(more: &Value) -> String {
    let sampling = &more["sampling"];
    let number = |key: &str| sampling[key].as_f64();
    let mut words = String::new();
    if let Some(temperature) = number("temperature").filter(|temperature| *temperature > 0.0) {
        words += &format!(", drawn at temperature {temperature}");
        for (key, name) in [("top_p", "top-p"), ("top_k", "top-k"), ("min_p", "min-p")] {
            words.extend(number(key).map(|value| format!(", {name} {value}")));
        }
    }
    if let Some(penalty) = number("repetition_penalty").filter(|penalty| *penalty != 1.0) {
        words += &format!(", repetition penalty {penalty}");
    }
    for (key, name) in [("frequency_penalty", "frequency"), ("presence_penalty", "presence")] {
        let penalty = number(key).filter(|penalty| *penalty != 0.0);
        words.extend(penalty.map(|penalty| format!(", {name} penalty {penalty}")));
    }
    words
}

/// One decode that is being shown. Failures wait until its end: an observer can't return them.
pub(crate) struct Show<'a> {
    stream: Option<Streamed<'a>>,
    trace: Option<&'a mut TraceFile>,
    watch: Option<Watch<'a>>,
    progress: Option<Decoding>,
    broken: Option<anyhow::Error>,
}

impl Show<'_> {
    /// Text that goes before what is streamed.
    pub(crate) fn lead(&mut self, text: &str) {
        if let Some(stream) = &mut self.stream {
            stream.lead = text.to_owned();
        }
    }

    /// Takes an event.
    pub(crate) fn event(&mut self, event: Event<'_>) {
        if self.broken.is_none() {
            self.broken = self.try_event(event).err();
        }
    }

    fn try_event(&mut self, event: Event<'_>) -> Result<()> {
        match &self.progress {
            Some(progress) if self.stream.is_none() => progress.take(event),
            // The text is on its way, and tells by itself.
            _ => self.progress = None,
        }
        if let Some(stream) = &mut self.stream {
            match event {
                Event::Block(block) => stream.show(block.generated, block.text_len)?,
                Event::Refinement(_) => stream.begin()?,
            }
        }
        if self.trace.is_none() && self.watch.is_none() {
            return Ok(());
        }
        let line = Line::from(event);
        if let Some(watch) = &mut self.watch {
            watch.take(&line)?;
        }
        match &mut self.trace {
            Some(trace) => {
                let written = trace.write(line);
                tracing(trace.path(), written)
            }
            None => Ok(()),
        }
    }

    /// Closes what was open; the first failure of any event.
    pub(crate) fn end(mut self, written: &Completion) -> Result<()> {
        drop((self.watch.take(), self.progress.take()));
        if let Some(error) = self.broken {
            return Err(error);
        }
        if let Some(stream) = self.stream {
            stream.finish()?;
        }
        match self.trace {
            Some(trace) => {
                let ended = trace.end(written);
                tracing(trace.path(), ended)
            }
            None => Ok(()),
        }
    }
}

/// The progress of a decode that is not streamed, or that still reads its prompt.
struct Decoding {
    tokens: Arc<AtomicUsize>,
    passes: Arc<AtomicUsize>,
    _line: Progress,
}

impl Decoding {
    fn of(model: &Model, prompt: &Prompt, options: &GenerateOptions) -> Self {
        let (tokens, passes) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let layers = Layers::of(model, 1);
        let read = match prompt {
            Prompt::Ids(ids) => format!("reading {} tokens", count(ids.len())),
            Prompt::Text(text) => format!("reading {}", shown(text.len() as u64)),
        };
        let most = options.max_new_tokens;
        let at = (Arc::clone(&tokens), Arc::clone(&passes));
        let line = Progress::watching(move || match (at.0.load(Relaxed), at.1.load(Relaxed)) {
            (_, 0) => At { what: read.clone(), part: Some(layers.part()) },
            (n, passes) => At {
                what: format!(
                    "{} tokens of at most {}, {} passes",
                    count(n),
                    count(most),
                    count(passes)
                ),
                part: Some((n as u64, most as u64)),
            },
        });
        Self { tokens, passes, _line: line }
    }

    fn take(&self, event: Event<'_>) {
        match event {
            Event::Refinement(refinement) => {
                self.passes.fetch_add(1, Relaxed);
                self.tokens.fetch_add(refinement.filled.len(), Relaxed);
            }
            Event::Block(block) => self.tokens.store(block.generated.len(), Relaxed),
        }
    }
}

/// A live view.
struct Watch<'a> {
    screen: Screen,
    canvas: Canvas,
    texts: Texts<'a>,
    passes: usize,
}

impl Watch<'_> {
    fn take(&mut self, line: &Line) -> Result<()> {
        self.canvas.take(line);
        self.passes += usize::from(matches!(line, Line::Refinement(_)));
        let status =
            format!("{} positions, refinement {}", self.canvas.new_cells().len(), self.passes);
        self.screen.draw(&self.canvas, self.texts, &status)
    }
}

/// The attempt with a trace, if it failed.
fn tracing<T>(path: &Path, done: std::io::Result<T>) -> Result<T> {
    done.with_context(|| format!("writing the trace {}", path.display()))
}

/// Prints text as its blocks finish, never taking anything back.
struct Streamed<'a> {
    text: TokenText<'a>,
    /// New tokens that `text` has had.
    taken: usize,
    /// Text that is still to be printed before it.
    lead: String,
    out: Out,
}

impl<'a> Streamed<'a> {
    fn new(model: &'a Model, prompt: &[u32], stop: &'a [String]) -> Result<Self> {
        let text = TokenText::new(model.tokenizer()?, prompt, stop)?;
        Ok(Self { text, taken: 0, lead: String::new(), out: Out::new() })
    }

    /// Prints what goes before the text.
    fn begin(&mut self) -> Result<()> {
        if !self.lead.is_empty() {
            self.out.write_all(std::mem::take(&mut self.lead).as_bytes())?;
            self.out.flush()?;
        }
        Ok(())
    }

    /// Prints what is certain of the text so far: whole characters, and nothing that a stop text may cut.
    fn show(&mut self, tokens: &[u32], text_len: usize) -> Result<()> {
        self.begin()?;
        let text_len = text_len.max(self.taken);
        self.text.push(&tokens[self.taken..text_len])?;
        self.taken = text_len;
        let certain = self.text.certain();
        if !certain.is_empty() {
            self.out.write_all(certain.as_bytes())?;
            self.out.flush()?;
        }
        Ok(())
    }

    fn finish(mut self) -> Result<()> {
        self.begin()?;
        let (text, given) = self.text.finish()?;
        self.out.write_all(&text.as_bytes()[given..])?;
        Ok(self.out.finish()?)
    }
}

/// A text from a file, or from stdin for `-`.
pub(crate) fn read_text(path: &Path) -> Result<String> {
    if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context("reading text from stdin")?;
        return Ok(text);
    }
    let text = lacuna_files::read_any(path, super::LONGEST_TEXT).and_then(|bytes| {
        let no_text = "stream did not contain valid UTF-8";
        String::from_utf8(bytes).map_err(|_| Error::new(ErrorKind::InvalidData, no_text))
    });
    text.with_context(|| format!("reading {}", path.display()))
}

/// The object that `--json` prints.
pub(crate) fn as_json(written: &Completion) -> Value {
    let mut object = json!({
        "text": written.text,
        "tokens": written.tokens,
        "prompt_tokens": written.prompt_tokens,
        "prompt_precision": written.prompt_precision.name(),
        "forwards": written.forwards,
        "draft": written.draft_source.name(),
        "drafted_blocks": written.drafts.drafted_blocks,
        "accepted_blocks": written.drafts.accepted_blocks,
        "speculative_passes": written.drafts.speculative_passes,
        "passes_saved": written.drafts.passes_saved,
        "finish_reason": finish_name(written.finish),
        "tokens_per_forward": written.tokens_per_forward(),
        "seconds": { "prefill": written.seconds.prefill, "decode": written.seconds.decode },
    });
    if let Some(attention) = written.attention.filter(|one| *one != Attention::BlockCausal) {
        object["attention"] = attention.name().into();
    }
    object
}

/// `eos`, `length` or `stop`.
pub(crate) fn finish_name(finish: FinishReason) -> &'static str {
    match finish {
        FinishReason::Eos => "eos",
        FinishReason::Length => "length",
        FinishReason::Stop => "stop",
    }
}

/// One line on what it cost.
pub(crate) fn summary(written: &Completion, rule: &str) -> String {
    let n = written.tokens.len();
    let rate = n as f64 / written.seconds.decode.max(1e-9);
    // No digits that say nothing: the line fits one of a terminal.
    let digits = usize::from(rate < 100.0);
    let saved = match written.drafts.passes_saved {
        0 => String::new(),
        n => format!(", drafts saved {n}"),
    };
    let attention = match written.attention {
        Some(other) if other != Attention::BlockCausal => format!(", {other} attention"),
        _ => String::new(),
    };
    format!(
        "{n} tokens, {:.2} per forward ({rule}{attention}{saved}), {rate:.digits$}/s; prompt {:.1} s, text {:.1} s",
        written.tokens_per_forward(),
        written.seconds.prefill,
        written.seconds.decode,
    )
}

/// Token ids as the command line takes them.
pub(crate) fn ids(tokens: &[u32]) -> String {
    tokens.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

use anyhow::{Context, Result};
use lacuna::samplers::Event;
use lacuna::{Model, Prompt, StopReason, Written};
use serde_json::json;
use std::io::{IsTerminal, Read, Write};

use super::Usage;
use super::decode_args::{DecodeArgs, ModelArgs};

/// Continue a text.
///
/// Block-diffusion checkpoints are decoded block by block, autoregressive ones token by token; which one it is
/// the checkpoint says.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lacuna generate --model M 'def quicksort(xs):'
  lacuna generate --model M --threshold 0.9 --json 'fn main() {'
  cat half.py | lacuna generate --model M --stream -")]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// The text to continue; `-` reads it from stdin
    #[arg(value_name = "PROMPT")]
    prompt: Option<String>,
    #[command(flatten)]
    decode: DecodeArgs,
    /// Print text as soon as its block is finished
    #[arg(long, conflicts_with = "json")]
    stream: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Print nothing but the text
    #[arg(long, short)]
    quiet: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let prompt = prompt(args)?;
    let model = args.model.open()?;
    let options = args.decode.options(&model);
    let mut stream = args.stream.then(|| Streamed::new(&model)).transpose()?;
    let mut broken = None;
    let written = lacuna::generate(&model, prompt.clone(), &options, |event| {
        if let (Some(stream), Event::Block(block)) = (&mut stream, event) {
            let shown = &block.generated[..block.text_len];
            broken = stream.show(shown, &options.stop).err().or(broken.take());
        }
    })?;
    if let Some(error) = broken {
        return Err(error);
    }
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", as_json(&written))?;
        return Ok(());
    }
    match stream {
        Some(stream) => stream.finish(&written.text)?,
        None => {
            // On a terminal the prompt is shown with its continuation; a pipe gets the new text alone.
            if let (Prompt::Text(text), true) = (&prompt, out.is_terminal() && !args.quiet) {
                write!(out, "{text}")?;
            }
            write!(out, "{}", written.text)?;
            if model.tokenizer.is_none() {
                write!(out, "{}", ids(&written.tokens))?;
            }
            writeln!(out)?;
        }
    }
    if !args.quiet {
        eprintln!("{}", summary(&written));
    }
    Ok(())
}

fn prompt(args: &Args) -> Result<Prompt> {
    match (&args.decode.prompt_ids, args.prompt.as_deref()) {
        (Some(_), Some(_)) => Err(Usage("give PROMPT or --prompt-ids, one of the two".into()).into()),
        (Some(ids), None) => Ok(Prompt::Ids(ids.0.clone())),
        (None, Some("-")) => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("reading the prompt from stdin")?;
            Ok(Prompt::Text(text))
        }
        (None, Some(text)) => Ok(Prompt::Text(text.to_owned())),
        (None, None) => Err(Usage("no PROMPT; give a text, `-` for stdin, or --prompt-ids".into()).into()),
    }
}

/// Prints text as its blocks finish, never taking anything back.
struct Streamed<'a> {
    model: &'a Model,
    shown: String,
}

impl<'a> Streamed<'a> {
    fn new(model: &'a Model) -> Result<Self> {
        model.tokenizer()?;
        Ok(Self { model, shown: String::new() })
    }

    /// Prints what is certain of the text so far: whole characters, and nothing that a stop text may cut.
    fn show(&mut self, tokens: &[u32], stop: &[String]) -> Result<()> {
        let text = self.model.tokenizer()?.decode(tokens)?;
        let held_back = stop.iter().map(|s| s.len().saturating_sub(1)).max().unwrap_or(0);
        let mut end = text.trim_end_matches('\u{fffd}').len().saturating_sub(held_back);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        end = stop.iter().filter_map(|s| text.find(s.as_str())).fold(end, usize::min);
        self.print(&text[..end])
    }

    fn print(&mut self, text: &str) -> Result<()> {
        if let Some(new) = text.strip_prefix(self.shown.as_str()) {
            let mut out = std::io::stdout().lock();
            out.write_all(new.as_bytes())?;
            out.flush()?;
            self.shown.push_str(new);
        }
        Ok(())
    }

    fn finish(mut self, text: &str) -> Result<()> {
        self.print(text)?;
        Ok(writeln!(std::io::stdout())?)
    }
}

fn ids(tokens: &[u32]) -> String {
    tokens.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

/// The object of cli.md.
pub(crate) fn as_json(written: &Written) -> serde_json::Value {
    json!({
        "text": written.text,
        "tokens": written.tokens,
        "prompt_tokens": written.prompt_tokens,
        "forwards": written.forwards,
        "finish_reason": finish_name(written.finish),
        "tokens_per_forward": written.tokens_per_forward(),
        "seconds": { "prefill": written.seconds.prefill, "decode": written.seconds.decode },
    })
}

fn finish_name(finish: StopReason) -> &'static str {
    match finish {
        StopReason::Eos => "eos",
        StopReason::Length => "length",
        StopReason::Stop => "stop",
    }
}

/// One line on what it cost.
pub(crate) fn summary(written: &Written) -> String {
    let n = written.tokens.len();
    format!(
        "{n} tokens in {:.2} s: {:.1} tokens/s, {:.2} tokens per forward ({} forwards), ended by {}",
        written.seconds.decode,
        n as f64 / written.seconds.decode.max(1e-9),
        written.tokens_per_forward(),
        written.forwards,
        finish_name(written.finish)
    )
}

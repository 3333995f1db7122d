use anyhow::{Context, Result};
use lacuna::data::{ChatTemplate, Message, RenderOptions};
use lacuna::{GenerateOptions, Model, Prompt, Written};
use serde_json::Value;
use std::io::{BufRead, IsTerminal};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use super::decode_args::{DecodeArgs, ModelArgs};
use super::show::{ShowArgs, TraceFile, read_text};

/// Text of a conversation that memory is planned for.
const CONVERSATION_BYTES: usize = 6000;

/// Converse with an instruct model.
///
/// With MESSAGE, one answer. Without, a conversation: every line is a message, and the model sees all that was
/// said before; Ctrl-D ends it. The checkpoint's own chat template is used; block-diffusion checkpoints without
/// one are spoken to as Seed-Coder is.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lacuna chat --model M                                a conversation
  lacuna chat --model M 'Reverse a list in Rust.'
  git diff | lacuna chat --model M --system 'Review this change.' -")]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// What to say; `-` reads it from stdin
    #[arg(value_name = "MESSAGE", allow_negative_numbers = true)]
    message: Option<String>,
    /// What the model is told first
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    #[command(flatten)]
    decode: DecodeArgs,
    #[command(flatten)]
    show: ShowArgs,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let message = match args.message.as_deref() {
        Some("-") => Some(read_text(Path::new("-"))?),
        Some(text) => Some(text.to_owned()),
        None => None,
    };
    let model = args.model.open(args.decode.work(CONVERSATION_BYTES))?;
    let options = args.decode.options(&model);
    let mut turns = Turns { args, model: &model, options: &options, trace: args.show.trace() };
    if let Some(ids) = &args.decode.prompt_ids {
        if message.is_some() {
            let message = "give MESSAGE or --prompt-ids, one of the two".into();
            return Err(super::Usage(message).into());
        }
        turns.answer(Prompt::Ids(ids.0.clone()))?;
        return Ok(());
    }
    let format = model.chat_format()?;
    let mut said: Vec<Message> =
        args.system.iter().map(|text| Message::new("system", text)).collect();
    if let Some(message) = message {
        said.push(Message::new("user", message));
        turns.answer(prompt(&model, &format, &said)?)?;
        return Ok(());
    }
    let asking = std::io::stdin().is_terminal() && !args.show.quiet;
    loop {
        if asking {
            super::console::message(format_args!("> "));
        }
        let mut line = String::new();
        if std::io::stdin().lock().read_line(&mut line).context("reading stdin")? == 0 {
            return Ok(());
        }
        let line = line.trim_end_matches(['\n', '\r']);
        if line.trim().is_empty() {
            continue;
        }
        said.push(Message::new("user", line));
        let written = turns.answer(prompt(&model, &format, &said)?)?;
        said.push(Message::new("assistant", written.text));
    }
}

/// The conversation up to where the assistant is to speak.
fn prompt(model: &Model, format: &ChatTemplate, said: &[Message]) -> Result<Prompt> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let options = RenderOptions {
        add_generation_prompt: true,
        now: i64::try_from(now).unwrap_or(0),
        ..RenderOptions::default()
    };
    Ok(Prompt::Ids(format.encode(model.tokenizer()?, said, &options)?))
}

/// What all answers of a conversation share.
struct Turns<'a> {
    args: &'a Args,
    model: &'a Model,
    options: &'a GenerateOptions,
    trace: Option<TraceFile>,
}

impl Turns<'_> {
    /// Writes one answer and prints it.
    fn answer(&mut self, prompt: Prompt) -> Result<Written> {
        let show = &self.args.show;
        let mut shown = show.begin(self.model, &prompt, self.options, self.trace.as_mut())?;
        let written = lacuna::generate(self.model, prompt.clone(), self.options, |event| {
            shown.event(event);
        })?;
        shown.end(&written)?;
        let mut text = written.text.clone();
        if !show.json && !std::io::stdout().is_terminal() {
            // Answers are lines of their own in a pipe too.
            if show.stream {
                out!("");
            } else {
                text.push('\n');
            }
        }
        show.print(&text, &written, Value::Null)?;
        Ok(written)
    }
}

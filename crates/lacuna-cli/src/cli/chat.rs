//! `lacuna chat` holds a conversation with a model.

use anyhow::{Context, Result};
use lacuna::text::{ChatTemplate, Message, RenderOptions};
use lacuna::{
    Algorithm, Completion, Error, GenerateOptions, Model, Prompt, Session, TraceFile, algorithm,
};
use std::io::{BufRead, IsTerminal};
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use super::decode_args::{DecodeArgs, used};
use super::guidance_args::DraftArgs;
use super::model_args::ModelArgs;
use super::progress::count;
use super::show::{ShowArgs, read_text};

mod terminal;

/// Text of a conversation that memory is planned for.
const CONVERSATION_BYTES: usize = 6000;

/// Converse with an instruct model.
///
/// With MESSAGE, one answer. Without, a conversation in which the model sees all that was said before: on a
/// terminal with line editing and commands (/help), from a pipe every line is a message. Ctrl-C stops an answer,
/// Ctrl-D ends the conversation. An answer ends where the model ends its turn. The checkpoint's own chat template
/// is used; block-diffusion checkpoints without one are spoken to as Seed-Coder is.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Conversation")]
#[command(after_help = "\
Examples:
  lacuna chat --model M
  lacuna chat --model M 'Reverse a list in Rust.'
  git diff | lacuna chat --model M --system 'Review this change.' -")]
pub(crate) struct Args {
    /// Message to send; `-` reads it from stdin
    #[arg(value_name = "MESSAGE", allow_negative_numbers = true, help_heading = None)]
    message: Option<String>,
    /// Instruction that the model gets first
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    system: Option<String>,
    /// Don't read and write the history of what was typed on a terminal
    #[arg(long)]
    no_history: bool,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    decode: DecodeArgs,
    #[command(flatten)]
    draft: DraftArgs,
    #[command(flatten)]
    show: ShowArgs,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let message = match args.message.as_deref() {
        Some("-") => Some(read_text(Path::new("-"))?),
        Some(text) => Some(text.to_owned()),
        None => None,
    };
    if args.decode.prompt_ids.is_some() && message.is_some() {
        let message = "give MESSAGE or --prompt-ids, one of the two".into();
        return Err(super::Usage(message).into());
    }
    let model = args.model.open(args.decode.work(CONVERSATION_BYTES))?;
    let format = model.chat_format();
    let mut turns = Turns::new(args, &model, format.as_ref().ok())?;
    if let Some(ids) = &args.decode.prompt_ids {
        turns.write(ids.0.clone())?;
        return Ok(());
    }
    let mut talk = Talk { format: format?, said: Vec::new() };
    talk.said.extend(args.system.iter().map(|text| Message::new("system", text)));
    if let Some(message) = message {
        turns.answer(&mut talk, message)?;
        return Ok(());
    }
    if std::io::stdin().is_terminal() && !args.show.quiet && !args.show.json {
        return terminal::converse(&mut turns, &mut talk, args.no_history);
    }
    loop {
        let mut line = String::new();
        if std::io::stdin().lock().read_line(&mut line).context("reading stdin")? == 0 {
            return Ok(());
        }
        let line = line.trim_end_matches(['\n', '\r']);
        if !line.trim().is_empty() {
            turns.answer(&mut talk, line.to_owned())?;
        }
    }
}

/// The conversation so far, and how it is written for the model.
struct Talk {
    format: ChatTemplate,
    said: Vec<Message>,
}

impl Talk {
    /// Messages before the first exchange.
    fn instructions(&self) -> usize {
        self.said.iter().take_while(|message| message.role == "system").count()
    }

    /// Takes the last message of the user and all that came after it away.
    fn undo(&mut self) -> Option<String> {
        let at = self.said.iter().rposition(|message| message.role == "user")?;
        self.said.drain(at..).next().map(|message| message.content)
    }

    /// Takes the oldest message of the user and its answer away, if there is a later one.
    fn drop_oldest(&mut self) -> usize {
        let first = self.instructions();
        let later = self.said[first..].iter().skip(1).position(|m| m.role == "user");
        let Some(later) = later else { return 0 };
        self.said.drain(first..=first + later).count()
    }

    /// The conversation up to where the assistant is to speak.
    fn prompt(&self, model: &Model) -> Result<Vec<u32>> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let options = RenderOptions {
            add_generation_prompt: true,
            now: i64::try_from(now).unwrap_or(0),
            ..RenderOptions::default()
        };
        Ok(self.format.encode(model.tokenizer()?, &self.said, &options)?)
    }
}

/// The things that all answers of a conversation share.
struct Turns<'a> {
    args: &'a Args,
    show: ShowArgs,
    model: &'a Model,
    options: GenerateOptions,
    /// Holds what was read and written so far, so that only what is new is read.
    session: Session,
    trace: Option<TraceFile>,
    stopped: &'a dyn Fn() -> bool,
}

impl<'a> Turns<'a> {
    fn new(args: &'a Args, model: &'a Model, format: Option<&ChatTemplate>) -> Result<Self> {
        let mut options = args.decode.sampled_options(model)?;
        args.draft.set(&args.decode, &mut options)?;
        if let (Some(format), None, false) = (format, &options.eos_ids, args.decode.is_reference())
        {
            options.eos_ids = Some(model.answer_ends(format));
        }
        let session = Session::of(model).remembering();
        let trace = args.show.trace();
        let show = args.show.for_people(model);
        Ok(Self { args, show, model, options, session, trace, stopped: &|| false })
    }

    /// Says something, and gives the model's answer a place in the conversation. What can't be answered was not
    /// said.
    fn answer(&mut self, talk: &mut Talk, message: String) -> Result<Completion> {
        let before = talk.said.len();
        talk.said.push(Message::new("user", message));
        let written = self.fitting(talk).and_then(|prompt| self.write(prompt));
        match written {
            // Stopped before it began: nothing was said.
            Ok(written) if written.text.is_empty() && (self.stopped)() => {
                talk.said.truncate(before);
                Ok(written)
            }
            Ok(written) => {
                talk.said.push(Message::new("assistant", &written.text));
                Ok(written)
            }
            Err(error) => {
                talk.said.truncate(before);
                Err(error)
            }
        }
    }

    /// The prompt, without as many of the oldest exchanges as have to go for an answer to have room.
    fn fitting(&self, talk: &mut Talk) -> Result<Vec<u32>> {
        let positions = self.model.config().max_position_embeddings;
        let room =
            (positions / 8).min(self.args.decode.max_new_tokens.unwrap_or(usize::MAX)).max(1);
        let mut dropped = 0;
        loop {
            let prompt = talk.prompt(self.model)?;
            if prompt.len().saturating_add(room) <= positions {
                if dropped > 0 {
                    note!(
                        "the conversation has outgrown the model's {} positions: its {dropped} oldest messages are \
                         left out",
                        count(positions)
                    );
                }
                return Ok(prompt);
            }
            match talk.drop_oldest() {
                0 if prompt.len() < positions => return Ok(prompt),
                0 => {
                    let reason = format!(
                        "the message has {} tokens with all that stands around it, the model {} positions; say it \
                         shorter",
                        count(prompt.len()),
                        count(positions)
                    );
                    return Err(Error::Request(reason).into());
                }
                n => dropped += n,
            }
        }
    }

    /// Writes one answer and prints it.
    fn write(&mut self, prompt: Vec<u32>) -> Result<Completion> {
        let positions = self.model.config().max_position_embeddings;
        let mut options = self.options.clone();
        // Steps that spread over all new tokens need a number of them.
        let spread =
            options.steps.is_some() || algorithm(self.model, &options) == Algorithm::Reference;
        let open_end = self.args.decode.max_new_tokens.is_none() && !spread;
        if open_end {
            options.max_new_tokens = positions.saturating_sub(prompt.len()).max(1);
        }
        let prompt = Prompt::Ids(prompt);
        let show = &self.show;
        show.ends_by_itself.set(open_end);
        let mut shown = show.begin(self.model, &prompt, &options, self.trace.as_mut())?;
        let stopped = self.stopped;
        let session = &mut self.session;
        let written =
            lacuna::generate_in(session, self.model, prompt.clone(), &options, |event| {
                shown.event(event);
                if stopped() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
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
        show.print(&text, &written, used(self.model, &self.options.sampling))?;
        if open_end && written.finish == lacuna::FinishReason::Length {
            note!("the answer was cut off at the model's {} positions", count(positions));
        }
        Ok(written)
    }
}

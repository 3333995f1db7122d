//! `lacuna generate` continues a prompt.

use anyhow::Result;
use lacuna::Prompt;
use std::io::Write;
use std::path::Path;

use super::Usage;
use super::console::Out;
use super::decode_args::{DecodeArgs, used};
use super::guidance_args::{DraftArgs, PatternArgs};
use super::model_args::ModelArgs;
use super::show::{ShowArgs, ids, read_text};
use prompts::PromptsArgs;

mod prompts;

/// Continue a text.
///
/// Block-diffusion checkpoints are decoded block by block, autoregressive ones token by token; which one it is
/// the checkpoint says.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lacuna generate --model M 'def quicksort(xs):'
  lacuna generate --model M --threshold 0.9 --json 'fn main() {'
  lacuna generate --model M --watch 'import '
  cat half.py | lacuna generate --model M --stream -
  lacuna generate --model M --regex '(yes|no)' 'Is 7 a prime number? Answer: '
  lacuna generate --model M --json-schema person.json 'A person as JSON: '
  lacuna generate --model M --prompts tasks.jsonl --out answers.jsonl")]
pub(crate) struct Args {
    /// The text to continue; `-` reads it from stdin
    #[arg(value_name = "PROMPT", allow_negative_numbers = true)]
    prompt: Option<String>,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    decode: DecodeArgs,
    #[command(flatten)]
    draft: DraftArgs,
    #[command(flatten)]
    pattern: PatternArgs,
    #[command(flatten)]
    show: ShowArgs,
    #[command(flatten)]
    many: PromptsArgs,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let pattern = args.pattern.pattern(&args.decode)?;
    if let Some(prompts) = &args.many.prompts {
        let how = (&args.decode, &args.draft, pattern);
        return args.many.run(prompts, &args.model, how, args.show.json);
    }
    let prompt = prompt(args)?;
    let length = match &prompt {
        Prompt::Text(text) => text.len(),
        Prompt::Ids(_) => 0,
    };
    let model = args.model.open(args.decode.work(length))?;
    let mut options = args.decode.sampled_options(&model)?;
    args.draft.set(&args.decode, &mut options)?;
    options.pattern = pattern;
    let view = args.show.for_people(&model);
    // On a terminal the prompt is shown with its continuation; a pipe gets the new text alone.
    let mut out = Out::new();
    let alone = view.json || view.quiet || args.show.stream || !out.is_terminal();
    let before = match &prompt {
        Prompt::Text(text) if !alone => text.as_str(),
        _ => "",
    };
    let mut trace = view.trace();
    let mut show = view.begin(&model, &prompt, &options, trace.as_mut())?;
    show.lead(before);
    let written = lacuna::generate(&model, prompt.clone(), &options, |event| show.event(event))?;
    show.end(&written)?;
    let mut text = written.text.clone();
    if !view.json {
        if !view.stream {
            write!(out, "{before}")?;
        }
        if model.tokenizer.is_none() {
            text = ids(&written.tokens);
        }
        if !out.is_terminal() {
            if view.stream {
                writeln!(out)?;
            }
            text.push('\n');
        }
    }
    view.print(&text, &written, used(&model, &options.sampling))
}

fn prompt(args: &Args) -> Result<Prompt> {
    match (&args.decode.prompt_ids, args.prompt.as_deref()) {
        (Some(_), Some(_)) => {
            Err(Usage("give PROMPT or --prompt-ids, one of the two".into()).into())
        }
        (Some(ids), None) => Ok(Prompt::Ids(ids.0.clone())),
        (None, Some("-")) => Ok(Prompt::Text(read_text(Path::new("-"))?)),
        (None, Some(text)) => Ok(Prompt::Text(text.to_owned())),
        (None, None) => {
            Err(Usage("no PROMPT; give a text, `-` for stdin, or --prompt-ids".into()).into())
        }
    }
}

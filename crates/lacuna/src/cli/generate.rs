use anyhow::Result;
use lacuna::Prompt;
use std::io::Write;
use std::path::Path;

use super::Usage;
use super::console::Out;
use super::decode_args::{DecodeArgs, ModelArgs};
use super::show::{ShowArgs, ids, read_text};

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
  cat half.py | lacuna generate --model M --stream -")]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// The text to continue; `-` reads it from stdin
    #[arg(value_name = "PROMPT", allow_negative_numbers = true)]
    prompt: Option<String>,
    #[command(flatten)]
    decode: DecodeArgs,
    #[command(flatten)]
    show: ShowArgs,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let prompt = prompt(args)?;
    let length = match &prompt {
        Prompt::Text(text) => text.len(),
        Prompt::Ids(_) => 0,
    };
    let model = args.model.open(args.decode.work(length))?;
    let options = args.decode.options(&model);
    let mut trace = args.show.trace();
    let mut show = args.show.begin(&model, &prompt, &options, trace.as_mut())?;
    let written = lacuna::generate(&model, prompt.clone(), &options, |event| show.event(event))?;
    show.end(&written)?;
    let mut text = written.text.clone();
    if !args.show.json {
        // On a terminal the prompt is shown with its continuation; a pipe gets the new text alone.
        let mut out = Out::new();
        let alone = args.show.quiet || args.show.stream || !out.is_terminal();
        if let (Prompt::Text(prompt), false) = (&prompt, alone) {
            write!(out, "{prompt}")?;
        }
        if model.tokenizer.is_none() {
            text = ids(&written.tokens);
        }
        if !out.is_terminal() {
            if args.show.stream {
                writeln!(out)?;
            }
            text.push('\n');
        }
    }
    args.show.print(&text, &written, serde_json::Value::Null)
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

//! `lacuna edit` has a model change a file, or some of its lines, with the old text as draft.

use anyhow::Result;
use lacuna::checkpoint::Predicts;
use lacuna::text::{Message, RenderOptions, Tokenizer};
use lacuna::{
    Algorithm, Completion, DraftCounts, DraftSource, FinishReason, GenerateOptions, Model, Prompt,
    algorithm,
};
use serde_json::json;
use std::io::IsTerminal;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::decode_args::{DecodeArgs, is_one_block};
use super::diff::for_terminal;
use super::model_args::ModelArgs;
use super::show::ShowArgs;
use super::user_file::{Question, UserFile, shown, with_line_ends};
use super::{Usage, console};

mod answer;
mod asked;
mod fences;
pub(crate) mod region;
mod wording;
mod wrapping;

use asked::Asked;
use region::{Lines, Window};

/// Rewrite a file, or some lines of it, as an instruction says.
///
/// The file is taken out of the model's answer, without fences and what is said around it. Where the answer holds no
/// file for sure, or was cut off, FILE stays as it is and the status is 1. Line ends, a byte order mark, permissions
/// and links are kept. On a terminal, --in-place shows the change and asks before it writes.
///
/// Most of an edit is copied, so the old text is a draft of which many blocks are verified at a time; the new text is
/// the one that plain decoding writes, in fewer passes. Without --fill, --threshold or --steps, positions are filled
/// from confidence 0.9 on. Models with a chat template get the instruction and the file as a message, others as a
/// document: `Before:`, the file, `Change:`, the instruction, `After:`.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Edit")]
#[command(after_help = "\
Examples:
  lacuna edit --model M parser.py --instruction 'rename parse to read' --diff
  lacuna edit --model M parser.py --instruction 'add type hints' --in-place
  lacuna edit -m M big.py -i 'add type hints' --lines 12:14 --in-place --yes
  lacuna edit --model M parser.py --instruction 'add type hints' --no-draft")]
pub(crate) struct Args {
    /// The file to rewrite; `-` reads stdin
    #[arg(value_name = "FILE", help_heading = None)]
    file: PathBuf,
    /// Change to make
    #[arg(long, short, value_name = "TEXT", allow_hyphen_values = true)]
    instruction: String,
    /// Rewrite these lines alone, from 1 and both included; the model sees what is around them
    #[arg(long, value_name = "A:B", allow_hyphen_values = true, value_parser = region::lines, conflicts_with = "at")]
    lines: Option<Lines>,
    /// Rewrite the line that this place is in: short for --lines LINE:LINE
    #[arg(long, value_name = "LINE[:COL]", allow_hyphen_values = true, value_parser = region::place)]
    at: Option<Lines>,
    /// Write FILE, in place of printing the new text
    #[arg(long, conflicts_with = "stream")]
    in_place: bool,
    /// With --in-place: write without asking, on a terminal too
    #[arg(long)]
    yes: bool,
    /// Print the change as a unified diff
    #[arg(long, conflicts_with = "stream")]
    diff: bool,
    /// Decode without the old text as draft: the same text in more passes
    #[arg(long)]
    no_draft: bool,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    decode: DecodeArgs,
    #[command(flatten)]
    show: ShowArgs,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    if args.in_place && args.file == Path::new("-") {
        return Err(Usage("--in-place needs a FILE to write; `-` is stdin".into()).into());
    }
    let file = UserFile::read(&args.file)?;
    let part = match args.lines.as_ref().or(args.at.as_ref()) {
        Some(lines) => lines.bytes(&file.text, &shown(&args.file))?,
        None => 0..file.text.len(),
    };
    if args.in_place {
        file.check_writable()?;
    }
    // The text is in the prompt, in the draft and in the answer; around a part, some thousand tokens are shown.
    let around = (file.text.len() - part.len()).min(4096);
    let model = args.model.open(args.decode.work(3 * part.len() + around))?;
    let question = question(args, &model, &file, part)?;
    let prompt = Prompt::Ids(question.prompt.clone());
    let options = &question.options;
    let mut trace = args.show.trace();
    let mut show = args.show.begin(&model, &prompt, options, trace.as_mut())?;
    let drafted = !args.no_draft && takes_drafts(args, &model, options);
    let edited = if drafted {
        lacuna::edit(&model, prompt.clone(), &question.draft, options, |event| show.event(event))?
    } else {
        lacuna::generate(&model, prompt.clone(), options, |event| show.event(event))?
    };
    show.end(&edited)?;
    conclude(args, &file, &question, &edited, drafted)
}

/// Tells whether the model verifies drafts; if it does not, says so where one might expect that it
/// does.
fn takes_drafts(args: &Args, model: &Model, options: &GenerateOptions) -> bool {
    let reason = match algorithm(model, options) {
        Algorithm::Autoregressive => return true,
        _ if model.config().predicts == Predicts::Next => {
            "the model reads each token off the position before it (a shifted head)"
        }
        Algorithm::Reference => "--mode reference runs the released algorithm, which has none",
        _ if is_one_block(model, options) => "under full attention the whole text is one block",
        Algorithm::Blocks => return true,
    };
    if !args.show.quiet {
        note!("note: decoding without a draft: {reason}");
    }
    false
}

/// The question to the model, and its options.
struct Asking<'a> {
    prompt: Vec<u32>,
    draft: Vec<u32>,
    options: GenerateOptions,
    part: Range<usize>,
    /// The text that is shown around the part, if it is not the whole text.
    window: Option<Window<'a>>,
}

fn question<'a>(
    args: &Args,
    model: &Model,
    file: &'a UserFile,
    part: Range<usize>,
) -> Result<Asking<'a>> {
    /// Tokens of the words around a file and of the chat template, about.
    const FRAME: usize = 128;
    let tokenizer = model.tokenizer()?;
    let old = file.text[part.clone()].replace("\r\n", "\n");
    let positions = model.config().max_position_embeddings;
    let is_part = args.lines.is_some() || args.at.is_some();
    let is_too_large = |tokens: usize| match args.decode.max_new_tokens {
        Some(_) => tokens > positions,
        None => 2 * tokens > positions,
    };
    // Megabytes need not be encoded to see that they are too many.
    let head = encode_head(tokenizer, &old, 16 * positions)?;
    if is_too_large(head) {
        return Err(too_large(args, &old, head, positions));
    }
    let draft = tokenizer.encode_ordinary(&old)?;
    if is_too_large(draft.len()) {
        return Err(too_large(args, &old, draft.len(), positions));
    }
    let window = match is_part {
        true => {
            let asked = tokenizer.encode_ordinary(&args.instruction)?.len();
            let answer = args.decode.max_new_tokens.unwrap_or(wanted(draft.len()));
            let taken = 2 * draft.len() + answer + asked + FRAME;
            let room = positions.saturating_sub(taken);
            Some(region::window(&file.text, part.clone(), tokenizer, room)?)
        }
        false => None,
    };
    if let Some(Window { is_cut: true, first, last, of, .. }) = window
        && !args.show.quiet
    {
        let name = shown(&args.file);
        note!("note: of the {of} lines of {name} the model sees {first} to {last}");
    }
    let prompt = match &args.decode.prompt_ids {
        Some(ids) => ids.0.clone(),
        None => prompt(args, model, &old, window.as_ref())?,
    };
    let options = options(args, model, prompt.len(), draft.len());
    if args.decode.max_new_tokens.is_none() && options.max_new_tokens < draft.len() {
        return Err(too_large(args, &old, draft.len(), positions));
    }
    Ok(Asking { prompt, draft, options, part, window })
}

/// The tokens of the first `bytes` of a text, or 0 where the text is no longer than that.
fn encode_head(tokenizer: &Tokenizer, text: &str, bytes: usize) -> Result<usize> {
    if text.len() <= bytes {
        return Ok(0);
    }
    let end = (0..=bytes).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    Ok(tokenizer.encode_ordinary(&text[..end])?.len())
}

fn too_large(args: &Args, old: &str, tokens: usize, positions: usize) -> anyhow::Error {
    let (name, bytes) = (shown(&args.file), old.len());
    let fewer = match args.lines.is_some() || args.at.is_some() {
        true => "choose fewer lines",
        false => "rewrite a part of it with --lines FIRST:LAST",
    };
    anyhow::anyhow!(
        "{name}: {bytes} bytes are at least {tokens} tokens, and they and an answer as long are more than the \
         model's {positions} positions; {fewer}"
    )
}

/// The prompt: a message for models that converse, a document for others.
fn prompt(args: &Args, model: &Model, old: &str, window: Option<&Window<'_>>) -> Result<Vec<u32>> {
    let tokenizer = model.tokenizer()?;
    let instruction = &args.instruction;
    let ended = |text: &str| match text.ends_with('\n') || text.is_empty() {
        true => text.to_owned(),
        false => format!("{text}\n"),
    };
    let old = ended(old);
    let around = window.map(|Window { before, after, .. }| {
        let shown = [before, old.as_str(), after].concat();
        ended(&shown.replace("\r\n", "\n"))
    });
    let named = args.lines.as_ref().or(args.at.as_ref()).map(Lines::named);
    if let Some(template) = model.chat_template()? {
        let fenced = |text: &str| {
            let fence = fences::around(text);
            format!("{fence}\n{text}{fence}")
        };
        let content = match (&around, named) {
            (Some(around), Some(lines)) => {
                let name = args.file.file_name().unwrap_or_default().to_string_lossy();
                format!(
                    "{instruction}\n\nOnly {lines} of {name} may change. This is what stands around:\n\n{}\n\n\
                     This is what to change:\n\n{}\n\nAnswer with the changed {lines} and nothing else.",
                    fenced(around),
                    fenced(&old)
                )
            }
            _ => format!(
                "{instruction}\n\nAnswer with the whole changed file and nothing else.\n\n{}",
                fenced(&old)
            ),
        };
        let options = RenderOptions { add_generation_prompt: true, ..RenderOptions::default() };
        return Ok(template.encode(tokenizer, &[Message::new("user", content)], &options)?);
    }
    let special = tokenizer.encode_with_special_tokens("")?;
    let bos = model.config().bos_token_id.filter(|bos| special.first() == Some(bos));
    let file = around.map(|around| format!("File:\n{around}\n")).unwrap_or_default();
    let document = format!("{file}Before:\n{old}\nChange: {instruction}\nAfter:\n");
    // The file is text, whatever special tokens it spells out.
    Ok(bos.into_iter().chain(tokenizer.encode_ordinary(&document)?).collect())
}

/// The length that an answer may have: a quarter more than the text, fences and some sentences.
fn wanted(draft: usize) -> usize {
    draft + draft / 4 + 128
}

/// The options of the flags, with what an edit needs: room for the file, and a rule that fills whole blocks.
fn options(args: &Args, model: &Model, prompt: usize, draft: usize) -> GenerateOptions {
    let mut options = args.decode.options(model);
    options.drafts = Some(DraftSource::None);
    if args.decode.max_new_tokens.is_none() {
        // Whole blocks, as far as the model reaches.
        let room = model.config().max_position_embeddings.saturating_sub(prompt);
        let block = match is_one_block(model, &options) {
            true => 1,
            false => model.block_size(options.block_size).get(),
        };
        let wanted = wanted(draft).next_multiple_of(block);
        options.max_new_tokens = wanted.min(room / block * block).max(block);
    }
    options
}

/// Takes the new text out of the answer and prints it, or the diff, or writes the file.
fn conclude(
    args: &Args,
    file: &UserFile,
    question: &Asking<'_>,
    edited: &Completion,
    drafted: bool,
) -> Result<()> {
    let Asking { part, window, .. } = question;
    let (answer, name) = (&edited.text, shown(&args.file));
    let old = file.text[part.clone()].replace("\r\n", "\n");
    let asked = Asked { old: &old, path: &args.file, part: window.is_some() };
    let cut = edited.finish == FinishReason::Length;
    let found = match cut {
        true => {
            let n = question.options.max_new_tokens;
            Err(format!("the new text was cut off after {n} tokens; raise --max-new-tokens"))
        }
        false => answer::file_in(answer, &asked),
    };
    // Text that is merely shown may be half a file; what is in a part's place must be whole.
    let shown_only = args.show.stream || (cut && window.is_none() && !args.in_place);
    let new = match &found {
        Ok(new) => {
            let new = match window {
                Some(window) => region::without_context(new.clone(), window.before, window.after),
                None => new.clone(),
            };
            let new = with_line_ends(&file.text[part.clone()], &new, file.line_end());
            Some([&file.text[..part.start], &new, &file.text[part.end..]].concat())
        }
        Err(_) if shown_only => Some(answer.clone()),
        Err(_) => None,
    };
    report(args, file, new.as_deref(), edited, found.as_ref().err())?;
    match found {
        Err(reason) if !shown_only => {
            if !args.show.quiet && !args.show.json && !cut {
                let shown: String = answer.chars().take(2000).collect();
                let shown = lacuna_files::printable(shown.trim_end());
                note!("the answer:\n{shown}\n");
            }
            match args.in_place {
                true => anyhow::bail!("{name} was left as it is: {reason}"),
                false => anyhow::bail!("{name}: {reason}"),
            }
        }
        Err(reason) if !args.show.quiet && !args.show.stream => {
            note!("note: {reason}");
        }
        _ => {}
    }
    if drafted && !args.show.quiet && !args.show.json {
        told_savings(edited);
    }
    let says = !args.show.quiet && !args.show.json;
    if says && args.diff && !args.in_place && new.as_ref() == Some(&file.text) {
        note!("nothing changes: the answer is {name} as it is");
    }
    match new {
        Some(new) if args.in_place => {
            let seen = args.diff && !args.show.json && std::io::stdout().is_terminal();
            file.replace(&new, Question { yes: args.yes, seen, quiet: args.show.quiet })
        }
        _ => Ok(()),
    }
}

/// Prints the new text or the diff; of an answer that is no file, with --json, the answer.
fn report(
    args: &Args,
    file: &UserFile,
    new: Option<&str>,
    edited: &Completion,
    refused: Option<&String>,
) -> Result<()> {
    let diff = new.filter(|_| args.diff).map(|new| file.diff(new));
    let mut more = json!({ "cache_precision": args.decode.cache_precision.name() });
    if let Some(diff) = &diff {
        more["diff"] = diff.as_str().into();
    }
    if let Some(reason) = refused.filter(|_| new.is_none()) {
        more["refused"] = reason.as_str().into();
    }
    let text = match (diff, new) {
        _ if args.show.json => new.unwrap_or(&edited.text).to_owned(),
        (Some(diff), _) if std::io::stdout().is_terminal() => {
            console::styled(&for_terminal(&diff))?;
            String::new()
        }
        (Some(diff), _) => diff,
        (None, Some(new)) if !args.in_place && !args.show.stream => file.with(new),
        _ => String::new(),
    };
    args.show.print(&text, edited, more)
}

/// Tells the user what the draft was good for.
fn told_savings(edited: &Completion) {
    let DraftCounts { drafted_blocks, accepted_blocks, passes_saved, .. } = edited.drafts;
    let plain = edited.forwards + passes_saved;
    note!(
        "{accepted_blocks} of {drafted_blocks} drafted blocks accepted, {passes_saved} of {plain} passes saved \
         ({:.0} %)",
        100.0 * passes_saved as f64 / plain.max(1) as f64
    );
}

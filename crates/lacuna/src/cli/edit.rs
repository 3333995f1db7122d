use anyhow::Result;
use lacuna::data::{Message, RenderOptions};
use lacuna::samplers::FillRule;
use lacuna::{Edited, GenerateOptions, Model, Prompt, StopReason};
use serde_json::json;
use std::path::{Path, PathBuf};

use super::Usage;
use super::decode_args::{DecodeArgs, ModelArgs};
use super::diff::unified;
use super::show::{ShowArgs, read_text, replace_text};

/// Rewrite a file as an instruction says, with the old text as draft.
///
/// Most of an edit is copied, so blocks of the old text are verified many at a time; the new text is the one
/// that plain decoding writes, in fewer passes. Without --fill, --threshold or --steps, positions are filled
/// from confidence 0.9 on. Models with a chat template get the instruction and the file as a message, others
/// as a document: `Before:`, the file, `Change:`, the instruction, `After:`.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Edit")]
#[command(after_help = "\
Examples:
  lacuna edit --model M parser.py --instruction 'rename parse to read' --diff
  lacuna edit --model M parser.py --instruction 'add type hints' --in-place
  lacuna edit --model M parser.py --instruction 'add type hints' --no-draft    to compare")]
pub(crate) struct Args {
    /// The file to rewrite; `-` reads stdin
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// What is to change
    #[arg(long, short, value_name = "TEXT")]
    instruction: String,
    /// Write FILE, in place of printing the new text
    #[arg(long, conflicts_with = "stream")]
    in_place: bool,
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
    let old = read_text(&args.file)?;
    // The file is in the prompt, in the draft and in the answer.
    let model = args.model.open(args.decode.work(3 * old.len()))?;
    let tokenizer = model.tokenizer()?;
    let draft = tokenizer.encode_ordinary(&old)?;
    let prompt = match &args.decode.prompt_ids {
        Some(ids) => ids.0.clone(),
        None => prompt(&model, &old, &args.instruction)?,
    };
    let options = options(args, &model, prompt.len(), draft.len());
    let prompt = Prompt::Ids(prompt);
    let mut trace = args.show.trace();
    let mut show = args.show.begin(&model, &prompt, &options, trace.as_mut())?;
    // An autoregressive checkpoint knows no drafts.
    let drafted = !args.no_draft && options.autoregressive != Some(true);
    let edited = if drafted {
        lacuna::edit(&model, prompt.clone(), &draft, &options, |event| show.event(event))?
    } else {
        let written =
            lacuna::generate(&model, prompt.clone(), &options, |event| show.event(event))?;
        let (speculative_passes, drafted_blocks, accepted_blocks, passes_saved) = (0, 0, 0, 0);
        Edited { written, speculative_passes, drafted_blocks, accepted_blocks, passes_saved }
    };
    show.end(&edited.written)?;
    let new = if args.show.stream { edited.written.text.clone() } else { file_text(&old, &edited) };
    report(args, &old, &new, &edited, drafted)?;
    if args.in_place {
        if edited.written.finish == StopReason::Length {
            let n = options.max_new_tokens;
            anyhow::bail!(
                "the new text was cut off after {n} tokens, so {} was left as it is; raise --max-new-tokens",
                args.file.display()
            );
        }
        replace_text(&args.file, &old, &new)?;
    }
    Ok(())
}

/// The prompt: a message for models that converse, a document for others.
fn prompt(model: &Model, old: &str, instruction: &str) -> Result<Vec<u32>> {
    let tokenizer = model.tokenizer()?;
    if let Some(template) = model.chat_template()? {
        let content = format!(
            "{instruction}\n\nAnswer with the whole changed file and nothing else.\n\n```\n{old}\n```"
        );
        let options = RenderOptions { add_generation_prompt: true, ..RenderOptions::default() };
        return Ok(template.encode(tokenizer, &[Message::new("user", content)], &options)?);
    }
    let around = tokenizer.encode_with_special_tokens("")?;
    let bos = model.config().bos_token_id.filter(|bos| around.first() == Some(bos));
    let document = format!("Before:\n{old}\nChange: {instruction}\nAfter:\n");
    // The file is text, whatever special tokens it spells out.
    Ok(bos.into_iter().chain(tokenizer.encode_ordinary(&document)?).collect())
}

/// The options of the flags, with what an edit needs: room for the file, and a rule that fills whole blocks.
fn options(args: &Args, model: &Model, prompt: usize, draft: usize) -> GenerateOptions {
    const TAU: f64 = 0.9;
    let mut options = args.decode.options(model);
    if !args.decode.names_a_rule() && options.mode == lacuna::DecodeMode::Fused {
        options.fill = FillRule::Threshold { tau: TAU };
    }
    if args.decode.max_new_tokens.is_none() {
        // A quarter more than the file, in whole blocks, as far as the model reaches.
        let room = model.config().max_position_embeddings.saturating_sub(prompt);
        let block = options.block_size.or(model.config().block_size()).map_or(4, |b| b.get());
        let wanted = (draft + draft / 4 + 64).next_multiple_of(block);
        options.max_new_tokens = wanted.min(room / block * block).max(block);
    }
    options
}

/// The new file: what was written, without a fence around all of it, and with a last line end as before.
fn file_text(old: &str, edited: &Edited) -> String {
    let text = &edited.written.text;
    let mut new = unfenced(text).unwrap_or(text).to_owned();
    let whole = edited.written.finish != StopReason::Length;
    if whole && old.ends_with('\n') && !new.is_empty() && !new.ends_with('\n') {
        new.push('\n');
    }
    new
}

/// What stands between a fence on the first line and one on the last.
fn unfenced(text: &str) -> Option<&str> {
    let (first, rest) = text.trim().split_once('\n')?;
    let language = first.strip_prefix("```")?;
    let inner = rest.strip_suffix("```")?;
    (!language.contains('`') && (inner.is_empty() || inner.ends_with('\n'))).then_some(inner)
}

/// Prints the new text or the diff, and what the draft was good for.
fn report(args: &Args, old: &str, new: &str, edited: &Edited, drafted: bool) -> Result<()> {
    let Edited { written, speculative_passes, drafted_blocks, accepted_blocks, passes_saved } =
        edited;
    let diff = args.diff.then(|| unified(old, new, &args.file.display().to_string()));
    let mut more = json!({
        "drafted_blocks": drafted_blocks,
        "accepted_blocks": accepted_blocks,
        "speculative_passes": speculative_passes,
        "passes_saved": passes_saved,
    });
    if let Some(diff) = &diff {
        more["diff"] = diff.as_str().into();
    }
    let text = match diff {
        Some(diff) if !args.show.json => diff,
        _ if args.in_place && !args.show.json => String::new(),
        _ => new.to_owned(),
    };
    args.show.print(&text, written, more)?;
    if drafted && !args.show.quiet && !args.show.json {
        let plain = written.forwards + passes_saved;
        note!(
            "{accepted_blocks} of {drafted_blocks} drafted blocks accepted, {passes_saved} of {plain} passes \
             saved ({:.0} %)",
            100.0 * *passes_saved as f64 / plain.max(1) as f64
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::unfenced;

    #[test]
    fn a_fence_around_the_whole_answer_is_taken_off_and_no_other() {
        assert_eq!(unfenced("```python\na = 1\n```"), Some("a = 1\n"));
        assert_eq!(unfenced("\n```\na\n\nb\n```\n"), Some("a\n\nb\n"));
        assert_eq!(unfenced("a\n```\nb\n```"), None);
        assert_eq!(unfenced("```\na\n``` and so on"), None);
        assert_eq!(unfenced("```a```"), None);
        assert_eq!(unfenced(""), None);
    }
}

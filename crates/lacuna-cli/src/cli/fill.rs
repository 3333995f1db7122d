//! `lacuna fill` fills a hole in a file, or between two texts.

use anyhow::{Context, Result};
use lacuna::text::Fim;
use lacuna::{FinishReason, Model, Prompt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::Usage;
use super::decode_args::{DecodeArgs, used};
use super::edit::region;
use super::guidance_args::{DraftArgs, PatternArgs};
use super::model_args::ModelArgs;
use super::show::{ShowArgs, ids, read_text};
use super::user_file::{Question, UserFile, shown};

/// Fill in the middle: write what belongs between two texts.
///
/// The text around the hole goes to the model with the marks, and in the order, that its family was trained on:
/// `lacuna inspect` says which. Only the middle is printed, exactly as written. With --in-place it is put into FILE
/// instead, its lines ended as the file's are; on a terminal the change is shown first, and you are asked.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Hole")]
#[command(after_help = "\
Examples:
  lacuna fill --model M --prefix before.py --suffix after.py
  lacuna fill --model M parser.py --at 12:5         lines, columns from 1
  lacuna fill --model M parser.py --at 12:5 --regex '[a-z_]+'   one name
  lacuna fill --model M parser.py --at 12:5 --in-place")]
pub(crate) struct Args {
    /// The file with the hole; `-` reads stdin
    #[arg(
        value_name = "FILE",
        requires = "at",
        conflicts_with_all = ["prefix", "suffix"],
        help_heading = None
    )]
    file: Option<PathBuf>,
    /// Place of the hole in FILE; a column counts characters, a tab as one, and the middle goes
    /// before it
    #[arg(long, value_name = "LINE:COL", allow_hyphen_values = true, requires = "file")]
    at: Option<At>,
    /// The text before the hole; `-` reads stdin
    #[arg(long, value_name = "FILE", requires = "suffix")]
    prefix: Option<PathBuf>,
    /// The text after the hole; `-` reads stdin
    #[arg(long, value_name = "FILE", requires = "prefix")]
    suffix: Option<PathBuf>,
    /// Write FILE with the middle in it, in place of printing the middle
    #[arg(long, requires = "at", conflicts_with = "stream")]
    in_place: bool,
    /// With --in-place: write without asking, on a terminal too
    #[arg(long)]
    yes: bool,
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
}

/// The text around the middle, and the file that it came from.
struct Hole {
    file: Option<UserFile>,
    prefix: String,
    suffix: String,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let pattern = args.pattern.pattern(&args.decode)?;
    let hole = hole(args)?;
    let length = hole.as_ref().map_or(0, |hole| hole.prefix.len() + hole.suffix.len());
    let model = args.model.open(args.decode.work(length))?;
    let mut options = args.decode.sampled_options(&model)?;
    args.draft.set(&args.decode, &mut options)?;
    options.pattern = pattern;
    let prompt = match (&args.decode.prompt_ids, &hole) {
        (Some(ids), _) => ids.0.clone(),
        (None, Some(Hole { prefix, suffix, .. })) => {
            let tokenizer = model.tokenizer()?;
            let fim = Fim::from_tokenizer(tokenizer)?;
            // The token that ends a text comes first: the released algorithm knows one end alone.
            let ends = || [model.ends_of_text(), fim.ends.clone()].concat();
            options.eos_ids.get_or_insert_with(ends);
            let seen = seen(args, &model, hole.as_ref(), options.max_new_tokens)?;
            if seen.is_some() {
                // Drafts may be copied from text that the model does not see.
                let near = [end(prefix, COPIED_BYTES), start(suffix, COPIED_BYTES)];
                let near = near.map(|text| tokenizer.encode_ordinary(text));
                options.draft_texts = near.into_iter().collect::<Result<_, _>>()?;
            }
            let (prefix, suffix) = seen.unwrap_or((prefix, suffix));
            fim.prompt_text(tokenizer, prefix, suffix)?
        }
        (None, None) => {
            let message = "no hole; give FILE --at LINE:COL, or --prefix FILE --suffix FILE";
            return Err(Usage(message.into()).into());
        }
    };
    let prompt = Prompt::Ids(prompt);
    // A file is written whole.
    let view = if args.in_place { args.show.clone() } else { args.show.for_people(&model) };
    view.ends_by_itself.set(args.in_place);
    let mut trace = view.trace();
    let mut show = view.begin(&model, &prompt, &options, trace.as_mut())?;
    let written = lacuna::generate(&model, prompt.clone(), &options, |event| show.event(event))?;
    show.end(&written)?;
    let text = match (&model.tokenizer, args.in_place && !args.show.json) {
        (_, true) => String::new(),
        (None, _) if !args.show.json => ids(&written.tokens),
        _ => written.text.clone(),
    };
    view.print(&text, &written, used(&model, &options.sampling))?;
    if let (true, Some(Hole { file: Some(file), prefix, suffix })) = (args.in_place, &hole) {
        let quiet = args.show.quiet;
        if written.finish == FinishReason::Length && !quiet {
            let n = written.tokens.len();
            note!("note: the middle ends after {n} tokens, where --max-new-tokens ends it");
        }
        let middle = written.text.replace("\r\n", "\n").replace('\n', file.line_end());
        let whole = [prefix.as_str(), &middle, suffix].concat();
        file.replace(&whole, Question { yes: args.yes, seen: false, quiet })?;
    }
    Ok(())
}

/// Bytes on each side of the hole from which drafts are copied.
const COPIED_BYTES: usize = 100_000;

/// The last bytes of a text, at most so many.
fn end(text: &str, bytes: usize) -> &str {
    let from = text.len().saturating_sub(bytes);
    let from = (from..=text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
    &text[from..]
}

/// The first bytes of a text, at most so many.
fn start(text: &str, bytes: usize) -> &str {
    let to = (0..=bytes.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    &text[..to]
}

/// The text that the model sees of a file that has no room in its positions: the lines next to the
/// hole.
fn seen<'a>(
    args: &Args,
    model: &Model,
    hole: Option<&'a Hole>,
    new: usize,
) -> Result<Option<(&'a str, &'a str)>> {
    /// Marks, and what two texts take more than their lines one by one.
    const FRAME: usize = 64;
    let Some(Hole { file: Some(file), prefix, suffix }) = hole else { return Ok(None) };
    let (tokenizer, positions) = (model.tokenizer()?, model.config().max_position_embeddings);
    let room = positions.saturating_sub(new.saturating_add(FRAME));
    // Megabytes need not be encoded to see that they are too many.
    let mut taken = 0;
    for line in prefix.split_inclusive('\n').chain(suffix.split_inclusive('\n')) {
        taken += tokenizer.encode_ordinary(line)?.len();
        if taken > room {
            break;
        }
    }
    if taken <= room {
        return Ok(None);
    }
    let window = region::window(&file.text, prefix.len()..prefix.len(), tokenizer, room)?;
    if !args.show.quiet {
        let name = args.file.as_deref().map(shown).unwrap_or_default();
        let region::Window { first, last, of, .. } = window;
        note!("note: of the {of} lines of {name} the model sees {first} to {last}");
    }
    Ok(Some((window.before, window.after)))
}

/// The text before and after the hole, if there is one.
fn hole(args: &Args) -> Result<Option<Hole>> {
    if let (Some(path), Some(at)) = (&args.file, args.at) {
        if args.in_place && path == Path::new("-") {
            return Err(Usage("--in-place needs a FILE to write; `-` is stdin".into()).into());
        }
        let file = UserFile::read(path)?;
        let offset = at.offset(&file.text).with_context(|| shown(path))?;
        if args.in_place {
            file.check_writable()?;
        }
        let (prefix, suffix) = file.text.split_at(offset);
        let (prefix, suffix) = (prefix.to_owned(), suffix.to_owned());
        return Ok(Some(Hole { file: Some(file), prefix, suffix }));
    }
    let (Some(prefix), Some(suffix)) = (&args.prefix, &args.suffix) else { return Ok(None) };
    if prefix == Path::new("-") && suffix == Path::new("-") {
        return Err(
            Usage("stdin can't be both prefix and suffix; give a file for one".into()).into()
        );
    }
    let (prefix, suffix) = (read_text(prefix)?, read_text(suffix)?);
    Ok(Some(Hole { file: None, prefix, suffix }))
}

/// A place in a text; line and column count from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct At {
    line: usize,
    column: usize,
}

impl FromStr for At {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text.split_once(':').and_then(|(line, column)| {
            let (line, column) = (line.parse().ok()?, column.parse().ok()?);
            (line > 0 && column > 0).then_some(Self { line, column })
        });
        numbers.ok_or_else(|| format!("`{text}` is no LINE:COL, both from 1, such as 12:5"))
    }
}

impl At {
    /// The byte in front of which the place is; the end of a line and of the text are places too.
    fn offset(self, text: &str) -> Result<usize> {
        let mut start = 0;
        for line in 1..self.line {
            match text[start..].find('\n') {
                Some(end) => start += end + 1,
                None => anyhow::bail!("line {} lies outside, the text has {line} lines", self.line),
            }
        }
        let line = text[start..].split('\n').next().unwrap_or_default();
        let line = line.strip_suffix('\r').unwrap_or(line);
        let mut places = line.char_indices().map(|(at, _)| at).chain([line.len()]);
        match places.nth(self.column - 1) {
            Some(at) => Ok(start + at),
            None => anyhow::bail!(
                "column {} lies outside, line {} ends at column {}",
                self.column,
                self.line,
                line.chars().count() + 1
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_columns_count_from_one_and_columns_count_characters() {
        let text = "ab\r\nçδe\n";
        let offset = |line, column| At { line, column }.offset(text).map_err(|e| e.to_string());
        assert_eq!(offset(1, 1), Ok(0));
        assert_eq!(offset(1, 3), Ok(2), "before the line's end, not in it");
        assert_eq!(offset(2, 3), Ok(8));
        assert_eq!(offset(2, 4), Ok(9));
        assert_eq!(offset(3, 1), Ok(text.len()), "the empty line after the last line end");
        assert!(offset(1, 4).unwrap_err().contains("line 1 ends at column 3"));
        assert!(offset(4, 1).unwrap_err().contains("the text has 3 lines"));
        assert_eq!(At { line: 1, column: 1 }.offset("").unwrap(), 0);
    }

    #[test]
    fn a_place_is_two_numbers_from_one() {
        assert_eq!("12:5".parse(), Ok(At { line: 12, column: 5 }));
        for wrong in ["", "12", "0:1", "1:0", "a:b", "1:2:3", "-1:2"] {
            assert!(wrong.parse::<At>().is_err(), "{wrong}");
        }
    }
}

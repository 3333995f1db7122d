//! Turns conversations into the text, and the tokens, that an instruct model was trained on.

use crate::error::{Error, Result};
use crate::side::{LONGEST_SIDE_FILE, ModelFiles, Settings};
use crate::template::{self, Template};
use crate::tokenizer::Tokenizer;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

mod message;

pub use message::Message;

/// The settings that a rendering depends on besides the conversation.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RenderOptions {
    /// True if the text ends where the assistant is to begin.
    pub add_generation_prompt: bool,
    /// The time that a template may ask for, in seconds since 1970, UTC.
    pub now: i64,
    /// The tools that the assistant may call.
    pub tools: Option<Tools>,
    /// Further variables, such as `enable_thinking`.
    pub variables: Map<String, Value>,
}

/// The tools of a conversation as JSON describes them, with their keys in the order in which they stand.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(transparent)]
pub struct Tools(minijinja::Value);

/// The form in which a model wants its conversations written.
///
/// ```
/// use lacuna_text::chat::{ChatTemplate, Message, RenderOptions};
/// let turns = [Message::new("user", "Sort a list.")];
/// let options = RenderOptions { add_generation_prompt: true, ..Default::default() };
/// assert_eq!(
///     ChatTemplate::seed_coder().render(&turns, &options)?,
///     "<[begin▁of▁sentence]>user\nSort a list.<[end▁of▁sentence]><[begin▁of▁sentence]>assistant\n",
/// );
/// # Ok::<(), lacuna_text::Error>(())
/// ```
#[derive(Debug)]
pub struct ChatTemplate {
    format: Format,
}

#[derive(Debug)]
enum Format {
    SeedCoder,
    Jinja { template: Box<Template>, tokens: Map<String, Value> },
}

/// Tokens of a conversation that the assistant said, or that others did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// The ids of this part of the rendered conversation.
    pub tokens: Vec<u32>,
    /// The message, by its number from 0, the assistant said with them; `None` for what is only
    /// seen.
    pub response: Option<usize>,
}

/// Put into a special token that a user spelt out, so that it is not taken for one. Not a character
/// (Unicode keeps it for uses like this); taken out again before encoding.
const BREAK: char = '\u{10FFFF}';

/// [`ChatTemplate::seed_coder`] as a template that others can run.
pub const SEED_CODER_TEMPLATE: &str = "\
{% for message in messages %}<[begin▁of▁sentence]>{{ message.role }}
{{ message.content }}{% if message.role == 'system' %}{{ '\\n\\n' }}{% endif %}<[end▁of▁sentence]>{% endfor %}\
{% if add_generation_prompt %}<[begin▁of▁sentence]>assistant{{ '\\n' }}{% endif %}";

impl ChatTemplate {
    /// The format of Seed-Coder and Stable-DiffCoder, built in (paper.md §1).
    pub fn seed_coder() -> Self {
        Self { format: Format::SeedCoder }
    }

    /// A Jinja template as models ship it. `tokens` are the special tokens that it may name:
    /// `bos_token`, `eos_token`, ….
    ///
    /// # Errors
    /// When it is not a template.
    pub fn from_source(source: &str, tokens: Map<String, Value>) -> Result<Self> {
        let template = Box::new(Template::new(source)?);
        Ok(Self { format: Format::Jinja { template, tokens } })
    }

    /// The template of a model's folder: `chat_template.jinja`, else the one in
    /// `tokenizer_config.json`. `None` where there is neither.
    ///
    /// # Errors
    /// When a file is unreadable or holds no template.
    pub fn from_folder(folder: impl AsRef<Path>) -> Result<Option<Self>> {
        let folder = folder.as_ref();
        Self::from_settings(&Settings::read(&ModelFiles::of_tokenizer(folder)?, folder)?)
    }

    /// The text of that template, as it is.
    ///
    /// # Errors
    /// When a file is unreadable or holds no template.
    pub fn source_in_folder(folder: impl AsRef<Path>) -> Result<Option<String>> {
        let folder = folder.as_ref();
        let settings = Settings::read(&ModelFiles::of_tokenizer(folder)?, folder)?;
        Ok(settings.template().map(|(source, _)| source.to_owned()))
    }

    /// The template in a file of its own, and its text.
    ///
    /// # Errors
    /// When the file can't be read or holds no template.
    pub fn from_file(path: &Path, tokens: Map<String, Value>) -> Result<(Self, String)> {
        let source = lacuna_files::read_text(path, LONGEST_SIDE_FILE)?;
        let template = Self::from_source(&source, tokens).map_err(|error| error.in_file(path))?;
        Ok((template, source))
    }

    /// The template that a checkpoint's files have, if they have one.
    ///
    /// # Errors
    /// When it is no template; the error names its file.
    pub fn from_settings(settings: &Settings) -> Result<Option<Self>> {
        let Some((source, file)) = settings.template() else { return Ok(None) };
        let template = Self::from_source(source, settings.tokens.clone());
        template.map(Some).map_err(|error| error.in_file(file))
    }

    /// The conversation as text.
    ///
    /// # Errors
    /// When the template refuses the conversation, is faulty, or does not come to an end.
    pub fn render(&self, messages: &[Message], options: &RenderOptions) -> Result<String> {
        match &self.format {
            Format::SeedCoder => Ok(render_seed_coder(messages, options)),
            Format::Jinja { template, tokens } => {
                let mut variables = BTreeMap::new();
                // As transformers passes them where there are none.
                for name in ["tools", "documents"] {
                    variables.insert(name.to_owned(), minijinja::Value::from(()));
                }
                for (name, value) in tokens.iter().chain(&options.variables) {
                    let value = minijinja::Value::from(minijinja::value::Serde(value));
                    variables.insert(name.clone(), value);
                }
                if let Some(tools) = &options.tools {
                    variables.insert("tools".to_owned(), tools.0.clone());
                }
                let messages: Vec<_> = messages.iter().map(Message::value).collect();
                variables.insert("messages".to_owned(), messages.into());
                let prompt = options.add_generation_prompt.into();
                variables.insert("add_generation_prompt".to_owned(), prompt);
                variables.insert(template::NOW.to_owned(), options.now.into());
                template.render(&variables)
            }
        }
    }

    /// The conversation as tokens. Special tokens that the template writes become their ids; those
    /// that a message spells out stay text, so that no message can end its own turn.
    ///
    /// # Errors
    /// As [`render`](Self::render), and when the tokenizer fails.
    pub fn encode(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
        options: &RenderOptions,
    ) -> Result<Vec<u32>> {
        let safe: Vec<Message> =
            messages.iter().map(|message| harmless(tokenizer, message)).collect();
        encode_broken(tokenizer, &self.render(&safe, options)?)
    }

    /// The conversation as tokens, cut where the assistant begins and ends to speak: what each of its turns adds is one
    /// piece, with the end of the turn; what stands around them are others. Joined they are the rendered text.
    ///
    /// Works with any template that writes a conversation's beginning the same way whatever follows: it is rendered
    /// turn by turn, and what each assistant's turn adds is that turn's response.
    ///
    /// # Errors
    /// As [`encode`](Self::encode); when the template rewrites earlier turns; when no turn is the assistant's.
    pub fn pieces(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
        options: &RenderOptions,
    ) -> Result<Vec<Piece>> {
        let safe: Vec<Message> =
            messages.iter().map(|message| harmless(tokenizer, message)).collect();
        let spans = self.responses(&safe, options)?;
        let text = self.render(&safe, &at_end(options, false))?;
        let piece = |range: Range<usize>, response| {
            encode_broken(tokenizer, &text[range]).map(|tokens| Piece { tokens, response })
        };
        let mut pieces = vec![];
        let mut from = 0;
        let assistants = (0..messages.len()).filter(|turn| messages[*turn].role == "assistant");
        for ((begin, end), turn) in spans.into_iter().zip(assistants) {
            pieces.push(piece(from..begin, None)?);
            pieces.push(piece(begin..end, Some(turn))?);
            from = end;
        }
        pieces.push(piece(from..text.len(), None)?);
        Ok(pieces)
    }

    /// The token that the format writes right after what an assistant said, if it writes one: the end of its turn.
    pub fn end_of_turn(&self, tokenizer: &Tokenizer) -> Option<u32> {
        const SAID: &str = "a1b2c3d4e5";
        let turns = [Message::new("user", "hi"), Message::new("assistant", SAID)];
        let text = self.render(&turns, &RenderOptions::default()).ok()?;
        let (_, after) = text.rsplit_once(SAID)?;
        tokenizer.leading_added_token(after.trim_start())
    }

    /// The parts of the rendered conversation in which the assistant speaks: byte ranges,
    /// ascending.
    ///
    /// # Errors
    /// As [`pieces`](Self::pieces).
    pub fn responses(
        &self,
        messages: &[Message],
        options: &RenderOptions,
    ) -> Result<Vec<(usize, usize)>> {
        let whole = self.render(messages, &at_end(options, false));
        let whole = whole.map_err(|error| self.at_turn(messages, options, error))?;
        let mut spans = vec![];
        for (index, message) in messages.iter().enumerate() {
            if message.role != "assistant" {
                continue;
            }
            let at = |error| in_turn(index, error);
            let before = match self.render(&messages[..index], &at_end(options, true)) {
                // Some templates look at the first message, which is this one.
                Err(_) if index == 0 => String::new(),
                before => before.map_err(at)?,
            };
            let after = self.render(&messages[..=index], &at_end(options, false)).map_err(at)?;
            let begin = match after.starts_with(&before) {
                true => Some(before.len()),
                false => self.begin_of(messages, index, options, &before, &after).map_err(at)?,
            };
            let Some(begin) = begin.filter(|_| whole.starts_with(&after)) else {
                return Err(Error::Template(format!(
                    "turn {index}: the template writes earlier turns differently when others \
                     follow, so that responses cannot be told from prompts; split the conversation \
                     so that it ends with this turn, or use another template"
                )));
            };
            spans.push((begin, after.len()));
        }
        if spans.is_empty() {
            let turns = messages.len();
            return Err(Error::Template(format!("none of {turns} turns is the assistant's")));
        }
        Ok(spans)
    }
}

impl ChatTemplate {
    /// Finds the beginning of a turn that the template opens otherwise where it is to be written
    /// than where it stands (with a thought begun, or with a mark of its own): behind what both
    /// have of its head, else where its text is.
    fn begin_of(
        &self,
        messages: &[Message],
        turn: usize,
        options: &RenderOptions,
        asked: &str,
        written: &str,
    ) -> Result<Option<usize>> {
        let earlier = self.render(&messages[..turn], &at_end(options, false))?;
        let Some(head) = written.strip_prefix(&earlier) else { return Ok(None) };
        let pairs = asked.chars().zip(written.chars()).take_while(|(a, b)| a == b);
        let shared = pairs.map(|(c, _)| c.len_utf8()).sum::<usize>();
        if shared > earlier.len() {
            return Ok(Some(shared));
        }
        Ok(Some(earlier.len() + head.find(messages[turn].content.trim()).unwrap_or(0)))
    }

    /// The error of a conversation, with the first turn that brings it about.
    fn at_turn(&self, messages: &[Message], options: &RenderOptions, error: Error) -> Error {
        let same = |other: &Error| other.to_string() == error.to_string();
        let fails = |turns: &usize| {
            let beginning = self.render(&messages[..*turns], &at_end(options, false));
            beginning.is_err_and(|other| same(&other))
        };
        match (1..=messages.len()).find(fails) {
            Some(turns) => in_turn(turns - 1, error),
            None => error,
        }
    }
}

/// Turns are counted from 0, as the messages of a list are.
fn in_turn(index: usize, error: Error) -> Error {
    match error {
        Error::Template(reason) => Error::Template(format!("turn {index}: {reason}")),
        other => other,
    }
}

fn at_end(options: &RenderOptions, add_generation_prompt: bool) -> RenderOptions {
    RenderOptions { add_generation_prompt, ..options.clone() }
}

fn render_seed_coder(messages: &[Message], options: &RenderOptions) -> String {
    let [bos, eos] = ["<[begin▁of▁sentence]>", "<[end▁of▁sentence]>"];
    let mut text = String::new();
    for Message { role, content, .. } in messages {
        let gap = if role == "system" { "\n\n" } else { "" };
        text.extend([bos, role, "\n", content, gap, eos]);
    }
    if options.add_generation_prompt {
        text.extend([bos, "assistant\n"]);
    }
    text
}

fn harmless(tokenizer: &Tokenizer, message: &Message) -> Message {
    let special = tokenizer.special_tokens();
    message.map(&|text| {
        let mut text = text.to_owned();
        for special in special.iter().filter(|special| !special.is_empty()) {
            if text.contains(special) {
                let first = special.chars().next().map_or(0, char::len_utf8);
                let broken = format!("{}{BREAK}{}", &special[..first], &special[first..]);
                text = text.replace(special, &broken);
            }
        }
        text
    })
}

fn encode_broken(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>> {
    let parts: Result<Vec<_>> = text.split(BREAK).map(|part| tokenizer.encode(part)).collect();
    Ok(parts?.concat())
}

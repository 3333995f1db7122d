//! Conversations as the text, and the tokens, that an instruct model was trained on.

use crate::error::{Error, Result};
use crate::packing::Sample;
use crate::template::{self, Template};
use crate::tokenizer::Tokenizer;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::path::Path;

mod folder;

use folder::in_folder;

/// One turn of a conversation.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// "system", "user", "assistant" or what else the template knows.
    pub role: String,
    /// What was said.
    pub content: String,
    /// Whatever else the template looks at, such as `tool_calls`.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

impl Message {
    /// A turn of a role and its text.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into(), more: Map::new() }
    }
}

/// What a rendering depends on besides the conversation.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RenderOptions {
    /// Whether the text ends where the assistant is to begin.
    pub add_generation_prompt: bool,
    /// The time that a template may ask for, in seconds since 1970, UTC.
    pub now: i64,
    /// Further variables, such as `tools` or `enable_thinking`.
    pub variables: Map<String, Value>,
}

/// How a model wants its conversations written.
///
/// ```
/// use lacuna_data::chat::{ChatTemplate, Message, RenderOptions};
/// let turns = [Message::new("user", "Sort a list.")];
/// let options = RenderOptions { add_generation_prompt: true, ..Default::default() };
/// assert_eq!(
///     ChatTemplate::seed_coder().render(&turns, &options)?,
///     "<[begin▁of▁sentence]>user\nSort a list.<[end▁of▁sentence]><[begin▁of▁sentence]>assistant\n",
/// );
/// # Ok::<(), lacuna_data::Error>(())
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

/// Put into a special token that a user spelt out, so that it is not taken for one. Not a character
/// (Unicode keeps it for uses like this); taken out again before encoding.
const BREAK: char = '\u{10FFFF}';

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
        let Some(found) = in_folder(folder.as_ref())? else { return Ok(None) };
        let template = Self::from_source(&found.source, found.tokens);
        template.map(Some).map_err(|error| error.in_file(&found.file))
    }

    /// The text of that template, as it is.
    ///
    /// # Errors
    /// When a file is unreadable or holds no template.
    pub fn source_in_folder(folder: impl AsRef<Path>) -> Result<Option<String>> {
        Ok(in_folder(folder.as_ref())?.map(|found| found.source))
    }

    /// The conversation as text.
    ///
    /// # Errors
    /// When the template refuses the conversation, is faulty, or does not come to an end.
    pub fn render(&self, messages: &[Message], options: &RenderOptions) -> Result<String> {
        match &self.format {
            Format::SeedCoder => Ok(render_seed_coder(messages, options)),
            Format::Jinja { template, tokens } => {
                let mut variables = tokens.clone();
                variables.extend(options.variables.clone());
                variables.insert("messages".to_owned(), json!(messages));
                let prompt = json!(options.add_generation_prompt);
                variables.insert("add_generation_prompt".to_owned(), prompt);
                variables.insert(template::NOW.to_owned(), json!(options.now));
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

    /// The conversation as a sample for fine-tuning: what the assistant says is supervised, with the
    /// end of its turn; everything else is only seen.
    ///
    /// Works with any template that writes a conversation's beginning the same way whatever follows:
    /// it is rendered turn by turn, and what each assistant's turn adds is that turn's response.
    ///
    /// # Errors
    /// As [`encode`](Self::encode); when the template rewrites earlier turns; when no turn is the
    /// assistant's.
    pub fn sample(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
        options: &RenderOptions,
    ) -> Result<Sample> {
        self.sample_of(tokenizer, messages, options, &|_| true)
    }

    /// As [`sample`](Self::sample), with the assistant's turns supervised that `learnt` says, by their
    /// numbers from 0.
    ///
    /// # Errors
    /// As [`sample`](Self::sample).
    pub fn sample_of(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
        options: &RenderOptions,
        learnt: &dyn Fn(usize) -> bool,
    ) -> Result<Sample> {
        let safe: Vec<Message> =
            messages.iter().map(|message| harmless(tokenizer, message)).collect();
        let spans = self.responses(&safe, options)?;
        let text = self.render(&safe, &at_end(options, false))?;
        let mut turns = vec![];
        let mut from = 0;
        let assistants = (0..messages.len()).filter(|turn| messages[*turn].role == "assistant");
        for ((begin, end), turn) in spans.into_iter().zip(assistants) {
            turns.push((encode_broken(tokenizer, &text[from..begin])?, false));
            turns.push((encode_broken(tokenizer, &text[begin..end])?, learnt(turn)));
            from = end;
        }
        turns.push((encode_broken(tokenizer, &text[from..])?, false));
        Ok(Sample::from_turns(turns.iter().map(|(tokens, flag)| (tokens.as_slice(), *flag))))
    }

    /// Where in the rendered conversation the assistant speaks: byte ranges, ascending.
    ///
    /// # Errors
    /// As [`sample`](Self::sample).
    pub fn responses(
        &self,
        messages: &[Message],
        options: &RenderOptions,
    ) -> Result<Vec<(usize, usize)>> {
        let whole = self.render(messages, &at_end(options, false))?;
        let mut spans = vec![];
        for (index, message) in messages.iter().enumerate() {
            if message.role != "assistant" {
                continue;
            }
            let before = self.render(&messages[..index], &at_end(options, true))?;
            let after = self.render(&messages[..=index], &at_end(options, false))?;
            if !(after.starts_with(&before) && whole.starts_with(&after)) {
                return Err(Error::Template(format!(
                    "turn {index}: the template writes earlier turns differently when others \
                     follow, so that responses cannot be told from prompts; split the conversation \
                     so that it ends with this turn, or use another template"
                )));
            }
            spans.push((before.len(), after.len()));
        }
        if spans.is_empty() {
            let turns = messages.len();
            return Err(Error::Template(format!("none of {turns} turns is the assistant's")));
        }
        Ok(spans)
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
    let mut content = message.content.clone();
    for special in tokenizer.special_tokens() {
        if content.contains(special) {
            let first = special.chars().next().map_or(0, char::len_utf8);
            let broken = format!("{}{BREAK}{}", &special[..first], &special[first..]);
            content = content.replace(special, &broken);
        }
    }
    Message { content, ..message.clone() }
}

fn encode_broken(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>> {
    let parts: Result<Vec<_>> = text.split(BREAK).map(|part| tokenizer.encode(part)).collect();
    Ok(parts?.concat())
}

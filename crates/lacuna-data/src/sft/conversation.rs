//! Reads conversations as others write them down: OpenAI's messages, ShareGPT's turns, pairs of
//! texts.

use crate::corpus::Reason;
use crate::records::{Fault, HALF, parse};
use lacuna_text::Message;
use lacuna_text::chat::Tools;
use minijinja::Value;
use minijinja::value::ValueKind;

/// The forms that a record may have, for errors.
pub(super) const EXPECTED: &str = "a conversation is expected: {\"messages\": [{\"role\": …, \
     \"content\": …}, …]}, {\"conversations\": [{\"from\": …, \"value\": …}, …]}, prompt and \
     completion, or instruction, input and output";

/// A conversation that can be rendered.
#[derive(Debug)]
pub(super) struct Conversation {
    pub(super) messages: Vec<Message>,
    /// Of each turn: whether it is the assistant's and to be learnt.
    pub(super) learnt: Vec<bool>,
    /// Of each turn: whether it calls tools; then also the turn without the calls.
    pub(super) without_calls: Vec<Option<Message>>,
    /// The tools that the assistant may call, as the record has them.
    pub(super) tools: Option<Tools>,
}

impl Conversation {
    /// A hash of what is said in it: the same whatever file it stands in, and under every tokenizer and template.
    pub(super) fn hash(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        for message in &self.messages {
            for part in [&message.role, &message.content] {
                hasher.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
            }
        }
        hasher.finalize()
    }
}

/// Reads a record.
///
/// # Errors
/// Why it is passed over.
pub(super) fn conversation(record: &[u8]) -> Result<Conversation, Fault> {
    let record: Value = parse(record, |bytes| serde_json::from_slice(bytes))?;
    if record.kind() != ValueKind::Map {
        return Err(Fault::new(Reason::NoConversation, "it is no object"));
    }
    if record.to_string().contains(HALF) {
        return Err(Fault::new(Reason::HalfCharacter, "a lone surrogate"));
    }
    for name in ["images", "image", "videos", "video", "audios", "audio"] {
        if get(&record, name).is_some_and(|value| value.is_true()) {
            return Err(Fault::new(Reason::NotTrainable, format!("{name} of the conversation")));
        }
    }
    let turns = turns(&record)?;
    let mut found =
        Conversation { messages: vec![], learnt: vec![], without_calls: vec![], tools: None };
    for (number, turn) in (1..).zip(turns) {
        let Turn { message, plain, weight } = message(&turn).map_err(|fault| {
            let words = format!("turn {number}: {}", fault.words);
            Fault { words, ..fault }
        })?;
        found.learnt.push(message.role == "assistant" && weight);
        found.messages.push(message);
        found.without_calls.push(plain);
    }
    if found.messages.iter().all(|message| message.role != "assistant") {
        let turns = found.messages.len();
        let words = format!("none of {turns} turns is the assistant's");
        return Err(Fault::new(Reason::NoConversation, words));
    }
    let tools = get(&record, "tools").or_else(|| get(&record, "functions"));
    found.tools = tools.filter(Value::is_true).and_then(|tools| match tools.as_str() {
        // A list that was put into a string, as data sets in columns have it.
        Some(text) => serde_json::from_str(text).ok(),
        None => serde_json::from_slice(&serde_json::to_vec(&tools).ok()?).ok(),
    });
    Ok(found)
}

/// A field that is there and is not null.
fn get(value: &Value, name: &str) -> Option<Value> {
    let found = value.get_attr(name).ok()?;
    (!found.is_undefined() && !found.is_none()).then_some(found)
}

fn text(value: &Value, name: &str) -> Option<String> {
    get(value, name)?.as_str().map(str::to_owned)
}

fn turn(role: &str, content: &str) -> Value {
    Value::from_pairs([("role", role), ("content", content)])
}

/// The turns of a record, whatever its form.
fn turns(record: &Value) -> Result<Vec<Value>, Fault> {
    for name in ["messages", "conversations", "conversation"] {
        let Some(list) = get(record, name) else { continue };
        if list.kind() != ValueKind::Seq {
            let words = format!("{name:?} is no list");
            return Err(Fault::new(Reason::NoConversation, words));
        }
        let system = text(record, "system").filter(|text| !text.is_empty());
        let system = system.map(|text| turn("system", &text));
        let turns: Vec<Value> = system.into_iter().chain(items(&list)).collect();
        if turns.is_empty() {
            return Err(Fault::new(Reason::NoConversation, format!("{name:?} is empty")));
        }
        return Ok(turns);
    }
    pair(record).ok_or_else(|| {
        let names: Vec<String> =
            record.try_iter().into_iter().flatten().take(8).map(|name| name.to_string()).collect();
        let words = match names.iter().any(|name| name == "chosen") {
            true => "it is a preference (chosen, rejected), which is not learnt here".to_owned(),
            false if names.is_empty() => "the object has no field".to_owned(),
            false => format!("it has {}", names.join(", ")),
        };
        Fault::new(Reason::NoConversation, words)
    })
}

fn items(list: &Value) -> Vec<Value> {
    list.try_iter().into_iter().flatten().collect()
}

/// A question and an answer, each a text or a list of messages.
fn pair(record: &Value) -> Option<Vec<Value>> {
    let answer = ["completion", "response", "output", "answer"];
    let answer = answer.into_iter().find_map(|name| get(record, name))?;
    let question = ["prompt", "instruction", "question", "query", "input"];
    let (asked, question) =
        question.into_iter().find_map(|name| Some((name, get(record, name)?)))?;
    let mut turns = vec![];
    if let Some(system) = text(record, "system").filter(|text| !text.is_empty()) {
        turns.push(turn("system", &system));
    }
    // Earlier rounds, as lists of two texts.
    for round in get(record, "history").iter().flat_map(items) {
        let said = items(&round);
        let [user, assistant] = said.as_slice() else { return None };
        turns.extend([turn("user", user.as_str()?), turn("assistant", assistant.as_str()?)]);
    }
    match question.kind() {
        ValueKind::Seq => turns.extend(items(&question)),
        _ => {
            let mut asks = question.as_str()?.to_owned();
            let input = text(record, "input").filter(|_| asked == "instruction");
            if let Some(input) = input.filter(|input| !input.is_empty()) {
                asks = format!("{asks}\n\n{input}");
            }
            turns.push(turn("user", &asks));
        }
    }
    match answer.kind() {
        ValueKind::Seq => turns.extend(items(&answer)),
        _ => turns.push(turn("assistant", answer.as_str()?)),
    }
    Some(turns)
}

struct Turn {
    message: Message,
    /// The same without calls of tools, if there are any.
    plain: Option<Message>,
    weight: bool,
}

/// A turn with all its fields in their order; `from` and `value` become `role` and `content`.
fn message(turn: &Value) -> Result<Turn, Fault> {
    let fault = |words: String| Err(Fault::new(Reason::NoConversation, words));
    if turn.kind() != ValueKind::Map {
        return fault("it is no object".to_owned());
    }
    let (by_role, content) = match get(turn, "role") {
        Some(_) => (true, get(turn, "content")),
        None => (false, get(turn, "value").or_else(|| get(turn, "content"))),
    };
    let Some(role) = text(turn, if by_role { "role" } else { "from" }) else {
        return fault("it has no role".to_owned());
    };
    let role = match role.as_str() {
        "human" => "user",
        "gpt" | "chatgpt" | "bing" | "bard" | "model" | "bot" | "function_call" => "assistant",
        "observation" => "tool",
        other => other,
    };
    let content = content.map(|content| said(&content)).transpose()?.unwrap_or_default();
    let calls = ["tool_calls", "function_call"];
    let has_calls = calls.into_iter().any(|name| get(turn, name).is_some_and(|v| v.is_true()));
    let message_of = |with_calls: bool| {
        let mut fields =
            vec![("role".to_owned(), role.into()), ("content".to_owned(), content.as_str().into())];
        for key in turn.try_iter().into_iter().flatten() {
            let name = key.to_string();
            let replaced = matches!(name.as_str(), "role" | "content")
                || (!by_role && matches!(name.as_str(), "from" | "value"));
            if !replaced && (with_calls || !calls.contains(&name.as_str())) {
                fields.push((name, turn.get_item(&key).unwrap_or_default()));
            }
        }
        let json = serde_json::to_vec(&Value::from_pairs(fields));
        json.and_then(|json| serde_json::from_slice(&json)).map_err(|error| {
            Fault::new(
                Reason::NoConversation,
                format!("it is no message ({})", lacuna_files::short(&error.to_string())),
            )
        })
    };
    let off = |name: &str| get(turn, name).is_some_and(|value| !value.is_true());
    Ok(Turn {
        message: message_of(true)?,
        plain: if has_calls { Some(message_of(false)?) } else { None },
        weight: !off("weight") && !off("train"),
    })
}

/// The text of a content: itself, or that of its parts.
fn said(content: &Value) -> Result<String, Fault> {
    if let Some(text) = content.as_str() {
        return Ok(text.to_owned());
    }
    if content.kind() != ValueKind::Seq {
        let words = "its content is neither text, null nor a list of parts".to_owned();
        return Err(Fault::new(Reason::NoConversation, words));
    }
    let part = |part: Value| {
        if let Some(text) = part.as_str() {
            return Ok(text.to_owned());
        }
        let kind = text(&part, "type").unwrap_or_else(|| "a part without a type".to_owned());
        let text = match kind.as_str() {
            "text" | "input_text" | "output_text" => text(&part, "text"),
            "refusal" => text(&part, "refusal"),
            _ => None,
        };
        text.ok_or_else(|| Fault::new(Reason::NotTrainable, kind))
    };
    items(content).into_iter().map(part).collect()
}

//! Answers `/v1/chat/completions`: the assistant's next turn, in appends or as snapshots of the text while it forms.

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use lacuna_engine::{Algorithm, Attention, Resolved};
use lacuna_text::{Message, RenderOptions};
use serde_json::{Map, Value, json};
use std::sync::{Arc, Mutex};
use tokio::sync::mpsc::Receiver;

use super::completions::{no_bias, with_seed};
use super::errors::{ApiError, json_response};
use super::fields::{aside, new_tokens, read, request, texts, with_ignored};
use super::replies::{self, DONE, Events, Names, Snapshot, event, finish_reason, usage};
use crate::app::App;
use crate::work::{Class, Reply, Task, Written};

/// New tokens of an answer at most, where nothing says how many.
const ANSWER_MAX: usize = 1024;

request! {
    /// The assistant's next turn.
    ChatRequest {
        /// The turns so far.
        #[schema(value_type = Option<Vec<Object>>)]
        messages: Vec<Message>,
        /// New tokens at most (1024).
        max_tokens: i64,
        /// The same by its newer name.
        max_completion_tokens: i64,
        /// llama.cpp's name for the same; 0 reads the conversation for the next request.
        n_predict: i64,
        /// Answers; the n-th is drawn with the seed plus n.
        n: i64,
        /// True if every piece of the stream is the whole text so far, its holes included.
        diffusing: bool,
        /// A text that the answer is likely to repeat for the most part: its draft.
        #[schema(value_type = Option<Object>)]
        prediction: Value,
        /// Variables for the chat template.
        #[schema(value_type = Option<Object>)]
        chat_template_kwargs: Map<String, Value>,
        /// Refused: there are no tools yet.
        #[schema(value_type = Option<Vec<Object>>)]
        tools: Value,
        /// Refused, but for none.
        #[schema(value_type = Option<Object>)]
        tool_choice: Value,
        /// Refused.
        #[schema(value_type = Option<Vec<Object>>)]
        functions: Value,
        /// Refused.
        #[schema(value_type = Option<Object>)]
        function_call: Value,
        /// Taken where it is false.
        logprobs: bool,
        /// Taken where it is empty.
        #[schema(value_type = Option<Object>)]
        logit_bias: Value,
    }
}

impl ChatRequest {
    /// Refuses by name what is not there.
    pub(super) fn refuse(&self) -> Result<(), ApiError> {
        let none = |value: &Option<Value>| match value {
            None | Some(Value::Null) => true,
            Some(Value::Array(list)) => list.is_empty(),
            Some(Value::String(word)) => word == "none" || word == "auto",
            Some(_) => false,
        };
        let tools = [
            ("tools", &self.tools),
            ("tool_choice", &self.tool_choice),
            ("functions", &self.functions),
            ("function_call", &self.function_call),
        ];
        if let Some((name, _)) = tools.iter().find(|(_, value)| !none(value)) {
            return Err(ApiError::wrong(name, "there are no tools yet; ask without them"));
        }
        if self.logprobs == Some(true) {
            let reason = "the tokens of an answer have no likelihood of their own in a block; `/v1/completions` tells \
                          that of a text with `echo`";
            return Err(ApiError::wrong("logprobs", reason));
        }
        no_bias(self.logit_bias.as_ref())
    }

    /// The text that is likely to be repeated.
    fn predicted(&self) -> Result<Option<String>, ApiError> {
        let Some(prediction) = self.prediction.as_ref().filter(|one| !one.is_null()) else {
            return Ok(None);
        };
        match &prediction["content"] {
            Value::String(text) => Ok(Some(text.clone())),
            Value::Array(parts) => {
                Ok(Some(parts.iter().filter_map(|part| part["text"].as_str()).collect()))
            }
            _ => Err(ApiError::wrong("prediction", "expected a `content` of text")),
        }
    }
}

/// The tokens of a conversation up to where the assistant is to speak, and what ends its answer.
pub(super) fn conversation(
    app: &App,
    messages: &[Message],
    variables: Option<&Map<String, Value>>,
) -> Result<(Vec<u32>, Vec<u32>), ApiError> {
    let (format, ends) = app.chat()?;
    app.fits("messages", messages.iter().map(|message| message.content.len()).sum())?;
    let options = RenderOptions {
        add_generation_prompt: true,
        now: i64::try_from((app.options.clock)()).unwrap_or(0),
        variables: variables.cloned().unwrap_or_default(),
        ..RenderOptions::default()
    };
    let tokenizer = app.tokenizer()?;
    let bytes = messages.iter().map(|message| message.content.len()).sum();
    let prompt = aside(bytes, || format.encode(tokenizer, messages, &options));
    let prompt = prompt.map_err(|error| ApiError::wrong("messages", error))?;
    Ok((prompt, ends.to_vec()))
}

/// The assistant's next turn.
#[utoipa::path(
    post,
    path = "/v1/chat/completions",
    request_body = ChatRequest,
    responses(
        (status = 200, description = "`chat.completion`, or events of `chat.completion.chunk` with `stream`"),
        (status = 400, description = "a field that can't be followed, by its name"),
        (status = 429, description = "too many requests wait"),
    )
)]
pub(super) async fn completions(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, ApiError> {
    let (caller, asked) = read::<ChatRequest>(&app, request).await?;
    let shared = asked.shared();
    let ignored = shared.ignored()?;
    asked.refuse()?;
    let n = texts("n", asked.n)?;
    let messages = asked.messages.as_deref().filter(|messages| !messages.is_empty());
    let missing = || ApiError::wrong("messages", "is missing: at least one message");
    let messages: Vec<Message> = messages.ok_or_else(missing)?.iter().map(spoken).collect();
    let (prompt, ends) = conversation(&app, &messages, asked.chat_template_kwargs.as_ref())?;
    let room = app.positions().saturating_sub(prompt.len()).clamp(1, ANSWER_MAX);
    let most = asked.max_completion_tokens.or(asked.max_tokens).or(asked.n_predict);
    let most = new_tokens(most, room);
    let mut options = shared.options(&app, most.max(1))?;
    options.eos_ids.get_or_insert(ends);
    let resolved = app.resolved(prompt, &options)?;
    let mut way = shared.way(caller);
    let names = Names::new(&app, "chatcmpl", "chat.completion", shared.model);
    let streams = shared.streams;
    if most == 0 {
        // An editor has its instructions read before anybody asks.
        way.class = Class::Background;
        // Nothing is read ahead where too many wait.
        let _ = app.submit(vec![Task::Read(resolved)], way);
        let body = names.with(json!([choice(0, "", "length")]));
        return Ok(with_ignored(json_response(StatusCode::OK, &body), &ignored));
    }
    let draft = match asked.predicted()? {
        Some(text) if takes_drafts(&app, &resolved) => {
            app.fits("prediction", text.len())?;
            let tokens = app.tokenizer()?.encode_ordinary(&text);
            Some(tokens.map_err(|error| ApiError::wrong("prediction", error))?)
        }
        _ => None,
    };
    let task = |number: usize| {
        let request = with_seed(&resolved, number as u64);
        match &draft {
            Some(draft) => Task::Edit { request, draft: draft.clone() },
            None => Task::Write(request),
        }
    };
    let diffusing = asked.diffusing == Some(true);
    // Edits tell their text in one piece.
    way.watch = streams && diffusing;
    let heard = app.submit((0..n).map(task).collect(), way)?;
    let response = match streams {
        true => {
            let with_usage = shared.with_usage;
            streamed(heard, &names, n, Telling { diffusing, whole: draft.is_some(), with_usage })
        }
        false => {
            let written = replies::all(&app, heard).await?;
            let choices = written.iter().enumerate();
            let choices =
                choices.map(|(at, one)| choice(at, &one.completion.text, finish_reason(one)));
            let mut body = names.with(choices.collect());
            body["usage"] = usage(&written.iter().collect::<Vec<_>>(), n);
            body["timings"] = written.first().map(replies::timings).unwrap_or_default();
            json_response(StatusCode::OK, &body)
        }
    };
    Ok(with_ignored(response, &ignored))
}

/// Tells whether drafts of a request are verified.
pub(super) fn takes_drafts(app: &App, request: &Resolved) -> bool {
    match request.algorithm() {
        Algorithm::Autoregressive => true,
        // Under full attention the whole text is one block.
        Algorithm::Blocks => request.attention != Attention::Full && !app.model.is_shifted(),
        Algorithm::Reference => false,
    }
}

/// A message in a role that templates know.
fn spoken(message: &Message) -> Message {
    match message.role.as_str() {
        "developer" => Message::new("system", &message.content),
        _ => message.clone(),
    }
}

pub(super) fn choice(index: usize, text: &str, finish: &str) -> Value {
    json!({
        "index": index,
        "message": {"role": "assistant", "content": text},
        "logprobs": null,
        "finish_reason": finish,
    })
}

/// The way in which a stream tells its text.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Telling {
    /// The whole text so far each time.
    pub(super) diffusing: bool,
    /// All of it at the end.
    pub(super) whole: bool,
    pub(super) with_usage: bool,
}

pub(super) fn streamed(
    heard: Vec<Receiver<Reply>>,
    names: &Names,
    n: usize,
    telling: Telling,
) -> Response {
    let chunk = |names: &Names, index: usize, delta: Value, finish: Option<&str>| {
        let choice = json!({"index": index, "delta": delta, "finish_reason": finish});
        let mut chunk = names.with(json!([choice]));
        chunk["object"] = "chat.completion.chunk".into();
        chunk
    };
    let begin =
        |number| event(&chunk(names, number, json!({"role": "assistant", "content": ""}), None));
    let start: String = (0..heard.len()).map(begin).collect();
    let mut snapshots: Vec<Snapshot> = heard.iter().map(|_| Snapshot::default()).collect();
    let ended = Arc::new(Mutex::new(Vec::<Written>::new()));
    let (told, own) = (Arc::clone(&ended), names.clone());
    let write = move |number: usize, reply: Reply| {
        let say = |text: &str| event(&chunk(&own, number, json!({"content": text}), None));
        match reply {
            Reply::Text(piece) if telling.diffusing => {
                snapshots[number].text(&piece);
                String::new()
            }
            Reply::Text(piece) => say(&piece),
            Reply::Seen(seen) if telling.diffusing => {
                snapshots[number].seen(&seen);
                say(&snapshots[number].whole())
            }
            Reply::Done(written) => {
                let text = &written.completion.text;
                let whole = (telling.diffusing || telling.whole) && !text.is_empty();
                let last = chunk(&own, number, json!({}), Some(finish_reason(&written)));
                let last = if whole { say(text) } else { String::new() } + &event(&last);
                if let Ok(mut ended) = told.lock() {
                    ended.push(*written);
                }
                last
            }
            _ => String::new(),
        }
    };
    let names = names.clone();
    Events::response(heard, start, Box::new(write), move || {
        let ended = ended.lock().map(|mut ended| std::mem::take(&mut *ended)).unwrap_or_default();
        if !telling.with_usage {
            return DONE.to_owned();
        }
        let mut last = names.with(json!([]));
        last["object"] = "chat.completion.chunk".into();
        last["usage"] = usage(&ended.iter().collect::<Vec<_>>(), n);
        event(&last) + DONE
    })
}

//! Answers `/infill` in llama.cpp's form: what editors' plugins ask at every pause of the typing.

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use lacuna_engine::{FinishReason, MAX_NEW_TOKENS};
use lacuna_text::Fim;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use tokio::sync::mpsc::Receiver;
use utoipa::ToSchema;

use super::completions::with_seed;
use super::errors::{ApiError, json_response};
use super::fields::{aside, new_tokens, read, request, texts, with_ignored};
use super::replies::{self, Events, event, timings};
use crate::app::App;
use crate::work::{Class, Reply, Task, Written};

/// A piece of another file, for context.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct Chunk {
    /// Its text.
    pub(crate) text: String,
    /// The file that it is from.
    pub(crate) filename: Option<String>,
}

request! {
    /// Fill the hole at the cursor.
    InfillRequest {
        /// The text before the hole.
        input_prefix: String,
        /// The text after the hole.
        input_suffix: String,
        /// Pieces of other files, the one that matters most last.
        input_extra: Vec<Chunk>,
        /// The part of the middle that is written already: the line before the cursor.
        prompt: String,
        /// New tokens at most (128); 0 reads the texts for the next request and answers at once.
        n_predict: i64,
        /// Completions; the n-th is drawn with the seed plus n.
        n_cmpl: i64,
        /// The fields that the answer has, with `/` between the names of nested ones; absent: all, nested.
        response_fields: Vec<String>,
    }
}

/// Fill the hole at the cursor, as llama.cpp's server does.
#[utoipa::path(
    post,
    path = "/infill",
    request_body = InfillRequest,
    responses(
        (status = 200, description = "`content` with counts and times; a list of them for `n_cmpl` above 1"),
        (status = 400, description = "a field that can't be followed, by its name"),
        (status = 429, description = "too many requests wait"),
    )
)]
pub(super) async fn infill(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, ApiError> {
    let (caller, asked) = read::<InfillRequest>(&app, request).await?;
    let shared = asked.shared();
    let ignored = shared.ignored()?;
    let n = texts("n_cmpl", asked.n_cmpl)?;
    let fim = app.fim()?;
    let most = new_tokens(asked.n_predict, MAX_NEW_TOKENS);
    let mut options = shared.options(&app, most.max(1))?;
    options.eos_ids.get_or_insert_with(|| app.middle_ends(fim));
    let extra = asked.input_extra.iter().flatten().map(|chunk| chunk.text.len());
    let texts = [&asked.input_prefix, &asked.input_suffix, &asked.prompt];
    let texts = texts.into_iter().flatten().map(String::len);
    let bytes = extra.chain(texts).sum();
    let (prompt, truncated) = aside(bytes, || prompt(&app, fim, &asked, most))?;
    let resolved = app.resolved(prompt, &options)?;
    let mut way = shared.way(caller);
    let frame = Frame {
        model: shared.model.unwrap_or(&app.options.name).to_owned(),
        slot: asked.id_slot.unwrap_or(0),
        truncated,
        settings: json!({
            "n_predict": most,
            "temperature": options.sampling.temperature,
            "top_k": options.sampling.top_k.map_or(0, std::num::NonZeroUsize::get),
            "top_p": options.sampling.top_p.unwrap_or(1.0),
            "min_p": options.sampling.min_p.unwrap_or(0.0),
            "seed": options.sampling.seed,
            "stop": options.stop,
            "n_ctx": app.positions(),
        }),
        fields: asked.response_fields.clone(),
    };
    if most == 0 {
        way.class = Class::Background;
        // Nothing is read ahead where too many wait.
        let _ = app.submit(vec![Task::Read(resolved)], way);
        let body = frame.warmed();
        return Ok(with_ignored(json_response(StatusCode::OK, &body), &ignored));
    }
    let tasks = (0..n).map(|number| Task::Write(with_seed(&resolved, number as u64)));
    let heard = app.submit(tasks.collect(), way)?;
    let response = match shared.streams {
        true => streamed(heard, frame),
        false => {
            let written = replies::all(&app, heard).await?;
            let mut bodies: Vec<Value> =
                written.iter().enumerate().map(|(at, one)| frame.whole(at, one)).collect();
            let body = if n == 1 { bodies.remove(0) } else { bodies.into() };
            json_response(StatusCode::OK, &body)
        }
    };
    Ok(with_ignored(response, &ignored))
}

/// The prompt, and whether something of the texts had no room: pieces of other files go first, then what is farthest from
/// the cursor.
fn prompt(
    app: &App,
    fim: &Fim,
    asked: &InfillRequest,
    new: usize,
) -> Result<(Vec<u32>, bool), ApiError> {
    /// Marks of the hole and what begins a text.
    const FRAME: usize = 8;
    let tokenizer = app.tokenizer()?;
    let failed = |error: lacuna_text::Error| ApiError::refused(error.to_string());
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let (prefix, begin_cut) =
        end_of(text(&asked.input_prefix) + &text(&asked.prompt), app.text_max());
    let (suffix, end_cut) = begin_of(text(&asked.input_suffix), app.text_max());
    let room = app.positions().saturating_sub(new.min(app.positions() / 2) + FRAME);
    // Three parts of the room are the text before the cursor's, one part the text's behind it, if both have so much.
    let counted = |text: &str| tokenizer.encode_ordinary(text).map(|ids| ids.len()).map_err(failed);
    let (before, after) = (counted(&prefix)?, counted(&suffix)?);
    let suffix_room = after.min((room / 4).max(room.saturating_sub(before)));
    let prefix_room = before.min(room - suffix_room);
    let is_cut = prefix_room < before || suffix_room < after;
    let prompt = match is_cut {
        false => fim.prompt_text(tokenizer, &prefix, &suffix).map_err(failed)?,
        true => {
            let before = tokenizer.encode_ordinary(&prefix).map_err(failed)?;
            let after = tokenizer.encode_ordinary(&suffix).map_err(failed)?;
            fim.prompt(&before[before.len() - prefix_room..], &after[..suffix_room])
        }
    };
    let extra_room = (room + FRAME).saturating_sub(prompt.len());
    let mut extra: Vec<u32> = Vec::new();
    // The last ones matter most; as many are encoded as there is room for.
    for chunk in asked.input_extra.iter().flatten().rev() {
        if extra.len() > extra_room {
            break;
        }
        extra.splice(0..0, spelled(app, chunk)?);
    }
    let is_cut = is_cut || begin_cut || end_cut || extra.len() > extra_room;
    let extra = &extra[extra.len() - extra.len().min(extra_room)..];
    // The token that begins a text stays first.
    let begin = prompt.iter().position(|id| *id == fim.prefix || *id == fim.suffix).unwrap_or(0);
    Ok(([&prompt[..begin], extra, &prompt[begin..]].concat(), is_cut))
}

/// The end of a text, and whether something before it is left out.
fn end_of(mut text: String, bytes: usize) -> (String, bool) {
    let mut from = text.len().saturating_sub(bytes);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    text.drain(..from);
    (text, from > 0)
}

/// The beginning of a text, and whether something behind it is left out.
fn begin_of(mut text: String, bytes: usize) -> (String, bool) {
    let mut to = text.len().min(bytes);
    let is_cut = to < text.len();
    while !text.is_char_boundary(to) {
        to -= 1;
    }
    text.truncate(to);
    (text, is_cut)
}

/// A piece of another file, behind the mark that the model's family has for one, or as a snippet by its name.
fn spelled(app: &App, chunk: &Chunk) -> Result<Vec<u32>, ApiError> {
    const MARKS: [&str; 3] = ["<|file_sep|>", "<file_sep>", "<|file_separator|>"];
    let tokenizer = app.tokenizer()?;
    let failed = |error: lacuna_text::Error| ApiError::refused(error.to_string());
    let name = chunk.filename.as_deref().unwrap_or("snippet");
    let mark = MARKS.iter().find_map(|mark| tokenizer.token_to_id(mark));
    let head = match mark {
        Some(_) => format!("{name}\n"),
        None => format!("\n--- {name} ---\n"),
    };
    let (text, _) = end_of(chunk.text.clone(), app.text_max());
    let text = tokenizer.encode_ordinary(&(head + &text)).map_err(failed)?;
    Ok(mark.into_iter().chain(text).collect())
}

/// The parts of an answer that do not depend on what is written.
#[derive(Clone)]
struct Frame {
    model: String,
    slot: i64,
    truncated: bool,
    settings: Value,
    fields: Option<Vec<String>>,
}

impl Frame {
    /// The answer.
    fn whole(&self, index: usize, written: &Written) -> Value {
        let completion = &written.completion;
        self.chosen(&json!({
            "index": index,
            "content": completion.text,
            "id_slot": self.slot,
            "stop": true,
            "model": self.model,
            "tokens_predicted": completion.tokens.len(),
            "tokens_evaluated": completion.prompt_tokens,
            "generation_settings": self.settings,
            "has_new_line": completion.text.contains('\n'),
            "truncated": self.truncated,
            "stop_type": match completion.finish {
                FinishReason::Eos => "eos",
                FinishReason::Length => "limit",
                FinishReason::Stop => "word",
            },
            "stopping_word": "",
            "tokens_cached": written.remembered,
            "timings": timings(written),
        }))
    }

    /// The answer to who wants the text read alone.
    fn warmed(&self) -> Value {
        self.chosen(&json!({
            "index": 0,
            "content": "",
            "id_slot": self.slot,
            "stop": true,
            "model": self.model,
            "tokens_predicted": 0,
            "generation_settings": self.settings,
            "truncated": self.truncated,
            "stop_type": "limit",
        }))
    }

    /// A piece of the answer.
    fn piece(&self, index: usize, text: &str) -> Value {
        json!({"index": index, "content": text, "stop": false, "id_slot": self.slot})
    }

    /// The fields that were asked for, under the names by which they were: `timings/prompt_n` is one.
    fn chosen(&self, all: &Value) -> Value {
        let Some(fields) = &self.fields else { return all.clone() };
        let found = fields.iter().filter_map(|name| {
            let value = name.split('/').try_fold(all, |value, part| value.get(part))?;
            Some((name.clone(), value.clone()))
        });
        Value::Object(found.collect::<Map<_, _>>())
    }
}

fn streamed(heard: Vec<Receiver<Reply>>, frame: Frame) -> Response {
    let write = move |number: usize, reply: Reply| match reply {
        Reply::Text(piece) => event(&frame.piece(number, &piece)),
        Reply::Done(written) => {
            let mut last = frame.whole(number, &written);
            if last.get("content").is_some() {
                // The pieces have been told.
                last["content"] = "".into();
            }
            event(&last)
        }
        _ => String::new(),
    };
    Events::response(heard, String::new(), Box::new(write), String::new)
}

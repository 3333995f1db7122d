//! Serves the page, and the stream of passes that it draws.

use axum::extract::{Request, State};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use lacuna_engine::MAX_NEW_TOKENS;
use lacuna_text::Message;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::sync::{Arc, LazyLock};
use utoipa::ToSchema;

use super::chat::{conversation, takes_drafts};
use super::errors::ApiError;
use super::fields::{new_tokens, read, request, with_ignored};
use super::replies::{Events, event, finish_reason, timings};
use crate::app::App;
use crate::work::{Reply, Seen, Task};

const PAGE: &str = include_str!("page.html");

/// The page's own script and style, by their hashes, and nothing of any other host: what a model writes can't become one.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let hash = |open: &str, close: &str| {
        let inner = PAGE.split_once(open).and_then(|(_, rest)| rest.split_once(close));
        let inner = inner.map_or("", |(inner, _)| inner);
        format!("'sha256-{}'", BASE64_STANDARD.encode(Sha256::digest(inner.as_bytes())))
    };
    let (script, style) = (hash("<script>", "</script>"), hash("<style>", "</style>"));
    format!(
        "default-src 'none'; script-src {script}; style-src {style}; connect-src 'self'; img-src 'self' data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
});

/// The page. It needs no key; what it asks for does.
pub(super) async fn page() -> Response {
    let mut response = Response::new(PAGE.into());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    if let Ok(policy) = HeaderValue::from_str(&POLICY) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    response
}

/// The things that can be watched.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum What {
    /// Go on with `text`.
    Continue,
    /// Answer `messages`.
    Chat,
    /// Fill the hole between `text` and `suffix`.
    Fill,
    /// Change `text` as `instruction` says, with it as draft.
    Edit,
}

request! {
    /// Something to watch being written.
    WatchRequest {
        /// The kind of text.
        task: What,
        /// The text.
        text: String,
        /// The text after the hole.
        suffix: String,
        /// The change to make.
        instruction: String,
        /// The turns so far.
        #[schema(value_type = Option<Vec<Object>>)]
        messages: Vec<Message>,
        /// New tokens at most.
        max_tokens: i64,
    }
}

/// Write something and tell of every pass: `refinement`, `block`, `text` and, last, `end`.
#[utoipa::path(
    post,
    path = "/lacuna/watch",
    request_body = WatchRequest,
    responses((status = 200, description = "events"), (status = 400, description = "a field that can't be followed"))
)]
pub(super) async fn watch(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, ApiError> {
    let (caller, asked) = read::<WatchRequest>(&app, request).await?;
    let shared = asked.shared();
    let ignored = shared.ignored()?;
    let tokenizer = app.tokenizer()?;
    let failed = |error: lacuna_text::Error| ApiError::refused(error.to_string());
    let text = asked.text.clone().unwrap_or_default();
    app.fits("text", text.len() + asked.suffix.as_deref().map_or(0, str::len))?;
    let what = asked.task.unwrap_or(What::Continue);
    let mut draft = None;
    let (prompt, ends, otherwise) = match what {
        What::Continue => {
            (tokenizer.encode_with_special_tokens(&text).map_err(failed)?, None, MAX_NEW_TOKENS)
        }
        What::Fill => {
            let fim = app.fim()?;
            let suffix = asked.suffix.as_deref().unwrap_or_default();
            let prompt = fim.prompt_text(tokenizer, &text, suffix).map_err(failed)?;
            (prompt, Some(app.middle_ends(fim)), MAX_NEW_TOKENS)
        }
        What::Chat => {
            let messages = asked.messages.as_deref().unwrap_or_default();
            let (prompt, ends) = conversation(&app, messages, None)?;
            (prompt, Some(ends), 512)
        }
        What::Edit => {
            let instruction = asked.instruction.as_deref().unwrap_or_default();
            let old = tokenizer.encode_ordinary(&text).map_err(failed)?;
            let (prompt, ends) = edit_prompt(&app, instruction, &text)?;
            let wanted = old.len() + old.len() / 4 + 128;
            draft = Some(old);
            (prompt, Some(ends), wanted)
        }
    };
    let room = app.positions().saturating_sub(prompt.len()).max(1);
    let most = new_tokens(asked.max_tokens, otherwise.min(room)).max(1);
    let mut options = shared.options(&app, most)?;
    options.eos_ids = options.eos_ids.or(ends);
    let request = app.resolved(prompt, &options)?;
    let task = match draft.filter(|_| takes_drafts(&app, &request)) {
        Some(draft) => Task::Edit { request, draft },
        None => Task::Write(request),
    };
    let mut way = shared.way(caller);
    way.watch = true;
    let heard = app.submit(vec![task], way)?;
    let write = |_: usize, reply: Reply| match reply {
        Reply::Text(piece) => event(&json!({"kind": "text", "text": piece})),
        Reply::Seen(seen) => event(&pass(&seen)),
        Reply::Done(written) => event(&json!({
            "kind": "end",
            "text": written.completion.text,
            "finish_reason": finish_reason(&written),
            "drafted_blocks": written.completion.drafts.drafted_blocks,
            "accepted_blocks": written.completion.drafts.accepted_blocks,
            "passes_saved": written.completion.drafts.passes_saved,
            "timings": timings(&written),
        })),
        _ => String::new(),
    };
    Ok(with_ignored(Events::response(heard, String::new(), Box::new(write), String::new), &ignored))
}

/// A pass as the page draws it.
fn pass(seen: &Seen) -> Value {
    let places = seen.places.iter().map(|place| {
        json!({
            "position": place.position,
            "text": place.text,
            "confidence": (place.confidence * 1e4).round() / 1e4,
            "filled": place.filled,
        })
    });
    json!({
        "kind": if seen.finished { "block" } else { "refinement" },
        "start": seen.start,
        "refinement": seen.refinement,
        "places": places.collect::<Value>(),
    })
}

/// The prompt that asks for a text with a change, and what ends the answer: as `lacuna edit` asks.
fn edit_prompt(app: &App, instruction: &str, text: &str) -> Result<(Vec<u32>, Vec<u32>), ApiError> {
    if app.chat().is_ok() {
        let message = format!(
            "{instruction}\n\nAnswer with the whole changed file and nothing else.\n\n{}",
            super::edit::fenced(text)
        );
        return conversation(app, &[Message::new("user", message)], None);
    }
    let document = format!("Before:\n{text}\n\nChange: {instruction}\nAfter:\n");
    let tokens = app.tokenizer()?.encode_ordinary(&document);
    let tokens = tokens.map_err(|error| ApiError::refused(error.to_string()))?;
    Ok((tokens, app.model.ends_of_text()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_loads_nothing_from_anywhere_else() {
        for foreign in ["http://", "https://", " src=", "@import", "url(", " style=", "onclick="] {
            assert!(!PAGE.contains(foreign), "{foreign}");
        }
        assert_eq!((PAGE.matches("<script>").count(), PAGE.matches("<style>").count()), (1, 1));
        assert!(!POLICY.contains("unsafe"), "{}", *POLICY);
    }
}

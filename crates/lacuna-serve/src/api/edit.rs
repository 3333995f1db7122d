//! Answers `/v1/edit/completions` and `/v1/apply/completions` in Inception's form: the region at the cursor as it is
//! likely to be next, and a file with a change put into it. What is there is the draft of what is written.

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use lacuna_text::Message;
use std::sync::Arc;
use tokio::sync::mpsc::Receiver;

use super::chat::{ChatRequest, Telling, choice, conversation, streamed, takes_drafts};
use super::errors::{ApiError, json_response};
use super::fields::{Caller, new_tokens, read, with_ignored};
use super::replies::{self, Names, finish_reason, usage};
use crate::app::App;
use crate::work::{Reply, Task, Written};

mod prompt;

use prompt::{Apply, NextEdit, region_in};

pub(super) use prompt::fenced;

/// The region at the cursor as it is likely to be next: one message in the form of next-edit models; the answer is the new
/// region between fences, or `None` where nothing changes.
#[utoipa::path(
    post,
    path = "/v1/edit/completions",
    request_body = ChatRequest,
    responses(
        (status = 200, description = "`chat.completion` with the new region between fences, or `None`"),
        (status = 400, description = "a message without a region to edit, or a field that can't be followed"),
    )
)]
pub(super) async fn edit(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, ApiError> {
    let (caller, asked) = read::<ChatRequest>(&app, request).await?;
    let next = NextEdit::parse(&last_message(&asked)?)
        .map_err(|reason| ApiError::wrong("messages", reason))?;
    let old = next.region.clone();
    let question = Question { chat: next.message(), document: next.document(), draft: old.clone() };
    answer(&app, caller, &asked, question, move |written, is_chat| {
        let text = &written.completion.text;
        let new = if is_chat { region_in(text) } else { text.clone() };
        let is_cut = finish_reason(written) == "length";
        match is_cut || new.trim_end() == old.trim_end() {
            // Half a region would take the other half away.
            true => "None".to_owned(),
            false => fenced(&new),
        }
    })
    .await
}

/// A file with a change put into it: one message with the file and the change, each between its marks.
#[utoipa::path(
    post,
    path = "/v1/apply/completions",
    request_body = ChatRequest,
    responses(
        (status = 200, description = "`chat.completion` with the whole new file"),
        (status = 400, description = "a message without a file or a change, or a field that can't be followed"),
    )
)]
pub(super) async fn apply(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, ApiError> {
    let (caller, asked) = read::<ChatRequest>(&app, request).await?;
    let apply = Apply::parse(&last_message(&asked)?)
        .map_err(|reason| ApiError::wrong("messages", reason))?;
    let (chat, document) = (apply.message(), apply.document());
    let question = Question { chat, document, draft: apply.original };
    answer(&app, caller, &asked, question, |written, is_chat| {
        let text = &written.completion.text;
        if is_chat { region_in(text) } else { text.clone() }
    })
    .await
}

/// A request in both forms, and the text that is drafted from.
struct Question {
    /// To a model that converses.
    chat: String,
    /// To any other.
    document: String,
    draft: String,
}

fn last_message(asked: &ChatRequest) -> Result<String, ApiError> {
    let messages = asked.messages.as_deref().unwrap_or_default();
    let last = messages.iter().rev().find(|message| message.role == "user");
    let missing = || ApiError::wrong("messages", "is missing: a message of the user's");
    Ok(last.ok_or_else(missing)?.content.clone())
}

async fn answer(
    app: &App,
    caller: Caller,
    asked: &ChatRequest,
    question: Question,
    shown: impl Fn(&Written, bool) -> String + Send + 'static,
) -> Result<Response, ApiError> {
    let shared = asked.shared();
    let ignored = shared.ignored()?;
    asked.refuse()?;
    if asked.n.is_some_and(|n| n != 1) {
        return Err(ApiError::wrong("n", "expected 1: there is one next text"));
    }
    let tokenizer = app.tokenizer()?;
    let failed = |error: lacuna_text::Error| ApiError::refused(error.to_string());
    app.fits("messages", question.chat.len())?;
    let draft = tokenizer.encode_ordinary(&question.draft).map_err(failed)?;
    let is_chat = app.chat().is_ok();
    let (prompt, ends) = match is_chat {
        true => {
            let message = Message::new("user", question.chat);
            conversation(app, &[message], asked.chat_template_kwargs.as_ref())?
        }
        false => {
            let special = tokenizer.encode_with_special_tokens("").map_err(failed)?;
            let text = tokenizer.encode_ordinary(&question.document).map_err(failed)?;
            let bos = app.model.config().bos_token_id;
            let bos = bos.filter(|bos| special.first() == Some(bos));
            (bos.into_iter().chain(text).collect(), app.model.ends_of_text())
        }
    };
    // A quarter more than there is, fences and some words.
    let room = app.positions().saturating_sub(prompt.len());
    let wanted = (draft.len() + draft.len() / 4 + 128).min(room).max(1);
    let most = asked.max_completion_tokens.or(asked.max_tokens).or(asked.n_predict);
    if let Some((field, _)) = shared.form.pattern()? {
        return Err(ApiError::wrong(
            field,
            "a file that is edited has a form already; leave it out",
        ));
    }
    let mut options = shared.options(app, new_tokens(most, wanted).max(1))?;
    options.eos_ids.get_or_insert(ends);
    if !is_chat {
        options.stop.push("\nBefore:\n".to_owned());
    }
    let request = app.resolved(prompt, &options)?;
    let task = match takes_drafts(app, &request) {
        true => Task::Edit { request, draft },
        false => Task::Write(request),
    };
    let names = Names::new(app, "chatcmpl", "chat.completion", shared.model);
    let heard = app.submit(vec![task], shared.way(caller))?;
    let response = match shared.streams {
        true => {
            let with_usage = shared.with_usage;
            let telling = Telling { diffusing: false, whole: true, with_usage };
            streamed(rewritten(heard, move |written| shown(written, is_chat)), &names, 1, telling)
        }
        false => {
            let written = replies::all(app, heard).await?;
            let choices =
                written.iter().map(|one| choice(0, &shown(one, is_chat), finish_reason(one)));
            let mut body = names.with(choices.collect());
            body["usage"] = usage(&written.iter().collect::<Vec<_>>(), 1);
            body["timings"] = written.first().map(replies::timings).unwrap_or_default();
            body["drafts"] = written.first().map(drafts).unwrap_or_default();
            json_response(StatusCode::OK, &body)
        }
    };
    Ok(with_ignored(response, &ignored))
}

/// The use of the draft.
fn drafts(written: &Written) -> serde_json::Value {
    let drafts = &written.completion.drafts;
    serde_json::json!({
        "source": written.completion.draft_source.name(),
        "drafted_blocks": drafts.drafted_blocks,
        "accepted_blocks": drafts.accepted_blocks,
        "passes_saved": drafts.passes_saved,
    })
}

/// The same news with the text that is shown in the place of the one that was written.
fn rewritten(
    heard: Vec<Receiver<Reply>>,
    shown: impl Fn(&Written) -> String + Send + 'static,
) -> Vec<Receiver<Reply>> {
    let mut heard = heard;
    let Some(mut from) = heard.pop() else { return Vec::new() };
    let (to, rewritten) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        loop {
            // A client that listens no more has nobody write for it.
            let reply = tokio::select! {
                reply = from.recv() => reply,
                () = to.closed() => return,
            };
            let reply = match reply {
                Some(Reply::Text(_)) => continue,
                Some(Reply::Done(mut written)) => {
                    written.completion.text = shown(&written);
                    Reply::Done(written)
                }
                Some(reply) => reply,
                None => return,
            };
            if to.send(reply).await.is_err() {
                return;
            }
        }
    });
    vec![rewritten]
}

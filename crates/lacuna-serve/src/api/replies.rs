//! Turns the news of requests into answers: whole ones, and streams of events.

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use futures_core::Stream;
use lacuna_engine::FinishReason;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::mpsc::Receiver;

use super::errors::ApiError;
use crate::app::{App, failed};
use crate::work::{Reply, Seen, Written};

/// The end of a request whose handler waits for all of it.
pub(super) async fn whole(app: &App, from: &mut Receiver<Reply>) -> Result<Written, ApiError> {
    loop {
        match from.recv().await {
            Some(Reply::Done(written)) => return Ok(*written),
            Some(reply) => {
                if let Some((status, reason)) = failed(&reply) {
                    return Err(ApiError::new(status, reason));
                }
            }
            None => return Err(given_up(app)),
        }
    }
}

/// The ends of several requests, in their order.
pub(super) async fn all(app: &App, from: Vec<Receiver<Reply>>) -> Result<Vec<Written>, ApiError> {
    // Each is listened to all the time: one whose news pile up would count as a reader that lags.
    let mut ends: Vec<_> = from
        .into_iter()
        .map(|mut one| Box::pin(async move { whole(app, &mut one).await }))
        .collect();
    let mut written: Vec<Option<Written>> = ends.iter().map(|_| None).collect();
    poll_fn(|context| {
        for (end, written) in ends.iter_mut().zip(&mut written).filter(|(_, one)| one.is_none()) {
            match end.as_mut().poll(context) {
                Poll::Ready(Ok(one)) => *written = Some(one),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {}
            }
        }
        match written.iter().all(Option::is_some) {
            true => Poll::Ready(Ok(())),
            false => Poll::Pending,
        }
    })
    .await?;
    Ok(written.into_iter().flatten().collect())
}

/// The reason why a request came to no end.
pub(super) fn given_up(app: &App) -> ApiError {
    match app.stop.is_stopped() {
        true => ApiError::stopping(),
        false => ApiError::broken("the request was given up; the server's own output says why"),
    }
}

/// The names of an answer and its pieces.
#[derive(Clone, Debug)]
pub(super) struct Names {
    pub(super) id: String,
    object: &'static str,
    pub(super) model: String,
    created: u64,
}

impl Names {
    pub(super) fn new(app: &App, start: &str, object: &'static str, model: Option<&str>) -> Self {
        let model = model.filter(|name| !name.is_empty() && name.len() <= 256);
        let model = model.unwrap_or(&app.options.name).to_owned();
        Self {
            id: format!("{start}-{:016x}", app.number()),
            object,
            model,
            created: (app.options.clock)(),
        }
    }

    /// An answer, or a piece of it.
    pub(super) fn with(&self, choices: Value) -> Value {
        json!({
            "id": self.id,
            "object": self.object,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        })
    }
}

/// The word for the reason why a text ended.
pub(super) fn finish_reason(written: &Written) -> &'static str {
    match written.completion.finish {
        _ if written.late => "length",
        FinishReason::Length => "length",
        FinishReason::Eos | FinishReason::Stop => "stop",
    }
}

/// The tokens of some texts of one prompt or of several.
pub(super) fn usage(written: &[&Written], per_prompt: usize) -> Value {
    let prompts = written.iter().step_by(per_prompt.max(1));
    let prompt: usize = prompts.clone().map(|one| one.completion.prompt_tokens).sum();
    let cached: usize = prompts.map(|one| one.remembered).sum();
    let new: usize = written.iter().map(|one| one.completion.text_len).sum();
    json!({
        "prompt_tokens": prompt,
        "completion_tokens": new,
        "total_tokens": prompt + new,
        "prompt_tokens_details": {"cached_tokens": cached},
    })
}

/// The times and counts that llama.cpp tells of a text, and those that it does not know: what it waited for, its passes,
/// and the rows of others in them.
pub(super) fn timings(written: &Written) -> Value {
    let Written { completion, remembered, times, .. } = written;
    let (prompt, new) = (completion.prompt_tokens - remembered, completion.tokens.len());
    let prompt_ms = times.prompt * 1e3;
    let new_ms = (completion.seconds.prefill + completion.seconds.decode) * 1e3;
    let each = |ms: f64, n: usize| if n > 0 { ms / n as f64 } else { 0.0 };
    let rate = |ms: f64, n: usize| if ms > 0.0 { n as f64 / ms * 1e3 } else { 0.0 };
    json!({
        "cache_n": remembered,
        "prompt_n": prompt,
        "prompt_ms": prompt_ms,
        "prompt_per_token_ms": each(prompt_ms, prompt),
        "prompt_per_second": rate(prompt_ms, prompt),
        "predicted_n": new,
        "predicted_ms": new_ms,
        "predicted_per_token_ms": each(new_ms, new),
        "predicted_per_second": rate(new_ms, new),
        "waited_ms": times.waited * 1e3,
        "held_ms": times.held * 1e3,
        "passes": completion.forwards,
        "rows_beside": times.rows_beside(),
        "tokens_per_pass": completion.tokens_per_forward(),
    })
}

/// One event of a stream.
pub(super) fn event(value: &Value) -> String {
    format!("data: {value}\n\n")
}

/// A stream's end, as OpenAI's clients know it.
pub(super) const DONE: &str = "data: [DONE]\n\n";

/// The text that a watcher has so far: what is certain, and the open block with its holes.
#[derive(Debug, Default)]
pub(super) struct Snapshot {
    certain: String,
    open: Vec<(usize, Option<String>)>,
}

/// Stands for a token that is not written yet.
const HOLE: &str = "░";

impl Snapshot {
    pub(super) fn text(&mut self, piece: &str) {
        self.certain.push_str(piece);
    }

    /// Takes a pass in. The text of a finished block comes as text.
    pub(super) fn seen(&mut self, seen: &Seen) {
        if seen.finished {
            self.open.clear();
            return;
        }
        if seen.refinement == 0 {
            self.open = seen.places.iter().map(|place| (place.position, None)).collect();
        }
        for place in seen.places.iter().filter(|place| place.filled) {
            if let Some(open) = self.open.iter_mut().find(|(at, _)| *at == place.position) {
                open.1 = Some(place.text.clone());
            }
        }
    }

    /// The whole text as it is.
    pub(super) fn whole(&self) -> String {
        let open = self.open.iter().map(|(_, text)| text.as_deref().unwrap_or(HOLE));
        [self.certain.as_str(), &open.collect::<String>()].concat()
    }
}

/// Writes what the news of a request, by its number, become on the wire; empty for nothing.
pub(super) type Write = Box<dyn FnMut(usize, Reply) -> String + Send>;

/// A body of events, from the news of one request or of several.
pub(super) struct Events {
    open: Vec<(usize, Receiver<Reply>)>,
    next: usize,
    write: Write,
    /// The words that end the stream once all have ended; made then.
    end: Option<Box<dyn FnOnce() -> String + Send>>,
}

impl Events {
    /// The response, whose requests end when it is dropped.
    pub(super) fn response(
        from: Vec<Receiver<Reply>>,
        start: String,
        mut write: Write,
        end: impl FnOnce() -> String + Send + 'static,
    ) -> Response {
        let mut start = Some(start).filter(|start| !start.is_empty());
        let write: Write = Box::new(move |number, reply| {
            let news = write(number, reply);
            match start.take_if(|_| !news.is_empty()) {
                Some(start) => start + &news,
                None => news,
            }
        });
        let open = from.into_iter().enumerate().collect();
        let body = Body::from_stream(Self { open, next: 0, write, end: Some(Box::new(end)) });
        let mut response = Response::new(body);
        *response.status_mut() = StatusCode::OK;
        let headers = response.headers_mut();
        let events = HeaderValue::from_static("text/event-stream; charset=utf-8");
        headers.insert(header::CONTENT_TYPE, events);
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}

impl Stream for Events {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let mut quiet = 0;
        while !this.open.is_empty() && quiet < this.open.len() {
            let at = this.next % this.open.len();
            let (number, from) = &mut this.open[at];
            let (number, reply) = match from.poll_recv(context) {
                Poll::Pending => {
                    this.next = at + 1;
                    quiet += 1;
                    continue;
                }
                Poll::Ready(reply) => (*number, reply),
            };
            quiet = 0;
            let is_last = matches!(
                reply,
                None | Some(
                    Reply::Done(_) | Reply::Scored(_) | Reply::Refused(_) | Reply::Failed(_)
                )
            );
            if is_last {
                this.open.remove(at);
            } else {
                this.next = at + 1;
            }
            let news = match reply {
                Some(reply) => match failed(&reply) {
                    Some((status, reason)) => event(&ApiError::new(status, reason).json()),
                    None => (this.write)(number, reply),
                },
                None => {
                    let reason = "the request was given up: the server is stopping, or its memory was needed while nobody \
                                  took what it had written";
                    event(&ApiError::broken(reason).json())
                }
            };
            if !news.is_empty() {
                return Poll::Ready(Some(Ok(news.into())));
            }
        }
        if !this.open.is_empty() {
            return Poll::Pending;
        }
        let end = this.end.take().map(|end| end()).filter(|end| !end.is_empty());
        Poll::Ready(end.map(|end| Ok(end.into())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::work::Place;

    fn place(position: usize, text: &str, filled: bool) -> Place {
        Place { position, text: text.into(), confidence: 0.5, filled }
    }

    #[test]
    fn a_snapshot_is_the_whole_text_with_its_holes() {
        let mut snapshot = Snapshot::default();
        let places = vec![place(0, "a", false), place(1, "b", true), place(2, "c", false)];
        let mut seen = Seen { start: 0, refinement: 0, places, finished: false };
        snapshot.seen(&seen);
        assert_eq!(snapshot.whole(), "░b░");
        seen.refinement = 1;
        seen.places = vec![place(0, "x", true), place(2, "c", false)];
        snapshot.seen(&seen);
        assert_eq!(snapshot.whole(), "xb░");
        snapshot.seen(&Seen { finished: true, ..seen });
        snapshot.text("xbc");
        assert_eq!(snapshot.whole(), "xbc");
    }
}

//! Holds what all handlers share: the model's words, and the way to the thread that decodes.

use axum::http::StatusCode;
use lacuna_engine::{GenerateOptions, Model, Resolved};
use lacuna_text::{ChatTemplate, Fim, Tokenizer};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, mpsc};

use crate::api::ApiError;
use crate::metrics::Metrics;
use crate::options::{ServeOptions, Stop};
use crate::work::{Class, Job, Orders, Reply, Task};

/// News of a request that wait for its client; a client that leaves more is not reading.
const NEWS_MAX: usize = 256;

/// The things that all handlers share.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) model: Arc<Model>,
    pub(crate) options: ServeOptions,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) stop: Stop,
    pub(crate) ending: Arc<AtomicBool>,
    orders: Orders,
    permits: Arc<Semaphore>,
    /// The form of conversations and the ends of answers, or the reason why there is none.
    chat: Result<(ChatTemplate, Vec<u32>), String>,
    /// The marks of holes, or the reason why there are none.
    fim: Result<Fim, String>,
    numbers: AtomicU64,
}

/// The way in which a request is decoded, beside what is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way {
    pub(crate) class: Class,
    pub(crate) key: usize,
    pub(crate) slot: Option<u64>,
    pub(crate) deadline: Option<Duration>,
    pub(crate) watch: bool,
}

impl App {
    pub(crate) fn new(
        model: Arc<Model>,
        options: ServeOptions,
        metrics: Arc<Metrics>,
        (stop, ending): (Stop, Arc<AtomicBool>),
        orders: Orders,
    ) -> Self {
        let chat = model.chat_format().map(|format| {
            let ends = model.answer_ends(&format);
            (format, ends)
        });
        let fim = model.tokenizer().map_err(|error| error.to_string());
        let fim = fim.and_then(|tokenizer| {
            Fim::from_tokenizer(tokenizer).map_err(|error| error.to_string())
        });
        let most = options.running_max.get().saturating_add(options.waiting_max);
        Self {
            permits: Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS))),
            chat: chat.map_err(|error| error.to_string()),
            fim,
            numbers: AtomicU64::new(options.seed),
            model,
            options,
            metrics,
            stop,
            ending,
            orders,
        }
    }

    /// Requests that are taken on at once at most.
    pub(crate) fn requests_max(&self) -> usize {
        self.options.running_max.get().saturating_add(self.options.waiting_max)
    }

    /// Tells whether the thread that decodes is there.
    pub(crate) fn decodes(&self) -> bool {
        !self.orders.is_closed()
    }

    /// Hands requests to the thread that decodes: all of them or none.
    pub(crate) fn submit(
        &self,
        tasks: Vec<Task>,
        way: Way,
    ) -> Result<Vec<mpsc::Receiver<Reply>>, ApiError> {
        if self.stop.is_stopped() {
            return Err(ApiError::stopping());
        }
        let (asked, most) = (tasks.len(), self.requests_max());
        if asked > most {
            let reason =
                format!("{asked} texts are asked for at once, and {most} are taken on at most");
            return Err(ApiError::wrong("n", reason));
        }
        let mut permits = Vec::with_capacity(asked);
        for _ in 0..asked {
            match Arc::clone(&self.permits).try_acquire_owned() {
                Ok(permit) => permits.push(permit),
                Err(_) => {
                    Metrics::add(&self.metrics.refused, 1);
                    return Err(ApiError::full());
                }
            }
        }
        let mut heard = Vec::with_capacity(asked);
        for (task, permit) in tasks.into_iter().zip(permits) {
            let (to, from) = mpsc::channel(NEWS_MAX);
            let Way { class, key, slot, deadline, watch } = way;
            let (came, permit) = (Instant::now(), Some(permit));
            let job = Job { task, class, key, slot, deadline, watch, came, to, permit };
            if !self.orders.send(job) {
                return Err(ApiError::broken("the thread that decodes has ended"));
            }
            heard.push(from);
        }
        Ok(heard)
    }

    /// One exact request.
    pub(crate) fn resolved(
        &self,
        prompt: Vec<u32>,
        options: &GenerateOptions,
    ) -> Result<Box<Resolved>, ApiError> {
        let resolved = Resolved::new(&self.model, prompt, options);
        resolved.map(Box::new).map_err(|error| ApiError::refused(error.to_string()))
    }

    pub(crate) fn tokenizer(&self) -> Result<&Tokenizer, ApiError> {
        self.model.tokenizer().map_err(|error| ApiError::refused(error.to_string()))
    }

    /// The form of conversations, and what ends an answer.
    pub(crate) fn chat(&self) -> Result<(&ChatTemplate, &[u32]), ApiError> {
        match &self.chat {
            Ok((format, ends)) => Ok((format, ends)),
            Err(reason) => Err(ApiError::refused(reason.clone())),
        }
    }

    /// The marks of holes.
    pub(crate) fn fim(&self) -> Result<&Fim, ApiError> {
        self.fim.as_ref().map_err(|reason| ApiError::refused(reason.clone()))
    }

    /// The tokens that end a middle, besides what ends a text.
    pub(crate) fn middle_ends(&self, fim: &Fim) -> Vec<u32> {
        [self.model.ends_of_text(), fim.ends.clone()].concat()
    }

    /// Refuses a text that has no room in the model's positions however few tokens it is: megabytes need not be encoded
    /// to see that.
    pub(crate) fn fits(&self, field: &str, bytes: usize) -> Result<(), ApiError> {
        let most = self.text_max();
        match bytes > most {
            true => {
                let positions = self.positions();
                let reason =
                    format!("{bytes} bytes have no room in the model's {positions} positions");
                Err(ApiError::wrong(field, reason))
            }
            false => Ok(()),
        }
    }

    /// Bytes that no text has which fits.
    pub(crate) fn text_max(&self) -> usize {
        const BYTES_PER_TOKEN: usize = 64;
        self.positions().saturating_mul(BYTES_PER_TOKEN)
    }

    /// A number that no request before had.
    pub(crate) fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn positions(&self) -> usize {
        self.model.config().max_position_embeddings
    }
}

/// The status of what the thread that decodes could not do.
pub(crate) fn failed(reply: &Reply) -> Option<(StatusCode, String)> {
    match reply {
        Reply::Refused(reason) => Some((StatusCode::BAD_REQUEST, reason.clone())),
        Reply::Failed(reason) => Some((StatusCode::INTERNAL_SERVER_ERROR, reason.clone())),
        _ => None,
    }
}

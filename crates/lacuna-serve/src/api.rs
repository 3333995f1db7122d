//! Lists the endpoints, each of which reads, does and answers in a file of its own.

mod chat;
mod completions;
mod edit;
mod errors;
mod fields;
mod form;
mod infill;
mod info;
mod markers;
mod openapi;
mod page;
mod replies;
mod tokens;

pub(crate) use errors::ApiError;
pub(crate) use fields::Caller;

use axum::Router;
use axum::routing::{get, post};
use std::sync::Arc;

use crate::app::App;

/// The paths that are served, as metrics and logs name them.
pub(crate) const PATHS: [&str; 18] = [
    "/",
    "/health",
    "/metrics",
    "/openapi.json",
    "/props",
    "/tokenizer_info",
    "/tokenize",
    "/detokenize",
    "/infill",
    "/lacuna/watch",
    "/v1/models",
    "/v1/completions",
    "/v1/chat/completions",
    "/v1/fim/completions",
    "/v1/edit/completions",
    "/v1/apply/completions",
    "/v1/health",
    "/models",
];

/// Every path with what answers it.
pub(crate) fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/", get(page::page))
        .route("/health", get(info::health))
        .route("/v1/health", get(info::health))
        .route("/metrics", get(info::metrics))
        .route("/openapi.json", get(openapi::description))
        .route("/props", get(info::props))
        .route("/models", get(info::models))
        .route("/v1/models", get(info::models))
        .route("/tokenizer_info", get(tokens::tokenizer_info))
        .route("/tokenize", post(tokens::tokenize))
        .route("/detokenize", post(tokens::detokenize))
        .route("/infill", post(infill::infill))
        .route("/lacuna/watch", post(page::watch))
        .route("/v1/completions", post(completions::completions))
        .route("/v1/fim/completions", post(completions::fim_completions))
        .route("/v1/chat/completions", post(chat::completions))
        .route("/v1/edit/completions", post(edit::edit))
        .route("/v1/apply/completions", post(edit::apply))
        .fallback(errors::not_found)
        .method_not_allowed_fallback(errors::method_not_allowed)
        .with_state(app)
}

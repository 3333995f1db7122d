//! Answers about the server and its model: `/health`, `/metrics`, `/v1/models`, `/props`.

use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use lacuna_engine::Attention;
use serde_json::json;
use std::sync::Arc;

use super::errors::{ApiError, json_response};
use super::tokens::template_source;
use crate::app::App;

/// Tells whether requests are taken.
#[utoipa::path(
    get,
    path = "/health",
    responses((status = 200, description = "requests are taken"), (status = 503, description = "the server is stopping"))
)]
pub(super) async fn health(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    match app.stop.is_stopped() {
        true => Err(ApiError::stopping()),
        false if !app.decodes() => Err(ApiError::broken("the thread that decodes has ended")),
        false => Ok(json_response(StatusCode::OK, &json!({"status": "ok"}))),
    }
}

/// Counters and gauges in the form of Prometheus.
#[utoipa::path(get, path = "/metrics", responses((status = 200, description = "Prometheus's text format")))]
pub(super) async fn metrics(State(app): State<Arc<App>>) -> Response {
    let mut response = Response::new(app.metrics.text((app.options.resident_bytes)()).into());
    let text = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, text);
    response
}

/// The model.
#[utoipa::path(get, path = "/v1/models", responses((status = 200, description = "a list of one")))]
pub(super) async fn models(State(app): State<Arc<App>>) -> Response {
    let config = app.model.config();
    let model = json!({
        "id": app.options.name,
        "object": "model",
        "created": (app.options.clock)(),
        "owned_by": "lacuna",
        "meta": {
            "n_ctx_train": app.positions(),
            "n_vocab": config.vocab_size,
            "n_embd": config.hidden_size,
            "block_diffusion": app.model.is_block_diffusion(),
        },
    });
    json_response(StatusCode::OK, &json!({"object": "list", "data": [model]}))
}

/// The settings that clients of llama.cpp ask for, the length of the context above all.
#[utoipa::path(get, path = "/props", responses((status = 200, description = "`default_generation_settings`, `total_slots`, …")))]
pub(super) async fn props(State(app): State<Arc<App>>) -> Response {
    let config = app.model.config();
    let spelled = |id: Option<u32>| {
        let tokenizer = app.tokenizer().ok()?;
        tokenizer.id_to_token(id?)
    };
    let sampling = &app.options.defaults.sampling;
    let body = json!({
        "default_generation_settings": {
            "n_ctx": app.positions(),
            "params": {
                "temperature": sampling.temperature,
                "top_p": sampling.top_p.unwrap_or(1.0),
                "seed": sampling.seed,
                "n_predict": app.options.defaults.max_new_tokens,
                "block_size": app.model.block_size(app.options.defaults.block_size),
            },
        },
        "total_slots": app.options.running_max,
        "model_path": app.options.name,
        "model_alias": app.options.name,
        "chat_template": template_source(&app),
        "modalities": {"vision": false, "audio": false},
        "bos_token": spelled(config.bos_token_id),
        "eos_token": spelled(app.model.ends_of_text().first().copied()),
        "fim": app.fim().ok().map(|fim| fim.format.name),
        "block_diffusion": app.model.is_block_diffusion(),
        "attention": match app.model.is_block_diffusion() {
            true => config.attention.name(),
            false => Attention::Causal.name(),
        },
        "cache_precision": app.model.cache_precision_name(),
        "pass_seconds": app.metrics.costs(),
        "build_info": concat!("lacuna ", env!("CARGO_PKG_VERSION")),
    });
    json_response(StatusCode::OK, &body)
}

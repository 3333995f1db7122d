//! Answers for clients that count tokens themselves: `/tokenize`, `/detokenize`, `/tokenizer_info`, in the forms of
//! llama.cpp and of vLLM.

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use lacuna_text::{ChatTemplate, Message};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use utoipa::ToSchema;

use super::chat::conversation;
use super::errors::{ApiError, json_response};
use super::fields::read;
use crate::app::App;

/// A text whose tokens are asked for.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct TokenizeRequest {
    /// The text, as llama.cpp calls it.
    pub(crate) content: Option<String>,
    /// The text, as vLLM calls it.
    pub(crate) prompt: Option<String>,
    /// A conversation in place of a text.
    #[schema(value_type = Option<Vec<Object>>)]
    pub(crate) messages: Option<Vec<Message>>,
    /// True if the tokens that stand around a text come too.
    pub(crate) add_special: Option<bool>,
    /// vLLM's name for the same.
    pub(crate) add_special_tokens: Option<bool>,
    /// True if each token comes with its text.
    pub(crate) with_pieces: Option<bool>,
    #[serde(flatten)]
    #[schema(ignore)]
    pub(crate) extra: Map<String, Value>,
}

/// Tokens whose text is asked for.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct DetokenizeRequest {
    /// The ids.
    pub(crate) tokens: Vec<u32>,
    #[serde(flatten)]
    #[schema(ignore)]
    pub(crate) extra: Map<String, Value>,
}

/// The tokens of a text.
#[utoipa::path(
    post,
    path = "/tokenize",
    request_body = TokenizeRequest,
    responses((status = 200, description = "`tokens`, `count`, `max_model_len`"), (status = 400, description = "no text"))
)]
pub(super) async fn tokenize(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, ApiError> {
    let (_, asked) = read::<TokenizeRequest>(&app, request).await?;
    known(&asked.extra, &["model", "parse_special", "add_generation_prompt", "return_token_strs"])?;
    let tokenizer = app.tokenizer()?;
    let special = asked.add_special.or(asked.add_special_tokens) == Some(true);
    let text_bytes = asked.content.as_deref().or(asked.prompt.as_deref()).map_or(0, str::len);
    app.fits("content", text_bytes)?;
    let ids = match (asked.content.or(asked.prompt), asked.messages) {
        (Some(text), None) if special => tokenizer.encode_with_special_tokens(&text),
        (Some(text), None) => tokenizer.encode(&text),
        (None, Some(messages)) => Ok(conversation(&app, &messages, None)?.0),
        _ => {
            return Err(ApiError::wrong(
                "content",
                "expected one of `content`, `prompt` and `messages`",
            ));
        }
    };
    let ids = ids.map_err(|error| ApiError::refused(error.to_string()))?;
    let piece = |id: &u32| {
        let bytes = tokenizer.bytes_of(*id).unwrap_or_default();
        let piece = match String::from_utf8(bytes) {
            Ok(text) => json!(text),
            // As llama.cpp tells a part of a character.
            Err(error) => json!(error.into_bytes()),
        };
        json!({"id": id, "piece": piece})
    };
    let tokens: Value = match asked.with_pieces == Some(true) {
        true => ids.iter().map(piece).collect(),
        false => json!(ids),
    };
    let body = json!({"tokens": tokens, "count": ids.len(), "max_model_len": app.positions()});
    Ok(json_response(StatusCode::OK, &body))
}

/// The text of tokens.
#[utoipa::path(
    post,
    path = "/detokenize",
    request_body = DetokenizeRequest,
    responses((status = 200, description = "the text, as `content` and as `prompt`"), (status = 400, description = "ids that are none"))
)]
pub(super) async fn detokenize(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, ApiError> {
    let (_, asked) = read::<DetokenizeRequest>(&app, request).await?;
    known(&asked.extra, &["model", "skip_special_tokens"])?;
    let tokenizer = app.tokenizer()?;
    let vocab = app.model.config().vocab_size;
    if let Some(id) = asked.tokens.iter().find(|id| **id as usize >= vocab) {
        return Err(ApiError::wrong(
            "tokens",
            format!("token {id} is none of the model's {vocab}"),
        ));
    }
    let text = tokenizer.decode_with_special_tokens(&asked.tokens);
    let text = text.map_err(|error| ApiError::refused(error.to_string()))?;
    Ok(json_response(StatusCode::OK, &json!({"content": text, "prompt": text})))
}

/// The tokenizer's special tokens, its chat template and its size, for clients that render conversations themselves.
#[utoipa::path(get, path = "/tokenizer_info", responses((status = 200, description = "names of tokens, `chat_template`")))]
pub(super) async fn tokenizer_info(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    let tokenizer = app.tokenizer()?;
    let config = app.model.config();
    let spelled = |id: Option<u32>| id.and_then(|id| tokenizer.id_to_token(id));
    let ends = app.model.ends_of_text();
    let body = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": spelled(config.bos_token_id),
        "eos_token": spelled(ends.first().copied()),
        "pad_token": spelled(config.pad_token_id),
        "mask_token": spelled(app.model.mask_id()),
        "vocab_size": tokenizer.vocab_size(),
        "model_max_length": app.positions(),
        "chat_template": template_source(&app),
        "fingerprint": tokenizer.fingerprint(),
    });
    Ok(json_response(StatusCode::OK, &body))
}

/// The chat template as others can run it, if the model converses.
pub(super) fn template_source(app: &App) -> Option<String> {
    app.chat().ok()?;
    let own = ChatTemplate::source_in_folder(app.model.path()).ok().flatten();
    own.or_else(|| Some(lacuna_text::chat::SEED_CODER_TEMPLATE.to_owned()))
}

/// Refuses fields that nobody knows.
fn known(extra: &Map<String, Value>, names: &[&str]) -> Result<(), ApiError> {
    match extra.keys().find(|name| !names.contains(&name.as_str())) {
        Some(name) => {
            let shown: String = name.chars().take(60).filter(|c| !c.is_control()).collect();
            let reason = format!(
                "`{shown}` is no field of this request; /openapi.json lists those there are"
            );
            Err(ApiError::refused(reason).of(&shown))
        }
        None => Ok(()),
    }
}

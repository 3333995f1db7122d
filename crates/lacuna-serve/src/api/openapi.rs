//! Serves the description of all endpoints, made from the structs that requests are read into.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};
use std::sync::Arc;
use utoipa::OpenApi;

use super::errors::json_response;
use super::{chat, completions, edit, infill, info, page, tokens};
use crate::app::App;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "lacuna",
        description = "Block-diffusion code models over HTTP: the forms of OpenAI, llama.cpp and Inception."
    ),
    paths(
        completions::completions,
        completions::fim_completions,
        chat::completions,
        edit::edit,
        edit::apply,
        infill::infill,
        page::watch,
        tokens::tokenize,
        tokens::detokenize,
        tokens::tokenizer_info,
        info::models,
        info::props,
        info::health,
        info::metrics,
    )
)]
struct Description;

/// Numbers and the range that each must be in, in whichever request it stands.
const RANGES: [(&str, f64, f64); 11] = [
    ("n", 1.0, 128.0),
    ("n_cmpl", 1.0, 128.0),
    ("best_of", 1.0, 128.0),
    ("temperature", 0.0, 100.0),
    ("top_p", 0.0, 1.0),
    ("min_p", 0.0, 1.0),
    ("threshold", 0.0, 1.0),
    ("repeat_penalty", 0.001, 100.0),
    ("frequency_penalty", -100.0, 100.0),
    ("presence_penalty", -100.0, 100.0),
    ("block_size", 1.0, f64::MAX),
];

/// Fields without which a request can't be followed, by the struct that it is read into.
const NEEDED: [(&str, &str); 3] =
    [("CompletionRequest", "prompt"), ("ChatRequest", "messages"), ("TokenizeRequest", "content")];

/// Fields that take nothing yet.
const EMPTY: [&str; 2] = ["tools", "functions"];

/// The description as JSON.
pub(super) async fn description(State(app): State<Arc<App>>) -> Response {
    let tokens = app.model.config().vocab_size;
    json_response(StatusCode::OK, &described(app.positions(), tokens))
}

/// The description of a server whose model has so many positions and tokens: what the structs say, with the ranges that are
/// checked after a request was read.
fn described(positions: usize, tokens: usize) -> Value {
    let mut all = serde_json::to_value(Description::openapi()).unwrap_or_default();
    let Some(schemas) = all["components"]["schemas"].as_object_mut() else { return all };
    for schema in schemas.values_mut() {
        let Some(fields) = schema["properties"].as_object_mut() else { continue };
        for (name, field) in fields.iter_mut() {
            if let Some((_, least, most)) = RANGES.iter().find(|(known, ..)| known == name) {
                field["minimum"] = whole(*least);
                field["maximum"] = match name.as_str() {
                    "block_size" => positions.into(),
                    _ => whole(*most),
                };
            }
            if EMPTY.contains(&name.as_str()) {
                field["maxItems"] = 0.into();
            }
            match name.as_str() {
                "tool_choice" | "function_call" => *field = json!({"enum": ["none", "auto", null]}),
                "messages" => {
                    field["minItems"] = 1.into();
                    field["items"] = json!({
                        "type": "object",
                        "required": ["role", "content"],
                        "properties": {
                            "role": {"enum": ["system", "user", "assistant"]},
                            "content": {"type": "string"},
                        },
                    });
                }
                "tokens" => field["items"]["maximum"] = tokens.saturating_sub(1).into(),
                _ => {}
            }
        }
    }
    for (schema, field) in NEEDED {
        schemas[schema]["required"] = json!([field]);
        let needed = schemas[schema].pointer_mut(&format!("/properties/{field}"));
        let Some(needed) = needed else { continue };
        if let Some(kinds) = needed.get_mut("type").and_then(Value::as_array_mut) {
            kinds.retain(|kind| kind != "null");
        }
        if let Some(ways) = needed.get_mut("oneOf").and_then(Value::as_array_mut) {
            ways.retain(|way| way["type"] != "null");
        }
    }
    all
}

/// A whole number where it is one.
fn whole(number: f64) -> Value {
    if number.fract() == 0.0 { json!(number as i64) } else { json!(number) }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_description_names_every_endpoint_and_its_fields() {
        let all = super::described(2048, 512);
        for path in ["/v1/completions", "/v1/chat/completions", "/infill", "/v1/edit/completions"] {
            assert!(all["paths"][path]["post"]["requestBody"].is_object(), "{path}");
        }
        let fields = &all["components"]["schemas"]["CompletionRequest"]["properties"];
        for field in ["prompt", "suffix", "max_tokens", "temperature", "stop", "t_max_predict_ms"] {
            assert!(fields[field].is_object(), "{field}: {fields}");
        }
        assert!(fields["extra"].is_null(), "no field has that name");
        assert_eq!(fields["n"]["minimum"], 1);
        assert_eq!(fields["n"]["maximum"], 128);
        assert_eq!(fields["block_size"]["maximum"], 2048);
        assert!(!all.to_string().contains("\"type\":null"), "a type is a word or a list of them");
        assert_eq!(all["components"]["schemas"]["ChatRequest"]["required"][0], "messages");
    }
}

//! Serves the description of all endpoints, made from the structs that requests are read into.

use axum::http::{HeaderValue, header};
use axum::response::Response;
use utoipa::OpenApi;

use super::{chat, completions, edit, infill, info, page, tokens};

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

/// The description as JSON.
pub(super) async fn description() -> Response {
    let text = Description::openapi().to_json().unwrap_or_default();
    let mut response = Response::new(text.into());
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

/// The description, for tests of what it says.
#[cfg(test)]
pub(super) fn as_value() -> serde_json::Value {
    serde_json::to_value(Description::openapi()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_description_names_every_endpoint_and_its_fields() {
        let all = super::as_value();
        for path in ["/v1/completions", "/v1/chat/completions", "/infill", "/v1/edit/completions"] {
            assert!(all["paths"][path]["post"]["requestBody"].is_object(), "{path}");
        }
        let fields = &all["components"]["schemas"]["CompletionRequest"]["properties"];
        for field in ["prompt", "suffix", "max_tokens", "temperature", "stop", "t_max_predict_ms"] {
            assert!(fields[field].is_object(), "{field}: {fields}");
        }
        assert!(fields["extra"].is_null(), "no field has that name");
    }
}

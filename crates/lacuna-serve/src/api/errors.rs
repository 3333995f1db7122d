//! Says in a sentence, and in the form that OpenAI's clients read, why a request was not answered as asked.

use axum::body::Body;
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// The reason why a request is answered with an error.
#[derive(Clone, Debug)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    message: String,
    /// The field at fault.
    param: Option<String>,
    /// After so many seconds it may be tried again.
    retry: Option<u32>,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), param: None, retry: None }
    }

    /// A field that can't be followed.
    pub(crate) fn wrong(field: &str, reason: impl std::fmt::Display) -> Self {
        let message = format!("`{field}`: {reason}");
        let param = Some(field.to_owned());
        Self { param, ..Self::new(StatusCode::BAD_REQUEST, message) }
    }

    /// The same, with the field at fault.
    pub(crate) fn of(self, field: &str) -> Self {
        Self { param: Some(field.to_owned()), ..self }
    }

    /// A request that this model can't serve.
    pub(crate) fn refused(reason: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, reason)
    }

    pub(crate) fn broken(reason: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, reason)
    }

    /// Too many wait.
    pub(crate) fn full() -> Self {
        let reason = "the server has as many requests as it takes on; try again in a second";
        Self { retry: Some(1), ..Self::new(StatusCode::TOO_MANY_REQUESTS, reason) }
    }

    /// The server is told to stop.
    pub(crate) fn stopping() -> Self {
        let reason = "the server is stopping and takes no more requests";
        Self { retry: Some(5), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, reason) }
    }

    /// The error object, as it stands in bodies and in streams.
    pub(crate) fn json(&self) -> Value {
        let kind = match self.status {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::FORBIDDEN => "permission_error",
            StatusCode::NOT_FOUND => "not_found_error",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        };
        json!({"error": {
            "message": self.message,
            "type": kind,
            "param": self.param,
            "code": self.status.as_u16(),
        }})
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = json_response(self.status, &self.json());
        if let Some(seconds) = self.retry {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        if self.status == StatusCode::UNAUTHORIZED {
            let scheme = HeaderValue::from_static("Bearer");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
        }
        response
    }
}

/// A JSON body.
pub(crate) fn json_response(status: StatusCode, body: &Value) -> Response {
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

pub(super) async fn not_found(method: Method, uri: Uri) -> ApiError {
    let path: String = uri.path().chars().take(100).collect();
    let reason =
        format!("{method} {path}: there is no such path; /openapi.json lists those there are");
    ApiError::new(StatusCode::NOT_FOUND, reason)
}

pub(super) async fn method_not_allowed(method: Method, uri: Uri) -> ApiError {
    let other = if method == Method::GET { "POST" } else { "GET" };
    let reason = format!("{} takes {other}, not {method}", uri.path());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, reason)
}

//! Decides who is let in, before any request is read: by `Host`, by `Origin`, by key; and counts what is answered.

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use crate::api::{self, ApiError, Caller, PATHS};
use crate::app::App;
use crate::options::Access;

/// The client's address.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(pub(crate) SocketAddr);

/// All endpoints behind the guard, for one connection.
pub(super) fn guarded(app: Arc<App>, peer: Peer) -> Router {
    let guard = middleware::from_fn_with_state((Arc::clone(&app), peer), guard);
    api::router(app).layer(guard)
}

async fn guard(
    State((app, Peer(client))): State<(Arc<App>, Peer)>,
    mut request: Request,
    next: Next,
) -> Response {
    let began = Instant::now();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let response = match admitted(&app, &request) {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(refused) => refused.into_response(),
    };
    let status = response.status().as_u16();
    let known = PATHS.iter().find(|known| **known == path).copied().unwrap_or("other");
    app.metrics.answered(known, status);
    if let Some(log) = &app.options.log {
        // A path that is none of the server's may be anything, a text among others.
        let path = known.to_owned();
        let (method, seconds) = (method.to_string(), began.elapsed().as_secs_f64());
        log.tell(&Access { client, method, path, status, seconds });
    }
    response
}

/// The caller of a request, if it may come in.
fn admitted(app: &App, request: &Request) -> Result<Caller, ApiError> {
    let headers = request.headers();
    let host = host(request);
    if app.options.keys.is_empty() && !is_own(host.as_deref(), &app.options.hosts) {
        let reason = "the `Host` of this request is not this machine's: a page elsewhere may have had its name point \
                      here; use 127.0.0.1 or localhost, or have the name allowed";
        return Err(ApiError::new(StatusCode::FORBIDDEN, reason));
    }
    if !is_same_origin(headers, host.as_deref()) {
        let reason =
            "this request comes from a page of another origin, which may not use this server";
        return Err(ApiError::new(StatusCode::FORBIDDEN, reason));
    }
    let path = request.uri().path();
    let is_open =
        *request.method() == Method::GET && ["/", "/health", "/v1/health"].contains(&path);
    if app.options.keys.is_empty() || is_open {
        return Ok(Caller(0));
    }
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given =
        given.and_then(|value| value.strip_prefix("Bearer ").or(value.strip_prefix("bearer ")));
    let given = given.or_else(|| headers.get("x-api-key")?.to_str().ok()).unwrap_or_default();
    // All keys are compared whole, so that the time taken says nothing of them.
    let equal = |key: &String| is_equal(key.as_bytes(), given.trim().as_bytes());
    let found = app.options.keys.iter().map(equal).collect::<Vec<bool>>();
    match found.iter().position(|found| *found) {
        Some(key) => Ok(Caller(key)),
        None => {
            let reason = "a key is needed: `Authorization: Bearer KEY`";
            Err(ApiError::new(StatusCode::UNAUTHORIZED, reason))
        }
    }
}

fn is_equal(key: &[u8], given: &[u8]) -> bool {
    let mut differs = key.len() ^ given.len();
    for (at, byte) in key.iter().enumerate() {
        differs |= usize::from(byte ^ given.get(at).copied().unwrap_or(0));
    }
    std::hint::black_box(differs) == 0
}

/// The host that a request is sent to, as it says.
fn host(request: &Request) -> Option<String> {
    let mut named = request.headers().get_all(header::HOST).iter();
    let first = named.next().and_then(|host| host.to_str().ok()).map(str::to_owned);
    match named.next() {
        // Two of them are none.
        Some(_) => None,
        None => first.or_else(|| request.uri().authority().map(ToString::to_string)),
    }
}

/// The name in a host, without its port.
fn name(host: &str) -> &str {
    match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    }
}

/// Tells whether a host is a loopback address, one of its names, or one that was allowed.
fn is_own(host: Option<&str>, allowed: &[String]) -> bool {
    let Some(name) = host.map(name) else { return false };
    let loopback = name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    let named = name.trim_end_matches('.').eq_ignore_ascii_case("localhost");
    loopback || named || allowed.iter().any(|other| other.eq_ignore_ascii_case(name))
}

/// Tells whether a request is no page's, or a page's of this server.
fn is_same_origin(headers: &HeaderMap, host: Option<&str>) -> bool {
    let Some(origin) = headers.get(header::ORIGIN) else { return true };
    let origin = origin.to_str().unwrap_or_default();
    let of_page = origin.split_once("://").map(|(_, host)| host);
    of_page.is_some() && of_page == host
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_and_allowed_names_are_this_machine_s() {
        let allowed = ["code.lan".to_owned()];
        let own = |host: &str| is_own(Some(host), &allowed);
        let mine = [
            "localhost",
            "localhost:8080",
            "LOCALHOST:1",
            "127.0.0.1:80",
            "127.8.8.8",
            "[::1]:9",
            "code.lan:1",
        ];
        for host in mine {
            assert!(own(host), "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example:8080",
            "127.0.0.1.evil.example",
            "10.0.0.1",
            "",
        ] {
            assert!(!own(host), "{host}");
        }
        assert!(!is_own(None, &allowed));
    }

    #[test]
    fn keys_are_equal_when_all_of_them_is() {
        assert!(is_equal(b"12345678", b"12345678"));
        for other in ["1234567", "123456789", "12345679", ""] {
            assert!(!is_equal(b"12345678", other.as_bytes()), "{other}");
        }
    }
}

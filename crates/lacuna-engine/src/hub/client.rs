//! Sends requests to the hub. Its token goes to the hub's own host and to no other, wherever a
//! redirect leads: large files lie at other hosts, under addresses that are signed for everyone who
//! holds them.

use std::io::Read;
use std::time::{Duration, Instant};

use ureq::http::{HeaderMap, Uri};
use ureq::{Agent, Body};

/// Redirects that are followed for one request.
const MOST_REDIRECTS: usize = 10;
/// No listing of a repository is longer.
const MOST_LISTING_BYTES: u64 = 32 << 20;
/// The time that a server may take to answer, from the connection to the end of the headers.
const ANSWER: Duration = Duration::from_secs(20);
/// The time that it may take for a listing, redirects included, and may be silent amid a file.
const SILENCE: Duration = Duration::from_secs(30);

/// One hub, with the token that opens it.
pub(super) struct Client {
    agent: Agent,
    endpoint: String,
    origin: Origin,
    token: Option<String>,
}

/// The reason why a request brought nothing.
pub(super) enum Failure {
    /// The server answered with an error's status.
    Status(u16),
    /// The server can't be reached, or fell silent.
    Unreachable(String),
    /// The server said something that is not obeyed.
    Refused(String),
    /// The cache can't be written.
    Disk(std::io::Error),
}

impl Failure {
    /// Tells whether the same request may succeed a moment later.
    pub(super) fn is_passing(&self) -> bool {
        matches!(self, Failure::Status(429 | 500 | 502 | 503 | 504) | Failure::Unreachable(_))
    }
}

/// An answer, at the end of its redirects.
pub(super) struct Reply {
    pub(super) status: u16,
    headers: HeaderMap,
    body: Body,
    /// The name of the file's content, from the hub itself: a host that it redirects to has names of its own.
    pub(super) etag: Option<String>,
    /// The file's length, from the hub itself.
    linked_bytes: Option<u64>,
}

/// The origin that the token is for: scheme, host and port.
#[derive(Clone, PartialEq, Eq)]
struct Origin(String, String, u16);

impl Origin {
    fn of(uri: &Uri) -> Option<Self> {
        let scheme = uri.scheme_str()?.to_ascii_lowercase();
        let port = match scheme.as_str() {
            "http" => 80,
            "https" => 443,
            _ => return None,
        };
        let host = uri.host()?.to_ascii_lowercase();
        Some(Self(scheme, host, uri.port_u16().unwrap_or(port)))
    }
}

impl Client {
    pub(super) fn new(endpoint: &str, token: Option<String>) -> Result<Self, Failure> {
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        let origin = endpoint.parse::<Uri>().ok().as_ref().and_then(Origin::of);
        let origin = origin.ok_or_else(|| {
            Failure::Refused("HF_ENDPOINT is no address: expected https://HOST".to_owned())
        })?;
        let odd = |token: &String| !token.bytes().all(|byte| byte.is_ascii_graphic());
        if token.as_ref().is_some_and(odd) {
            let reason =
                "the token (HF_TOKEN, or the stored one) has a space or a line break in it";
            return Err(Failure::Refused(format!("{reason}; expected hf_ and letters")));
        }
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(Duration::from_secs(10)))
            .timeout_recv_response(Some(ANSWER))
            .timeout_per_read(Some(SILENCE))
            .user_agent(concat!("lacuna/", env!("CARGO_PKG_VERSION")))
            .build()
            .into();
        Ok(Self { agent, endpoint, origin, token })
    }

    /// A listing, whole.
    pub(super) fn get_text(&self, path: &str) -> Result<String, Failure> {
        let began = Instant::now();
        let mut reply = self.get(path, None)?;
        let mut body = reply.body.with_config().limit(MOST_LISTING_BYTES).reader();
        let (mut bytes, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
        loop {
            // A server that sends a byte now and then is never silent, and never done.
            if began.elapsed() > SILENCE {
                let reason = format!("its listing takes over {} seconds", SILENCE.as_secs());
                return Err(Failure::Unreachable(reason));
            }
            match body.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => bytes.extend_from_slice(&buffer[..read]),
                Err(error) => return Err(Failure::Unreachable(error.to_string())),
            }
        }
        String::from_utf8(bytes)
            .map_err(|_| Failure::Refused("the server's listing is no UTF-8 text".into()))
    }

    /// A file at a path below the endpoint, from a byte of it on and up to one, with every redirect followed.
    pub(super) fn get(
        &self,
        path: &str,
        range: Option<(u64, Option<u64>)>,
    ) -> Result<Reply, Failure> {
        let (mut etag, mut linked_bytes) = (None, None);
        let mut uri: Uri = format!("{}/{path}", self.endpoint)
            .parse()
            .map_err(|error| Failure::Refused(format!("`{path}` is no address: {error}")))?;
        for _ in 0..=MOST_REDIRECTS {
            let origin =
                Origin::of(&uri).ok_or_else(|| refused("an address that is none", &uri))?;
            let is_hub = origin == self.origin;
            if self.origin.0 == "https" && origin.0 != "https" {
                return Err(refused("an address without encryption", &uri));
            }
            // Lengths and ranges are those of the file, which a compressed answer doesn't keep.
            let mut request = self.agent.get(uri.clone()).header("Accept-Encoding", "identity");
            if let Some(token) = self.token.as_ref().filter(|_| is_hub) {
                request = request.header("Authorization", format!("Bearer {token}"));
            }
            if let Some((first, last)) = range {
                let last = last.map_or(String::new(), |last| last.to_string());
                request = request.header("Range", format!("bytes={first}-{last}"));
            }
            let response = request.call().map_err(unreachable)?;
            let (head, body) = response.into_parts();
            let header = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
            if is_hub {
                let named = header("x-linked-etag").or_else(|| header("etag"));
                etag = named.map(str::to_owned).or(etag);
                let length = header("x-linked-size").and_then(|length| length.parse().ok());
                linked_bytes = length.or(linked_bytes);
            }
            let status = head.status.as_u16();
            match (status, header("location")) {
                (301 | 302 | 303 | 307 | 308, Some(location)) => uri = resolved(&uri, location)?,
                (200 | 206, _) if header("content-encoding").is_some_and(|it| it != "identity") => {
                    let reason = format!("a compressed answer, not asked for: {}", shown(&uri));
                    return Err(Failure::Refused(reason));
                }
                (200 | 206, _) => {
                    return Ok(Reply { status, headers: head.headers, body, etag, linked_bytes });
                }
                _ => return Err(Failure::Status(status)),
            }
        }
        Err(Failure::Refused(format!("more than {MOST_REDIRECTS} redirects from {path}")))
    }
}

impl Reply {
    fn number(&self, header: &str) -> Option<u64> {
        self.headers.get(header)?.to_str().ok()?.trim().parse().ok()
    }

    /// Length of the whole file, in bytes.
    pub(super) fn file_bytes(&self) -> Option<u64> {
        let total = || self.content_range()?.1;
        let whole = || self.number("content-length").filter(|_| self.status == 200);
        self.linked_bytes.or_else(total).or_else(whole)
    }

    /// `bytes FIRST-LAST/TOTAL`: the first byte, and the total where it is known.
    pub(super) fn content_range(&self) -> Option<(Option<u64>, Option<u64>)> {
        let text = self.headers.get("content-range")?.to_str().ok()?.trim();
        let (range, total) = text.strip_prefix("bytes")?.trim().split_once('/')?;
        let first = range.split_once('-').and_then(|(first, _)| first.parse().ok());
        Some((first, total.parse().ok()))
    }

    /// Tells whether the answer is the file from a byte of it on, as far as its length tells:
    /// another page that comes in its place (of a proxy, or of a network that wants a login first)
    /// is of another length.
    pub(super) fn continues(&self, first: u64, total: u64) -> bool {
        let range = self.content_range();
        let begins = match self.status {
            206 => range.and_then(|range| range.0).unwrap_or(first),
            _ => 0,
        };
        let whole = range.and_then(|range| range.1).is_none_or(|whole| whole == total);
        let length = self.number("content-length");
        let long = length.is_none_or(|length| length == total.saturating_sub(begins));
        (begins == first || begins == 0) && whole && long
    }

    /// The body, unbounded: who reads it counts.
    pub(super) fn reader(&mut self) -> impl Read + '_ {
        self.body.with_config().limit(u64::MAX).reader()
    }
}

fn refused(what: &str, uri: &Uri) -> Failure {
    Failure::Refused(format!("the server leads to {what}: {}", shown(uri)))
}

/// Without its query, which may hold a signature.
fn shown(uri: &Uri) -> String {
    format!("{}://{}{}", uri.scheme_str().unwrap_or(""), uri.host().unwrap_or(""), uri.path())
}

fn unreachable(error: ureq::Error) -> Failure {
    Failure::Unreachable(error.to_string())
}

/// The address that a `Location` leads to, seen from the address that sent it.
fn resolved(from: &Uri, location: &str) -> Result<Uri, Failure> {
    let scheme = from.scheme_str().unwrap_or("https");
    let authority = from.authority().map_or("", |authority| authority.as_str());
    let whole = if location.contains("://") {
        location.to_owned()
    } else if let Some(rest) = location.strip_prefix("//") {
        format!("{scheme}://{rest}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else {
        let folder = from.path().rsplit_once('/').map_or("", |(folder, _)| folder);
        format!("{scheme}://{authority}{folder}/{location}")
    };
    whole.parse().map_err(|_| Failure::Refused("a redirect to what is no address".into()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

    use super::{Origin, resolved};

    #[test]
    fn the_token_is_for_one_scheme_host_and_port() {
        let origin = |text: &str| Origin::of(&text.parse().unwrap());
        let same = |a: &str, b: &str| origin(a).is_some() && origin(a) == origin(b);
        assert!(same("https://hub.co/a", "https://HUB.co:443/b"));
        for other in [
            "https://hub.co.evil.org/a",
            "https://cdn.hub.co/a",
            "http://hub.co/a",
            "https://hub.co:444/a",
        ] {
            assert!(!same("https://hub.co/a", other), "{other}");
        }
        assert!(origin("ftp://hub.co/a").is_none());
        assert!(
            !same("https://hub.co/a", "https://hub.co@evil.org/a"),
            "a name before @ is no host"
        );
    }

    #[test]
    fn redirects_are_read_as_browsers_read_them() {
        let from = "https://hub.co/o/n/resolve/x".parse().unwrap();
        let leads = |location: &str| resolved(&from, location).ok().map(|uri| uri.to_string());
        for (location, expected) in [
            ("https://cdn.co/y?sig=1", "https://cdn.co/y?sig=1"),
            ("//cdn.co/y", "https://cdn.co/y"),
            ("/y", "https://hub.co/y"),
            ("y", "https://hub.co/o/n/resolve/y"),
        ] {
            assert_eq!(leads(location).as_deref(), Some(expected));
        }
        assert!(leads("https://").is_none());
    }
}

//! Speaks as much HTTP as a client of one request a connection needs.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// An answer that came whole.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) text: String,
}

/// The bytes of a request.
pub(crate) fn post(path: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

/// Sends a request and reads its answer to the end; none where the server hung up before that, or said nothing for two
/// minutes.
pub(crate) fn asked(address: &str, request: &str) -> Option<Answer> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(120))).ok()?;
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let status = answer.split(' ').nth(1)?.parse().ok()?;
    let (head, text) = answer.split_once("\r\n\r\n")?;
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let whole = match length {
        Some(length) => text.len() == length.parse::<usize>().ok()?,
        // A chunked body ends with an empty chunk.
        None => text.ends_with("0\r\n\r\n"),
    };
    whole.then(|| Answer { status, text: text.to_owned() })
}

/// A number of the server's metrics.
pub(crate) fn metric(address: &str, name: &str) -> f64 {
    let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let answer = asked(address, request).expect("the server has gone");
    let found = answer.text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
    found.and_then(|value| value.parse().ok()).unwrap_or(f64::NAN)
}

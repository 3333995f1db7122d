//! Shows that clients that send half, or take nothing, lose their own request and nobody else's.

use crate::support::{Answer, Server, options, tiny};
use lacuna_serve::{Limits, ServeOptions};
use serde_json::json;
use std::io::{Read, Write};
use std::time::Duration;

/// A server that waits for nobody longer than this.
fn impatient(wait: Duration) -> Server {
    let limits = Limits { header: wait, body: wait, stall: wait, ..Limits::default() };
    Server::with(tiny(), ServeOptions { limits, ..options() })
}

#[test]
fn half_a_header_and_half_a_body_are_ended_while_others_are_answered() {
    let server = impatient(Duration::from_millis(300));
    let mut halves = Vec::new();
    for n in 0..16 {
        let mut stream = server.connect();
        let half: &[u8] = match n % 4 {
            0 => b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Le",
            1 => b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n\r\n{\"prompt\": \"",
            2 => b"POST /infill HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"in",
            _ => b"",
        };
        stream.write_all(half).unwrap();
        halves.push((n, stream));
    }
    let good = server.post("/v1/completions", &json!({"prompt": "def f(", "max_tokens": 8}));
    assert_eq!(good.status, 200);
    for (n, mut stream) in halves {
        let answer = Answer::read(&mut stream);
        match n % 4 {
            1 | 2 => answer.is_refusal(408),
            // hyper answers a header that does not come with a bare 408 or none at all.
            _ => assert!(answer.status == 408 || answer.status == 0, "{answer:?}"),
        }
    }
    server.until("all connections ended", |server| server.metric("lacuna_connections") <= 1.0);
}

#[test]
fn a_reader_that_takes_nothing_loses_its_request_and_not_the_server() {
    let server = impatient(Duration::from_millis(500));
    let body = json!({"task": "continue", "text": "def f(", "max_tokens": 1900, "ignore_eos": true,
        "temperature": 1, "threshold": 1, "block_size": 32})
    .to_string();
    let mut stalled = Vec::new();
    for _ in 0..3 {
        let mut stream = server.connect();
        stream.write_all(&server.request("POST", "/lacuna/watch", &[], body.as_bytes())).unwrap();
        // The answer has begun, and nobody reads on.
        let mut first = [0; 16];
        stream.read_exact(&mut first).unwrap();
        stalled.push(stream);
    }
    let good = server.post("/v1/completions", &json!({"prompt": "def f(", "max_tokens": 8}));
    assert_eq!(good.status, 200);
    server.until("given up", |server| server.metric("lacuna_cancelled_total") == 3.0);
    server.idle();
    server.until("ended", |server| server.metric("lacuna_connections") <= 1.0);
}

#[test]
fn a_reader_that_lags_is_waited_for_and_loses_nothing() {
    let server = Server::start();
    let body = json!({"task": "continue", "text": "def f(", "max_tokens": 1900, "ignore_eos": true,
        "temperature": 1, "seed": 3, "threshold": 1, "block_size": 32})
    .to_string();
    let request = server.request("POST", "/lacuna/watch", &[], body.as_bytes());
    let mut stream = server.connect();
    stream.write_all(&request).unwrap();
    let passes = || server.metric("lacuna_passes_total");
    server.until("no pass is spent on text that nobody takes", |server| {
        let before = passes();
        std::thread::sleep(Duration::from_millis(200));
        before > 0.0 && passes() == before && server.metric("lacuna_requests_running") == 1.0
    });
    let held_at = passes();
    assert!(held_at < 1900.0, "the whole text was written for nobody");
    let good = server.post("/v1/completions", &json!({"prompt": "def f(", "max_tokens": 8}));
    assert_eq!(good.status, 200);
    assert!(passes() < held_at + 20.0, "the others' passes are theirs alone");
    let late = Answer::read(&mut stream).events();
    let at_once = server.send("POST", "/lacuna/watch", &[], body.as_bytes()).events();
    for events in [&late, &at_once] {
        assert_eq!(events.last().unwrap()["kind"], "end", "{:?}", events.last());
    }
    assert_eq!(late.len(), at_once.len());
    assert_eq!(late.last().unwrap()["text"], at_once.last().unwrap()["text"]);
    assert_eq!(server.metric("lacuna_cancelled_total"), 0.0);
}

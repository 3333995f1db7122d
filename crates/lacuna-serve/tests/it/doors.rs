//! Tests who is let in, how many, and how a server ends.

use crate::support::{Answer, Server, options, tiny};
use lacuna_serve::{Error, ServeOptions, Stop, serve};
use serde_json::json;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroUsize;

#[test]
fn a_page_that_had_its_name_point_here_is_refused() {
    let server = Server::start();
    for host in ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "10.0.0.1:8080"] {
        server.send("GET", "/v1/models", &[("Host", host)], b"").is_refusal(403);
    }
    for host in ["localhost", "127.0.0.1:1234", "[::1]:80"] {
        assert_eq!(server.send("GET", "/v1/models", &[("Host", host)], b"").status, 200, "{host}");
    }
    let foreign = [("Origin", "http://evil.example")];
    server.send("POST", "/v1/completions", &foreign, b"{\"prompt\": \"a\"}").is_refusal(403);
    let own = format!("http://{}", server.address);
    let answer = server.send("POST", "/tokenize", &[("Origin", &own)], b"{\"content\": \"a\"}");
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[test]
fn beyond_loopback_a_key_is_needed_and_asked_for() {
    let host = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let open = ServeOptions { host, ..options() };
    let refused = serve(tiny(), open.clone(), &Stop::new(), |_| {});
    assert!(matches!(refused, Err(Error::KeyNeeded(_))), "{refused:?}");
    let short = ServeOptions { keys: vec!["short".into()], ..open.clone() };
    assert!(matches!(
        serve(tiny(), short, &Stop::new(), |_| {}),
        Err(Error::Key { number: 1, .. })
    ));

    let keys = vec!["first-key-1".into(), "second-key-2".into()];
    let server = Server::with(tiny(), ServeOptions { keys, ..options() });
    for headers in
        [&[][..], &[("Authorization", "Bearer first-key-2")], &[("Authorization", "first-key-1")]]
    {
        let answer = server.send("GET", "/v1/models", headers, b"");
        answer.is_refusal(401);
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
    }
    for key in ["Bearer first-key-1", "Bearer second-key-2"] {
        assert_eq!(server.send("GET", "/v1/models", &[("Authorization", key)], b"").status, 200);
    }
    assert_eq!(server.get("/health").status, 200, "balancers have no key");
    assert_eq!(server.get("/").status, 200, "the page asks for one");
    server.send("GET", "/metrics", &[], b"").is_refusal(401);
}

/// A stream that goes on for long, once its first event is there.
fn long(server: &Server) -> std::net::TcpStream {
    let body = json!({"prompt": "def f(", "max_tokens": 1900, "ignore_eos": true, "stream": true, "temperature": 1,
        "seed": 1});
    let mut stream = server.connect();
    let request = server.request("POST", "/v1/completions", &[], body.to_string().as_bytes());
    stream.write_all(&request).unwrap();
    let mut first = [0; 400];
    stream.read_exact(&mut first).unwrap();
    assert!(String::from_utf8_lossy(&first).contains("data: "));
    stream
}

#[test]
fn who_comes_when_all_places_are_taken_is_told_to_come_again() {
    let one = NonZeroUsize::MIN;
    let server =
        Server::with(tiny(), ServeOptions { running_max: one, waiting_max: 0, ..options() });
    let held = long(&server);
    let refused = server.post("/v1/completions", &json!({"prompt": "a", "max_tokens": 4}));
    refused.is_refusal(429);
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(server.get("/health").status, 200);
    assert_eq!(server.metric("lacuna_refused_total"), 1.0);
    drop(held);
    server.until("a place", |server| {
        server.post("/v1/completions", &json!({"prompt": "a", "max_tokens": 4})).status == 200
    });
}

#[test]
fn a_client_that_is_gone_frees_its_place_long_before_its_text_would_end() {
    let server = Server::start();
    drop(long(&server));
    server.idle();
    assert_eq!(server.metric("lacuna_cancelled_total"), 1.0);
    assert!(server.metric("lacuna_passes_total") < 1500.0);
    assert_eq!(server.metric("lacuna_new_tokens_total"), 0.0, "nothing came to its end");
}

#[test]
fn a_server_that_is_stopped_answers_what_is_under_way() {
    let server = Server::start();
    let body = json!({"prompt": "def f(", "max_tokens": 60, "temperature": 0, "ignore_eos": true})
        .to_string();
    let mut stream = server.connect();
    stream.write_all(&server.request("POST", "/v1/completions", &[], body.as_bytes())).unwrap();
    server.until("running", |server| {
        server.metric("lacuna_requests_running") > 0.0
            || server.metric("lacuna_new_tokens_total") > 0.0
    });
    server.stop.stop();
    let answer = Answer::read(&mut stream);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.json()["usage"]["completion_tokens"], 60);
    server.end().unwrap();
}

#[test]
fn the_log_and_the_metrics_know_requests_and_never_texts() {
    use std::sync::{Arc, Mutex};
    let lines = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&lines);
    let log =
        lacuna_serve::AccessLog::new(move |access| heard.lock().unwrap().push(access.clone()));
    let server = Server::with(tiny(), ServeOptions { log: Some(log), ..options() });
    server.post("/v1/completions", &json!({"prompt": "secret words", "max_tokens": 4}));
    server.get("/secret-words");
    let metrics = server.get("/metrics");
    assert!(
        metrics.text.contains("path=\"/v1/completions\",status=\"200\"} 1"),
        "{}",
        metrics.text
    );
    assert!(metrics.text.contains("lacuna_pass_seconds{rows=\"32\"}"));
    let lines = lines.lock().unwrap();
    assert_eq!((lines[0].path.as_str(), lines[0].status), ("/v1/completions", 200));
    assert_eq!((lines[1].path.as_str(), lines[1].status), ("other", 404));
    let all = format!("{lines:?}{}", metrics.text);
    assert!(!all.contains("secret"), "{all}");
}

#[test]
fn keys_take_turns() {
    // Fairness itself is tested beside the queue; here both keys get answers while one floods.
    let keys = vec!["first-key-1".into(), "second-key-2".into()];
    let server = Server::with(tiny(), ServeOptions { keys, ..options() });
    let body = json!({"prompt": "def f(", "max_tokens": 200, "ignore_eos": true}).to_string();
    std::thread::scope(|scope| {
        for n in 0..24 {
            let (server, body) = (&server, &body);
            let key = if n == 23 { "Bearer second-key-2" } else { "Bearer first-key-1" };
            scope.spawn(move || {
                let answer = server.send(
                    "POST",
                    "/v1/completions",
                    &[("Authorization", key)],
                    body.as_bytes(),
                );
                assert_eq!(answer.status, 200, "{answer:?}");
            });
        }
    });
}

//! Sends what no client should: it is refused with a sentence, and the server goes on.

use crate::support::{Answer, Server};
use serde_json::{Value, json};
use std::io::Write;

/// A server that has answered all of it still answers.
fn lives(server: &Server) {
    let answer = server.post("/v1/completions", &json!({"prompt": "a", "max_tokens": 2}));
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[track_caller]
fn is_4xx(answer: &Answer, sent: &str) {
    let shown: String = sent.chars().take(120).collect();
    assert!((400..500).contains(&answer.status), "{shown}: {answer:?}");
    let message = answer.json()["error"]["message"].as_str().unwrap_or_default().to_owned();
    assert!(message.split(' ').count() >= 3, "{shown}: {answer:?}");
}

#[test]
fn bodies_that_are_no_request_are_refused() {
    let server = Server::start();
    let bodies: [&[u8]; 22] = [
        b"",
        b"{",
        b"}",
        b"null",
        b"[]",
        b"\"text\"",
        b"12",
        b"{\"prompt\": }",
        b"{\"prompt\": \"a\",}",
        b"{\"prompt\": \"a\"} {}",
        b"{'prompt': 'a'}",
        b"{\"prompt\": \"a\" \"n\": 1}",
        b"{\"prompt\": \"\\ud800\"}",
        b"{\"prompt\": \"\xff\xfe\"}",
        b"\xef\xbb\xbf{\"prompt\": \"a\"}",
        b"{\"prompt\": \"a\x00b\"}",
        b"{\"prompt\": \"a\", \"prompt\": \"b\"}",
        b"{\"prompt\": NaN}",
        b"{\"prompt\": [\"a\", 1]}",
        b"{\"prompt\": []}",
        b"{\"prompt\": {\"a\": 1}}",
        b"<prompt>a</prompt>",
    ];
    for path in [
        "/v1/completions",
        "/v1/chat/completions",
        "/infill",
        "/v1/edit/completions",
        "/lacuna/watch",
    ] {
        for body in bodies {
            let answer = server.send("POST", path, &[], body);
            // An edit of nothing, or a middle between nothing, may be asked for.
            let sent = format!("{path} {}", String::from_utf8_lossy(body));
            is_4xx(&answer, &sent);
        }
    }
    lives(&server);
}

#[test]
fn fields_of_the_wrong_kind_are_named() {
    let server = Server::start();
    let fields = [
        ("prompt", json!(true)),
        ("suffix", json!(1)),
        ("max_tokens", json!("many")),
        ("n", json!(0)),
        ("n", json!(1000)),
        ("n", json!(-1)),
        ("temperature", json!(-0.5)),
        ("temperature", json!("hot")),
        ("temperature", json!(1e9)),
        ("top_p", json!(2)),
        ("top_k", json!(1.5)),
        ("min_p", json!(-1)),
        ("repeat_penalty", json!(0)),
        ("seed", json!("x")),
        ("stop", json!({"a": 1})),
        ("stop", json!(vec!["a"; 100])),
        ("stop", json!(["x".repeat(5000)])),
        ("stream", json!("yes")),
        ("threshold", json!(7)),
        ("block_size", json!(0)),
        ("block_size", json!(1_000_000_000)),
        ("attention", json!("sideways")),
        ("attention", json!(4)),
        ("logprobs", json!(1)),
        ("logit_bias", json!({"5": 100})),
        ("best_of", json!(4)),
        ("grammar", json!("root ::= x")),
        ("grammar", json!("root ::= \"(\" root \")\"")),
        ("grammar", json!(["root"])),
        ("regex", json!("a(b")),
        ("regex", json!(5)),
        ("json_schema", json!({"type": "integer", "minimum": 3})),
        ("json_schema", json!({})),
        ("json_schema", json!([1])),
        ("response_format", json!({"type": "xml"})),
        ("response_format", json!({"type": "json_schema"})),
        (
            "response_format",
            json!({"type": "json_schema", "json_schema": {"schema": {"oneOf": []}}}),
        ),
        ("response_format", json!("json")),
        ("frequency_penalty", json!(1e9)),
        ("frequency_penalty", json!("much")),
        ("presence_penalty", json!(-101)),
        ("tools", json!([{"type": "function"}])),
        ("no_such_field", json!(1)),
    ];
    for (field, value) in fields {
        let mut body = json!({"prompt": "a", "max_tokens": 2});
        body[field] = value;
        let answer = server.post("/v1/completions", &body);
        is_4xx(&answer, &body.to_string());
        let error = &answer.json()["error"];
        assert!(error["message"].as_str().unwrap().contains(&format!("`{field}`")), "{error}");
        assert_eq!(error["param"], field, "{error}");
    }
    lives(&server);
}

#[test]
fn numbers_no_machine_has_are_refused() {
    let server = Server::start();
    let many = "9".repeat(400);
    let fields = [
        "max_tokens",
        "n",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "seed",
        "id_slot",
        "t_max_predict_ms",
        "block_size",
        "frequency_penalty",
        "presence_penalty",
    ];
    for field in fields {
        for number in [many.as_str(), "1e999", "-1e999"] {
            let body = format!("{{\"prompt\": \"a\", \"{field}\": {number}}}");
            is_4xx(&server.send("POST", "/v1/completions", &[], body.as_bytes()), &body);
        }
    }
    for prompt in ["[4294967296]", "[-1]", "[1e3]", "[999999]", "[[5, 999999]]"] {
        let body = format!("{{\"prompt\": {prompt}, \"max_tokens\": 2}}");
        is_4xx(&server.send("POST", "/v1/completions", &[], body.as_bytes()), &body);
    }
    // A number of tokens that no text has is as many as there is room for.
    let body = json!({"prompt": "a", "max_tokens": i64::MAX, "stop": ["e", "a", "\n", " "]});
    assert_eq!(server.post("/v1/completions", &body).status, 200);
    lives(&server);
}

#[test]
fn nests_and_floods_are_refused_before_they_cost_anything() {
    let server = Server::start();
    let deep = |open: &str, close: &str, n: usize| open.repeat(n) + &close.repeat(n);
    let nests = [
        format!("{{\"prompt\": {}}}", deep("[", "]", 100_000)),
        format!("{{\"prompt\": \"a\", \"x\": {}}}", deep("[", "]", 100_000)),
        format!("{{\"prompt\": \"a\", \"lora\": {}}}", deep("[", "]", 1000)),
        format!(
            "{{\"prompt\": \"a\", \"metadata\": {}1{}}}",
            "{\"a\":".repeat(5000),
            "}".repeat(5000)
        ),
        deep("[", "]", 200_000),
        deep("{\"a\":", "}", 100_000),
        "[".repeat(500_000),
        format!("{{\"prompt\": \"a\", \"stop\": [{}\"a\"]}}", "\"b\",".repeat(100_000)),
        format!("{{{}\"prompt\": 1}}", "\"x\": 1,".repeat(1000)),
        format!("{{\"prompt\": \"{}\"}}", "word ".repeat(1_000_000)),
        format!("{{\"prompt\": [{}5]}}", "5,".repeat(200_000)),
        format!("{{\"{}\": 1, \"prompt\": \"a\"}}", "k".repeat(100_000)),
        "{\"prompt\":".repeat(100_000),
        format!("{{\"prompt\": \"{}", "\\\"".repeat(500_000)),
        format!("{{\"prompt\": \"a\", \"stop\": {}}}", deep("[", "]", 100)),
        format!("{{\"prompt\": [{}\"a\"]}}", "[],".repeat(100_000)),
        format!("{{\"prompt\": \"a\", \"n\": {}}}", "9".repeat(100_000)),
    ];
    for body in &nests {
        is_4xx(&server.send("POST", "/v1/completions", &[], body.as_bytes()), body);
    }
    let message = json!({"messages": [{"role": "user", "content": "x ".repeat(500_000)}]});
    is_4xx(&server.post("/v1/chat/completions", &message), "a long message");
    let empty: Vec<Value> = vec![json!({}); 100_000];
    is_4xx(&server.post("/v1/chat/completions", &json!({"messages": empty})), "empty messages");
    let parts = deep("[{\"type\": \"text\", \"text\":", "}]", 10_000);
    let parts = format!("{{\"messages\": [{{\"role\": \"user\", \"content\": {parts}}}]}}");
    is_4xx(&server.send("POST", "/v1/chat/completions", &[], parts.as_bytes()), &parts);
    let roles = json!({"messages": [{"role": 5, "content": "x"}]});
    is_4xx(&server.post("/v1/chat/completions", &roles), "a role that is a number");
    let announced =
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n";
    let mut stream = server.connect();
    stream.write_all(announced).unwrap();
    Answer::read(&mut stream).is_refusal(413);
    lives(&server);
}

#[test]
fn forms_that_would_take_all_memory_or_no_end_are_refused() {
    let server = Server::start();
    let nested = |n: usize| {
        (0..n).fold(json!({"type": "null"}), |inner, _| json!({"type": "array", "items": inner}))
    };
    let wide: Value = (0..40).map(|n| (format!("p{n}"), json!({"type": "integer"}))).collect();
    let doubling: Value = (0..60)
        .map(|n| {
            let next = json!({"$ref": format!("#/$defs/d{}", n + 1)});
            (format!("d{n}"), json!({"type": "object", "properties": {"a": next, "b": next}}))
        })
        .collect();
    let circle = json!({"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}});
    let rules: String = (0..60).map(|n| format!("r{n} ::= r{} r{}\n", n + 1, n + 1)).collect();
    let schema = |schema: Value| json!({"json_schema": schema});
    let forms = [
        schema(nested(60)),
        schema(json!({"type": "object", "properties": wide, "required": []})),
        schema(json!({"$ref": "#/$defs/d0", "$defs": doubling})),
        schema(json!({"$ref": "#/$defs/a", "$defs": circle})),
        schema(json!({"$ref": "#"})),
        schema(json!({"$ref": "http://127.0.0.1:1/schema"})),
        schema(json!({"type": "string", "minLength": 100_000, "maxLength": 1_000_000})),
        schema(json!({"type": "array", "items": {"type": "string"}, "minItems": 5_000})),
        schema(json!({"enum": (0..200_000).collect::<Vec<u32>>()})),
        schema(json!({"type": "string", "pattern": "(a+)+$"})),
        json!({"regex": "(\\w{50}x){400}"}),
        json!({"regex": "((a{100}){100}){100}"}),
        json!({"regex": "(".repeat(100_000)}),
        json!({"regex": "[^\\s\\S]"}),
        json!({"regex": "\\bfoo\\b"}),
        json!({"regex": "a|".repeat(1_000_000)}),
        json!({"grammar": format!("root ::= r0\n{rules}r60 ::= \"a\"")}),
        json!({"grammar": format!("root ::= {}\"a\"{}", "(".repeat(100_000), ")".repeat(100_000))}),
        json!({"grammar": "root ::= \"a\"{1000000}"}),
        json!({"grammar": "root ::= other\nother ::= root"}),
        json!({"regex": "a", "grammar": "root ::= \"a\""}),
        json!({"regex": "a", "stop": ["b"]}),
        json!({"regex": "a", "ignore_eos": true}),
    ];
    for mut body in forms {
        body["prompt"] = "a".into();
        body["max_tokens"] = 4.into();
        is_4xx(&server.post("/v1/completions", &body), &body.to_string());
    }
    lives(&server);
}

#[test]
fn headers_that_are_none_end_their_connection_alone() {
    let server = Server::start();
    let long = "a".repeat(200_000);
    let many: String = (0..500).map(|n| format!("X-{n}: 1\r\n")).collect();
    let heads: Vec<Vec<u8>> = [
        "\r\n\r\n".to_owned(),
        "GET\r\n\r\n".to_owned(),
        "GET /\r\n\r\n".to_owned(),
        "GET / HTTP/9.9\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost localhost\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\n Host: localhost\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: \u{1}\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\n\r\n".to_owned(),
        format!("GET /{long} HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {long}\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nHost: localhost\r\n{many}\r\n"),
        "POST /infill HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n".to_owned(),
        "POST /infill HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n".to_owned(),
        "POST /infill HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}".to_owned(),
        "POST /infill HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".to_owned(),
        "POST /infill HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: x\r\n\r\n{}".to_owned(),
        "DELETE /infill HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".to_owned(),
        "GET /no/such/path HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".to_owned(),
        "GET /../../etc/passwd HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".to_owned(),
        "\u{16}\u{3}\u{1}\u{2}\u{0}\u{1}\u{0}".to_owned() + "\r\n\r\n",
    ]
    .map(String::into_bytes)
    .into();
    for head in &heads {
        let mut stream = server.connect();
        // A server that has seen enough may close while the rest is sent.
        let _ = stream.write_all(head);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let answer = Answer::read(&mut stream);
        let refused =
            answer.status == 0 || (400..=505).contains(&answer.status) && answer.status != 500;
        assert!(refused, "{:?}: {answer:?}", String::from_utf8_lossy(&head[..head.len().min(100)]));
    }
    lives(&server);
}

//! Shows that a text's beginning is read once.

use crate::support::Server;
use serde_json::{Value, json};

/// A file of many lines, and the line that is being typed.
fn keystroke(slot: usize, typed: &str) -> Value {
    let prefix: String = (0..60).map(|n| format!("x{n} = {n} * y\n")).collect();
    json!({"id_slot": slot, "input_prefix": prefix, "input_suffix": "\nprint(x1)\n", "prompt": typed,
        "n_predict": 8, "t_max_prompt_ms": 500, "t_max_predict_ms": 5000, "cache_prompt": true,
        "response_fields": ["content", "timings/prompt_n", "timings/cache_n", "tokens_cached"]})
}

fn read(server: &Server, body: &Value) -> (f64, f64) {
    let answer = server.post("/infill", body);
    assert_eq!(answer.status, 200, "{answer:?}");
    let answer = answer.json();
    (answer["timings/prompt_n"].as_f64().unwrap(), answer["tokens_cached"].as_f64().unwrap())
}

#[test]
fn the_second_keystroke_of_two_editors_reads_less_than_a_tenth_of_the_first() {
    let server = Server::start();
    let (first, cached) = read(&server, &keystroke(0, "to"));
    assert_eq!(cached, 0.0);
    let rows = server.metric("lacuna_prompt_tokens_total");
    for (slot, typed) in [(0, "tot"), (1, "to"), (0, "tota"), (1, "tot")] {
        let (read, cached) = read(&server, &keystroke(slot, typed));
        assert!(10.0 * read < first, "{slot}, {typed}: {read} of {first}");
        assert!(cached > 0.9 * first);
    }
    let more = server.metric("lacuna_prompt_tokens_total") - rows;
    assert!(more < 0.4 * first, "{more} of {first}");
}

#[test]
fn a_warm_up_answers_at_once_and_what_it_names_is_read_when_it_is_asked_for() {
    let server = Server::start();
    let mut warm = keystroke(0, "");
    warm["n_predict"] = 0.into();
    warm["t_max_prompt_ms"] = 1.into();
    warm["t_max_predict_ms"] = 1.into();
    warm["samplers"] = json!([]);
    warm["response_fields"] = json!([""]);
    let answer = server.post("/infill", &warm);
    assert_eq!((answer.status, answer.text.as_str()), (200, "{}"));
    server.until("read ahead", |server| server.metric("lacuna_prefix_cache_bytes") > 0.0);
    let (read, cached) = read(&server, &keystroke(0, "to"));
    assert!(10.0 * read < cached, "{read} read, {cached} remembered");
}

#[test]
fn a_conversation_is_read_on_from_where_it_was() {
    let server = Server::start();
    let mut messages =
        vec![json!({"role": "user", "content": "Sort a list of numbers, quickly. ".repeat(8)})];
    let ask = |messages: &[Value]| {
        let body = json!({"messages": messages, "max_tokens": 12, "temperature": 0, "id_slot": 5});
        server.post("/v1/chat/completions", &body).json()
    };
    let first = ask(&messages);
    let read = first["usage"]["prompt_tokens"].as_f64().unwrap();
    messages.push(first["choices"][0]["message"].clone());
    messages.push(json!({"role": "user", "content": "Go on."}));
    let second = ask(&messages);
    let cached = second["usage"]["prompt_tokens_details"]["cached_tokens"].as_f64().unwrap();
    assert!(cached > 0.9 * read, "{cached} of {read}");
}

#[test]
fn the_cache_keeps_within_its_bytes() {
    use crate::support::{options, tiny};
    use lacuna_serve::ServeOptions;
    let prefix_bytes = 2_000_000;
    let server = Server::with(tiny(), ServeOptions { prefix_bytes, ..options() });
    for slot in 0..6 {
        let body = json!({"prompt": format!("{slot} {}", "abc ".repeat(300)), "max_tokens": 4, "id_slot": slot});
        assert_eq!(server.post("/v1/completions", &body).status, 200);
        let held = server.metric("lacuna_prefix_cache_bytes");
        assert!(held <= prefix_bytes as f64, "{held}");
    }
    server.idle();
    assert!(server.metric("lacuna_prefix_cache_bytes") > 0.0);
}

//! Shows that a model writes through HTTP what it writes without.

use crate::support::{Server, options, tiny};
use lacuna_engine::{GenerateOptions, Prompt, Sampling, generate};
use lacuna_serve::ServeOptions;
use serde_json::{Value, json};
use std::num::NonZeroUsize;

/// The n-th of some requests that differ in everything, as a body and as options.
fn request(n: usize) -> (Value, Vec<u32>, GenerateOptions) {
    let ids: Vec<u32> = (0..20 + 17 * n as u32).map(|i| 40 + (i * 37 + n as u32) % 400).collect();
    let (temperature, seed) = ([0.0, 0.8, 1.1][n % 3], 100 + n as u64);
    let (max_tokens, block) = (24 + 3 * n, [4, 8, 2][n / 3 % 3]);
    let body = json!({"prompt": ids, "max_tokens": max_tokens, "temperature": temperature, "seed": seed,
        "block_size": block, "stream": n % 2 == 1});
    let options = GenerateOptions {
        max_new_tokens: max_tokens,
        block_size: NonZeroUsize::new(block),
        sampling: Sampling { temperature, seed, ..Sampling::default() },
        ..GenerateOptions::default()
    };
    (body, ids, options)
}

fn text(server: &Server, body: &Value) -> String {
    let answer = server.post("/v1/completions", body);
    assert_eq!(answer.status, 200, "{answer:?}");
    match body["stream"] == true {
        true => {
            let events = answer.events();
            events.iter().filter_map(|event| event["choices"][0]["text"].as_str()).collect()
        }
        false => answer.json()["choices"][0]["text"].as_str().unwrap().to_owned(),
    }
}

#[test]
fn tokens_through_http_equal_those_of_generate_alone_and_among_sixteen_others() {
    let model = tiny();
    let expected: Vec<String> = (0..17)
        .map(|n| {
            let (_, ids, options) = request(n);
            generate(&model, Prompt::Ids(ids), &options, |_| {}).unwrap().text
        })
        .collect();
    // Prompts are read in parts that are shorter than they are.
    let prompt_rows = NonZeroUsize::new(32).unwrap();
    let server = Server::with(tiny(), ServeOptions { prompt_rows, ..options() });
    for (n, expected) in expected.iter().enumerate().take(4) {
        assert_eq!(text(&server, &request(n).0), *expected, "request {n} alone");
    }
    std::thread::scope(|scope| {
        let server = &server;
        for (n, expected) in expected.iter().enumerate() {
            scope.spawn(move || {
                assert_eq!(text(server, &request(n).0), *expected, "request {n} among others");
            });
        }
    });
    server.idle();
    assert!(server.metric("lacuna_new_tokens_total") > 17.0 * 20.0);
}

#[test]
fn several_texts_are_those_of_the_seeds_that_follow() {
    let server = Server::start();
    let body = |seed: usize, n: usize| json!({"prompt": "def f(", "max_tokens": 16, "temperature": 1.0, "seed": seed, "n": n});
    let several = server.post("/v1/completions", &body(7, 3)).json();
    for at in 0..3 {
        let one = server.post("/v1/completions", &body(7 + at, 1)).json();
        assert_eq!(several["choices"][at]["index"], at);
        assert_eq!(several["choices"][at]["text"], one["choices"][0]["text"], "{at}");
    }
    let prompts = json!({"prompt": ["a = ", "b = "], "max_tokens": 4, "n": 2, "temperature": 0});
    let answer = server.post("/v1/completions", &prompts).json();
    assert_eq!(answer["choices"].as_array().unwrap().len(), 4);
    assert_eq!(
        answer["choices"][0]["text"], answer["choices"][1]["text"],
        "no choice, no difference"
    );
}

#[test]
fn a_chat_s_answer_is_the_same_whole_in_pieces_and_as_snapshots() {
    let server = Server::start();
    let body = |stream: bool, diffusing: bool| {
        json!({"messages": [{"role": "user", "content": "Sort a list."}],
        "max_tokens": 40, "temperature": 0.7, "seed": 3, "stream": stream, "diffusing": diffusing})
    };
    let whole = server.post("/v1/chat/completions", &body(false, false)).json();
    let whole = whole["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
    assert!(!whole.is_empty());
    let content =
        |event: &Value| event["choices"][0]["delta"]["content"].as_str().map(str::to_owned);
    let pieces = server.post("/v1/chat/completions", &body(true, false));
    assert!(pieces.text.ends_with("data: [DONE]\n\n"));
    let events = pieces.events();
    assert_eq!(events[0]["choices"][0]["delta"]["role"], "assistant");
    assert_eq!(events[0]["object"], "chat.completion.chunk");
    assert!(events.last().unwrap()["choices"][0]["finish_reason"].is_string());
    assert_eq!(events.iter().filter_map(content).collect::<String>(), whole);
    let snapshots = server.post("/v1/chat/completions", &body(true, true));
    let texts: Vec<String> = snapshots.events().iter().filter_map(content).collect();
    assert_eq!(*texts.last().unwrap(), whole);
    assert!(texts.iter().any(|text| text.contains('░')), "{texts:?}");
    assert!(texts.len() > 8, "a snapshot a pass: {}", texts.len());
}

#[test]
fn a_stop_text_ends_what_is_told() {
    let server = Server::start();
    let free = json!({"prompt": "def f(", "max_tokens": 40, "temperature": 0});
    let text = server.post("/v1/completions", &free).json()["choices"][0]["text"].clone();
    let text = text.as_str().unwrap();
    let stop: String = text.chars().skip(5).take(2).collect();
    let body = json!({"prompt": "def f(", "max_tokens": 40, "temperature": 0, "stop": [stop, ""]});
    let answer = server.post("/v1/completions", &body).json();
    let cut = answer["choices"][0]["text"].as_str().unwrap();
    assert!(text.starts_with(cut) && !cut.contains(&stop), "{cut:?} of {text:?}, {stop:?}");
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
}

//! Tests next edits and applied changes in Inception's form, and the drafts that they are decoded from.

use crate::support::{Server, options, tiny};
use lacuna_engine::{Algorithm, DraftSource, GenerateOptions, Prompt, edit, generate};
use lacuna_serve::ServeOptions;
use serde_json::json;

const MESSAGE: &str = "<|recently_viewed_code_snippets|>\n\n<|/recently_viewed_code_snippets|>\n\n\
    <|current_file_content|>\ncurrent_file_path: a.py\nimport os\n<|code_to_edit|>\ndef f(x):\n    return x<|cursor|>\n\
    <|/code_to_edit|>\n\nprint(f(1))\n<|/current_file_content|>\n\n<|edit_diff_history|>\n\n<|/edit_diff_history|>\n";

#[test]
fn a_next_edit_is_a_region_between_fences_or_none_and_drafted_from_what_is_there() {
    let server = Server::start();
    let body = json!({"model": "mercury-coder", "messages": [{"role": "user", "content": MESSAGE}], "max_tokens": 48,
        "temperature": 0, "threshold": 0.001});
    let answer = server.post("/v1/edit/completions", &body).json();
    let content = answer["choices"][0]["message"]["content"].as_str().unwrap();
    let fenced = content.starts_with("```\n") && content.ends_with("\n```");
    assert!(content == "None" || fenced, "{content:?}");
    assert!(answer["drafts"]["drafted_blocks"].as_u64().unwrap() > 0, "{answer}");
    let mut streamed = body;
    streamed["stream"] = true.into();
    let events = server.post("/v1/edit/completions", &streamed).events();
    let told: String = events
        .iter()
        .filter_map(|event| event["choices"][0]["delta"]["content"].as_str())
        .collect();
    assert_eq!(told, content);
}

#[test]
fn an_edit_says_that_the_old_text_is_its_draft_whatever_the_server_looks_up() {
    for algorithm in [Algorithm::Blocks, Algorithm::Autoregressive] {
        for drafts in [None, Some(DraftSource::None), Some(DraftSource::Lookup)] {
            let defaults = GenerateOptions {
                algorithm: Some(algorithm),
                allow_mode_mismatch: true,
                drafts,
                ..GenerateOptions::default()
            };
            let server = Server::with(tiny(), ServeOptions { defaults, ..options() });
            let body = json!({"messages": [{"role": "user", "content": MESSAGE}], "max_tokens": 48, "temperature": 0});
            let answer = server.post("/v1/edit/completions", &body).json();
            assert_eq!(
                answer["drafts"]["source"], "old-text",
                "{algorithm:?}, {drafts:?}: {answer}"
            );
        }
    }
}

#[test]
fn a_predicted_answer_changes_no_token() {
    let server = Server::start();
    let ask = |prediction: Option<&str>| {
        let mut body = json!({"messages": [{"role": "user", "content": "Sort a list."}], "max_tokens": 40,
            "temperature": 0, "threshold": 0.001});
        if let Some(text) = prediction {
            body["prediction"] = json!({"type": "content", "content": text});
        }
        let answer = server.post("/v1/chat/completions", &body).json();
        answer["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
    };
    let plain = ask(None);
    assert_eq!(ask(Some(&plain)), plain);
    assert_eq!(ask(Some("something else")), plain);
}

#[test]
fn an_edit_among_others_is_the_edit_alone() {
    let model = tiny();
    let prompt: Vec<u32> = (0..90u32).map(|i| 40 + (i * 37) % 400).collect();
    let options = GenerateOptions { max_new_tokens: 64, ..GenerateOptions::default() };
    let plain = generate(&model, Prompt::Ids(prompt.clone()), &options, |_| {}).unwrap();
    let drafted = edit(&model, Prompt::Ids(prompt), &plain.tokens, &options, |_| {}).unwrap();
    assert_eq!(plain.tokens, drafted.tokens);

    let server = Server::start();
    let edits = json!({"messages": [{"role": "user", "content": MESSAGE}], "max_tokens": 64, "temperature": 0});
    let alone = server.post("/v1/edit/completions", &edits).json()["choices"].clone();
    std::thread::scope(|scope| {
        for n in 0..8 {
            let (server, edits, alone) = (&server, &edits, &alone);
            scope.spawn(move || match n % 2 {
                0 => {
                    assert_eq!(server.post("/v1/edit/completions", edits).json()["choices"], *alone)
                }
                _ => {
                    let body = json!({"prompt": format!("x{n} = "), "max_tokens": 60});
                    assert_eq!(server.post("/v1/completions", &body).status, 200);
                }
            });
        }
    });
}

#[test]
fn an_applied_change_is_a_file_and_what_is_no_message_says_what_is_missing() {
    let server = Server::start();
    let content = "<|original_code|>\ndef f():\n    pass\n<|/original_code|>\n\n<|update_snippet|>\n    return 1\n\
                   <|/update_snippet|>";
    let body = json!({"messages": [{"role": "user", "content": content}], "max_tokens": 32, "temperature": 0});
    let answer = server.post("/v1/apply/completions", &body);
    assert_eq!(answer.status, 200, "{answer:?}");
    let wrong = json!({"messages": [{"role": "user", "content": "hello"}]});
    for path in ["/v1/edit/completions", "/v1/apply/completions"] {
        let answer = server.post(path, &wrong);
        answer.is_refusal(400);
        assert!(answer.text.contains("<|"), "{answer:?}");
    }
}

//! Requests as each client sends them get the answers that it reads. They are in `fixtures/clients/`, whose origin
//! `fixtures/README.md` tells.

use crate::support::{Answer, Server};
use serde_json::{Value, json};

/// The value at a path of names and numbers, whole names first: `timings/prompt_n` may be one.
fn at<'v>(value: &'v Value, path: &str) -> Option<&'v Value> {
    if let Some(found) = value.get(path) {
        return Some(found);
    }
    path.split('/').try_fold(value, |value, part| match part.parse::<usize>() {
        Ok(index) if value.is_array() => value.get(index),
        _ => value.get(part),
    })
}

fn sent(server: &Server, request: &Value) -> Answer {
    let headers: Vec<(&str, &str)> = request["headers"]
        .as_object()
        .unwrap()
        .iter()
        .filter(|(name, _)| *name != "Connection")
        .map(|(name, value)| (name.as_str(), value.as_str().unwrap()))
        .collect();
    let body = request.get("body").map(Value::to_string).unwrap_or_default();
    let (method, path) = (request["method"].as_str().unwrap(), request["path"].as_str().unwrap());
    server.send(method, path, &headers, body.as_bytes())
}

fn names(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().map(|name| name.as_str().unwrap()).collect()
}

/// Sends every request of a file, and looks for what its client reads.
fn replay(file: &str) {
    let server = Server::start();
    let path = lacuna_test::fixture("clients").join(file);
    let all: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    for request in all["requests"].as_array().unwrap() {
        let name = format!("{file}: {}", request["name"].as_str().unwrap());
        let answer = sent(&server, request);
        if let Some(status) = request["status"].as_u64() {
            answer.is_refusal(status as u16);
            continue;
        }
        assert_eq!(answer.status, 200, "{name}: {answer:?}");
        if request.get("events").is_some() {
            let events = answer.events();
            assert!(events.len() > 1, "{name}: {answer:?}");
            for event in events.iter().filter(|event| event["choices"] != json!([])) {
                for path in names(&request["events"]) {
                    assert!(at(event, path).is_some(), "{name}: no {path} in {event}");
                }
            }
            assert!(answer.text.ends_with("data: [DONE]\n\n"), "{name}");
            continue;
        }
        let json = answer.json();
        let wanted = names(&request["has"]);
        for path in &wanted {
            assert!(at(&json, path).is_some(), "{name}: no {path} in {json}");
        }
        if request["only"] == true {
            assert_eq!(json.as_object().unwrap().len(), wanted.len(), "{name}: {json}");
        }
    }
}

#[test]
fn llama_vim_gets_what_it_reads() {
    replay("llama.vim.json");
}

#[test]
fn llama_vscode_gets_what_it_reads() {
    replay("llama.vscode.json");
}

#[test]
fn continue_gets_what_it_reads() {
    replay("continue.json");
}

#[test]
fn zed_gets_what_it_reads() {
    replay("zed.json");
}

#[test]
fn lm_eval_gets_what_it_reads() {
    replay("lm-eval.json");
}

#[test]
fn evalplus_gets_what_it_reads() {
    replay("evalplus.json");
}

#[test]
fn openai_s_packages_get_what_they_read() {
    replay("openai.json");
    replay("openai-node.json");
}

#[test]
fn a_hole_is_filled_alike_whichever_family_s_marks_it_is_asked_with() {
    let server = Server::start();
    let path = lacuna_test::fixture("clients").join("zed.json");
    let all: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let marked = all["requests"].as_array().unwrap().iter().filter(|one| one["same"] == "hole");
    let texts: Vec<Value> =
        marked.map(|one| sent(&server, one).json()["choices"][0]["text"].clone()).collect();
    assert_eq!(texts.len(), 7);
    let body = json!({"prompt": "def area(r):\n    return ", "suffix": "\n\nprint(area(2))\n", "max_tokens": 64});
    let plain = server.post("/v1/completions", &body).json()["choices"][0]["text"].clone();
    for text in &texts {
        assert_eq!(*text, plain);
    }
}

#[test]
fn fields_that_are_not_followed_are_named_in_a_header_and_unknown_ones_refused() {
    let server = Server::start();
    let body = json!({"input_prefix": "a", "input_suffix": "b", "n_predict": 4, "samplers": ["top_k"], "mirostat": 2,
        "typical_p": 0, "top_k": 40});
    let answer = server.post("/infill", &body);
    assert_eq!(answer.header("x-lacuna-ignored"), Some("mirostat, samplers"), "{answer:?}");
    let body =
        json!({"messages": [{"role": "user", "content": "a"}], "tools": [{"type": "function"}]});
    let refused = server.post("/v1/chat/completions", &body);
    refused.is_refusal(400);
    assert_eq!(refused.json()["error"]["param"], "tools");
    let body = json!({"prompt": "a", "web_search_options": {}});
    let refused = server.post("/v1/completions", &body);
    refused.is_refusal(400);
    assert!(refused.text.contains("web_search_options"));
}

#[test]
fn the_description_names_the_fields_that_are_read() {
    let server = Server::start();
    let all = server.get("/openapi.json").json();
    assert_eq!(all["info"]["title"], "lacuna");
    for path in ["/v1/completions", "/v1/chat/completions", "/infill", "/tokenize", "/props"] {
        assert!(all["paths"][path].is_object(), "{path}");
    }
    // Everything that a client of the fixtures sends is described, or named as not followed.
    let fields = all["components"]["schemas"]["InfillRequest"]["properties"].clone();
    for field in [
        "input_prefix",
        "input_extra",
        "id_slot",
        "n_predict",
        "t_max_predict_ms",
        "response_fields",
    ] {
        assert!(fields[field].is_object(), "{field}");
    }
}

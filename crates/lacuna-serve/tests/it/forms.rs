//! Answers keep to the form that is asked for, by whichever client's word for it, and penalties change what is written.

use crate::support::{Server, options};
use lacuna_engine::{Model, OpenOptions};
use serde_json::{Value, json};

fn content(answer: &Value) -> String {
    let choice = &answer["choices"][0];
    let text = choice["text"].as_str().or(choice["message"]["content"].as_str());
    text.unwrap_or_else(|| panic!("{answer}")).to_owned()
}

#[test]
fn a_form_is_kept_to_by_every_name_that_clients_have_for_it() {
    let server = Server::start();
    // As text, whose members keep their order.
    let schema = r#"{"type": "object", "required": ["z", "a"], "additionalProperties": false, "properties": {
        "z": {"type": "string", "maxLength": 3}, "a": {"enum": [1, 2]}}}"#;
    let objects = [
        format!(
            r#""response_format": {{"type": "json_schema", "json_schema": {{"name": "pair", "schema": {schema}}}}}"#
        ),
        format!(r#""response_format": {{"type": "json_object", "schema": {schema}}}"#),
        format!(r#""json_schema": {schema}"#),
    ];
    let asked = [
        ("/v1/completions", r#""prompt": "A pair: ""#),
        ("/v1/chat/completions", r#""messages": [{"role": "user", "content": "a pair"}]"#),
    ];
    for (seed, form) in objects.iter().enumerate() {
        for (path, asked) in asked {
            let body = format!(
                r#"{{{asked}, {form}, "max_tokens": 200, "temperature": 1, "seed": {seed}}}"#
            );
            let answer = server.send("POST", path, &[], body.as_bytes());
            assert_eq!(answer.status, 200, "{body}: {answer:?}");
            let answer = answer.json();
            assert_eq!(answer["choices"][0]["finish_reason"], "stop", "{answer}");
            let text = content(&answer);
            let pair: Value = serde_json::from_str(&text).unwrap();
            assert!(text.find("\"z\"") < text.find("\"a\""), "in the schema's order: {text}");
            assert!([json!(1), json!(2)].contains(&pair["a"]), "{text}");
        }
    }
}

#[test]
fn grammars_expressions_and_any_object_are_kept_to() {
    let server = Server::start();
    let ask = |form: Value| {
        let mut body = json!({"prompt": "def f(", "max_tokens": 120, "temperature": 1, "seed": 3});
        body.as_object_mut().unwrap().extend(form.as_object().unwrap().clone());
        let answer = server.post("/v1/completions", &body);
        assert_eq!(answer.status, 200, "{form}: {answer:?}");
        answer.json()
    };
    let grammar =
        ask(json!({"grammar": "root ::= \"[\" digit (\", \" digit){2} \"]\"\ndigit ::= [0-9]"}));
    let list: Vec<u8> = serde_json::from_str(&content(&grammar)).unwrap();
    assert_eq!(list.len(), 3);
    let regex = ask(json!({"regex": "(yes|no)!"}));
    assert!(["yes!", "no!"].contains(&content(&regex).as_str()), "{regex}");
    let object = ask(json!({"response_format": {"type": "json_object"}, "max_tokens": 1500}));
    if object["choices"][0]["finish_reason"] == "stop" {
        let object: Value = serde_json::from_str(&content(&object)).unwrap();
        assert!(object.is_object());
    } else {
        assert!(content(&object).starts_with('{'), "{object}");
    }
    // A hole too, whose middle ends with its mark.
    let body = json!({"input_prefix": "x = ", "input_suffix": "\n", "n_predict": 30, "regex": "[0-9]{1,3}"});
    let middle = server.post("/infill", &body).json()["content"].as_str().unwrap().to_owned();
    assert!(middle.parse::<u16>().is_ok(), "{middle}");
    let edit = json!({"messages": [{"role": "user", "content": "<|code_to_edit|>\na\n<|/code_to_edit|>"}], "regex": "a"});
    let refused = server.post("/v1/edit/completions", &edit);
    refused.is_refusal(400);
    assert_eq!(refused.json()["error"]["param"], "regex");
}

#[test]
fn penalties_keep_tokens_from_coming_again_and_again() {
    // Token by token, so that each counts for the next.
    let folder = lacuna_test::golden().join("models/tiny_untied");
    let model = Model::open(&folder, &OpenOptions::default()).unwrap();
    let server = Server::with(model, options());
    let tokens = |more: Value| {
        let mut body = json!({"prompt": "def f(", "max_tokens": 60, "temperature": 0, "ignore_eos": true, "block_size": 1});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let answer = server.post("/v1/completions", &body);
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.header("x-lacuna-ignored"), None, "{answer:?}");
        let text = content(&answer.json());
        let ids = server.post("/tokenize", &json!({"content": text})).json()["tokens"].clone();
        ids.as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect::<Vec<_>>()
    };
    let different = |ids: &[u64]| ids.iter().collect::<std::collections::BTreeSet<_>>().len();
    let plain = tokens(json!({}));
    for field in ["frequency_penalty", "presence_penalty"] {
        let none = json!({field: 0});
        assert_eq!(tokens(none), plain, "a penalty of 0 is none");
        let much = tokens(json!({field: 100}));
        assert!(different(&much) > different(&plain), "{field}: {much:?} {plain:?}");
        assert_ne!(tokens(json!({field: -100})), much, "{field}");
    }
    let repeated = tokens(json!({"repetition_penalty": 3.0}));
    assert_eq!(repeated, tokens(json!({"repeat_penalty": 3.0})), "two names of one");
    assert_ne!(repeated, plain);
}

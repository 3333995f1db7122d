//! Reads all files of a checkpoint that say something of tokens, templates and sampling, as one.

use lacuna_text::chat::{SEED_CODER_TEMPLATE, Tools};
use lacuna_text::{ChatTemplate, Facts, Message, ModelFiles, RenderOptions, Settings, Tokenizer};
use serde_json::{Map, Value, json};
use std::path::Path;

const CHATML: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
                      {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// `a`, `b`, `<s>` and `<|x|>`, the last one special.
fn tokenizer_json() -> Value {
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [{"id": 3, "content": "<|x|>", "single_word": false, "lstrip": false, "rstrip": false,
                          "normalized": false, "special": true}],
        "normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": null,
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "<s>": 2, "<|x|>": 3}, "merges": []},
    })
}

fn files(all: &[(&str, Value)]) -> ModelFiles {
    let mut files = ModelFiles::default();
    for (name, value) in all {
        files.insert(*name, value.as_str().map_or_else(|| value.to_string(), str::to_owned));
    }
    files
}

fn settings(all: &[(&str, Value)]) -> Settings {
    Settings::read(&files(all), Path::new("m")).unwrap()
}

fn opened(all: &[(&str, Value)], rows: usize) -> Tokenizer {
    let bytes = tokenizer_json().to_string();
    let file = Path::new("m/tokenizer.json");
    Tokenizer::of_checkpoint(bytes.as_bytes(), rows, &settings(all), file).unwrap()
}

fn token(content: &str, special: bool) -> Value {
    json!({"content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
           "special": special})
}

#[test]
fn tokens_that_only_other_files_name_become_their_ids() {
    let decoder =
        json!({"added_tokens_decoder": {"5": token("<|a|>", true), "4": token("<|b|>", false)}});
    let listed = json!({"<|a|>": 5, "<|b|>": 4});
    let named = json!({"eos_token": "<|a|>"});
    let ways = [
        vec![("tokenizer_config.json", decoder)],
        vec![("added_tokens.json", listed.clone()), ("special_tokens_map.json", named.clone())],
        vec![("added_tokens.json", listed), ("tokenizer_config.json", named)],
    ];
    for files in ways {
        let tokenizer = opened(&files, 8);
        assert_eq!(tokenizer.encode("a<|a|><|b|>b").unwrap(), [0, 5, 4, 1], "{files:?}");
        assert_eq!([tokenizer.is_special(5), tokenizer.is_special(4)], [true, false], "{files:?}");
        assert!(tokenizer.notes().is_empty() && tokenizer.is_extended());
        let again = Tokenizer::from_bytes(tokenizer.to_json().as_bytes()).unwrap();
        assert_eq!(again.encode("a<|a|><|b|>b").unwrap(), [0, 5, 4, 1], "written and read");
    }
}

#[test]
fn ids_with_gaps_stay_what_the_files_say() {
    let decoder = json!({"added_tokens_decoder": {"9": token("<|a|>", true)}});
    assert_eq!(opened(&[("tokenizer_config.json", decoder)], 12).encode("<|a|>").unwrap(), [9]);
}

#[test]
fn flags_of_tokens_are_those_of_the_configuration() {
    let mut wide = token("<|x|>", true);
    wide["lstrip"] = true.into();
    let decoder = json!({"added_tokens_decoder": {"3": wide}});
    let text = "a  <|x|>";
    assert_eq!(opened(&[("tokenizer_config.json", decoder)], 8).encode(text).unwrap(), [0, 3]);
}

#[test]
fn what_can_not_be_followed_is_told_and_stops_nothing() {
    let decoder = json!({"added_tokens_decoder": {
        "1": token("<|a|>", true), "99": token("<|b|>", true), "7": token("<|x|>", true)}});
    let tokenizer = opened(&[("tokenizer_config.json", decoder)], 8);
    let notes = tokenizer.notes().join("\n");
    for words in
        ["\"<|a|>\" has id 1, which is \"b\"", "\"<|b|>\" has id 99, for which", "\"<|x|>\" is 3"]
    {
        assert!(notes.contains(words), "{notes}");
    }
    assert_eq!(tokenizer.encode("<|x|>").unwrap(), [3]);
    // Nothing needs a pad token that no tokenizer has.
    let pad = json!({"pad_token": "[PAD]", "unk_token": null, "bos_token": {"content": "<s>"}});
    let tokenizer = opened(&[("tokenizer_config.json", pad)], 8);
    assert!(tokenizer.notes().is_empty());
    assert!(tokenizer.is_special(2), "named as bos, so special");
}

#[test]
fn a_token_without_an_id_stops_nothing_and_is_said_to_stay_text() {
    let decoder = |tokens: Value| json!({ "added_tokens_decoder": tokens });
    for files in [
        vec![("added_tokens.json", json!({"<|a|>": -1}))],
        vec![("added_tokens.json", json!({"<|a|>": null}))],
        vec![("added_tokens.json", json!({"<|a|>": 10_000_000_000_u64}))],
        vec![("tokenizer_config.json", decoder(json!({"x": token("<|a|>", true)})))],
        vec![("tokenizer_config.json", json!({"eos_token": "<|a|>"}))],
        vec![("special_tokens_map.json", json!({"additional_special_tokens": ["<|a|>"]}))],
        vec![("special_tokens_map.json", json!({"eos_token": {"content": "<|a|>"}}))],
    ] {
        let tokenizer = opened(&files, 8);
        let [note] = tokenizer.notes() else { panic!("{files:?}: {:?}", tokenizer.notes()) };
        assert!(note.contains("<|a|>") && note.contains("stays text"), "{note}");
    }
    for odd in
        [json!({"4": null}), json!({"4": 7}), json!({"4": []}), json!({"4": {"content": null}})]
    {
        assert!(opened(&[("tokenizer_config.json", decoder(odd))], 8).notes().is_empty());
    }
}

#[test]
fn files_of_other_hands_say_the_same_in_other_ways() {
    let plain = json!({"added_tokens_decoder": {"4": "<|a|>"}});
    let numbers = json!({"added_tokens_decoder": {"4": {"content": "<|a|>", "special": true, "lstrip": null}}});
    for config in [plain.clone(), numbers] {
        let tokenizer = opened(&[("tokenizer_config.json", config)], 8);
        assert_eq!(tokenizer.encode("a<|a|>").unwrap(), [0, 4]);
        assert!(tokenizer.is_special(4) && tokenizer.notes().is_empty());
    }
    let marked = Value::String(format!("\u{feff}{plain}"));
    assert_eq!(opened(&[("tokenizer_config.json", marked)], 8).encode("<|a|>").unwrap(), [4]);
}

#[test]
fn bos_is_added_where_a_file_says_so() {
    let config = |adds: Value, class: &str| {
        let config = json!({"bos_token": "<s>", "add_bos_token": adds, "tokenizer_class": class});
        opened(&[("tokenizer_config.json", config)], 8)
    };
    let ids = |tokenizer: Tokenizer| tokenizer.encode_with_special_tokens("ab").unwrap();
    assert_eq!(ids(config(true.into(), "LlamaTokenizerFast")), [2, 0, 1]);
    assert_eq!(ids(config(false.into(), "LlamaTokenizerFast")), [0, 1]);
    assert_eq!(ids(config(Value::Null, "LlamaTokenizerFast")), [0, 1]);
    assert_eq!(config(true.into(), "X").encode("ab").unwrap(), [0, 1]);
}

#[test]
fn files_that_are_not_what_their_name_says_are_named() {
    for (name, text) in [
        ("tokenizer_config.json", "["),
        ("special_tokens_map.json", "7"),
        ("added_tokens.json", "[\"a\", 1]"),
        ("generation_config.json", "{\"do_sample\": true, \"top_p\": \"wide\"}"),
    ] {
        let error = Settings::read(&files(&[(name, text.into())]), Path::new("m")).unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
    }
}

#[test]
fn the_template_and_the_ends_are_found_wherever_they_stand() {
    let template = |all: &[(&str, Value)]| settings(all).template().map(|(t, _)| t.to_owned());
    let config = json!({"chat_template": "config"});
    let processor = json!({"chat_template": "processor"});
    let all = [
        ("chat_template.jinja", json!("own")),
        ("tokenizer_config.json", config),
        ("chat_template.json", processor),
    ];
    assert_eq!(template(&all).as_deref(), Some("own"));
    assert_eq!(template(&all[1..]).as_deref(), Some("config"));
    assert_eq!(template(&all[2..]).as_deref(), Some("processor"));
    assert_eq!(template(&[]), None);
    let both = settings(&[
        ("tokenizer_config.json", json!({"eos_token": "<|x|>"})),
        ("special_tokens_map.json", json!({"eos_token": {"content": "<s>"}})),
    ]);
    assert_eq!(both.eos_spellings, ["<|x|>", "<s>"]);
    assert_eq!(both.tokens["eos_token"], "<|x|>");
}

#[test]
fn a_template_says_which_token_ends_a_turn() {
    let tokenizer = opened(&[], 8);
    let end = |source: &str| {
        ChatTemplate::from_source(source, Map::new()).unwrap().end_of_turn(&tokenizer)
    };
    assert_eq!(end(&CHATML.replace("<|im_end|>", "<|x|>")), Some(3));
    assert_eq!(
        end("{% for m in messages %}{{ m.role }}: {{ m.content }} <|x|>{% endfor %}"),
        Some(3)
    );
    assert_eq!(end("{% for m in messages %}<|x|>{{ m.content }}\n{% endfor %}"), None);
    assert_eq!(end("{{ raise_exception('no') }}"), None);
}

#[test]
fn seed_coders_format_is_the_same_as_a_template() {
    let template = ChatTemplate::from_source(SEED_CODER_TEMPLATE, Map::new()).unwrap();
    let turns = [
        Message::new("system", "Be brief."),
        Message::new("user", "hi\n"),
        Message::new("assistant", "ho"),
    ];
    for (n, add_generation_prompt) in [(1, true), (2, true), (3, false), (3, true)] {
        let options = RenderOptions { add_generation_prompt, ..Default::default() };
        let ours = ChatTemplate::seed_coder().render(&turns[..n], &options).unwrap();
        assert_eq!(template.render(&turns[..n], &options).unwrap(), ours);
    }
}

#[test]
fn json_in_templates_is_what_python_writes() {
    let messages: Vec<Message> = serde_json::from_str(
        r#"[{"content": "h\"i\u0001\u007fé😀/", "role": "user", "b": {"z": 1, "a": [1.0, 1e16, true, null]}}]"#,
    )
    .unwrap();
    let render = |source: &str| {
        let template = ChatTemplate::from_source(source, Map::new()).unwrap();
        template.render(&messages, &RenderOptions::default()).unwrap()
    };
    // Python 3: json.dumps(messages[0], ensure_ascii=False), and so on.
    for (source, expected) in [
        (
            "{{ messages[0] | tojson }}",
            "{\"content\": \"h\\\"i\\u0001\u{7f}é😀/\", \"role\": \"user\", \"b\": {\"z\": 1, \"a\": [1.0, 1e+16, true, null]}}",
        ),
        (
            "{{ messages[0].content | tojson(ensure_ascii=true) }}",
            "\"h\\\"i\\u0001\u{7f}\\u00e9\\ud83d\\ude00/\"",
        ),
        (
            "{{ messages[0].content | tojson(true) }}",
            "\"h\\\"i\\u0001\u{7f}\\u00e9\\ud83d\\ude00/\"",
        ),
        (
            "{{ messages[0].b | tojson(sort_keys=true) }}",
            "{\"a\": [1.0, 1e+16, true, null], \"z\": 1}",
        ),
        (
            "{{ messages[0].b | tojson(indent=1) }}",
            "{\n \"z\": 1,\n \"a\": [\n  1.0,\n  1e+16,\n  true,\n  null\n ]\n}",
        ),
        (
            "{{ messages[0].b | tojson(indent=0) }}",
            "{\n\"z\": 1,\n\"a\": [\n1.0,\n1e+16,\ntrue,\nnull\n]\n}",
        ),
        (
            "{{ messages[0].b | tojson(indent='\t') }}",
            "{\n\t\"z\": 1,\n\t\"a\": [\n\t\t1.0,\n\t\t1e+16,\n\t\ttrue,\n\t\tnull\n\t]\n}",
        ),
        ("{{ {} | tojson(indent=2) }}{{ [] | tojson(indent=2) }}", "{}[]"),
        (
            "{{ {1: 2, none: 3, false: 4} | tojson(separators=(',', ':')) }}",
            "{\"1\":2,\"null\":3,\"false\":4}",
        ),
        ("{{ '<a & b>' | tojson }}", "\"<a & b>\""),
        ("{% for key in messages[0] %}{{ key }},{% endfor %}", "content,role,b,"),
    ] {
        assert_eq!(render(source), expected, "{source}");
    }
}

#[test]
fn templates_see_messages_and_tools_as_they_were_given() {
    let messages: Vec<Message> = serde_json::from_str(
        r#"[{"role": "assistant", "content": null, "tool_calls": [{"name": "f", "arguments": {"y": 1, "x": 2}}]},
            {"role": "tool"}, {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]"#,
    )
    .unwrap();
    assert_eq!(
        [&*messages[0].content, &*messages[1].content, &*messages[2].content],
        ["", "", "ab"]
    );
    let source = "{{ messages[0].content is none }} {{ messages[1].content is defined }} {{ messages[2].content }} \
                  {{ messages[0].tool_calls | tojson }} {{ tools is none }} {{ documents is none }} {{ tools | tojson }}";
    let template = ChatTemplate::from_source(source, Map::new()).unwrap();
    let plain = template.render(&messages, &RenderOptions::default()).unwrap();
    let calls = r#"[{"name": "f", "arguments": {"y": 1, "x": 2}}]"#;
    assert_eq!(plain, format!("True False ab {calls} True True null"));
    let tools: Tools =
        serde_json::from_str(r#"[{"type": "function", "function": {"b": 1, "a": 2}}]"#).unwrap();
    let options = RenderOptions { tools: Some(tools), ..Default::default() };
    let with = template.render(&messages, &options).unwrap();
    assert!(
        with.ends_with(r#"False True [{"type": "function", "function": {"b": 1, "a": 2}}]"#),
        "{with}"
    );
    let wrong = serde_json::from_str::<Message>(r#"{"role": "user", "content": 7}"#).unwrap_err();
    assert!(
        wrong.to_string().contains("\"content\" is expected to be text, null or a list"),
        "{wrong}"
    );
}

#[test]
fn a_checkpoint_gets_what_loaders_look_for_and_loses_what_runs_code() {
    let mut side = files(&[("modeling.py", "print()".into())]);
    let tokenizer = opened(&[], 8);
    let tokens = [("bos_token", Some(2)), ("eos_token", Some(3)), ("pad_token", None)];
    let facts = Facts { tokens: &tokens, eos: &[3, 0], max_positions: 64, template: Some("t") };
    side.remove_code();
    side.complete(&tokenizer, &facts);
    assert!(side.get("modeling.py").is_none());
    let read = |name: &str| serde_json::from_str::<Value>(side.text(name).unwrap()).unwrap();
    let config = read("tokenizer_config.json");
    assert_eq!([&config["bos_token"], &config["eos_token"]], ["<s>", "<|x|>"]);
    assert_eq!(
        [&config["chat_template"], &config["tokenizer_class"]],
        ["t", "PreTrainedTokenizerFast"]
    );
    assert_eq!(read("generation_config.json"), json!({"bos_token_id": 2, "eos_token_id": [3, 0]}));
    let config = json!({"auto_map": {"AutoTokenizer": ["x.Y", null]}, "tokenizer_class": "Y", "chat_template": "own"});
    let mut side =
        files(&[("tokenizer_config.json", config), ("generation_config.json", json!({"a": 1}))]);
    side.remove_code();
    side.complete(&tokenizer, &facts);
    let config: Value = serde_json::from_str(side.text("tokenizer_config.json").unwrap()).unwrap();
    assert_eq!(
        config,
        json!({"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": "own"})
    );
    assert_eq!(side.text("generation_config.json"), Some("{\"a\":1}"));
    assert!(side.get("chat_template.jinja").is_none());
}

//! Reads conversations as others write them down: what the assistant says is learnt, the rest is
//! counted and named.

use lacuna_data::corpus::{Reason, Skipped};
use lacuna_data::{ChatOptions, ChatPacking, Packed, PackedChat, pack_chat};
use lacuna_text::{ChatTemplate, Tokenizer};
use serde_json::{Map, Value, json};
use std::path::Path;
use std::sync::LazyLock;

static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| {
    let file =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/tokenizer/tokenizer.json");
    Tokenizer::from_file(file).unwrap()
});

fn pack(
    template: &ChatTemplate,
    name: &str,
    bytes: &[u8],
) -> Result<(Packed, Skipped), lacuna_data::Error> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    let options = ChatOptions {
        pad: 1,
        seed: 7,
        packing: ChatPacking::RunOn,
        ..ChatOptions::new(template, &TOKENIZER, 2, 64.try_into().unwrap())
    };
    let PackedChat { train, skipped, .. } = pack_chat(&[path], &options)?;
    Ok((train, skipped))
}

/// The part of the records that is learnt, ends of text as `|`, and what was passed over.
fn learnt(records: &[Value]) -> (String, Skipped) {
    let lines: Vec<String> = records.iter().map(Value::to_string).collect();
    let (packed, skipped) =
        pack(&ChatTemplate::seed_coder(), "a.jsonl", lines.join("\n").as_bytes()).unwrap();
    (supervised(&packed), skipped)
}

fn supervised(packed: &Packed) -> String {
    let windows = (0..packed.windows()).map(|index| packed.window(index));
    let ids: Vec<u32> = windows
        .flat_map(|window| {
            let pairs = window.tokens.into_iter().zip(window.eligible);
            pairs.filter(|(_, eligible)| *eligible).map(|(id, _)| id).collect::<Vec<_>>()
        })
        .collect();
    let mut text = TOKENIZER.decode_with_special_tokens(&ids).unwrap();
    text = text.replace("<[end▁of▁sentence]>", "|");
    while text.contains("||") {
        text = text.replace("||", "|");
    }
    text
}

#[test]
fn every_usual_form_of_a_conversation_is_learnt() {
    let forms = [
        json!({"messages": [{"role": "user", "content": "2+2"}, {"role": "assistant", "content": "four"}]}),
        json!({"conversations": [{"from": "human", "value": "2+2"}, {"from": "gpt", "value": "four"}],
            "system": "Add."}),
        json!({"prompt": "2+2", "completion": "four"}),
        json!({"prompt": [{"role": "user", "content": "2+2"}],
            "completion": [{"role": "assistant", "content": "four"}]}),
        json!({"instruction": "Add.", "input": "2+2", "output": "four"}),
        json!({"instruction": "Add 2 and 2.", "input": "", "output": "four", "history": [["1+1", "two"]]}),
        json!({"messages": [{"role": "developer", "content": [{"type": "text", "text": "Add."}]},
            {"role": "user", "content": [{"type": "text", "text": "2+"}, {"type": "text", "text": "2"}]},
            {"role": "assistant", "content": "four", "name": "x", "audio": null}]}),
    ];
    for form in forms {
        let (text, skipped) = learnt(std::slice::from_ref(&form));
        let expected = if form.get("history").is_some() { "two|four|" } else { "four|" };
        assert_eq!((text.as_str(), skipped.is_empty()), (expected, true), "{form} {skipped}");
    }
}

fn with_calls(content: Option<Value>) -> Value {
    let call =
        json!({"id": "c1", "type": "function", "function": {"name": "price", "arguments": "{}"}});
    let mut turn = json!({"role": "assistant", "tool_calls": [call]});
    if let Some(content) = content {
        turn["content"] = content;
    }
    json!({"messages": [{"role": "user", "content": "price?"}, turn,
        {"role": "tool", "tool_call_id": "c1", "content": "3"}, {"role": "assistant", "content": "It is 3."}]})
}

#[test]
fn calls_of_tools_that_no_template_writes_are_counted_and_silence_is_not_learnt() {
    for content in [Some(Value::Null), None, Some(json!("")), Some(json!([]))] {
        let (text, skipped) = learnt(&[with_calls(content)]);
        assert_eq!(text, "It is 3.|");
        assert_eq!(skipped.places(Reason::ToolCall), ["a.jsonl:1 (turn 2)"]);
    }
    let (text, _) = learnt(&[with_calls(Some(json!("Let me see.")))]);
    assert_eq!(text, "Let me see.|It is 3.|");
}

#[test]
fn a_template_that_writes_calls_of_tools_gets_them() {
    let source = "{% for m in messages %}<{{ m.role }}>{{ m.content or '' }}\
        {% for c in m.tool_calls or [] %}[{{ c.function.name }}]{% endfor %};{% endfor %}\
        {% if add_generation_prompt %}<assistant>{% endif %}";
    let template = ChatTemplate::from_source(source, Map::new()).unwrap();
    let line = with_calls(Some(Value::Null)).to_string();
    let (packed, skipped) = pack(&template, "a.jsonl", line.as_bytes()).unwrap();
    assert!(skipped.is_empty(), "{skipped}");
    assert_eq!(supervised(&packed), "[price];It is 3.;|");
}

#[test]
fn turns_of_weight_0_are_seen_and_not_learnt() {
    let turns = |weights: [Value; 2]| {
        let [first, second] = weights;
        json!({"messages": [{"role": "user", "content": "a"},
            {"role": "assistant", "content": "one", "weight": first}, {"role": "user", "content": "b"},
            {"role": "assistant", "content": "two", "weight": second}]})
    };
    assert_eq!(learnt(&[turns([json!(0), json!(1)])]).0, "two|");
    assert_eq!(learnt(&[turns([json!(1), json!(0)])]).0, "one|");
    let (text, skipped) = learnt(&[turns([json!(0), json!(0)]), turns([json!(1), Value::Null])]);
    assert_eq!(text, "one|two|");
    assert_eq!(skipped.count(Reason::NothingSupervised), 1);
}

#[test]
fn what_cannot_be_learnt_is_named_with_line_and_turn() {
    let good = json!({"prompt": "a", "completion": "b"});
    let image = json!({"messages": [{"role": "user", "content": [{"type": "text", "text": "what?"},
        {"type": "image_url", "image_url": {"url": "x"}}]}, {"role": "assistant", "content": "a cat"}]});
    let records = [
        good,
        image,
        json!({"messages": [{"role": "user", "content": "a"}]}),
        json!({"messages": [{"content": "a"}, {"role": "assistant", "content": "b"}]}),
        json!({"messages": [{"role": "user", "content": {"a": 1}}]}),
        json!({"messages": []}),
        json!({"prompt": "a", "chosen": "b", "rejected": "c"}),
        json!({"text": "a"}),
        json!([1]),
    ];
    let (_, skipped) = learnt(&records);
    let expected = [(Reason::NoConversation, 7), (Reason::NotTrainable, 1)];
    assert_eq!(skipped.counts().collect::<Vec<_>>(), expected);
    assert_eq!(skipped.places(Reason::NotTrainable), ["a.jsonl:2 (turn 1: image_url)"]);
    let places = skipped.places(Reason::NoConversation);
    assert_eq!(places[0], "a.jsonl:3 (none of 1 turns is the assistant's)");
    assert_eq!(places[1], "a.jsonl:4 (turn 1: it has no role)");
}

#[test]
fn marks_nan_arrays_and_bad_lines_are_as_in_a_corpus() {
    let seed_coder = ChatTemplate::seed_coder();
    let line = r#"{"prompt": "a", "completion": "b", "score": NaN}"#;
    let lines = format!("\u{feff}{line}\r\n\n{line}\n{{\"prompt\": \"a\"");
    let (packed, skipped) = pack(&seed_coder, "a.jsonl", lines.as_bytes()).unwrap();
    assert_eq!((packed.documents(), skipped.count(Reason::NotJson)), (2, 1));
    let array = format!("[\n{line},\n{line}\n]");
    assert_eq!(pack(&seed_coder, "a.json", array.as_bytes()).unwrap().0.documents(), 2);
    let half = format!("{line}\n{}", line.replace("\"b\"", "\"\\ud83d\""));
    let (packed, skipped) = pack(&seed_coder, "a.jsonl", half.as_bytes()).unwrap();
    assert_eq!((packed.documents(), skipped.count(Reason::HalfCharacter)), (1, 1));
}

#[test]
fn files_without_a_conversation_say_what_was_expected() {
    let error = |text: &str| {
        pack(&ChatTemplate::seed_coder(), "a.jsonl", text.as_bytes()).unwrap_err().to_string()
    };
    let text = error("\n{\"text\": \"x\"}\n");
    for words in ["a.jsonl: line 2: a conversation is expected", "\"messages\"", "it has text"] {
        assert!(text.contains(words), "{text}");
    }
    assert!(error("").contains("no conversation"));
    assert!(error("\u{fffd}nonsense").contains("line 1"));
}

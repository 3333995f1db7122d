//! Decodes under regular expressions and JSON schemas with a random model: what ended matches, judged by others.

use std::num::NonZeroUsize;

use crate::support::tiny;
use lacuna_engine::{
    Algorithm, Completion, DraftSource, Engine, EngineOptions, Event, FillRule, FinishReason,
    GenerateOptions, Model, Pattern, Resolved, Sampling, generate,
};
use proptest::prelude::*;
use regex_automata::nfa::thompson::pikevm::PikeVM;
use serde_json::{Value, json};

/// Judges by simulation, without a determinized automaton.
fn matches(regex: &str, text: &str) -> bool {
    let judge = PikeVM::new(&format!(r"\A(?:{regex})\z")).unwrap();
    let mut cache = judge.create_cache();
    judge.is_match(&mut cache, text)
}

/// Expressions of letters, digits and marks, most of them short enough to be written whole.
fn expressions() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        "[a-z]{1,4}",
        "[0-9 =(:]".prop_map(|mark| mark.replace('(', r"\(")),
        Just("[a-f]".to_owned()),
        Just("[^x-z]".to_owned()),
        Just("é".to_owned()),
        Just(".".to_owned()),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 1..4).prop_map(|parts| parts.concat()),
            prop::collection::vec(inner.clone(), 1..4)
                .prop_map(|parts| format!("(?:{})", parts.join("|"))),
            (inner.clone(), 0usize..3, 0usize..3)
                .prop_map(|(part, least, more)| format!("(?:{part}){{{least},{}}}", least + more)),
            inner.prop_map(|part| format!("(?:{part})*")),
        ]
    })
}

fn rules() -> impl Strategy<Value = Option<FillRule>> {
    prop_oneof![
        Just(None),
        Just(Some(FillRule::LowConfidence)),
        Just(Some(FillRule::Random)),
        (0.0f64..=1.0).prop_map(|tau| Some(FillRule::Threshold { tau })),
    ]
}

prop_compose! {
    fn options()(
        fill in rules(), temperature in prop_oneof![Just(0.0), 0.5f64..2.0], seed in any::<u64>(),
        block_size in 1usize..9, causal in any::<bool>(), max_new_tokens in 1usize..40,
    ) -> GenerateOptions {
        GenerateOptions {
            fill,
            max_new_tokens,
            block_size: NonZeroUsize::new(block_size),
            algorithm: Some(if causal { Algorithm::Autoregressive } else { Algorithm::Blocks }),
            allow_mode_mismatch: true,
            sampling: Sampling { temperature, seed, ..Sampling::default() },
            ..GenerateOptions::default()
        }
    }
}

fn held(model: &Model, pattern: Pattern, options: &GenerateOptions) -> Completion {
    let options = GenerateOptions { pattern: Some(pattern), ..options.clone() };
    generate(model, vec![7, 8, 9, 10, 11], &options, |_| {}).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn a_text_that_ended_matches_its_expression(regex in expressions(), options in options()) {
        let model = tiny("tiny_untied");
        let written = held(&model, Pattern::Regex(regex.clone()), &options);
        match written.finish {
            FinishReason::Eos => {
                prop_assert!(matches(&regex, &written.text), "{} is none of {}", written.text, regex);
            }
            _ => prop_assert_eq!(written.finish, FinishReason::Length),
        }
    }

    #[test]
    fn a_text_that_ended_is_what_its_schema_asks_for(schema in schemas(), options in options()) {
        let model = tiny("tiny_untied");
        let options = GenerateOptions { max_new_tokens: 60, ..options };
        let written = held(&model, Pattern::JsonSchema(schema.to_string()), &options);
        if written.finish == FinishReason::Eos {
            let value: Value = serde_json::from_str(&written.text).unwrap();
            prop_assert!(accepts(&schema, &value), "{} is none of {}", value, schema);
        }
    }
}

/// Schemas of what the engine follows, with small bounds.
fn schemas() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!({"type": "null"})),
        Just(json!({"type": ["boolean", "null"]})),
        Just(json!({"enum": ["é\n", 12, null, "a.b"]})),
        Just(json!({"type": "integer"})),
        (0u64..3, 0u64..3).prop_map(
            |(least, more)| json!({"type": "string", "minLength": least, "maxLength": least + more})
        ),
    ];
    leaf.prop_recursive(2, 8, 3, |inner| {
        let properties = prop::collection::vec((inner.clone(), any::<bool>()), 0..3);
        prop_oneof![
            (inner.clone(), 0u64..2, 0u64..2).prop_map(|(items, least, more)| json!({
                "type": "array", "items": items, "minItems": least, "maxItems": least + more,
            })),
            prop::collection::vec(inner, 1..3).prop_map(|any| json!({ "anyOf": any })),
            properties.prop_map(|members| {
                let names = ["b", "a", "c"];
                let named = names.iter().zip(&members);
                let required: Vec<&str> = named
                    .clone()
                    .filter(|(_, (_, required))| *required)
                    .map(|(name, _)| *name)
                    .collect();
                let properties: serde_json::Map<String, Value> =
                    named.map(|(name, (schema, _))| ((*name).to_owned(), schema.clone())).collect();
                json!({"type": "object", "properties": properties, "required": required})
            }),
        ]
    })
}

/// Judges a value by a schema of [`schemas`].
fn accepts(schema: &Value, value: &Value) -> bool {
    if let Some(values) = schema["enum"].as_array() {
        return values.contains(value);
    }
    if let Some(any) = schema["anyOf"].as_array() {
        return any.iter().any(|schema| accepts(schema, value));
    }
    let within = |least: &str, most: &str, count: usize| {
        schema[least].as_u64().is_none_or(|least| count as u64 >= least)
            && schema[most].as_u64().is_none_or(|most| count as u64 <= most)
    };
    let is = |name: &str| match (name, value) {
        ("null", Value::Null) | ("boolean", Value::Bool(_)) => true,
        ("integer", Value::Number(number)) => !number.to_string().contains('.'),
        ("string", Value::String(text)) => within("minLength", "maxLength", text.chars().count()),
        ("array", Value::Array(items)) => {
            within("minItems", "maxItems", items.len())
                && items.iter().all(|item| accepts(&schema["items"], item))
        }
        ("object", Value::Object(members)) => {
            let required = schema["required"].as_array().unwrap();
            required.iter().all(|name| members.contains_key(name.as_str().unwrap()))
                && members.iter().all(|(name, value)| accepts(&schema["properties"][name], value))
        }
        _ => false,
    };
    match &schema["type"] {
        Value::Array(names) => names.iter().any(|name| is(name.as_str().unwrap())),
        name => is(name.as_str().unwrap()),
    }
}

#[test]
fn finite_patterns_end_in_every_mode_and_drafts_change_nothing_under_them() {
    let model = tiny("tiny_untied");
    let regex = "(?:def|class) [a-z]{3,8}(?:\\(\\))?:\n    (?:pass|return [0-9]{1,3})\n";
    for algorithm in [Algorithm::Blocks, Algorithm::Autoregressive] {
        for tau in [0.02, 0.5, 1.0] {
            for temperature in [0.0, 1.0] {
                let options = GenerateOptions {
                    algorithm: Some(algorithm),
                    allow_mode_mismatch: true,
                    block_size: NonZeroUsize::new(4),
                    fill: Some(FillRule::Threshold { tau }),
                    max_new_tokens: 100,
                    drafts: Some(DraftSource::None),
                    sampling: Sampling { temperature, seed: 3, ..Sampling::default() },
                    ..GenerateOptions::default()
                };
                let written = held(&model, Pattern::Regex(regex.into()), &options);
                assert_eq!(written.finish, FinishReason::Eos, "{algorithm:?} {tau}");
                assert!(matches(regex, &written.text), "{:?}", written.text);
                let drafting =
                    GenerateOptions { drafts: Some(DraftSource::Lookup), ..options.clone() };
                let again = held(&model, Pattern::Regex(regex.into()), &drafting);
                assert_eq!(again.tokens, written.tokens);
            }
        }
    }
}

#[test]
fn a_request_of_an_engine_keeps_to_its_pattern_beside_others() {
    let model = tiny("tiny_untied");
    let options = |pattern: Option<&str>| GenerateOptions {
        pattern: pattern.map(|regex| Pattern::Regex(regex.into())),
        max_new_tokens: 20,
        ..GenerateOptions::default()
    };
    let all = [options(Some("[0-9]{2,5}")), options(None), options(Some("(?:yes|no)"))];
    let mut engine = Engine::new(&model, EngineOptions::default());
    for options in &all {
        engine.push(Resolved::new(&model, vec![9; 6], options).unwrap()).unwrap();
    }
    let mut written = Vec::new();
    while !engine.is_empty() {
        for event in engine.step() {
            match event {
                Event::Finished { id, completion } => written.push((id, completion)),
                Event::Failed { error, .. } => panic!("{error}"),
                _ => {}
            }
        }
    }
    written.sort_by_key(|(id, _)| *id);
    for ((_, together), options) in written.iter().zip(&all) {
        let alone = generate(&model, vec![9; 6], options, |_| {}).unwrap();
        assert_eq!(together.tokens, alone.tokens);
    }
    assert!(matches("[0-9]{2,5}", &written[0].1.text), "{}", written[0].1.text);
    assert!(["yes", "no"].contains(&written[2].1.text.as_str()), "{}", written[2].1.text);
}

#[test]
fn what_can_not_be_kept_is_refused_with_a_sentence() {
    let model = tiny("tiny_untied");
    let pattern = || Some(Pattern::Regex("a+".into()));
    let said = |options: GenerateOptions| {
        Resolved::new(&model, vec![9; 6], &options).unwrap_err().to_string()
    };
    let default = GenerateOptions::default;
    let reference =
        GenerateOptions { algorithm: Some(Algorithm::Reference), pattern: pattern(), ..default() };
    assert!(said(reference).contains("released algorithm"));
    let stop = GenerateOptions { stop: vec!["x".into()], pattern: pattern(), ..default() };
    assert!(said(stop).contains("`pattern` and `stop`"));
    let least = GenerateOptions { min_new_tokens: 3, pattern: pattern(), ..default() };
    assert!(said(least).contains("`min_new_tokens`"));
    let endless = GenerateOptions { eos_ids: Some(Vec::new()), pattern: pattern(), ..default() };
    assert!(said(endless).contains("end-of-text"));
    let nothing =
        GenerateOptions { pattern: Some(Pattern::Regex("[^\\s\\S]".into())), ..default() };
    assert!(said(nothing).contains("some text matches"));
    let schema = Pattern::JsonSchema(r#"{"type": "object"}"#.into());
    let schema = GenerateOptions { pattern: Some(schema), ..default() };
    assert!(said(schema).contains("# allows values of any depth"));
}

//! Checks which tokens of a conversation are supervised.

use lacuna_data::Sample;
use lacuna_test::fixture;
use lacuna_test::talk::{TALK, prompt, tokenizer, turns};
use lacuna_text::{ChatTemplate, Message, RenderOptions};
use serde_json::Map;

#[test]
fn only_responses_are_supervised_with_the_end_of_their_turns() {
    let tokenizer = tokenizer();
    let chatml = ChatTemplate::from_folder(fixture("tokenizer/chatml")).unwrap().unwrap();
    for (template, expected) in [
        (ChatTemplate::seed_coder(), "1<[end▁of▁sentence]>2\n<[end▁of▁sentence]>"),
        (chatml, "1<|im_end|>\n2\n<|im_end|>\n"),
    ] {
        let mut talk = turns(&TALK);
        talk.push(Message::new("user", "Thanks"));
        let sample =
            Sample::from_chat(&template, &tokenizer, &talk, &RenderOptions::default()).unwrap();
        let flagged = sample.tokens.iter().zip(&sample.supervised);
        let supervised: Vec<u32> = flagged.filter(|pair| *pair.1).map(|pair| *pair.0).collect();
        assert_eq!(tokenizer.decode_with_special_tokens(&supervised).unwrap(), expected);
        let whole = template.render(&talk, &RenderOptions::default()).unwrap();
        assert_eq!(tokenizer.decode_with_special_tokens(&sample.tokens).unwrap(), whole);
    }
}

#[test]
fn the_end_of_a_sample_replaces_the_turn_s_own() {
    let tokenizer = tokenizer();
    let template = ChatTemplate::seed_coder();
    let talk = turns(&TALK[1..3]);
    let mut lengths = std::collections::BTreeSet::new();
    for number in 0..50 {
        let mut sample =
            Sample::from_chat(&template, &tokenizer, &talk, &RenderOptions::default()).unwrap();
        sample.end(2, 0, number);
        let ends = sample.tokens.iter().rev().take_while(|&&token| token == 2).count();
        lengths.insert(ends);
        assert!(sample.supervised.iter().rev().take(ends).all(|&supervised| supervised));
    }
    assert_eq!(lengths.into_iter().collect::<Vec<_>>(), [1, 2, 3, 4]);
}

#[test]
fn templates_that_rewrite_earlier_turns_cannot_make_samples() {
    let source = "{% for m in messages %}{% if loop.last or m.role == 'user' %}{{ m.content }}|\
                  {% endif %}{% endfor %}";
    let template = ChatTemplate::from_source(source, Map::new()).unwrap();
    let sample =
        Sample::from_chat(&template, &tokenizer(), &turns(&TALK), &RenderOptions::default());
    let message = sample.unwrap_err().to_string();
    assert!(message.contains("turn 2: the template writes earlier turns differently"), "{message}");
    let none =
        Sample::from_chat(&ChatTemplate::seed_coder(), &tokenizer(), &turns(&TALK[..2]), &prompt());
    assert!(none.unwrap_err().to_string().contains("none of 2 turns is the assistant's"));
}

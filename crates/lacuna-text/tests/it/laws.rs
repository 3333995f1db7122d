//! Holds tokens and streams to what must be so for any text.

use lacuna_text::{TextStream, Tokenizer};
use proptest::prelude::*;
use std::sync::LazyLock;

static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| fixture("tokenizer/tokenizer.json"));
static BYTE_FALLBACK: LazyLock<Tokenizer> =
    LazyLock::new(|| fixture("tokenizer/byte-fallback.json"));

fn fixture(path: &str) -> Tokenizer {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/");
    Tokenizer::from_file(format!("{root}{path}")).unwrap()
}

/// Text with much of what code holds and something of what it does not.
fn text() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        "[a-z_]{1,8}",
        "[ \t\r\n]{1,6}",
        "[0-9]{1,5}",
        "[(){};:=+.'\"#-]{1,4}",
        "\\PC{1,4}",
        Just("🙂".to_owned()),
        Just("e\u{301}".to_owned()),
        Just("<[MASK_TOKEN]>".to_owned()),
    ];
    prop::collection::vec(part, 0..30).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn decoding_returns_the_text(text in text()) {
        let ids = TOKENIZER.encode_ordinary(&text).unwrap();
        prop_assert!(!ids.iter().any(|&id| TOKENIZER.is_special(id)));
        prop_assert_eq!(&TOKENIZER.decode(&ids).unwrap(), &text);
        let lengths = TOKENIZER.token_bytes();
        let bytes: u32 = ids.iter().map(|&id| lengths[id as usize]).sum();
        prop_assert_eq!(bytes as usize, text.len());
    }

    #[test]
    fn a_text_that_goes_on_another_one_adds_itself_and_nothing_else(one in text(), other in text()) {
        prop_assume!(!one.is_empty() && !one.contains('▁') && !other.contains('▁'));
        for tokenizer in [&*TOKENIZER, &*BYTE_FALLBACK] {
            let mut ids = tokenizer.encode_ordinary(&one).unwrap();
            ids.extend(tokenizer.encode_behind(&other).unwrap());
            prop_assert_eq!(tokenizer.decode(&ids).unwrap(), format!("{}{}", one, other));
        }
    }

    #[test]
    fn streamed_pieces_join_to_the_whole(
        ids in prop::collection::vec(0u32..4100, 0..60), cuts in prop::collection::vec(1usize..5, 60),
        special in any::<bool>(),
    ) {
        // Any ids at all: most of these lists are not valid UTF-8.
        for tokenizer in [&*TOKENIZER, &*BYTE_FALLBACK] {
            let mut stream = match special {
                true => TextStream::with_special_tokens(tokenizer),
                false => TextStream::new(tokenizer),
            };
            let (mut text, mut rest) = (String::new(), ids.as_slice());
            for &cut in &cuts {
                let (now, later) = rest.split_at(cut.min(rest.len()));
                text += &stream.push(now).unwrap();
                rest = later;
            }
            text += &stream.finish().unwrap();
            let whole = match special {
                true => tokenizer.decode_with_special_tokens(&ids).unwrap(),
                false => tokenizer.decode(&ids).unwrap(),
            };
            prop_assert_eq!(text, whole);
        }
    }

    #[test]
    fn prompt_and_continuation_joined_are_what_the_tokens_say(text in text(), at in 0usize..60) {
        for tokenizer in [&*TOKENIZER, &*BYTE_FALLBACK] {
            let ids = tokenizer.encode_ordinary(&text).unwrap();
            let (prompt, new) = ids.split_at(at.min(ids.len()));
            let before = tokenizer.decode(prompt).unwrap();
            // A character that the prompt leaves unfinished has no text yet.
            if before.ends_with(char::REPLACEMENT_CHARACTER) {
                continue;
            }
            let mut stream = TextStream::after(tokenizer, prompt).unwrap();
            let mut after: String = new.iter().map(|&id| stream.push(&[id]).unwrap()).collect();
            after += &stream.held().unwrap();
            prop_assert_eq!(before + &after, tokenizer.decode(&ids).unwrap());
        }
    }

    #[test]
    fn streamed_text_comes_out_as_soon_as_it_is_whole(text in text()) {
        let ids = TOKENIZER.encode_ordinary(&text).unwrap();
        let mut stream = TextStream::new(&TOKENIZER);
        let pieces: Vec<_> = ids.iter().map(|&id| stream.push(&[id]).unwrap()).collect();
        prop_assert_eq!(pieces.concat(), text);
        prop_assert_eq!(stream.finish().unwrap(), "");
    }
}

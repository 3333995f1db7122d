//! Writes the vocabulary of a `tokenizer.json` as llama.cpp reads it.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value as Json;

use super::metadata::{Metadata, put_text};
use super::pre::Pre;
use super::tokenizer::WHOLE;
use crate::config::Config;

/// Writes the vocabulary, and the whole text besides.
///
/// Tokens are borrowed from the text and merges written as they are read: neither is held twice.
pub(super) fn describe(metadata: &mut Metadata, config: &Config, text: &str) -> Result<(), String> {
    let file: File<'_> = serde_json::from_str(text).map_err(|e| e.to_string())?;
    metadata.text(WHOLE, text);
    let model = &file.model;
    if model.kind.as_deref() != Some("BPE") || model.byte_fallback == Some(true) {
        // llama.cpp has no vocabulary model for this one; the whole text still serves us.
        return Ok(());
    }
    let mut tokens: Vec<Option<(&str, i32)>> = vec![None; config.vocab_size];
    let mut place = |token, id: u32, kind| -> Result<(), String> {
        let rows = config.vocab_size;
        let slot = usize::try_from(id).ok().and_then(|id| tokens.get_mut(id));
        *slot.ok_or_else(|| format!("has an id beyond the embedding's {rows} rows"))? =
            Some((token, kind));
        Ok(())
    };
    let vocabulary = model.vocab.as_ref().ok_or("has no vocabulary")?;
    for (token, id) in &vocabulary.0 {
        place(token, *id, 1)?;
    }
    for added in file.added_tokens.iter().flatten() {
        place(&added.content, added.id, if added.special { 3 } else { 4 })?;
    }
    let unused: Vec<String> = (0..tokens.len()).map(|id| format!("[PAD{id}]")).collect();
    let named: Vec<&str> = (0..tokens.len())
        .map(|id| tokens[id].map_or(unused[id].as_str(), |(token, _)| token))
        .collect();
    let kinds: Vec<i32> = tokens.iter().map(|slot| slot.map_or(5, |(_, kind)| kind)).collect();
    let pre = Pre::of(&file.pre_tokenizer).map_or("default", |pre| pre.names[0]);
    metadata.text("tokenizer.ggml.model", "gpt2");
    metadata.text("tokenizer.ggml.pre", pre);
    metadata.texts("tokenizer.ggml.tokens", &named);
    metadata.signed("tokenizer.ggml.token_type", &kinds);
    metadata.array("tokenizer.ggml.merges", 8, model.merges.count).extend(&model.merges.bytes);
    let adds_bos = file.post_processor["type"] == "TemplateProcessing";
    metadata.truth("tokenizer.ggml.add_bos_token", adds_bos);
    Ok(())
}

#[derive(Deserialize)]
struct File<'a> {
    #[serde(borrow)]
    added_tokens: Option<Vec<Added<'a>>>,
    #[serde(default)]
    pre_tokenizer: Json,
    #[serde(default)]
    post_processor: Json,
    #[serde(borrow)]
    model: Model<'a>,
}

#[derive(Deserialize)]
struct Added<'a> {
    id: u32,
    #[serde(borrow)]
    content: Cow<'a, str>,
    #[serde(default)]
    special: bool,
}

#[derive(Deserialize)]
struct Model<'a> {
    #[serde(rename = "type", borrow)]
    kind: Option<Cow<'a, str>>,
    byte_fallback: Option<bool>,
    #[serde(borrow)]
    vocab: Option<Vocabulary<'a>>,
    #[serde(default)]
    merges: Merges,
}

/// Tokens and their ids; empty if they are a list with scores.
struct Vocabulary<'a>(Vec<(Cow<'a, str>, u32)>);

#[derive(Deserialize)]
struct Token<'a>(#[serde(borrow)] Cow<'a, str>);

/// Merges as a GGUF file holds them.
#[derive(Default)]
struct Merges {
    count: usize,
    bytes: Vec<u8>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Merge<'a> {
    Line(#[serde(borrow)] Cow<'a, str>),
    Pair(#[serde(borrow)] Token<'a>, #[serde(borrow)] Token<'a>),
}

impl<'de: 'a, 'a> Deserialize<'de> for Vocabulary<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Vec<(Cow<'de, str>, u32)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("ids by token")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some((Token(token), id)) = map.next_entry()? {
                    entries.push((token, id));
                }
                Ok(entries)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Vec::new())
            }
        }
        from.deserialize_any(Entries).map(Vocabulary)
    }
}

impl<'de> Deserialize<'de> for Merges {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Lines;
        impl<'de> Visitor<'de> for Lines {
            type Value = Merges;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of merges")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Merges, A::Error> {
                let mut merges = Merges::default();
                while let Some(merge) = seq.next_element::<Merge<'de>>()? {
                    merges.count += 1;
                    match merge {
                        Merge::Line(line) => put_text(&mut merges.bytes, &line),
                        Merge::Pair(Token(left), Token(right)) => {
                            put_text(&mut merges.bytes, &format!("{left} {right}"));
                        }
                    }
                }
                Ok(merges)
            }
        }
        from.deserialize_seq(Lines)
    }
}

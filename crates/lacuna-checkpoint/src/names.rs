//! The ids of a few named tokens, found without building a tokenizer.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

/// The ids of the wanted tokens in the text of a `tokenizer.json`; none where the text is damaged, which whoever
/// builds the tokenizer says.
pub(crate) fn in_tokenizer(text: &str, wanted: &[&str]) -> Vec<Option<u32>> {
    let mut ids = vec![None; wanted.len()];
    let mut parser = serde_json::Deserializer::from_str(text);
    match (Level::Document.find(wanted, &mut ids)).deserialize(&mut parser) {
        Ok(()) => ids,
        Err(_) => vec![None; wanted.len()],
    }
}

/// The ids in the smaller files that may name added tokens: `added_tokens.json`, ids by token, and
/// `tokenizer_config.json`, tokens by id.
pub(crate) fn in_companion(text: &str, wanted: &[&str]) -> Vec<Option<u32>> {
    let map: Value = serde_json::from_str(text).unwrap_or_default();
    let listed = |name: &str| map.get(name).and_then(Value::as_u64);
    let decoded = |name: &str| {
        let tokens = map.get("added_tokens_decoder")?.as_object()?;
        let (id, _) = tokens.iter().find(|(_, token)| token["content"] == name)?;
        id.parse::<u64>().ok()
    };
    let id = |name: &&str| listed(name).or_else(|| decoded(name));
    wanted.iter().map(|name| id(name).and_then(|id| u32::try_from(id).ok())).collect()
}

/// Where in a `tokenizer.json` the parser is.
#[derive(Clone, Copy)]
enum Level {
    Document,
    Model,
    Vocabulary,
    Added,
}

impl Level {
    fn find<'a>(self, wanted: &'a [&'a str], ids: &'a mut [Option<u32>]) -> Finder<'a> {
        Finder { level: self, wanted, ids }
    }
}

struct Finder<'a> {
    level: Level,
    wanted: &'a [&'a str],
    ids: &'a mut [Option<u32>],
}

impl Finder<'_> {
    fn inner(&mut self, level: Level) -> Finder<'_> {
        Finder { level, wanted: self.wanted, ids: self.ids }
    }

    fn note(&mut self, token: &str, id: Option<u64>) {
        if let Some(place) = self.wanted.iter().position(|name| *name == token) {
            self.ids[place] = id.and_then(|id| u32::try_from(id).ok()).or(self.ids[place]);
        }
    }
}

impl<'de> DeserializeSeed<'de> for Finder<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Finder<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a part of a tokenizer")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            match (self.level, key.as_ref()) {
                (Level::Document, "model") => map.next_value_seed(self.inner(Level::Model))?,
                (Level::Document, "added_tokens") => {
                    map.next_value_seed(self.inner(Level::Added))?
                }
                (Level::Model, "vocab") => map.next_value_seed(self.inner(Level::Vocabulary))?,
                (Level::Vocabulary, token) if self.wanted.contains(&token) => {
                    let id: Value = map.next_value()?;
                    self.note(token, id.as_u64());
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<(), A::Error> {
        if !matches!(self.level, Level::Added) {
            // A vocabulary with scores has its ids in order.
            let mut id = 0;
            while let Some(entry) = seq.next_element::<Value>()? {
                if let Some(token) = entry[0].as_str() {
                    self.note(token, Some(id));
                }
                id += 1;
            }
            return Ok(());
        }
        while let Some(token) = seq.next_element::<Value>()? {
            if let Some(content) = token["content"].as_str() {
                self.note(content, token["id"].as_u64());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_found_wherever_a_tokenizer_names_them() {
        let wanted = ["a", "<m>", "none", "é"];
        let bpe = r#"{"added_tokens":[{"id":9,"content":"<m>"}],"normalizer":null,
            "model":{"type":"BPE","vocab":{"a":3,"\u00e9":4,"<m>":1},"merges":[["a","b"]]}}"#;
        assert_eq!(in_tokenizer(bpe, &wanted[..1]), [Some(3)]);
        assert_eq!(in_tokenizer(bpe, &wanted)[3], Some(4), "spelt out in the file");
        let unigram = r#"{"model":{"type":"Unigram","vocab":[["x",0.0],["a",-1.5]]},
            "added_tokens":[{"id":9,"content":"<m>"}]}"#;
        assert_eq!(in_tokenizer(unigram, &wanted), [Some(1), Some(9), None, None]);
        assert_eq!(in_tokenizer("{\"model\":", &wanted), [None; 4]);
        assert_eq!(in_companion(r#"{"<m>":7}"#, &wanted)[1], Some(7));
        let decoder = r#"{"added_tokens_decoder":{"8":{"content":"<m>"}}}"#;
        assert_eq!(in_companion(decoder, &wanted)[1], Some(8));
    }
}

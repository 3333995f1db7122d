//! Finds the ids of a few named tokens without building a tokenizer.

use lacuna_files::json::{self, Json, Stop};
use serde_json::Value;

/// The ids of the wanted tokens in the text of a `tokenizer.json`; `None` for all if the text is damaged, which
/// whoever builds the tokenizer says.
pub(crate) fn in_tokenizer(text: &str, wanted: &[&str]) -> Vec<Option<u32>> {
    let mut found = Found { wanted, ids: vec![None; wanted.len()] };
    let read = json::read(text.as_bytes(), |document| {
        document.object("a tokenizer")?.each(|key, part| match &*key {
            "model" => part.read(|model| match model {
                Json::Object(model) => model.each(|key, part| match &*key {
                    "vocab" => part.read(|vocabulary| found.in_vocabulary(vocabulary)),
                    _ => Ok(()),
                }),
                _ => Ok(()),
            }),
            "added_tokens" => part.read(|tokens| found.in_added(tokens)),
            _ => Ok(()),
        })
    });
    match read {
        Ok(()) => found.ids,
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

/// The wanted tokens, and the ids that are known so far.
struct Found<'a> {
    wanted: &'a [&'a str],
    ids: Vec<Option<u32>>,
}

impl Found<'_> {
    fn note(&mut self, token: &str, id: Option<u64>) {
        if let Some(place) = self.wanted.iter().position(|name| *name == token) {
            self.ids[place] = id.and_then(|id| u32::try_from(id).ok()).or(self.ids[place]);
        }
    }

    fn in_vocabulary(&mut self, vocabulary: Json<'_, '_>) -> Result<(), Stop> {
        match vocabulary {
            Json::Object(ids) => ids.each(|token, id| {
                if self.wanted.contains(&&*token) {
                    self.note(&token, id.value()?.as_u64());
                }
                Ok(())
            }),
            // A vocabulary with scores has its ids in order.
            Json::List(tokens) => {
                let mut id = 0;
                tokens.each(|entry| {
                    if let Some(token) = entry.value()?[0].as_str() {
                        self.note(token, Some(id));
                    }
                    id += 1;
                    Ok(())
                })
            }
            _ => Ok(()),
        }
    }

    fn in_added(&mut self, tokens: Json<'_, '_>) -> Result<(), Stop> {
        let Json::List(tokens) = tokens else { return Ok(()) };
        tokens.each(|token| {
            let token = token.value()?;
            if let Some(content) = token["content"].as_str() {
                self.note(content, token["id"].as_u64());
            }
            Ok(())
        })
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

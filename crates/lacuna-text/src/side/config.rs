//! `tokenizer_config.json` read in one pass: template, special tokens, added tokens; the rest is passed over.

use serde::de::{
    DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::fmt;
use std::io::ErrorKind;
use std::path::Path;

use crate::error::Result;

/// Far more than any template or `tokenizer_config.json` has.
pub(crate) const LONGEST_SIDE_FILE: u64 = 16 << 20;
const MOST_TOKENS: usize = 256;
/// As in `tokenizer.json`.
const MOST_ADDED: usize = 1 << 15;
const MOST_ADDED_TEXT: usize = 1 << 19;

/// What `tokenizer_config.json` says that anything here needs.
#[derive(Debug, Default)]
pub(crate) struct TokenizerConfig {
    pub(crate) template: Listed,
    /// `bos_token`, `eos_token`, …, and how they are spelt.
    pub(crate) tokens: Map<String, Value>,
    /// `additional_special_tokens`.
    pub(crate) special: Vec<String>,
    /// `added_tokens_decoder`, if it is there; without an id where the key is none.
    pub(crate) added: Option<Vec<(Option<u32>, Added)>>,
    pub(crate) class: Option<String>,
    pub(crate) add_bos: Option<bool>,
}

/// A token as `added_tokens_decoder` describes it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Added {
    pub(crate) content: String,
    pub(crate) single_word: bool,
    pub(crate) lstrip: bool,
    pub(crate) rstrip: bool,
    pub(crate) normalized: bool,
    pub(crate) special: bool,
}

/// Reads `tokenizer_config.json` or `special_tokens_map.json`, holding no more of it than is wanted.
pub(crate) fn tokenizer_config(text: &str) -> serde_json::Result<TokenizerConfig> {
    let mut from = serde_json::Deserializer::from_str(text);
    let config = ConfigSeed.deserialize(&mut from)?;
    from.end().map(|()| config)
}

/// The text of a small file of a checkpoint; `None` where there is none.
pub(crate) fn read_if_there(path: &Path) -> Result<Option<String>> {
    match lacuna_files::read_text(path, LONGEST_SIDE_FILE) {
        Err(lacuna_files::Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
            Ok(None)
        }
        text => Ok(Some(text?)),
    }
}

/// What stands under `chat_template`: a text, or a list of named ones.
#[derive(Debug, Default)]
pub(crate) enum Listed {
    #[default]
    Nothing,
    /// The text, or the one of the list that is called "default".
    Text(String),
    WithoutDefault,
    Other,
}

/// What is neither of the forms that a visitor is for counts as nothing.
macro_rules! nothing_else {
    ($nothing:expr) => {
        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok($nothing)
        }

        fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
            Ok($nothing)
        }

        fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
            Ok($nothing)
        }

        fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
            Ok($nothing)
        }
    };
}

struct ConfigSeed;

impl<'de> DeserializeSeed<'de> for ConfigSeed {
    type Value = TokenizerConfig;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<TokenizerConfig, D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for ConfigSeed {
    type Value = TokenizerConfig;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<TokenizerConfig, A::Error> {
        let mut config = TokenizerConfig::default();
        while let Some(key) = map.next_key::<Cow<'_, str>>()? {
            if key == "chat_template" {
                config.template = map.next_value_seed(TemplateSeed)?;
            } else if key == "added_tokens_decoder" {
                config.added = map.next_value_seed(DecoderSeed)?;
            } else if key == "additional_special_tokens" {
                config.special = map.next_value_seed(SpellingsSeed)?;
            } else if key == "tokenizer_class" {
                config.class = map.next_value_seed(SpellingSeed { field: "" })?;
            } else if key == "add_bos_token" {
                config.add_bos = map.next_value_seed(TruthSeed)?;
            } else if key.ends_with("_token") {
                let Some(spelling) = map.next_value_seed(SpellingSeed { field: "content" })? else {
                    continue;
                };
                if config.tokens.len() == MOST_TOKENS {
                    let reason = format!("over {MOST_TOKENS} special tokens are named");
                    return Err(A::Error::custom(reason));
                }
                config.tokens.insert(key.into_owned(), spelling.into());
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(config)
    }
}

struct TemplateSeed;

impl<'de> DeserializeSeed<'de> for TemplateSeed {
    type Value = Listed;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Listed, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for TemplateSeed {
    type Value = Listed;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a chat template")
    }

    fn visit_unit<E>(self) -> Result<Listed, E> {
        Ok(Listed::Nothing)
    }

    fn visit_str<E>(self, text: &str) -> Result<Listed, E> {
        Ok(Listed::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Listed, A::Error> {
        let mut found = Listed::WithoutDefault;
        while let Some(entry) = seq.next_element_seed(NamedSeed)? {
            if let (Listed::WithoutDefault, Some(text)) = (&found, entry) {
                found = Listed::Text(text);
            }
        }
        Ok(found)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Listed, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Listed::Other)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Listed, E> {
        Ok(Listed::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Listed, E> {
        Ok(Listed::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Listed, E> {
        Ok(Listed::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Listed, E> {
        Ok(Listed::Other)
    }
}

/// The text of `{"name": "default", "template": …}`.
struct NamedSeed;

impl<'de> DeserializeSeed<'de> for NamedSeed {
    type Value = Option<String>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for NamedSeed {
    type Value = Option<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with name and template")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut is_default, mut template) = (false, None);
        while let Some(key) = map.next_key::<Cow<'_, str>>()? {
            match &*key {
                "name" => is_default = map.next_value::<Cow<'_, str>>()? == "default",
                "template" => template = Some(map.next_value::<String>()?),
                _ => _ = map.next_value::<IgnoredAny>()?,
            }
        }
        Ok(template.filter(|_| is_default))
    }
}

/// A text, or the one under a field of an object; nothing of anything else.
struct SpellingSeed {
    field: &'static str,
}

impl<'de> DeserializeSeed<'de> for SpellingSeed {
    type Value = Option<String>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for SpellingSeed {
    type Value = Option<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a token")
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Some(text.to_owned()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(key) = map.next_key::<Cow<'_, str>>()? {
            // Under the field only a text counts.
            let seed = SpellingSeed { field: "" };
            match key == self.field {
                true => found = map.next_value_seed(seed)?,
                false => _ = map.next_value::<IgnoredAny>()?,
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    nothing_else!(None);
}

/// The tokens of `added_tokens_decoder`, by id; fields that are none are passed over.
struct DecoderSeed;

impl<'de> DeserializeSeed<'de> for DecoderSeed {
    type Value = Option<Vec<(Option<u32>, Added)>>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for DecoderSeed {
    type Value = Option<Vec<(Option<u32>, Added)>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("tokens by id")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut added, mut text) = (Vec::new(), 0);
        while let Some(key) = map.next_key::<Cow<'_, str>>()? {
            let Some(token) = map.next_value_seed(AddedSeed)? else { continue };
            let id = key.trim().parse::<u32>().ok();
            text += token.content.len();
            if added.len() == MOST_ADDED || text > MOST_ADDED_TEXT {
                let reason = format!(
                    "over {MOST_ADDED} added tokens, or over {MOST_ADDED_TEXT} bytes of them"
                );
                return Err(A::Error::custom(reason));
            }
            added.push((id, token));
        }
        added.sort_by_key(|(id, _)| *id);
        Ok(Some(added))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    nothing_else!(None);
}

/// A token with its flags, or its spelling alone; nothing of anything else.
struct AddedSeed;

impl<'de> DeserializeSeed<'de> for AddedSeed {
    type Value = Option<Added>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for AddedSeed {
    type Value = Option<Added>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a token")
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Some(Added { content: text.to_owned(), special: true, ..Added::default() }))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut token = Added::default();
        while let Some(key) = map.next_key::<Cow<'_, str>>()? {
            let flag = match &*key {
                "single_word" => &mut token.single_word,
                "lstrip" => &mut token.lstrip,
                "rstrip" => &mut token.rstrip,
                "normalized" => &mut token.normalized,
                "special" => &mut token.special,
                "content" => {
                    token.content =
                        map.next_value_seed(SpellingSeed { field: "" })?.unwrap_or_default();
                    continue;
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            *flag = map.next_value_seed(TruthSeed)?.unwrap_or_default();
        }
        Ok(Some(token))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    nothing_else!(None);
}

/// The spellings in a list of tokens.
struct SpellingsSeed;

impl<'de> DeserializeSeed<'de> for SpellingsSeed {
    type Value = Vec<String>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for SpellingsSeed {
    type Value = Vec<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of tokens")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut all = Vec::new();
        while let Some(spelling) = seq.next_element_seed(SpellingSeed { field: "content" })? {
            all.extend(spelling.filter(|_| all.len() < MOST_ADDED));
        }
        Ok(all)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Vec::new())
    }

    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        Ok(Vec::new())
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Vec::new())
    }

    nothing_else!(Vec::new());
}

/// A truth, or nothing.
struct TruthSeed;

impl<'de> DeserializeSeed<'de> for TruthSeed {
    type Value = Option<bool>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for TruthSeed {
    type Value = Option<bool>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("true or false")
    }

    fn visit_bool<E>(self, truth: bool) -> Result<Self::Value, E> {
        Ok(Some(truth))
    }

    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    nothing_else!(None);
}

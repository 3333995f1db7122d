//! The chat template in a model's folder, and the special tokens that it may name.

use serde::de::{
    DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result, io_error};

/// Far more than any template or `tokenizer_config.json` has.
const LONGEST: u64 = 16 << 20;
const MOST_TOKENS: usize = 256;

/// A template's text, where it stood, and the special tokens of `tokenizer_config.json`.
pub(super) struct Found {
    pub(super) source: String,
    pub(super) file: PathBuf,
    pub(super) tokens: Map<String, Value>,
}

/// `chat_template.jinja`, else the template in `tokenizer_config.json`, if there is one.
pub(super) fn in_folder(folder: &Path) -> Result<Option<Found>> {
    let file = folder.join("tokenizer_config.json");
    let fault = |reason: String| Error::Template(reason).in_file(&file);
    let config = match read_if_there(&file)? {
        None => TokenizerConfig::default(),
        Some(text) => {
            let mut from = serde_json::Deserializer::from_str(&text);
            let config = ConfigSeed.deserialize(&mut from);
            let config = config.and_then(|config| from.end().map(|()| config));
            config.map_err(|error| fault(format!("not a tokenizer_config.json ({error})")))?
        }
    };
    let TokenizerConfig { template, tokens } = config;
    let own = folder.join("chat_template.jinja");
    if let Some(source) = read_if_there(&own)? {
        return Ok(Some(Found { source, file: own, tokens }));
    }
    match template {
        Listed::Nothing => Ok(None),
        Listed::Text(source) => Ok(Some(Found { source, file, tokens })),
        Listed::WithoutDefault => {
            Err(fault("none of the templates listed is called \"default\"".to_owned()))
        }
        Listed::Other => Err(fault("\"chat_template\" is neither text nor a list".to_owned())),
    }
}

fn read_if_there(path: &Path) -> Result<Option<String>> {
    let metadata = match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(io_error(path, "read"))?,
    };
    let fault = |reason: String| Err(Error::Template(reason).in_file(path));
    if !metadata.is_file() {
        // No pipe to wait on, no device without end.
        return fault("is no regular file".to_owned());
    }
    let mut text = String::with_capacity(metadata.len().min(LONGEST) as usize + 1);
    let file = std::fs::File::open(path).map_err(io_error(path, "read"))?;
    file.take(LONGEST + 1).read_to_string(&mut text).map_err(io_error(path, "read"))?;
    if text.len() as u64 > LONGEST {
        return fault(format!("is longer than {LONGEST} bytes, the most that is read of it"));
    }
    Ok(Some(text))
}

/// What is wanted of `tokenizer_config.json`.
#[derive(Default)]
struct TokenizerConfig {
    template: Listed,
    tokens: Map<String, Value>,
}

/// What stands under `chat_template`: a text, or a list of named ones.
#[derive(Default)]
enum Listed {
    #[default]
    Nothing,
    /// The text, or the one of the list that is called "default".
    Text(String),
    WithoutDefault,
    Other,
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

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }
}

//! Reads `tokenizer_config.json` in one pass: template, special tokens, added tokens; the rest is
//! passed over.

use lacuna_files::json::{self, Json, Stop};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::io::ErrorKind;
use std::path::Path;

use crate::error::Result;

/// Far more than any template or `tokenizer_config.json` has.
pub(crate) const LONGEST_SIDE_FILE: u64 = 16 << 20;
const MOST_TOKENS: usize = 256;
/// As in `tokenizer.json`.
const MOST_ADDED: usize = 1 << 15;
const MOST_ADDED_TEXT: usize = 1 << 19;

/// The part of `tokenizer_config.json` that anything here needs.
#[derive(Debug, Default)]
pub(crate) struct TokenizerConfig {
    pub(crate) template: Listed,
    /// `bos_token`, `eos_token`, …, and how they are spelt.
    pub(crate) tokens: Map<String, Value>,
    /// `additional_special_tokens`.
    pub(crate) special: Vec<String>,
    /// `added_tokens_decoder`, if it is there; without an id where the key is none.
    pub(crate) added: Option<AddedById>,
    pub(crate) class: Option<String>,
    pub(crate) add_bos: Option<bool>,
}

pub(crate) type AddedById = Vec<(Option<u32>, Added)>;

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
    json::read(text.as_bytes(), |document| {
        let mut config = TokenizerConfig::default();
        document.object("a JSON object")?.each(|key, value| {
            match &*key {
                "chat_template" => config.template = value.read(listed)?,
                "added_tokens_decoder" => config.added = value.read(decoder)?,
                "additional_special_tokens" => config.special = value.read(spellings)?,
                "tokenizer_class" => config.class = value.text()?.map(Cow::into_owned),
                "add_bos_token" => config.add_bos = value.truth()?,
                key if key.ends_with("_token") => {
                    let Some(spelling) = value.read(spelling)? else { return Ok(()) };
                    if config.tokens.len() == MOST_TOKENS {
                        return Err(format!("over {MOST_TOKENS} special tokens are named").into());
                    }
                    config.tokens.insert(key.to_owned(), spelling.into());
                }
                _ => {}
            }
            Ok(())
        })?;
        Ok(config)
    })
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

/// The value under `chat_template`: a text, or a list of named ones.
#[derive(Debug, Default)]
pub(crate) enum Listed {
    #[default]
    Nothing,
    /// The text, or the one of the list that is called "default".
    Text(String),
    WithoutDefault,
    Other,
}

fn listed(json: Json<'_, '_>) -> Result<Listed, Stop> {
    match json {
        Json::Null => Ok(Listed::Nothing),
        Json::Text(text) => Ok(Listed::Text(text.into_owned())),
        Json::List(list) => {
            let mut found = Listed::WithoutDefault;
            list.each(|entry| {
                if let (Listed::WithoutDefault, Some(text)) = (&found, named_default(entry)?) {
                    found = Listed::Text(text);
                }
                Ok(())
            })?;
            Ok(found)
        }
        _ => Ok(Listed::Other),
    }
}

/// The text of `{"name": "default", "template": …}`.
fn named_default(json: Json<'_, '_>) -> Result<Option<String>, Stop> {
    let (mut is_default, mut template) = (false, None);
    json.object("an object with name and template")?.each(|key, value| {
        match &*key {
            "name" => is_default = value.read(|name| name.text("a string"))? == "default",
            "template" => template = Some(value.read(|text| text.text("a string"))?.into_owned()),
            _ => {}
        }
        Ok(())
    })?;
    Ok(template.filter(|_| is_default))
}

/// A text, or the one that is an object's `content`; nothing of anything else.
fn spelling(json: Json<'_, '_>) -> Result<Option<String>, Stop> {
    match json {
        Json::Text(text) => Ok(Some(text.into_owned())),
        Json::Object(object) => {
            let mut found = None;
            object.each(|key, value| {
                if key == "content" {
                    found = value.text()?.map(Cow::into_owned);
                }
                Ok(())
            })?;
            Ok(found)
        }
        _ => Ok(None),
    }
}

/// The spellings in a list of tokens.
fn spellings(json: Json<'_, '_>) -> Result<Vec<String>, Stop> {
    let mut all = Vec::new();
    if let Json::List(list) = json {
        list.each(|token| {
            all.extend(spelling(token)?.filter(|_| all.len() < MOST_ADDED));
            Ok(())
        })?;
    }
    Ok(all)
}

/// The tokens of `added_tokens_decoder`, by id; fields that are none are passed over.
fn decoder(json: Json<'_, '_>) -> Result<Option<AddedById>, Stop> {
    let Json::Object(tokens) = json else { return Ok(None) };
    let (mut added, mut text) = (Vec::new(), 0);
    tokens.each(|key, value| {
        let Some(token) = value.read(added_token)? else { return Ok(()) };
        text += token.content.len();
        if added.len() == MOST_ADDED || text > MOST_ADDED_TEXT {
            let reason =
                format!("over {MOST_ADDED} added tokens, or over {MOST_ADDED_TEXT} bytes of them");
            return Err(reason.into());
        }
        added.push((key.trim().parse::<u32>().ok(), token));
        Ok(())
    })?;
    added.sort_by_key(|(id, _)| *id);
    Ok(Some(added))
}

/// A token with its flags, or its spelling alone; nothing of anything else.
fn added_token(json: Json<'_, '_>) -> Result<Option<Added>, Stop> {
    let object = match json {
        Json::Text(text) => {
            let content = text.into_owned();
            return Ok(Some(Added { content, special: true, ..Added::default() }));
        }
        Json::Object(object) => object,
        _ => return Ok(None),
    };
    let mut token = Added::default();
    object.each(|key, value| {
        let flag = match &*key {
            "single_word" => &mut token.single_word,
            "lstrip" => &mut token.lstrip,
            "rstrip" => &mut token.rstrip,
            "normalized" => &mut token.normalized,
            "special" => &mut token.special,
            "content" => {
                token.content = value.text()?.unwrap_or_default().into_owned();
                return Ok(());
            }
            _ => return Ok(()),
        };
        *flag = value.truth()?.unwrap_or_default();
        Ok(())
    })?;
    Ok(Some(token))
}

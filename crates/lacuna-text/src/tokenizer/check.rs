//! Reads a `tokenizer.json` in one pass: what would make the library that it is for panic, or ask
//! for any memory, is refused before that library sees it.

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use tokenizers::{
    NormalizedString, Normalizer, NormalizerWrapper, PaddingParams, TruncationParams,
};

use super::additions;
use super::file::{Added, File};
use super::json::{Small, Under};
use super::model::{ModelSeed, shown};
use super::parts::{ids, parts, template};
use super::patterns;
use crate::side::Settings;

/// Of all parts but vocabulary, merges and added tokens: a few kilobytes in real files.
const PARTS_BYTES: usize = 1 << 20;
/// The automaton that finds added tokens takes some hundred bytes for each byte of them.
const MOST_ADDED: usize = 1 << 15;
const MOST_ADDED_TEXT: usize = 1 << 19;

/// A tokenizer and its last id.
pub(super) struct Checked {
    pub(super) inner: tokenizers::Tokenizer,
    pub(super) last: Option<u32>,
    pub(super) notes: Vec<String>,
    pub(super) is_extended: bool,
}

/// Reads a tokenizer, for a model that embeds `rows` tokens if that is known.
///
/// The usual kind, BPE, is built from what was read here: the library's own reader holds the file several times.
/// `settings` is what other files say of tokens.
pub(super) fn read(
    bytes: &[u8],
    rows: Option<usize>,
    settings: &Settings,
) -> Result<Checked, String> {
    let mut file = checked(bytes, rows)?;
    let before = (file.added.clone(), file.post_processor.clone());
    let (added, mut notes) = file.take_in(settings, rows);
    let is_extended = before != (file.added.clone(), file.post_processor.clone())
        || (!file.model.is_bpe() && !added.is_empty());
    file.check_normalized()?;
    let vocabulary = file.model.vocabulary.as_ref();
    let last = vocabulary.and_then(|vocabulary| vocabulary.last);
    let wrong = |error: &dyn fmt::Display| format!("JSON, but not a tokenizer.json ({error})");
    let inner = if file.model.is_bpe() {
        file.build().map_err(|error| wrong(&error))?
    } else {
        let mut inner = serde_json::from_slice(bytes).map_err(|error| wrong(&error))?;
        notes
            .extend(additions::append(&mut inner, added, settings).map_err(|error| wrong(&error))?);
        inner
    };
    let last = inner.get_added_tokens_decoder().into_keys().max().max(last);
    fits(last, rows)?;
    Ok(Checked { inner, last, notes, is_extended })
}

/// Refuses what can't be read, without building it.
pub(super) fn check(bytes: &[u8], rows: usize) -> Result<(), String> {
    checked(bytes, Some(rows)).map(|_| ())
}

fn checked(bytes: &[u8], rows: Option<usize>) -> Result<File, String> {
    let mut file = pass(bytes, FileSeed { rows }).map_err(|error| unreadable(bytes, &error))?;
    file.check(rows)?;
    if file.model.is_unread
        && let Some(seed) = file.model.merges_seed(rows)
    {
        let seed = Under("model", Under("merges", seed));
        let merges = pass(bytes, seed).map_err(|error| unreadable(bytes, &error))?;
        file.model.merges = merges.flatten();
    }
    Ok(file)
}

fn pass<'de, S: DeserializeSeed<'de>>(bytes: &'de [u8], seed: S) -> serde_json::Result<S::Value> {
    let mut from = serde_json::Deserializer::from_slice(bytes);
    let value = seed.deserialize(&mut from)?;
    from.end().map(|()| value)
}

/// Tells whether a model of so many rows embeds the last id.
fn fits(last: Option<u32>, rows: Option<usize>) -> Result<(), String> {
    match (last, rows) {
        (Some(last), Some(rows)) if last as usize >= rows => Err(format!(
            "the tokenizer has {} tokens, the model embeds {rows}: they do not belong together",
            u64::from(last) + 1
        )),
        _ => Ok(()),
    }
}

fn unreadable(bytes: &[u8], error: &serde_json::Error) -> String {
    match bytes.len() {
        0 => "the file is empty; fetch it again".to_owned(),
        held if error.is_eof() => {
            format!("the file ends in the middle, after {held} bytes; fetch it again")
        }
        _ if error.is_data() => format!("JSON, but not a tokenizer.json ({error})"),
        _ => format!("not JSON ({error}); a tokenizer.json is expected"),
    }
}

impl File {
    fn check(&self, rows: Option<usize>) -> Result<(), String> {
        fits(self.last(), rows)?;
        patterns::check(&self.normalizer, &self.pre_tokenizer, &self.decoder)?;
        parts(&self.normalizer, &mut |part| match part["type"].as_str() {
            // Its bytes are a table of jumps that the library follows unchecked.
            Some("Precompiled") => Err("a Precompiled normalizer is not read".into()),
            _ => Ok(()),
        })?;
        parts(&self.pre_tokenizer, &mut |part| match part["length"].as_u64() {
            Some(0) if part["type"] == "FixedLength" => {
                Err("its FixedLength pre-tokenizer cuts pieces of 0 characters".into())
            }
            _ => Ok(()),
        })?;
        parts(&self.post_processor, &mut |part| {
            template(part)?;
            let beyond = ids(part).find(|id| rows.is_some_and(|rows| *id >= rows as u64));
            match beyond {
                Some(id) => Err(format!(
                    "its post-processor puts id {id} around texts, which the model does not embed"
                )),
                None => Ok(()),
            }
        })
    }

    /// The library fails at every text where an added token that is looked for in normalized text has none left.
    fn check_normalized(&self) -> Result<(), String> {
        if self.normalizer.is_null() || !self.added.iter().any(|added| added.normalized) {
            return Ok(());
        }
        let normalizer: NormalizerWrapper = serde_json::from_value(self.normalizer.clone())
            .map_err(|error| format!("its normalizer is not known ({error})"))?;
        for added in self.added.iter().filter(|added| added.normalized && !added.content.is_empty())
        {
            let mut text = NormalizedString::from(added.content.as_str());
            normalizer.normalize(&mut text).map_err(|error| format!("its normalizer: {error}"))?;
            if text.get().is_empty() {
                let token = shown(&added.content);
                return Err(format!("its normalizer leaves nothing of the added token {token}"));
            }
        }
        Ok(())
    }

    /// The last id: that of the vocabulary, of an added token as the file numbers it, or as the library does, which
    /// gives each that is new the next number.
    fn last(&self) -> Option<u32> {
        let vocabulary = self.model.vocabulary.as_ref()?;
        let known = |content: &str| vocabulary.ids.contains_key(content);
        let new: HashSet<&str> = self.added.iter().map(|added| &*added.content).collect();
        let new = new.into_iter().filter(|content| !content.is_empty() && !known(content));
        // The tokens of a list are not known here; the library's own count is looked at later.
        let new = if vocabulary.is_list { 0 } else { new.count() };
        let next = u32::try_from(vocabulary.count + new).unwrap_or(u32::MAX);
        let appended = (new > 0).then(|| next - 1);
        vocabulary.last.max(self.last_added).max(appended)
    }

    /// As the library builds one, truncation and padding left out.
    fn build(self) -> Result<tokenizers::Tokenizer, Box<dyn std::error::Error + Send + Sync>> {
        let mut inner = tokenizers::Tokenizer::new(self.model.build()?);
        let normalizer: Option<tokenizers::NormalizerWrapper> =
            serde_json::from_value(self.normalizer)?;
        inner.with_normalizer(normalizer)?;
        let pre_tokenizer: Option<tokenizers::PreTokenizerWrapper> =
            serde_json::from_value(self.pre_tokenizer)?;
        inner.with_pre_tokenizer(pre_tokenizer);
        let post_processor: Option<tokenizers::PostProcessorWrapper> =
            serde_json::from_value(self.post_processor)?;
        inner.with_post_processor(post_processor);
        let decoder: Option<tokenizers::DecoderWrapper> = serde_json::from_value(self.decoder)?;
        inner.with_decoder(decoder);
        inner.add_tokens(self.added.into_iter().map(Added::token))?;
        Ok(inner)
    }
}

struct FileSeed {
    rows: Option<usize>,
}

impl<'de> DeserializeSeed<'de> for FileSeed {
    type Value = File;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<File, D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for FileSeed {
    type Value = File;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<File, A::Error> {
        let (mut file, mut model, mut budget) = (File::default(), None, PARTS_BYTES);
        while let Some(key) = map.next_key::<Cow<'_, str>>()? {
            match &*key {
                "version" => {
                    let version: Cow<'_, str> = map.next_value()?;
                    if version != "1.0" {
                        return Err(A::Error::custom("its version is not 1.0"));
                    }
                }
                "truncation" => _ = map.next_value::<Option<TruncationParams>>()?,
                "padding" => _ = map.next_value::<Option<PaddingParams>>()?,
                "added_tokens" if file.last_added.is_some() => {
                    return Err(A::Error::duplicate_field("added_tokens"));
                }
                "added_tokens" => {
                    let seed = AddedSeed { rows: self.rows };
                    (file.added, file.last_added) = map.next_value_seed(seed)?;
                }
                "normalizer" => file.normalizer = map.next_value_seed(Small(&mut budget))?,
                "pre_tokenizer" => file.pre_tokenizer = map.next_value_seed(Small(&mut budget))?,
                "post_processor" => {
                    file.post_processor = map.next_value_seed(Small(&mut budget))?
                }
                "decoder" => file.decoder = map.next_value_seed(Small(&mut budget))?,
                "model" if model.is_some() => return Err(A::Error::duplicate_field("model")),
                "model" => {
                    let seed = ModelSeed { rows: self.rows, budget: &mut budget };
                    model = Some(map.next_value_seed(seed)?);
                }
                _ => _ = map.next_value::<IgnoredAny>()?,
            }
        }
        file.model = model.ok_or_else(|| A::Error::missing_field("model"))?;
        Ok(file)
    }
}

struct AddedSeed {
    rows: Option<usize>,
}

impl<'de> DeserializeSeed<'de> for AddedSeed {
    type Value = (Vec<Added>, Option<u32>);

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for AddedSeed {
    type Value = (Vec<Added>, Option<u32>);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of added tokens")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let (mut added, mut last, mut text) = (Vec::new(), None, 0);
        while let Some(token) = seq.next_element::<Added>()? {
            last = last.max(Some(token.id));
            // Beyond the model's rows the count alone is wanted.
            if self.rows.is_some_and(|rows| token.id as usize >= rows) {
                continue;
            }
            text += token.content.len();
            if added.len() == MOST_ADDED || text > MOST_ADDED_TEXT {
                let reason = format!(
                    "over {MOST_ADDED} added tokens, or over {MOST_ADDED_TEXT} bytes of them"
                );
                return Err(A::Error::custom(reason));
            }
            added.push(token);
        }
        Ok((added, last))
    }
}

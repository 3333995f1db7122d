//! Reads the model of a `tokenizer.json`: its vocabulary, checked while it is read, and merges as
//! pairs of ids.

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::borrow::Cow;
use std::fmt;
use tokenizers::models::bpe::{BPE, Vocab};

use super::json::{Pair, Small};

/// Twice the largest vocabulary in use: what is read where no model says how many tokens it embeds.
const MOST_TOKENS: usize = 1 << 19;
/// Bytes of all tokens together; the largest vocabularies have some three million.
const MOST_TEXT: usize = 16 << 20;
/// Vocabularies that list every way to make a token have about two merges a token.
const MERGES_PER_TOKEN: usize = 16;

#[derive(Default)]
pub(super) struct Model {
    pub(super) kind: Option<String>,
    dropout: Option<f32>,
    unk_token: Option<String>,
    prefix: Option<String>,
    suffix: Option<String>,
    fuse_unk: bool,
    byte_fallback: bool,
    ignore_merges: bool,
    pub(super) vocabulary: Option<Vocabulary>,
    pub(super) merges: Option<Vec<(u32, u32)>>,
    /// The merges stood before what they are checked with.
    pub(super) is_unread: bool,
}

/// Tokens and how many there are; beyond the model's rows they are counted only.
#[derive(Default)]
pub(super) struct Vocabulary {
    /// Empty where tokens are a list with scores.
    pub(super) ids: Vocab,
    pub(super) count: usize,
    pub(super) last: Option<u32>,
    pub(super) is_list: bool,
}

impl Model {
    /// True if it is a BPE, by its name or, in old files without, by what it has.
    pub(super) fn is_bpe(&self) -> bool {
        let listed = self.vocabulary.as_ref().is_some_and(|vocabulary| vocabulary.is_list);
        match &self.kind {
            Some(kind) => kind == "BPE",
            None => !listed && (self.merges.is_some() || self.is_unread),
        }
    }

    pub(super) fn merges_seed(&self, rows: Option<usize>) -> Option<Merges<'_>> {
        let vocabulary = self.vocabulary.as_ref()?;
        let fits = vocabulary.count <= rows.unwrap_or(MOST_TOKENS);
        let prefix = self.prefix.as_deref().unwrap_or_default();
        (fits && !vocabulary.is_list).then_some(Merges { vocabulary, prefix })
    }

    /// The library's model of it.
    pub(super) fn build(self) -> Result<BPE, String> {
        let (Some(vocabulary), Some(pairs)) = (self.vocabulary, self.merges) else {
            return Err(
                "JSON, but not a tokenizer.json (its model has no vocab or no merges)".into()
            );
        };
        let mut tokens = vec![""; vocabulary.last.map_or(0, |last| last as usize + 1)];
        vocabulary.ids.iter().for_each(|(token, id)| tokens[*id as usize] = token);
        let text = |id: u32| tokens[id as usize].to_owned();
        let merges = pairs.into_iter().map(|(left, right)| (text(left), text(right))).collect();
        let mut builder = BPE::builder()
            .vocab_and_merges(vocabulary.ids, merges)
            .fuse_unk(self.fuse_unk)
            .byte_fallback(self.byte_fallback)
            .ignore_merges(self.ignore_merges);
        // Dropout cuts a text in other ways each time, which is for training tokenizers' users, not for reading.
        if let Some(dropout) = self.dropout.filter(|dropout| !(0.0..=1.0).contains(dropout)) {
            return Err(format!("its dropout is {dropout}, expected 0 to 1"));
        }
        if let Some(unknown) = self.unk_token {
            builder = builder.unk_token(unknown);
        }
        if let Some(prefix) = self.prefix {
            builder = builder.continuing_subword_prefix(prefix);
        }
        if let Some(suffix) = self.suffix {
            builder = builder.end_of_word_suffix(suffix);
        }
        builder.build().map_err(|error| error.to_string())
    }
}

/// Reads a [`Model`] for an embedding of so many rows, if that is known.
pub(super) struct ModelSeed<'a> {
    pub(super) rows: Option<usize>,
    pub(super) budget: &'a mut usize,
}

impl<'de> DeserializeSeed<'de> for ModelSeed<'_> {
    type Value = Model;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Model, D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for ModelSeed<'_> {
    type Value = Model;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a model")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Model, A::Error> {
        let mut model = Model::default();
        while let Some(key) = map.next_key::<Cow<'_, str>>()? {
            match &*key {
                "type" => model.kind = Some(map.next_value()?),
                "dropout" => model.dropout = map.next_value()?,
                "unk_token" => model.unk_token = map.next_value()?,
                "continuing_subword_prefix" => {
                    model.is_unread |= model.merges.take().is_some();
                    model.prefix = map.next_value()?;
                }
                "end_of_word_suffix" => model.suffix = map.next_value()?,
                "fuse_unk" => model.fuse_unk = map.next_value::<Option<_>>()?.unwrap_or_default(),
                "byte_fallback" => {
                    model.byte_fallback = map.next_value::<Option<_>>()?.unwrap_or_default();
                }
                "ignore_merges" => {
                    model.ignore_merges = map.next_value::<Option<_>>()?.unwrap_or_default();
                }
                "vocab" if model.vocabulary.is_some() => {
                    return Err(A::Error::duplicate_field("vocab"));
                }
                "vocab" => {
                    let seed = VocabularySeed { most: self.rows };
                    model.vocabulary = Some(map.next_value_seed(seed)?);
                }
                "merges" if model.merges.is_some() || model.is_unread => {
                    return Err(A::Error::duplicate_field("merges"));
                }
                "merges" => match model.merges_seed(self.rows) {
                    Some(seed) => model.merges = Some(map.next_value_seed(seed)?),
                    None => {
                        map.next_value::<IgnoredAny>()?;
                        model.is_unread = true;
                    }
                },
                _ => _ = map.next_value_seed(Small(self.budget))?,
            }
        }
        Ok(model)
    }
}

struct VocabularySeed {
    most: Option<usize>,
}

impl<'de> DeserializeSeed<'de> for VocabularySeed {
    type Value = Vocabulary;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Vocabulary, D::Error> {
        from.deserialize_any(self)
    }
}

impl VocabularySeed {
    fn over<E: Error>(&self, count: usize) -> Result<(), E> {
        match self.most {
            None if count > MOST_TOKENS => {
                Err(E::custom(format!("over {MOST_TOKENS} tokens, more than any vocabulary has")))
            }
            _ => Ok(()),
        }
    }
}

impl<'de> Visitor<'de> for VocabularySeed {
    type Value = Vocabulary;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a vocabulary: ids by token, or a list of tokens with scores")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vocabulary, A::Error> {
        let most = self.most.unwrap_or(MOST_TOKENS);
        let mut all = Vocabulary::default();
        let (mut text, mut taken) = (0, Vec::new());
        while let Some((token, id)) = map.next_entry::<Cow<'_, str>, u32>()? {
            all.count += 1;
            all.last = all.last.max(Some(id));
            self.over(all.last.map_or(0, |last| last as usize))?;
            let place = id as usize;
            if place >= most {
                continue;
            }
            taken.resize(taken.len().max(place + 1), false);
            if std::mem::replace(&mut taken[place], true) {
                let token = shown(&token);
                return Err(A::Error::custom(format!("{token} has id {id}, as another token has")));
            }
            text += token.len();
            if text > MOST_TEXT {
                let reason = format!("its tokens have over {MOST_TEXT} bytes together");
                return Err(A::Error::custom(reason));
            }
            all.ids.insert(token.into_owned(), id);
        }
        Ok(all)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vocabulary, A::Error> {
        let mut all = Vocabulary { is_list: true, ..Vocabulary::default() };
        while seq.next_element::<(Cow<'_, str>, f64)>()?.is_some() {
            all.count += 1;
            self.over(all.count)?;
        }
        all.last = u32::try_from(all.count).ok().and_then(|count| count.checked_sub(1));
        Ok(all)
    }
}

/// Reads merges. Both parts of each and what they make must be tokens.
pub(super) struct Merges<'a> {
    vocabulary: &'a Vocabulary,
    prefix: &'a str,
}

impl<'de> DeserializeSeed<'de> for Merges<'_> {
    type Value = Vec<(u32, u32)>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Merges<'_> {
    type Value = Vec<(u32, u32)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of merges")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let most = MERGES_PER_TOKEN * self.vocabulary.count;
        let (mut merges, mut joined) = (Vec::new(), String::new());
        for index in 0.. {
            let Some(middle) = seq.next_element_seed(Pair(&mut joined))? else { break };
            let Some(middle) = middle else { continue };
            if index >= most {
                let reason = format!("over {most} merges, more than {MERGES_PER_TOKEN} a token");
                return Err(A::Error::custom(reason));
            }
            let pair = self.pair(&mut joined, middle);
            merges.push(pair.map_err(|e| A::Error::custom(format!("merge {index}: {e}")))?);
        }
        Ok(merges)
    }
}

impl Merges<'_> {
    fn pair(&self, joined: &mut String, middle: usize) -> Result<(u32, u32), String> {
        let id = |token: &str| {
            let found = self.vocabulary.ids.get(token).copied();
            found.ok_or_else(|| format!("{} is not in the vocabulary", shown(token)))
        };
        let (left, right) = joined.split_at(middle);
        let (pair, prefix) = ((id(left)?, id(right)?), self.prefix);
        if !right.starts_with(prefix) {
            return Err(format!("{} does not start with {}", shown(right), shown(prefix)));
        }
        joined.replace_range(middle..middle + prefix.len(), "");
        id(joined).map(|_| pair)
    }
}

/// A token in an error, cut where it is long.
pub(super) fn shown(token: &str) -> String {
    match token.char_indices().nth(60) {
        Some((end, _)) => format!("{:?}…", &token[..end]),
        None => format!("{token:?}"),
    }
}

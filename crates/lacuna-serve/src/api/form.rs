//! Reads the form that a text is held to: a JSON schema, a grammar or a regular expression, by whichever name a client has
//! for it.

use lacuna_engine::Pattern;
use serde::de::{self, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use std::fmt;

use super::errors::ApiError;

/// A JSON value whose objects keep their order: properties are written in the order of their schema.
#[derive(Clone, Debug)]
pub(crate) enum Ordered {
    Plain(Value),
    List(Vec<Self>),
    Object(Vec<(String, Self)>),
}

impl Ordered {
    /// A member of an object that is not null.
    fn get(&self, name: &str) -> Option<&Self> {
        let Self::Object(members) = self else { return None };
        let found = members.iter().find(|(key, _)| key == name).map(|(_, value)| value);
        found.filter(|value| !value.is_null())
    }

    fn is_null(&self) -> bool {
        matches!(self, Self::Plain(Value::Null))
    }

    fn as_str(&self) -> Option<&str> {
        match self {
            Self::Plain(value) => value.as_str(),
            _ => None,
        }
    }
}

/// As JSON.
impl fmt::Display for Ordered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(value) => value.fmt(f),
            Self::List(items) => {
                f.write_str("[")?;
                for (at, item) in items.iter().enumerate() {
                    write!(f, "{}{item}", if at > 0 { "," } else { "" })?;
                }
                f.write_str("]")
            }
            Self::Object(members) => {
                f.write_str("{")?;
                for (at, (key, value)) in members.iter().enumerate() {
                    let key = Value::from(key.as_str());
                    write!(f, "{}{key}:{value}", if at > 0 { "," } else { "" })?;
                }
                f.write_str("}")
            }
        }
    }
}

impl<'de> Deserialize<'de> for Ordered {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Ordered;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Ordered, E> {
        Ok(Ordered::Plain(Value::Null))
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Ordered, E> {
        Ok(Ordered::Plain(value.into()))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Ordered, E> {
        Ok(Ordered::Plain(value.into()))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Ordered, E> {
        Ok(Ordered::Plain(value.into()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Ordered, E> {
        Ok(Ordered::Plain(value.into()))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Ordered, E> {
        Ok(Ordered::Plain(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Ordered, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Ordered::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Ordered, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = object.next_entry()? {
            members.push(member);
        }
        Ok(Ordered::Object(members))
    }
}

/// The fields that ask for a form.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Form<'a> {
    pub(crate) response_format: Option<&'a Ordered>,
    pub(crate) json_schema: Option<&'a Ordered>,
    pub(crate) grammar: Option<&'a str>,
    pub(crate) regex: Option<&'a str>,
}

impl Form<'_> {
    /// The form that is asked for, with the field that asks.
    ///
    /// # Errors
    /// A form that can't be kept to in every block, or is none; and two of them. Each by its field.
    pub(crate) fn pattern(&self) -> Result<Option<(&'static str, Pattern)>, ApiError> {
        let schema = |text: &Ordered| Pattern::JsonSchema(text.to_string());
        let asked = [
            ("response_format", self.response_format.map(of_response).transpose()?.flatten()),
            ("json_schema", self.json_schema.filter(|one| !one.is_null()).map(schema)),
            // Some clients send an empty one for none.
            ("grammar", text(self.grammar).map(Pattern::Grammar)),
            ("regex", text(self.regex).map(Pattern::Regex)),
        ];
        let mut asked = asked.into_iter().filter_map(|(name, pattern)| Some((name, pattern?)));
        let Some((name, pattern)) = asked.next() else { return Ok(None) };
        if let Some((other, _)) = asked.next() {
            let reason = format!("a text has one form, and `{name}` asks for another");
            return Err(ApiError::wrong(other, reason));
        }
        // An automaton takes a moment to make; others go on meanwhile.
        let checked = tokio::task::block_in_place(|| pattern.check());
        checked.map_err(|error| ApiError::wrong(name, error))?;
        Ok(Some((name, pattern)))
    }
}

fn text(given: Option<&str>) -> Option<String> {
    given.filter(|text| !text.is_empty()).map(str::to_owned)
}

/// The form of an answer in OpenAI's words, or in llama.cpp's, where a `json_object` may have a `schema`.
fn of_response(format: &Ordered) -> Result<Option<Pattern>, ApiError> {
    let wrong = |reason: &str| Err(ApiError::wrong("response_format", reason));
    if format.is_null() {
        return Ok(None);
    }
    let schema = format.get("json_schema").and_then(|named| named.get("schema"));
    let schema = schema.or_else(|| format.get("schema"));
    match (format.get("type").and_then(Ordered::as_str), schema) {
        (Some("text"), _) => Ok(None),
        (Some("json_schema" | "json_object"), Some(schema)) => {
            Ok(Some(Pattern::JsonSchema(schema.to_string())))
        }
        (Some("json_object"), None) => Ok(Some(Pattern::JsonObject)),
        (Some("json_schema"), None) => wrong("`json_schema` has no `schema`"),
        _ => wrong("expected a `type` of `text`, `json_object` or `json_schema`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ordered(text: &str) -> Ordered {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_value_is_told_as_it_was_read_with_its_members_in_their_order() {
        for text in [
            r#"{"z":[1,-2,2.5,true,null,"a\"\n"],"a":{"c":{},"b":[]}}"#,
            "null",
            r#""é""#,
            "[]",
            "18446744073709551615",
        ] {
            assert_eq!(ordered(text).to_string(), text);
        }
    }

    #[test]
    fn every_client_s_word_for_a_form_is_understood() {
        let schema = Some(Pattern::JsonSchema(r#"{"type":"null"}"#.into()));
        for (format, pattern) in [
            ("null", None),
            (r#"{"type": "text"}"#, None),
            (r#"{"type": "json_object"}"#, Some(Pattern::JsonObject)),
            (r#"{"type": "json_object", "schema": {"type": "null"}}"#, schema.clone()),
            (
                r#"{"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "null"}}}"#,
                schema,
            ),
        ] {
            assert_eq!(of_response(&ordered(format)).unwrap(), pattern, "{format}");
        }
        for format in ["{}", "1", r#"{"type": "xml"}"#, r#"{"type": "json_schema"}"#] {
            assert!(of_response(&ordered(format)).is_err(), "{format}");
        }
    }
}

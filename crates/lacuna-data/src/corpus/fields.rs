//! The text of a JSON record.

use super::Reason;
use crate::records::{Fault, parse};
use serde::de::{Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use std::fmt;

/// The text of a record: the first of the fields that holds one.
pub(super) fn text_of(bytes: &[u8], fields: &[String]) -> Result<String, Fault> {
    let record = parse(bytes, |bytes| {
        let mut deserializer = serde_json::Deserializer::from_slice(bytes);
        let record = Fields(fields).deserialize(&mut deserializer)?;
        deserializer.end()?;
        Ok(record)
    })?;
    let Record { values, others } = record;
    let mut wrong = None;
    for (name, value) in fields.iter().zip(values) {
        match value {
            Some(Field::Text(text)) => return Ok(text),
            Some(Field::Other(what)) => {
                wrong.get_or_insert(format!("{name:?} is {what}"));
            }
            None => {}
        }
    }
    let words = wrong.unwrap_or_else(|| match others.as_slice() {
        [] => "the object has no field".to_owned(),
        others if others.iter().any(|name| name == "messages" || name == "conversations") => {
            "it is a conversation, which belongs into the samples of [sft]".to_owned()
        }
        others => format!("it has {}", others.join(", ")),
    });
    Err(Fault::new(Reason::NoText, words))
}

/// What stands in the fields that are asked for, and the names of some others.
struct Record {
    values: Vec<Option<Field>>,
    others: Vec<String>,
}

enum Field {
    Text(String),
    Other(&'static str),
}

/// Reads those fields alone. A name that stands twice counts the second time, as everywhere else.
struct Fields<'a>(&'a [String]);

impl<'de> DeserializeSeed<'de> for Fields<'_> {
    type Value = Record;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Record, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Fields<'_> {
    type Value = Record;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Record, A::Error> {
        let mut record = Record { values: self.0.iter().map(|_| None).collect(), others: vec![] };
        while let Some(key) = map.next_key::<String>()? {
            match self.0.iter().position(|name| *name == key) {
                Some(index) => record.values[index] = Some(map.next_value()?),
                None => {
                    if record.others.len() < 8 {
                        record.others.push(key.chars().take(40).collect());
                    }
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(record)
    }
}

impl<'de> Deserialize<'de> for Field {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Field;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }
            fn visit_str<E>(self, text: &str) -> Result<Field, E> {
                Ok(Field::Text(text.to_owned()))
            }
            fn visit_string<E>(self, text: String) -> Result<Field, E> {
                Ok(Field::Text(text))
            }
            fn visit_unit<E>(self) -> Result<Field, E> {
                Ok(Field::Other("null"))
            }
            fn visit_bool<E>(self, _: bool) -> Result<Field, E> {
                Ok(Field::Other("true or false"))
            }
            fn visit_i64<E>(self, _: i64) -> Result<Field, E> {
                Ok(Field::Other("a number"))
            }
            fn visit_u64<E>(self, _: u64) -> Result<Field, E> {
                Ok(Field::Other("a number"))
            }
            fn visit_f64<E>(self, _: f64) -> Result<Field, E> {
                Ok(Field::Other("a number"))
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, seq: A) -> Result<Field, A::Error> {
                IgnoredAny.visit_seq(seq)?;
                Ok(Field::Other("a list"))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Field, A::Error> {
                IgnoredAny.visit_map(map)?;
                Ok(Field::Other("an object"))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

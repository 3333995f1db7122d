//! Holds one turn of a conversation, with all its fields in the order in which they were given.

use minijinja::Value;
use minijinja::value::ValueKind;
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use std::fmt;

/// One turn of a conversation.
///
/// Read from JSON it keeps every field in its order, such as `tool_calls`, for templates look at them. Where
/// `content` is null or absent, nothing is said; a list of texts, as some services have it, is one text.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Message {
    /// "system", "user", "assistant" or what else the template knows.
    pub role: String,
    /// The words that were said.
    pub content: String,
    /// Every field as it was given.
    fields: Vec<(String, Value)>,
}

impl Message {
    /// A turn of a role and its text.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into(), fields: Vec::new() }
    }

    /// The same with every text in it changed, but for its role.
    pub(super) fn map(&self, change: &dyn Fn(&str) -> String) -> Self {
        let fields = self.fields.iter();
        let fields = fields.map(|(key, value)| (key.clone(), mapped(value, change)));
        let content = change(&self.content);
        Self { role: self.role.clone(), content, fields: fields.collect() }
    }

    /// It as templates see it.
    pub(crate) fn value(&self) -> Value {
        let own = [("role", Value::from(&*self.role)), ("content", Value::from(&*self.content))];
        let has = |name: &str| self.fields.iter().any(|(key, _)| key == name);
        let missing = own.iter().filter(|(name, _)| self.fields.is_empty() && !has(name));
        let given = self.fields.iter().map(|(key, value)| match &**key {
            "role" => (key.clone(), own[0].1.clone()),
            "content" if !value.is_none() => (key.clone(), own[1].1.clone()),
            _ => (key.clone(), value.clone()),
        });
        let all: Vec<(String, Value)> =
            missing.map(|(name, value)| ((*name).to_owned(), value.clone())).chain(given).collect();
        Value::from_pairs(all)
    }
}

fn mapped(value: &Value, change: &dyn Fn(&str) -> String) -> Value {
    match value.kind() {
        ValueKind::String => Value::from(change(value.as_str().unwrap_or_default())),
        ValueKind::Seq => {
            let items = value.try_iter().into_iter().flatten();
            Value::from(items.map(|item| mapped(&item, change)).collect::<Vec<_>>())
        }
        ValueKind::Map => {
            let keys = value.try_iter().into_iter().flatten();
            let item = |key: &Value| value.get_item(key).unwrap_or_default();
            Value::from_pairs(keys.map(|key| (key.clone(), mapped(&item(&key), change))))
        }
        _ => value.clone(),
    }
}

impl Serialize for Message {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.value().serialize(to)
    }
}

impl<'de> Deserialize<'de> for Message {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Message;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a message: an object with role and content")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Message, A::Error> {
                let (mut role, mut content, mut fields) = (None, String::new(), Vec::new());
                while let Some((key, value)) = map.next_entry::<String, Value>()? {
                    if fields.iter().any(|(known, _)| *known == key) {
                        return Err(A::Error::custom(format!("{key:?} is there twice")));
                    }
                    match &*key {
                        "role" => {
                            let text = value.as_str().filter(|role| !role.is_empty());
                            let text = text.ok_or_else(|| {
                                A::Error::custom(format!("\"role\" is {value}, expected a text"))
                            })?;
                            role = Some(text.to_owned());
                        }
                        "content" => {
                            content = said(&value).ok_or_else(|| {
                                A::Error::custom(
                                    "\"content\" is expected to be text, null or a list of parts \
                                     {\"type\": \"text\", \"text\": …}",
                                )
                            })?;
                        }
                        _ => {}
                    }
                    fields.push((key, value));
                }
                let role = role.ok_or_else(|| A::Error::missing_field("role"))?;
                Ok(Message { role, content, fields })
            }
        }
        from.deserialize_map(Fields)
    }
}

/// The text of a content: itself, nothing of null, the texts of its parts.
fn said(content: &Value) -> Option<String> {
    match content.kind() {
        ValueKind::None => Some(String::new()),
        ValueKind::String => content.as_str().map(str::to_owned),
        ValueKind::Seq => {
            let text = |part: Value| {
                let is_text = part.get_attr("type").is_ok_and(|kind| kind.as_str() == Some("text"));
                let text = part.get_attr("text").ok().filter(|_| is_text);
                part.as_str().map(str::to_owned).or(text?.as_str().map(str::to_owned))
            };
            content.try_iter().ok()?.map(text).collect()
        }
        _ => None,
    }
}

//! Reads JSON from strangers: no key twice, no depth beyond 128, no length beyond the caller's.
//!
//! ```
//! use lacuna_files::json;
//! assert_eq!(json::object(br#"{"a": 1}"#)?["a"], 1);
//! assert!(json::object(br#"{"a": {"b": 1, "b": 2}}"#).unwrap_err().contains("appears twice"));
//! # Ok::<(), String>(())
//! ```
//!
//! A file of unknown size is read with [`read_file`](crate::read_file), which has a bound, and then looked at here: a
//! parsed value takes some twenty times the room of its text at worst.

use std::borrow::Cow;
use std::fmt;

use serde::de::{
    DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Unexpected, Visitor,
};
use serde_json::{Map, Number, Value};

/// Parses a JSON object and refuses one that names a key twice at any level.
///
/// # Errors
/// The reason, with line and column.
pub fn object(text: &[u8]) -> Result<Map<String, Value>, String> {
    match read(text, |json| json.value()).map_err(|e| e.to_string())? {
        Value::Object(map) => Ok(map),
        _ => Err("expected a JSON object".to_owned()),
    }
}
/// A value of a document that is read once, from its begin to its end, and not held.
///
/// Lists and objects that are not read, or not to their end, are passed over.
pub enum Json<'a, 'de> {
    /// `null`.
    Null,
    /// `true` or `false`.
    Truth(bool),
    /// A number.
    Number(Number),
    /// A text; borrowed from the document where nothing in it is spelt by an escape.
    Text(Cow<'de, str>),
    /// A list.
    List(List<'a, 'de>),
    /// An object.
    Object(Object<'a, 'de>),
}

/// The reason why a document is read no further: a reason of the caller's, or what the parser met.
#[derive(Debug)]
pub struct Stop(Option<String>);

impl<S: Into<String>> From<S> for Stop {
    fn from(reason: S) -> Self {
        Self(Some(reason.into()))
    }
}

/// Reads a document with `take`, which sees its outermost value: nothing is held but what `take` keeps, so a file of
/// megabytes of which a few names are wanted costs a few names.
///
/// ```
/// use lacuna_files::json::{Json, read};
/// let text = br#"{"pad": [1, 2, 3], "name": "tiny"}"#;
/// let mut name = None;
/// read(text, |document| {
///     document.object("an object")?.each(|key, value| {
///         if key == "name" {
///             name = value.text()?;
///         }
///         Ok(())
///     })
/// })?;
/// assert_eq!(name.as_deref(), Some("tiny"));
/// # Ok::<(), serde_json::Error>(())
/// ```
///
/// # Errors
/// Errors where the document is no JSON or deeper than 128, and where `take` stops, with line and column.
pub fn read<'de, T>(
    text: &'de [u8],
    take: impl FnOnce(Json<'_, 'de>) -> Result<T, Stop>,
) -> serde_json::Result<T> {
    let mut from = serde_json::Deserializer::from_slice(text);
    let taken = once(take, |take| Seed(take).deserialize(&mut from))?;
    from.end().map(|()| taken)
}

impl<'a, 'de> Json<'a, 'de> {
    /// The object that it is; otherwise an error that says `expected`.
    ///
    /// # Errors
    /// The reason to stop.
    pub fn object(self, expected: &str) -> Result<Object<'a, 'de>, Stop> {
        match self {
            Json::Object(object) => Ok(object),
            other => Err(other.instead_of(expected)),
        }
    }

    /// The list that it is; otherwise an error that says `expected`.
    ///
    /// # Errors
    /// The reason to stop.
    pub fn list(self, expected: &str) -> Result<List<'a, 'de>, Stop> {
        match self {
            Json::List(list) => Ok(list),
            other => Err(other.instead_of(expected)),
        }
    }

    /// The text that it is; otherwise an error that says `expected`.
    ///
    /// # Errors
    /// The reason to stop.
    pub fn text(self, expected: &str) -> Result<Cow<'de, str>, Stop> {
        match self {
            Json::Text(text) => Ok(text),
            other => Err(other.instead_of(expected)),
        }
    }

    /// The reason to stop here, in serde's words: `invalid type: null, expected a list`.
    pub(crate) fn instead_of(&self, expected: &str) -> Stop {
        let found = match self {
            Json::Null => Unexpected::Unit,
            Json::Truth(truth) => Unexpected::Bool(*truth),
            Json::Number(number) => match (number.as_u64(), number.as_i64()) {
                (Some(number), _) => Unexpected::Unsigned(number),
                (_, Some(number)) => Unexpected::Signed(number),
                _ => Unexpected::Float(number.as_f64().unwrap_or(f64::NAN)),
            },
            Json::Text(text) => Unexpected::Str(text),
            Json::List(_) => Unexpected::Seq,
            Json::Object(_) => Unexpected::Map,
        };
        Stop::from(format!("invalid type: {found}, expected {expected}"))
    }

    /// All of it, held. No key twice.
    ///
    /// # Errors
    /// The reason to stop.
    pub fn value(self) -> Result<Value, Stop> {
        Ok(match self {
            Json::Null => Value::Null,
            Json::Truth(truth) => truth.into(),
            Json::Number(number) => Value::Number(number),
            Json::Text(text) => text.into_owned().into(),
            Json::List(list) => {
                let mut values = Vec::new();
                list.each(|item| {
                    values.push(item.value()?);
                    Ok(())
                })?;
                Value::Array(values)
            }
            Json::Object(object) => {
                let mut map = Map::new();
                object.each(|key, value| {
                    let value = value.value()?;
                    if map.contains_key(&*key) {
                        return Err(format!("key {} appears twice", crate::short(&key)).into());
                    }
                    map.insert(key.into_owned(), value);
                    Ok(())
                })?;
                Value::Object(map)
            }
        })
    }
}

/// An object whose keys have not been read yet.
pub struct Object<'a, 'de>(&'a mut dyn Keys<'de>);

impl<'de> Object<'_, 'de> {
    /// Hands over each key, in order, with its value. A key that is there twice is handed over twice.
    ///
    /// # Errors
    /// The reason to stop.
    pub fn each(
        self,
        mut take: impl FnMut(Cow<'de, str>, Unread<'_, 'de>) -> Result<(), Stop>,
    ) -> Result<(), Stop> {
        while let Some(key) = self.0.key()? {
            let mut is_read = false;
            take(key, Unread { keys: &mut *self.0, is_read: &mut is_read })?;
            if !is_read {
                self.0.value(None)?;
            }
        }
        Ok(())
    }
}

/// A list whose items have not been read yet.
pub struct List<'a, 'de>(&'a mut dyn Items<'de>);

impl<'de> List<'_, 'de> {
    /// Hands over each item, in order.
    ///
    /// # Errors
    /// The reason to stop.
    pub fn each(self, mut take: impl FnMut(Json<'_, 'de>) -> Result<(), Stop>) -> Result<(), Stop> {
        while self.0.item(&mut take)? {}
        Ok(())
    }
}

/// The value of a key, which is passed over if nobody reads it.
pub struct Unread<'a, 'de> {
    keys: &'a mut dyn Keys<'de>,
    is_read: &'a mut bool,
}

impl<'de> Unread<'_, 'de> {
    /// Reads it with `take`.
    ///
    /// # Errors
    /// The reason to stop.
    pub fn read<T>(self, take: impl FnOnce(Json<'_, 'de>) -> Result<T, Stop>) -> Result<T, Stop> {
        *self.is_read = true;
        once(take, |take| self.keys.value(Some(take)))
    }

    /// The text that it is; nothing of anything else.
    ///
    /// # Errors
    /// The reason to stop.
    pub fn text(self) -> Result<Option<Cow<'de, str>>, Stop> {
        self.read(|json| match json {
            Json::Text(text) => Ok(Some(text)),
            _ => Ok(None),
        })
    }

    /// The truth that it is; nothing of anything else.
    ///
    /// # Errors
    /// The reason to stop.
    pub fn truth(self) -> Result<Option<bool>, Stop> {
        self.read(|json| match json {
            Json::Truth(truth) => Ok(Some(truth)),
            _ => Ok(None),
        })
    }

    /// All of it, held. No key twice.
    ///
    /// # Errors
    /// The reason to stop.
    pub fn value(self) -> Result<Value, Stop> {
        self.read(|json| json.value())
    }
}

type Take<'t, 'de> = &'t mut dyn FnMut(Json<'_, 'de>) -> Result<(), Stop>;

/// The rest of an object, whatever reads it.
trait Keys<'de> {
    fn key(&mut self) -> Result<Option<Cow<'de, str>>, Stop>;
    /// Reads the value of the last key, or passes over it.
    fn value(&mut self, take: Option<Take<'_, 'de>>) -> Result<(), Stop>;
}

/// The rest of a list, whatever reads it.
trait Items<'de> {
    fn item(&mut self, take: Take<'_, 'de>) -> Result<bool, Stop>;
}

/// Lends a function that is called once as one that may be called often, and gives back what it returned.
fn once<'de, T, E>(
    take: impl FnOnce(Json<'_, 'de>) -> Result<T, Stop>,
    lend: impl FnOnce(Take<'_, 'de>) -> Result<(), E>,
) -> Result<T, E> {
    let (mut take, mut taken) = (Some(take), None);
    lend(&mut |json| {
        let take = take.take().expect("a value is handed over once");
        taken = Some(take(json)?);
        Ok(())
    })?;
    Ok(taken.expect("a value was handed over"))
}

/// A parser's own list or object, and the error that it met.
struct Met<A, E> {
    access: A,
    error: Option<E>,
}

impl<A, E> Met<A, E> {
    fn note<T>(&mut self, result: Result<T, E>) -> Result<T, Stop> {
        result.map_err(|error| {
            self.error = Some(error);
            Stop(None)
        })
    }

    /// The parser's error behind a `Stop`, or the caller's reason as one.
    fn finish(self, result: Result<(), Stop>) -> Result<A, E>
    where
        E: Error,
    {
        match (result, self.error) {
            (_, Some(error)) => Err(error),
            (Err(stop), None) => Err(stop.into_error()),
            (Ok(()), None) => Ok(self.access),
        }
    }
}

impl Stop {
    fn into_error<E: Error>(self) -> E {
        E::custom(self.0.unwrap_or_default())
    }
}

impl<'de, A: MapAccess<'de>> Keys<'de> for Met<A, A::Error> {
    fn key(&mut self) -> Result<Option<Cow<'de, str>>, Stop> {
        let key = self.access.next_key_seed(Key);
        self.note(key)
    }

    fn value(&mut self, take: Option<Take<'_, 'de>>) -> Result<(), Stop> {
        let read = match take {
            Some(take) => self.access.next_value_seed(Seed(take)),
            None => self.access.next_value::<IgnoredAny>().map(drop),
        };
        self.note(read)
    }
}

impl<'de, A: SeqAccess<'de>> Items<'de> for Met<A, A::Error> {
    fn item(&mut self, take: Take<'_, 'de>) -> Result<bool, Stop> {
        let item = self.access.next_element_seed(Seed(take));
        self.note(item).map(|item| item.is_some())
    }
}

struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Key {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_borrowed_str<E>(self, key: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(key))
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(key.to_owned()))
    }
}

struct Seed<'t, 'de>(Take<'t, 'de>);

impl<'de> DeserializeSeed<'de> for Seed<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        (self.0)(Json::Null).map_err(Stop::into_error)
    }

    fn visit_bool<E: Error>(self, truth: bool) -> Result<(), E> {
        (self.0)(Json::Truth(truth)).map_err(Stop::into_error)
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<(), E> {
        (self.0)(Json::Number(number.into())).map_err(Stop::into_error)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<(), E> {
        (self.0)(Json::Number(number.into())).map_err(Stop::into_error)
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<(), E> {
        let number = Number::from_f64(number).map_or(Json::Null, Json::Number);
        (self.0)(number).map_err(Stop::into_error)
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<(), E> {
        (self.0)(Json::Text(Cow::Borrowed(text))).map_err(Stop::into_error)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        (self.0)(Json::Text(Cow::Owned(text.to_owned()))).map_err(Stop::into_error)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, access: A) -> Result<(), A::Error> {
        let mut list = Met { access, error: None };
        let taken = (self.0)(Json::List(List(&mut list)));
        let mut rest = list.finish(taken)?;
        while rest.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, access: A) -> Result<(), A::Error> {
        let mut object = Met { access, error: None };
        let taken = (self.0)(Json::Object(Object(&mut object)));
        let mut rest = object.finish(taken)?;
        while rest.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_key_twice_is_refused_at_any_depth() {
        assert!(object(br#"{"a":{"b":1,"b":2}}"#).unwrap_err().contains("appears twice"));
        assert_eq!(object(br#"{"a":[1,-2,0.5,null,true,"x"]}"#).unwrap().len(), 1);
        assert!(object(b"[1]").unwrap_err().contains("object"));
        assert!(object(b"{} x").is_err());
    }

    #[test]
    fn what_is_not_read_is_passed_over_and_reasons_have_a_place() {
        let text = br#"{"a": [1, {"x": 2}], "skipped": {"y": [[]]}, "b": "c\u0064", "t": true, "n": -2.5}"#;
        let mut seen = Vec::new();
        read(text, |json| {
            json.object("an object")?.each(|key, value| {
                match &*key {
                    "a" => value.read(|json| {
                        json.list("a list")?.each(|item| {
                            seen.push(item.value()?.to_string());
                            Ok(())
                        })
                    })?,
                    "b" => seen.extend(value.text()?.map(Cow::into_owned)),
                    "t" => seen.push(format!("{:?}", value.truth()?)),
                    "n" => assert!(value.text()?.is_none()),
                    _ => {}
                }
                Ok(())
            })
        })
        .unwrap();
        assert_eq!(seen, ["1", r#"{"x":2}"#, "cd", "Some(true)"]);
        let told = |text: &str| {
            let told = read(text.as_bytes(), |json| {
                json.object("an object")?.each(|_, value| {
                    value.read(|json| json.list("a list")?.each(|_| Err("no items".into())))
                })
            });
            told.unwrap_err().to_string()
        };
        assert_eq!(told("3"), "invalid type: integer `3`, expected an object at line 1 column 1");
        assert_eq!(told(r#"{"a": {}}"#), "invalid type: map, expected a list at line 1 column 8");
        assert_eq!(told("{\"a\":\n[1]}"), "no items at line 2 column 2");
        assert!(told(r#"{"a": []"#).starts_with("EOF while parsing an object"));
        assert!(told("{} x").starts_with("trailing characters"));
    }

    #[test]
    fn deep_nesting_is_an_error_not_a_stack_overflow() {
        let text = format!("{{\"a\":{}", "[".repeat(100_000));
        assert!(object(text.as_bytes()).unwrap_err().contains("recursion limit"));
    }
}

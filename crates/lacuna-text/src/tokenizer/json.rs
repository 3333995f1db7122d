//! Reads JSON from strangers in one pass, and holds it only as far as it is wanted.

use serde::de::{
    DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Unexpected, Visitor,
};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::fmt;

/// The value under a key of an object, read by a seed; everything else is passed over.
pub(super) struct Under<'k, S>(pub(super) &'k str, pub(super) S);

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Under<'_, S> {
    type Value = Option<S::Value>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de, S: DeserializeSeed<'de>> Visitor<'de> for Under<'_, S> {
    type Value = Option<S::Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut seed, mut found) = (Some(self.1), None);
        while let Some(key) = map.next_key::<Cow<'_, str>>()? {
            match seed.take_if(|_| key == self.0) {
                Some(seed) => found = Some(map.next_value_seed(seed)?),
                None => _ = map.next_value::<IgnoredAny>()?,
            }
        }
        Ok(found)
    }
}

/// Any value, as long as a budget lasts: a value costs [`VALUE_BYTES`], text its length besides.
pub(super) struct Small<'a>(pub(super) &'a mut usize);

/// About what a value takes in memory, in its list or map.
const VALUE_BYTES: usize = 64;

impl Small<'_> {
    fn pay<E: Error>(&mut self, text: usize) -> Result<(), E> {
        let left = self.0.checked_sub(VALUE_BYTES + text);
        *self.0 = left.ok_or_else(|| E::custom("its parts are larger than any tokenizer's"))?;
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Small<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Small<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(mut self) -> Result<Value, E> {
        self.pay(0).map(|()| Value::Null)
    }

    fn visit_bool<E: Error>(mut self, v: bool) -> Result<Value, E> {
        self.pay(0).map(|()| v.into())
    }

    fn visit_i64<E: Error>(mut self, v: i64) -> Result<Value, E> {
        self.pay(0).map(|()| v.into())
    }

    fn visit_u64<E: Error>(mut self, v: u64) -> Result<Value, E> {
        self.pay(0).map(|()| v.into())
    }

    fn visit_f64<E: Error>(mut self, v: f64) -> Result<Value, E> {
        self.pay(0).map(|()| v.into())
    }

    fn visit_str<E: Error>(mut self, v: &str) -> Result<Value, E> {
        self.pay(v.len()).map(|()| v.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<Value, A::Error> {
        self.pay(0)?;
        let mut values = Vec::new();
        while let Some(value) = seq.next_element_seed(Small(self.0))? {
            values.push(value);
        }
        Ok(values.into())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut access: A) -> Result<Value, A::Error> {
        self.pay(0)?;
        let mut map = Map::new();
        while let Some(key) = access.next_key::<String>()? {
            self.pay(key.len())?;
            map.insert(key, access.next_value_seed(Small(self.0))?);
        }
        Ok(map.into())
    }
}

/// The two tokens of a merge, `"a b"` or `["a", "b"]`, joined in a buffer: where the second begins, or `None`
/// for a line that only names the version.
pub(super) struct Pair<'a>(pub(super) &'a mut String);

impl<'de> DeserializeSeed<'de> for Pair<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        self.0.clear();
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Pair<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a merge, which is two tokens")
    }

    fn visit_str<E: Error>(self, line: &str) -> Result<Self::Value, E> {
        if line.starts_with("#version") {
            return Ok(None);
        }
        let two = line.split_once(' ').filter(|(_, right)| !right.contains(' '));
        let (left, right) =
            two.ok_or_else(|| E::invalid_value(Unexpected::Other("text"), &self))?;
        self.0.push_str(left);
        self.0.push_str(right);
        Ok(Some(left.len()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let expected = "a merge, which is two tokens";
        let missing = |n| A::Error::invalid_length(n, &expected);
        seq.next_element_seed(Append(self.0))?.ok_or_else(|| missing(0))?;
        let middle = self.0.len();
        seq.next_element_seed(Append(self.0))?.ok_or_else(|| missing(1))?;
        match seq.next_element::<IgnoredAny>()? {
            None => Ok(Some(middle)),
            Some(_) => Err(missing(3)),
        }
    }
}

struct Append<'a>(&'a mut String);

impl<'de> DeserializeSeed<'de> for Append<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_str(self)
    }
}

impl Visitor<'_> for Append<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a token")
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        self.0.push_str(text);
        Ok(())
    }
}

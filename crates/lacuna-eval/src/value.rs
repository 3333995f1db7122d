//! Holds plain Python values outside of Python, and compares them as Python would: by what they are, since nothing of a
//! program's own can stand among them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value as Json, json};

/// A value of one of Python's plain types, none of a subclass.
///
/// ```
/// use lacuna_eval::Value;
///
/// assert!(Value::Bool(true).equals(&Value::Float(1.0)), "as in Python");
/// assert!(!Value::List(vec![]).equals(&Value::Tuple(vec![])));
/// ```
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `None`.
    None,
    /// `True` or `False`.
    Bool(bool),
    /// A whole number of 64 bits.
    Int(i64),
    /// A whole number beyond 64 bits, as Python's `hex` spells it.
    Big(String),
    /// A number with a point, infinities and NaN included.
    Float(f64),
    /// A complex number.
    Complex(f64, f64),
    /// A text.
    Text(String),
    /// Bytes.
    Bytes(Vec<u8>),
    /// A list.
    List(Vec<Value>),
    /// A tuple.
    Tuple(Vec<Value>),
    /// A set.
    Set(Vec<Value>),
    /// A set that does not change.
    FrozenSet(Vec<Value>),
    /// A dictionary.
    Dict(Vec<(Value, Value)>),
}

impl Value {
    /// Reads a value as the scripts in the sandbox spell it: JSON as it is for what JSON has, else an object with one key,
    /// the tag of a type.
    ///
    /// # Errors
    /// The reason why it is none.
    pub fn from_json(json: &Json) -> Result<Value, String> {
        match json {
            Json::Null => Ok(Value::None),
            Json::Bool(truth) => Ok(Value::Bool(*truth)),
            Json::Number(number) => number
                .as_i64()
                .map(Value::Int)
                .ok_or_else(|| format!("{number} is no tagged number")),
            Json::String(text) => Ok(Value::Text(text.clone())),
            Json::Array(items) => list(items).map(Value::List),
            Json::Object(object) => {
                let mut entries = object.iter();
                match (entries.next(), entries.next()) {
                    (Some((tag, inner)), None) => tagged(tag, inner),
                    _ => Err("an object without its one tag".into()),
                }
            }
        }
    }

    /// The same spelling, which the scripts read.
    #[must_use]
    pub fn to_json(&self) -> Json {
        let all = |items: &[Value]| items.iter().map(Value::to_json).collect::<Json>();
        match self {
            Value::None => Json::Null,
            Value::Bool(truth) => json!(truth),
            Value::Int(number) => json!(number),
            Value::Big(hex) => json!({ "i": hex }),
            Value::Float(number) => json!({ "f": spelled(*number) }),
            Value::Complex(real, imaginary) => {
                json!({ "c": [spelled(*real), spelled(*imaginary)] })
            }
            Value::Text(text) => json!(text),
            Value::Bytes(bytes) => {
                json!({ "b": bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>() })
            }
            Value::List(items) => all(items),
            Value::Tuple(items) => json!({ "t": all(items) }),
            Value::Set(items) => json!({ "s": all(items) }),
            Value::FrozenSet(items) => json!({ "z": all(items) }),
            Value::Dict(items) => {
                let items = items.iter().map(|(key, item)| json!([key.to_json(), item.to_json()]));
                json!({ "d": items.collect::<Json>() })
            }
        }
    }

    /// Tells whether Python's `==` holds between two values. (Lists that hold the same NaN are equal there by identity;
    /// values that came from two processes never are the same.)
    #[must_use]
    pub fn equals(&self, other: &Value) -> bool {
        match (self, other) {
            (Value::None, Value::None) => true,
            (Value::Text(a), Value::Text(b)) => a == b,
            (Value::Bytes(a), Value::Bytes(b)) => a == b,
            (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.equals(b))
            }
            (Value::Set(a) | Value::FrozenSet(a), Value::Set(b) | Value::FrozenSet(b)) => {
                matches!((keys(a), keys(b)), (Some(a), Some(b)) if a == b)
            }
            (Value::Dict(a), Value::Dict(b)) => same_items(a, b),
            _ => match (self.key(), other.key()) {
                (Some(a), Some(b)) => self.is_number() && other.is_number() && a == b,
                _ => false,
            },
        }
    }

    /// A name that two values share if and only if they are equal; `None` of what has no hash in Python, and of NaN,
    /// which equals nothing.
    #[must_use]
    pub fn key(&self) -> Option<String> {
        let all = |items: &[Value]| items.iter().map(Value::key).collect::<Option<Vec<_>>>();
        // Each part is preceded by its length, so that no text can imitate the border between two.
        let joined = |kind: &str, parts: Vec<String>| {
            let parts = parts.into_iter().map(|part| format!("{}:{part}", part.len()));
            format!("{kind}({})", parts.collect::<String>())
        };
        Some(match self {
            Value::None => "none".into(),
            Value::Bool(truth) => format!("n{}", i64::from(*truth)),
            Value::Int(number) => format!("n{number}"),
            Value::Big(hex) => format!("n{hex}"),
            Value::Float(number) => number_key(*number)?,
            Value::Complex(real, imaginary) => {
                match (number_key(*real)?, number_key(*imaginary)?) {
                    (real, imaginary) if imaginary == "n0" => real,
                    (real, imaginary) => format!("c{real},{imaginary}"),
                }
            }
            // A capital, since the names of sets and tuples begin with small letters.
            Value::Text(text) => format!("T{text}"),
            Value::Bytes(bytes) => format!("b{bytes:?}"),
            Value::Tuple(items) => joined("tuple", all(items)?),
            Value::FrozenSet(items) => joined("set", keys(items)?.into_iter().collect()),
            Value::List(_) | Value::Set(_) | Value::Dict(_) => return None,
        })
    }

    /// The items of what Python's `for` walks through; a dictionary's are its keys.
    #[must_use]
    pub fn items(&self) -> Option<Vec<Value>> {
        match self {
            Value::List(items)
            | Value::Tuple(items)
            | Value::Set(items)
            | Value::FrozenSet(items) => Some(items.clone()),
            Value::Dict(items) => Some(items.iter().map(|(key, _)| key.clone()).collect()),
            Value::Text(text) => Some(text.chars().map(|c| Value::Text(c.to_string())).collect()),
            Value::Bytes(bytes) => {
                Some(bytes.iter().map(|byte| Value::Int((*byte).into())).collect())
            }
            _ => None,
        }
    }

    /// It as a real number, as numpy would take it; whole numbers beyond 64 bits are none there.
    pub(crate) fn as_f64(&self) -> Option<f64> {
        match self {
            Value::Bool(truth) => Some(f64::from(u8::from(*truth))),
            Value::Int(number) => Some(*number as f64),
            Value::Float(number) => Some(*number),
            _ => None,
        }
    }

    /// Tells whether two are of one type.
    pub(crate) fn is_of_type(&self, other: &Value) -> bool {
        let kind = |value: &Value| match value {
            // One type in two forms.
            Value::Big(_) => std::mem::discriminant(&Value::Int(0)),
            other => std::mem::discriminant(other),
        };
        kind(self) == kind(other)
    }

    fn is_number(&self) -> bool {
        matches!(
            self,
            Value::Bool(_) | Value::Int(_) | Value::Big(_) | Value::Float(_) | Value::Complex(..)
        )
    }
}

fn tagged(tag: &str, inner: &Json) -> Result<Value, String> {
    let text = || inner.as_str().ok_or_else(|| format!("`{tag}` holds no text"));
    let items = || match inner {
        Json::Array(items) => list(items),
        _ => Err(format!("`{tag}` holds no list")),
    };
    match tag {
        "i" => big(text()?),
        "f" => float(text()?).map(Value::Float),
        "c" => match inner.as_array().map(Vec::as_slice) {
            Some([Json::String(real), Json::String(imaginary)]) => {
                Ok(Value::Complex(float(real)?, float(imaginary)?))
            }
            _ => Err("a complex number of something else than two parts".into()),
        },
        "b" => hex(text()?).map(Value::Bytes).ok_or_else(|| "bytes that are no hex".into()),
        "t" => items().map(Value::Tuple),
        "s" => hashable(items()?).map(Value::Set),
        "z" => hashable(items()?).map(Value::FrozenSet),
        "d" => {
            let pairs = inner.as_array().ok_or("`d` holds no list")?;
            let pair = |pair: &Json| match pair.as_array().map(Vec::as_slice) {
                Some([key, item]) => {
                    let key = hashable(vec![Value::from_json(key)?])?.remove(0);
                    Ok((key, Value::from_json(item)?))
                }
                _ => Err("an item of a dictionary that is no pair".to_owned()),
            };
            pairs.iter().map(pair).collect::<Result<_, _>>().map(Value::Dict)
        }
        _ => Err(format!("`{}` is no tag", lacuna_files::short(tag))),
    }
}

fn list(items: &[Json]) -> Result<Vec<Value>, String> {
    items.iter().map(Value::from_json).collect()
}

/// Members of a set and keys have a hash; NaN has one too.
fn hashable(items: Vec<Value>) -> Result<Vec<Value>, String> {
    fn has_hash(value: &Value) -> bool {
        match value {
            Value::List(_) | Value::Set(_) | Value::Dict(_) => false,
            Value::Tuple(items) | Value::FrozenSet(items) => items.iter().all(has_hash),
            _ => true,
        }
    }
    match items.iter().all(has_hash) {
        true => Ok(items),
        false => Err("a list, set or dictionary where only what has a hash can stand".into()),
    }
}

/// A number of more than 64 bits in the one spelling that Python's `hex` has for it.
fn big(text: &str) -> Result<Value, String> {
    let digits = text.strip_prefix('-').unwrap_or(text).strip_prefix("0x").unwrap_or_default();
    let is_hex = digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let is_beyond = match digits.len() {
        0..=15 => false,
        16 if text.starts_with('-') => digits > "8000000000000000",
        16 => digits >= "8000000000000000",
        _ => true,
    };
    match is_hex && is_beyond && !digits.starts_with('0') {
        true => Ok(Value::Big(text.to_owned())),
        false => Err("`i` holds no number beyond 64 bits as `hex` spells it".into()),
    }
}

fn float(text: &str) -> Result<f64, String> {
    text.parse().map_err(|_| format!("`{}` is no number", lacuna_files::short(text)))
}

/// A number as Python reads it.
fn spelled(number: f64) -> String {
    match number {
        number if number.is_nan() => "nan".into(),
        number if number.is_infinite() => if number > 0.0 { "inf" } else { "-inf" }.into(),
        number => format!("{number:?}"),
    }
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let pairs = text.as_bytes().chunks(2);
    pairs
        .map(|pair| match pair {
            [high, low] => u8::try_from(digit(*high)? << 4 | digit(*low)?).ok(),
            _ => None,
        })
        .collect()
}

/// The name of a number: whole ones share theirs with whole numbers of every type.
fn number_key(number: f64) -> Option<String> {
    if number.is_nan() {
        return None;
    }
    if number.is_infinite() || number.fract() != 0.0 {
        return Some(format!("f{:x}", number.to_bits()));
    }
    // 2^63 is exact, and the first that is too large.
    if (-9_223_372_036_854_775_808.0..9_223_372_036_854_775_808.0).contains(&number) {
        return Some(format!("n{}", number as i64));
    }
    Some(format!("n{}", whole_hex(number)))
}

/// A whole number beyond 64 bits as `hex(int(x))` spells it.
fn whole_hex(number: f64) -> String {
    let bits = number.abs().to_bits();
    let mantissa = (bits & ((1 << 52) - 1)) | 1 << 52;
    // At least 11, since the number is 2^63 at least.
    let shift = (bits >> 52) as usize - 1023 - 52;
    let sign = if number < 0.0 { "-" } else { "" };
    format!("{sign}0x{:x}{}", mantissa << (shift % 4), "0".repeat(shift / 4))
}

/// The names of a set's members, or nothing if one of them equals nothing.
fn keys(items: &[Value]) -> Option<BTreeSet<String>> {
    items.iter().map(Value::key).collect()
}

fn same_items(a: &[(Value, Value)], b: &[(Value, Value)]) -> bool {
    let named = |items: &[(Value, Value)]| -> Option<BTreeMap<String, Value>> {
        items.iter().map(|(key, item)| Some((key.key()?, item.clone()))).collect()
    };
    let (Some(a), Some(b)) = (named(a), named(b)) else { return false };
    a.len() == b.len() && a.iter().zip(&b).all(|((a, x), (b, y))| a == b && x.equals(y))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Value {
        Value::from_json(&serde_json::from_str(text).unwrap())
            .unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    #[test]
    fn values_are_equal_as_in_python() {
        for (a, b, equal) in [
            ("1", r#"{"f":"1.0"}"#, true),
            ("true", "1", true),
            ("false", "null", false),
            (r#"{"c":["1.0","0.0"]}"#, "1", true),
            (r#"{"c":["1.0","1.0"]}"#, "1", false),
            (r#"{"f":"nan"}"#, r#"{"f":"nan"}"#, false),
            (r#"{"f":"-0.0"}"#, "0", true),
            (r#"{"f":"inf"}"#, r#"{"f":"inf"}"#, true),
            ("[1,2]", r#"{"t":[1,2]}"#, false),
            (r#"{"s":[1,2]}"#, r#"{"z":[2,1]}"#, true),
            (r#"{"s":[1]}"#, r#"{"s":[{"f":"1.0"}]}"#, true),
            (r#"{"d":[[1,"a"],[2,"b"]]}"#, r#"{"d":[[2,"b"],[1,"a"]]}"#, true),
            (r#"{"d":[[1,"a"]]}"#, r#"{"d":[[1,"b"]]}"#, false),
            (r#"{"i":"0x8000000000000000"}"#, r#"{"f":"9.223372036854775808e18"}"#, true),
            (r#"{"i":"-0x10000000000000000"}"#, r#"{"f":"-1.8446744073709551616e19"}"#, true),
            (r#"{"i":"0x10000000000000001"}"#, r#"{"f":"1.8446744073709551616e19"}"#, false),
            (r#""1""#, "1", false),
            (r#"{"b":"31"}"#, r#""1""#, false),
            (r#"{"t":["a","bc"]}"#, r#"{"t":["ab","c"]}"#, false),
        ] {
            assert_eq!(read(a).equals(&read(b)), equal, "{a} == {b}");
            assert_eq!(read(b).equals(&read(a)), equal, "{b} == {a}");
        }
    }

    #[test]
    fn what_is_no_plain_value_is_refused() {
        for text in [
            "1.5",
            "{}",
            r#"{"f":"1","t":[]}"#,
            r#"{"f":1}"#,
            r#"{"q":[]}"#,
            r#"{"s":[[1]]}"#,
            r#"{"d":[[[1],2]]}"#,
            r#"{"d":[[1]]}"#,
            r#"{"i":"0x1"}"#,
            r#"{"i":"0X8000000000000000"}"#,
            r#"{"i":"0x08000000000000000"}"#,
            r#"{"i":"9"}"#,
            r#"{"b":"0"}"#,
            r#"{"c":["1"]}"#,
            "18446744073709551615",
        ] {
            assert!(Value::from_json(&serde_json::from_str(text).unwrap()).is_err(), "{text}");
        }
    }

    #[test]
    fn a_value_survives_its_spelling() {
        let text = r#"{"t":[null,true,-3,{"i":"0x8000000000000000"},{"f":"-inf"},{"f":"0.1"},{"c":["0.0","-1.5"]},"ä\"",{"b":"00ff"},[{"s":[1]},{"z":[]}],{"d":[["k",[]]]}]}"#;
        let value = read(text);
        assert_eq!(Value::from_json(&value.to_json()).unwrap(), value);
    }
}

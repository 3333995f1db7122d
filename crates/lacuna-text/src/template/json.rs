//! Writes `tojson` as transformers has it: Python's `json.dumps`, character for character.

use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};
use std::fmt::Write;

use super::guard;

/// Deeper indents are no layout.
const WIDEST: i64 = 64;

/// `tojson(value, ensure_ascii=false, indent=none, separators=none, sort_keys=false)`.
pub(super) fn to_json(
    state: &State,
    value: Value,
    positional: Rest<Value>,
    named: Kwargs,
) -> Result<Value, Error> {
    guard::pay_for(state, &value)?;
    let names = ["ensure_ascii", "indent", "separators", "sort_keys"];
    let option = |place: usize| -> Result<Option<Value>, Error> {
        let given = positional.get(place).cloned();
        let given = given.or(named.get::<Option<Value>>(names[place])?);
        Ok(given.filter(|value| !value.is_none() && !value.is_undefined()))
    };
    let indent = option(1)?.map(|indent| indentation(&indent)).transpose()?;
    let separators = option(2)?.map(|pair| separators(&pair)).transpose()?;
    let default = if indent.is_some() { "," } else { ", " };
    let (item, key) = separators.unwrap_or_else(|| (default.to_owned(), ": ".to_owned()));
    let mut writer = Writer {
        text: String::new(),
        ascii: option(0)?.is_some_and(|ascii| ascii.is_true()),
        sorted: option(3)?.is_some_and(|sorted| sorted.is_true()),
        indent,
        item,
        key,
    };
    writer.value(&value, 0)?;
    state.consume_fuel(writer.text.len() as u64 / 64)?;
    Ok(Value::from_safe_string(writer.text))
}

fn refuse(reason: impl Into<String>) -> Error {
    Error::new(ErrorKind::BadSerialization, reason.into())
}

/// A number of spaces, or what stands for one step.
fn indentation(indent: &Value) -> Result<String, Error> {
    if let Some(text) = indent.as_str() {
        return match text.len() <= WIDEST as usize && text.trim().is_empty() {
            true => Ok(text.to_owned()),
            false => Err(refuse(format!(
                "tojson: an indent is a number or white space, at most {WIDEST} of it"
            ))),
        };
    }
    let width = i64::try_from(indent.clone()).map_err(|_| refuse("tojson: indent is no number"))?;
    Ok(" ".repeat(width.clamp(0, WIDEST) as usize))
}

/// The text between items, and between a key and its value.
fn separators(pair: &Value) -> Result<(String, String), Error> {
    let texts: Vec<Value> = pair.try_iter()?.take(3).collect();
    match texts.iter().map(Value::as_str).collect::<Vec<_>>()[..] {
        [Some(item), Some(key)] if item.len() + key.len() <= WIDEST as usize => {
            Ok((item.to_owned(), key.to_owned()))
        }
        _ => Err(refuse("tojson: separators are two texts")),
    }
}

struct Writer {
    text: String,
    ascii: bool,
    sorted: bool,
    indent: Option<String>,
    item: String,
    key: String,
}

impl Writer {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        match value.kind() {
            ValueKind::Undefined => {
                return Err(refuse("tojson: an undefined value has no JSON"));
            }
            ValueKind::None => self.text.push_str("null"),
            ValueKind::Bool => self.text.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.number(value),
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Map => {
                let mut entries = Vec::new();
                for key in value.try_iter()? {
                    let spelled = self.spelled_key(&key)?;
                    entries.push((spelled, value.get_item(&key)?));
                }
                if self.sorted {
                    entries.sort_by(|(a, _), (b, _)| a.cmp(b));
                }
                self.items("{", "}", depth, entries, |writer, (key, value), depth| {
                    writer.string(&key);
                    writer.text.push_str(&writer.key.clone());
                    writer.value(&value, depth)
                })?;
            }
            ValueKind::Seq | ValueKind::Iterable => {
                let items = value.try_iter()?.collect();
                self.items("[", "]", depth, items, |writer, item, depth| {
                    writer.value(&item, depth)
                })?;
            }
            other => return Err(refuse(format!("tojson: {other} has no JSON"))),
        }
        Ok(())
    }

    fn items<T>(
        &mut self,
        open: &str,
        close: &str,
        depth: usize,
        items: Vec<T>,
        write: impl Fn(&mut Self, T, usize) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.text.push_str(open);
        let any = !items.is_empty();
        for (n, item) in items.into_iter().enumerate() {
            if n > 0 {
                self.text.push_str(&self.item.clone());
            }
            self.line(depth + 1);
            write(self, item, depth + 1)?;
        }
        if any {
            self.line(depth);
        }
        self.text.push_str(close);
        Ok(())
    }

    fn line(&mut self, depth: usize) {
        if let Some(indent) = &self.indent {
            self.text.push('\n');
            self.text.push_str(&indent.repeat(depth));
        }
    }

    /// A key as text: Python spells numbers, truths and none out.
    fn spelled_key(&self, key: &Value) -> Result<String, Error> {
        match key.kind() {
            ValueKind::String => Ok(key.as_str().unwrap_or_default().to_owned()),
            ValueKind::Bool | ValueKind::Number | ValueKind::None => {
                let mut writer = Writer {
                    text: String::new(),
                    ascii: false,
                    sorted: false,
                    indent: None,
                    item: String::new(),
                    key: String::new(),
                };
                writer.value(key, 0)?;
                Ok(writer.text)
            }
            other => Err(refuse(format!("tojson: a key is {other}, expected a text"))),
        }
    }

    fn number(&mut self, value: &Value) {
        if value.is_integer() {
            let _ = write!(self.text, "{value}");
            return;
        }
        match f64::try_from(value.clone()) {
            Ok(number) => self.text.push_str(&float(number)),
            Err(_) => _ = write!(self.text, "{value}"),
        }
    }

    fn string(&mut self, text: &str) {
        self.text.push('"');
        for c in text.chars() {
            match c {
                '"' => self.text.push_str("\\\""),
                '\\' => self.text.push_str("\\\\"),
                '\n' => self.text.push_str("\\n"),
                '\r' => self.text.push_str("\\r"),
                '\t' => self.text.push_str("\\t"),
                '\u{8}' => self.text.push_str("\\b"),
                '\u{c}' => self.text.push_str("\\f"),
                c if u32::from(c) < 0x20 || (self.ascii && !c.is_ascii()) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        let _ = write!(self.text, "\\u{unit:04x}");
                    }
                }
                c => self.text.push(c),
            }
        }
        self.text.push('"');
    }
}

/// A number as Python's `repr` writes it: the shortest digits, with an exponent from 1e16 on and below 1e-4.
fn float(number: f64) -> String {
    if number.is_nan() {
        return "NaN".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "Infinity".into() } else { "-Infinity".into() };
    }
    let size = number.abs();
    if size != 0.0 && !(1e-4..1e16).contains(&size) {
        let short = format!("{number:e}");
        let (digits, exponent) = short.split_once('e').unwrap_or((&short, "0"));
        let exponent: i32 = exponent.parse().unwrap_or(0);
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    format!("{number:?}")
}

#[cfg(test)]
mod tests {
    use super::float;

    #[test]
    fn numbers_are_written_as_python_writes_them() {
        for (number, text) in [
            (1.0, "1.0"),
            (0.1, "0.1"),
            (1e16, "1e+16"),
            (123_456_789_012_345.0, "123456789012345.0"),
            (1.5e-5, "1.5e-05"),
            (0.0001, "0.0001"),
            (-2.5e300, "-2.5e+300"),
            (0.0, "0.0"),
        ] {
            assert_eq!(float(number), text);
        }
    }
}

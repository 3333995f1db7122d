//! Reads JSON as other programs write it, and has words for what is not JSON.

use crate::corpus::Reason;

/// Stands for half of a character in repaired text: a code point that Unicode keeps out of texts.
pub(crate) const HALF: char = '\u{fdd0}';

/// The reason why a record is passed over: the reason that is counted, and what is wrong in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) reason: Reason,
    pub(crate) words: String,
}

impl Fault {
    pub(crate) fn new(reason: Reason, words: impl Into<String>) -> Self {
        Self { reason, words: words.into() }
    }
}

/// Reads a record. Python's `NaN`, `Infinity` and `-Infinity`, and numbers that no f64 holds, are read
/// as null; half of a surrogate pair is read as [`HALF`].
pub(crate) fn parse<T>(
    bytes: &[u8],
    read: impl Fn(&[u8]) -> serde_json::Result<T>,
) -> Result<T, Fault> {
    if std::str::from_utf8(bytes).is_err() {
        return Err(Fault::new(Reason::NotUtf8, "not UTF-8"));
    }
    let error = match read(bytes) {
        Ok(record) => return Ok(record),
        Err(error) => error,
    };
    if let Some(repaired) = repaired(bytes)
        && let Ok(record) = read(&repaired)
    {
        return Ok(record);
    }
    let words = if bytes.first() != Some(&b'{') {
        format!("it begins with {:?}", String::from_utf8_lossy(&bytes[..bytes.len().min(1)]))
    } else if error.is_eof() {
        "it ends in the middle".to_owned()
    } else if deepest(bytes) > 120 {
        "it is nested too deep".to_owned()
    } else {
        format!("it is not JSON from character {} on", error.column())
    };
    Err(Fault::new(Reason::NotJson, words))
}

/// The record in JSON's own words; `None` where it uses no others.
fn repaired(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(bytes.len());
    let (mut at, mut changed, mut in_string) = (0, false, false);
    while let Some(&byte) = bytes.get(at) {
        let rest = &bytes[at..];
        if in_string {
            let taken = if byte != b'\\' {
                in_string = byte != b'"';
                1
            } else if let Some(first) = escape(rest).filter(|unit| (0xd800..0xe000).contains(unit))
            {
                let second = escape(rest.get(6..).unwrap_or_default());
                if first < 0xdc00 && second.is_some_and(|unit| (0xdc00..0xe000).contains(&unit)) {
                    12
                } else {
                    changed = true;
                    at += 6;
                    out.extend_from_slice(HALF.encode_utf8(&mut [0; 4]).as_bytes());
                    continue;
                }
            } else {
                2
            };
            let taken = taken.min(rest.len());
            out.extend_from_slice(&rest[..taken]);
            at += taken;
            continue;
        }
        in_string = byte == b'"';
        let known = [&b"NaN"[..], b"Infinity", b"-Infinity", b"-NaN"];
        if let Some(word) = known.iter().find(|word| rest.starts_with(word)) {
            out.extend_from_slice(b"null");
            (at, changed) = (at + word.len(), true);
        } else if byte == b'-' || byte.is_ascii_digit() {
            let is_part = |byte: &u8| byte.is_ascii_digit() || b"+-.eE".contains(byte);
            let length = rest.iter().position(|byte| !is_part(byte)).unwrap_or(rest.len());
            let number = std::str::from_utf8(&rest[..length]).ok().and_then(|n| n.parse().ok());
            let beyond = number.is_some_and(f64::is_infinite);
            out.extend_from_slice(if beyond { b"null" } else { &rest[..length] });
            (at, changed) = (at + length, changed || beyond);
        } else {
            out.push(byte);
            at += 1;
        }
    }
    changed.then_some(out)
}

/// The UTF-16 unit of `\uXXXX`, if the bytes begin with one.
fn escape(bytes: &[u8]) -> Option<u32> {
    let digits = bytes.strip_prefix(b"\\u")?.first_chunk::<4>()?;
    let digits = std::str::from_utf8(digits).ok().filter(|text| !text.starts_with('+'))?;
    u32::from_str_radix(digits, 16).ok()
}

fn deepest(bytes: &[u8]) -> usize {
    let (mut depth, mut most, mut in_string, mut escaped) = (0usize, 0, false, false);
    for byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => depth += 1,
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        most = most.max(depth);
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn read(text: &str) -> Result<Value, Fault> {
        parse(text.as_bytes(), |bytes| serde_json::from_slice(bytes))
    }

    #[test]
    fn what_python_writes_is_read() {
        let text = r#"{"a": NaN, "b": [Infinity, -Infinity], "c": "NaN \" -Infinity", "d": 1e999}"#;
        let expected = json!({"a": null, "b": [null, null], "c": "NaN \" -Infinity", "d": null});
        assert_eq!(read(text), Ok(expected));
        let half = r#"{"a": "x\ud800y", "b": "\ud83d\ude00\\ud800", "c": "\udc00\ud800"}"#;
        let expected = json!({"a": "x\u{fdd0}y", "b": "😀\\ud800", "c": "\u{fdd0}\u{fdd0}"});
        assert_eq!(read(half), Ok(expected));
    }

    #[test]
    fn what_is_no_json_is_said_in_words() {
        let words = |text: &str| read(text).unwrap_err().words;
        assert_eq!(words(r#"{"a": "#), "it ends in the middle");
        assert_eq!(words(r#"{"a": 'x'}"#), "it is not JSON from character 7 on");
        assert_eq!(words("text"), "it begins with \"t\"");
        let deep = format!("{{\"a\": {}", "[".repeat(500));
        assert_eq!(words(&deep), "it is nested too deep");
        let latin = parse(b"{\"a\": \"\xe9\"}", |bytes| Ok(bytes.to_vec())).unwrap_err();
        assert_eq!(latin.reason, Reason::NotUtf8);
    }
}

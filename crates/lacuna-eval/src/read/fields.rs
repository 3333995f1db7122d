//! Takes JSON apart without reading the numbers in it: data sets hold whole numbers of any size, and `NaN`, which only
//! the language that wrote them reads as they are meant.

use serde_json::Value as Json;

/// Deeper values are nobody's data.
const DEEPEST: usize = 256;

/// The keys of an object, each with its value's text.
#[derive(Debug)]
pub(super) struct Fields<'a>(Vec<(String, &'a str)>);

impl<'a> Fields<'a> {
    /// The text of a value.
    pub(super) fn raw(&self, key: &str) -> Result<&'a str, String> {
        let found = self.0.iter().find(|(name, _)| name == key);
        found.map(|(_, raw)| *raw).ok_or_else(|| format!("`{key}` is missing"))
    }

    /// A value that JSON knows.
    pub(super) fn json(&self, key: &str) -> Result<Json, String> {
        serde_json::from_str(self.raw(key)?).map_err(|error| format!("`{key}`: {error}"))
    }

    /// A value that is text.
    pub(super) fn text(&self, key: &str) -> Result<String, String> {
        match self.json(key)? {
            Json::String(text) => Ok(text),
            _ => Err(format!("`{key}` is no text")),
        }
    }

    /// A value that is a list of texts, if there is one of that name.
    pub(super) fn texts(&self, key: &str) -> Result<Vec<String>, String> {
        if self.raw(key).is_err() {
            return Ok(Vec::new());
        }
        let not = || format!("`{key}` is no list of texts");
        let Json::Array(items) = self.json(key)? else { return Err(not()) };
        items.into_iter().map(|item| item.as_str().map(str::to_owned).ok_or_else(not)).collect()
    }
}

/// The keys and values of a text that is one object.
///
/// # Errors
/// The reason why it is none.
pub(super) fn raw(text: &str) -> Result<Fields<'_>, String> {
    let mut scan = Scan { text, at: 0 };
    let mut fields: Vec<(String, &str)> = Vec::new();
    scan.expect(b'{')?;
    if !scan.takes(b'}') {
        loop {
            let key = scan.value()?;
            let key: String = serde_json::from_str(key).map_err(|_| "a key that is no text")?;
            scan.expect(b':')?;
            let value = scan.value()?;
            if fields.iter().any(|(name, _)| *name == key) {
                return Err(format!("`{}` comes twice", lacuna_files::short(&key)));
            }
            fields.push((key, value));
            if scan.takes(b'}') {
                break;
            }
            scan.expect(b',')?;
        }
    }
    scan.end()?;
    Ok(Fields(fields))
}

/// The items of a text that is one list.
///
/// # Errors
/// The reason why it is none.
pub(super) fn items(text: &str) -> Result<Vec<&str>, String> {
    let mut scan = Scan { text, at: 0 };
    let mut items = Vec::new();
    scan.expect(b'[')?;
    if !scan.takes(b']') {
        loop {
            items.push(scan.value()?);
            if scan.takes(b']') {
                break;
            }
            scan.expect(b',')?;
        }
    }
    scan.end()?;
    Ok(items)
}

struct Scan<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scan<'a> {
    fn rest(&self) -> &'a [u8] {
        &self.text.as_bytes()[self.at..]
    }

    /// Passes over white space; the next byte.
    fn next(&mut self) -> Option<u8> {
        self.at += self.rest().iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        self.rest().first().copied()
    }

    fn takes(&mut self, byte: u8) -> bool {
        let is_next = self.next() == Some(byte);
        self.at += usize::from(is_next);
        is_next
    }

    fn expect(&mut self, byte: u8) -> Result<(), String> {
        match self.takes(byte) {
            true => Ok(()),
            false => Err(format!("no `{}` at byte {}", char::from(byte), self.at)),
        }
    }

    fn end(&mut self) -> Result<(), String> {
        match self.next() {
            None => Ok(()),
            Some(_) => Err(format!("something more at byte {}", self.at)),
        }
    }

    /// The text of the next value. Brackets are counted; who reads the value sees whether they are the right ones.
    fn value(&mut self) -> Result<&'a str, String> {
        self.next();
        let start = self.at;
        let mut depth = 0;
        loop {
            match self.next() {
                None => return Err(format!("the value at byte {start} does not end")),
                Some(b'"') => self.string()?,
                Some(b'{' | b'[') => {
                    depth += 1;
                    self.at += 1;
                    if depth > DEEPEST {
                        return Err(format!("the value at byte {start} is nested too deeply"));
                    }
                    continue;
                }
                Some(b'}' | b']') if depth > 0 => {
                    depth -= 1;
                    self.at += 1;
                }
                Some(b',' | b':') if depth > 0 => {
                    self.at += 1;
                    continue;
                }
                Some(_) => {
                    let word = self.rest().iter();
                    let is_word =
                        |byte: &&u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
                    let length = word.take_while(is_word).count();
                    if length == 0 {
                        return Err(format!("no value at byte {}", self.at));
                    }
                    self.at += length;
                }
            }
            if depth == 0 {
                return Ok(&self.text[start..self.at]);
            }
        }
    }

    fn string(&mut self) -> Result<(), String> {
        let start = self.at;
        self.at += 1;
        loop {
            match self.rest().first() {
                None => return Err(format!("the text at byte {start} does not end")),
                Some(b'"') => break self.at += 1,
                Some(b'\\') if self.rest().len() > 1 => self.at += 2,
                Some(_) => self.at += 1,
            }
        }
        Ok(())
    }
}

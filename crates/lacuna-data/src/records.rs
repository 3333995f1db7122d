//! Reads JSON records as others write them: one a line, or the elements of one array; and the rows of Parquet files.

use std::io::{self, BufRead, Cursor, Read};

#[cfg(feature = "parquet")]
pub(crate) mod columns;
mod json;
mod stream;

pub(crate) use json::{Fault, HALF, parse};
pub(crate) use stream::{Counted, cause, is_damage, stopped, unpacked};

/// The place of a record, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// The line that it begins in.
    pub(crate) line: usize,
    /// The number of the record in its file: the line again, or the element of the array.
    pub(crate) number: usize,
}

/// The beginning of a file of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// One object a line.
    Lines,
    /// `[`: the elements of an array.
    Array,
    /// A byte order mark of UTF-16.
    Utf16,
}

/// One record after the other, none of which is held beyond `limit` bytes.
pub(crate) struct Records<R> {
    input: R,
    limit: usize,
    shape: Shape,
    line: usize,
    number: usize,
}

const MARK: &[u8] = "\u{feff}".as_bytes();

impl<R: BufRead> Records<io::Chain<Cursor<Vec<u8>>, R>> {
    /// Passes over a byte order mark and blank lines, and looks what is there.
    pub(crate) fn new(mut input: R, limit: usize) -> io::Result<Self> {
        let mut head = vec![];
        input.by_ref().take(MARK.len() as u64).read_to_end(&mut head)?;
        let mut shape = Shape::Lines;
        if head.starts_with(&[0xff, 0xfe]) || head.starts_with(&[0xfe, 0xff]) {
            shape = Shape::Utf16;
        }
        if head == MARK {
            head.clear();
        }
        let mut records =
            Self { input: Cursor::new(head).chain(input), limit, shape, line: 1, number: 0 };
        if shape == Shape::Lines {
            records.skip_space()?;
            if records.peek()? == Some(b'[') {
                records.input.consume(1);
                records.shape = Shape::Array;
            }
        }
        Ok(records)
    }
}

impl<R: BufRead> Records<R> {
    pub(crate) fn shape(&self) -> Shape {
        self.shape
    }

    /// The line that is being read: where damage stands.
    pub(crate) fn line(&self) -> usize {
        self.line
    }

    /// The next record; without its bytes where it is above the limit.
    pub(crate) fn next(&mut self) -> io::Result<Option<(Place, Option<Vec<u8>>)>> {
        match self.shape {
            Shape::Lines => self.next_line(),
            Shape::Array => self.next_element(),
            Shape::Utf16 => Ok(None),
        }
    }

    fn next_line(&mut self) -> io::Result<Option<(Place, Option<Vec<u8>>)>> {
        loop {
            let place = Place { line: self.line, number: self.line };
            let mut line = vec![];
            let limit = self.limit as u64 + 1;
            if self.input.by_ref().take(limit).read_until(b'\n', &mut line)? == 0 {
                return Ok(None);
            }
            if line.len() > self.limit && !line.ends_with(b"\n") {
                self.input.skip_until(b'\n')?;
                self.line += 1;
                return Ok(Some((place, None)));
            }
            self.line += 1;
            // Files that were joined have marks between their lines.
            let record = line.strip_prefix(MARK).unwrap_or(&line).trim_ascii();
            if !record.is_empty() {
                return Ok(Some((place, Some(record.to_vec()))));
            }
        }
    }

    fn next_element(&mut self) -> io::Result<Option<(Place, Option<Vec<u8>>)>> {
        loop {
            self.skip_space()?;
            match self.peek()? {
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
                Some(b']') => {
                    self.input.consume(1);
                    self.shape = Shape::Lines;
                    // Whatever follows the array is looked at as lines are: it is no record.
                    return self.next_line();
                }
                Some(b',') => self.input.consume(1),
                Some(_) => break,
            }
        }
        self.number += 1;
        let place = Place { line: self.line, number: self.number };
        let (mut bytes, mut depth, mut in_string, mut escaped) = (vec![], 0usize, false, false);
        let mut size = 0;
        while let Some(byte) = self.peek()? {
            match byte {
                b'\n' => self.line += 1,
                _ if escaped => escaped = false,
                b'\\' if in_string => escaped = true,
                b'"' => in_string = !in_string,
                _ if in_string => {}
                b'[' | b'{' => depth += 1,
                b',' | b']' | b'}' if depth == 0 => break,
                b']' | b'}' => depth -= 1,
                _ => {}
            }
            self.input.consume(1);
            size += 1;
            if size <= self.limit {
                bytes.push(byte);
            } else {
                bytes = vec![];
            }
        }
        // A brace that closes nothing would stand there for ever.
        if size == 0 {
            self.input.consume(1);
        }
        Ok(Some((place, (size <= self.limit).then(|| bytes.trim_ascii().to_vec()))))
    }

    fn peek(&mut self) -> io::Result<Option<u8>> {
        loop {
            match self.input.fill_buf() {
                Ok(buffer) => return Ok(buffer.first().copied()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn skip_space(&mut self) -> io::Result<()> {
        while let Some(byte) = self.peek()?.filter(u8::is_ascii_whitespace) {
            self.line += usize::from(byte == b'\n');
            self.input.consume(1);
        }
        Ok(())
    }
}

/// True for the name of a Parquet file.
pub(crate) fn is_columns(name: &str) -> bool {
    name.to_ascii_lowercase().ends_with(".parquet")
}

/// The words for a place that an error or a report names.
pub(crate) fn at(name: &str, place: Place) -> String {
    format!("{name}:{}", place.line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &[u8], limit: usize) -> Vec<(usize, usize, Option<String>)> {
        let mut records = Records::new(text, limit).unwrap();
        let mut found = vec![];
        while let Some((place, bytes)) = records.next().unwrap() {
            let text = bytes.map(|bytes| String::from_utf8(bytes).unwrap());
            found.push((place.line, place.number, text));
        }
        found
    }

    fn some(line: usize, number: usize, text: &str) -> (usize, usize, Option<String>) {
        (line, number, Some(text.to_owned()))
    }

    #[test]
    fn lines_keep_their_numbers_behind_marks_blanks_and_carriage_returns() {
        let text = "\u{feff}\r\n{\"a\":1}\r\n\n\u{feff}{\"b\":2}".as_bytes();
        assert_eq!(all(text, 100), [some(2, 2, "{\"a\":1}"), some(4, 4, "{\"b\":2}")]);
        assert_eq!(all(b"", 100), []);
        assert_eq!(all(b"12345\n1\n", 3), [(1, 1, None), some(2, 2, "1")]);
        assert_eq!(Records::new(&b"\xff\xfe{\0"[..], 9).unwrap().shape(), Shape::Utf16);
    }

    #[test]
    fn elements_of_an_array_are_told_apart_whatever_their_strings_hold() {
        let text = "[\n{\"a\": \"],}\\\"\"},\n  {\"b\": [1, {}]} , 7]\n".as_bytes();
        let found = all(text, 100);
        let expected =
            [some(2, 1, "{\"a\": \"],}\\\"\"}"), some(3, 2, "{\"b\": [1, {}]}"), some(3, 3, "7")];
        assert_eq!(found, expected);
        assert_eq!(all(b"[]", 9), []);
        assert_eq!(all(b"[123456,7]", 3), [(1, 1, None), some(1, 2, "7")]);
        assert_eq!(all(b"[}]", 9).len(), 1);
        let mut cut = Records::new(&b"[{\"a\": 1}"[..], 99).unwrap();
        assert!(cut.next().unwrap().is_some() && cut.next().is_err());
    }
}

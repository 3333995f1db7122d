//! Finds the part of a file that is to change, and what the model sees around it.

use lacuna::text::Tokenizer;
use std::ops::{Range, RangeInclusive};
use std::str::FromStr;

use super::super::Usage;

/// Tokens of a file that are shown around a part of it, at most.
const CONTEXT_TOKENS: usize = 1024;

/// Lines as `--lines` and `--at` name them, from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lines(RangeInclusive<usize>, Option<usize>);

/// `A:B`, both counted.
pub(crate) fn lines(text: &str) -> Result<Lines, String> {
    let numbers = text.split_once(':').and_then(|(first, last)| {
        let (first, last): (usize, usize) = (number(first)?, number(last)?);
        (first > 0 && first <= last).then_some(Lines(first..=last, None))
    });
    numbers.ok_or_else(|| {
        format!("`{text}` is no FIRST:LAST, two lines from 1 and both taken, such as 10:20")
    })
}

/// `LINE` or `LINE:COL`.
pub(super) fn place(text: &str) -> Result<Lines, String> {
    let (line, column) = text.split_once(':').map_or((text, None), |(l, c)| (l, Some(c)));
    let column = match column.map(number) {
        Some(None) | Some(Some(0)) => None.ok_or(()),
        Some(Some(column)) => Ok(Some(column)),
        None => Ok(None),
    };
    match (number(line), column) {
        (Some(line), Ok(column)) if line > 0 => Ok(Lines(line..=line, column)),
        _ => Err(format!("`{text}` is no LINE or LINE:COL, both from 1, such as 12 or 12:5")),
    }
}

fn number(text: &str) -> Option<usize> {
    // `+5` is a number to the parser.
    text.starts_with(|c: char| c.is_ascii_digit()).then(|| usize::from_str(text).ok())?
}

impl Lines {
    /// The bytes of these lines in a text.
    pub(crate) fn bytes(&self, text: &str, name: &str) -> Result<Range<usize>, Usage> {
        let ends: Vec<usize> = text
            .split_inclusive('\n')
            .scan(0, |at, line| {
                *at += line.len();
                Some(*at)
            })
            .collect();
        let (first, last) = (*self.0.start(), *self.0.end());
        if last > ends.len() {
            let is = if ends.len() == 1 { "line" } else { "lines" };
            return Err(Usage(format!(
                "{name}: line {last} lies outside, the file has {} {is}",
                ends.len()
            )));
        }
        let start = if first == 1 { 0 } else { ends[first - 2] };
        let range = start..ends[last - 1];
        let line = text[range.clone()].trim_end_matches(['\n', '\r']).chars().count();
        match self.1 {
            Some(column) if column > line + 1 => Err(Usage(format!(
                "{name}: column {column} lies outside, line {first} ends at column {}",
                line + 1
            ))),
            _ => Ok(range),
        }
    }

    pub(super) fn named(&self) -> String {
        match (self.0.start(), self.0.end()) {
            (first, last) if first == last => format!("line {first}"),
            (first, last) => format!("lines {first} to {last}"),
        }
    }
}

/// The text of a file that a model sees around the part that is to change: whole lines next to it.
#[derive(Debug)]
pub(crate) struct Window<'a> {
    pub(crate) before: &'a str,
    pub(crate) after: &'a str,
    /// Tells whether it is less than the file.
    pub(crate) is_cut: bool,
    /// Its first line, its last one, and how many the file has, from 1.
    pub(crate) first: usize,
    pub(crate) last: usize,
    pub(crate) of: usize,
}

/// As many lines around `part` as have `room` tokens, and no more than a thousand of these: evenly on both sides.
pub(crate) fn window<'a>(
    text: &'a str,
    part: Range<usize>,
    tokenizer: &Tokenizer,
    room: usize,
) -> lacuna::text::Result<Window<'a>> {
    let (before, after) = (&text[..part.start], &text[part.end..]);
    let room = room.min(CONTEXT_TOKENS);
    let mut left = room;
    let cost = |line: &str| match line.len() {
        // Too long to be tried: a token has a few bytes.
        bytes if bytes > 64 * CONTEXT_TOKENS => Ok(usize::MAX),
        _ => tokenizer.encode_ordinary(line).map(|ids| ids.len()),
    };
    let mut above = before.split_inclusive('\n').rev();
    let mut below = after.split_inclusive('\n');
    let (mut from, mut to) = (before.len(), 0);
    let (mut above_open, mut below_open) = (true, true);
    while above_open || below_open {
        for (open, line, up) in
            [(&mut above_open, above.next(), true), (&mut below_open, below.next(), false)]
        {
            let Some(line) = line.filter(|_| *open) else {
                *open = false;
                continue;
            };
            let tokens = cost(line)?;
            if tokens > left {
                *open = false;
                continue;
            }
            left -= tokens;
            match up {
                true => from -= line.len(),
                false => to += line.len(),
            }
        }
    }
    let count = |text: &str| text.split_inclusive('\n').count();
    let (first, of) = (count(&before[..from]) + 1, count(text));
    let last = of - count(&after[to..]);
    let (before, after) = (&before[from..], &after[..to]);
    let is_cut = first > 1 || last < of;
    Ok(Window { before, after, is_cut, first, last, of })
}

/// The part in an answer that repeats what was shown around it.
pub(super) fn without_context(answer: String, before: &str, after: &str) -> String {
    let (before, after) = (before.replace("\r\n", "\n"), after.replace("\r\n", "\n"));
    if before.trim().is_empty() && after.trim().is_empty() {
        return answer;
    }
    let rest = answer.strip_prefix(before.as_str());
    let rest = rest.map(|rest| match after.is_empty() {
        true => Some(rest),
        false => rest.strip_suffix('\n').unwrap_or(rest).strip_suffix(after.trim_end_matches('\n')),
    });
    match rest.flatten() {
        Some(part) if !part.trim().is_empty() => part.to_owned(),
        _ => answer,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(lines: Result<Lines, String>, text: &str) -> Result<Range<usize>, String> {
        lines?.bytes(text, "f").map_err(|usage| usage.to_string())
    }

    #[test]
    fn lines_count_from_one_and_both_are_in() {
        let text = "a\r\nbc\nd";
        assert_eq!(bytes(lines("1:1"), text), Ok(0..3));
        assert_eq!(bytes(lines("1:2"), text), Ok(0..6));
        assert_eq!(bytes(lines("2:3"), text), Ok(3..7));
        assert_eq!(bytes(place("3"), text), Ok(6..7));
        assert_eq!(bytes(place("2:3"), text), Ok(3..6), "a place is the line that it is in");
        assert_eq!(bytes(place("1:2"), text), Ok(0..3));
        assert!(bytes(place("1:3"), text).unwrap_err().contains("line 1 ends at column 2"));
        assert!(bytes(lines("2:4"), text).unwrap_err().contains("the file has 3 lines"));
        assert!(bytes(lines("1:1"), "").unwrap_err().contains("the file has 0 lines"));
        assert!(bytes(place("2"), "a\n").unwrap_err().contains("the file has 1 line"));
        for wrong in
            ["", "1", "0:1", "2:1", "a:b", "1:2:3", "-1:2", "+1:2", "1:", "99999999999999999999:1"]
        {
            assert!(lines(wrong).is_err(), "{wrong}");
        }
        for wrong in ["", "0", "1:0", ":1", "1:", "a", "1:2:3", "-1"] {
            assert!(place(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_answer_that_repeats_what_is_around_the_part_loses_it() {
        let part = |answer: &str| without_context(answer.into(), "a\r\n", "z\n");
        assert_eq!(part("a\nb\nc\nz\n"), "b\nc\n");
        assert_eq!(part("b\n"), "b\n");
        assert_eq!(part("a\nb\n"), "a\nb\n", "the line above, perhaps meant so");
        assert_eq!(part("a\nz\n"), "a\nz\n");
        assert_eq!(without_context("b\n".into(), "", ""), "b\n");
    }
}

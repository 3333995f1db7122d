//! Makes text that others wrote safe to show on a terminal.

use std::borrow::Cow;

/// Tells whether a character does something to a terminal instead of standing on it: control
/// characters other than line break and tab, and the marks that turn the direction of text around
/// (they can make code read as other code).
pub fn is_moving(c: char) -> bool {
    let direction = matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' | '\u{061c}');
    (c.is_control() && c != '\n' && c != '\t') || direction
}

/// The text with every such character spelt out: an escape becomes `\u{1b}`. Line breaks and tabs stay, and so do
/// the two of `\r\n`.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(is_moving) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\r' if rest.peek() == Some(&'\n') => shown.push(c),
            c if is_moving(c) => shown.extend(c.escape_default()),
            c => shown.push(c),
        }
    }
    Cow::Owned(shown)
}

/// Text from a file as a part of one line: whatever would move a terminal's cursor escaped, line breaks and tabs too, at
/// most 96 characters.
pub fn short(text: &str) -> String {
    const LONGEST: usize = 96;
    let escape = |c: char| -> String {
        match c.is_control() || is_moving(c) {
            true => c.escape_default().to_string(),
            false => c.to_string(),
        }
    };
    let mut shown: String = text.chars().take(LONGEST).map(escape).collect();
    if text.chars().nth(LONGEST).is_some() {
        shown.push('…');
    }
    if shown.is_empty() { "\"\"".to_owned() } else { shown }
}

#[cfg(test)]
mod tests {
    use super::{printable, short};

    #[test]
    fn a_name_in_an_error_is_one_short_line() {
        assert_eq!(short("a\nb\tc\u{1b}"), "a\\nb\\tc\\u{1b}");
        assert_eq!(short(&"x".repeat(1 << 20)).chars().count(), 97);
        assert_eq!(short(""), "\"\"");
    }

    #[test]
    fn what_moves_a_cursor_is_spelt_out_and_text_stays_as_it_is() {
        assert_eq!(printable("a\tb\nc\r\nä 漢 🦀"), "a\tb\nc\r\nä 漢 🦀");
        assert_eq!(printable("\u{1b}]0;title\u{7}"), r"\u{1b}]0;title\u{7}");
        assert_eq!(printable("over\rwritten"), r"over\rwritten");
        assert_eq!(printable("\u{9b}2J"), r"\u{9b}2J", "the eight-bit form too");
        assert_eq!(printable("x\u{202e}y"), r"x\u{202e}y");
    }
}

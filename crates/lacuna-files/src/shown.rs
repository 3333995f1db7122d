//! Text that others wrote, on its way to a terminal.

use std::borrow::Cow;

/// Whether a character does something to a terminal instead of standing on it: control characters other than line
/// break and tab, and the marks that turn the direction of text around (they can make code read as other code).
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

#[cfg(test)]
mod tests {
    use super::printable;

    #[test]
    fn what_moves_a_cursor_is_spelt_out_and_text_stays_as_it_is() {
        assert_eq!(printable("a\tb\nc\r\nä 漢 🦀"), "a\tb\nc\r\nä 漢 🦀");
        assert_eq!(printable("\u{1b}]0;title\u{7}"), r"\u{1b}]0;title\u{7}");
        assert_eq!(printable("over\rwritten"), r"over\rwritten");
        assert_eq!(printable("\u{9b}2J"), r"\u{9b}2J", "the eight-bit form too");
        assert_eq!(printable("x\u{202e}y"), r"x\u{202e}y");
    }
}

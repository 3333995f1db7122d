//! Reads the edits of an answer in the two formats that Aider takes from models: the whole file in a fence, or blocks that
//! name a text and what stands in its place.

use crate::answer::fenced;

const SEARCH: &str = "<<<<<<< SEARCH";
const DIVIDER: &str = "=======";
const REPLACE: &str = ">>>>>>> REPLACE";

/// A file after an answer's edits; as it was if a block names a text that is not in it, or an answer holds no file.
pub(crate) fn edited(file: &str, answer: &str) -> String {
    let Some(blocks) = blocks(answer) else {
        return fenced(answer).map_or_else(|| file.to_owned(), |whole| format!("{whole}\n"));
    };
    let mut text = file.to_owned();
    for (search, replace) in blocks {
        if search.trim().is_empty() {
            text.push_str(&replace);
            continue;
        }
        if !text.contains(&search) {
            return file.to_owned();
        }
        text = text.replacen(&search, &replace, 1);
    }
    text
}

/// The blocks of an answer; none if it has no block, or one that does not end.
fn blocks(answer: &str) -> Option<Vec<(String, String)>> {
    let mut lines = answer.lines();
    let mut blocks = Vec::new();
    while let Some(line) = lines.next() {
        if line.trim_end() != SEARCH {
            continue;
        }
        let mut part = |end: &str| {
            let mut text = String::new();
            loop {
                let line = lines.next()?;
                if line.trim_end() == end {
                    return Some(text);
                }
                text.push_str(line);
                text.push('\n');
            }
        };
        blocks.push((part(DIVIDER)?, part(REPLACE)?));
    }
    (!blocks.is_empty()).then_some(blocks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_formats_are_read_and_what_does_not_fit_changes_nothing() {
        let file = "def f():\n    pass\n\ndef g():\n    pass\n";
        let whole = "Here:\n\na.py\n```python\ndef f():\n    return 1\n```\nThat is it.";
        assert_eq!(edited(file, whole), "def f():\n    return 1\n");
        let block = |search: &str, replace: &str| {
            format!("a.py\n```python\n{SEARCH}\n{search}{DIVIDER}\n{replace}{REPLACE}\n```\n")
        };
        let one = block("def f():\n    pass\n", "def f():\n    return 1\n");
        assert_eq!(edited(file, &one), file.replacen("pass", "return 1", 1));
        let two = one + &block("def g():\n    pass\n", "") + &block("", "x = 1\n");
        assert_eq!(edited(file, &two), "def f():\n    return 1\n\nx = 1\n");
        for odd in ["no code", &block("def h():\n", "x\n"), "<<<<<<< SEARCH\ndef f():\n"] {
            assert_eq!(edited(file, odd), file, "{odd}");
        }
    }
}

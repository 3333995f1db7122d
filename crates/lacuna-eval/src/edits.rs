//! Reads the edits of an answer in the two formats that Aider takes from models: the whole file in a fence, or blocks that
//! name lines and those that take their place.

use crate::answer::fenced;

const SEARCH: &str = "<<<<<<< SEARCH";
const DIVIDER: &str = "=======";
const REPLACE: &str = ">>>>>>> REPLACE";

/// The edits of an answer.
enum Edits<'a> {
    /// Lines and what takes their place, in this order.
    Blocks(Vec<[String; 2]>),
    /// The whole file.
    Whole(&'a str),
    /// None, or a block that does not end.
    Nothing,
}

/// Tells whether a text is a model's words with edits in them, and no file by itself.
pub(crate) fn is_edit(text: &str) -> bool {
    text.lines().any(|line| line.trim_end() == SEARCH || line.starts_with("```"))
}

/// A file after an answer's edits; as it was if a block names lines that are not in it, or an answer holds no edit.
pub(crate) fn edited(name: &str, file: &str, answer: &str) -> String {
    let mut text = file.to_owned();
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    let blocks = match edits(name, answer) {
        Edits::Whole(whole) => return format!("{whole}\n"),
        Edits::Nothing => return file.to_owned(),
        Edits::Blocks(blocks) => blocks,
    };
    for [search, replace] in blocks {
        if search.trim().is_empty() {
            text.push_str(&replace);
            continue;
        }
        let is_line = |at: &usize| *at == 0 || text[..*at].ends_with('\n');
        let Some(at) = text.match_indices(&search).map(|(at, _)| at).find(is_line) else {
            return file.to_owned();
        };
        text.replace_range(at..at + search.len(), &replace);
    }
    text
}

fn edits<'a>(name: &str, answer: &'a str) -> Edits<'a> {
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
        let (Some(search), Some(replace)) = (part(DIVIDER), part(REPLACE)) else {
            return Edits::Nothing;
        };
        blocks.push([search, replace]);
    }
    match blocks.is_empty() {
        false => Edits::Blocks(blocks),
        true => whole(name, answer).map_or(Edits::Nothing, Edits::Whole),
    }
}

/// The inside of the fence behind a line with the file's name; without one, of the first fence.
fn whole<'a>(name: &str, answer: &'a str) -> Option<&'a str> {
    let mut from = 0;
    let mut is_named = false;
    for line in answer.split_inclusive('\n') {
        if is_named && line.starts_with("```") {
            return fenced(&answer[from..]);
        }
        let words = line.trim().trim_matches(['*', '`', '#', ':', ' ']);
        is_named = words == name || (is_named && words.is_empty());
        from += line.len();
    }
    fenced(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "def f():\n    pass\n\ndef g():\n    pass\n";

    fn edited(answer: &str) -> String {
        super::edited("a.py", FILE, answer)
    }

    fn block(search: &str, replace: &str) -> String {
        format!("a.py\n```python\n{SEARCH}\n{search}{DIVIDER}\n{replace}{REPLACE}\n```\n")
    }

    #[test]
    fn a_whole_file_stands_behind_its_name_or_in_the_first_fence() {
        for before in
            ["", "Here:\n\na.py\n", "```sh\npip install x\n```\n\n**a.py**\n", "`a.py`:\n\n"]
        {
            let answer = format!("{before}```python\ndef f():\n    return 1\n```\nThat is it.");
            assert_eq!(edited(&answer), "def f():\n    return 1\n", "{before}");
        }
        assert_eq!(edited("no code"), FILE);
    }

    #[test]
    fn blocks_change_whole_lines_and_one_that_does_not_fit_changes_nothing() {
        let one = block("def f():\n    pass\n", "def f():\n    return 1\n");
        assert_eq!(edited(&one), FILE.replacen("pass", "return 1", 1));
        let two = one + &block("def g():\n    pass\n", "") + &block("", "x = 1\n");
        assert_eq!(edited(&two), "def f():\n    return 1\n\nx = 1\n");
        let unfinished = format!("a.py\n```python\n{SEARCH}\ndef f():\n");
        for odd in
            [&block("def h():\n", "x\n"), &block("pass\n", "x\n"), &unfinished, "<<<<<<< SEARCH\n"]
        {
            assert_eq!(edited(odd), FILE, "{odd}");
        }
        let last = block("    pass\n", "    return 2\n");
        let open = "def f():\n    pass";
        assert_eq!(super::edited("a.py", open, &last), "def f():\n    return 2\n");
        assert_eq!(
            super::edited("a.py", open, &block("", "x = 1\n")),
            "def f():\n    pass\nx = 1\n"
        );
    }
}

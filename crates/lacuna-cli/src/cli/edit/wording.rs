//! Tells what a line of an answer is: said to the user, left out of the file, or text.

use std::path::Path;

/// The kind of text that a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Sentences, perhaps with fences.
    Prose,
    /// Python, in which `...` is an expression.
    Python,
    /// Changes to other files.
    Patch,
    /// Other code and data.
    Source,
}

impl Kind {
    pub(super) fn of(path: &Path, old: &str) -> Self {
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        match ending.to_ascii_lowercase().as_str() {
            "md" | "markdown" | "mdx" | "mkd" | "rst" | "txt" | "text" | "adoc" | "asciidoc"
            | "org" | "tex" | "typ" | "log" | "qmd" | "rmd" => Self::Prose,
            "py" | "pyi" => Self::Python,
            "diff" | "patch" => Self::Patch,
            "" => {
                let lines = || old.lines().filter(|line| !line.trim().is_empty());
                let prose = lines().filter(|line| is_prose(line)).count();
                if 2 * prose > lines().count() { Self::Prose } else { Self::Source }
            }
            _ => Self::Source,
        }
    }

    pub(super) fn is_prose(self) -> bool {
        self == Self::Prose
    }

    pub(super) fn is_patch(self) -> bool {
        self == Self::Patch
    }

    /// Tells whether a fence's language says that a file of this kind is in it.
    pub(super) fn is_named_by(self, info: &str, path: &Path) -> bool {
        let language = info.split([' ', ':', '{', ',']).next().unwrap_or_default().to_lowercase();
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        let prose = matches!(language.as_str(), "markdown" | "md" | "text" | "txt" | "plaintext");
        (self.is_prose() && prose) || (!language.is_empty() && language == ending.to_lowercase())
    }
}

const COMMENTS: [&str; 13] =
    ["<!--", "{/*", "/*", "//", "--", "#", ";", "%", "*", "\"\"\"", "'''", "(*", "REM "];

/// Words that sentences are made of and code seldom.
const WORDS: [&str; 41] = [
    "the", "is", "are", "was", "were", "has", "have", "i", "you", "your", "we", "this", "that",
    "it", "to", "of", "here", "here's", "and", "a", "an", "not", "no", "can", "cannot", "can't",
    "i've", "i'm", "sorry", "sure", "please", "note", "changed", "code", "should", "will", "would",
    "there", "be", "with", "now",
];

/// Tells whether a line is something said and not code.
pub(super) fn is_prose(line: &str) -> bool {
    let text = line.trim().trim_matches(['*', '_']);
    if is_announcement(text) {
        return true;
    }
    if COMMENTS.iter().any(|mark| text.starts_with(mark)) {
        return false;
    }
    let ends = text.ends_with(['.', ':', '!', '?', '。', '：', '！', '？', '…']);
    // Names of code within a sentence stand between backticks.
    let spoken: String = text.split('`').step_by(2).collect();
    let is_code = |c: char| "{}[]=<>;|&@$\\^~+#".contains(c);
    let foreign = spoken.chars().filter(|c| c.is_alphabetic() && !c.is_ascii()).count();
    if spoken.contains(is_code) || spoken.contains("()") {
        return false;
    }
    let words: Vec<String> = spoken
        .split_whitespace()
        .map(|w| w.trim_matches(|c: char| !c.is_alphanumeric() && c != '\'').to_lowercase())
        .filter(|word| !word.is_empty())
        .collect();
    let common = words.iter().filter(|word| WORDS.contains(&word.as_str())).count();
    let starts = text.starts_with(|c: char| c.is_uppercase());
    let sentence = ends && starts && words.len() >= 3 && common >= 1;
    let long = words.len() >= 6 && common >= 2;
    sentence || long || (ends && foreign >= 4 && foreign * 2 > spoken.chars().count())
}

/// Words with which answers begin and end around what was asked for.
const SAID: [&str; 37] = [
    "here is",
    "here's",
    "here are",
    "here you go",
    "sure,",
    "sure!",
    "sure.",
    "sure:",
    "sure thing",
    "certainly",
    "of course",
    "absolutely",
    "okay,",
    "okay.",
    "okay!",
    "ok,",
    "ok.",
    "done.",
    "done!",
    "below is",
    "i've ",
    "i have ",
    "i changed",
    "i renamed",
    "i added",
    "i removed",
    "i updated",
    "i'm sorry",
    "i am sorry",
    "sorry",
    "i cannot",
    "i can't",
    "as an ai",
    "unfortunately",
    "let me know",
    "i hope this",
    "the following is",
];

/// Tells whether a line is said around a file, whatever the file holds.
pub(super) fn is_announcement(line: &str) -> bool {
    let text =
        line.trim().trim_start_matches(['*', '_', '>', ' ']).to_lowercase().replace('’', "'");
    let of_file = |what: &str| text.starts_with(what) && text.ends_with(':');
    SAID.iter().any(|said| text.starts_with(said))
        || of_file("the changed ")
        || of_file("the updated ")
        || of_file("the modified ")
        || matches!(
            text.as_str(),
            "sure" | "okay" | "ok" | "done" | "explanation:" | "output:" | "answer:"
        )
}

/// Words that stand with dots where something was left out.
const LEFT_OUT: [&str; 17] = [
    "rest",
    "unchanged",
    "remaining",
    "remains",
    "existing",
    "same",
    "omitted",
    "previous",
    "other",
    "original",
    "before",
    "continue",
    "more",
    "skipped",
    "truncated",
    "etc",
    "here",
];

/// Words that say that something was left out, with dots or without.
const LEFT_OUT_PHRASES: [&str; 14] = [
    "rest of the code",
    "rest of the file",
    "rest of code",
    "rest of file",
    "rest of your code",
    "rest of the program",
    "remains unchanged",
    "remain unchanged",
    "remains the same",
    "remain the same",
    "code unchanged",
    "unchanged code",
    "same as before",
    "omitted for brevity",
];

/// Tells whether a line stands for others that were left out. In Python a bare `...` does so only
/// in a text that is shorter.
pub(super) fn elided_line(line: &str, kind: Kind, shorter: bool) -> bool {
    let text = line.trim();
    let mark = COMMENTS.iter().find(|mark| text.starts_with(*mark));
    let core = text
        .trim_start_matches(mark.map_or("", |mark| mark))
        .trim_start_matches(['/', '*', '#', '-', '!']);
    let core =
        core.trim().trim_end_matches("*/}").trim_end_matches("*/").trim_end_matches("-->").trim();
    let bracketed = text.starts_with(['[', '(', '<']);
    let dots = |text: &str| text.contains("...") || text.contains('…');
    let lower = core.to_lowercase();
    let only_dots =
        dots(core) && core.chars().all(|c| matches!(c, '.' | '…' | ' ' | '[' | ']' | '(' | ')'));
    if only_dots {
        return mark.is_some() || kind != Kind::Python || shorter;
    }
    let said = mark.is_some() || bracketed;
    let ends = lower.trim_matches(['[', ']', '(', ')', '<', '>', ' ']);
    let outer = ends.starts_with("... ")
        || ends.starts_with('…')
        || ends.ends_with("...")
        || ends.ends_with('…');
    let words: Vec<&str> =
        lower.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).collect();
    let left = words.iter().any(|word| LEFT_OUT.contains(word));
    if dots(core) && left && (said && (outer || words.len() <= 8) || outer && words.len() >= 2) {
        // `...rest,` spreads, and has no second word.
        return true;
    }
    let short =
        ["existing code", "existing code here", "unchanged", "same as above", "rest unchanged"];
    said && (LEFT_OUT_PHRASES.iter().any(|phrase| lower.contains(phrase))
        || short.contains(&ends.trim_matches(['.', ' '])))
}

/// Tells whether lines that the old text has not are those of a patch.
pub(super) fn is_patch<'a>(lines: impl Iterator<Item = &'a str>) -> bool {
    let mut before = "";
    for line in lines {
        let hunk = line.starts_with("@@ -") || line.starts_with("diff --git ");
        let pair = before.starts_with("--- ") && line.starts_with("+++ ");
        let search = line.starts_with("<<<<<<< ") || line.starts_with("*** Begin Patch");
        if hunk || pair || search {
            return true;
        }
        before = line;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_are_told_from_code() {
        for said in [
            "Here is the changed file:",
            "Sure!",
            "I changed 1 to 2.",
            "**Explanation:**",
            "The function `add()` was renamed to `plus`.",
            "I cannot do that because the file has no function named add",
            "As an AI model, I do not edit files.",
            "好的，以下是修改后的文件：",
            "This code defines a function that adds two numbers and prints the result",
        ] {
            assert!(is_prose(said), "{said}");
        }
        for code in [
            "x = 2",
            "return x",
            "import os",
            "use strict;",
            "package main",
            "end",
            "else:",
            "try:",
            "class A:",
            "def add(a, b):",
            "if a is not b:",
            "for x in xs:",
            "# The code is here.",
            "// This is the main function.",
            "\"\"\"This module adds the numbers.\"\"\"",
            "SELECT name FROM users",
            "echo hello world",
            "FROM ubuntu",
            "print('Here is the file:')",
            "- name: the job",
            "while not done:",
            "title: The book of it",
            "<p>This is the text of a page.</p>",
            "puts x",
            "with open(name) as f:",
        ] {
            assert!(!is_prose(code), "{code}");
        }
    }

    #[test]
    fn lines_that_stand_for_others_are_told_from_dots_in_code() {
        let elided = |line| elided_line(line, Kind::Source, false);
        for line in [
            "# ... rest of the code unchanged",
            "// ... existing code ...",
            "/* ... */",
            "<!-- rest of the file remains the same -->",
            "... rest of the code unchanged ...",
            "[... rest of the file ...]",
            "    # (unchanged)",
            "// Rest of the code remains unchanged",
            "...",
            "…",
            "-- other functions here ...",
            "{/* ...existing code... */}",
        ] {
            assert!(elided(line), "{line}");
        }
        for line in [
            "f(...rest)",
            "  ...rest,",
            "print('...')",
            "let all = [...before, x];",
            "# Wraps the existing code in a class",
            "// Loading...",
            "void f(const char *fmt, ...);",
            "match x { 1..=3 => {} }",
            "# the rest are numbers",
        ] {
            assert!(!elided(line), "{line}");
        }
        assert!(!elided_line("    ...", Kind::Python, false), "a body in Python");
        assert!(elided_line("...", Kind::Python, true));
    }
}

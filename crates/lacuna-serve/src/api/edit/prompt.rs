//! Reads the messages of next-edit and apply requests, and writes what this project's models are asked in their place.

/// A next-edit message: the region at the cursor, with what stands around it and what was changed before.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NextEdit {
    /// The region, without the mark of the cursor.
    pub(super) region: String,
    path: String,
    before: String,
    after: String,
    history: String,
    snippets: String,
}

const CURSOR: &str = "<|cursor|>";

impl NextEdit {
    /// Takes a message apart.
    ///
    /// # Errors
    /// The reason why it is none.
    pub(super) fn parse(message: &str) -> Result<Self, String> {
        let (before, rest) = message
            .split_once("<|code_to_edit|>")
            .ok_or("expected a region between <|code_to_edit|> and <|/code_to_edit|>")?;
        // Instructions behind the region may name its marks.
        let (region, after) = rest.split_once("<|/code_to_edit|>").ok_or(
            "the region begins at <|code_to_edit|> and does not end; expected <|/code_to_edit|>",
        )?;
        let file = before.split_once("<|current_file_content|>").map_or(before, |(_, file)| file);
        let file = file.strip_prefix('\n').unwrap_or(file);
        let (path, before) = match file.strip_prefix("current_file_path: ") {
            Some(file) => file.split_once('\n').unwrap_or((file, "")),
            None => ("", file),
        };
        let after = after.split_once("<|/current_file_content|>").map(|(after, _)| after);
        Ok(Self {
            region: inner(region).replace(CURSOR, ""),
            path: path.trim().to_owned(),
            before: before.to_owned(),
            after: after.unwrap_or_default().trim_start_matches('\n').to_owned(),
            history: between(message, "<|edit_diff_history|>", "<|/edit_diff_history|>")
                .map(|text| inner(text).to_owned())
                .unwrap_or_default(),
            snippets: between(
                message,
                "<|recently_viewed_code_snippets|>",
                "<|/recently_viewed_code_snippets|>",
            )
            .map(without_marks)
            .unwrap_or_default(),
        })
    }

    /// The question to a model that converses.
    pub(super) fn message(&self) -> String {
        let mut text = String::new();
        if !self.snippets.trim().is_empty() {
            text += &format!("These were looked at before:\n\n{}\n\n", fenced(&self.snippets));
        }
        if !self.history.trim().is_empty() {
            text += &format!("These were the last changes:\n\n{}\n\n", fenced(&self.history));
        }
        let file = [self.before.as_str(), &self.region, "\n", &self.after].concat();
        let name = if self.path.is_empty() { "the file" } else { &self.path };
        text += &format!("This is {name}:\n\n{}\n\n", fenced(&file));
        text + &format!(
            "This part of it is being worked on:\n\n{}\n\nMake the change that is likely to come next in this part. \
                 Answer with the changed part and nothing else.",
            fenced(&self.region)
        )
    }

    /// The document that any other model goes on with.
    pub(super) fn document(&self) -> String {
        let history = match self.history.trim() {
            "" => String::new(),
            history => format!("Changes:\n{history}\n\n"),
        };
        let Self { before, region, after, .. } = self;
        format!(
            "{history}File:\n{before}{region}\n{after}\nBefore:\n{region}\n\nChange: go on with the work\nAfter:\n"
        )
    }
}

/// An apply message: a file and a change of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Apply {
    pub(super) original: String,
    update: String,
}

impl Apply {
    /// Takes a message apart.
    ///
    /// # Errors
    /// The reason why it is none.
    pub(super) fn parse(message: &str) -> Result<Self, String> {
        let part = |open: &str, close: &str| {
            between(message, open, close)
                .map(|text| inner(text).to_owned())
                .ok_or_else(|| format!("expected a text between {open} and {close}"))
        };
        Ok(Self {
            original: part("<|original_code|>", "<|/original_code|>")?,
            update: part("<|update_snippet|>", "<|/update_snippet|>")?,
        })
    }

    /// The question to a model that converses.
    pub(super) fn message(&self) -> String {
        format!(
            "This is a file:\n\n{}\n\nThis is a change of it, which leaves out what stays:\n\n{}\n\nAnswer with the whole \
             changed file and nothing else.",
            fenced(&self.original),
            fenced(&self.update)
        )
    }

    /// The document that any other model goes on with.
    pub(super) fn document(&self) -> String {
        format!("Before:\n{}\n\nChange:\n{}\n\nAfter:\n", self.original, self.update)
    }
}

/// The text between two marks.
fn between<'t>(text: &'t str, open: &str, close: &str) -> Option<&'t str> {
    let (_, rest) = text.split_once(open)?;
    rest.split_once(close).map(|(inner, _)| inner)
}

/// A text without the line ends that its marks stand on.
fn inner(text: &str) -> &str {
    let text = text.strip_prefix('\n').unwrap_or(text);
    text.strip_suffix('\n').unwrap_or(text)
}

fn without_marks(text: &str) -> String {
    let marks = ["<|recently_viewed_code_snippet|>", "<|/recently_viewed_code_snippet|>"];
    let lines = text.lines().filter(|line| !marks.contains(&line.trim()));
    lines.map(|line| line.strip_prefix("code_snippet_file_path: ").unwrap_or(line)).fold(
        String::new(),
        |mut all, line| {
            all.push_str(line);
            all.push('\n');
            all
        },
    )
}

/// A text between fences that none of its lines closes.
pub(in crate::api) fn fenced(text: &str) -> String {
    let longest = text.lines().map(|line| line.chars().take_while(|c| *c == '`').count()).max();
    let fence = "`".repeat(longest.unwrap_or(0).max(2) + 1);
    format!("{fence}\n{}\n{fence}", text.strip_suffix('\n').unwrap_or(text))
}

/// The text that an answer has between its first fence and that fence's end; the whole answer where there is none.
pub(super) fn region_in(answer: &str) -> String {
    let lines: Vec<&str> = answer.split('\n').collect();
    let width = |line: &str| line.chars().take_while(|c| *c == '`').count();
    let Some(open) = lines.iter().position(|line| width(line) >= 3) else {
        return answer.to_owned();
    };
    let fence = width(lines[open]);
    let closes = |line: &&str| width(line) >= fence && line.trim_end().chars().all(|c| c == '`');
    let close = lines[open + 1..].iter().position(closes).map_or(lines.len(), |at| open + 1 + at);
    lines[open + 1..close].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGE: &str = "<|recently_viewed_code_snippets|>\n<|recently_viewed_code_snippet|>\n\
        code_snippet_file_path: other.py\nx = 1\n<|/recently_viewed_code_snippet|>\n\
        <|/recently_viewed_code_snippets|>\n\n<|current_file_content|>\ncurrent_file_path: a.py\nimport os\n\
        <|code_to_edit|>\ndef f():\n    re<|cursor|>\n<|/code_to_edit|>\n\nprint(f())\n<|/current_file_content|>\n\n\
        <|edit_diff_history|>\n--- a.py\n+++ a.py\n@@ -1 +1 @@\n-a\n+b\n<|/edit_diff_history|>\n";

    #[test]
    fn a_next_edit_message_is_taken_apart() {
        let next = NextEdit::parse(MESSAGE).unwrap();
        assert_eq!(next.region, "def f():\n    re");
        assert_eq!((next.path.as_str(), next.before.as_str()), ("a.py", "import os\n"));
        assert_eq!(next.after, "print(f())\n");
        assert_eq!(next.snippets.trim(), "other.py\nx = 1");
        assert!(next.history.starts_with("--- a.py") && next.history.ends_with("+b"));
        assert!(!next.message().contains(CURSOR) && next.message().contains("import os"));
        assert!(next.document().ends_with("After:\n"));
    }

    #[test]
    fn a_message_without_a_region_says_what_is_missing() {
        assert!(NextEdit::parse("hello").unwrap_err().contains("<|code_to_edit|>"));
        assert!(NextEdit::parse("<|code_to_edit|>\nx").unwrap_err().contains("does not end"));
        assert!(
            Apply::parse("<|original_code|>x<|/original_code|>").unwrap_err().contains("update")
        );
    }

    #[test]
    fn an_apply_message_is_taken_apart() {
        let text = "<|original_code|>\na\nb\n<|/original_code|>\n\n<|update_snippet|>\nb2\n<|/update_snippet|>";
        let apply = Apply::parse(text).unwrap();
        assert_eq!((apply.original.as_str(), apply.update.as_str()), ("a\nb", "b2"));
    }

    #[test]
    fn the_region_of_an_answer_stands_between_its_fences() {
        assert_eq!(region_in("Sure:\n```python\na\n  b\n```\nDone."), "a\n  b");
        assert_eq!(region_in("a\n  b"), "a\n  b");
        assert_eq!(region_in("````\n```\nx\n```\n````"), "```\nx\n```");
        assert_eq!(region_in(&fenced("a\n```\nb")), "a\n```\nb");
    }
}

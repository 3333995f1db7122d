//! Finds fenced blocks, as Markdown has them and models write them.

/// A fenced block of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Block<'a> {
    /// The words after the opening fence: a language, often.
    pub(super) info: &'a str,
    /// The text between the fences, without the indentation of the opening one.
    pub(super) lines: Vec<String>,
    /// The numbers of the lines of the two fences; without a closing one, of the text's last line.
    pub(super) first: usize,
    pub(super) last: usize,
    pub(super) closed: bool,
}

impl Block<'_> {
    pub(super) fn lines(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(String::as_str)
    }

    /// Tells whether it says of itself that it is a patch.
    pub(super) fn is_patch(&self) -> bool {
        let language = self.info.split([' ', ':', '{', ',']).next().unwrap_or_default();
        ["diff", "patch", "udiff"].iter().any(|patch| language.eq_ignore_ascii_case(patch))
    }

    /// The lines as a text, each with its end.
    pub(super) fn text(&self) -> String {
        self.lines.iter().flat_map(|line| [line, "\n"]).collect()
    }
}

/// A line that is a fence.
#[derive(Clone, Copy, Debug)]
struct Fence<'a> {
    indent: usize,
    mark: char,
    length: usize,
    info: &'a str,
    /// True if the info is written as one: a word right after the marks.
    tagged: bool,
}

fn fence(line: &str) -> Option<Fence<'_>> {
    let text = line.trim_start_matches([' ', '\t']);
    let mark = text.chars().next().filter(|mark| matches!(mark, '`' | '~'))?;
    let length = text.len() - text.trim_start_matches(mark).len();
    let rest = &text[length..];
    let info = rest.trim();
    // Three backticks with more of them behind are code within a line.
    let inline = mark == '`' && info.contains('`');
    let tagged = !info.is_empty() && !rest.starts_with([' ', '\t'])
        || !info.is_empty() && !info.contains(char::is_whitespace);
    (length >= 3 && !inline).then_some(Fence {
        indent: line.len() - text.len(),
        mark,
        length,
        info,
        tagged,
    })
}

/// The outermost blocks of a text. Within a block, a fence with a language and no fewer marks opens another one, which
/// the next bare fence closes.
pub(super) fn blocks<'a>(lines: &[&'a str]) -> Vec<Block<'a>> {
    let mut found = Vec::new();
    let mut open: Option<(usize, Fence<'a>)> = None;
    let mut depth = 0;
    for (number, line) in lines.iter().enumerate() {
        let Some(this) = fence(line) else { continue };
        let Some((first, outer)) = open else {
            open = Some((number, this));
            continue;
        };
        if this.mark != outer.mark || this.length < outer.length {
            continue;
        }
        match (this.info.is_empty(), depth) {
            (false, _) => depth += usize::from(this.tagged),
            (true, 0) => {
                found.push(block(lines, first, number, outer, true));
                open = None;
            }
            (true, _) => depth -= 1,
        }
    }
    if let Some((first, outer)) = open {
        found.push(block(lines, first, lines.len() - 1, outer, false));
    }
    found
}

fn block<'a>(
    lines: &[&'a str],
    first: usize,
    last: usize,
    outer: Fence<'a>,
    closed: bool,
) -> Block<'a> {
    let end = if closed { last } else { last + 1 };
    let inner = lines[first + 1..end].iter();
    let unindented = |line: &&str| {
        let spaces = line.len() - line.trim_start_matches([' ', '\t']).len();
        line[spaces.min(outer.indent)..].to_owned()
    };
    Block { info: outer.info, lines: inner.map(unindented).collect(), first, last, closed }
}

/// The number of lines that are fences.
pub(super) fn count(lines: &[&str]) -> usize {
    lines.iter().filter(|line| fence(line).is_some()).count()
}

/// A fence that nothing in `text` closes.
pub(super) fn around(text: &str) -> String {
    let runs = text.lines().filter_map(fence).filter(|fence| fence.mark == '`');
    "`".repeat(runs.map(|fence| fence.length + 1).max().unwrap_or(3))
}

#[cfg(test)]
mod tests {
    use super::{around, blocks};

    fn found(text: &str) -> Vec<(String, bool)> {
        let lines: Vec<&str> = text.split('\n').collect();
        blocks(&lines).into_iter().map(|block| (block.text(), block.closed)).collect()
    }

    #[test]
    fn a_fence_is_closed_by_its_own_kind_and_no_shorter_one() {
        assert_eq!(found("```py\na\n```"), [("a\n".into(), true)]);
        assert_eq!(found("````\n```\na\n```\n````"), [("```\na\n```\n".into(), true)]);
        assert_eq!(found("~~~\n```\na\n~~~~"), [("```\na\n".into(), true)]);
        assert_eq!(found("```\n```"), [(String::new(), true)]);
        assert_eq!(found("```\na\n``"), [("a\n``\n".into(), false)]);
        assert_eq!(found("`` `\na"), []);
        assert_eq!(found("```a```"), []);
    }

    #[test]
    fn an_indented_fence_takes_its_indentation_off_its_lines() {
        assert_eq!(
            found("1. x\n\n   ```\n   a\n     b\n c\n   ```"),
            [("a\n  b\nc\n".into(), true)]
        );
    }

    #[test]
    fn a_fence_with_a_language_within_one_of_the_same_length_is_nested() {
        let text = "```markdown\n# T\n```sh\nls\n```\nend\n```";
        assert_eq!(found(text), [("# T\n```sh\nls\n```\nend\n".into(), true)]);
        assert_eq!(found("```\na\n``` and so on\n```"), [("a\n``` and so on\n".into(), true)]);
    }

    #[test]
    fn the_fence_around_a_text_is_longer_than_any_in_it() {
        assert_eq!(around("a"), "```");
        assert_eq!(around("```\n  `````\n"), "``````");
    }
}

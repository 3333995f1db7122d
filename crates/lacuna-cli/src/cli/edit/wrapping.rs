//! Takes away what else than fences models put around a file, and tells patches without a head.

use super::asked::Asked;
use super::wording::Kind;

/// Elements that stand around a whole file.
const TAGS: [&str; 14] = [
    "answer",
    "code",
    "content",
    "document",
    "edited_file",
    "file",
    "file_content",
    "file_contents",
    "new_file",
    "output",
    "response",
    "result",
    "solution",
    "updated_file",
];

/// The answer without an element around all of it, which the old text does not have. In markup it may be the text's
/// own.
pub(super) fn without_tags<'a>(answer: &'a str, asked: &Asked<'_>) -> &'a str {
    let ending = asked.path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    let markup =
        ["html", "htm", "xhtml", "xml", "svg", "vue", "svelte", "astro", "jsx", "tsx", "md", "mdx"];
    if markup.iter().any(|known| ending.eq_ignore_ascii_case(known)) {
        return answer;
    }
    inner(answer, asked.old).unwrap_or(answer)
}

fn inner<'a>(answer: &'a str, old: &str) -> Option<&'a str> {
    let (first, rest) = answer.trim_start().split_once('\n')?;
    let opening = first.trim().strip_prefix('<')?.strip_suffix('>')?;
    let name = opening.split(' ').next()?;
    let known = TAGS.iter().any(|tag| name.eq_ignore_ascii_case(tag));
    let within = rest.trim_end().strip_suffix('>')?.strip_suffix(name)?.strip_suffix("</")?;
    let own_line = within.is_empty() || within.ends_with('\n');
    let fresh = !old.contains(&format!("<{name}"));
    (known && own_line && fresh).then_some(within)
}

/// The answer without the backticks of code within a line, around all of it.
pub(super) fn without_ticks<'a>(answer: &'a str, old: &str, kind: Kind) -> &'a str {
    let all = answer.trim();
    let within = ["``", "`"].iter().find_map(|ticks| all.strip_prefix(ticks)?.strip_suffix(ticks));
    let within = within.filter(|text| !text.contains(['`', '\n']) && !text.is_empty());
    match within {
        Some(text) if !kind.is_prose() && !old.contains('`') => text,
        _ => answer,
    }
}

/// Tells whether lines that the old text has not are those of a patch without a head: all of them
/// added or removed, and what is removed is of the old text.
pub(super) fn is_bare_patch<'a>(
    lines: impl Iterator<Item = &'a str>,
    is_old: impl Fn(&str) -> bool,
) -> bool {
    let (mut adds, mut removes) = (false, false);
    for line in lines {
        match line.strip_prefix('-') {
            Some(removed) => removes |= is_old(removed),
            None if line.starts_with('+') => adds = true,
            None => return false,
        }
    }
    adds && removes
}

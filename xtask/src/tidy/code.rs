//! Blanks out everything in Rust source that is not code, so that rules don't trip over comments
//! and literals.

/// The text with comments and the insides of literals as spaces; lines stay where they were.
pub(super) fn without_comments(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let (skipped, kept) = match literal_or_comment(rest, out.chars().next_back()) {
            Some(len) => (len, 0),
            None => (0, first.len_utf8()),
        };
        out.push_str(&rest[..kept]);
        let blanked = rest[kept..kept + skipped].chars();
        out.extend(blanked.map(|c| if c == '\n' { '\n' } else { ' ' }));
        rest = &rest[kept + skipped..];
    }
    out
}

/// The text without comments, literals and everything under `#[cfg(test)]`.
pub(super) fn without_tests(text: &str) -> String {
    let mut code = without_comments(text);
    let mut from = 0;
    while let Some(found) = code[from..].find("#[cfg(test)]") {
        let start = from + found;
        let end = item_end(&code, start);
        let blank: String =
            code[start..end].chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect();
        // The blanked text may have held wider characters; go on behind what stands there now.
        code.replace_range(start..end, &blank);
        from = start + blank.len();
    }
    code
}

/// Finds the end of the item that starts at `start`: behind its `;` or its closing brace.
fn item_end(code: &str, start: usize) -> usize {
    let mut depth = 0;
    for (offset, c) in code[start..].char_indices() {
        match c {
            ';' if depth == 0 => return start + offset + 1,
            '{' => depth += 1,
            '}' => {
                depth -= 1;
                if depth <= 0 {
                    return start + offset + 1;
                }
            }
            _ => {}
        }
    }
    code.len()
}

/// The length of the comment or literal that `rest` begins with, `before` being the character before it.
fn literal_or_comment(rest: &str, before: Option<char>) -> Option<usize> {
    let line_end = rest.find('\n').unwrap_or(rest.len());
    if rest.starts_with("//") {
        return Some(line_end);
    }
    if rest.starts_with("/*") {
        return Some(block_comment(rest));
    }
    let in_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    if rest.starts_with(['r', 'b', 'c']) && !in_word {
        let prefix = rest.len() - rest.trim_start_matches(['r', 'b', 'c']).len();
        let behind = &rest[prefix..];
        let hashes = behind.len() - behind.trim_start_matches('#').len();
        let is_raw = rest[..prefix].contains('r');
        if behind[hashes..].starts_with('"') && (is_raw || hashes == 0) {
            let body = prefix + hashes;
            return Some(body + if is_raw { raw(&rest[body..], hashes) } else { quoted(behind) });
        }
        return None;
    }
    if rest.starts_with('"') {
        return Some(quoted(rest));
    }
    rest.starts_with('\'').then(|| character(rest)).flatten()
}

fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

/// `"…"` with escapes.
fn quoted(rest: &str) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// `"…"##`, as many hashes as stood before it.
fn raw(rest: &str, hashes: usize) -> usize {
    let close = format!("\"{}", "#".repeat(hashes));
    rest[1..].find(&close).map_or(rest.len(), |at| 1 + at + close.len())
}

/// `'x'` or `'\n'`; a lifetime is neither.
fn character(rest: &str) -> Option<usize> {
    let mut chars = rest.char_indices().skip(1);
    let (_, first) = chars.next()?;
    if first == '\\' {
        chars.next();
        return chars.find(|(_, c)| *c == '\'').map(|(at, _)| at + 1);
    }
    chars.next().filter(|(_, c)| *c == '\'').map(|(at, _)| at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blank_and_lines_stay() {
        let text = "let a = \"x // y\"; // std::fs\nlet b = 'c'; /* un /* nested */\nwrap */ end";
        let code = without_comments(text);
        assert_eq!(code.lines().count(), 3);
        for gone in ["std::fs", "//", "x", "'c'", "nested", "wrap"] {
            assert!(!code.contains(gone), "{gone} in {code}");
        }
        assert!(code.contains("let b =") && code.ends_with("end"));
    }

    #[test]
    fn raw_strings_and_lifetimes_are_told_from_code() {
        let code =
            without_comments(r###"f::<'a>(r#"a "b" c"#, br"d", b"e\"f", c"g", '\'', 'h'); bar"###);
        assert!(code.starts_with("f::<'a>("), "{code}");
        assert!(code.ends_with("); bar"), "{code}");
        assert!(!code.contains('"') && !code.contains('h'), "{code}");
        assert_eq!(without_comments("var\"x\""), "var   ", "a name that ends in r");
    }

    #[test]
    fn tests_are_left_out_and_what_follows_stays() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests { fn b() { \"}\" } }\nfn c() {}\n#[cfg(test)]\nmod other;\nfn d() {}";
        let code = without_tests(text);
        assert!(code.contains("fn a") && code.contains("fn c") && code.contains("fn d"));
        assert!(!code.contains("fn b") && !code.contains("other"), "{code}");
        assert_eq!(code.lines().count(), text.lines().count());
    }
}

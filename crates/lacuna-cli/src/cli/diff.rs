//! Makes a unified diff of two texts, line by line, that `patch` and `git apply` take.

use crossterm::style::Stylize;
use lacuna_files::{is_moving, printable};
use similar::udiff::UnifiedHunkHeader;
use similar::{Algorithm, ChangeTag, capture_diff_slices, group_diff_ops};
use std::path::Path;

/// Lines around a change that are shown with it.
const CONTEXT: usize = 3;

/// The change from `old` to `new` as `diff -u` writes it; empty if there is none.
pub(crate) fn unified(old: &str, new: &str, path: &Path) -> String {
    // A line ends at `\n` alone, as it does for those who apply the diff.
    let old: Vec<&str> = old.split_inclusive('\n').collect();
    let new: Vec<&str> = new.split_inclusive('\n').collect();
    let ops = capture_diff_slices(Algorithm::Myers, &old, &new);
    let mut out = String::new();
    for hunk in group_diff_ops(ops, CONTEXT).iter().filter(|hunk| !hunk.is_empty()) {
        if out.is_empty() {
            out = format!("--- {}\n+++ {}\n", side('a', path), side('b', path));
        }
        out.push_str(&format!("{}\n", UnifiedHunkHeader::new(hunk)));
        for change in hunk.iter().flat_map(|op| op.iter_changes(&old, &new)) {
            out.push(match change.tag() {
                ChangeTag::Equal => ' ',
                ChangeTag::Delete => '-',
                ChangeTag::Insert => '+',
            });
            let line: &str = change.value();
            out.push_str(line);
            if !line.ends_with('\n') {
                out.push_str("\n\\ No newline at end of file\n");
            }
        }
    }
    out
}

/// The name of one side, relative to this folder where it can be. Names that would end a line or a name are quoted
/// as git does it.
fn side(which: char, path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    let path = path.strip_prefix(here).unwrap_or(path);
    let path: std::path::PathBuf = path.strip_prefix(".").unwrap_or(path).into();
    let bytes = path.as_os_str().as_encoded_bytes();
    let rooted = bytes.iter().take_while(|byte| **byte == b'/').count();
    let mut bytes = bytes[rooted..].to_vec();
    if cfg!(windows) {
        bytes.iter_mut().filter(|byte| **byte == b'\\').for_each(|byte| *byte = b'/');
    }
    let is_odd = |c: char| is_moving(c) || matches!(c, '\n' | '\t' | '"' | '\\');
    match std::str::from_utf8(&bytes) {
        // The tab says where a name with spaces ends.
        Ok(name) if name.contains(' ') && !name.contains(is_odd) => format!("{which}/{name}\t"),
        Ok(name) if !name.contains(is_odd) => format!("{which}/{name}"),
        _ => {
            let quoted: String = bytes.iter().map(|byte| quoted(*byte)).collect();
            format!("\"{which}/{quoted}\"")
        }
    }
}

fn quoted(byte: u8) -> String {
    match byte {
        b'\t' => r"\t".into(),
        b'\n' => r"\n".into(),
        b'\r' => r"\r".into(),
        b'"' | b'\\' => format!("\\{}", byte as char),
        b' '..=b'~' => (byte as char).to_string(),
        _ => format!("\\{byte:03o}"),
    }
}

/// A diff as a terminal shows it: coloured unless `NO_COLOR` is set, control characters spelt out.
pub(crate) fn for_terminal(diff: &str) -> String {
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
        || std::env::var_os("TERM").is_some_and(|value| value == "dumb");
    let shown = |line: &str| {
        let text = printable(line).into_owned();
        if plain {
            return format!("{text}\n");
        }
        let styled = match line.as_bytes() {
            [b'-', b'-', b'-', b' ', ..] | [b'+', b'+', b'+', b' ', ..] => text.bold(),
            [b'@', b'@', ..] => text.cyan(),
            [b'-', ..] => text.red(),
            [b'+', ..] => text.green(),
            _ => return format!("{text}\n"),
        };
        format!("{styled}\n")
    };
    diff.split_terminator('\n').map(|line| shown(line.strip_suffix('\r').unwrap_or(line))).collect()
}

#[cfg(test)]
mod tests {
    use super::{side, unified};
    use proptest::prelude::*;
    use std::path::Path;

    fn between(old: &str, new: &str) -> String {
        unified(old, new, Path::new("f"))
    }

    /// The text that a diff makes of `old`.
    fn applied(old: &str, diff: &str) -> String {
        let old: Vec<&str> = old.split_inclusive('\n').collect();
        let mut new = String::new();
        let (mut at, mut before) = (0, b' ');
        for line in diff.split_inclusive('\n').skip(2) {
            match line.as_bytes()[0] {
                b'@' => {
                    let range = line.split(['-', ' ']).nth(2).unwrap();
                    let mut numbers = range.split(',').map(|n| n.parse::<usize>().unwrap());
                    let start = numbers.next().unwrap();
                    let start = if numbers.next() == Some(0) { start } else { start - 1 };
                    new.push_str(&old[at..start].concat());
                    at = start;
                }
                b'\\' if before == b'-' => {}
                b'\\' => assert_eq!(new.pop(), Some('\n')),
                b'+' => new.push_str(&line[1..]),
                sign => {
                    assert_eq!(old[at].trim_end_matches('\n'), line[1..].trim_end_matches('\n'));
                    at += 1;
                    if sign == b' ' {
                        new.push_str(&line[1..]);
                    }
                }
            }
            before = line.as_bytes()[0];
        }
        new + &old[at..].concat()
    }

    #[test]
    fn a_diff_holds_both_texts_and_is_as_short_as_can_be() {
        // All pairs of texts of up to five lines from two; the shortest length by brute force.
        let lines = ["a\n", "b\n"];
        let all: Vec<Vec<&str>> = (0..6u32)
            .flat_map(|len| (0..1u32 << len).map(move |bits| (len, bits)))
            .map(|(len, bits)| (0..len).map(|i| lines[(bits >> i & 1) as usize]).collect())
            .collect();
        for a in &all {
            for b in &all {
                let found = between(&a.concat(), &b.concat());
                assert_eq!(applied(&a.concat(), &found), b.concat(), "{found}");
                let mut common = vec![vec![0; b.len() + 1]; a.len() + 1];
                for (i, x) in a.iter().enumerate() {
                    for (j, y) in b.iter().enumerate() {
                        common[i + 1][j + 1] = if x == y {
                            common[i][j] + 1
                        } else {
                            common[i][j + 1].max(common[i + 1][j])
                        };
                    }
                }
                let changes = found.lines().skip(2).filter(|l| l.starts_with(['-', '+'])).count();
                assert_eq!(
                    changes,
                    a.len() + b.len() - 2 * common[a.len()][b.len()],
                    "{a:?} {b:?}"
                );
            }
        }
    }

    #[test]
    fn texts_that_share_nothing_are_replaced() {
        let lines = |name: &str| (0..2000).map(|i| format!("{name}{i}\n")).collect::<String>();
        let (old, new) = (lines("a"), lines("b"));
        assert_eq!(applied(&old, &between(&old, &new)), new);
    }

    #[test]
    fn hunks_have_their_places_and_a_missing_last_line_end_is_said() {
        let old: String = (1..=20).map(|i| format!("{i}\n")).collect();
        let new = old.replace("\n3\n", "\nthree\n").replace("\n20\n", "\n20");
        let expected = "--- a/f\n+++ b/f\n@@ -1,6 +1,6 @@\n 1\n 2\n-3\n+three\n 4\n 5\n 6\n@@ -17,4 +17,4 @@\n \
                        17\n 18\n 19\n-20\n+20\n\\ No newline at end of file\n";
        assert_eq!(between(&old, &new), expected);
        assert_eq!(between(&old, &old), "");
        assert_eq!(between("", "a\n"), "--- a/f\n+++ b/f\n@@ -0,0 +1 @@\n+a\n");
        assert_eq!(between("a\r\nb\r\n", "a\r\nc\r\n").matches("\r\n").count(), 3);
        let lone = between("a\r", "b\r");
        assert!(
            lone.ends_with(
                "-a\r\n\\ No newline at end of file\n+b\r\n\\ No newline at end of file\n"
            )
        );
    }

    #[test]
    fn names_that_would_end_a_line_or_a_name_are_quoted() {
        let name = |path: &str| side('a', Path::new(path));
        assert_eq!(name("./src/f.py"), "a/src/f.py");
        assert_eq!(name("/there/f.py"), "a/there/f.py");
        assert_eq!(name("grüße.md"), "a/grüße.md");
        assert_eq!(name("two words"), "a/two words\t");
        assert_eq!(name("two\nlines \"x\""), r#""a/two\nlines \"x\"""#);
        assert_eq!(name("\u{1b}[2J"), r#""a/\033[2J""#);
        let here = std::env::current_dir().unwrap().join("f.py");
        assert_eq!(side('b', &here), "b/f.py");
    }

    proptest! {
        #[test]
        fn a_diff_leads_from_old_to_new(old in "([ab]\r?\n){0,12}[ab\r]{0,2}", new in "([ab]\r?\n){0,12}[ab\r]{0,2}") {
            let diff = between(&old, &new);
            prop_assert_eq!(diff.is_empty(), old == new);
            prop_assert_eq!(applied(&old, &diff), new);
        }
    }
}

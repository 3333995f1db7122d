//! Makes each crate's README from the head of its documentation, so that the two can't say
//! different things.

use std::path::Path;

use anyhow::{Context, Result};

use crate::cargo;

/// The file whose documentation opens a crate, by preference: a package without a library is told by its program.
pub(crate) const SOURCES: [&str; 2] = ["src/lib.rs", "src/main.rs"];

/// `cargo xtask readmes`: writes those that differ.
pub(crate) fn write() -> Result<()> {
    let crates = cargo::root().join("crates");
    let entries = std::fs::read_dir(&crates);
    for entry in entries.with_context(|| format!("can't read {}", crates.display()))? {
        let folder = entry?.path();
        let Some(source) = SOURCES.into_iter().find(|source| folder.join(source).exists()) else {
            continue;
        };
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        let text = readme(&name, source, &read(&folder.join(source))?);
        let path = folder.join("README.md");
        if !path.exists() || read(&path)? != text {
            std::fs::write(&path, text)
                .with_context(|| format!("can't write {}", path.display()))?;
            println!("readmes: wrote {}", path.display());
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("can't read {}", path.display()))
}

/// The README of a crate, from the code of its source file.
pub(crate) fn readme(name: &str, source: &str, code: &str) -> String {
    let (head, footer) = (head(code), footer());
    format!("<!-- Made from {source} by `cargo xtask readmes`. -->\n# {name}\n\n{head}{footer}")
}

fn footer() -> &'static str {
    "\n## Status\n\nA part of [lacuna](https://github.com/lacuna-lm/lacuna). Version 0.1.0, unreleased: name it by git or by \
     path; interfaces will change.\n\nLicence: MIT or Apache-2.0, at your choice.\n"
}

/// The `//!` lines at the top as they read outside of rustdoc: hidden lines of examples are left out, links to items
/// are names.
fn head(code: &str) -> String {
    let mut text = String::new();
    let mut in_code = false;
    for line in code.lines().map_while(|line| line.strip_prefix("//!")) {
        let line = line.strip_prefix(' ').unwrap_or(line);
        if let Some(attributes) = line.strip_prefix("```") {
            in_code = !in_code;
            text.push_str(if in_code && !attributes.starts_with("text") {
                "```rust"
            } else {
                "```"
            });
        } else if in_code && (line == "#" || line.starts_with("# ")) {
            continue;
        } else if in_code {
            text.push_str(line);
        } else {
            let line = if line.starts_with("# ") { format!("#{line}") } else { line.to_owned() };
            text.push_str(&without_item_links(&line));
        }
        text.push('\n');
    }
    text
}

/// ``[`Name`]`` and ``[`Name`](path)`` become `` `Name` ``, `[word](item)` becomes `word`; links to the web stay.
fn without_item_links(line: &str) -> String {
    let mut out = String::new();
    let mut rest = line;
    while let Some((before, behind)) = rest.split_once('[') {
        out.push_str(before);
        let Some((label, after)) = behind.split_once(']') else {
            out.push('[');
            rest = behind;
            continue;
        };
        let target = after.strip_prefix('(').and_then(|target| target.split_once(')'));
        rest = match target {
            Some((target, _)) if target.contains("://") => {
                out.push_str(&format!("[{label}]({target})"));
                &after[target.len() + 2..]
            }
            Some((target, _)) => {
                out.push_str(label);
                &after[target.len() + 2..]
            }
            None if label.starts_with('`') => {
                out.push_str(label);
                after
            }
            None => {
                out.push_str(&format!("[{label}]"));
                after
            }
        };
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::{head, without_item_links};

    #[test]
    fn links_to_items_are_names_and_links_to_the_web_stay() {
        for (line, expected) in [
            ("- [`Row`]: a window", "- `Row`: a window"),
            ("[`hidden`](Transformer::hidden) under", "`hidden` under"),
            ("are [checked](shard) before", "are checked before"),
            ("see [it](https://a.org/b) and [`X`]", "see [it](https://a.org/b) and `X`"),
            ("keys of (0, 1] and [xt ; x0]", "keys of (0, 1] and [xt ; x0]"),
            ("an open [ stays", "an open [ stays"),
        ] {
            assert_eq!(without_item_links(line), expected);
        }
    }

    #[test]
    fn examples_come_without_their_hidden_lines() {
        let code = "//! Idea.\n//!\n//! ```no_run\n//! use x;\n//! # hidden();\n//! #[attribute]\n//! ```\n//! # The nouns\n\nmod a;\n//! not this\n";
        assert_eq!(head(code), "Idea.\n\n```rust\nuse x;\n#[attribute]\n```\n## The nouns\n");
    }
}

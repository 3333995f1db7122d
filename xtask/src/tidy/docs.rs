//! Checks the documentation against the tree: links, the changelog, names of code, paths of
//! machines.

use std::collections::BTreeSet;

use super::sources::has_word;
use super::{Tree, crate_of};
use crate::readme::{SOURCES, readme};

/// Relative links of every page lead to a file of the repository, and to a heading of it where they name one.
pub(super) fn links(tree: &Tree) -> Vec<String> {
    let mut complaints = Vec::new();
    for (path, text) in tree.matching("", ".md") {
        for (line, target) in targets(text) {
            let (file, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let Some(file) = resolve(path, file) else {
                complaints.push(format!("{path}:{line}: {target} leads out of the repository"));
                continue;
            };
            let below = format!("{}/", file.trim_end_matches('/'));
            let exists = |known: &String| *known == file || known.starts_with(&below);
            if !file.is_empty() && !tree.paths.iter().any(exists) {
                complaints.push(format!("{path}:{line}: {target} does not exist"));
            } else if !anchor.is_empty()
                && let Some(page) = tree.text.get(&file)
                && file.ends_with(".md")
                && !headings(page).contains(anchor)
            {
                complaints.push(format!("{path}:{line}: {file} has no heading #{anchor}"));
            }
        }
    }
    complaints
}

/// The targets of relative links, with their lines, outside of code.
fn targets(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (number, line) in prose(text) {
        let line = without_code_spans(line);
        let mut rest = line.as_str();
        while let Some(at) = rest.find("](") {
            rest = &rest[at + 2..];
            let target = &rest[..rest.find(')').unwrap_or(rest.len())];
            let target = target.split_whitespace().next().unwrap_or_default();
            if !target.contains("://") && !target.starts_with("mailto:") {
                found.push((number, target.to_owned()));
            }
        }
    }
    found
}

/// Lines outside of fenced code, with their numbers.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    text.lines().enumerate().filter_map(move |(index, line)| {
        let is_fence = line.trim_start().starts_with("```");
        fenced ^= is_fence;
        (!fenced && !is_fence).then_some((index + 1, line))
    })
}

fn without_code_spans(line: &str) -> String {
    line.split('`').step_by(2).collect::<Vec<_>>().join("``")
}

fn code_spans(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// `target` seen from the page at `path`, from the root; none if it leads out of it.
fn resolve(path: &str, target: &str) -> Option<String> {
    if target.is_empty() {
        return Some(path.to_owned());
    }
    let mut parts: Vec<&str> = path.split('/').collect();
    parts.pop();
    for part in target.trim_end_matches('/').split('/') {
        match part {
            "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// The anchors of a page's headings, as forges make them.
fn headings(text: &str) -> BTreeSet<String> {
    let titles = prose(text).filter_map(|(_, line)| line.strip_prefix('#'));
    titles.map(|title| slug(title.trim_start_matches('#').trim())).collect()
}

fn slug(title: &str) -> String {
    let kept = title.chars().filter(|c| c.is_alphanumeric() || "-_ ".contains(*c));
    kept.map(|c| if c == ' ' { '-' } else { c }).flat_map(char::to_lowercase).collect()
}

/// CHANGELOG.md has a heading for the version that the manifests carry.
pub(super) fn changelog(tree: &Tree) -> Vec<String> {
    let manifest = tree.text.get("Cargo.toml").and_then(|text| text.parse::<toml::Table>().ok());
    let version = manifest
        .as_ref()
        .and_then(|manifest| manifest.get("workspace")?.get("package")?.get("version")?.as_str());
    let Some(version) = version else { return vec!["Cargo.toml: no workspace version".into()] };
    let Some(changes) = tree.text.get("CHANGELOG.md") else {
        return vec!["CHANGELOG.md is missing".into()];
    };
    let named = changes.lines().any(|line| line.starts_with("## ") && line.contains(version));
    if named { vec![] } else { vec![format!("CHANGELOG.md has no heading for {version}")] }
}

/// Functions, tests and files that docs/paper.md names in backticks are there.
pub(super) fn paper_names(tree: &Tree) -> Vec<String> {
    let page = "docs/paper.md";
    let Some(text) = tree.text.get(page) else { return vec![format!("{page} is missing")] };
    let mut complaints = Vec::new();
    for (number, line) in prose(text) {
        for span in code_spans(line) {
            if let Some(problem) = missing_name(tree, span) {
                complaints.push(format!("{page}:{number}: `{span}`: {problem}"));
            }
        }
    }
    complaints
}

/// Tells what is wrong with a span that names a file, a path of Rust names, or a test; `None` for
/// anything else.
fn missing_name(tree: &Tree, span: &str) -> Option<String> {
    let name = span.trim_end_matches("()").trim_end_matches('!');
    if name.contains('/') && [".rs", ".md", ".toml"].iter().any(|end| name.ends_with(end)) {
        let exists = tree.paths.iter().any(|path| path == name);
        return (!exists).then(|| "no such file".into());
    }
    let is_word = |part: &str| {
        !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    let parts: Vec<&str> = name.split("::").collect();
    if !parts.iter().all(|part| is_word(part)) {
        return None;
    }
    let is_path = parts.len() > 1;
    let is_claim = name.matches('_').count() >= 3; // a test's name is a sentence
    if !is_path && !is_claim {
        return None;
    }
    let (start, parts) = match crate_folder(tree, parts[0]) {
        Some(folder) if is_path => (folder, &parts[1..]),
        _ => ("crates/".to_owned(), &parts[..]),
    };
    let gone = parts.iter().find(|part| {
        let module = format!("/{part}.rs");
        let folder = format!("/{part}/");
        !tree.matching(&start, ".rs").any(|(path, text)| {
            has_word(text, part) || path.ends_with(&module) || path.contains(&folder)
        })
    });
    gone.map(|part| format!("no `{part}` under {start}"))
}

/// `crates/lacuna-NAME/` for `lacuna_NAME` or `NAME`.
fn crate_folder(tree: &Tree, name: &str) -> Option<String> {
    let name = name.replace('_', "-");
    [format!("crates/{name}/"), format!("crates/lacuna-{name}/")]
        .into_iter()
        .find(|folder| tree.paths.iter().any(|path| path.starts_with(folder)))
}

/// Home folders and the like; split, so that this file doesn't break its own rule.
const MACHINE_PATHS: &[&str] = &[
    concat!("/wo", "rk/"),
    concat!("/ro", "ot/"),
    concat!("/ho", "me/"),
    concat!("/Us", "ers/"),
    concat!("/tmp/", "bash_jobs"),
];

/// No file names a path that exists on one machine only.
pub(super) fn machine_paths(tree: &Tree) -> Vec<String> {
    let mut complaints = Vec::new();
    for (path, text) in tree.matching("", "") {
        for (index, line) in text.lines().enumerate() {
            let is_absolute = |at: usize| {
                !line[..at].ends_with(|c: char| c.is_alphanumeric() || "}/.-_)\"".contains(c))
                    || line[..at].ends_with('"')
            };
            for start in MACHINE_PATHS {
                if line.match_indices(start).any(|(at, _)| is_absolute(at)) {
                    complaints.push(format!("{path}:{}: `{start}`", index + 1));
                }
            }
        }
    }
    complaints
}

/// Each crate's README is the head of its documentation.
pub(super) fn readmes(tree: &Tree) -> Vec<String> {
    let mut complaints = Vec::new();
    for (manifest, _) in tree.matching("crates/", "/Cargo.toml") {
        let folder = manifest.trim_end_matches("/Cargo.toml");
        let found = SOURCES
            .into_iter()
            .find_map(|source| Some((source, tree.text.get(&format!("{folder}/{source}"))?)));
        let (Some((source, code)), Some(name)) = (found, crate_of(manifest)) else { continue };
        let path = format!("{folder}/README.md");
        if tree.text.get(&path) != Some(&readme(name, source, code)) {
            complaints.push(format!(
                "{path}: not what {source} says of the crate; `cargo xtask readmes` writes it"
            ));
        }
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_followed_from_the_page_they_stand_on() {
        let tree = Tree::of(&[
            (
                "README.md",
                "[a](docs/a.md) [b](docs/gone.md) ![c](docs) [w](https://x.y)\n```\n[x](no)\n```\n`[y](no)`",
            ),
            (
                "docs/a.md",
                "# A title, `quoted`\n[up](../README.md) [out](../../x) [self](#a-title-quoted)\n[bad](#nothing)",
            ),
        ]);
        let told = links(&tree);
        assert_eq!(
            told,
            [
                "README.md:1: docs/gone.md does not exist",
                "docs/a.md:2: ../../x leads out of the repository",
                "docs/a.md:3: docs/a.md has no heading #nothing",
            ]
        );
    }

    #[test]
    fn the_changelog_must_head_the_version() {
        let manifest = ("Cargo.toml", "[workspace.package]\nversion = \"1.2.3\"\n");
        let told = |text| changelog(&Tree::of(&[manifest, ("CHANGELOG.md", text)])).len();
        assert_eq!(told("## 1.2.3 (2026)\n"), 0);
        assert_eq!(told("since 1.2.3\n"), 1);
        assert_eq!(changelog(&Tree::of(&[manifest])).len(), 1);
    }

    #[test]
    fn names_in_the_papers_page_are_looked_up() {
        let source = (
            "crates/lacuna-objective/src/nelbo.rs",
            "pub fn exact() {}\nfn a_claim_that_holds() {}",
        );
        let told = |page| paper_names(&Tree::of(&[source, ("docs/paper.md", page)]));
        for fine in [
            "`lacuna_objective::nelbo::exact`",
            "`objective::exact()`",
            "`a_claim_that_holds`",
            "`1/u`, `--flag`, `block_size`, `w(t) = 1/t`",
            "`crates/lacuna-objective/src/nelbo.rs`",
        ] {
            assert_eq!(told(fine), [""; 0]);
        }
        for gone in [
            "`lacuna_objective::nelbo::inexact`",
            "`a_claim_that_holds_not`",
            "`crates/lacuna-objective/src/gone.rs`",
        ] {
            assert_eq!(told(gone).len(), 1, "{gone}");
        }
    }

    #[test]
    fn a_machines_path_is_told() {
        let path = format!("see {}me/someone/x", "/ho");
        assert_eq!(machine_paths(&Tree::of(&[("a.md", &path)])).len(), 1);
        let relative = format!("https://x.y{}me/z, $HOME{}me/x", "/ho", "/ho");
        assert_eq!(machine_paths(&Tree::of(&[("a.md", &relative)])), [""; 0]);
    }

    #[test]
    fn a_readme_that_lags_behind_its_crate_is_told() {
        let code = "//! Idea.\n\nmod a;\n";
        let current = readme("lacuna-x", "src/lib.rs", code);
        let told = |text: &str| {
            readmes(&Tree::of(&[
                ("crates/lacuna-x/Cargo.toml", ""),
                ("crates/lacuna-x/src/lib.rs", code),
                ("crates/lacuna-x/README.md", text),
            ]))
        };
        assert_eq!(told(&current), [""; 0]);
        assert_eq!(told(&current.replace("Idea", "Old idea")).len(), 1);
    }
}

//! `cargo xtask tidy` checks those rules of the house that a program can (docs/architecture.md
//! lists them all).
//!
//! Every check is a function from the tree to a list of complaints, so that its tests need no disk.

mod code;
mod docs;
mod manifests;
mod prose;
mod sources;

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};

use crate::cargo;

/// Every text file of the repository that is ours, by its path from the root.
#[derive(Default)]
struct Tree {
    text: BTreeMap<String, String>,
    /// Every path, of files whose text is not ours too.
    paths: Vec<String>,
}

/// A rule: its name in the output, and what breaks it.
type Check = (&'static str, fn(&Tree) -> Vec<String>);

const CHECKS: &[Check] = &[
    ("dependency directions", manifests::directions),
    ("dependencies say why", manifests::reasons),
    ("workspace lints", manifests::lints),
    ("lacuna-schedules is no_std", sources::no_std),
    ("unsafe only where allowed", sources::unsafe_code),
    ("libraries print nothing", sources::prints),
    ("files are touched only where allowed", sources::files),
    ("only configuration deserializes", sources::deserialize),
    ("randomness and time are arguments", sources::ambient_state),
    ("two public traits", sources::public_traits),
    ("one error type per crate", sources::error_types),
    ("every library opens with an example", sources::opening_examples),
    ("every fast operation has a reference", sources::references),
    ("kernels are included once", sources::included_once),
    ("files fit a reader", sources::lengths),
    ("files open with a sentence", prose::openings),
    ("no comment begins with a bare clause", prose::clauses),
    ("READMEs are their crates' documentation", docs::readmes),
    ("links lead somewhere", docs::links),
    ("the changelog names the version", docs::changelog),
    ("docs/paper.md names what exists", docs::paper_names),
    ("no machine's paths", docs::machine_paths),
];

/// Runs every check and fails if one complains.
pub(crate) fn tidy() -> Result<()> {
    let tree = read_tree()?;
    let mut complaints = 0;
    for (rule, check) in CHECKS {
        for complaint in check(&tree) {
            eprintln!("tidy: {rule}: {complaint}");
            complaints += 1;
        }
    }
    let long = sources::long_files(&tree);
    if !long.is_empty() {
        println!("tidy: over {} lines, worth a look: {}", sources::LONG_LINES, long.join(", "));
    }
    if complaints > 0 {
        bail!("tidy: {complaints} complaints");
    }
    println!("tidy: {} rules hold in {} files", CHECKS.len(), tree.text.len());
    Ok(())
}

/// Text that others wrote: it obeys no rule of ours.
const NOT_OURS: &[&str] = &["fixtures/corpus/", "fixtures/golden/", "fixtures/models/"];

fn read_tree() -> Result<Tree> {
    let listing = cargo::output(
        std::process::Command::new("git")
            .args(["ls-files", "--cached", "--others", "--exclude-standard"])
            .current_dir(cargo::root()),
    )
    .context("tidy looks at the files that git knows")?;
    let mut tree = Tree::default();
    for path in listing.lines() {
        let file = cargo::root().join(path);
        if !file.is_file() {
            continue; // deleted, not yet committed
        }
        tree.paths.push(path.to_owned());
        if !NOT_OURS.iter().any(|prefix| path.starts_with(prefix))
            && let Ok(text) = std::fs::read_to_string(&file)
        {
            tree.text.insert(path.to_owned(), text);
        }
    }
    Ok(tree)
}

impl Tree {
    #[cfg(test)]
    fn of(files: &[(&str, &str)]) -> Tree {
        let text = files.iter().map(|(path, text)| (path.to_string(), text.to_string())).collect();
        Tree { text, paths: files.iter().map(|(path, _)| path.to_string()).collect() }
    }

    /// Files whose path starts and ends so.
    fn matching<'a>(
        &'a self,
        start: &'a str,
        end: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.text
            .iter()
            .map(|(path, text)| (path.as_str(), text.as_str()))
            .filter(move |(path, _)| path.starts_with(start) && path.ends_with(end))
    }
}

/// The crate that a path lies in: `crates/NAME/…`.
fn crate_of(path: &str) -> Option<&str> {
    path.strip_prefix("crates/")?.split('/').next()
}

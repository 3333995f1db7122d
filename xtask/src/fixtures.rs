//! `cargo xtask fixtures` checks that what is shipped is what its maker makes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::cargo::lacuna;
use crate::cargo::{self, run};

/// The way to deal with a difference.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Write what was made into fixtures/ instead of only comparing
    #[arg(long)]
    pub write: bool,
}

const CORPUS: &str = "fixtures/corpus";
const SUMS: &str = "SHA256SUMS";
const TOKENIZER: &str = "fixtures/tokenizer/tokenizer.json";
const VOCAB_SIZE: &str = "4096";
const HOSTILE: &str = "fixtures/hostile";

/// Checks the corpus' hashes, makes tokenizer and hostile files anew, and lists every difference.
pub(crate) fn fixtures(args: Args) -> Result<()> {
    let root = cargo::root();
    let scratch = cargo::target_dir()?.join("fixtures");
    if scratch.exists() {
        std::fs::remove_dir_all(&scratch)?;
    }
    std::fs::create_dir_all(&scratch)?;

    let mut differences = corpus_differences(&root.join(CORPUS))?;

    let tokenizer = scratch.join("tokenizer.json");
    run(Command::new(lacuna()?)
        .args([
            "tokenizer",
            "--vocab-size",
            VOCAB_SIZE,
            "--extension",
            "py",
            "--extension",
            "rs",
            "--out",
        ])
        .args([tokenizer.as_path(), Path::new(CORPUS)])
        .current_dir(&root))?;
    differences.extend(compare_file(&tokenizer, &root.join(TOKENIZER), TOKENIZER, args.write)?);

    let hostile = scratch.join("hostile");
    // With --workspace the dependencies are those that the tests have built.
    let make = cargo::build("make_hostile", &["--workspace", "--example", "make_hostile"])?;
    run(Command::new(make).arg(&hostile))?;
    differences.extend(compare_folders(&hostile, &root.join(HOSTILE), HOSTILE, args.write)?);

    for difference in &differences {
        eprintln!("fixtures: {difference}");
    }
    if !differences.is_empty() {
        bail!(
            "{} differences; `cargo xtask fixtures --write` takes what was made",
            differences.len()
        );
    }
    println!("fixtures: corpus, tokenizer and hostile files are as their makers make them");
    Ok(())
}

/// The corpus is never written: it came from elsewhere, and its hashes say what came.
fn corpus_differences(corpus: &Path) -> Result<Vec<String>> {
    let sums = corpus.join(SUMS);
    let listed =
        std::fs::read_to_string(&sums).with_context(|| format!("can't read {}", sums.display()))?;
    let listed = parse_sums(&listed).with_context(|| sums.display().to_string())?;
    let mut found = BTreeMap::new();
    for path in files(corpus)? {
        // Files beside the packages' folders describe them.
        if path.iter().count() > 1 {
            let bytes = std::fs::read(corpus.join(&path))?;
            found.insert(slashes(&path), hex(&Sha256::digest(&bytes)));
        }
    }
    Ok(sum_differences(&listed, &found))
}

/// Lines of `sha256sum`: 64 hex digits, two spaces (or ` *`), a path.
fn parse_sums(text: &str) -> Result<BTreeMap<String, String>> {
    let mut sums = BTreeMap::new();
    for (index, line) in text.lines().enumerate() {
        let (sum, path) = line.split_once(' ').unwrap_or_default();
        let path = path.trim_start_matches([' ', '*']).trim_start_matches("./");
        if sum.len() != 64 || path.is_empty() {
            bail!("line {}: expected `<sha256>  <path>`", index + 1);
        }
        sums.insert(path.to_owned(), sum.to_owned());
    }
    Ok(sums)
}

fn sum_differences(
    listed: &BTreeMap<String, String>,
    found: &BTreeMap<String, String>,
) -> Vec<String> {
    let names: BTreeSet<_> = listed.keys().chain(found.keys()).collect();
    let differs = |name: &&String| match (listed.get(*name), found.get(*name)) {
        (Some(listed), Some(found)) if listed == found => None,
        (Some(_), Some(_)) => Some(format!("{CORPUS}/{name}: content differs from {SUMS}")),
        (Some(_), None) => Some(format!("{CORPUS}/{name}: listed in {SUMS}, but missing")),
        _ => Some(format!("{CORPUS}/{name}: not listed in {SUMS}")),
    };
    names.iter().filter_map(differs).collect()
}

/// Compares one made file with the shipped one; `write` ships it, which leaves no difference.
fn compare_file(made: &Path, shipped: &Path, name: &str, write: bool) -> Result<Option<String>> {
    let new = std::fs::read(made).with_context(|| format!("{} was not made", made.display()))?;
    let old = std::fs::read(shipped).ok();
    if old.as_ref() == Some(&new) {
        return Ok(None);
    }
    if write {
        std::fs::create_dir_all(shipped.parent().expect("a shipped file lies in a folder"))?;
        std::fs::write(shipped, new)?;
        println!("fixtures: wrote {name}");
        return Ok(None);
    }
    let Some(old) = old else { return Ok(Some(format!("{name}: made, but not shipped"))) };
    let at = old.iter().zip(&new).take_while(|(old, new)| old == new).count();
    Ok(Some(format!(
        "{name}: {} bytes shipped, {} made, first difference at byte {at}",
        old.len(),
        new.len()
    )))
}

/// Compares folders file by file; `write` also removes shipped files that are no longer made.
fn compare_folders(made: &Path, shipped: &Path, name: &str, write: bool) -> Result<Vec<String>> {
    let (new, old) = (files(made)?, files(shipped).unwrap_or_default());
    let mut differences = Vec::new();
    for path in &new {
        let name = format!("{name}/{}", slashes(path));
        differences.extend(compare_file(&made.join(path), &shipped.join(path), &name, write)?);
    }
    for path in old.difference(&new).filter(|path| !is_readme(path)) {
        if write {
            std::fs::remove_file(shipped.join(path))?;
            println!("fixtures: removed {name}/{}", slashes(path));
        } else {
            differences.push(format!("{name}/{}: shipped, but no longer made", slashes(path)));
        }
    }
    Ok(differences)
}

fn is_readme(path: &Path) -> bool {
    path == Path::new("README.md")
}

/// Every file below `folder`, by its path relative to it.
fn files(folder: &Path) -> Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    let mut open = vec![folder.to_path_buf()];
    while let Some(dir) = open.pop() {
        let entries =
            std::fs::read_dir(&dir).with_context(|| format!("can't read {}", dir.display()))?;
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() && !path.is_symlink() {
                open.push(path);
            } else {
                found.insert(path.strip_prefix(folder).expect("it lies below").to_path_buf());
            }
        }
    }
    Ok(found)
}

fn slashes(path: &Path) -> String {
    path.iter().map(|part| part.to_string_lossy()).collect::<Vec<_>>().join("/")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_changed_and_unlisted_files_are_told_apart() {
        let a = "a".repeat(64);
        let b = "b".repeat(64);
        let listed = parse_sums(&format!("{a}  x.py\n{a} *./sub/y.rs\n{a}  gone\n")).unwrap();
        let found: BTreeMap<_, _> = [("x.py", &a), ("sub/y.rs", &b), ("new", &a)]
            .map(|(k, v)| (k.into(), v.clone()))
            .into();
        let told = sum_differences(&listed, &found);
        assert_eq!(told.len(), 3);
        assert!(told[0].ends_with("gone: listed in SHA256SUMS, but missing"));
        assert!(told[1].ends_with("new: not listed in SHA256SUMS"));
        assert!(told[2].ends_with("sub/y.rs: content differs from SHA256SUMS"));
        assert!(parse_sums("abc  x").unwrap_err().to_string().contains("line 1"));
    }

    #[test]
    fn folders_compare_file_by_file_and_write_makes_them_equal() {
        let dir = std::env::temp_dir().join(format!("lacuna-xtask-{}", std::process::id()));
        let (made, shipped) = (dir.join("made"), dir.join("shipped"));
        std::fs::create_dir_all(made.join("sub")).unwrap();
        std::fs::create_dir_all(&shipped).unwrap();
        std::fs::write(made.join("sub/new"), "1").unwrap();
        std::fs::write(made.join("changed"), "same then not").unwrap();
        std::fs::write(shipped.join("changed"), "same then NOT").unwrap();
        std::fs::write(shipped.join("stale"), "1").unwrap();
        std::fs::write(shipped.join("README.md"), "stays").unwrap();

        let told = compare_folders(&made, &shipped, "f", false).unwrap();
        assert_eq!(told.len(), 3, "{told:?}");
        assert!(
            told[0]
                .starts_with("f/changed: 13 bytes shipped, 13 made, first difference at byte 10")
        );
        assert_eq!(told[1], "f/sub/new: made, but not shipped");
        assert_eq!(told[2], "f/stale: shipped, but no longer made");

        assert!(compare_folders(&made, &shipped, "f", true).unwrap().is_empty());
        assert!(compare_folders(&made, &shipped, "f", false).unwrap().is_empty());
        assert!(shipped.join("README.md").exists());
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn hashes_are_sha256() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(hex(&Sha256::digest(b"")), empty);
    }
}

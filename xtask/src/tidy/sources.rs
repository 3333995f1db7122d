//! Checks the sources: where unsafe code, files, output and configuration may stand, and how long a
//! file may be.

use super::code::{without_comments, without_tests};
use super::{Tree, crate_of};

/// Crates with `unsafe`: each block there carries a `SAFETY:` comment, which clippy checks.
const UNSAFE: &[(&str, &str)] = &[
    ("lacuna-kernels", "vector instructions"),
    ("lacuna-files", "mapped files"),
    ("lacuna-device", "the CUDA driver"),
    ("lacuna-sandbox", "a fork on its way to a program"),
    ("lacuna-test", "an allocator that counts"),
];

/// The places that touch files (invariant 6), by the start of a path: one crate, what it does to a disk, tests can stop and
/// forget; and three files of the sandbox.
const FILES: &[(&str, &str)] = &[
    ("crates/lacuna-files/src/", "everything else calls it"),
    ("crates/lacuna-sandbox/src/linux/usage.rs", "/proc, which is no disk"),
    (
        "crates/lacuna-sandbox/src/linux/modes.rs",
        "modes in a folder that a stranger's program writes",
    ),
    (
        "crates/lacuna-sandbox/src/linux/folder.rs",
        "sizes in a folder that a stranger's program writes",
    ),
];

/// Words by which code touches files, or opens them.
const TOUCHES_FILES: &[&str] =
    &["std::fs", "unix::fs", "windows::fs", "OpenOptions::new", "rustix", "memmap2"];

/// The files that may hold `Deserialize` (invariant 5), by the start of a path.
const DESERIALIZES: &[(&str, &str)] = &[
    ("crates/lacuna-files/src/manifest", "manifests of hashes"),
    ("crates/lacuna-train/src/recipe", "recipes"),
    ("crates/lacuna-train/src/groups", "names of groups in recipes and metrics"),
    ("crates/lacuna-train/src/learning_rate", "names of shapes in recipes"),
    (
        "crates/lacuna-train/src/checkpoint",
        "a checkpoint's place in the run, what its weights were worth",
    ),
    ("crates/lacuna-train/src/metrics", "metrics, read back for plots"),
    ("crates/lacuna-train/src/spikes", "the losses before, inside a checkpoint's place"),
    ("crates/lacuna-train/src/record", "run.json and results.json, read back by a resumed run"),
    ("crates/lacuna-train/src/evaluation", "names of scores in results.json"),
    ("crates/lacuna-checkpoint/src/safetensors/header", "the header of a safetensors file"),
    (
        "crates/lacuna-checkpoint/src/gguf/vocabulary",
        "the tokenizer.json that a GGUF file takes along",
    ),
    ("crates/lacuna-text/src/tokenizer/", "tokenizer.json, read without holding it"),
    ("crates/lacuna-data/src/shard", "the manifest of shards"),
    ("crates/lacuna-data/src/batch", "the cursor inside a checkpoint"),
    ("crates/lacuna-text/src/chat", "the messages of a conversation"),
    ("crates/lacuna-samplers/src/trace", "replayable traces"),
    ("crates/lacuna-samplers/src/request", "the request inside a trace"),
    ("crates/lacuna-samplers/src/candidates", "the request inside a trace"),
    ("crates/lacuna-samplers/src/fill", "the request inside a trace"),
    ("crates/lacuna-samplers/src/reference", "the request inside a trace"),
    ("crates/lacuna-serve/src/api", "the requests of clients"),
];

/// Public traits. A third needs its reason in docs/design.md, where `tidy` looks for its name.
const TRAITS: &[&str] = &["NoiseSchedule", "Denoiser"];

/// Operations that stand in `lacuna_kernels` fast and in `lacuna_kernels::reference` slow (invariant 7).
const OPERATIONS: &[&str] = &[
    "attention",
    "rms_norm",
    "rope",
    "swiglu",
    "embedding",
    "linear_cross_entropy",
    "linear_cross_entropy_gradients",
    "linear",
    "linear_input_gradient",
    "linear_weight_gradient",
    "rms_norm_backward",
    "rope_backward",
    "swiglu_backward",
    "adamw",
    "global_norm",
    "moving_average",
    "embedding_backward",
    "attention_over",
    "attention_backward",
];

/// Files over `MOST_LINES`, each with its reason.
const LONG: &[(&str, &str)] = &[(
    "crates/lacuna-checkpoint/examples/make_hostile.rs",
    "a catalogue: one entry after the other, each a malformed file",
)];
const MOST_LINES: usize = 500;
/// Worth a look, no complaint.
pub(super) const LONG_LINES: usize = 250;

/// Files of the kernels that others include carry `#pragma once`: the emulation includes them one by one, the program for a
/// card all together, and only nvcc, which continuous integration does not have, compiles that. Files are known by their names, without
/// their folders.
pub(super) fn included_once(tree: &Tree) -> Vec<String> {
    let sources: Vec<_> = tree.matching("crates/lacuna-kernels/cuda/", "").collect();
    let names = sources.iter().flat_map(|(_, text)| text.lines().filter_map(included));
    let names: std::collections::BTreeSet<&str> =
        names.filter_map(|path| path.rsplit('/').next()).collect();
    let complaint = |(path, text): &(&str, &str)| {
        let name = path.rsplit('/').next()?;
        let code = [".cu", ".cuh", ".h"].iter().any(|end| name.ends_with(end));
        let lacks = code && names.contains(name) && !text.contains("#pragma once");
        lacks.then(|| format!("{path} is included and has no `#pragma once`"))
    };
    sources.iter().filter_map(complaint).collect()
}

/// The file of ours that a line includes.
fn included(line: &str) -> Option<&str> {
    line.trim().strip_prefix("#include \"")?.strip_suffix('"')
}

/// The sources of libraries: everything in crates/ but the binary and its commands.
fn libraries(tree: &Tree) -> impl Iterator<Item = (&str, &str)> {
    sources(tree).filter(|(path, _)| !is_binary(path))
}

/// The files of crates/ that are built, libraries and program.
fn sources(tree: &Tree) -> impl Iterator<Item = (&str, &str)> {
    tree.matching("crates/", ".rs").filter(|(path, _)| {
        let is_source = path.split('/').nth(2) == Some("src");
        let is_test = path.ends_with("/tests.rs")
            || path.contains("/tests/")
            || path.starts_with("crates/lacuna-test/");
        is_source && !is_test
    })
}

fn is_binary(path: &str) -> bool {
    path.starts_with("crates/lacuna-cli/")
}

/// Lines of library code (no comments, no tests) that hold one of the words, as `path:line: word`.
fn code_with<'a>(
    files: impl Iterator<Item = (&'a str, &'a str)>,
    words: &[&str],
) -> Vec<(&'a str, String)> {
    let mut found = Vec::new();
    for (path, text) in files {
        if !words.iter().any(|word| text.contains(word)) {
            continue;
        }
        for (index, line) in without_tests(text).lines().enumerate() {
            let here = words.iter().filter(|word| has_word(line, word));
            found.extend(here.map(|word| (path, format!("{path}:{}: `{word}`", index + 1))));
        }
    }
    found
}

/// Tells whether `word` stands in `line` and is no part of a longer name.
pub(super) fn has_word(line: &str, word: &str) -> bool {
    let is_name = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let (opens, ends) = (is_name(word.chars().next()), is_name(word.chars().next_back()));
    line.match_indices(word).any(|(at, _)| {
        let (before, behind) = (&line[..at], &line[at + word.len()..]);
        let goes_on = (opens && is_name(before.chars().next_back()))
            || (ends && is_name(behind.chars().next()));
        !goes_on
    })
}

fn allowed(table: &[(&str, &str)], path: &str) -> bool {
    table.iter().any(|(start, _)| path.starts_with(start))
}

/// Invariant 1.
pub(super) fn no_std(tree: &Tree) -> Vec<String> {
    let root = "crates/lacuna-schedules/src/lib.rs";
    let Some(text) = tree.text.get(root) else { return vec![format!("{root} is missing")] };
    let code = without_comments(text);
    let mut complaints = Vec::new();
    if !code.lines().any(|line| line.trim() == "#![no_std]") {
        complaints.push(format!("{root}: `#![no_std]` is missing"));
    }
    let schedules = tree.matching("crates/lacuna-schedules/src/", ".rs");
    let linked = code_with(schedules, &["extern crate"]);
    complaints.extend(linked.into_iter().map(|(_, line)| line));
    complaints
}

/// Style 19: `#![forbid(unsafe_code)]` in every crate root that needs no unsafe code.
pub(super) fn unsafe_code(tree: &Tree) -> Vec<String> {
    let ends = ["src/lib.rs", "src/main.rs"];
    let is_root = |path: &str| ends.iter().any(|end| path.ends_with(end));
    tree.matching("", ".rs")
        .filter(|(path, _)| is_root(path) && !path.starts_with("examples/"))
        .filter(|(path, _)| !crate_of(path).is_some_and(|name| allowed(UNSAFE, name)))
        .filter(|(_, text)| !without_comments(text).contains("#![forbid(unsafe_code)]"))
        .map(|(path, _)| format!("{path}: `#![forbid(unsafe_code)]` is missing"))
        .collect()
}

pub(super) fn prints(tree: &Tree) -> Vec<String> {
    let words = ["println!", "print!", "eprintln!", "eprint!", "dbg!", "todo!", "unimplemented!"];
    let words = [&words[..], &[".unwrap()", "process::exit"]].concat();
    code_with(libraries(tree), &words)
        .into_iter()
        .map(|(_, line)| format!("{line}: return a value or an error"))
        .collect()
}

pub(super) fn files(tree: &Tree) -> Vec<String> {
    let elsewhere = sources(tree).filter(|(path, _)| !allowed(FILES, path));
    code_with(elsewhere, TOUCHES_FILES)
        .into_iter()
        .map(|(_, line)| format!("{line}: only lacuna-files does; call it"))
        .collect()
}

pub(super) fn deserialize(tree: &Tree) -> Vec<String> {
    code_with(libraries(tree), &["Deserialize"])
        .into_iter()
        .filter(|(path, _)| !allowed(DESERIALIZES, path))
        .map(|(_, line)| format!("{line}: not in the list of xtask/src/tidy/sources.rs"))
        .collect()
}

/// Invariant 4: no generator that seeds itself.
pub(super) fn ambient_state(tree: &Tree) -> Vec<String> {
    let words = [
        "thread_rng",
        "rand::rng",
        "rand::random",
        "from_os_rng",
        "from_entropy",
        "SystemTime::now",
    ];
    code_with(libraries(tree), &words)
        .into_iter()
        .map(|(_, line)| format!("{line}: take it as an argument"))
        .collect()
}

pub(super) fn public_traits(tree: &Tree) -> Vec<String> {
    let design = tree.text.get("docs/design.md").map_or("", String::as_str);
    declared(tree, "pub trait ")
        .into_iter()
        .filter(|(_, name)| !TRAITS.contains(&name.as_str()) && !has_word(design, name))
        .map(|(path, name)| format!("{path}: trait `{name}` has no reason in docs/design.md"))
        .collect()
}

/// Invariant 9.
pub(super) fn error_types(tree: &Tree) -> Vec<String> {
    let mut errors = declared(tree, "pub enum ");
    errors.retain(|(_, name)| name.ends_with("Error"));
    let mut complaints = Vec::new();
    for (index, (path, name)) in errors.iter().enumerate() {
        let earlier = errors[..index].iter().find(|(other, _)| crate_of(other) == crate_of(path));
        if let Some((_, first)) = earlier {
            complaints.push(format!("{path}: `{name}` stands beside `{first}`"));
        }
    }
    complaints
}

/// Names that library code declares behind `keyword`, with their files.
fn declared<'a>(tree: &'a Tree, keyword: &str) -> Vec<(&'a str, String)> {
    let mut found = Vec::new();
    for (path, text) in libraries(tree) {
        for line in without_tests(text).lines() {
            if let Some(rest) = line.trim_start().strip_prefix(keyword) {
                let is_name = |c: char| c.is_alphanumeric() || c == '_';
                found.push((path, rest.chars().take_while(|c| is_name(*c)).collect()));
            }
        }
    }
    found
}

/// Style 1: a library's first screen holds an example (compiled with the documentation tests).
pub(super) fn opening_examples(tree: &Tree) -> Vec<String> {
    tree.matching("crates/", "/src/lib.rs")
        .filter(|(_, text)| !text.lines().any(|line| line.trim_start().starts_with("//! ```")))
        .map(|(path, _)| format!("{path}: the crate's documentation has no example"))
        .collect()
}

/// Invariant 7, for the operations that models call.
pub(super) fn references(tree: &Tree) -> Vec<String> {
    let start = "crates/lacuna-kernels/src/";
    if tree.matching(start, "reference.rs").next().is_none() {
        return vec![format!("{start}reference.rs is missing")];
    }
    let declares = |text: &str, name: &str| {
        without_comments(text).lines().any(|line| has_word(line, &format!("pub fn {name}")))
    };
    let is_reference = |path: &str| path.contains("/reference");
    let mut complaints = Vec::new();
    for name in OPERATIONS {
        let mut files = tree.matching(start, ".rs").filter(|(_, text)| declares(text, name));
        if !files.any(|(path, _)| is_reference(path)) {
            complaints.push(format!("`{name}` has no reference"));
        }
        let mut files = tree.matching(start, ".rs").filter(|(_, text)| declares(text, name));
        if !files.any(|(path, _)| !is_reference(path)) {
            complaints.push(format!("`{name}` has no fast version"));
        }
    }
    complaints
}

pub(super) fn lengths(tree: &Tree) -> Vec<String> {
    let mut complaints = Vec::new();
    for (path, lines) in source_lengths(tree).filter(|(_, lines)| *lines > MOST_LINES) {
        if !LONG.iter().any(|(long, _)| *long == path) {
            complaints.push(format!("{path}: {lines} lines, {MOST_LINES} at most"));
        }
    }
    complaints
}

/// Files over `LONG_LINES`, as `path (lines)`.
pub(super) fn long_files(tree: &Tree) -> Vec<String> {
    source_lengths(tree)
        .filter(|(_, lines)| *lines > LONG_LINES)
        .map(|(path, lines)| format!("{path} ({lines})"))
        .collect()
}

fn source_lengths(tree: &Tree) -> impl Iterator<Item = (&str, usize)> {
    let ends = [".rs", ".cu", ".cuh", ".py", ".sh"];
    tree.matching("", "")
        .filter(move |(path, _)| ends.iter().any(|end| path.ends_with(end)))
        .map(|(path, text)| (path, text.lines().count()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn library(text: &str) -> Tree {
        Tree::of(&[("crates/lacuna-samplers/src/decoder.rs", text)])
    }

    #[test]
    fn forbidden_words_count_in_code_only() {
        let quiet = "/// println!(\"x\")\nfn f() { g(\"std::fs\") } // dbg!\n#[cfg(test)]\nmod tests { fn t() { x.unwrap(); } }\n";
        assert_eq!(prints(&library(quiet)), [""; 0]);
        assert_eq!(files(&library(quiet)), [""; 0]);
        let told = prints(&library("fn f() {\n    println!(\"x\");\n    a.unwrap();\n}\n"));
        assert_eq!(told.len(), 2);
        assert!(
            told[0].starts_with("crates/lacuna-samplers/src/decoder.rs:2: `println!`"),
            "{told:?}"
        );
        let binary = [("crates/lacuna-cli/src/main.rs", "fn main() { println!(); }")];
        assert_eq!(prints(&Tree::of(&binary)), [""; 0]);
    }

    #[test]
    fn a_kernel_that_is_included_says_once() {
        let folder = "crates/lacuna-kernels/cuda";
        let [a, b, card] = ["a.cu", "b.cuh", "card/card.cu"].map(|name| format!("{folder}/{name}"));
        let files = [
            (a.as_str(), "int a;\n"),
            (b.as_str(), "#pragma once\n"),
            (card.as_str(), "#include \"../a.cu\"\n#include \"../b.cuh\"\n"),
        ];
        let told = included_once(&Tree::of(&files));
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].starts_with(&a), "{told:?}");
    }

    #[test]
    fn files_and_configuration_stand_where_the_tables_say() {
        let text = "use std::fs::File;\n#[derive(serde::Deserialize)]\nstruct A;\n";
        assert_eq!(files(&library(text)).len(), 1);
        assert_eq!(deserialize(&library(text)).len(), 1);
        let program = Tree::of(&[("crates/lacuna-cli/src/cli/show.rs", text)]);
        assert_eq!(files(&program).len(), 1, "the program neither");
        assert_eq!(files(&Tree::of(&[("crates/lacuna-files/src/disk.rs", text)])), [""; 0]);
        let allowed = Tree::of(&[
            ("crates/lacuna-train/src/recipe.rs", text),
            ("crates/lacuna-checkpoint/src/safetensors/header.rs", text),
        ]);
        assert_eq!(deserialize(&allowed), [""; 0]);
    }

    #[test]
    fn a_generator_that_seeds_itself_is_told() {
        assert_eq!(ambient_state(&library("let r = rand::rng();")).len(), 1);
        assert_eq!(ambient_state(&library("fn f(rng: &mut impl rand::RngCore) {}")), [""; 0]);
    }

    #[test]
    fn schedules_stay_without_std() {
        let root = "crates/lacuna-schedules/src/lib.rs";
        assert_eq!(no_std(&Tree::of(&[(root, "//! Doc.\n#![no_std]\nmod a;\n")])), [""; 0]);
        assert_eq!(no_std(&Tree::of(&[(root, "// #![no_std]\n")])).len(), 1);
        assert_eq!(no_std(&Tree::of(&[(root, "#![no_std]\nextern crate std;\n")])).len(), 1);
    }

    #[test]
    fn every_root_forbids_unsafe_code_but_the_listed() {
        let tree = Tree::of(&[
            ("crates/lacuna-kernels/src/lib.rs", ""),
            ("crates/lacuna-samplers/src/lib.rs", "// #![forbid(unsafe_code)]"),
            ("crates/lacuna-objective/src/lib.rs", "#![forbid(unsafe_code)]"),
            ("xtask/src/main.rs", ""),
        ]);
        let told = unsafe_code(&tree);
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].starts_with("crates/lacuna-samplers") && told[1].starts_with("xtask"));
    }

    #[test]
    fn a_third_trait_needs_its_reason() {
        let source =
            ("crates/lacuna-model/src/lib.rs", "pub trait Denoiser {}\npub trait Extra {}");
        assert_eq!(public_traits(&Tree::of(&[source])).len(), 1);
        let reason = ("docs/design.md", "`Extra` is a trait because …");
        assert_eq!(public_traits(&Tree::of(&[source, reason])), [""; 0]);
    }

    #[test]
    fn two_error_types_in_one_crate_are_told() {
        let tree = Tree::of(&[
            ("crates/lacuna-data/src/error.rs", "pub enum Error {}"),
            ("crates/lacuna-data/src/shard.rs", "pub enum ShardError {}"),
            ("crates/lacuna-model/src/error.rs", "pub enum Error {}"),
        ]);
        assert_eq!(error_types(&tree).len(), 1);
    }

    #[test]
    fn an_operation_without_its_reference_is_told() {
        let fast: String = OPERATIONS.iter().map(|name| format!("pub fn {name}(\n")).collect();
        let slow = fast.replace("pub fn swiglu(", "pub fn swiglu_slow(");
        let tree = Tree::of(&[
            ("crates/lacuna-kernels/src/fast.rs", &fast),
            ("crates/lacuna-kernels/src/reference.rs", &slow),
        ]);
        assert_eq!(references(&tree), ["`swiglu` has no reference"]);
    }

    #[test]
    fn a_file_over_the_limit_is_told() {
        let long = "\n".repeat(MOST_LINES + 1);
        assert_eq!(lengths(&library(&long)).len(), 1);
        assert_eq!(lengths(&library(&long[1..])), [""; 0]);
        assert_eq!(long_files(&library(&long)).len(), 1);
    }
}

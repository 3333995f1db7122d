//! Checks the manifests: who may depend on whom, and that each dependency on a stranger says why.

use toml::{Table, Value};

use super::{Tree, crate_of};

/// One direction of dependency. A crate that is not here may not exist; `*` is everything.
const MAY_USE: &[(&str, &[&str])] = &[
    // Level 0: nothing of ours.
    ("lacuna-schedules", &[]),
    ("lacuna-random", &[]),
    ("lacuna-kernels", &[]),
    ("lacuna-files", &[]),
    ("lacuna-sandbox", &[]),
    // Level 0b: a model's files.
    ("lacuna-text", &["lacuna-files", "lacuna-random"]),
    ("lacuna-checkpoint", &["lacuna-files", "lacuna-kernels"]),
    // Level 1: they do not know each other.
    ("lacuna-data", &["lacuna-files", "lacuna-random", "lacuna-text"]),
    (
        "lacuna-objective",
        &["lacuna-checkpoint", "lacuna-kernels", "lacuna-random", "lacuna-schedules"],
    ),
    ("lacuna-model", &["lacuna-checkpoint", "lacuna-kernels", "lacuna-random"]),
    ("lacuna-samplers", &["lacuna-random"]),
    ("lacuna-device", &["lacuna-checkpoint", "lacuna-kernels"]),
    // Level 1b: they join some of level 1.
    (
        "lacuna-likelihood",
        &["lacuna-kernels", "lacuna-model", "lacuna-objective", "lacuna-random", "lacuna-samplers"],
    ),
    (
        "lacuna-engine",
        &[
            "lacuna-checkpoint",
            "lacuna-device",
            "lacuna-files",
            "lacuna-kernels",
            "lacuna-model",
            "lacuna-random",
            "lacuna-samplers",
            "lacuna-text",
        ],
    ),
    // Level 2: whole jobs.
    (
        "lacuna-train",
        &[
            "lacuna-checkpoint",
            "lacuna-data",
            "lacuna-device",
            "lacuna-files",
            "lacuna-kernels",
            "lacuna-likelihood",
            "lacuna-model",
            "lacuna-objective",
            "lacuna-random",
            "lacuna-schedules",
            "lacuna-text",
        ],
    ),
    (
        "lacuna-eval",
        &[
            "lacuna-data",
            "lacuna-engine",
            "lacuna-files",
            "lacuna-likelihood",
            "lacuna-random",
            "lacuna-sandbox",
            "lacuna-text",
        ],
    ),
    ("lacuna-serve", &["lacuna-engine", "lacuna-likelihood", "lacuna-text"]),
    // Beside the levels: what tests share. It may see what several crates' tests want, and only tests see it.
    ("lacuna-test", &["lacuna-text"]),
    // Level 3: what people add and run.
    ("lacuna", &["*"]),
    ("lacuna-cli", &["*"]),
    ("lacuna-benches", &["*"]),
    ("xtask", &[]),
];

/// The dependencies that would let a crate know what it may never know, by the start of their
/// names.
const MAY_NEVER_USE: &[(&str, &[&str])] = &[
    ("lacuna-schedules", &[""]),
    ("lacuna-random", &["candle", "tokenizers", "serde"]),
    ("lacuna-files", &["candle", "tokenizers"]),
    ("lacuna-sandbox", &["candle", "tokenizers", "serde"]),
    ("lacuna-text", &["candle", "zstd", "tar", "flate2", "ignore", "memmap2"]),
    ("lacuna-data", &["candle", "tokenizers"]),
    ("lacuna-kernels", &["tokenizers", "serde"]),
    ("lacuna-checkpoint", &["tokenizers", "minijinja"]),
    ("lacuna-model", &["tokenizers", "serde", "memmap2"]),
    ("lacuna-objective", &["tokenizers", "serde"]),
    ("lacuna-samplers", &["candle", "tokenizers", "safetensors", "memmap2"]),
    ("lacuna-likelihood", &["tokenizers", "serde"]),
    ("lacuna-device", &["tokenizers", "serde", "memmap2"]),
    ("xtask", &["candle", "tokenizers"]),
];

/// These know a terminal or a command line, and only programs may (invariant 16).
const TERMINAL: &[&str] =
    &["anyhow", "clap", "crossterm", "ctrlc", "indicatif", "ratatui", "rustyline"];
const PROGRAMS: &[&str] = &["lacuna-cli", "lacuna-benches", "xtask"];

/// Nothing uses these.
const OUTSIDE: &[&str] = &["xtask", "lacuna-benches", "lacuna-cli"];

/// Only tests use this.
const OF_TESTS: &str = "lacuna-test";

/// Invariants 1, 2, 3 and 8: the arrows between crates point one way.
pub(super) fn directions(tree: &Tree) -> Vec<String> {
    let mut complaints = Vec::new();
    for (path, manifest) in packages(tree, &mut complaints) {
        let name = package_name(&manifest).unwrap_or_default();
        let Some((_, may_use)) = MAY_USE.iter().find(|(known, _)| *known == name) else {
            complaints.push(format!(
                "{path}: `{name}` is not in the table of xtask/src/tidy/manifests.rs"
            ));
            continue;
        };
        if crate_of(path).is_some_and(|folder| folder != name) {
            complaints.push(format!("{path}: folder and package `{name}` must share a name"));
        }
        let never = MAY_NEVER_USE.iter().filter(|(known, _)| *known == name);
        let mut never: Vec<_> = never.flat_map(|(_, starts)| *starts).collect();
        if !PROGRAMS.contains(&name) {
            never.extend(TERMINAL);
        }
        for (dependency, kind) in dependencies(&manifest) {
            let is_ours = MAY_USE.iter().any(|(known, _)| *known == dependency);
            let allowed = may_use.iter().any(|known| *known == "*" || *known == dependency);
            let is_test_only = kind == "dev-dependencies";
            if OUTSIDE.contains(&dependency) {
                complaints.push(format!("{path}: nothing may use `{dependency}`"));
            } else if dependency == OF_TESTS && !is_test_only {
                complaints.push(format!("{path}: only dev-dependencies may name `{dependency}`"));
            } else if is_ours && !allowed && !is_test_only {
                complaints.push(format!("{path}: `{name}` may not use `{dependency}`"));
            } else if !is_test_only && never.iter().any(|start| dependency.starts_with(**start)) {
                complaints.push(format!("{path}: `{name}` may never know of `{dependency}`"));
            }
        }
    }
    complaints
}

/// Style 18: every stranger carries a comment that says why; it covers the lines up to the next
/// comment or blank line.
pub(super) fn reasons(tree: &Tree) -> Vec<String> {
    let mut complaints = Vec::new();
    for (path, text) in manifests(tree) {
        let (mut in_dependencies, mut explained) = (false, false);
        for (index, line) in text.lines().enumerate().map(|(index, line)| (index, line.trim())) {
            if line.starts_with('[') {
                in_dependencies = line.trim_end_matches(']').ends_with("dependencies");
                explained = false;
            } else if line.starts_with('#') {
                explained = true;
            } else if line.is_empty() {
                explained = false;
            } else if in_dependencies && line.contains('=') && !explained && !is_explained(line) {
                let name = line.split(['=', '.', ' ']).next().unwrap_or_default();
                complaints.push(format!("{path}:{}: say in a comment why `{name}`", index + 1));
            }
        }
    }
    complaints
}

/// The workspace's table explains what is taken from it; our own crates explain themselves.
fn is_explained(line: &str) -> bool {
    line.contains("workspace = true")
        || line.contains("workspace=true")
        || line.starts_with("lacuna")
        || line.contains("path = ")
}

/// Every package takes the workspace's lints.
pub(super) fn lints(tree: &Tree) -> Vec<String> {
    let mut complaints = Vec::new();
    for (path, manifest) in packages(tree, &mut complaints) {
        if manifest.get("lints").and_then(|lints| lints.get("workspace")) != Some(&true.into()) {
            complaints.push(format!("{path}: `[lints] workspace = true` is missing"));
        }
    }
    complaints
}

fn manifests(tree: &Tree) -> impl Iterator<Item = (&str, &str)> {
    // Members lie flat: crates/NAME/, xtask/, benches/. Anything deeper, or in examples/, stands alone.
    let is_member = |path: &str| match path.split('/').collect::<Vec<_>>()[..] {
        ["crates", _, _] => true,
        [folder, _] => folder != "examples",
        [_] => true,
        _ => false,
    };
    tree.matching("", "Cargo.toml").filter(move |(path, _)| is_member(path))
}

/// Every member's manifest, parsed; one that doesn't parse is a complaint.
fn packages<'a>(tree: &'a Tree, complaints: &mut Vec<String>) -> Vec<(&'a str, Table)> {
    let mut packages = Vec::new();
    for (path, text) in manifests(tree).filter(|(path, _)| *path != "Cargo.toml") {
        match text.parse::<Table>() {
            Ok(manifest) => packages.push((path, manifest)),
            Err(error) => complaints.push(format!("{path}: {error}")),
        }
    }
    packages
}

fn package_name(manifest: &Table) -> Option<&str> {
    manifest.get("package")?.get("name")?.as_str()
}

/// Every dependency by the name of its package, with the kind of table it stands in.
fn dependencies(manifest: &Table) -> Vec<(&str, &str)> {
    const KINDS: [&str; 3] = ["dependencies", "build-dependencies", "dev-dependencies"];
    let targets = manifest.get("target").and_then(Value::as_table);
    let per_target = targets.into_iter().flat_map(|targets| targets.values());
    let tables = std::iter::once(manifest).chain(per_target.filter_map(Value::as_table));
    let mut found = Vec::new();
    for (table, kind) in tables.flat_map(|table| KINDS.map(|kind| (table, kind))) {
        for (key, value) in table.get(kind).and_then(Value::as_table).into_iter().flatten() {
            let renamed = value.get("package").and_then(Value::as_str);
            found.push((renamed.unwrap_or(key), kind));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(path: &str, dependencies: &str, check: fn(&Tree) -> Vec<String>) -> Vec<String> {
        let name = path.split('/').nth(1).unwrap_or("xtask");
        let text =
            format!("[package]\nname = \"{name}\"\n{dependencies}\n[lints]\nworkspace = true\n");
        check(&Tree::of(&[(&format!("{path}/Cargo.toml"), &text)]))
    }

    #[test]
    fn an_arrow_that_points_back_is_refused() {
        let samplers = "crates/lacuna-samplers";
        let fine = "[dependencies]\nlacuna-random.workspace = true";
        assert_eq!(told(samplers, fine, directions), [""; 0]);
        let back = told(samplers, "[dependencies]\nlacuna-model.workspace = true", directions);
        assert_eq!(back.len(), 1);
        assert!(back[0].contains("`lacuna-samplers` may not use `lacuna-model`"));
        let renamed = "[dependencies]\nm = { path = \"../x\", package = \"lacuna-model\" }";
        assert_eq!(told(samplers, renamed, directions).len(), 1, "under another name too");
        let per_target = "[target.'cfg(unix)'.dependencies]\nlacuna-model.workspace = true";
        assert_eq!(told(samplers, per_target, directions).len(), 1, "for one platform too");
    }

    #[test]
    fn schedules_have_no_dependency_at_all() {
        let any = told("crates/lacuna-schedules", "[dependencies]\nlibm = \"1\"", directions);
        assert_eq!(any.len(), 1);
        let tests = "[dev-dependencies]\nproptest.workspace = true";
        assert_eq!(told("crates/lacuna-schedules", tests, directions), [""; 0]);
    }

    #[test]
    fn only_programs_know_a_terminal() {
        let clap = "[dependencies]\nclap.workspace = true";
        for library in ["lacuna-engine", "lacuna-data", "lacuna-files", "lacuna"] {
            let told = told(&format!("crates/{library}"), clap, directions);
            assert_eq!(told.len(), 1, "{library}: {told:?}");
            assert!(told[0].contains("may never know of `clap`"), "{told:?}");
        }
        assert_eq!(told("crates/lacuna-cli", clap, directions), [""; 0]);
    }

    #[test]
    fn nothing_uses_the_outside_and_strangers_to_the_table_are_told() {
        let uses = told("crates/lacuna", "[dev-dependencies]\nxtask = { path = \"\" }", directions);
        assert!(uses[0].contains("nothing may use `xtask`"));
        assert!(told("crates/lacuna-extra", "", directions)[0].contains("not in the table"));
        let shared = |table: &str| format!("[{table}]\nlacuna-test.workspace = true");
        assert_eq!(told("crates/lacuna-text", &shared("dev-dependencies"), directions), [""; 0]);
        let linked = told("crates/lacuna-cli", &shared("dependencies"), directions);
        assert!(linked[0].contains("only dev-dependencies"), "{linked:?}");
    }

    #[test]
    fn a_dependency_without_a_reason_is_told_with_its_line() {
        let text = "[workspace.dependencies]\n# Why.\na = \"1\"\nb = \"1\"\n\nc = \"1\"\nlacuna-x = { path = \"x\" }\n[profile.dev]\nopt-level = 1\n";
        let told = reasons(&Tree::of(&[("Cargo.toml", text)]));
        assert_eq!(told, ["Cargo.toml:6: say in a comment why `c`"]);
        let text = "[dependencies]\nd = \"1\"\ne.workspace = true\n";
        let told = reasons(&Tree::of(&[("crates/lacuna/Cargo.toml", text)]));
        assert_eq!(told, ["crates/lacuna/Cargo.toml:2: say in a comment why `d`"]);
    }

    #[test]
    fn a_package_without_the_workspace_lints_is_told() {
        let text = "[package]\nname = \"lacuna\"\n";
        assert_eq!(lints(&Tree::of(&[("crates/lacuna/Cargo.toml", text)])).len(), 1);
        assert_eq!(told("crates/lacuna", "", lints), [""; 0]);
    }
}

//! `cargo xtask train` builds for speed, then becomes `lacuna train`.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::cargo;

const DEFAULT_RECIPE: &str = "recipes/tiny.toml";

/// The recipes whose model or text is not in the repository, each with the script that fetches it.
const PREPARED: &[(&str, &[&str])] = &[
    ("recipes/lacuna-5m.toml", &["scripts/corpus.sh"]),
    ("recipes/smollm2-135m.toml", &["scripts/smollm2.sh", "start"]),
    ("reproduce/warmup-135m/arm.toml", &["scripts/smollm2.sh", "plain-start"]),
];

/// Builds `lacuna` in release and becomes `lacuna train` with these arguments.
pub(crate) fn train(args: &[OsString]) -> Result<()> {
    let mut build = vec!["--release", "--package", "lacuna-cli", "--bin", "lacuna"];
    if asks_for_cuda(args) {
        build.extend(["--features", "cuda"]);
    }
    let program = cargo::build("lacuna", &build)?;
    let (recipes, rest) = leading_recipes(args);
    for recipe in args.iter().filter(|arg| is_recipe(arg)) {
        prepare(Path::new(recipe), &program)?;
    }
    if recipes.len() > 1 {
        // A shell's `recipes/curricula/*.toml`: each in turn, the same further arguments for all.
        for recipe in recipes {
            eprintln!("\n{}", Path::new(recipe).display());
            cargo::run(Command::new(&program).arg("train").arg(recipe).args(rest))?;
        }
        return Ok(());
    }
    let mut command = Command::new(program);
    command.arg("train");
    if !names_a_recipe(args) {
        command.arg(cargo::root().join(DEFAULT_RECIPE));
    }
    cargo::become_program({
        command.args(args);
        command
    })
}

/// The words ending in `.toml` that the arguments begin with, and the others.
fn leading_recipes(args: &[OsString]) -> (&[OsString], &[OsString]) {
    args.split_at(args.iter().take_while(|arg| is_recipe(arg)).count())
}

fn is_recipe(arg: &OsString) -> bool {
    Path::new(arg).extension().is_some_and(|end| end == "toml")
}

/// Fetches what one of this repository's recipes needs, if it is not there yet, and says so.
pub(crate) fn prepare(recipe: &Path, program: &Path) -> Result<()> {
    let Some((known, script)) = preparation(recipe) else { return Ok(()) };
    eprintln!("{known}: {} fetches what it needs", script.join(" "));
    let mut command = Command::new("sh");
    cargo::run(command.args(*script).env("LACUNA", program).current_dir(cargo::root()))
}

fn preparation(recipe: &Path) -> Option<&'static (&'static str, &'static [&'static str])> {
    let real = recipe.canonicalize().ok()?;
    PREPARED.iter().find(|(known, _)| {
        cargo::root().join(known).canonicalize().is_ok_and(|known| known == real)
    })
}

/// Tells whether a recipe is among the arguments: the first word, or any that ends in `.toml`.
fn names_a_recipe(args: &[OsString]) -> bool {
    let is_flag = |arg: &OsString| arg.to_string_lossy().starts_with('-');
    args.first().is_some_and(|first| !is_flag(first))
        || args.iter().any(|arg| !is_flag(arg) && is_recipe(arg))
}

fn asks_for_cuda(args: &[OsString]) -> bool {
    let is_cuda = |arg: &OsString| arg.to_string_lossy().starts_with("cuda");
    args.windows(2).any(|pair| pair[0] == "--device" && is_cuda(&pair[1]))
        || args.iter().any(|arg| arg.to_string_lossy().starts_with("--device=cuda"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn the_default_recipe_stands_in_only_where_none_is_named() {
        assert!(!names_a_recipe(&words("")));
        assert!(!names_a_recipe(&words("--resume")));
        assert!(!names_a_recipe(&words("--out runs/a --set seed=3")));
        assert!(names_a_recipe(&words("recipes/smoke.toml")));
        assert!(names_a_recipe(&words("my-recipe --resume")));
        assert!(names_a_recipe(&words("--out runs/a recipes/smoke.toml")));
    }

    #[test]
    fn every_prepared_recipe_and_its_script_are_there() {
        for (recipe, script) in PREPARED {
            let path = cargo::root().join(recipe);
            assert_eq!(preparation(&path).map(|(known, _)| *known), Some(*recipe));
            assert!(cargo::root().join(script[0]).exists(), "{script:?}");
        }
        assert!(preparation(&cargo::root().join(DEFAULT_RECIPE)).is_none());
        assert!(preparation(Path::new("nowhere.toml")).is_none());
    }

    #[test]
    fn several_recipes_are_told_from_what_follows_them() {
        let args = words("a.toml b.toml --set seed=3 --out c.toml");
        let (recipes, rest) = leading_recipes(&args);
        assert_eq!((recipes, rest), (&args[..2], &args[2..]));
    }

    #[test]
    fn a_cuda_device_is_built_for() {
        assert!(asks_for_cuda(&words("--device cuda")));
        assert!(asks_for_cuda(&words("recipes/tiny.toml --device=cuda:1")));
        assert!(!asks_for_cuda(&words("--device cpu --out runs/cuda")));
    }
}

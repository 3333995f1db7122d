//! Reads exercises of Exercism's Python track, each a folder, as Aider's benchmark takes them.

use std::path::{Component, Path};

use serde_json::Value as Json;

use crate::error::{Result, data};
use crate::task::{Task, Tests};

/// Bytes of a file of an exercise.
const LARGEST: u64 = 1 << 20;

/// The exercises of a folder, in the order of their names.
pub(super) fn tasks(folder: &Path) -> Result<Vec<Task>> {
    let practice = folder.join("exercises/practice");
    let folder = if practice.is_dir() { &*practice } else { folder };
    let mut tasks = Vec::new();
    let listed = lacuna_files::list(folder).map_err(|error| {
        data(
            folder,
            None,
            format!("expected a folder of exercises, and it can't be read as one: {error}"),
        )
    })?;
    for exercise in listed {
        let config = exercise.join(".meta/config.json");
        if config.is_file() {
            tasks.push(task(&exercise, &config)?);
        }
    }
    tasks.sort_by(|a, b| a.id.cmp(&b.id));
    match tasks.is_empty() {
        false => Ok(tasks),
        true => {
            let reason = "no exercise in it; expected folders with .meta/config.json, as exercises/practice of \
                          https://github.com/exercism/python has them";
            Err(data(folder, None, reason))
        }
    }
}

fn task(exercise: &Path, config: &Path) -> Result<Task> {
    let read = |path: &Path| lacuna_files::read_text(path, LARGEST);
    let json: Json = serde_json::from_str(&read(config)?)
        .map_err(|error| data(config, None, error.to_string()))?;
    let fault = |reason: String| data(config, None, reason);
    let names = |key: &str| -> Result<Vec<String>> {
        let names = json["files"][key].as_array().map_or(&[][..], Vec::as_slice).iter();
        let names: Option<Vec<String>> = names
            .map(|name| name.as_str().filter(|name| is_inside(name)).map(str::to_owned))
            .collect();
        let names = names.filter(|names| !names.is_empty());
        names.ok_or_else(|| {
            fault(format!("`files.{key}` is no list of names of files of the exercise"))
        })
    };
    let solution = names("solution")?;
    let [file] = &solution[..] else {
        return Err(fault(format!(
            "`files.solution` names {} files, expected one",
            solution.len()
        )));
    };
    let module = file.strip_suffix(".py").filter(|module| !module.contains(['/', '.']));
    let module = module.ok_or_else(|| fault(format!("`{file}` is no module of Python")))?;
    let mut tests = Vec::new();
    for name in names("test")? {
        if name.contains('/') || name == *file {
            return Err(fault(format!("the test `{name}` would not stand beside `{file}`")));
        }
        let text = read(&exercise.join(&name))?;
        tests.push((name, text));
    }
    if !tests.iter().any(|(name, _)| name.ends_with("_test.py")) {
        return Err(fault("`files.test` names no file that ends in _test.py".into()));
    }
    let mut words = Vec::new();
    for part in ["introduction.md", "instructions.md", "instructions.append.md"] {
        let path = exercise.join(".docs").join(part);
        if path.is_file() {
            words.push(read(&path)?.trim().to_owned());
        }
    }
    if words.is_empty() {
        return Err(data(exercise, None, "no .docs/instructions.md says what is to be done"));
    }
    let example = names("example")?;
    Ok(Task {
        id: exercise.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        prompt: read(&exercise.join(file))?,
        suffix: None,
        instruction: Some(words.join("\n\n")),
        entry: module.to_owned(),
        canonical: read(&exercise.join(&example[0]))?,
        tests: Tests::Exercise { file: file.clone(), tests, earlier: None },
    })
}

/// Tells whether a name leads to a file of its folder.
fn is_inside(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    !name.is_empty() && parts.all(|part| matches!(part, Component::Normal(_)))
}

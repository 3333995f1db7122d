//! Reads exercises of Exercism's Python track, each a folder, as Aider's benchmark takes them.

use std::path::Path;

use serde_json::Value as Json;

use crate::error::{Result, data};
use crate::task::{Task, Tests};

/// Bytes of a file of an exercise.
const LARGEST: u64 = 1 << 20;

/// The exercises of a folder, in the order of their names.
pub(super) fn tasks(folder: &Path) -> Result<Vec<Task>> {
    let mut tasks = Vec::new();
    let listed =
        lacuna_files::list(folder).map_err(|error| data(folder, None, error.to_string()))?;
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
    let read = |path: &Path| -> Result<String> {
        let bytes = lacuna_files::read_file(path, LARGEST)?;
        String::from_utf8(bytes).map_err(|_| data(path, None, "it is no UTF-8 text"))
    };
    let json: Json = serde_json::from_str(&read(config)?)
        .map_err(|error| data(config, None, error.to_string()))?;
    let names = |key: &str| -> Result<Vec<String>> {
        let names = json["files"][key].as_array().into_iter().flatten().filter_map(Json::as_str);
        let names: Vec<String> = names.map(str::to_owned).collect();
        let is_plain = |name: &String| {
            Path::new(name).components().all(|part| matches!(part, std::path::Component::Normal(_)))
        };
        match names.is_empty() || !names.iter().all(is_plain) {
            true => Err(data(config, None, format!("`files.{key}` names no file of the exercise"))),
            false => Ok(names),
        }
    };
    let [file] = &names("solution")?[..] else {
        return Err(data(config, None, "`files.solution` names several files; one is expected"));
    };
    let module = file.strip_suffix(".py").filter(|module| !module.contains(['/', '.']));
    let module =
        module.ok_or_else(|| data(config, None, format!("`{file}` is no module of Python")))?;
    let mut tests = Vec::new();
    for name in names("test")? {
        let text = read(&exercise.join(&name))?;
        tests.push((name, text));
    }
    let mut words = Vec::new();
    for part in ["introduction.md", "instructions.md", "instructions.append.md"] {
        let path = exercise.join(".docs").join(part);
        if path.is_file() {
            words.push(read(&path)?.trim().to_owned());
        }
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

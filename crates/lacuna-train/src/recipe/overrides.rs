//! Applies `--set` overrides to a recipe's TOML, and makes its paths absolute.

use super::words;
use std::path::Path;

/// The keys whose values are paths.
const PATHS: &[(&str, &str)] = &[
    ("model", "from"),
    ("data", "tokenizer"),
    ("data", "corpus"),
    ("data", "shards"),
    ("sft", "samples"),
];

/// The keys of a `[[data.source]]` whose values are paths.
const SOURCE_PATHS: &[&str] = &["corpus", "shards"];

/// The tables of `[[data.source]]`.
fn sources(table: &toml::Table) -> impl Iterator<Item = &toml::Table> {
    let sources = table.get("data").and_then(|data| data.get("source")).and_then(|s| s.as_array());
    sources.into_iter().flatten().filter_map(toml::Value::as_table)
}

/// Refuses paths that an escape has spoilt, before they are joined with anything.
pub(super) fn check_paths(table: &toml::Table) -> std::result::Result<(), String> {
    for (section, key) in PATHS.iter().chain(&[("sft", "template")]) {
        let name = format!("{section}.{key}");
        let check = |value: &toml::Value| match value {
            toml::Value::String(text) => words::check_path(&name, Path::new(text)),
            _ => Ok(()),
        };
        match table.get(*section).and_then(|s| s.get(key)) {
            Some(toml::Value::Array(items)) => items.iter().try_for_each(check)?,
            Some(value) => check(value)?,
            None => {}
        }
    }
    for (number, source) in sources(table).enumerate() {
        for key in SOURCE_PATHS {
            let name = format!("data.source.{number}.{key}");
            let texts = match source.get(*key) {
                Some(toml::Value::Array(items)) => items.iter().collect(),
                value => Vec::from_iter(value),
            };
            let texts = texts.into_iter().filter_map(toml::Value::as_str);
            texts.map(Path::new).try_for_each(|path| words::check_path(&name, path))?;
        }
    }
    Ok(())
}

/// Makes the recipe's path values absolute.
pub(super) fn anchor_paths(table: &mut toml::Table, base: &Path) {
    let anchor = |value: &mut toml::Value| {
        if let toml::Value::String(text) = value {
            // This is not a path but a model on the hub.
            if text.starts_with("hf:") {
                return;
            }
            *text = base.join(&*text).to_string_lossy().into_owned();
        }
    };
    let template = table.get_mut("sft").and_then(|sft| sft.get_mut("template"));
    let is_name = |value: &toml::Value| ["model", "seed-coder"].map(Some).contains(&value.as_str());
    if let Some(file) = template.filter(|value| !is_name(value)) {
        anchor(file);
    }
    let anchor_all = |value: Option<&mut toml::Value>| match value {
        Some(toml::Value::Array(items)) => items.iter_mut().for_each(anchor),
        Some(value) => anchor(value),
        None => {}
    };
    for (section, key) in PATHS {
        anchor_all(table.get_mut(*section).and_then(|s| s.get_mut(key)));
    }
    let sources = table.get_mut("data").and_then(|data| data.get_mut("source"));
    for source in sources.and_then(toml::Value::as_array_mut).into_iter().flatten() {
        for key in SOURCE_PATHS {
            anchor_all(source.get_mut(key));
        }
    }
}

/// Keys of a stage that say the same in two ways: the one that is set takes the place of the other.
const EITHER: [[&str; 2]; 1] = [["batch_size", "batch_tokens"]];

/// Applies overrides in their order.
///
/// # Errors
/// Names the first that is none, or whose place is not there.
pub(super) fn set_all(
    table: &mut toml::Table,
    items: &[String],
) -> std::result::Result<(), String> {
    let keys: Vec<&str> = items.iter().map(|item| item.split('=').next().unwrap_or("")).collect();
    for (item, key) in items.iter().zip(&keys) {
        set(table, item)?;
        // The file may give the other one; where both are set, their difference is for the recipe's own check.
        let Some((path, last)) = key.rsplit_once('.') else { continue };
        let other = EITHER.iter().find_map(|pair| {
            let at = pair.iter().position(|name| *name == last)?;
            Some(pair[1 - at])
        });
        let Some(other) = other.filter(|other| !keys.contains(&&*format!("{path}.{other}"))) else {
            continue;
        };
        let stage = path.strip_prefix("stage.").and_then(|index| index.parse::<usize>().ok());
        let stages = table.get_mut("stage").and_then(toml::Value::as_array_mut);
        let stage = stage.zip(stages).and_then(|(at, stages)| stages.get_mut(at)?.as_table_mut());
        stage.map(|stage| stage.remove(other));
    }
    Ok(())
}

/// Applies `key.path=value`; stages are counted from 0: `stage.1.steps=50`.
fn set(table: &mut toml::Table, item: &str) -> std::result::Result<(), String> {
    let Some((path, raw)) = item.split_once('=') else {
        return Err(format!("--set {item}: expected key.path=value"));
    };
    // A bare word is a string; anything TOML can read as a value is that value.
    let value = format!("v = {raw}").parse::<toml::Table>().ok().and_then(|mut t| t.remove("v"));
    let quoted = raw.trim_start().starts_with(['"', '\'', '[', '{']);
    let value = match value {
        None if quoted => {
            return Err(format!(
                "--set {item}: not a TOML value; a backslash between double quotes begins an escape: write \
                 the text without them, or in single quotes inside of double ones for the shell"
            ));
        }
        None => toml::Value::String(raw.to_owned()),
        Some(value) => value,
    };
    let mut keys: Vec<&str> = path.split('.').collect();
    let last =
        keys.pop().filter(|k| !k.is_empty()).ok_or_else(|| format!("--set {item}: empty key"))?;
    let mut node = table;
    let mut keys = keys.into_iter();
    while let Some(key) = keys.next() {
        let next = node.entry(key).or_insert_with(|| toml::Value::Table(toml::Table::new()));
        node = match next {
            toml::Value::Table(inner) => inner,
            toml::Value::Array(items) => {
                let n = items.len();
                let index = keys.next().and_then(|k| k.parse::<usize>().ok()).filter(|i| *i < n);
                let item_at = index.and_then(|i| items[i].as_table_mut());
                item_at.ok_or_else(|| {
                    format!("--set {item}: `{key}` has entries 0 to {}", n.max(1) - 1)
                })?
            }
            _ => return Err(format!("--set {item}: `{key}` is a value, not a section")),
        };
    }
    node.insert(last.to_owned(), value);
    Ok(())
}

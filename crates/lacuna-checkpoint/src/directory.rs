//! Finds the files of a checkpoint's directory in Hugging Face layout, and checks that they lie where they may.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use serde_json::Value;

use crate::config::Config;
use crate::error::{Error, Result, printable};
use crate::names;

pub(crate) const SINGLE: &str = "model.safetensors";
pub(crate) const INDEX: &str = "model.safetensors.index.json";

/// The most bytes of an index of shards, which bounds what parsing can allocate. An index takes some 80 bytes a
/// tensor.
pub const LONGEST_INDEX: u64 = 1 << 20;
const MOST_SHARDS: usize = 4096;

/// Files that belong to a checkpoint beside weights, `config.json` and `tokenizer.json`.
pub const MODEL_FILES: [&str; 8] = [
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "vocab.json",
    "merges.txt",
];
/// Files that only people read, in whatever encoding: no part of a checkpoint, but they go where the checkpoint goes.
pub(crate) const DOCUMENTS: [&str; 9] = [
    "README.md",
    "LICENSE",
    "LICENSE.txt",
    "LICENSE.md",
    "LICENCE",
    "NOTICE",
    "NOTICE.txt",
    "NOTICE.md",
    "USE_POLICY.md",
];
/// The folder of further chat templates.
const TEMPLATES: &str = "additional_chat_templates";
const LONGEST_COMPANION: u64 = 16 << 20;

const LONGEST_TOKENIZER: u64 = 128 << 20;
const MOST_TEMPLATES: usize = 64;

/// Advice for somebody who names a run's folder where a model is wanted; `None` for every other folder.
pub(crate) fn advice_on_run(dir: &Path) -> Option<String> {
    if Config::config_file(dir).exists() {
        return None;
    }
    let last = dir.join("final");
    if Config::config_file(&last).exists() {
        return Some(format!("is a run's folder; its finished model is {}", last.display()));
    }
    let checkpoints = lacuna_files::list(&dir.join("checkpoints")).ok()?;
    let numbered = checkpoints.into_iter().filter_map(|path| {
        let step: u64 = path.file_name()?.to_str()?.strip_prefix("step-")?.parse().ok()?;
        Config::config_file(&path).exists().then_some((step, path))
    });
    let (_, newest) = numbered.max()?;
    Some(format!(
        "is a run's folder, and the run has not finished; its newest checkpoint is {}",
        newest.display()
    ))
}

/// The text of `tokenizer.json`, if there is one.
pub(crate) fn tokenizer(dir: &Path) -> Result<Option<String>> {
    let name = "tokenizer.json";
    dir.join(name).exists().then(|| text(dir, name, LONGEST_TOKENIZER)).transpose()
}

/// The ids of tokens by their text, in `tokenizer.json` or in the smaller files that name added ones. An id is `None`
/// if the files can't be read; whoever opens the tokenizer says so.
pub(crate) fn token_ids_in(dir: &Path, wanted: &[&str]) -> Vec<Option<u32>> {
    let mut ids = vec![None; wanted.len()];
    let whole = tokenizer(dir).ok().flatten().map(|text| names::in_tokenizer(&text, wanted));
    let small = ["added_tokens.json", "tokenizer_config.json"].into_iter().filter_map(|name| {
        let there = dir.join(name).exists();
        let text = there.then(|| text(dir, name, LONGEST_COMPANION))?.ok()?;
        Some(names::in_companion(&text, wanted))
    });
    for found in whole.into_iter().chain(small) {
        ids.iter_mut().zip(found).for_each(|(id, found)| *id = id.or(found));
    }
    ids
}

/// The [`MODEL_FILES`] and [`DOCUMENTS`] that are there, and further chat templates. Code of a checkpoint stays where
/// it is.
pub(crate) fn companions(dir: &Path) -> Result<Vec<(String, String)>> {
    let mut names: Vec<String> =
        MODEL_FILES.iter().chain(&DOCUMENTS).map(|&n| n.to_owned()).collect();
    names.retain(|name| dir.join(name).exists());
    let listed = lacuna_files::list(&dir.join(TEMPLATES)).unwrap_or_default();
    let listed = listed.iter().filter_map(|path| path.file_name()?.to_str());
    let templates = listed.filter(|name| name.ends_with(".jinja")).take(MOST_TEMPLATES);
    names.extend(templates.map(|name| format!("{TEMPLATES}/{name}")));
    let file = |name: String| text(dir, &name, LONGEST_COMPANION).map(|text| (name, text));
    names.into_iter().map(file).collect()
}

fn text(dir: &Path, name: &str, longest: u64) -> Result<String> {
    let path = contained(dir, name)?;
    let bytes = lacuna_files::read_file(&path, longest)?;
    if DOCUMENTS.contains(&name) {
        return Ok(String::from_utf8_lossy(&bytes).into_owned());
    }
    String::from_utf8(bytes).map_err(|_| Error::file(&path, "is no UTF-8 text"))
}

/// The safetensors files of a checkpoint.
pub(crate) enum Layout {
    /// One file with all tensors.
    Single(PathBuf),
    /// Several files; `shard_of[tensor]` is a place in `shards`.
    Sharded { index: PathBuf, shards: Vec<PathBuf>, shard_of: BTreeMap<String, usize> },
}

/// Finds the weight files of `dir`.
pub(crate) fn layout(dir: &Path) -> Result<Layout> {
    let single = dir.join(SINGLE);
    if single.exists() {
        return Ok(Layout::Single(contained(dir, SINGLE)?));
    }
    if dir.join(INDEX).exists() {
        return index(dir);
    }
    let pickled = dir.join("pytorch_model.bin").exists();
    let hint = if pickled {
        "; pytorch_model.bin is not read: it can run code. Convert it with transformers' \
         save_pretrained"
    } else {
        ""
    };
    let is_adapter = dir.join("adapter_model.safetensors").exists();
    let hint = if is_adapter {
        "; it is an adapter: `lacuna convert BASE OUT --adapter DIR` merges it into the checkpoint that it stands beside"
    } else {
        hint
    };
    let reason = format!("holds neither {SINGLE} nor {INDEX}{hint}");
    Err(Error::file(dir, reason))
}

fn index(dir: &Path) -> Result<Layout> {
    let path = contained(dir, INDEX)?;
    let text = lacuna_files::read_file(&path, LONGEST_INDEX)?;
    let fault = |reason: String| Error::file(&path, reason);
    let mut map = lacuna_files::json::object(&text).map_err(fault)?;
    let Some(Value::Object(weight_map)) = map.remove("weight_map") else {
        return Err(fault("has no object weight_map of shards by tensor".to_owned()));
    };
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    let mut shards = Vec::new();
    let mut shard_of = BTreeMap::new();
    for (tensor, shard) in weight_map {
        let Value::String(shard) = shard else {
            return Err(Error::tensor(&path, &tensor, "its shard is no string"));
        };
        let place = match places.get(&shard) {
            Some(&place) => place,
            None => {
                check_plain(&shard).map_err(|reason| Error::tensor(&path, &tensor, reason))?;
                shards.push(contained(dir, &shard)?);
                places.insert(shard, shards.len() - 1);
                shards.len() - 1
            }
        };
        shard_of.insert(tensor, place);
        if shards.len() > MOST_SHARDS {
            return Err(fault(format!("names more than {MOST_SHARDS} shards")));
        }
    }
    if shards.is_empty() {
        return Err(fault("names no shard".to_owned()));
    }
    Ok(Layout::Sharded { index: path, shards, shard_of })
}

/// Checks that a shard's name is a plain file name that ends in `.safetensors`.
fn check_plain(shard: &str) -> std::result::Result<(), String> {
    let mut components = Path::new(shard).components();
    let plain = matches!(components.next(), Some(Component::Normal(_)))
        && components.next().is_none()
        && !shard.contains(['/', '\\', ':', '\0'])
        && shard.ends_with(".safetensors");
    if plain {
        return Ok(());
    }
    let shard = printable(shard);
    Err(format!("shard {shard} is no plain file name that ends in .safetensors"))
}

/// The path `dir/name`, if it lies in `dir` after all links are followed.
///
/// The Hugging Face cache links `models--owner--name/snapshots/REVISION/file` to
/// `models--owner--name/blobs/HASH`; links within one such folder are followed, others refused.
pub(crate) fn contained(dir: &Path, name: &str) -> Result<PathBuf> {
    let path = dir.join(name);
    let real = |path: &Path| path.canonicalize().map_err(|e| Error::io(path, "find it", e));
    let (real_dir, real_path) = (real(dir)?, real(&path)?);
    if real_path.starts_with(&real_dir) {
        return Ok(path);
    }
    let hub_folder = real_dir.ancestors().find(|folder| {
        let name = folder.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with("models--"))
    });
    let in_hub = hub_folder.is_some_and(|folder| {
        real_dir.starts_with(folder.join("snapshots"))
            && real_path.starts_with(folder.join("blobs"))
    });
    if in_hub {
        return Ok(path);
    }
    let target = printable(&real_path.display().to_string());
    let reason = format!("is a link to {target}, outside of its directory; copy the file instead");
    Err(Error::file(&path, reason))
}

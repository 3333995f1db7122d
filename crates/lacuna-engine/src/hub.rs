//! Opens models by name: `hf:owner/name[/file.gguf][@revision]`, in the cache that Hugging Face's
//! tools share.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

#[cfg(feature = "hub")]
mod client;
mod environment;
#[cfg(feature = "hub")]
mod fetch;
#[cfg(feature = "hub")]
mod store;

use environment::Environment;

/// Progress of a file on its way from the hub.
#[derive(Clone, Copy, Debug)]
pub struct Download<'a> {
    /// The file's name in its repository, with nothing in it that moves a terminal's cursor.
    pub file: &'a str,
    /// Bytes that are here.
    pub done: u64,
    /// Bytes in all.
    pub total: u64,
}

/// Finds a model: a path as it is, or the files that `hf:owner/name[/file.gguf][@revision]` names,
/// from the Hugging Face cache if they are complete there (then without a look at the network),
/// else fetched into it.
///
/// `HF_HUB_CACHE`, `HF_HOME` and `XDG_CACHE_HOME` say where the cache is (`~` and `$HOME` in them are filled in, as
/// Hugging Face's tools do), `HF_TOKEN` opens private models and goes to the hub's own host alone,
/// `HF_HUB_OFFLINE=1` forbids the network and `HF_ENDPOINT` names another server. `progress` hears of every piece that
/// arrives.
///
/// # Errors
/// If the name is none, the model is not there or not open to this token, the network can't be reached, or the
/// repository holds no checkpoint.
pub fn locate(model: &Path, progress: &dyn Fn(Download<'_>)) -> Result<PathBuf> {
    let Some(text) = model.to_str().and_then(|text| text.strip_prefix("hf:")) else {
        return Ok(model.to_owned());
    };
    let name = HubName::parse(text)?;
    let environment = Environment::read(&name)?;
    if let Some(path) = environment.cached(&name) {
        return Ok(path);
    }
    if environment.offline {
        return Err(name.fault(format!(
            "not complete in the cache at {} and HF_HUB_OFFLINE is set; unset it, or give a folder",
            environment.cache.display()
        )));
    }
    fetch(&name, &environment, progress)
}

#[cfg(feature = "hub")]
fn fetch(
    name: &HubName,
    environment: &Environment,
    progress: &dyn Fn(Download<'_>),
) -> Result<PathBuf> {
    fetch::fetch(name, environment, progress)
}

#[cfg(not(feature = "hub"))]
fn fetch(
    name: &HubName,
    environment: &Environment,
    _progress: &dyn Fn(Download<'_>),
) -> Result<PathBuf> {
    Err(name.fault(format!(
        "not complete in the cache at {}, and this build has no network (feature `hub`); give a folder",
        environment.cache.display()
    )))
}

/// `owner/name[/file.gguf][@revision]`.
#[derive(Clone, PartialEq, Eq, Debug)]
struct HubName {
    repository: String,
    /// One file, in place of the checkpoint in Hugging Face layout.
    file: Option<String>,
    revision: String,
}

impl HubName {
    fn parse(text: &str) -> Result<Self> {
        let fault = |reason: &str| {
            let reason = format!("{reason}; expected hf:OWNER/NAME[@REVISION]");
            Error::Hub { name: format!("hf:{text}"), reason }
        };
        let (path, revision) = match text.split_once('@') {
            Some((path, revision)) => (path, revision),
            None => (text, "main"),
        };
        let mut parts = path.splitn(3, '/');
        let (owner, name) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
        let file = parts.next();
        let plain = |part: &str| {
            let known = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            !part.is_empty() && part.chars().all(known) && !part.starts_with('.')
        };
        if !plain(owner) || !plain(name) {
            return Err(fault("no owner and name"));
        }
        // Revisions may have slashes: refs/pr/1.
        if !revision.split('/').all(plain) {
            return Err(fault("no revision"));
        }
        if file.is_some_and(|file| !file.split('/').all(plain) || !file.ends_with(".gguf")) {
            return Err(fault("the file in it is no .gguf"));
        }
        Ok(Self {
            repository: format!("{owner}/{name}"),
            file: file.map(str::to_owned),
            revision: revision.to_owned(),
        })
    }

    fn fault(&self, reason: String) -> Error {
        Error::Hub { name: format!("hf:{}@{}", self.repository, self.revision), reason }
    }
}

impl Environment {
    /// The snapshot in the cache, if it is complete.
    fn cached(&self, name: &HubName) -> Option<PathBuf> {
        let folder = self.cache.join(format!("models--{}", name.repository.replace('/', "--")));
        let commit = folder.join("refs").join(&name.revision);
        let commit = lacuna_files::read_text(&commit, 1 << 10).ok();
        let commit = commit.map_or_else(|| name.revision.clone(), |text| text.trim().to_owned());
        let plain = !commit.is_empty() && !commit.contains(['/', '\\']) && !commit.starts_with('.');
        let snapshot = plain.then(|| folder.join("snapshots").join(commit))?;
        match &name.file {
            Some(file) => Some(snapshot.join(file)).filter(|path| path.exists()),
            None if is_complete(&snapshot) => Some(snapshot),
            None => single_gguf(&snapshot),
        }
    }
}

/// A configuration and all weights.
fn is_complete(snapshot: &Path) -> bool {
    let has = |name: &str| snapshot.join(name).exists();
    if !has("config.json") {
        return false;
    }
    let shards = |index: String| shards_of(&index).iter().all(|shard| has(shard));
    has("model.safetensors") || {
        lacuna_files::read_text(&snapshot.join(INDEX), lacuna_checkpoint::LONGEST_INDEX)
            .is_ok_and(shards)
    }
}

const INDEX: &str = "model.safetensors.index.json";

/// The names of the shards; an index that can't be understood names one that does not exist.
fn shards_of(index: &str) -> Vec<String> {
    let json: serde_json::Value = serde_json::from_str(index).unwrap_or_default();
    let map = json["weight_map"].as_object();
    let mut names: Vec<String> = map
        .into_iter()
        .flat_map(|map| map.values())
        .map(|name| name.as_str().unwrap_or("").to_owned())
        .collect();
    names.sort();
    names.dedup();
    let plain = |name: &String| name.ends_with(".safetensors") && !name.contains(['/', '\\']);
    if names.is_empty() || !names.iter().all(plain) {
        return vec!["damaged.index".into()];
    }
    names
}

/// The one `.gguf` file of a snapshot that holds nothing else to open.
fn single_gguf(snapshot: &Path) -> Option<PathBuf> {
    let entries = lacuna_files::list(snapshot).ok()?;
    let mut files =
        entries.into_iter().filter(|path| path.extension().is_some_and(|e| e == "gguf"));
    let first = files.next()?;
    (files.next().is_none() && !snapshot.join("config.json").exists()).then_some(first)
}

#[cfg(test)]
mod tests;

//! Fetching: only what a checkpoint needs, each file whole or not at all, interrupted ones resumed.

use hf_hub::api::sync::{ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};
use lacuna_model::COMPANIONS;
use std::path::PathBuf;

use super::{Environment, HubName, INDEX, shards_of};
use crate::error::Result;

const HUB: &str = "https://huggingface.co";

/// Fetches the files of a model into the cache.
pub(super) fn fetch(name: &HubName, environment: &Environment, progress: bool) -> Result<PathBuf> {
    let endpoint = std::env::var("HF_ENDPOINT").ok().filter(|endpoint| !endpoint.is_empty());
    let endpoint = endpoint.unwrap_or_else(|| HUB.to_owned());
    let fault = |error: ApiError| name.fault(explained(&error, &endpoint, environment));
    let cache = Cache::new(environment.cache.clone());
    let api = ApiBuilder::from_cache(cache.clone())
        .with_endpoint(endpoint.trim_end_matches('/').to_owned())
        .with_token(environment.token.clone())
        .with_progress(progress)
        .with_retries(3)
        .with_user_agent("lacuna", env!("CARGO_PKG_VERSION"))
        .build()
        .map_err(fault)?;
    let at = |revision: &str| {
        Repo::with_revision(name.repository.clone(), RepoType::Model, revision.to_owned())
    };
    let info = api.repo(at(&name.revision)).info().map_err(fault)?;
    let names: Vec<String> = info.siblings.into_iter().map(|file| file.rfilename).collect();
    // All files of one commit, even if the branch moves meanwhile.
    let repo = api.repo(at(&info.sha));
    let path = match &name.file {
        Some(file) => fetch_one(name, &repo, &names, file, &fault)?,
        None if !names.iter().any(|name| name == "config.json") => {
            let file = the_gguf(name, &names)?;
            fetch_one(name, &repo, &names, &file, &fault)?
        }
        None => fetch_directory(name, &repo, &names, &fault)?,
    };
    // So that the revision is found again without the network.
    let noted = cache.repo(at(&name.revision)).create_ref(&info.sha);
    noted.map_err(|error| fault(error.into()))?;
    Ok(path)
}

fn fetch_one(
    name: &HubName,
    repo: &ApiRepo,
    names: &[String],
    file: &str,
    fault: &dyn Fn(ApiError) -> crate::Error,
) -> Result<PathBuf> {
    if !names.iter().any(|name| name == file) {
        let reason = format!("the repository has no {file}; it has {}", listed(&ggufs(names)));
        return Err(name.fault(reason));
    }
    repo.get(file).map_err(fault)
}

fn fetch_directory(
    name: &HubName,
    repo: &ApiRepo,
    names: &[String],
    fault: &dyn Fn(ApiError) -> crate::Error,
) -> Result<PathBuf> {
    let has = |wanted: &str| names.iter().any(|name| name == wanted);
    let single = "model.safetensors";
    if !has(single) && !has(INDEX) {
        let reason = match ggufs(names) {
            files if files.is_empty() => "the repository holds no safetensors weights".to_owned(),
            files => format!(
                "the repository holds no safetensors weights; name one of its GGUF files, as in hf:{}/{}",
                name.repository, files[0]
            ),
        };
        return Err(name.fault(reason));
    }
    let config = repo.get("config.json").map_err(fault)?;
    let small = COMPANIONS.into_iter().chain(["tokenizer.json"]).filter(|name| has(name));
    for file in small {
        repo.get(file).map_err(fault)?;
    }
    if has(single) {
        repo.get(single).map_err(fault)?;
    } else {
        let index = repo.get(INDEX).map_err(fault)?;
        let text = std::fs::read_to_string(&index).map_err(|error| fault(error.into()))?;
        for shard in shards_of(&text) {
            if !has(&shard) {
                return Err(name.fault(format!("its index names {shard}, which it does not have")));
            }
            repo.get(&shard).map_err(fault)?;
        }
    }
    let snapshot = config.parent().map(PathBuf::from);
    snapshot.ok_or_else(|| name.fault("the cache has no folder for it".into()))
}

/// The only GGUF file of a repository without a configuration.
fn the_gguf(name: &HubName, names: &[String]) -> Result<String> {
    match ggufs(names).as_slice() {
        [one] => Ok(one.clone()),
        [] => {
            Err(name.fault("the repository holds no checkpoint: no config.json, no .gguf".into()))
        }
        many => {
            let reason = format!(
                "the repository holds {}; name one: hf:{}/{}",
                listed(many),
                name.repository,
                many[0]
            );
            Err(name.fault(reason))
        }
    }
}

fn ggufs(names: &[String]) -> Vec<String> {
    names.iter().filter(|name| name.ends_with(".gguf")).cloned().collect()
}

fn listed(names: &[String]) -> String {
    let shown: Vec<&str> = names.iter().take(8).map(String::as_str).collect();
    let more = if names.len() > shown.len() { ", …" } else { "" };
    format!("{} GGUF files: {}{more}", names.len(), shown.join(", "))
}

/// What went wrong, and what to do about it.
fn explained(error: &ApiError, endpoint: &str, environment: &Environment) -> String {
    let text = error.to_string();
    let has = |codes: &[&str]| codes.iter().any(|code| text.contains(code));
    let cache = environment.cache.display();
    if has(&["401", "403"]) {
        let token = match environment.token {
            Some(_) => "the token in use does not open it; accept its terms on the hub",
            None => "it is private, needs its terms accepted, or does not exist; set HF_TOKEN",
        };
        return format!("{endpoint} refuses it ({text}): {token}");
    }
    if has(&["404"]) {
        return format!("{endpoint} has no such model or revision ({text}); check the name");
    }
    match error {
        ApiError::IoError(error) => format!("cannot write the cache at {cache}: {error}"),
        ApiError::LockAcquisition(path) => {
            format!("another process is fetching it ({})", path.display())
        }
        _ => format!(
            "not complete in the cache at {cache}, and {endpoint} can't be reached ({text}); connect, or fetch \
             the files elsewhere and give their folder"
        ),
    }
}

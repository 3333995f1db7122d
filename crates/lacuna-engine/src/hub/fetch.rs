//! Fetches only what a checkpoint needs, each file whole or not at all, interrupted ones resumed.

use lacuna_checkpoint::MODEL_FILES;
use std::path::PathBuf;

use super::Download;
use super::client::{Client, Failure};
use super::environment::Environment;
use super::store::{Snapshot, encoded, is_plain};
use super::{HubName, INDEX, shards_of};
use crate::error::{Error, Result};

const HUB: &str = "https://huggingface.co";

/// Fetches the files of a model into the cache.
pub(super) fn fetch(
    name: &HubName,
    environment: &Environment,
    progress: &dyn Fn(Download<'_>),
) -> Result<PathBuf> {
    let endpoint = std::env::var("HF_ENDPOINT").ok().filter(|endpoint| !endpoint.is_empty());
    let endpoint = endpoint.unwrap_or_else(|| HUB.to_owned());
    let fault = |failure: Failure| name.fault(explained(&failure, &endpoint, environment));
    let client = Client::new(&endpoint, environment.token.clone()).map_err(fault)?;
    let (commit, names) = listing(&client, name).map_err(fault)?;
    // All files of one commit, even if the branch moves meanwhile.
    let snapshot = Snapshot {
        client: &client,
        repository: &name.repository,
        commit: &commit,
        cache: &environment.cache,
        progress,
    };
    let path = match &name.file {
        Some(file) => fetch_one(name, &snapshot, &names, file, &fault)?,
        None if !names.iter().any(|name| name == "config.json") => {
            let file = the_gguf(name, &names)?;
            fetch_one(name, &snapshot, &names, &file, &fault)?
        }
        None => fetch_directory(name, &snapshot, &names, &fault)?,
    };
    snapshot.note(&name.revision).map_err(fault)?;
    Ok(path)
}

/// The commit that a revision is now, and the names of its files, each one a plain path.
fn listing(client: &Client, name: &HubName) -> std::result::Result<(String, Vec<String>), Failure> {
    let HubName { repository, revision, .. } = name;
    let text =
        client.get_text(&format!("api/models/{repository}/revision/{}", encoded(revision)))?;
    let odd = |reason: String| Failure::Refused(format!("the server's listing {reason}"));
    let json: serde_json::Value =
        serde_json::from_str(&text).map_err(|error| odd(format!("is no JSON: {error}")))?;
    let commit = json["sha"].as_str().unwrap_or_default().to_owned();
    if !is_plain(&commit) {
        return Err(odd(format!("names the commit `{commit}`, which is no plain name")));
    }
    let files = json["siblings"].as_array().map(Vec::as_slice).unwrap_or_default();
    let names: Vec<String> =
        files.iter().filter_map(|file| file["rfilename"].as_str()).map(str::to_owned).collect();
    let leads_out = |name: &&String| {
        let odd = |part: &str| matches!(part, "" | "." | "..") || part.contains(['\\', '\0']);
        name.split('/').any(odd)
    };
    if let Some(name) = names.iter().find(leads_out) {
        return Err(odd(format!("has a file `{name}`, which leads out of its folder")));
    }
    // Hidden files and names that not every system takes are nothing that a model needs.
    let plain = |name: &String| name.split('/').all(is_plain);
    Ok((commit, names.into_iter().filter(plain).collect()))
}

fn fetch_one(
    name: &HubName,
    snapshot: &Snapshot<'_>,
    names: &[String],
    file: &str,
    fault: &dyn Fn(Failure) -> Error,
) -> Result<PathBuf> {
    if !names.iter().any(|name| name == file) {
        let reason = format!("the repository has no {file}; it has {}", listed(&ggufs(names)));
        return Err(name.fault(reason));
    }
    snapshot.fetch(file).map_err(fault)
}

fn fetch_directory(
    name: &HubName,
    snapshot: &Snapshot<'_>,
    names: &[String],
    fault: &dyn Fn(Failure) -> Error,
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
    snapshot.fetch("config.json").map_err(fault)?;
    let small = MODEL_FILES.into_iter().chain(["tokenizer.json"]).filter(|name| has(name));
    for file in small {
        snapshot.fetch(file).map_err(fault)?;
    }
    if has(single) {
        snapshot.fetch(single).map_err(fault)?;
    } else {
        let index = snapshot.fetch(INDEX).map_err(fault)?;
        let text = lacuna_files::read_text(&index, lacuna_checkpoint::LONGEST_INDEX)
            .map_err(|error| fault(Failure::Disk(error.into_source())))?;
        for shard in shards_of(&text) {
            if !has(&shard) {
                return Err(name.fault(format!("its index names {shard}, which it does not have")));
            }
            snapshot.fetch(&shard).map_err(fault)?;
        }
    }
    Ok(snapshot.folder())
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

/// An address as it can be shown: whoever sees an error need not see what opens the hub.
fn without_password(endpoint: &str) -> String {
    let secret = endpoint.split_once("://").and_then(|(scheme, rest)| {
        let (host, _) = rest.split_once('/').unwrap_or((rest, ""));
        let (_, host_alone) = host.rsplit_once('@')?;
        Some(format!("{scheme}://{host_alone}{}", &rest[host.len()..]))
    });
    secret.unwrap_or_else(|| endpoint.to_owned())
}

/// Says what went wrong, and what to do about it.
fn explained(failure: &Failure, endpoint: &str, environment: &Environment) -> String {
    let cache = environment.cache.display();
    let endpoint = without_password(endpoint);
    match failure {
        Failure::Status(status @ (401 | 403)) => {
            let token = match environment.token {
                Some(_) => "the token in use does not open it; accept its terms on the hub",
                None => "it is private, needs its terms accepted, or does not exist; set HF_TOKEN",
            };
            format!("{endpoint} refuses it (status {status}): {token}")
        }
        Failure::Status(404) => {
            format!("{endpoint} has no such model or revision (status 404); check the name")
        }
        Failure::Status(status) => {
            format!("{endpoint} answers with status {status}; try again later")
        }
        Failure::Disk(error) => format!("cannot write the cache at {cache}: {error}"),
        Failure::Refused(reason) => format!("refused at {endpoint}: {reason}"),
        Failure::Unreachable(reason) => format!(
            "not complete in the cache at {cache}, and {endpoint} can't be reached ({reason}); connect, or fetch \
             the files elsewhere and give their folder"
        ),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn an_endpoint_is_shown_without_what_opens_it() {
        for (endpoint, shown) in [
            ("https://me:secret@hub.org/a@b", "https://hub.org/a@b"),
            ("https://hub.org", "https://hub.org"),
            ("http://127.0.0.1:80/x", "http://127.0.0.1:80/x"),
        ] {
            assert_eq!(super::without_password(endpoint), shown);
        }
    }
}

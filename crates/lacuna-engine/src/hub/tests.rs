//! Holds names, addresses and the cache of the hub to what they promise.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

use super::*;
use std::fs;

#[cfg(feature = "hub")]
mod power;

fn parsed(text: &str) -> Option<(String, Option<String>, String)> {
    let name = HubName::parse(text).ok()?;
    Some((name.repository, name.file, name.revision))
}

#[test]
fn names_are_owner_name_and_what_is_asked_of_it() {
    let plain =
        |repository: &str, revision: &str| Some((repository.to_owned(), None, revision.to_owned()));
    assert_eq!(parsed("o/n"), plain("o/n", "main"));
    assert_eq!(parsed("o-1/n.x_2@v1.0"), plain("o-1/n.x_2", "v1.0"));
    assert_eq!(parsed("o/n@refs/pr/1"), plain("o/n", "refs/pr/1"));
    let file = Some(("o/n".to_owned(), Some("q/m-Q4.gguf".to_owned()), "main".to_owned()));
    assert_eq!(parsed("o/n/q/m-Q4.gguf"), file);
    for text in [
        "",
        "n",
        "o/",
        "/n",
        "o/n@",
        "../n",
        "o/..",
        "o/n@../x",
        "o/n/x.bin",
        "o/n/../m.gguf",
        "o/n m",
    ] {
        assert_eq!(parsed(text), None, "{text}");
    }
}

#[test]
fn a_snapshot_counts_when_all_its_shards_are_there() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("models--o--n");
    let snapshot = folder.join("snapshots/c0ffee");
    fs::create_dir_all(folder.join("refs")).unwrap();
    fs::create_dir_all(&snapshot).unwrap();
    fs::write(folder.join("refs/main"), "c0ffee\n").unwrap();
    let environment = Environment { cache: dir.path().into(), offline: true, token: None };
    let cached = |text: &str| environment.cached(&HubName::parse(text).unwrap());
    fs::write(snapshot.join("config.json"), "{}").unwrap();
    let index = r#"{"weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}}"#;
    fs::write(snapshot.join(INDEX), index).unwrap();
    fs::write(snapshot.join("m-1.safetensors"), "").unwrap();
    assert_eq!(cached("o/n"), None, "half of it");
    fs::write(snapshot.join("m-2.safetensors"), "").unwrap();
    assert_eq!(cached("o/n"), Some(snapshot.clone()));
    assert_eq!(cached("o/n@c0ffee"), Some(snapshot.clone()));
    assert_eq!(cached("o/n@dev"), None);
    fs::write(snapshot.join(INDEX), r#"{"weight_map": {"a": "../../x.safetensors"}}"#).unwrap();
    assert_eq!(cached("o/n"), None, "an index that leads elsewhere");
    fs::write(folder.join("refs/main"), "../../..").unwrap();
    assert_eq!(cached("o/n"), None, "a reference that leads elsewhere");
}

#[test]
fn a_lone_gguf_is_the_model() {
    let dir = tempfile::tempdir().unwrap();
    let snapshot = dir.path().join("models--o--n/snapshots/c0ffee");
    fs::create_dir_all(&snapshot).unwrap();
    let environment = Environment { cache: dir.path().into(), offline: true, token: None };
    let cached = |text: &str| environment.cached(&HubName::parse(text).unwrap());
    fs::write(snapshot.join("a.gguf"), "").unwrap();
    assert_eq!(cached("o/n@c0ffee"), Some(snapshot.join("a.gguf")));
    fs::write(snapshot.join("b.gguf"), "").unwrap();
    assert_eq!(cached("o/n@c0ffee"), None, "which of the two?");
    assert_eq!(cached("o/n/b.gguf@c0ffee"), Some(snapshot.join("b.gguf")));
}

#[test]
fn the_cache_is_where_hugging_faces_tools_look() {
    let name = HubName::parse("o/n").unwrap();
    let cache = |set: &[(&str, &str)]| {
        let lookup = |key: &str| {
            let found = set.iter().find(|(name, _)| *name == key);
            found.map(|(_, value)| (*value).to_owned())
        };
        Environment::from(&name, &lookup).unwrap().cache.to_str().unwrap().to_owned()
    };
    let home = ("HOME", "/users/me");
    for (key, value, expected) in [
        ("HF_HOME", "/data/hf", "/data/hf/hub"),
        ("HF_HOME", "~/hf", "/users/me/hf/hub"),
        ("HF_HOME", "$HOME/hf", "/users/me/hf/hub"),
        ("HF_HOME", "${HOME}/hf", "/users/me/hf/hub"),
        ("HF_HOME", "$NOT_SET/hf", "$NOT_SET/hf/hub"),
        ("HF_HOME", "", "/users/me/.cache/huggingface/hub"),
        ("HF_HUB_CACHE", "~/c", "/users/me/c"),
        ("HUGGINGFACE_HUB_CACHE", "~/c", "/users/me/c"),
        ("XDG_CACHE_HOME", "~/x", "/users/me/x/huggingface/hub"),
        ("UNRELATED", "1", "/users/me/.cache/huggingface/hub"),
    ] {
        assert_eq!(cache(&[home, (key, value)]), expected, "{key}={value}");
    }
    let both = [home, ("HF_HOME", "/a"), ("HF_HUB_CACHE", "/b"), ("HUGGINGFACE_HUB_CACHE", "/c")];
    assert_eq!(cache(&both), "/b");
}

#[test]
fn the_token_is_found_where_hugging_faces_tools_find_it() {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("token"), "stored\n").unwrap();
    fs::write(home.path().join("elsewhere"), "other").unwrap();
    let at = |name: &str| home.path().join(name).to_str().unwrap().to_owned();
    let name = HubName::parse("o/n").unwrap();
    let token = |set: &[(&str, &str)]| {
        let folder = at("");
        let lookup = |key: &str| match key {
            "HF_HOME" => Some(folder.clone()),
            _ => set.iter().find(|(name, _)| *name == key).map(|(_, value)| (*value).to_owned()),
        };
        Environment::from(&name, &lookup).unwrap().token
    };
    assert_eq!(token(&[]).as_deref(), Some("stored"));
    assert_eq!(token(&[("HF_TOKEN", " set\n")]).as_deref(), Some("set"));
    assert_eq!(token(&[("HUGGING_FACE_HUB_TOKEN", "old")]).as_deref(), Some("old"));
    assert_eq!(token(&[("HF_TOKEN_PATH", &at("elsewhere"))]).as_deref(), Some("other"));
    assert_eq!(token(&[("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]), None);
}

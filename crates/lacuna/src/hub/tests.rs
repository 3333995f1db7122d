#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

use super::*;

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

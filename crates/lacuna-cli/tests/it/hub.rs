//! Opens models by name: from the cache without a network, from a server into the cache.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

fn golden() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden/models/tiny_untied")
}

fn lacuna(cache: &Path, environment: &[(&str, &str)], args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lacuna"));
    for name in
        ["HF_HUB_OFFLINE", "HF_HUB_CACHE", "HF_TOKEN", "HF_ENDPOINT", "http_proxy", "HTTP_PROXY"]
    {
        command.env_remove(name);
    }
    // Nothing listens on port 9: without HF_ENDPOINT this is a machine without a network.
    command.env("HF_HOME", cache).env("HF_ENDPOINT", "http://127.0.0.1:9");
    command.envs(environment.iter().copied()).args(args).output().unwrap()
}

fn failed(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!error.contains("panicked"), "{error}");
    error
}

/// A cache as other tools leave it: blobs, and a snapshot of links to them.
fn cached(home: &Path) {
    let folder = home.join("hub/models--owner--tiny");
    let snapshot = folder.join("snapshots").join(COMMIT);
    for dir in [&folder.join("refs"), &folder.join("blobs"), &snapshot] {
        fs::create_dir_all(dir).unwrap();
    }
    fs::write(folder.join("refs/main"), COMMIT).unwrap();
    for (number, entry) in fs::read_dir(golden()).unwrap().enumerate() {
        let entry = entry.unwrap();
        let blob = folder.join("blobs").join(format!("b10b{number}"));
        fs::copy(entry.path(), &blob).unwrap();
        #[cfg(unix)]
        std::os::unix::fs::symlink(
            format!("../../blobs/b10b{number}"),
            snapshot.join(entry.file_name()),
        )
        .unwrap();
        #[cfg(not(unix))]
        fs::copy(&blob, snapshot.join(entry.file_name())).unwrap();
    }
}

#[test]
fn a_snapshot_in_the_cache_is_used_without_a_network_by_every_command() {
    let home = tempfile::tempdir().unwrap();
    cached(home.path());
    let out = home.path().join("logits.safetensors").display().to_string();
    let converted = home.path().join("m.gguf").display().to_string();
    let model = "hf:owner/tiny";
    for args in [
        &["inspect", model, "--json"][..],
        &["inspect", &format!("hf:owner/tiny@{COMMIT}")],
        &["generate", "--model", model, "--prompt-ids", "5,6", "--max-new-tokens", "4"],
        &["score", "--model", model, "--ids", "9,8,7"],
        &["logits", "--model", model, "--ids", "9,8,7", "--mask", "full", "--out", &out],
        &["convert", model, &converted],
    ] {
        for offline in ["0", "1"] {
            let _ = fs::remove_file(&converted);
            let output = lacuna(home.path(), &[("HF_HUB_OFFLINE", offline)], args);
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{args:?}: {error}");
        }
    }
    // HF_HUB_CACHE wins over HF_HOME.
    let hub = home.path().join("hub").display().to_string();
    let elsewhere = tempfile::tempdir().unwrap();
    let output = lacuna(elsewhere.path(), &[("HF_HUB_CACHE", &hub)], &["inspect", model]);
    assert!(output.status.success());
}

#[test]
fn without_a_network_the_error_says_where_it_looked_and_what_to_do() {
    let home = tempfile::tempdir().unwrap();
    let error = failed(&lacuna(home.path(), &[], &["inspect", "hf:owner/none@v2"]));
    let cache = home.path().join("hub").display().to_string();
    for part in ["hf:owner/none@v2", &cache, "can't be reached", "give their folder"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    let offline = [("HF_HUB_OFFLINE", "1")];
    let error = failed(&lacuna(home.path(), &offline, &["inspect", "hf:owner/none"]));
    assert!(error.contains("HF_HUB_OFFLINE is set"), "{error}");
    // A half snapshot is none.
    cached(home.path());
    let snapshot = home.path().join("hub/models--owner--tiny/snapshots").join(COMMIT);
    fs::remove_file(snapshot.join("model.safetensors")).unwrap();
    failed(&lacuna(home.path(), &offline, &["inspect", "hf:owner/tiny"]));
}

/// A server that answers as the hub does, for one repository, and remembers what was asked.
struct Hub {
    endpoint: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Hub {
    fn start(token: Option<&'static str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&asked);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let seen = Arc::clone(&seen);
                std::thread::spawn(move || answer(stream.unwrap(), token, &seen));
            }
        });
        Self { endpoint, asked }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn answer(mut stream: TcpStream, token: Option<&str>, seen: &Mutex<Vec<String>>) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    loop {
        let head: Vec<String> =
            lines.by_ref().map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
        let Some(path) = head.first().and_then(|line| line.split(' ').nth(1)) else { return };
        let header = |name: &str| {
            head.iter().find_map(|line| {
                let (key, value) = line.split_once(": ")?;
                key.eq_ignore_ascii_case(name).then(|| value.to_owned())
            })
        };
        seen.lock().unwrap().push(path.to_owned());
        let allowed = token.is_none_or(|token| {
            header("authorization").is_some_and(|value| value == format!("Bearer {token}"))
        });
        let file = path.strip_prefix(&format!("/owner/tiny/resolve/{COMMIT}/"));
        let (status, headers, body) = match (allowed, path, file) {
            (false, ..) => ("401 Unauthorized", String::new(), Vec::new()),
            (_, "/api/models/owner/tiny/revision/main", _) => {
                let mut names = vec!["README.md".to_owned(), "huge.bin".to_owned()];
                names.extend(
                    fs::read_dir(golden())
                        .unwrap()
                        .map(|e| e.unwrap().file_name().into_string().unwrap()),
                );
                let files: Vec<_> =
                    names.iter().map(|name| serde_json::json!({ "rfilename": name })).collect();
                let info = serde_json::json!({ "siblings": files, "sha": COMMIT });
                ("200 OK", String::new(), info.to_string().into_bytes())
            }
            (_, _, Some(file)) => {
                let whole = fs::read(golden().join(file)).unwrap();
                let range = header("range").unwrap();
                let (first, last) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
                let (first, last) =
                    (first.parse().unwrap(), last.parse().unwrap_or(whole.len() - 1));
                let headers = format!(
                    "content-range: bytes {first}-{last}/{}\r\netag: \"e-{file}\"\r\nx-repo-commit: {COMMIT}\r\n",
                    whole.len()
                );
                ("206 Partial Content", headers, whole[first..=last].to_vec())
            }
            _ => ("404 Not Found", String::new(), Vec::new()),
        };
        let length = body.len();
        write!(stream, "HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\n\r\n").unwrap();
        if stream.write_all(&body).is_err() {
            return;
        }
    }
}

#[test]
fn only_what_is_needed_is_fetched_and_only_once() {
    let home = tempfile::tempdir().unwrap();
    let hub = Hub::start(None);
    let endpoint = [("HF_ENDPOINT", hub.endpoint.as_str())];
    let args =
        ["generate", "--model", "hf:owner/tiny", "--prompt-ids", "5,6", "--max-new-tokens", "4"];
    let output = lacuna(home.path(), &endpoint, &args);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let asked = hub.asked();
    for needed in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        assert!(asked.iter().any(|path| path.ends_with(&format!("/{needed}"))), "{asked:?}");
    }
    assert!(!asked.iter().any(|path| path.contains("huge.bin") || path.contains("README")));
    let snapshot = home.path().join("hub/models--owner--tiny/snapshots").join(COMMIT);
    let read = |path: PathBuf| fs::read(path).unwrap();
    assert_eq!(read(snapshot.join("model.safetensors")), read(golden().join("model.safetensors")));
    // The second time nobody is asked, not even whether there is something newer.
    let output = lacuna(home.path(), &endpoint, &args);
    assert!(output.status.success());
    assert_eq!(hub.asked().len(), asked.len());
}

#[test]
fn a_token_opens_what_is_private_and_refusals_say_so() {
    let home = tempfile::tempdir().unwrap();
    let hub = Hub::start(Some("hf_secret"));
    let endpoint = ("HF_ENDPOINT", hub.endpoint.as_str());
    let args = ["inspect", "hf:owner/tiny"];
    let error = failed(&lacuna(home.path(), &[endpoint], &args));
    assert!(error.contains("set HF_TOKEN"), "{error}");
    let error = failed(&lacuna(home.path(), &[endpoint, ("HF_TOKEN", "hf_wrong")], &args));
    assert!(error.contains("does not open it") && !error.contains("hf_wrong"), "{error}");
    let open = Hub::start(None);
    let error = failed(&lacuna(
        home.path(),
        &[("HF_ENDPOINT", open.endpoint.as_str())],
        &["inspect", "hf:owner/other"],
    ));
    assert!(error.contains("no such model or revision"), "{error}");
    let output = lacuna(home.path(), &[endpoint, ("HF_TOKEN", "hf_secret")], &args);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // The same from the file that `huggingface-cli login` writes.
    let other = tempfile::tempdir().unwrap();
    fs::write(other.path().join("token"), "hf_secret\n").unwrap();
    assert!(lacuna(other.path(), &[endpoint], &args).status.success());
}

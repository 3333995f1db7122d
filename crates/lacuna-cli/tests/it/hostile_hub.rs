//! Treats a hub as a stranger: what it says leads nowhere outside of the cache, and the token goes
//! to it alone.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden/models/tiny_untied")
}

/// A request: its path, its byte range, and the token it carries.
#[derive(Clone, Debug)]
struct Asked {
    path: String,
    range: Option<(usize, Option<usize>)>,
    token: Option<String>,
}

/// Status, headers, body.
type Answer = (u16, Vec<(&'static str, String)>, Vec<u8>);

/// A server on this machine that answers with a function and remembers what was asked.
struct Server {
    address: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    fn start(answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (seen, answer) = (Arc::clone(&asked), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (seen, answer) = (Arc::clone(&seen), Arc::clone(&answer));
                std::thread::spawn(move || serve(stream.unwrap(), &seen, &*answer));
            }
        });
        Self { address, asked }
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

fn serve(mut stream: TcpStream, seen: &Mutex<Vec<Asked>>, answer: &dyn Fn(&Asked) -> Answer) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let head: Vec<String> =
        lines.by_ref().map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
    let Some(path) = head.first().and_then(|line| line.split(' ').nth(1)) else { return };
    let header = |name: &str| {
        let pair =
            |line: &String| line.split_once(": ").map(|(k, v)| (k.to_lowercase(), v.to_owned()));
        head.iter().filter_map(pair).find(|(key, _)| key == name).map(|(_, value)| value)
    };
    let range = header("range").map(|range| {
        let (first, last) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
        (first.parse().unwrap(), last.parse().ok())
    });
    let asked = Asked { path: path.to_owned(), range, token: header("authorization") };
    seen.lock().unwrap().push(asked.clone());
    let (status, headers, body) = answer(&asked);
    let announced = headers.iter().any(|(name, _)| *name == "content-length");
    write!(stream, "HTTP/1.1 {status} X\r\nconnection: close\r\n").unwrap();
    headers.iter().for_each(|(name, value)| write!(stream, "{name}: {value}\r\n").unwrap());
    if !announced {
        write!(stream, "content-length: {}\r\n", body.len()).unwrap();
    }
    // A server that says a byte now and then.
    if headers.iter().any(|(name, _)| *name == "x-drip") {
        stream.write_all(b"\r\n").unwrap();
        for byte in body {
            if stream.write_all(&[byte]).is_err() {
                return;
            }
            std::thread::sleep(Duration::from_secs(1));
        }
        return;
    }
    // A reader that has seen enough may be gone.
    let _ = stream.write_all(b"\r\n").and_then(|()| stream.write_all(&body));
}

fn listing() -> Answer {
    let names =
        fs::read_dir(golden()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let files: Vec<_> = names.map(|name| serde_json::json!({ "rfilename": name })).collect();
    let info = serde_json::json!({ "siblings": files, "sha": COMMIT });
    (200, Vec::new(), info.to_string().into_bytes())
}

fn is_listing(asked: &Asked) -> bool {
    asked.path.starts_with("/api/")
}

/// The file that is asked for, with the range that is asked for.
fn file(asked: &Asked, etag: &str) -> Answer {
    let whole = fs::read(golden().join(name_of(asked))).unwrap();
    let (first, last) = asked.range.unwrap_or((0, None));
    let last = last.unwrap_or(whole.len() - 1).min(whole.len() - 1);
    let range = format!("bytes {first}-{last}/{}", whole.len());
    (
        206,
        vec![("content-range", range), ("etag", format!("\"{etag}\""))],
        whole[first..=last].to_vec(),
    )
}

fn name_of(asked: &Asked) -> String {
    let path = asked.path.split('?').next().unwrap();
    path.rsplit('/').next().unwrap().to_owned()
}

fn inspect(home: &Path, hub: &Server) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lacuna"));
    for name in
        ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_CACHE", "http_proxy", "HTTP_PROXY"]
    {
        command.env_remove(name);
    }
    command.env("HF_HOME", home).env("HF_ENDPOINT", &hub.address).env("HF_TOKEN", "hf_secret");
    command.args(["inspect", "hf:owner/tiny"]).output().unwrap()
}

fn refused(home: &Path, hub: &Server) -> String {
    let output = inspect(home, hub);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(!error.contains("panicked"), "{error}");
    error
}

/// Every file below a folder.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.is_symlink() {
            found.extend(files_below(&path));
        } else {
            found.push(path);
        }
    }
    found
}

#[test]
fn the_token_stays_with_the_hub_wherever_redirects_lead() {
    let home = tempfile::tempdir().unwrap();
    let elsewhere = Server::start(|asked| file(asked, "of-the-other-host"));
    let there = elsewhere.address.clone();
    let hub = Server::start(move |asked| match name_of(asked).as_str() {
        _ if is_listing(asked) => listing(),
        // Once around the hub itself first, as renamed repositories lead.
        name if !asked.path.contains("/moved/") => {
            (307, vec![("location", format!("/moved/{name}"))], Vec::new())
        }
        name => {
            let etag = ("x-linked-etag", format!("\"e-{name}\""));
            (302, vec![("location", format!("{there}/{name}?signature=1")), etag], Vec::new())
        }
    });
    let output = inspect(home.path(), &hub);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!elsewhere.asked().is_empty());
    assert!(elsewhere.asked().iter().all(|asked| asked.token.is_none()), "{:?}", elsewhere.asked());
    assert!(hub.asked().iter().all(|asked| asked.token.as_deref() == Some("Bearer hf_secret")));
    let blobs = home.path().join("hub/models--owner--tiny/blobs");
    assert!(blobs.join("e-config.json").exists(), "contents are named by the hub");
}

#[test]
fn names_from_a_server_that_are_no_plain_names_are_refused_before_anything_is_written() {
    let odd_etag = |etag: &'static str| {
        Server::start(move |asked| if is_listing(asked) { listing() } else { file(asked, etag) })
    };
    let odd_listing = |text: &'static str| {
        Server::start(move |asked| match is_listing(asked) {
            true => (200, Vec::new(), text.as_bytes().to_vec()),
            false => file(asked, "e"),
        })
    };
    for (hub, told) in [
        (odd_etag("../../../../x"), "no plain name"),
        (odd_etag("/etc/x"), "no plain name"),
        (odd_etag("a\\b"), "no plain name"),
        (odd_etag(".."), "no plain name"),
        (odd_etag(""), "no ETag"),
        (
            odd_listing(r#"{"sha": "../../x", "siblings": [{"rfilename": "config.json"}]}"#),
            "no plain name",
        ),
        (odd_listing(r#"{"siblings": [{"rfilename": "config.json"}]}"#), "no plain name"),
        (odd_listing(r#"{"sha": "c", "siblings": [{"rfilename": "../x.gguf"}]}"#), "leads out"),
        (odd_listing(r#"{"sha": "c", "siblings": [{"rfilename": "/x.gguf"}]}"#), "leads out"),
        (odd_listing(r#"{"sha": "c", "siblings": [{"rfilename": "a\\b.gguf"}]}"#), "leads out"),
        (odd_listing("[]"), "no plain name"),
        (odd_listing("not json"), "is no JSON"),
    ] {
        let outer = tempfile::tempdir().unwrap();
        let home = outer.path().join("a/b/home");
        let error = refused(&home, &hub);
        assert!(error.contains(told), "{told}: {error}");
        let written = files_below(outer.path());
        assert!(written.is_empty(), "{written:?}");
    }
}

#[test]
fn an_index_that_names_files_elsewhere_brings_none() {
    let hub = Server::start(|asked| match name_of(asked).as_str() {
        _ if is_listing(asked) => {
            let names = ["config.json", "model.safetensors.index.json"];
            let files: Vec<_> = names.map(|name| serde_json::json!({ "rfilename": name })).into();
            let info = serde_json::json!({ "siblings": files, "sha": COMMIT });
            (200, Vec::new(), info.to_string().into_bytes())
        }
        "model.safetensors.index.json" => {
            let body = br#"{"weight_map": {"w": "../../../x.safetensors"}}"#.to_vec();
            (200, vec![("etag", "i".to_owned())], body)
        }
        _ => file(asked, "c"),
    });
    let home = tempfile::tempdir().unwrap();
    assert!(refused(home.path(), &hub).contains("which it does not have"));
    assert!(!hub.asked().iter().any(|asked| asked.path.contains("x.safetensors")));
}

#[test]
fn a_content_that_is_not_what_its_name_says_is_removed() {
    // Large files are named by their SHA-256.
    let hub = Server::start(|asked| match is_listing(asked) {
        true => listing(),
        false => file(asked, &"a".repeat(64)),
    });
    let home = tempfile::tempdir().unwrap();
    let error = refused(home.path(), &hub);
    assert!(error.contains("its SHA-256 differs"), "{error}");
    let left = files_below(&home.path().join("hub/models--owner--tiny"));
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn an_interrupted_file_goes_on_where_it_ended_and_comes_out_whole() {
    // Every body ends after 70 000 bytes, whatever the server announced.
    let hub = Server::start(|asked| {
        if is_listing(asked) {
            return listing();
        }
        let (status, mut headers, mut body) = file(asked, &format!("e-{}", name_of(asked)));
        headers.push(("content-length", body.len().to_string()));
        body.truncate(70_000);
        (status, headers, body)
    });
    let home = tempfile::tempdir().unwrap();
    let output = inspect(home.path(), &hub);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let folder = home.path().join("hub/models--owner--tiny/snapshots").join(COMMIT);
    let weights = "model.safetensors";
    assert_eq!(fs::read(folder.join(weights)).unwrap(), fs::read(golden().join(weights)).unwrap());
    let begun: Vec<_> =
        hub.asked().iter().filter(|a| name_of(a) == weights).map(|a| a.range.unwrap().0).collect();
    assert!(begun.contains(&70_000) && begun.contains(&140_000), "{begun:?}");
}

#[test]
fn a_server_that_leads_in_circles_or_away_from_encryption_is_left() {
    let hub = Server::start(|asked| (302, vec![("location", asked.path.clone())], Vec::new()));
    let home = tempfile::tempdir().unwrap();
    assert!(refused(home.path(), &hub).contains("redirects"));
    let hub =
        Server::start(|_| (302, vec![("location", "file:///etc/passwd".to_owned())], Vec::new()));
    assert!(refused(home.path(), &hub).contains("is no address"));
}

#[test]
fn no_other_page_enters_a_file_that_is_fetched_in_parts() {
    // Answers that come in the place of a file's second part: a network's login page, an error's
    // page, a file of another length, a compressed one.
    let page = b"<html>please log in</html>".to_vec();
    let compressed = ("content-encoding", "gzip".to_owned());
    let longer = ("content-range", "bytes 100-8099/8100".to_owned());
    let answers: [Answer; 4] = [
        (200, Vec::new(), page.clone()),
        (416, Vec::new(), page),
        (206, vec![longer], vec![b'x'; 8000]),
        (200, vec![compressed], vec![b'x'; 600]),
    ];
    for answer in answers {
        let told = format!("{} {:?}", answer.0, answer.1);
        let hub = Server::start(move |asked| match asked.range {
            _ if is_listing(asked) => listing(),
            Some((0, Some(0))) => file(asked, &format!("e-{}", name_of(asked))),
            Some((0, None)) => {
                let (status, mut headers, mut body) = file(asked, &format!("e-{}", name_of(asked)));
                headers.push(("content-length", body.len().to_string()));
                body.truncate(100);
                (status, headers, body)
            }
            _ => answer.clone(),
        });
        let home = tempfile::tempdir().unwrap();
        refused(home.path(), &hub);
        let snapshots = home.path().join("hub/models--owner--tiny/snapshots");
        assert!(!snapshots.exists(), "{told}");
        let honest = Server::start(|asked| match is_listing(asked) {
            true => listing(),
            false => file(asked, &format!("e-{}", name_of(asked))),
        });
        let output = inspect(home.path(), &honest);
        assert!(output.status.success(), "{told}: {}", String::from_utf8_lossy(&output.stderr));
        for name in ["config.json", "tokenizer.json", "model.safetensors"] {
            let came = fs::read(snapshots.join(COMMIT).join(name)).unwrap();
            assert!(came == fs::read(golden().join(name)).unwrap(), "{told}: {name}");
        }
    }
}

#[test]
fn a_server_that_does_not_get_on_is_left_within_a_minute() {
    let drip = || ("x-drip", "1".to_owned());
    let listing_drips = Server::start(move |_| {
        let (status, mut headers, body) = listing();
        headers.push(drip());
        (status, headers, body)
    });
    let file_drips = Server::start(move |asked| {
        if is_listing(asked) {
            return listing();
        }
        let (status, mut headers, body) = file(asked, "e");
        if asked.range != Some((0, Some(0))) {
            headers.push(drip());
        }
        (status, headers, body)
    });
    let byte_by_byte = Server::start(|asked| {
        if is_listing(asked) {
            return listing();
        }
        let (status, mut headers, mut body) = file(asked, "e");
        headers.push(("content-length", body.len().to_string()));
        body.truncate(1);
        (status, headers, body)
    });
    std::thread::scope(|scope| {
        for hub in [&listing_drips, &file_drips, &byte_by_byte] {
            scope.spawn(|| {
                let (began, home) = (Instant::now(), tempfile::tempdir().unwrap());
                refused(home.path(), hub);
                assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
            });
        }
    });
}

#[cfg(unix)]
#[test]
fn a_file_that_has_no_room_is_not_begun() {
    let hub = Server::start(|asked| {
        if is_listing(asked) {
            return listing();
        }
        let range = format!("bytes 0-0/{}", 1_u64 << 60);
        (206, vec![("content-range", range), ("etag", "e".to_owned())], b"x".to_vec())
    });
    let home = tempfile::tempdir().unwrap();
    let error = refused(home.path(), &hub);
    assert!(error.contains("are free there"), "{error}");
    assert!(hub.asked().iter().all(|asked| asked.range.is_none_or(|range| range.1 == Some(0))));
}

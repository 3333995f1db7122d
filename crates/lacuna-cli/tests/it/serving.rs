//! Runs `lacuna serve` as a process: it says where it listens, writes what `lacuna generate` writes, and ends when asked.

use crate::support::{lacuna, said, stdout};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

fn tiny() -> String {
    lacuna_test::golden().join("models/tiny_tied").display().to_string()
}

/// A server, and the address that it says.
fn serve(more: &[&str]) -> (Child, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_lacuna"))
        .args(["serve", "--model", &tiny(), "--port", "0"])
        .args(more)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let address = loop {
        let line = lines.next().expect("it ended without listening").unwrap();
        if let Some(address) = line.strip_prefix("listening on http://") {
            break address.to_owned();
        }
    };
    // Its later words must not fill the pipe.
    std::thread::spawn(move || lines.for_each(drop));
    (child, address)
}

fn post(address: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    let length = body.len();
    let request = format!(
        "POST /v1/completions HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}

#[test]
fn it_says_where_it_listens_writes_what_generate_writes_and_ends_at_a_signal() {
    let (mut child, address) = serve(&["--quiet"]);
    let body = r#"{"prompt": "def f(x):\n", "max_tokens": 24, "temperature": 0.8, "seed": 7}"#;
    let answer: serde_json::Value = serde_json::from_str(&post(&address, body)).unwrap();
    let args = [
        "generate",
        "--model",
        &tiny(),
        "def f(x):\n",
        "--max-new-tokens",
        "24",
        "--json",
        "--quiet",
    ];
    let args = [&args[..], &["--temperature", "0.8", "--seed", "7"]].concat();
    let alone: serde_json::Value = serde_json::from_str(&stdout(&lacuna(&args))).unwrap();
    assert_eq!(answer["choices"][0]["text"], alone["text"]);

    let began = Instant::now();
    let sent = Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
    assert!(sent.unwrap().success());
    while child.try_wait().unwrap().is_none() {
        assert!(began.elapsed() < Duration::from_secs(60), "it did not end");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(child.wait().unwrap().success());
}

#[test]
fn drafts_are_a_flag_as_elsewhere_and_change_no_token() {
    let body = r#"{"prompt": "x = 1\nx = 1\nx = 1\n", "max_tokens": 40, "threshold": 0.01}"#;
    let texts = ["none", "lookup"].map(|source| {
        let (mut child, address) = serve(&["--quiet", "--draft", source]);
        let answer: serde_json::Value = serde_json::from_str(&post(&address, body)).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        answer["choices"][0]["text"].as_str().unwrap().to_owned()
    });
    assert_eq!(texts[0], texts[1]);
    let wrong = lacuna(&["serve", "--model", &tiny(), "--port", "0", "--draft", "guess"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(said(&wrong).contains("none or lookup"), "{}", said(&wrong));
}

#[test]
fn beyond_loopback_it_wants_keys_and_says_so() {
    let open = lacuna(&["serve", "--model", &tiny(), "--host", "0.0.0.0", "--port", "0"]);
    assert_eq!(open.status.code(), Some(2));
    assert!(said(&open).contains("--api-key-file"), "{}", said(&open));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys");
    std::fs::write(&file, "# none\n\n").unwrap();
    let file = file.display().to_string();
    let empty = lacuna(&["serve", "--model", &tiny(), "--port", "0", "--api-key-file", &file]);
    assert_eq!(empty.status.code(), Some(1));
    assert!(said(&empty).contains("holds no key"), "{}", said(&empty));
}

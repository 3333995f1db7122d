//! Ends a download anywhere, by a kill or a power cut: it is there in full after the next one.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

use lacuna_files::testing::{Ends, every_end};
use sha2::{Digest, Sha256};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;

use crate::hub::client::Client;
use crate::hub::store::Snapshot;

/// The file's content; large enough to come in several pieces.
fn content() -> Vec<u8> {
    (0..600_000u32).flat_map(|n| (n % 65_521).to_le_bytes()).collect()
}

/// A server of one content under two names: `hashed`, which is named by its SHA-256, and `plain`.
fn serve(content: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || answer(stream, content));
        }
    });
    endpoint
}

fn answer(mut stream: TcpStream, content: &[u8]) -> Option<()> {
    let hash: String = Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect();
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
    loop {
        let head: Vec<String> =
            lines.by_ref().map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
        let etag = if head.first()?.contains("hashed") { &hash } else { "e-plain" };
        let range = head.iter().find_map(|line| {
            line.to_lowercase().strip_prefix("range: bytes=").map(str::to_owned)
        })?;
        let (first, last) = range.split_once('-')?;
        let first: usize = first.parse().ok()?;
        let last = last.parse().unwrap_or(content.len() - 1);
        let (part, all) = (&content[first..=last], content.len());
        write!(
            stream,
            "HTTP/1.1 206 Partial Content\r\netag: \"{etag}\"\r\ncontent-range: bytes {first}-{last}/{all}\r\n\
             content-length: {}\r\n\r\n",
            part.len()
        )
        .ok()?;
        stream.write_all(part).ok()?;
    }
}

#[test]
fn a_file_that_was_cut_off_while_it_came_is_whole_after_the_next_try() {
    let content: &'static [u8] = content().leak();
    let endpoint = serve(content);
    for file in ["hashed.bin", "plain.bin"] {
        let place = tempfile::tempdir().unwrap();
        let template = place.path().join("t");
        fs::create_dir(&template).unwrap();
        let fetch = |folder: &Path| {
            let client = Client::new(&endpoint, None).map_err(drop)?;
            let snapshot = Snapshot {
                client: &client,
                repository: "owner/name",
                commit: "c0ffee",
                cache: folder,
                progress: &|_| {},
            };
            let path = snapshot.fetch(file).map_err(drop)?;
            snapshot.note("main").map_err(drop)?;
            Ok::<_, ()>(path)
        };
        let write = |folder: &Path| drop(fetch(folder));
        every_end(&template, Ends::All(1), write, |end| {
            let pointer = end.folder.join("models--owner--name/snapshots/c0ffee").join(file);
            if end.finished || pointer.exists() {
                assert!(fs::read(&pointer).unwrap() == content, "{end}: {file}");
            }
            let path = fetch(&end.folder).unwrap_or_else(|()| panic!("{end}: {file}"));
            assert!(fs::read(path).unwrap() == content, "{end}: {file}");
            let names = |folder: &str| {
                let entries = fs::read_dir(end.folder.join("models--owner--name").join(folder));
                entries.unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>()
            };
            assert_eq!(names("refs"), ["main"], "{end}: {file}");
            assert_eq!(names("blobs").len(), 1, "{end}: {file}");
        });
    }
}

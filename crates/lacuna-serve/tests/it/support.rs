//! Starts servers on models of the fixtures, and speaks HTTP to them byte by byte.

use lacuna_engine::{Model, OpenOptions};
use lacuna_serve::{ServeOptions, Stop, serve};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A server that stops when it is dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) stop: Stop,
    thread: Option<JoinHandle<lacuna_serve::Result<()>>>,
}

/// A tiny block-diffusion model with marks of holes and a chat template.
pub(crate) fn tiny() -> Model {
    let folder = lacuna_test::golden().join("models/tiny_tied");
    Model::open(&folder, &OpenOptions::default()).unwrap()
}

pub(crate) fn options() -> ServeOptions {
    ServeOptions { port: 0, name: "tiny".into(), ..ServeOptions::default() }
}

impl Server {
    /// A server of the tiny model.
    pub(crate) fn start() -> Self {
        Self::with(tiny(), options())
    }

    pub(crate) fn with(model: Model, options: ServeOptions) -> Self {
        let (told, ready) = mpsc::channel();
        let stop = Stop::new();
        let own = stop.clone();
        let thread = std::thread::spawn(move || {
            serve(model, options, &own, |address| told.send(address).unwrap())
        });
        let address = ready.recv().unwrap();
        Self { address, stop, thread: Some(thread) }
    }

    /// Ends it and says how it ended.
    pub(crate) fn end(mut self) -> lacuna_serve::Result<()> {
        self.stop.stop();
        self.thread.take().unwrap().join().unwrap()
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Answer {
        self.send("POST", path, &[], body.to_string().as_bytes())
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], b"")
    }

    pub(crate) fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        let mut stream = self.connect();
        stream.write_all(&self.request(method, path, headers, body)).unwrap();
        Answer::read(&mut stream)
    }

    /// A whole request that closes its connection.
    pub(crate) fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Vec<u8> {
        let mut head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
        if !headers.iter().any(|(name, _)| *name == "Host") {
            head += &format!("Host: {}\r\n", self.address);
        }
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        if method == "POST" {
            head += &format!("Content-Length: {}\r\n", body.len());
        }
        [head.as_bytes(), b"\r\n", body].concat()
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        // A test that hangs says so.
        stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
        stream
    }

    /// A counter or gauge.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").text;
        let line = text.lines().find(|line| line.split(' ').next() == Some(name));
        let line = line.unwrap_or_else(|| panic!("no {name} in {text}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    /// Waits until something is so.
    pub(crate) fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let began = Instant::now();
        while !is_so(self) {
            assert!(began.elapsed() < Duration::from_secs(120), "never: {what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until nothing is under way.
    pub(crate) fn idle(&self) {
        self.until("idle", |server| {
            server.metric("lacuna_requests_running") == 0.0
                && server.metric("lacuna_requests_waiting") == 0.0
        });
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.stop();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            if !std::thread::panicking() {
                ended.unwrap().unwrap();
            }
        }
    }
}

/// An answer, its body taken out of its chunks.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn read(stream: &mut impl Read) -> Self {
        let mut bytes = Vec::new();
        // Whoever refuses a body may close before all of it is sent.
        let _ = stream.read_to_end(&mut bytes);
        Self::parse(&bytes)
    }

    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|part| part == b"\r\n\r\n");
        let Some(end) = end else {
            let (status, head) = (0, String::from_utf8_lossy(bytes).into_owned());
            return Self { status, head, text: String::new() };
        };
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let status = head.split(' ').nth(1).and_then(|n| n.parse().ok()).unwrap_or(0);
        let body = &bytes[end + 4..];
        let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
        let body = if chunked { unchunked(body) } else { body.to_vec() };
        Self { status, head, text: String::from_utf8(body).unwrap() }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// The events of a stream, but for the mark of its end.
    pub(crate) fn events(&self) -> Vec<Value> {
        let lines = self.text.split("\n\n").filter(|line| !line.is_empty());
        let data = lines.map(|line| line.strip_prefix("data: ").expect(line));
        let events = data.filter(|data| *data != "[DONE]");
        events.map(|data| serde_json::from_str(data).expect(data)).collect()
    }

    /// Asserts that it refuses, with a sentence.
    #[track_caller]
    pub(crate) fn is_refusal(&self, status: u16) {
        assert_eq!(self.status, status, "{self:?}");
        let message = self.json()["error"]["message"].as_str().unwrap_or_default().to_owned();
        assert!(message.split(' ').count() >= 3 && !message.contains('\n'), "{self:?}");
    }
}

fn unchunked(mut bytes: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = bytes.windows(2).position(|part| part == b"\r\n") {
        let length = std::str::from_utf8(&bytes[..end]).unwrap();
        let length = usize::from_str_radix(length.trim(), 16).unwrap();
        let Some(chunk) = bytes.get(end + 2..end + 2 + length) else { break };
        body.extend_from_slice(chunk);
        bytes = bytes.get(end + 4 + length..).unwrap_or_default();
        if length == 0 {
            break;
        }
    }
    body
}

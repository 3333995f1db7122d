//! Plays the clients: editors and callers that read what they asked for, and those that don't.

use crate::http::{asked, metric, post};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::Scope;
use std::time::{Duration, Instant};

/// The kinds of good clients. An editor gives a deadline and has a slot; a caller streams a text.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Editor,
    Caller,
}

/// An answer that came whole: its seconds, and the server's account of them where it gives one.
pub(crate) struct Told {
    pub(crate) kind: Kind,
    pub(crate) seconds: f64,
    pub(crate) timings: Value,
}

/// The answers of good clients, and what became of their other requests.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) told: Mutex<Vec<Told>>,
    pub(crate) full: AtomicU64,
    pub(crate) lost: AtomicU64,
}

/// Good clients: five editors to each caller. Each has a text of its own, of which an editor's request changes the last
/// line.
pub(crate) struct Good {
    address: String,
    clients: usize,
    rate: f64,
    /// Requests that each client has sent.
    turns: Vec<AtomicUsize>,
}

impl Good {
    pub(crate) fn new(address: &str, clients: usize, rate: f64) -> Self {
        let turns = (0..clients).map(|_| AtomicUsize::new(0)).collect();
        Self { address: address.to_owned(), clients, rate, turns }
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Has each client ask at its own rate until it is over.
    pub(crate) fn start<'s>(
        &'s self,
        scope: &'s Scope<'s, '_>,
        over: &'s AtomicBool,
        tally: &'s Tally,
    ) {
        let pause = Duration::from_secs_f64(self.clients as f64 / self.rate);
        for client in 0..self.clients {
            scope.spawn(move || {
                // They do not all come at once.
                wait(over, pause.mul_f64(client as f64 / self.clients as f64));
                while !over.load(Ordering::Relaxed) {
                    let began = Instant::now();
                    let turn = self.ask(client, tally);
                    wait(over, pause.mul_f64(gap(client, turn)).saturating_sub(began.elapsed()));
                }
            });
        }
    }

    /// Sends requests of all clients one after the other, as many a second as all together send, for so long.
    pub(crate) fn alone(&self, seconds: f64, tally: &Tally) {
        let over = AtomicBool::new(false);
        let (began, pause) = (Instant::now(), Duration::from_secs_f64(1.0 / self.rate));
        for number in 0.. {
            if began.elapsed().as_secs_f64() >= seconds {
                return;
            }
            let began = Instant::now();
            // The one that has asked least; a client of each kind in turn.
            let turns = self.turns.iter().map(|turns| turns.load(Ordering::Relaxed));
            let client = turns.enumerate().min_by_key(|(_, turns)| *turns).unwrap().0;
            self.ask(client, tally);
            wait(&over, pause.mul_f64(gap(client, number)).saturating_sub(began.elapsed()));
        }
    }

    /// A request of a client; its number.
    fn ask(&self, client: usize, tally: &Tally) -> usize {
        let turn = self.turns[client].fetch_add(1, Ordering::Relaxed);
        let kind = if client % 6 == 5 { Kind::Caller } else { Kind::Editor };
        let request = match kind {
            Kind::Editor => keystroke(client, turn),
            Kind::Caller => call(client, turn),
        };
        let began = Instant::now();
        let answer = asked(&self.address, &request);
        let seconds = began.elapsed().as_secs_f64();
        match answer {
            Some(answer) if answer.status == 200 => {
                let whole: Value = serde_json::from_str(&answer.text).unwrap_or_default();
                let timings = whole["timings"].clone();
                tally.told.lock().unwrap().push(Told { kind, seconds, timings });
            }
            Some(answer) if answer.status == 429 => {
                tally.full.fetch_add(1, Ordering::Relaxed);
            }
            _ => {
                tally.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
        turn
    }
}

/// The request of an editor whose cursor stands behind the beginning of a line.
fn keystroke(client: usize, turn: usize) -> String {
    let prefix: String = (0..20).map(|line| format!("x{line} = {client}\n")).collect();
    let body = json!({
        "id_slot": client, "input_prefix": prefix, "input_suffix": "\n", "prompt": format!("y{turn} = "),
        "n_predict": 16, "t_max_predict_ms": 5000,
    });
    post("/infill", &body.to_string())
}

/// The request of a program that reads a text as it comes.
fn call(client: usize, turn: usize) -> String {
    let prompt = format!("# {client}: {turn}\ndef f(x):\n");
    let body = json!({"prompt": prompt, "max_tokens": 48, "ignore_eos": true, "stream": true});
    post("/v1/completions", &body.to_string())
}

/// A part of the mean pause, from half to one and a half, in no order: by the golden ratio.
fn gap(client: usize, turn: usize) -> f64 {
    0.5 + (0.618_033_988_75 * (turn + 7 * client) as f64).fract()
}

fn wait(over: &AtomicBool, time: Duration) {
    let until = Instant::now() + time;
    while !over.load(Ordering::Relaxed) {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        std::thread::sleep(left.min(Duration::from_millis(50)));
    }
}

/// Clients that take nothing, take little, or send half.
pub(crate) struct Bad {
    /// Readers that take nothing of a stream.
    stalled: usize,
    /// Readers that take a little at a time.
    slow: usize,
    /// Senders of halves.
    halves: usize,
    slow_whole: AtomicU64,
    slow_lost: AtomicU64,
}

impl Bad {
    /// A quarter of so many clients.
    pub(crate) fn among(clients: usize) -> Self {
        let (slow, halves) = (clients / 32, clients / 8);
        let stalled = clients / 4 - slow - halves;
        let (slow_whole, slow_lost) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { stalled, slow, halves, slow_whole, slow_lost }
    }

    pub(crate) fn len(&self) -> usize {
        self.stalled + self.slow + self.halves
    }

    pub(crate) fn start<'s>(
        &'s self,
        scope: &'s Scope<'s, '_>,
        over: &'s AtomicBool,
        address: &'s str,
    ) {
        for number in 0..self.stalled {
            scope.spawn(move || stall(address, number, over));
        }
        for _ in 0..self.slow {
            scope.spawn(move || self.read_slowly(address, over));
        }
        for number in 0..self.halves {
            scope.spawn(move || send_half(address, number, over));
        }
    }

    /// Reads a long stream at 20 kB a second, and looks that nothing of it is missing.
    fn read_slowly(&self, address: &str, over: &AtomicBool) {
        const BODY: &str =
            r#"{"text": "def f(", "max_tokens": 128, "ignore_eos": true, "block_size": 8}"#;
        while !over.load(Ordering::Relaxed) {
            let Ok(mut stream) = TcpStream::connect(address) else { continue };
            let _ = stream.set_read_timeout(Some(Duration::from_secs(120)));
            let _ = stream.write_all(post("/lacuna/watch", BODY).as_bytes());
            let (mut seen, mut buffer) = (Vec::new(), [0; 1000]);
            while let Ok(read @ 1..) = stream.read(&mut buffer) {
                seen.extend_from_slice(&buffer[..read]);
                if over.load(Ordering::Relaxed) {
                    return;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            let text = String::from_utf8_lossy(&seen);
            let counted = match text.contains("\"kind\":\"end\"") && text.ends_with("0\r\n\r\n") {
                true => &self.slow_whole,
                false => &self.slow_lost,
            };
            counted.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn told(&self) -> String {
        let Self { stalled, slow, halves, slow_whole, slow_lost } = self;
        let (whole, lost) = (slow_whole.load(Ordering::Relaxed), slow_lost.load(Ordering::Relaxed));
        format!(
            "{stalled} readers took nothing, {halves} clients sent half; {slow} readers took 20 kB a second: {whole} streams \
             came whole, {lost} did not"
        )
    }
}

/// Reads nothing of a stream, and goes. Every other one asks for a stream that no buffer holds.
fn stall(address: &str, number: usize, over: &AtomicBool) {
    /// A stream that the buffers of two sockets hold, and one that they do not.
    const SHORT: &str = r#"{"prompt": "def f(", "max_tokens": 64, "stream": true}"#;
    const LONG: &str = r#"{"text": "def f(", "max_tokens": 1900, "ignore_eos": true, "block_size": 32, "threshold": 1}"#;
    let (path, body, seconds) = match number % 2 {
        0 => ("/v1/completions", SHORT, 5),
        _ => ("/lacuna/watch", LONG, 40),
    };
    while !over.load(Ordering::Relaxed) {
        if let Ok(mut stream) = TcpStream::connect(address) {
            let _ = stream.write_all(post(path, body).as_bytes());
            wait(over, Duration::from_secs(seconds));
        }
        wait(over, Duration::from_secs(1));
    }
}

/// Sends the beginning of a request, or a byte of it a second, and waits.
fn send_half(address: &str, number: usize, over: &AtomicBool) {
    let whole = post("/v1/completions", "{\"prompt\": \"def f(\"}");
    let (half, slowly) = match number % 4 {
        0 => (&whole[..whole.len() - 8], ""),
        1 => (&whole[..30], ""),
        2 => ("", ""),
        _ => (&whole[..whole.len() - 8], &whole[whole.len() - 8..whole.len() - 1]),
    };
    while !over.load(Ordering::Relaxed) {
        if let Ok(mut stream) = TcpStream::connect(address) {
            let _ = stream.write_all(half.as_bytes());
            for byte in slowly.bytes() {
                let _ = stream.write_all(&[byte]);
                wait(over, Duration::from_secs(1));
            }
            wait(over, Duration::from_secs(35));
        }
    }
}

/// Goes in the middle of a stream, and tells when its place was free again.
pub(crate) fn gone(address: &str) -> String {
    let body = json!({"prompt": "def f(", "max_tokens": 1500, "ignore_eos": true, "stream": true});
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(post("/v1/completions", &body.to_string()).as_bytes()).unwrap();
    let mut first = [0; 600];
    stream.read_exact(&mut first).unwrap();
    let before = metric(address, "lacuna_passes_total");
    let began = Instant::now();
    drop(stream);
    while metric(address, "lacuna_requests_running") > 0.0 {
        assert!(began.elapsed() < Duration::from_secs(60), "it goes on for nobody");
    }
    let passes = metric(address, "lacuna_passes_total") - before;
    let ms = began.elapsed().as_secs_f64() * 1e3;
    format!("its place was free after {passes} passes and {ms:.0} ms")
}

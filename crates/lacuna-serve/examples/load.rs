//! Loads a server from a process of its own: good clients at a bounded rate, beside readers that take nothing and requests
//! that come by half; tells what good ones waited, whether anything was lost, and the server's memory.
//!
//! Good clients are editors: each has a text of its own, of which a request changes the last line. Of the readers that take
//! nothing, every other one watches a text whose passes fill all buffers between it and the server, so that the
//! server has to give it up; the others leave after 5 seconds. Alone, one client asks at the rate of all of them together.
//!
//! ```sh
//! lacuna serve --model M --port 8080 --quiet --queue 256 &
//! cargo run --release -p lacuna-serve --example load -- 127.0.0.1:8080 --seconds 600 --clients 64
//! ```

#![allow(clippy::unwrap_used, reason = "a program by hand; it panics where it can't go on")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The waits of good clients, and what became of their requests.
#[derive(Default)]
struct Tally {
    seconds: std::sync::Mutex<Vec<f64>>,
    full: AtomicU64,
    lost: AtomicU64,
}

fn main() {
    let mut words = std::env::args().skip(1);
    let address = words.next().expect("an address, such as 127.0.0.1:8080");
    let (mut seconds, mut clients, mut rate) = (600.0, 64usize, 2.0);
    while let (Some(flag), Some(value)) = (words.next(), words.next()) {
        match flag.as_str() {
            "--seconds" => seconds = value.parse().unwrap(),
            "--clients" => clients = value.parse().unwrap(),
            // Requests a second of all good clients together.
            "--rate" => rate = value.parse().unwrap(),
            other => panic!("{other} is no flag"),
        }
    }
    let alone = run(&address, f64::max(seconds / 10.0, 20.0), (1, 0, 0), rate);
    let bad = clients / 8;
    let before = memory(&address);
    let all = run(&address, seconds, (clients - 2 * bad, bad, bad), rate);
    println!("| | requests | median s | p95 s | told 429 | lost |\n|---|---:|---:|---:|---:|---:|");
    line("one client", &alone);
    line(&format!("{clients} clients, {} of them bad", 2 * bad), &all);
    let pairs = |tally: &Tally| {
        let mut seconds = tally.seconds.lock().unwrap().clone();
        seconds.sort_by(f64::total_cmp);
        at(&seconds, 0.95)
    };
    println!("\np95 with all: {:.2} of alone", pairs(&all) / pairs(&alone));
    println!("memory before: {before}\nmemory after:  {}", memory(&address));
    for name in ["lacuna_connections", "lacuna_cancelled_total", "lacuna_requests_running"] {
        println!("{name} {}", metric(&address, name));
    }
}

/// The part of sorted numbers below which so many lie.
fn at(sorted: &[f64], part: f64) -> f64 {
    let place = (part * (sorted.len() as f64 - 1.0)).round() as usize;
    sorted.get(place).copied().unwrap_or(f64::NAN)
}

/// The bytes of the prefix cache, and all that the process holds where the system tells it.
fn memory(address: &str) -> String {
    let cache = metric(address, "lacuna_prefix_cache_bytes");
    format!(
        "{cache} bytes of prefix cache, {} bytes in all",
        metric(address, "process_resident_memory_bytes")
    )
}

fn line(name: &str, tally: &Tally) {
    let mut seconds = tally.seconds.lock().unwrap().clone();
    seconds.sort_by(f64::total_cmp);
    println!(
        "| {name} | {} | {:.3} | {:.3} | {} | {} |",
        seconds.len(),
        at(&seconds, 0.5),
        at(&seconds, 0.95),
        tally.full.load(Ordering::Relaxed),
        tally.lost.load(Ordering::Relaxed)
    );
}

/// A stream that the buffers of two sockets hold, and one that they do not.
const SHORT: &str = r#"{"prompt": "def f(", "max_tokens": 64, "stream": true}"#;
const LONG: &str = r#"{"text": "def f(", "max_tokens": 1900, "ignore_eos": true, "block_size": 32, "threshold": 1}"#;

/// Runs good clients, readers that take nothing, and senders of halves for so long.
fn run(
    address: &str,
    seconds: f64,
    (good, stalled, halves): (usize, usize, usize),
    rate: f64,
) -> Tally {
    let (tally, over) = (Tally::default(), AtomicBool::new(false));
    let pause = Duration::from_secs_f64(good as f64 / rate);
    std::thread::scope(|scope| {
        let (tally, over) = (&tally, &over);
        for n in 0..good {
            scope.spawn(move || {
                // They do not all come at once.
                std::thread::sleep(pause.mul_f64(n as f64 / good as f64));
                for turn in 0.. {
                    if over.load(Ordering::Relaxed) {
                        return;
                    }
                    let began = Instant::now();
                    match request(address, n, turn) {
                        Some(200) => {
                            tally.seconds.lock().unwrap().push(began.elapsed().as_secs_f64())
                        }
                        Some(429) => {
                            tally.full.fetch_add(1, Ordering::Relaxed);
                        }
                        _ => {
                            tally.lost.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    std::thread::sleep(pause.saturating_sub(began.elapsed()));
                }
            });
        }
        for n in 0..stalled {
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    let (path, body, seconds) = match n % 2 {
                        0 => ("/v1/completions", SHORT, 5.0),
                        _ => ("/lacuna/watch", LONG, 40.0),
                    };
                    if let Ok(mut stream) = TcpStream::connect(address) {
                        let _ = stream.write_all(post(path, body).as_bytes());
                        // It reads nothing and goes.
                        sleep(over, seconds);
                    }
                    sleep(over, 1.0);
                }
            });
        }
        for _ in 0..halves {
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    if let Ok(mut stream) = TcpStream::connect(address) {
                        let half = post("/v1/completions", "{\"prompt\": \"def f(\"}");
                        let _ = stream.write_all(&half.as_bytes()[..half.len() - 8]);
                        sleep(over, 40.0);
                    }
                }
            });
        }
        sleep(over, seconds);
        over.store(true, Ordering::Relaxed);
    });
    tally
}

fn sleep(over: &AtomicBool, seconds: f64) {
    let began = Instant::now();
    while began.elapsed().as_secs_f64() < seconds && !over.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The status of a keystroke's request that was answered whole.
fn request(address: &str, client: usize, turn: usize) -> Option<u16> {
    let prefix: String = (0..20).map(|line| format!("x{line} = {client}\\n")).collect();
    let body = format!(
        "{{\"id_slot\": {client}, \"input_prefix\": \"{prefix}\", \"input_suffix\": \"\\n\", \"prompt\": \"y{turn} = \", \
         \"n_predict\": 16, \"t_max_predict_ms\": 5000}}"
    );
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(120))).ok()?;
    stream.write_all(post("/infill", &body).as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let whole = answer.ends_with('}');
    answer.split(' ').nth(1)?.parse().ok().filter(|_| whole)
}

fn post(path: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

fn metric(address: &str, name: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let found = answer.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
    found.unwrap_or_default().to_owned()
}

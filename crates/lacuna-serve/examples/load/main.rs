//! Loads a server from a process of its own: good clients at a bounded rate, beside readers that take nothing or little
//! and requests that come by half. Tells what good ones waited, beside all that and alone, and where their time went;
//! whether anything was lost; and the server's memory, second by second.
//!
//! Load and its absence take turns, so that whatever else the machine does meets both: a part with all clients, then one
//! a third as long in which the good clients' requests come at the same rate, one after the other, with nobody beside
//! them. The first minute counts for neither: the caches fill up.
//!
//! ```sh
//! lacuna serve --model M --port 8080 --quiet --queue 256 --prefix-cache 32MB &
//! cargo run --release -p lacuna-serve --example load -- 127.0.0.1:8080 --seconds 600 --clients 64 --rate 2
//! ```

#![allow(clippy::unwrap_used, reason = "a program by hand; it panics where it can't go on")]

mod clients;
mod figures;
mod http;

use clients::{Bad, Good, Tally};
use figures::{Memory, answers, parts};
use http::metric;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The settings of a run.
struct Settings {
    address: String,
    /// Seconds under load.
    seconds: f64,
    /// Seconds of load before anything counts.
    warm: f64,
    /// Seconds of a part under load.
    part: f64,
    clients: usize,
    /// Requests a second of all good clients together.
    rate: f64,
}

fn settings() -> Settings {
    let mut words = std::env::args().skip(1);
    let address = words.next().expect("an address, such as 127.0.0.1:8080");
    let mut all =
        Settings { address, seconds: 600.0, warm: 60.0, part: 60.0, clients: 64, rate: 2.0 };
    while let (Some(flag), Some(value)) = (words.next(), words.next()) {
        match flag.as_str() {
            "--seconds" => all.seconds = value.parse().unwrap(),
            "--warm" => all.warm = value.parse().unwrap(),
            "--part" => all.part = value.parse().unwrap(),
            "--clients" => all.clients = value.parse().unwrap(),
            "--rate" => all.rate = value.parse().unwrap(),
            other => panic!("{other} is no flag"),
        }
    }
    all
}

fn main() {
    let Settings { address, seconds, warm, part, clients, rate } = settings();
    let bad = Bad::among(clients);
    let good = Good::new(&address, clients - bad.len(), rate);
    let (among, alone, unmeasured) = (Tally::default(), Tally::default(), Tally::default());
    let (over, mut memory) = (AtomicBool::new(false), Memory::default());
    let mut busy = Busy::default();
    std::thread::scope(|scope| {
        let sampler = scope.spawn(|| Memory::sampled(&address, &over));
        loaded(&good, &bad, warm, &unmeasured);
        let began = Instant::now();
        let mut left = seconds;
        while left > 0.0 {
            let before = Busy::of(&address);
            loaded(&good, &bad, part.min(left), &among);
            busy.add(&before, &Busy::of(&address));
            quiet(&address);
            good.alone(part.min(left) / 3.0, &alone);
            quiet(&address);
            left -= part;
        }
        over.store(true, Ordering::Relaxed);
        memory = sampler.join().unwrap();
        memory.from(began);
    });
    println!("{}", answers(&[("alone", &alone), ("among all", &among)]));
    println!("{}", parts(&[("alone", &alone), ("among all", &among)]));
    println!("{}\n", busy.told());
    println!("{}\n", bad.told());
    println!("{memory}\n");
    for _ in 0..5 {
        println!("a client that goes: {}", clients::gone(&address));
    }
    quiet(&address);
    for name in ["lacuna_connections", "lacuna_cancelled_total", "lacuna_requests_running"] {
        println!("{name} {}", metric(&address, name));
    }
}

/// All clients at once for so long.
fn loaded(good: &Good, bad: &Bad, seconds: f64, tally: &Tally) {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        good.start(scope, &over, tally);
        bad.start(scope, &over, good.address());
        std::thread::sleep(Duration::from_secs_f64(seconds));
        over.store(true, Ordering::Relaxed);
    });
}

/// Waits until the server has nothing to do; the clients have gone.
fn quiet(address: &str) {
    let began = Instant::now();
    let names = ["lacuna_requests_running", "lacuna_requests_waiting"];
    while names.iter().any(|name| metric(address, name) > 0.0) {
        assert!(began.elapsed() < Duration::from_secs(60), "requests hang whose clients have gone");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The time that the server's passes took, and the time in which they did.
#[derive(Default)]
struct Busy {
    editors: f64,
    others: f64,
    passes: f64,
    wall: f64,
    at: Option<Instant>,
}

impl Busy {
    fn of(address: &str) -> Self {
        let busy =
            |class: &str| metric(address, &format!("lacuna_busy_seconds_total{{for=\"{class}\"}}"));
        Self {
            editors: busy("editors"),
            others: busy("others"),
            passes: metric(address, "lacuna_passes_total"),
            wall: 0.0,
            at: Some(Instant::now()),
        }
    }

    fn add(&mut self, before: &Self, after: &Self) {
        self.editors += after.editors - before.editors;
        self.others += after.others - before.others;
        self.passes += after.passes - before.passes;
        self.wall += (after.at.unwrap() - before.at.unwrap()).as_secs_f64();
    }

    fn told(&self) -> String {
        let percent = |seconds: f64| 100.0 * seconds / self.wall;
        format!(
            "under load passes took {:.1} % of the time, editors' {:.1} % and others' {:.1} %; {:.2} ms a pass",
            percent(self.editors + self.others),
            percent(self.editors),
            percent(self.others),
            1e3 * (self.editors + self.others) / self.passes
        )
    }
}

//! Makes tables of what was measured: answers, the parts of their time, and memory.

use crate::clients::{Kind, Tally, Told};
use crate::http::metric;
use std::fmt;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The part of sorted numbers below which so many lie.
fn at(sorted: &[f64], part: f64) -> f64 {
    let place = (part * (sorted.len() as f64 - 1.0)).round() as usize;
    sorted.get(place).copied().unwrap_or(f64::NAN)
}

fn sorted(tally: &Tally, is_meant: impl Fn(&Told) -> bool) -> Vec<f64> {
    let told = tally.told.lock().unwrap();
    let mut seconds: Vec<f64> =
        told.iter().filter(|one| is_meant(one)).map(|one| one.seconds).collect();
    seconds.sort_by(f64::total_cmp);
    seconds
}

type IsMeant = fn(&Told) -> bool;

const KINDS: [(&str, IsMeant); 3] = [
    ("editors", |one| one.kind == Kind::Editor),
    ("callers", |one| one.kind == Kind::Caller),
    ("all good clients", |_| true),
];

/// The times that each kind of client waited, and how p95 compares with that of the first tally.
pub(crate) fn answers(tallies: &[(&str, &Tally)]) -> String {
    let mut text = String::from(
        "| | | requests | median ms | p95 ms | p99 ms | p95 by alone | told 429 | lost |\n|---|---|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    for (kind, is_meant) in KINDS {
        let first = at(&sorted(tallies[0].1, is_meant), 0.95);
        for (name, tally) in tallies {
            let seconds = sorted(tally, is_meant);
            let ms = |part: f64| 1e3 * at(&seconds, part);
            let _ = writeln!(
                text,
                "| {kind} | {name} | {} | {:.1} | {:.1} | {:.1} | {:.2} | {} | {} |",
                seconds.len(),
                ms(0.5),
                ms(0.95),
                ms(0.99),
                at(&seconds, 0.95) / first,
                tally.full.load(Ordering::Relaxed),
                tally.lost.load(Ordering::Relaxed),
            );
        }
    }
    text
}

/// The server's account of editors' time, on average over all answers and over the slowest twentieth.
pub(crate) fn parts(tallies: &[(&str, &Tally)]) -> String {
    const NAMES: [&str; 6] =
        ["waited_ms", "prompt_ms", "predicted_ms", "held_ms", "passes", "rows_beside"];
    let mut text = String::from(
        "| editors' ms | | all | waited | prompt | written | of it held | outside | passes | rows beside |\n\
         |---|---|---:|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    for (name, tally) in tallies {
        let told = tally.told.lock().unwrap();
        let mut editors: Vec<&Told> = told.iter().filter(|one| one.timings.is_object()).collect();
        editors.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        let slowest = &editors[..editors.len().div_ceil(20)];
        for (which, some) in [("all", &editors[..]), ("slowest 5 %", slowest)] {
            let mean = |of: &dyn Fn(&Told) -> f64| {
                some.iter().map(|one| of(one)).sum::<f64>() / some.len() as f64
            };
            let [waited, prompt, written, held, passes, beside] = NAMES
                .map(|name| mean(&|one: &Told| one.timings[name].as_f64().unwrap_or(f64::NAN)));
            let all = 1e3 * mean(&|one| one.seconds);
            let outside = all - waited - prompt - written;
            let _ = writeln!(
                text,
                "| {name} | {which} | {all:.1} | {waited:.1} | {prompt:.1} | {written:.1} | {held:.1} | {outside:.1} | \
                 {passes:.1} | {beside:.1} |"
            );
        }
    }
    text
}

/// The server's memory, second by second.
#[derive(Default)]
pub(crate) struct Memory(Vec<Sample>);

struct Sample {
    at: Instant,
    resident: f64,
    cache: f64,
}

impl Memory {
    /// Looks once a second until it is over.
    pub(crate) fn sampled(address: &str, over: &AtomicBool) -> Self {
        let mut samples = Vec::new();
        while !over.load(Ordering::Relaxed) {
            let resident = metric(address, "process_resident_memory_bytes");
            let cache = metric(address, "lacuna_prefix_cache_bytes");
            samples.push(Sample { at: Instant::now(), resident, cache });
            std::thread::sleep(Duration::from_secs(1));
        }
        Self(samples)
    }

    /// Forgets what was before.
    pub(crate) fn from(&mut self, began: Instant) {
        self.0.retain(|sample| sample.at >= began);
    }

    /// Bytes a minute: the slope of the line that lies closest to these samples.
    fn slope(samples: &[Sample]) -> f64 {
        let first = samples[0].at;
        let points =
            samples.iter().map(|one| ((one.at - first).as_secs_f64() / 60.0, one.resident));
        let n = samples.len() as f64;
        let (x, y) = points.clone().fold((0.0, 0.0), |(a, b), (x, y)| (a + x / n, b + y / n));
        let (xy, xx) = points
            .fold((0.0, 0.0), |(xy, xx), (a, b)| (xy + (a - x) * (b - y), xx + (a - x) * (a - x)));
        xy / xx
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(part) = Some(self.0.len() / 10).filter(|part| *part > 0) else {
            return write!(f, "too few samples of memory");
        };
        let mean = |some: &[Sample], of: fn(&Sample) -> f64| {
            some.iter().map(of).sum::<f64>() / some.len() as f64 / 1e6
        };
        let most = self.0.iter().map(|one| one.resident).fold(0.0, f64::max) / 1e6;
        let (first, last) = (&self.0[..part], &self.0[self.0.len() - part..]);
        let mb = |some: &[Sample]| {
            format!(
                "{:.1} MB with {:.1} MB of cache",
                mean(some, |s| s.resident),
                mean(some, |s| s.cache)
            )
        };
        write!(
            f,
            "memory, {} samples: {} in the first tenth, {} in the last, {most:.1} MB at most; {:+.3} MB a minute, \
             {:+.3} in the second half",
            self.0.len(),
            mb(first),
            mb(last),
            Self::slope(&self.0) / 1e6,
            Self::slope(&self.0[self.0.len() / 2..]) / 1e6
        )
    }
}

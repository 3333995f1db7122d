//! Counts what the server does, in the words of Prometheus.

use std::fmt::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::work::Costs;

/// Counters and gauges of one server.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    /// Requests by path and status.
    requests: Mutex<std::collections::BTreeMap<(&'static str, u16), u64>>,
    pub(crate) prompt_tokens: AtomicU64,
    pub(crate) remembered_tokens: AtomicU64,
    pub(crate) new_tokens: AtomicU64,
    pub(crate) passes: AtomicU64,
    pub(crate) cancelled: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) running: AtomicU64,
    pub(crate) waiting: AtomicU64,
    pub(crate) prefix_bytes: AtomicU64,
    pub(crate) connections: AtomicU64,
    /// Microseconds that passes took.
    pub(crate) editors_us: AtomicU64,
    pub(crate) others_us: AtomicU64,
    costs: Mutex<Vec<(usize, f64)>>,
}

impl Metrics {
    pub(crate) fn add(counter: &AtomicU64, n: usize) {
        counter.fetch_add(n as u64, Ordering::Relaxed);
    }

    /// Counts seconds of work.
    pub(crate) fn used(of: &AtomicU64, seconds: f64) {
        of.fetch_add((seconds.max(0.0) * 1e6).round() as u64, Ordering::Relaxed);
    }

    pub(crate) fn set(gauge: &AtomicU64, value: u64) {
        gauge.store(value, Ordering::Relaxed);
    }

    /// Counts an answer; a path that is none of the server's counts as `other`.
    pub(crate) fn answered(&self, path: &'static str, status: u16) {
        if let Ok(mut requests) = self.requests.lock() {
            *requests.entry((path, status)).or_default() += 1;
        }
    }

    pub(crate) fn measured(&self, costs: &Costs) {
        if let Ok(mut points) = self.costs.lock() {
            *points = costs.points().to_vec();
        }
    }

    /// The measured costs.
    pub(crate) fn costs(&self) -> Vec<(usize, f64)> {
        self.costs.lock().map(|points| points.clone()).unwrap_or_default()
    }

    /// All of them as text.
    pub(crate) fn text(&self, resident_bytes: Option<u64>) -> String {
        let mut text = String::new();
        let counters = [
            ("prompt_tokens_total", "Tokens of prompts that were read.", &self.prompt_tokens),
            (
                "remembered_tokens_total",
                "Tokens of prompts that were in the prefix cache.",
                &self.remembered_tokens,
            ),
            ("new_tokens_total", "Tokens that were written.", &self.new_tokens),
            ("passes_total", "Forward passes.", &self.passes),
            (
                "cancelled_total",
                "Requests that ended because their client was gone or took nothing.",
                &self.cancelled,
            ),
            ("refused_total", "Requests refused because too many wait.", &self.refused),
        ];
        let gauges = [
            ("requests_running", "Requests that are decoded.", &self.running),
            ("requests_waiting", "Requests that wait.", &self.waiting),
            ("prefix_cache_bytes", "Bytes of the prefix cache.", &self.prefix_bytes),
            ("connections", "Open connections.", &self.connections),
        ];
        let kinds = [("counter", &counters[..]), ("gauge", &gauges[..])];
        // Writing to a string does not fail.
        for (kind, all) in kinds {
            for (name, help, value) in all {
                let value = value.load(Ordering::Relaxed);
                let _ = writeln!(text, "# HELP lacuna_{name} {help}\n# TYPE lacuna_{name} {kind}");
                let _ = writeln!(text, "lacuna_{name} {value}");
            }
        }
        if let Some(bytes) = resident_bytes {
            text.push_str("# HELP process_resident_memory_bytes Memory that the process holds.\n");
            text.push_str("# TYPE process_resident_memory_bytes gauge\n");
            let _ = writeln!(text, "process_resident_memory_bytes {bytes}");
        }
        text.push_str("# HELP lacuna_http_requests_total Answers by path and status.\n");
        text.push_str("# TYPE lacuna_http_requests_total counter\n");
        for ((path, status), n) in self.requests.lock().iter().flat_map(|all| all.iter()) {
            let _ = writeln!(
                text,
                "lacuna_http_requests_total{{path=\"{path}\",status=\"{status}\"}} {n}"
            );
        }
        text.push_str(
            "# HELP lacuna_busy_seconds_total Seconds of passes, by whom they were for.\n",
        );
        text.push_str("# TYPE lacuna_busy_seconds_total counter\n");
        for (class, us) in [("editors", &self.editors_us), ("others", &self.others_us)] {
            let seconds = us.load(Ordering::Relaxed) as f64 / 1e6;
            let _ = writeln!(text, "lacuna_busy_seconds_total{{for=\"{class}\"}} {seconds:.6}");
        }
        text.push_str("# HELP lacuna_pass_seconds A pass by its rows, measured at the start.\n");
        text.push_str("# TYPE lacuna_pass_seconds gauge\n");
        for (rows, seconds) in self.costs() {
            let _ = writeln!(text, "lacuna_pass_seconds{{rows=\"{rows}\"}} {seconds:.6}");
        }
        text
    }
}

//! Writes the table that anyone can read, on the screen and as a page.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};

use crate::machine::Machine;
use crate::measure::Timing;
use crate::plot;
use crate::rows::Row;

pub(crate) const HEADER: &str = "\
benchmark                                  lacuna    plain tensor ops   faster   machine's floor   of floor   error    runs";

pub(crate) const LEGEND: &str = "\
lacuna, plain tensor ops: median time of one call; the two ran in turn, and `faster` is the median of each pair.
machine's floor: the least time to move the bytes to or from memory and compute the products; only what stays in a
cache can be above 100 % of it.
error: largest difference between the two answers, relative to the largest value.";

impl Row {
    pub(crate) fn line(&self) -> String {
        format!(
            "{:<40} {:>10}  {:>12}  {:>10.2}×  {:>12}  {:>10.0} %   {:.0e}  {:>6}",
            self.name,
            duration(self.pair.fast.median()),
            duration(self.pair.reference.median()),
            self.pair.speedup,
            duration(self.floor),
            100.0 * self.of_floor(),
            self.error,
            self.pair.fast.runs(),
        )
    }

    fn markdown(&self) -> String {
        format!(
            "| {} | {} | {} | {:.2}× | {} | {:.0} % | {:.0e} | {} |",
            self.name,
            duration(self.pair.fast.median()),
            duration(self.pair.reference.median()),
            self.pair.speedup,
            duration(self.floor),
            100.0 * self.of_floor(),
            self.error,
            self.pair.fast.runs(),
        )
    }
}

/// A training step, a pass or a decode as a whole.
pub(crate) struct Whole {
    pub(crate) name: &'static str,
    pub(crate) timing: Timing,
    /// Tokens that one run trains on or writes.
    pub(crate) tokens: usize,
    /// Seconds below which this machine can't go.
    pub(crate) floor: f64,
    pub(crate) peak_memory_bytes: Option<u64>,
}

pub(crate) const WHOLE_HEADER: &str = "\
benchmark                                    time     tokens/s   machine's floor   of floor   peak memory    runs";

pub(crate) const WHOLE_LEGEND: &str = "\
train: one optimizer step of a 13.8 M-parameter model on 4 × 512 tokens under the block-diffusion mask, f32.
decode/pass-N: one pass over N tokens behind 128; decode/…: 64 new tokens, one a refinement, B = 4.
floor: every product of the step at the machine's rate, or the weights read once for each pass.
peak memory: of the process while it ran, weights and optimizer state included.";

impl Whole {
    fn cells(&self) -> [String; 6] {
        let peak = self.peak_memory_bytes;
        [
            duration(self.timing.median()),
            format!("{:.1}", self.tokens as f64 / self.timing.median()),
            duration(self.floor),
            format!("{:.0} %", 100.0 * self.floor / self.timing.best()),
            peak.map_or("unknown".into(), |bytes| {
                format!("{:.0} MiB", bytes as f64 / (1 << 20) as f64)
            }),
            self.timing.runs().to_string(),
        ]
    }

    pub(crate) fn line(&self) -> String {
        let [time, rate, floor, share, peak, runs] = self.cells();
        format!(
            "{:<38} {time:>10} {rate:>12} {floor:>17} {share:>10} {peak:>13} {runs:>7}",
            self.name
        )
    }

    fn markdown(&self) -> String {
        format!("| {} | {} |", self.name, self.cells().join(" | "))
    }
}

/// Seconds in the unit that leaves one to three digits before the point.
pub(crate) fn duration(seconds: f64) -> String {
    match seconds {
        s if s >= 1.0 => format!("{s:.2} s"),
        s if s >= 1e-3 => format!("{:.2} ms", s * 1e3),
        s => format!("{:.1} µs", s * 1e6),
    }
}

/// Writes README.md and its plots into `folder`.
pub(crate) fn write(folder: &Path, machine: &Machine, rows: &[Row], whole: &[Whole]) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("can't make {}", folder.display()))?;
    if !rows.is_empty() {
        plot::speedups(&folder.join("kernels.svg"), rows)?;
    }
    let page = folder.join("README.md");
    std::fs::write(&page, markdown(machine, rows, whole))
        .with_context(|| format!("can't write {}", page.display()))
}

fn markdown(machine: &Machine, rows: &[Row], whole: &[Whole]) -> String {
    let mut page = format!("# Benchmarks: {}\n\n{machine}.\n\n", machine.record_name());
    page += "Made by `cargo xtask bench`; comparable only with a record of the same machine.\n";
    if !whole.is_empty() {
        page += "\n## Training and decoding\n\n";
        page += "| benchmark | time | tokens/s | floor | of floor | peak memory | runs |\n";
        page += "|---|---:|---:|---:|---:|---:|---:|\n";
        push_lines(&mut page, whole.iter().map(Whole::markdown));
        page += "\n";
        push_lines(&mut page, WHOLE_LEGEND.lines());
    }
    if !rows.is_empty() {
        page += "\n## Kernels\n\n![How much faster than plain tensor operations](kernels.svg)\n\n";
        page += "| benchmark | lacuna | plain tensor ops | faster | floor | of floor | error | runs |\n";
        page += "|---|---:|---:|---:|---:|---:|---:|---:|\n";
        push_lines(&mut page, rows.iter().map(Row::markdown));
        page += "\n";
        push_lines(&mut page, LEGEND.lines());
    }
    page
}

fn push_lines<S: std::fmt::Display>(page: &mut String, lines: impl Iterator<Item = S>) {
    for line in lines {
        writeln!(page, "{line}").expect("a string takes every write");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Pair;

    #[test]
    fn times_are_shown_in_a_unit_that_fits() {
        assert_eq!(duration(1.5), "1.50 s");
        assert_eq!(duration(0.0123), "12.30 ms");
        assert_eq!(duration(4.56e-5), "45.6 µs");
    }

    #[test]
    fn a_row_names_both_times_and_the_share_of_the_floor() {
        let pair = Pair {
            fast: Timing::new(vec![0.002, 0.004, 0.003]),
            reference: Timing::new(vec![0.009]),
            speedup: 3.0,
        };
        let row = Row { name: "a/b", pair, floor: 0.001, error: 1e-6 };
        let line = row.line();
        for part in ["a/b", "3.00 ms", "9.00 ms", "3.00×", "1.00 ms", "50 %", "1e-6"] {
            assert!(line.contains(part), "{part} in {line}");
        }
    }
}

//! Measures what the machine is, and the two floors that everything is held against.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use candle_core::{Device, Tensor};
use lacuna_kernels::{Backend, StorageDtype, WeightMatrix};
use rayon::prelude::*;

/// A machine with its measured limits.
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) features: Vec<&'static str>,
    pub(crate) threads: usize,
    pub(crate) memory_bytes: Option<u64>,
    /// Reading memory that no cache holds, all threads.
    pub(crate) bytes_per_second: f64,
    /// The best that a large f32 matrix product reaches, all threads.
    pub(crate) flop_per_second: f64,
    date: String,
}

impl Machine {
    pub(crate) fn measure() -> Result<Self> {
        Ok(Self {
            cpu: proc_value("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown CPU".into()),
            features: features(),
            threads: rayon::current_num_threads(),
            memory_bytes: memory_bytes(),
            bytes_per_second: read_bandwidth()?,
            flop_per_second: matmul_rate()?,
            date: today(),
        })
    }

    /// The least time for an operation that must move and compute this much, in seconds.
    pub(crate) fn floor(&self, bytes: f64, flop: f64) -> f64 {
        (bytes / self.bytes_per_second).max(flop / self.flop_per_second)
    }

    /// `DATE-MACHINE`, fit for a folder's name.
    pub(crate) fn record_name(&self) -> String {
        let mut slug = String::new();
        for c in self.cpu.to_lowercase().replace("(r)", "").replace("(tm)", "").chars() {
            match c {
                'a'..='z' | '0'..='9' => slug.push(c),
                _ if !slug.ends_with('-') => slug.push('-'),
                _ => {}
            }
        }
        format!("{}-{}-{}t", self.date, slug.trim_matches('-'), self.threads)
    }
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}, {} threads", self.cpu, self.threads)?;
        if let Some(bytes) = self.memory_bytes {
            write!(f, ", {:.0} GiB", bytes as f64 / (1u64 << 30) as f64)?;
        }
        write!(
            f,
            ", {}; reads {:.1} GB/s, multiplies at {:.0} GFLOP/s (f32); {}",
            self.features.join(" "),
            self.bytes_per_second / 1e9,
            self.flop_per_second / 1e9,
            self.date
        )
    }
}

/// The value of the first line `key : value`.
pub(crate) fn proc_value(file: &str, key: &str) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(key))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn memory_bytes() -> Option<u64> {
    kib(&proc_value("/proc/meminfo", "MemTotal")?)
}

/// `123 kB`, in bytes.
pub(crate) fn kib(value: &str) -> Option<u64> {
    Some(value.strip_suffix(" kB")?.trim().parse::<u64>().ok()? << 10)
}

fn features() -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    let known = [
        ("AVX2", is_x86_feature_detected!("avx2")),
        ("FMA", is_x86_feature_detected!("fma")),
        ("AVX-512", is_x86_feature_detected!("avx512f")),
        ("VNNI", is_x86_feature_detected!("avx512vnni")),
    ];
    #[cfg(target_arch = "aarch64")]
    let known = [("NEON", true)];
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let known: [(&'static str, bool); 0] = [];
    known.iter().filter(|(_, has)| *has).map(|(name, _)| *name).collect()
}

/// Reads 512 MiB again and again, on all threads, as plain sums and as a product that asks for its
/// weights ahead: the best of a second each.
fn read_bandwidth() -> Result<f64> {
    const BYTES: usize = 512 << 20;
    const COLS: usize = 2048;
    let data: Vec<u64> = (0..BYTES as u64 / 8).into_par_iter().collect();
    let chunk = data.len() / (8 * rayon::current_num_threads());
    let sums = best_rate(|| {
        let total: u64 = data.par_chunks(chunk).map(sum).reduce(|| 0, u64::wrapping_add);
        std::hint::black_box(total);
        BYTES as f64
    });
    drop(data);
    let ones = 1f32.to_le_bytes().repeat(BYTES / 4);
    let rows = BYTES / 4 / COLS;
    let matrix = WeightMatrix::new(StorageDtype::F32, rows, COLS, ones.into())?;
    let x = Tensor::ones((1, COLS), candle_core::DType::F32, &Device::Cpu)?;
    let sample = matrix.matmul(Backend::cpu(), &x)?.get(0)?.get(rows - 1)?.to_scalar::<f32>()?;
    anyhow::ensure!(sample == COLS as f32, "a product of ones gave {sample}");
    let product = best_rate(|| {
        std::hint::black_box(
            matrix.matmul(Backend::cpu(), &x).expect("the same shapes just worked"),
        );
        BYTES as f64
    });
    Ok(sums.max(product))
}

/// Four quarters side by side: one stream of reads does not use all that memory gives.
fn sum(words: &[u64]) -> u64 {
    let mut sums = [[0u64; 8]; 4];
    let quarter = words.len() / 4;
    let [a, b, c, d] = [0, 1, 2, 3].map(|i| words[i * quarter..][..quarter].as_chunks::<8>().0);
    for (((a, b), c), d) in a.iter().zip(b).zip(c).zip(d) {
        for (sums, words) in sums.iter_mut().zip([a, b, c, d]) {
            for (sum, word) in sums.iter_mut().zip(words) {
                *sum = sum.wrapping_add(*word);
            }
        }
    }
    sums.as_flattened().iter().fold(0, |total, sum| total.wrapping_add(*sum))
}

fn matmul_rate() -> Result<f64> {
    const N: usize = 1536;
    let a = Tensor::ones((N, N), candle_core::DType::F32, &Device::Cpu)?;
    let b = a.t()?;
    let sample = a.matmul(&b)?.get(0)?.get(0)?.to_scalar::<f32>()?;
    anyhow::ensure!(sample == N as f32, "matrix product of ones gave {sample}");
    Ok(best_rate(|| {
        std::hint::black_box(a.matmul(&b).expect("the same shapes just worked"));
        2.0 * (N as f64).powi(3)
    }))
}

/// Units per second of the best run within a second; `run` returns its units.
fn best_rate(mut run: impl FnMut() -> f64) -> f64 {
    run();
    let start = Instant::now();
    let mut best = 0f64;
    while start.elapsed() < Duration::from_secs(1) {
        let run_start = Instant::now();
        let units = run();
        best = best.max(units / run_start.elapsed().as_secs_f64());
    }
    best
}

fn today() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    date(since.as_secs() / 86_400)
}

/// `YYYY-MM-DD` of a day counted from 1970-01-01.
fn date(mut day: u64) -> String {
    let is_leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let mut year = 1970;
    while day >= 365 + u64::from(is_leap(year)) {
        day -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let february = 28 + u64::from(is_leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if day < length {
            break;
        }
        day -= length;
        month += 1;
    }
    format!("{year}-{month:02}-{:02}", day + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_become_dates() {
        assert_eq!(date(0), "1970-01-01");
        assert_eq!(date(11_016), "2000-02-29");
        assert_eq!(date(20_453), "2025-12-31");
        assert_eq!(date(20_454), "2026-01-01");
    }

    #[test]
    fn the_floor_is_the_slower_of_moving_and_computing() {
        let machine = Machine {
            cpu: "A(R) CPU  @ 3 GHz".into(),
            features: vec![],
            threads: 2,
            memory_bytes: None,
            bytes_per_second: 10.0,
            flop_per_second: 100.0,
            date: "2026-01-01".into(),
        };
        assert_eq!(machine.floor(20.0, 100.0), 2.0);
        assert_eq!(machine.floor(20.0, 1000.0), 10.0);
        assert_eq!(machine.record_name(), "2026-01-01-a-cpu-3-ghz-2t");
    }

    #[test]
    fn sizes_of_proc_are_kibibytes() {
        assert_eq!(kib("  16 kB"), Some(16_384));
        assert_eq!(kib("16"), None);
    }
}

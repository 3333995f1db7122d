//! `cargo bench [FILTER]` times every kernel and the plain operations that define it, under
//! criterion.
//!
//! Each answer is checked before it is timed. What the two ratios are worth on a shared machine, and why
//! `cargo xtask bench` measures pairs: docs/design.md.
#![forbid(unsafe_code)]
#![allow(clippy::expect_used, reason = "a benchmark that fails has nothing better to do")]

use std::time::Duration;

use criterion::{Criterion, SamplingMode, criterion_group, criterion_main};

fn kernels(criterion: &mut Criterion) {
    lacuna_kernels::keep_freed_memory();
    for bench in lacuna_benches::kernels() {
        let (case, _) = bench.checked().expect("both versions give the same answer");
        let mut group = criterion.benchmark_group(bench.name);
        // The slowest plain version takes a second.
        group.sampling_mode(SamplingMode::Flat).sample_size(10);
        group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
        for (version, run) in [("lacuna", &case.fast), ("plain", &case.reference)] {
            group.bench_function(version, |timer| timer.iter(|| run().expect("it ran before")));
        }
        group.finish();
    }
}

criterion_group!(benches, kernels);
criterion_main!(benches);

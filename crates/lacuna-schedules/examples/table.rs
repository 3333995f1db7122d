//! Prints the closed forms of the ways to mask a block: `cargo run -p lacuna-schedules --example table`.

use std::num::NonZeroUsize;

use lacuna_schedules::{BlockMasking, Estimator, mean_clipped_rate, mean_inverse_clipped_rate};

const BLOCK_SIZES: [usize; 6] = [1, 2, 4, 8, 16, 32];

fn main() {
    println!("Linear schedule, t ~ U(0, 1); m of the B tokens of a block come out masked.\n");
    print!("{:<46}", "");
    BLOCK_SIZES.iter().for_each(|b| print!("{:>9}", format!("B={b}")));
    println!();
    row("P(m=0), unclipped", |b| BlockMasking::Unclipped.empty_probability(b));
    row("P(m=0), clipped", |b| BlockMasking::Clipped.empty_probability(b));
    row("E[u_blk]", mean_clipped_rate);
    row("E[1/u_blk]", mean_inverse_clipped_rate);

    println!("\nMean of Σ w·m/B (1 = unbiased) and its variance");
    let linear = Estimator::Linear { rate_min: 1e-3 };
    for (name, estimator) in [
        ("linear, rates from 0.001", linear),
        ("clipped, w = 1/u", Estimator::Clipped),
        ("clipped, one forced, w = 1/u (the paper's)", Estimator::ClippedForced),
        ("clipped, one forced, w = 1/(u+(1-u)^B/B)", Estimator::ClippedForcedUnbiased),
        ("exact count, w = B/m", Estimator::ExactCount),
    ] {
        row(name, |b| estimator.mean(b));
        row("    variance", |b| estimator.variance(b));
    }

    let four = NonZeroUsize::new(4).expect("4 is not 0");
    println!("\nP(m) at B = 4");
    for (name, masking) in [
        ("unclipped", BlockMasking::Unclipped),
        ("clipped", BlockMasking::Clipped),
        ("clipped, one forced", BlockMasking::ClippedForced),
        ("exact count", BlockMasking::ExactCount),
    ] {
        print!("{name:<46}");
        (0..=4).for_each(|m| print!("{:>9.4}", masking.masked_count_pmf(four, m)));
        println!();
    }
}

fn row(name: &str, value: impl Fn(NonZeroUsize) -> f64) {
    print!("{name:<46}");
    for block_size in BLOCK_SIZES {
        print!("{:>9.4}", value(NonZeroUsize::new(block_size).expect("listed sizes are not 0")));
    }
    println!();
}

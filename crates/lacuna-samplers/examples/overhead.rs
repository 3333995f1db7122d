//! Measures the sampler's own time per refinement: everything but the model's pass.
//!
//! ```text
//! cargo run --release -p lacuna-samplers --example overhead
//! ```
//!
//! Blocks of 4 over a vocabulary of 49152 (that of the 135 M-parameter SmolLM2, whose pass over 4
//! tokens takes some 20 to 40 ms on two cores), or of as many tokens as the first argument says.
//! Each line is the best of many runs, and its tokens are checked against plain f64 in the crate's
//! tests.

use std::convert::Infallible;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::time::Instant;

use lacuna_samplers::{Denoiser, FillRule, Request, Sampling, Segment, View, generate};

const PASS_US: f64 = 20_000.0;

/// Hands out logits that lie ready: its pass takes no time.
struct Ready {
    vocab: usize,
    logits: Vec<f32>,
}

impl Ready {
    fn new(vocab: usize) -> Self {
        let mut state = 1u64;
        let mut unit = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as f32 / (1u64 << 24) as f32
        };
        let logits = (0..4 * vocab).map(|i| {
            let gaussian = (0..6).map(|_| unit()).sum::<f32>() - 3.0;
            3.0 * gaussian + if i % vocab == 1000 + i / vocab { 16.0 } else { 0.0 }
        });
        Self { vocab, logits: logits.collect() }
    }
}

impl Denoiser for Ready {
    type Error = Infallible;

    fn prefill(&mut self, _: usize, _: &[u32], _: View) -> Result<(), Infallible> {
        Ok(())
    }
    fn denoise(
        &mut self,
        segments: &[Segment<'_>],
        read: &mut dyn FnMut(&[f32]),
    ) -> Result<(), Infallible> {
        self.logits.chunks_exact(self.vocab).take(segments[0].rows.len()).for_each(read);
        Ok(())
    }
    fn commit(&mut self, _: usize, _: &[u32]) -> Result<(), Infallible> {
        Ok(())
    }
    fn release(&mut self, _: usize) {}
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let vocab = std::env::args().nth(1).map_or(Ok(49152), |vocab| vocab.parse())?;
    let mut model = Ready::new(vocab);
    let warm = Sampling { temperature: 0.8, ..Sampling::default() };
    let top_k = NonZeroUsize::new(50);
    let cases = [
        ("greedy, low-confidence", FillRule::LowConfidence, Sampling::default()),
        ("greedy, margin", FillRule::Margin, Sampling::default()),
        ("greedy, entropy", FillRule::Entropy, Sampling::default()),
        ("T 0.8", FillRule::LowConfidence, warm.clone()),
        ("T 0.8, top-k 50", FillRule::LowConfidence, Sampling { top_k, ..warm.clone() }),
        (
            "T 0.8, top-p 0.95",
            FillRule::LowConfidence,
            Sampling { top_p: Some(0.95), ..warm.clone() },
        ),
        (
            "T 0.8, min-p 0.05",
            FillRule::LowConfidence,
            Sampling { min_p: Some(0.05), ..warm.clone() },
        ),
        (
            "T 0.8, top-k, top-p, penalty",
            FillRule::LowConfidence,
            Sampling { top_k, top_p: Some(0.95), repetition_penalty: 1.1, ..warm },
        ),
    ];
    println!(
        "{:<30} {:>14} {:>14} {:>22}",
        "", "µs, 1st of 4", "µs, mean of 4", "share of a 20 ms pass"
    );
    for (name, fill, sampling) in cases {
        // One token a refinement: 4, 3, 2 and 1 rows. With every token at once: 4 rows.
        let mut mean = f64::INFINITY;
        let mut whole = f64::INFINITY;
        for steps in [4, 1] {
            // Short runs, so that some of them fall between other programs' time slices.
            for _ in 0..400 {
                let request = Request {
                    fill,
                    steps: NonZeroUsize::new(steps),
                    sampling: sampling.clone(),
                    ..Request::new(vec![7; 128], 4, NonZeroUsize::new(4).ok_or("zero")?, 5)
                };
                let start = Instant::now();
                let done = generate(&mut model, request, |_| ControlFlow::Continue(()))?;
                let us = start.elapsed().as_secs_f64() * 1e6 / done.forwards as f64;
                assert_eq!((done.tokens.len(), done.forwards), (4, steps));
                if sampling.temperature == 0.0 {
                    assert!(done.tokens.iter().all(|token| (1000..1004).contains(token)));
                }
                let best = if steps == 4 { &mut mean } else { &mut whole };
                *best = best.min(us);
            }
        }
        println!("{name:<30} {whole:>14.0} {mean:>14.0} {:>20.2} %", 100.0 * mean / PASS_US);
    }
    Ok(())
}

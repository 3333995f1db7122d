//! Measures what counting alone achieves on a corpus: the floor that a model must clear.

use crate::dataset::Dataset;
use crate::error::Result;
use std::collections::{HashMap, HashSet};

/// Next-token probabilities from single tokens.
///
/// P(w) = (c(w) + T/V) / (N + T): Witten and Bell's estimate over the uniform distribution, with T
/// distinct tokens among N, and V in the vocabulary. Never zero.
#[derive(Debug, Clone)]
pub struct Unigram {
    probability: Vec<f64>,
}

impl Unigram {
    /// Counts the eligible tokens of all windows.
    ///
    /// # Errors
    /// When a window cannot be read.
    pub fn count(dataset: &Dataset) -> Result<Self> {
        let mut counts = vec![0u64; dataset.vocab_size()];
        for window in dataset.iter() {
            let window = window?;
            for (&token, _) in window.tokens.iter().zip(&window.eligible).filter(|pair| *pair.1) {
                counts[token as usize] += 1;
            }
        }
        let total = counts.iter().sum::<u64>() as f64;
        let kinds = counts.iter().filter(|&&count| count > 0).count() as f64;
        let (total, kinds) = if total > 0.0 { (total, kinds) } else { (0.0, 1.0) };
        let share = kinds / counts.len() as f64;
        let smooth = |&count: &u64| (count as f64 + share) / (total + kinds);
        Ok(Self { probability: counts.iter().map(smooth).collect() })
    }

    /// P(token). Zero for ids outside the vocabulary.
    pub fn probability(&self, token: u32) -> f64 {
        self.probability.get(token as usize).copied().unwrap_or(0.0)
    }
}

/// Next-token probabilities from the token before.
///
/// Interpolated Kneser–Ney with Chen and Goodman's three discounts, estimated from the counts of
/// counts:
///
/// P(w | v) = max(c(vw) − D(c(vw)), 0) / c(v·) + λ(v) · P₁(w),
/// where λ(v) hands on what the discounts took, and P₁ counts before how many different tokens w
/// stands, discounted once and interpolated with the uniform distribution. Never zero. It is the
/// strongest smoothing known for a bigram of counts, so that the floor is an honest one.
#[derive(Debug, Clone)]
pub struct Bigram {
    first: Unigram,
    /// P₁.
    lower: Vec<f64>,
    pairs: HashMap<(u32, u32), u64>,
    /// For each token before: how often, and λ.
    contexts: Vec<(u64, f64)>,
    discounts: [f64; 3],
}

impl Bigram {
    /// Counts the pairs within windows whose second token is eligible.
    ///
    /// # Errors
    /// When a window cannot be read.
    pub fn count(dataset: &Dataset) -> Result<Self> {
        let mut pairs: HashMap<(u32, u32), u64> = HashMap::new();
        for window in dataset.iter() {
            let window = window?;
            for (pair, eligible) in window.tokens.windows(2).zip(&window.eligible[1..]) {
                if *eligible {
                    *pairs.entry((pair[0], pair[1])).or_default() += 1;
                }
            }
        }
        let vocab_size = dataset.vocab_size();
        let discounts = three_discounts(&counts_of_counts(pairs.values().copied()));
        let mut contexts = vec![(0, [0u64; 3]); vocab_size];
        let mut before = vec![0u64; vocab_size];
        for (&(previous, token), &count) in &pairs {
            let (total, kinds) = &mut contexts[previous as usize];
            *total += count;
            kinds[count.min(3) as usize - 1] += 1;
            before[token as usize] += 1;
        }
        let handed_on = |(total, kinds): &(u64, [u64; 3])| {
            let taken: f64 = kinds.iter().zip(discounts).map(|(&n, d)| n as f64 * d).sum();
            (*total, if *total == 0 { 1.0 } else { taken / *total as f64 })
        };
        let first = Unigram::count(dataset)?;
        let contexts = contexts.iter().map(handed_on).collect();
        Ok(Self { first, lower: lower_order(&before), pairs, contexts, discounts })
    }

    /// P(token | previous), or P(token) where nothing stands before.
    pub fn probability(&self, previous: Option<u32>, token: u32) -> f64 {
        let Some(previous) = previous else { return self.first.probability(token) };
        let lower = self.lower.get(token as usize).copied().unwrap_or(0.0);
        let Some(&(total, handed_on)) = self.contexts.get(previous as usize) else { return lower };
        let count = self.pairs.get(&(previous, token)).copied().unwrap_or(0);
        let seen = match count {
            0 => 0.0,
            _ => (count as f64 - self.discounts[count.min(3) as usize - 1]) / total as f64,
        };
        seen + handed_on * lower
    }

    /// The number of different pairs that were seen.
    pub fn pairs(&self) -> usize {
        self.pairs.len()
    }

    /// The number of different tokens that stand first in a pair.
    pub fn contexts(&self) -> usize {
        self.pairs.keys().map(|pair| pair.0).collect::<HashSet<_>>().len()
    }
}

/// The skill with which some probabilities foretell the eligible tokens of a dataset.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Score {
    /// −Σ ln P over the scored tokens.
    pub nats: f64,
    /// The number of tokens that were scored.
    pub tokens: u64,
    /// The number of bytes of text that they stand for.
    pub bytes: u64,
}

impl Score {
    /// The mean over the tokens.
    pub fn nats_per_token(&self) -> f64 {
        self.nats / self.tokens as f64
    }

    /// Comparable between tokenizers.
    pub fn bits_per_byte(&self) -> f64 {
        self.nats / std::f64::consts::LN_2 / self.bytes as f64
    }
}

/// Scores every eligible token of every window with `probability(previous, token)`; a window's first
/// token has no previous one. `token_bytes` is
/// [`Tokenizer::token_bytes`](lacuna_text::Tokenizer::token_bytes).
///
/// # Errors
/// When a window cannot be read.
pub fn score(
    dataset: &Dataset,
    token_bytes: &[u32],
    probability: impl Fn(Option<u32>, u32) -> f64,
) -> Result<Score> {
    let mut score = Score { nats: 0.0, tokens: 0, bytes: 0 };
    for window in dataset.iter() {
        let window = window?;
        let mut previous = None;
        for (&token, &eligible) in window.tokens.iter().zip(&window.eligible) {
            if eligible {
                score.nats -= probability(previous, token).ln();
                score.tokens += 1;
                score.bytes += u64::from(token_bytes.get(token as usize).copied().unwrap_or(0));
            }
            previous = Some(token);
        }
    }
    Ok(score)
}

/// The numbers of counts that are 1, 2, 3 and 4.
fn counts_of_counts(counts: impl Iterator<Item = u64>) -> [f64; 4] {
    let mut of = [0.0; 4];
    counts.filter(|count| (1..=4).contains(count)).for_each(|count| of[count as usize - 1] += 1.0);
    of
}

/// D(1), D(2), D(3 and more): k − (k+1)·Y·n(k+1)/n(k) with Y = n1/(n1 + 2·n2).
fn three_discounts(n: &[f64; 4]) -> [f64; 3] {
    let y = n[0] / (n[0] + 2.0 * n[1]);
    [0, 1, 2].map(|index| {
        let k = index as f64 + 1.0;
        let discount = k - (k + 1.0) * y * n[index + 1] / n[index];
        // Too little text for the estimate: a common value. Never 0, or nothing would be handed on.
        if discount.is_finite() { discount.clamp(0.1, k) } else { 0.75 }
    })
}

fn lower_order(before: &[u64]) -> Vec<f64> {
    let uniform = 1.0 / before.len() as f64;
    let total = before.iter().sum::<u64>() as f64;
    if total == 0.0 {
        return vec![uniform; before.len()];
    }
    let n = counts_of_counts(before.iter().copied().filter(|&count| count > 0));
    let discount = n[0] / (n[0] + 2.0 * n[1]);
    let discount = if discount.is_finite() { discount.clamp(0.1, 1.0) } else { 0.75 };
    let kinds = before.iter().filter(|&&count| count > 0).count() as f64;
    let handed_on = discount * kinds / total;
    let smooth = |&count: &u64| (count as f64 - discount).max(0.0) / total + handed_on * uniform;
    before.iter().map(smooth).collect()
}

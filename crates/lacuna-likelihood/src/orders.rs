//! Sums up in which order a fill rule filled texts, and how often it was right.

use crate::any_order::Filled;

/// Tenths that confidences are sorted into, and ranks of blocks with more tokens than [`RANKS_MAX`].
pub const TENTHS: usize = 10;
/// Scored tokens of a block up to which every rank is counted by itself.
pub const RANKS_MAX: usize = 16;

/// Tokens that have something in common, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Group {
    /// Tokens.
    pub tokens: usize,
    /// Those whose candidate was the text's own token.
    pub right: usize,
    /// The sum of the candidates' confidences.
    pub confidence: f64,
    /// The sum of −log p of the text's own tokens, in nats.
    pub nats: f64,
}

impl Group {
    /// The part of the candidates that were right; `None` of no token.
    pub fn accuracy(&self) -> Option<f64> {
        (self.tokens > 0).then(|| self.right as f64 / self.tokens as f64)
    }

    /// The mean confidence; `None` of no token.
    pub fn mean_confidence(&self) -> Option<f64> {
        (self.tokens > 0).then(|| self.confidence / self.tokens as f64)
    }

    /// Nats per token; `None` of no token.
    pub fn nats_per_token(&self) -> Option<f64> {
        (self.tokens > 0).then(|| self.nats / self.tokens as f64)
    }

    fn add(&mut self, filled: &Filled) {
        self.tokens += 1;
        self.right += usize::from(filled.is_right());
        self.confidence += filled.confidence;
        self.nats += filled.nats;
    }
}

/// Sums over texts that were filled by one rule.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Orders {
    /// All tokens.
    pub all: Group,
    /// Passes that the blocks took, each counted by itself as if they were decoded one after the other.
    pub passes: usize,
    /// Blocks with a scored token.
    pub blocks: usize,
    /// By rank in the order of filling: of blocks of at most [`RANKS_MAX`] tokens, rank by rank.
    pub by_rank: Vec<Group>,
    /// By rank in the order of filling, of all blocks: the first tenth of a block's tokens, the second, …
    pub by_tenth: [Group; TENTHS],
    /// By the confidence of the candidate: up to 0.1, up to 0.2, … A confidence of 0.1 belongs to the second.
    pub by_confidence: [Group; TENTHS],
    /// The tokens of the largest block.
    pub largest: usize,
}

impl Orders {
    /// Adds a text, as [`any_order`](crate::any_order()) filled it.
    pub fn add(&mut self, filled: &[Filled]) {
        for one in filled {
            self.all.add(one);
            if self.by_rank.len() <= one.rank && one.rank < RANKS_MAX {
                self.by_rank.resize(one.rank + 1, Group::default());
            }
            if let Some(group) = self.by_rank.get_mut(one.rank).filter(|_| one.of <= RANKS_MAX) {
                group.add(one);
            }
            self.by_tenth[one.rank * TENTHS / one.of].add(one);
            let tenth = (one.confidence * TENTHS as f64) as usize;
            self.by_confidence[tenth.min(TENTHS - 1)].add(one);
            self.largest = self.largest.max(one.of);
        }
        for block in filled.chunk_by(|a, b| a.block == b.block) {
            self.blocks += 1;
            self.passes += block.iter().map(|one| one.pass + 1).max().unwrap_or(0);
        }
    }

    /// Tokens that a pass over one block filled, in the mean.
    pub fn tokens_per_pass(&self) -> f64 {
        self.all.tokens as f64 / self.passes.max(1) as f64
    }

    /// The expected calibration error: the distance between accuracy and confidence in each tenth of the confidences,
    /// in the mean over the tokens.
    pub fn calibration_error(&self) -> f64 {
        let distance = |group: &Group| (group.right as f64 - group.confidence).abs();
        self.by_confidence.iter().map(distance).sum::<f64>() / self.all.tokens.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(block: usize, pass: usize, rank: usize, confidence: f64, is_right: bool) -> Filled {
        let (token, candidate) = (7, if is_right { 7 } else { 8 });
        let position = block * 2 + rank;
        Filled { position, block, pass, rank, of: 2, candidate, confidence, token, nats: 0.5 }
    }

    #[test]
    fn tokens_are_counted_once_by_rank_and_once_by_confidence() {
        let mut orders = Orders::default();
        orders.add(&[
            filled(0, 0, 0, 0.95, true),
            filled(0, 0, 1, 0.92, false),
            filled(1, 1, 1, 0.1, false),
            filled(1, 0, 0, 1.0, true),
        ]);
        assert_eq!((orders.all.tokens, orders.all.right, orders.all.nats), (4, 2, 2.0));
        assert_eq!((orders.blocks, orders.passes), (2, 3), "the second block took two passes");
        assert!((orders.tokens_per_pass() - 4.0 / 3.0).abs() < 1e-12);
        assert_eq!(
            orders.by_rank.iter().map(Group::accuracy).collect::<Vec<_>>(),
            [Some(1.0), Some(0.0)]
        );
        assert_eq!((orders.by_tenth[0].tokens, orders.by_tenth[5].tokens), (2, 2));
        assert_eq!(orders.by_confidence[1].tokens, 1, "0.1 belongs to the second tenth");
        assert_eq!(orders.by_confidence[9].tokens, 3, "1 belongs to the last one");
        // |2 − 2.87| of the last tenth and |0 − 0.1| of the second, over four tokens.
        assert!((orders.calibration_error() - (0.87 + 0.1) / 4.0).abs() < 1e-12);
        assert_eq!(Group::default().accuracy(), None);
    }
}

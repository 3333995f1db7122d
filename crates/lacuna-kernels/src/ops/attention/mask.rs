//! Defines every attention mask: which key a query may see, as pure arithmetic on two positions.

use std::num::NonZeroUsize;
use std::ops::Range;

/// An attention pattern. Blocks are counted from position 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AttentionMask {
    /// kv ≤ q, for autoregressive models.
    Causal,
    /// Everything sees everything.
    Full,
    /// block(kv) ≤ block(q): bidirectional inside a block, causal between blocks, for inference.
    BlockCausal {
        /// Tokens per block.
        block_size: NonZeroUsize,
    },
    /// The training pass over `[noisy ; clean]`, `2 · seq_len` positions.
    ///
    /// A noisy query sees its own noisy block and the clean blocks before it; a clean query sees
    /// the clean blocks up to its own. L² + LB of the (2L)² pairs are visible.
    BlockDiffusion {
        /// Tokens per block.
        block_size: NonZeroUsize,
        /// Length of one half.
        seq_len: usize,
    },
}

impl AttentionMask {
    /// Tells whether query `q` may look at key `kv`.
    ///
    /// ```
    /// # use lacuna_kernels::AttentionMask;
    /// let mask = AttentionMask::BlockDiffusion { block_size: 2.try_into().unwrap(), seq_len: 4 };
    /// assert!(mask.visible(2, 3)); // noisy, same block
    /// assert!(mask.visible(2, 4 + 1)); // clean, an earlier block
    /// assert!(!mask.visible(2, 4 + 2)); // the clean text it must predict
    /// ```
    pub fn visible(self, q: usize, kv: usize) -> bool {
        match self {
            Self::Causal => kv <= q,
            Self::Full => true,
            Self::BlockCausal { block_size } => kv / block_size <= q / block_size,
            Self::BlockDiffusion { block_size, seq_len } => {
                let (q_clean, kv_clean) = (q >= seq_len, kv >= seq_len);
                let q_block = (q % seq_len) / block_size;
                let kv_block = (kv % seq_len) / block_size;
                match (q_clean, kv_clean) {
                    (false, false) => q_block == kv_block,
                    (false, true) => kv_block < q_block,
                    (true, false) => false,
                    (true, true) => kv_block <= q_block,
                }
            }
        }
    }

    /// The keys `q` sees among `n_keys`, as two ascending ranges; the second may be empty.
    pub(crate) fn ranges(self, q: usize, n_keys: usize) -> [Range<usize>; 2] {
        let clamp = |r: Range<usize>| r.start.min(n_keys)..r.end.min(n_keys);
        match self {
            Self::Causal => [clamp(0..q + 1), 0..0],
            Self::Full => [0..n_keys, 0..0],
            Self::BlockCausal { block_size } => [clamp(0..block_end(q, block_size)), 0..0],
            Self::BlockDiffusion { block_size, seq_len } if q < seq_len => {
                let start = q - q % block_size;
                let own = start..block_end(q, block_size).min(seq_len);
                [clamp(own), clamp(seq_len..seq_len + start)]
            }
            Self::BlockDiffusion { block_size, seq_len } => {
                let end = block_end(q - seq_len, block_size).min(seq_len);
                [clamp(seq_len..seq_len + end), 0..0]
            }
        }
    }
}

/// First position after the block that holds `position`.
fn block_end(position: usize, block_size: NonZeroUsize) -> usize {
    (position / block_size + 1).saturating_mul(block_size.get())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_hold_exactly_the_visible_keys() {
        for n in [1usize, 2, 3, 5, 8, 13] {
            let mut masks = vec![(AttentionMask::Causal, n), (AttentionMask::Full, n)];
            for b in [1usize, 2, 4, 8, n] {
                let block_size = NonZeroUsize::new(b).unwrap();
                masks.push((AttentionMask::BlockCausal { block_size }, n));
                masks.push((AttentionMask::BlockDiffusion { block_size, seq_len: n }, 2 * n));
            }
            for (mask, len) in masks {
                for q in 0..len {
                    let [a, b] = mask.ranges(q, len);
                    assert!(b.is_empty() || a.end <= b.start, "{mask:?} {q}: {a:?} {b:?}");
                    for kv in 0..len {
                        let listed = a.contains(&kv) || b.contains(&kv);
                        assert_eq!(listed, mask.visible(q, kv), "{mask:?} q {q} kv {kv}");
                    }
                }
            }
        }
    }

    #[test]
    fn block_diffusion_shows_l_squared_plus_lb_pairs() {
        for (l, b) in [(8usize, 4usize), (12, 2), (16, 16), (6, 1)] {
            let block_size = NonZeroUsize::new(b).unwrap();
            let mask = AttentionMask::BlockDiffusion { block_size, seq_len: l };
            let seen = (0..2 * l)
                .map(|q| (0..2 * l).filter(|&kv| mask.visible(q, kv)).count())
                .sum::<usize>();
            assert_eq!(seen, l * l + l * b);
        }
    }
}

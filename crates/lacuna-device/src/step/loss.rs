//! Plans the head and its loss, whose logits exist one chunk of the vocabulary at a time.

use super::builder::{Builder, matrix};
use crate::arena::Region;
use crate::card::Products;
use crate::recorder::{Chunk, Loss, Matrix, Sum};

/// The vocabulary is cut into about this many parts, so that few rows still keep a card busy.
const PARTS: usize = 32;

impl Builder<'_> {
    /// The loss, the gradient of the head, and that of the hidden states, which are dropped. Returns the latter, and
    /// where the loss and each row's own are.
    pub(super) fn loss(&mut self, hidden: Region) -> (Region, [Region; 2]) {
        let (rows, h, vocab) = (self.n_wanted(), self.sizes.hidden, self.sizes.vocab);
        let parameters = self.layout.parameters();
        let head = parameters.head.unwrap_or(parameters.embed);
        let tiles = vocab.div_ceil(Products::TILE);
        let part_tiles = tiles.div_ceil(PARTS);
        let n_parts = tiles.div_ceil(part_tiles);
        let adds = self.options.adds;
        let r = &mut self.recorder;
        let (loss, nll) = (r.f32(2), r.f32(rows));
        let [parts, target_logits, log_sums] = [2 * n_parts * rows, rows, rows].map(|n| r.f32(n));
        let of = Loss {
            rows,
            targets: self.tables.targets,
            weights: self.tables.weights,
            parts: parts.at,
            target_logits: target_logits.at,
            log_sums: log_sums.at,
            nll: nll.at,
            loss: loss.at,
            n_parts,
            part_tiles,
            hidden: matrix(hidden, rows, h),
            head: Matrix { at: head.values, rows: vocab, columns: h },
        };
        r.loss(of);
        let most = self.options.vocab_chunk.min(vocab).next_multiple_of(8);
        let d_logits = r.bf16(rows * most);
        let (sums, d_hidden) = (r.f32(rows * h), r.bf16(rows * h));
        for first in (0..vocab).step_by(self.options.vocab_chunk) {
            let tokens = self.options.vocab_chunk.min(vocab - first);
            let columns = tokens.next_multiple_of(8);
            r.loss_gradient(of, Chunk { d_logits: d_logits.at, first, columns });
            let d_z = matrix(d_logits, rows, columns);
            let of_chunk = |at: u64, bytes: usize| at + (first * h * bytes) as u64;
            let weights = Matrix { at: of_chunk(head.values, 2), rows: tokens, columns: h };
            let is_last = first + tokens == vocab;
            let to = Sum {
                out: Some(sums.at),
                adds: first > 0,
                rounded: is_last.then_some(d_hidden.at),
                bias: None,
            };
            r.input_gradient(d_z, weights, to);
            let to = Sum { adds, ..Sum::wide(of_chunk(head.gradient, 4)) };
            r.weight_gradient_of(d_z, matrix(hidden, rows, h), tokens, to);
        }
        r.free([parts, target_logits, log_sums, d_logits, sums, hidden]);
        (d_hidden, [loss, nll])
    }
}

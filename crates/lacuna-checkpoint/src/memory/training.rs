//! Estimates what training a model needs in memory, before anything of it is made.

use crate::config::Config;

/// The work of a training step, as far as memory depends on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TrainingWork {
    /// Rows of a pass: the tokens of a micro-batch, those of both halves where each window is read noisy and clean.
    pub rows: usize,
    /// Rows of it whose tokens are predicted.
    pub predicted: usize,
    /// Passes whose gradients add up to those of a step.
    pub micro_batches: usize,
    /// True if of each layer only its input is kept for the backward pass.
    pub recompute: bool,
}

/// Bytes that training takes on the CPU, with weights, gradients and moments in f32.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TrainingMemory {
    /// The weights.
    pub weights: u64,
    /// Their gradients. Where m passes make a step these are added up along a tree, with ⌈log₂ m⌉ + 1 of them in memory at
    /// most.
    pub gradients: u64,
    /// The two moments of every weight.
    pub moments: u64,
    /// The activations that the backward pass needs, and the widest layer on its way back.
    pub activations: u64,
    /// The program and the tokenizer.
    pub program: u64,
}

impl TrainingMemory {
    /// The sum of all parts.
    pub fn total(self) -> u64 {
        let Self { weights, gradients, moments, activations, program } = self;
        [weights, gradients, moments, activations, program]
            .iter()
            .fold(0, |sum, part| u64::saturating_add(sum, *part))
    }
}

impl Config {
    /// The bytes that training the model takes, for such work.
    pub fn training_memory(&self, work: TrainingWork) -> TrainingMemory {
        let weights = self.parameter_count().saturating_mul(4);
        let levels = work.micro_batches.max(1).next_power_of_two().trailing_zeros();
        let copies = 1 + u64::from(levels);
        TrainingMemory {
            weights,
            gradients: weights.saturating_mul(copies),
            moments: weights.saturating_mul(2),
            activations: self.kept_bytes(work),
            // Measured where the model is next to nothing: the program, its data, its plots' font and its tokenizer.
            program: (56 << 20) + 600 * self.vocab_size as u64,
        }
    }

    /// A layer keeps its input, queries, keys, values and what attention gave, the stream behind the attention, and the
    /// two inputs of the gated activation; the last layer keeps all but its input, keys and values for predicted rows
    /// alone. On the way back the widest layer holds about as much again, and the gradients of its products' inputs.
    fn kept_bytes(&self, work: TrainingWork) -> u64 {
        let (rows, predicted) = (work.rows as u64, work.predicted as u64);
        let (hidden, inner) = (self.hidden_size as u64, self.intermediate_size as u64);
        let query = (self.num_heads * self.head_dim) as u64;
        let keys = 2 * (self.num_kv_heads * self.head_dim) as u64;
        let behind = 2 * query + self.num_heads as u64 + hidden + 2 * inner;
        let layer = hidden + keys + behind;
        let layers = self.num_layers as u64;
        let kept = match work.recompute {
            true => layers * rows * hidden + rows * layer,
            false => (layers - 1) * rows * layer + rows * (hidden + keys) + predicted * behind,
        };
        let on_the_way = rows * (3 * hidden + keys + 2 * query + 3 * inner);
        // The head takes some hundred rows with their whole vocabulary at a time, and their gradients.
        let logits = 2 * 256.min(predicted) * self.vocab_size as u64 + 2 * predicted * hidden;
        kept.saturating_add(on_the_way).saturating_add(logits).saturating_mul(4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn training_takes_four_times_the_weights_and_what_the_backward_pass_needs() {
        let config = Config::default();
        let work = TrainingWork { rows: 512, predicted: 200, micro_batches: 1, recompute: false };
        let whole = config.training_memory(work);
        assert_eq!(whole.weights, 4 * config.parameter_count());
        assert_eq!((whole.gradients, whole.moments), (whole.weights, 2 * whole.weights));
        let several = config.training_memory(TrainingWork { micro_batches: 2, ..work });
        assert_eq!(several.gradients, 2 * whole.gradients);
        let many = config.training_memory(TrainingWork { micro_batches: 5, ..work });
        assert_eq!(many.gradients, 4 * whole.gradients, "three levels above five passes");
        let less = config.training_memory(TrainingWork { recompute: true, ..work });
        assert!(less.activations < whole.activations && less.total() < whole.total());
        let wide = config.training_memory(TrainingWork { rows: 1024, predicted: 400, ..work });
        assert!(wide.activations > 19 * whole.activations / 10);
    }
}

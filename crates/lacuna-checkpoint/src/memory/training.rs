//! Estimates what training a model needs in memory, before anything of it is made.

use crate::config::Config;
use lacuna_kernels::eight_bit_len;

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
    /// The numbers that are trained.
    pub trained: Trained,
}

/// The numbers that a run trains, and what it keeps of each.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Trained {
    /// The numbers that have a gradient and moments: of the parameters that are not frozen, or of adapters beside them.
    pub numbers: u64,
    /// Those of them that adapters have, which take memory beside the weights.
    pub adapters: u64,
    /// The numbers of the matrices of one layer that adapters stand beside: a pass reads them merged.
    pub merged: u64,
    /// Further copies in f32 of each trained number: the one that updates add up in where passes read rounded weights,
    /// and the running mean.
    pub copies: u64,
    /// True if the two moments take a byte each, not four.
    pub eight_bit_moments: bool,
}

impl Trained {
    /// All parameters of a model, and no copies of them.
    pub fn all_of(config: &Config) -> Self {
        Self { numbers: config.parameter_count(), ..Self::default() }
    }

    /// The bytes of both moments.
    pub fn moment_bytes(&self) -> u64 {
        let one = match self.eight_bit_moments {
            true => eight_bit_len(self.numbers as usize) as u64,
            false => self.numbers.saturating_mul(4),
        };
        one.saturating_mul(2)
    }
}

/// Bytes that training takes on the CPU, with weights, gradients and moments in f32.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TrainingMemory {
    /// The weights, and the adapters beside them.
    pub weights: u64,
    /// The gradients of what is trained. Where m passes make a step these are added up along a tree, with ⌈log₂ m⌉ + 1 of
    /// them in memory at most.
    pub gradients: u64,
    /// The two moments of every trained number.
    pub moments: u64,
    /// The f32 copies of rounded weights that updates add up in, and the running means.
    pub copies: u64,
    /// The activations that the backward pass needs, and what it makes on its way, as far as they stand beside all
    /// gradients: the first of these are formed when most activations have gone.
    pub activations: u64,
    /// The program and the tokenizer.
    pub program: u64,
}

impl TrainingMemory {
    /// The sum of all parts.
    pub fn total(self) -> u64 {
        let Self { weights, gradients, moments, copies, activations, program } = self;
        [weights, gradients, moments, copies, activations, program]
            .iter()
            .fold(0, |sum, part| u64::saturating_add(sum, *part))
    }
}

impl Config {
    /// The bytes that training the model takes, for such work.
    pub fn training_memory(&self, work: TrainingWork) -> TrainingMemory {
        let Trained { numbers, adapters, copies, .. } = work.trained;
        let levels = work.micro_batches.max(1).next_power_of_two().trailing_zeros();
        let floats = |numbers: u64| numbers.saturating_mul(4);
        let gradients = floats(numbers);
        TrainingMemory {
            weights: floats(self.parameter_count().saturating_add(adapters)),
            gradients: gradients.saturating_mul(1 + u64::from(levels)),
            moments: work.trained.moment_bytes(),
            copies: gradients.saturating_mul(copies),
            activations: floats(self.pass_numbers(work)).saturating_sub(gradients),
            // Measured where the model is next to nothing: the program, its data, its plots' font and its tokenizer.
            program: (56 << 20) + 600 * self.vocab_size as u64,
        }
    }

    /// The numbers that a pass holds at its worst moment, the gradients that it forms included. That is either its end,
    /// when all gradients are there, or the way back through the last layer, when all activations are.
    ///
    /// A layer keeps its input, queries, keys, values and what attention gave, the stream behind the attention, and the
    /// two inputs of the gated activation; the last layer keeps all but its input, keys and values for predicted rows
    /// alone. On the way back the widest layer holds about as much again, and the gradients of its products' inputs.
    fn pass_numbers(&self, work: TrainingWork) -> u64 {
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
        // Merged matrices stand beside the product that is added to them.
        let merged = 2 * work.trained.merged;
        // The head takes some hundred rows with their whole vocabulary at a time, and their gradients.
        let vocab = self.vocab_size as u64;
        let logits = 2 * 256.min(predicted) * vocab;
        // The head's gradient is the first to be formed, whether it is trained or not, and goes with the pass.
        let head = vocab.saturating_mul(hidden);
        let first = kept
            .saturating_add(2 * predicted * hidden)
            .saturating_add(logits.max(on_the_way.saturating_add(merged)))
            .saturating_add(head);
        let end = work.trained.numbers.saturating_add(head).saturating_add(on_the_way + merged);
        first.max(end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn training_takes_four_times_the_weights_and_what_the_backward_pass_needs() {
        let config = Config::default();
        let trained = Trained::all_of(&config);
        let work =
            TrainingWork { rows: 512, predicted: 200, micro_batches: 1, recompute: false, trained };
        let whole = config.training_memory(work);
        assert_eq!(whole.weights, 4 * config.parameter_count());
        assert_eq!((whole.gradients, whole.moments), (whole.weights, 2 * whole.weights));
        let several = config.training_memory(TrainingWork { micro_batches: 2, ..work });
        assert_eq!(several.gradients, 2 * whole.gradients);
        let many = config.training_memory(TrainingWork { micro_batches: 5, ..work });
        assert_eq!(many.gradients, 4 * whole.gradients, "three levels above five passes");
        let less = config.training_memory(TrainingWork { recompute: true, ..work });
        assert!(less.activations < whole.activations && less.total() < whole.total());
        let held = |memory: TrainingMemory| memory.activations + memory.weights;
        let wide = config.training_memory(TrainingWork { rows: 1024, predicted: 400, ..work });
        assert!(held(wide) > 17 * held(whole) / 10);
    }

    #[test]
    fn what_is_not_trained_takes_its_weights_alone_and_copies_take_their_own() {
        let config = Config::default();
        let work = |trained| TrainingWork {
            rows: 64,
            predicted: 20,
            micro_batches: 1,
            recompute: false,
            trained,
        };
        let all = Trained::all_of(&config);
        let whole = config.training_memory(work(all));
        let frozen = config.training_memory(work(Trained { numbers: 1000, ..all }));
        assert_eq!((frozen.gradients, frozen.moments), (4000, 8000));
        assert_eq!(frozen.weights, whole.weights);
        let beside = Trained { numbers: 1000, adapters: 1000, ..all };
        assert_eq!(config.training_memory(work(beside)).weights, whole.weights + 4000);
        let copied = config.training_memory(work(Trained { copies: 2, ..all }));
        assert_eq!(copied.total() - whole.total(), 2 * whole.weights);
        let small = Trained { eight_bit_moments: true, ..all };
        let moments = config.training_memory(work(small)).moments as f64;
        assert!((moments / whole.moments as f64 - 0.25).abs() < 0.005, "{moments}");
    }
}

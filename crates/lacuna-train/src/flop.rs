//! Counts the floating-point operations that a step needs, so that its speed can be held against the machine's.

use lacuna_checkpoint::Config;
use lacuna_model::Batch;

use crate::error::Result;
use crate::example::Example;
use crate::objective::StageObjective;

/// The floating-point operations of a training step on these examples: 6 for every weight that a row is multiplied with
/// (2 forward, 4 backward), and 12 · `head_dim` for every query head and pair of tokens that attention joins.
///
/// In the last layer only keys and values are counted for all rows; queries, the projection back, the feed-forward and the
/// head are counted for the rows that are supervised, since no others are computed. Norms, softmax and the optimizer are
/// left out, as is usual, and so is what `recompute_activations` computes a second time. An example without a supervised
/// token counts nothing: it is not read.
///
/// # Errors
/// Errors if an example is inconsistent.
pub fn step_flop(objective: &StageObjective, config: &Config, examples: &[Example]) -> Result<f64> {
    let mut flop = 0.0;
    for example in examples {
        let batch = objective.batch(std::slice::from_ref(example))?;
        flop += pass_flop(config, &batch)?;
    }
    Ok(flop)
}

fn pass_flop(config: &Config, batch: &Batch) -> Result<f64> {
    let (rows, wanted) = (batch.tokens().len() as f64, batch.wanted().len() as f64);
    if wanted == 0.0 {
        return Ok(0.0);
    }
    let pairs = batch.segments()?.pairs() as f64;
    let (hidden, layers) = (config.hidden_size as f64, config.num_layers as f64);
    let heads = (config.num_heads * config.head_dim) as f64;
    let key_heads = (config.num_kv_heads * config.head_dim) as f64;
    let keys_and_values = 2.0 * hidden * key_heads;
    let others = 2.0 * hidden * heads + 3.0 * hidden * config.intermediate_size as f64;
    let head = hidden * config.vocab_size as f64;
    let by_rows = layers * keys_and_values + (layers - 1.0) * others;
    let products = 6.0 * (rows * by_rows + wanted * (others + head));
    // Of the last layer's attention only the supervised rows' part is computed.
    let joined = pairs * (layers - 1.0 + wanted / rows.max(1.0));
    Ok(products + 12.0 * joined * heads)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

    use super::*;
    use crate::recipe::ObjectiveKind;
    use lacuna_data::Window;
    use lacuna_objective::Predicts;
    use std::num::NonZeroUsize;

    #[test]
    fn the_operations_of_a_small_pass_are_those_counted_by_hand() {
        let objective = StageObjective {
            kind: ObjectiveKind::Autoregressive,
            block_size: NonZeroUsize::MIN,
            corruption: None,
            predicts: Predicts::Next,
            document_mask: false,
            recompute: false,
            dropout: 0.0,
        };
        let config = Config {
            vocab_size: 10,
            hidden_size: 4,
            intermediate_size: 8,
            num_layers: 2,
            num_heads: 2,
            num_kv_heads: 1,
            head_dim: 2,
            ..Config::default()
        };
        let window =
            Window { tokens: vec![1, 2, 3, 4], eligible: vec![true; 4], documents: vec![4] };
        let example = objective.examples(std::slice::from_ref(&window), 1, 0, 0).unwrap();
        // Four rows, of which three predict. Keys and values: 2 matrices of 4 × 2 in both layers. Query and projection
        // back: 2 of 4 × 4, and 3 of 4 × 8, for four rows in the first layer and three in the second; the head is 4 × 10.
        let products = 4 * 2 * 16 + 4 * 128 + 3 * 128 + 3 * 40;
        // A causal pass over four tokens joins ten pairs, in the second layer three quarters of them.
        let attention = 12.0 * 10.0 * 1.75 * 4.0;
        let counted = step_flop(&objective, &config, &example).unwrap();
        assert_eq!(counted, 6.0 * f64::from(products) + attention);
        let unread = Window { eligible: vec![false; 4], ..window };
        let empty = objective.examples(&[unread], 1, 0, 0).unwrap();
        assert_eq!(step_flop(&objective, &config, &empty).unwrap(), 0.0);
    }
}

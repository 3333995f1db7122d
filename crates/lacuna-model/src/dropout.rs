//! Draws which values of the residual stream's terms a training pass drops, so that the same ones are dropped for any
//! split of a step and after any resume.

use candle_core::{Device, Tensor};
use lacuna_random::{Purpose, RngCore, stream};

use crate::error::Result;
use crate::rows::{Plan, Rows};
use crate::transformer::Transformer;

/// Dropout of what attention and feed-forward part add to the residual stream.
///
/// Every value has an address (seed, step, sample, layer, row, column) that alone decides whether it is dropped; the
/// backward pass draws the same values again, so that nothing is kept for it.
#[derive(Clone, PartialEq, Debug)]
pub struct Dropout {
    /// The part of the values that become 0, below 1; the others are multiplied with 1 / (1 − rate).
    pub rate: f64,
    /// The run's seed.
    pub seed: u64,
    /// The step.
    pub step: u64,
    /// The number in the step of each sequence of the batch.
    pub samples: Vec<u64>,
}

/// The two terms that a layer adds to the residual stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Term {
    Attention = 0,
    FeedForward = 1,
}

impl Dropout {
    /// The factors of a term of layer `i`, 0 or 1 / (1 − rate): [rows, hidden], for the rows that the layer computes it
    /// for.
    pub(crate) fn factors(
        &self,
        (model, plan): (&Transformer, &Plan),
        (i, term): (usize, Term),
    ) -> Result<Tensor> {
        let (width, layers) = (model.config.hidden_size, model.config.num_layers as u64);
        let kept = (1.0 / (1.0 - self.rate)) as f32;
        // A word is below this in `rate` of all cases.
        let bound = (self.rate * 2f64.powi(32)) as u32;
        let Rows { kept: listed, .. } = &plan.layers[i];
        let count = listed.as_ref().map_or(plan.positions.len(), |rows| rows.len());
        let mut factors = Vec::with_capacity(count * width);
        let mut bytes = vec![0u8; 4 * width];
        for row in 0..count {
            let row = listed.as_ref().map_or(row, |rows| rows[row] as usize);
            let part = plan.parts.partition_point(|part| part.rows.end <= row);
            let offset = row - plan.parts[part].rows.start;
            let minor = self.samples[part] * 2 * layers + 2 * i as u64 + term as u64;
            let mut words = stream(self.seed, Purpose::Dropout, self.step, minor);
            words.set_word_pos((offset * width) as u128);
            words.fill_bytes(&mut bytes);
            factors.extend(bytes.chunks_exact(4).map(|word| {
                let word = u32::from_le_bytes(word.try_into().expect("four bytes"));
                if word < bound { 0.0 } else { kept }
            }));
        }
        let factors = Tensor::from_vec(factors, (count, width), &Device::Cpu)?;
        Ok(factors.to_dtype(model.dtype)?.to_device(&model.device)?)
    }
}

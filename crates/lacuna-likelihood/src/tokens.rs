//! Tells the likelihood of each token of a text, and what the model would rather have written there.

use candle_core::{DType, Device, Tensor};
use lacuna_model::{AttentionMask, Batch, Sequence, Transformer};
use lacuna_objective::{
    Row, Target, block_ranges, left_to_right_passes, next_token_targets, rows_of,
};

use crate::error::{Error, Result};
use crate::likelihood::{Blocks, Method};
use crate::noisy::NoisyReader;

/// The likelihood of a token given those before it, and of the tokens that are likelier or as likely as any.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenScore {
    /// −log p of the token, in nats.
    pub nats: f64,
    /// The most probable tokens in its place, with −log p of each, the most probable one first.
    pub best: Vec<(u32, f64)>,
}

/// The likelihood of each token of a text but the first, which is context. `method` is [`Method::Autoregressive`] or
/// [`Method::LeftToRight`], whose sums over all tokens [`likelihood`](crate::likelihood()) gives: the other methods
/// give a bound of a block, of which no token has a part of its own. `best` tokens are told of each place.
///
/// `between` is called after every pass; where it says `false`, the text is given up and `None` returned.
///
/// # Errors
/// [`Error::NoBlocks`] for another method or without blocks, and if the model fails.
pub fn token_scores(
    model: &Transformer,
    tokens: &[u32],
    (method, blocks): (Method, Option<Blocks>),
    best: usize,
    between: &mut dyn FnMut() -> bool,
) -> Result<Option<Vec<TokenScore>>> {
    let eligible: Vec<bool> = (0..tokens.len()).map(|at| at > 0).collect();
    let mut scores = vec![None; tokens.len()];
    match (method, blocks) {
        _ if tokens.len() < 2 => {}
        (Method::Autoregressive, _) => {
            let targets = next_token_targets(tokens, &eligible);
            let wanted = rows_of(&targets);
            let read = Sequence { tokens, wanted: Some(&wanted), ..Sequence::default() };
            let hidden = model.forward(&Batch::of(read, AttentionMask::Causal)?)?;
            let positions = 1..tokens.len();
            score(model, &hidden, positions.zip(&targets), best, &mut scores)?;
            if !between() {
                return Ok(None);
            }
        }
        (Method::LeftToRight, Some(blocks)) => {
            let ranges = block_ranges(tokens.len(), blocks.block_size);
            let row = Row::new(tokens, &eligible, &ranges)?;
            let clean = Sequence { tokens, ..Sequence::default() };
            let reader = NoisyReader::new(model, row, clean, blocks.block_size, None)?;
            for pass in left_to_right_passes(row, blocks.mask_id) {
                let (hidden, targets) = reader.hidden(std::slice::from_ref(&pass))?;
                let positions = pass.scored.iter().map(|scored| scored.position);
                score(model, &hidden, positions.zip(&targets), best, &mut scores)?;
                if !between() {
                    return Ok(None);
                }
            }
        }
        _ => return Err(Error::NoBlocks),
    }
    Ok(Some(scores.into_iter().skip(1).flatten().collect()))
}

/// Reads the scores of some places off their hidden rows [rows, hidden].
fn score<'t>(
    model: &Transformer,
    hidden: &Tensor,
    places: impl Iterator<Item = (usize, &'t Target)>,
    best: usize,
    scores: &mut [Option<TokenScore>],
) -> Result<()> {
    let mut places = places;
    each_logits(model, hidden, &mut |logits| {
        if let Some((position, target)) = places.next() {
            scores[position] = Some(token_score(logits, target.token as usize, best));
        }
        Ok(())
    })
}

/// Hands the logits of each hidden row [rows, hidden] to `take`, made in parts that are small.
pub(crate) fn each_logits(
    model: &Transformer,
    hidden: &Tensor,
    take: &mut dyn FnMut(&[f32]) -> Result<()>,
) -> Result<()> {
    const ROWS_AT_ONCE: usize = 64;
    let rows = hidden.dim(0)?;
    for first in (0..rows).step_by(ROWS_AT_ONCE) {
        let part = hidden.narrow(0, first, ROWS_AT_ONCE.min(rows - first))?;
        let logits = model.logits(&part)?.to_dtype(DType::F32)?.to_device(&Device::Cpu)?;
        for logits in logits.to_vec2::<f32>()? {
            take(&logits)?;
        }
    }
    Ok(())
}

pub(crate) fn token_score(logits: &[f32], token: usize, best: usize) -> TokenScore {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - most).exp()).sum();
    let all = f64::from(most) + sum.ln();
    let nats = |id: usize| all - f64::from(logits[id]);
    let mut ids: Vec<usize> = (0..logits.len()).collect();
    let best = best.min(ids.len());
    let likelier = |a: &usize, b: &usize| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b));
    if best > 0 && best < ids.len() {
        ids.select_nth_unstable_by(best - 1, likelier);
    }
    ids.truncate(best);
    ids.sort_unstable_by(likelier);
    TokenScore {
        nats: nats(token),
        best: ids.into_iter().map(|id| (id as u32, nats(id))).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_scored_against_all_others_and_the_best_come_first() {
        let score = token_score(&[0.0, 2.0, 1.0, 2.0], 2, 3);
        let sum = (1.0 + 2.0 * 2f64.exp() + 1f64.exp()).ln();
        assert!((score.nats - (sum - 1.0)).abs() < 1e-12, "{score:?}");
        assert_eq!(score.best.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [1, 3, 2]);
        assert_eq!(token_score(&[0.0, 2.0], 0, 0).best, []);
        assert_eq!(token_score(&[0.0, 2.0], 0, 9).best.len(), 2);
    }
}

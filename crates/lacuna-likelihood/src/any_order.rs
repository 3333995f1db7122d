//! Follows a fill rule over a text that is known, and says of every token when it was filled, how sure the model was of
//! its candidate, and whether that was the text's own token.

use lacuna_model::{Attention, Transformer};
use lacuna_objective::{Pass, Row, Scored, document_block_ranges};
use lacuna_samplers::{FillRule, Proposer};

use crate::error::{Error, Result};
use crate::likelihood::{Scoring, Text, scored_positions};
use crate::noisy::NoisyReader;
use crate::tokens::{each_logits, token_score};

/// A token of a text, as a fill rule came to it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Filled {
    /// Its position in the text.
    pub position: usize,
    /// The number of its block.
    pub block: usize,
    /// The pass of its block in which it was filled, from 0.
    pub pass: usize,
    /// Its rank in the order of filling within its block, from 0. In one pass the candidate comes first that the rule
    /// prefers.
    pub rank: usize,
    /// Scored tokens of its block.
    pub of: usize,
    /// The candidate: the most probable token but MASK.
    pub candidate: u32,
    /// The candidate's probability under the model.
    pub confidence: f64,
    /// The token of the text.
    pub token: u32,
    /// −log p of the token of the text in that pass, in nats.
    pub nats: f64,
}

impl Filled {
    /// True if the candidate is the text's own token.
    pub fn is_right(&self) -> bool {
        self.candidate == self.token
    }
}

/// Fills every block of a text by a rule, and puts the text's own token into each place that the rule fills, whatever the
/// candidate was: so each choice is made behind a text that is right so far. `None` if `between` says `false`, which is
/// asked after every pass.
///
/// All scored tokens of a block are masked at first. In each pass every masked position gets its candidate, as in greedy
/// decoding, and the rule says which are filled; rules with a schedule fill one a pass. Blocks behind clean text see
/// nothing of each other, so all of them take their passes together. The result has one entry for each scored token, in
/// the order of the text.
///
/// Which positions a pass fills depends only on tokens that are known before it. So the sum of [`Filled::nats`] is −log p
/// of the text under the decoder that chooses its places by this rule and draws each token from the model: a likelihood,
/// and no bound. Under [`FillRule::LeftToRight`] it is that of [`Method::LeftToRight`](crate::Method::LeftToRight).
///
/// `scoring` says what blocks there are and what they see; its method is not used. `seed` names the order of
/// [`FillRule::Random`].
///
/// # Errors
/// [`Error::NoOrder`] under causal attention, [`Error::NoBlocks`] without blocks, and if the model fails.
pub fn any_order(
    model: &Transformer,
    text: &Text<'_>,
    scoring: &Scoring,
    (rule, seed): (FillRule, u64),
    between: &mut dyn FnMut() -> bool,
) -> Result<Option<Vec<Filled>>> {
    text.check()?;
    let blocks = scoring.blocks.ok_or(Error::NoBlocks)?;
    if scoring.attention == Attention::Causal {
        return Err(Error::NoOrder);
    }
    rule.validate()?;
    let (block_size, alone) = scoring.reading(blocks.block_size, text.tokens.len());
    let ranges = document_block_ranges(&text.read_apart(scoring.document_mask), block_size);
    let scored = scored_positions(text, scoring.document_mask);
    let row = Row::new(text.tokens, &scored, &ranges)?;
    let clean = text.as_read(scoring.document_mask);
    let reader = NoisyReader::new(model, row, clean, block_size, alone)?;
    let mut masked: Vec<Vec<usize>> =
        ranges.iter().map(|block| block.clone().filter(|at| scored[*at]).collect()).collect();
    let sizes: Vec<usize> = masked.iter().map(Vec::len).collect();
    let mut proposer = Proposer::new(rule, blocks.mask_id, seed);
    let mut filled = Vec::new();
    for number in 0.. {
        if masked.iter().all(Vec::is_empty) {
            break;
        }
        let pass = pass_over(text.tokens, &masked, blocks.mask_id);
        let (hidden, _) = reader.hidden(std::slice::from_ref(&pass))?;
        let mut open = pass.scored.iter();
        let mut candidates: Vec<Vec<_>> = vec![Vec::new(); masked.len()];
        each_logits(model, &hidden, &mut |logits| {
            if let Some(Scored { position, block, .. }) = open.next() {
                let candidate = proposer.propose(logits, *position, number)?;
                let own = token_score(logits, text.tokens[*position] as usize, 0).nats;
                candidates[*block].push((candidate, own));
            }
            Ok(())
        })?;
        for (block, candidates) in candidates.into_iter().enumerate() {
            let (candidates, nats): (Vec<_>, Vec<f64>) = candidates.into_iter().unzip();
            let known = sizes[block] - masked[block].len();
            for (more, chosen) in rule.ranked(&candidates, 1).into_iter().enumerate() {
                let candidate = &candidates[chosen];
                filled.push(Filled {
                    position: candidate.position,
                    block,
                    pass: number,
                    rank: known + more,
                    of: sizes[block],
                    candidate: candidate.token,
                    confidence: candidate.confidence,
                    token: text.tokens[candidate.position],
                    nats: nats[chosen],
                });
                masked[block].retain(|position| *position != candidate.position);
            }
        }
        if !between() {
            return Ok(None);
        }
    }
    filled.sort_unstable_by_key(|filled| filled.position);
    Ok(Some(filled))
}

/// The pass that shows all but the masked positions, and asks for each of those.
fn pass_over(tokens: &[u32], masked: &[Vec<usize>], mask_id: u32) -> Pass {
    let mut pass = Pass { noisy: tokens.to_vec(), scored: Vec::new() };
    for (block, positions) in masked.iter().enumerate() {
        for &position in positions {
            pass.noisy[position] = mask_id;
            pass.scored.push(Scored { position, block, coefficient: 1.0 });
        }
    }
    pass
}

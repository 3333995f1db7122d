//! Runs every method's passes over one text, and adds up what they give.

use lacuna_model::{Attention, AttentionMask, Batch, CleanKeys, Sequence, Transformer};
use lacuna_objective::{
    BlockSums, MonteCarlo, Pass, PassRows, Predicts, Row, Targets, document_block_ranges,
    exact_passes, left_to_right_passes, monte_carlo_passes, next_token_targets, predictable,
    rows_of,
};
use lacuna_random::{Purpose, stream};
use std::num::NonZeroUsize;

use crate::error::{Error, Result};

/// A way to compute a likelihood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// One causal pass; −log p of each token given those before it.
    Autoregressive,
    /// The NELBO of linear-time block diffusion, by enumeration: 2^B − 1 passes.
    Exact,
    /// Blocks filled from the left, one token at a time: B passes. Compares with `Autoregressive`.
    LeftToRight,
    /// An unbiased estimate of the NELBO for any block size.
    MonteCarlo {
        /// The number of passes.
        samples: usize,
        /// The seed of the random stream.
        seed: u64,
    },
}

/// The block size and MASK of a block-diffusion model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocks {
    /// Tokens in a block.
    pub block_size: NonZeroUsize,
    /// The id of the MASK token.
    pub mask_id: u32,
}

/// The likelihood of some tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Likelihood {
    /// −log p of all scored tokens together, or its bound, in nats.
    pub nats: f64,
    /// The number of scored tokens: all eligible ones but each text's first (with `document_mask`, each document's).
    pub tokens: usize,
    /// The number of passes over each text.
    pub passes: usize,
    /// Standard error of `nats` (Monte-Carlo only).
    pub standard_error: Option<f64>,
}

impl Likelihood {
    /// Nats per scored token.
    pub fn nats_per_token(&self) -> f64 {
        self.nats / self.tokens.max(1) as f64
    }

    /// Bits per byte of a text of `bytes` bytes.
    pub fn bits_per_byte(&self, bytes: u64) -> f64 {
        self.nats / std::f64::consts::LN_2 / bytes.max(1) as f64
    }
}

/// A text to score, which is one row of the model.
#[derive(Clone, Copy, Debug)]
pub struct Text<'a> {
    /// Token ids.
    pub tokens: &'a [u32],
    /// A flag for each token: true if it counts, as padding and prompts do not.
    pub eligible: &'a [bool],
    /// The lengths of the documents in it, in order; their sum is the number of tokens.
    pub documents: &'a [usize],
}

impl Text<'_> {
    /// The lengths of the pieces that are read apart: the documents, or the text as a whole.
    fn read_apart(&self, document_mask: bool) -> Vec<usize> {
        if document_mask { self.documents.to_vec() } else { vec![self.tokens.len()] }
    }

    fn check(&self) -> Result<()> {
        let (tokens, flags) = (self.tokens.len(), self.eligible.len());
        let in_documents = self.documents.iter().sum();
        match (flags == tokens, in_documents == tokens) {
            (true, true) => Ok(()),
            (false, _) => Err(Error::Length { what: "eligible flags", found: flags, tokens }),
            _ => Err(Error::Length { what: "tokens in documents", found: in_documents, tokens }),
        }
    }
}

/// Settings of [`likelihood`] beyond the method.
#[derive(Clone, Copy, Debug)]
pub struct Scoring {
    /// The method.
    pub method: Method,
    /// Blocks and MASK; unused by [`Method::Autoregressive`]. The block size counts under block-causal attention alone.
    pub blocks: Option<Blocks>,
    /// The tokens that a masked one sees, as the model was trained. Full: the whole text is one block, or each document
    /// with `document_mask`. Causal: [`Method::MonteCarlo`] masks the text as one block and reads it so, as training did;
    /// the other methods take blocks of one token, which see clean text. Unused by [`Method::Autoregressive`].
    pub attention: Attention,
    /// True if the documents of a text do not see each other.
    pub document_mask: bool,
    /// Rows of one forward pass; 0 counts as 1.
    pub batch_size: usize,
}

impl Scoring {
    /// The tokens that are masked as one block in a text of so many, and the mask under which noisy text alone is read;
    /// None where its blocks see clean text before them.
    fn reading(
        &self,
        block_size: NonZeroUsize,
        tokens: usize,
    ) -> (NonZeroUsize, Option<AttentionMask>) {
        let whole = NonZeroUsize::new(tokens).unwrap_or(NonZeroUsize::MIN);
        match (self.attention, self.method) {
            (Attention::BlockCausal, _) => (block_size, None),
            (Attention::Full, _) => (whole, Some(AttentionMask::Full)),
            (Attention::Causal, Method::MonteCarlo { .. }) => (whole, Some(AttentionMask::Causal)),
            (Attention::Causal, _) => (NonZeroUsize::MIN, None),
        }
    }
}

/// Scores texts. Each text's first token is context, never scored; every other eligible token is.
///
/// `progress` hears how many texts are done.
///
/// # Errors
/// Errors if a block is too large to enumerate, flags or document lengths do not fit their text, or a tensor operation
/// fails.
pub fn likelihood(
    model: &Transformer,
    texts: &[Text<'_>],
    scoring: &Scoring,
    progress: &mut dyn FnMut(usize),
) -> Result<Likelihood> {
    let mut total = Likelihood::default();
    let mut variance = 0.0;
    for (i, text) in texts.iter().enumerate() {
        text.check()?;
        let eligible = scored_positions(text, scoring.document_mask);
        let one = match (scoring.method, scoring.blocks) {
            (Method::Autoregressive, _) => next_token(model, text, &eligible, scoring)?,
            (_, Some(blocks)) => {
                block_diffusion(model, text, &eligible, blocks, scoring, i as u64)?
            }
            (_, None) => return Err(Error::NoBlocks),
        };
        total.nats += one.nats;
        total.tokens += one.tokens;
        total.passes = total.passes.max(one.passes);
        variance += one.standard_error.unwrap_or(0.0).powi(2);
        progress(i + 1);
    }
    if matches!(scoring.method, Method::MonteCarlo { .. }) {
        total.standard_error = Some(variance.sqrt());
    }
    Ok(total)
}

/// Flags the tokens of a text that are scored: the eligible ones that have something before them. There is one flag
/// for each token.
pub fn scored_positions(text: &Text<'_>, document_mask: bool) -> Vec<bool> {
    predictable(text.eligible, &text.read_apart(document_mask))
}

fn next_token(
    model: &Transformer,
    text: &Text<'_>,
    scored: &[bool],
    scoring: &Scoring,
) -> Result<Likelihood> {
    let targets = next_token_targets(text.tokens, scored);
    let (rows, Targets { ids, .. }) = (rows_of(&targets), Targets::of(&targets));
    let documents = scoring.document_mask.then_some(text.documents);
    let read = Sequence { tokens: text.tokens, documents, wanted: Some(&rows), past: 0 };
    let hidden = model.forward(&Batch::of(read, AttentionMask::Causal)?)?;
    let nll = model.token_nll(&hidden, &ids)?;
    Ok(Likelihood {
        nats: nll.iter().map(|v| f64::from(*v)).sum(),
        tokens: ids.len(),
        passes: 1,
        standard_error: None,
    })
}

fn block_diffusion(
    model: &Transformer,
    text: &Text<'_>,
    scored: &[bool],
    blocks: Blocks,
    scoring: &Scoring,
    number: u64,
) -> Result<Likelihood> {
    let apart = text.read_apart(scoring.document_mask);
    let (block_size, noisy_under) = scoring.reading(blocks.block_size, text.tokens.len());
    let ranges = document_block_ranges(&apart, block_size);
    let row = Row::new(text.tokens, scored, &ranges)?;
    let tokens = scored.iter().filter(|s| **s).count();
    let documents = scoring.document_mask.then_some(text.documents);
    let clean = Sequence { tokens: text.tokens, documents, ..Sequence::default() };
    // The clean text is read once for all passes; a shifted head reads it in each.
    let read = match (noisy_under, model.config().predicts) {
        (Some(_), _) | (None, Predicts::Next) => None,
        (None, Predicts::Same) => Some(model.read_clean(&[clean], block_size)?),
    };
    let run = |passes: &[Pass]| match (noisy_under, &read) {
        (Some(mask), _) => noisy_nll(model, row, clean, passes, mask),
        (None, None) => shifted_nll(model, row, clean, passes, block_size),
        (None, Some(read)) => nll_of(model, row, read, passes),
    };
    if let Method::MonteCarlo { samples, seed } = scoring.method {
        let mut rng = stream(seed, Purpose::Likelihood, 0, number);
        // Passes are drawn as they are needed, so that any number of samples takes the memory of one batch.
        let mut passes = monte_carlo_passes(row, blocks.mask_id, samples, &mut rng).peekable();
        let mut estimate = MonteCarlo::new();
        while passes.peek().is_some() {
            let chunk: Vec<Pass> = passes.by_ref().take(scoring.batch_size.max(1)).collect();
            for (pass, nll) in chunk.iter().zip(run(&chunk)?) {
                estimate.add(pass, &nll)?;
            }
        }
        let estimate = estimate.estimate();
        return Ok(Likelihood {
            nats: estimate.nelbo,
            tokens,
            passes: samples,
            standard_error: Some(estimate.standard_error),
        });
    }
    let passes: Box<dyn Iterator<Item = Pass>> = match scoring.method {
        Method::LeftToRight => Box::new(left_to_right_passes(row, blocks.mask_id)),
        _ => Box::new(exact_passes(row, blocks.mask_id)?),
    };
    let mut passes = passes.peekable();
    let mut sums = BlockSums::new(row);
    let mut n_passes = 0;
    while passes.peek().is_some() {
        let chunk: Vec<Pass> = passes.by_ref().take(scoring.batch_size.max(1)).collect();
        for (pass, nll) in chunk.iter().zip(run(&chunk)?) {
            sums.add(pass, &nll)?;
            n_passes += 1;
        }
    }
    Ok(Likelihood { nats: sums.total(), tokens, passes: n_passes, standard_error: None })
}

/// −log p of every scored position of every pass, in nats. The passes are the rows of one batch.
fn nll_of(
    model: &Transformer,
    row: Row<'_>,
    clean: &CleanKeys,
    passes: &[Pass],
) -> Result<Vec<Vec<f32>>> {
    let rows = PassRows { window: row.clean().len(), predicts: Predicts::Same, clean_half: false };
    let (mut batch, mut targets) = (Batch::default(), Vec::new());
    for pass in passes {
        let own = pass.targets(row, rows);
        let wanted = rows_of(&own);
        let noisy = Sequence { tokens: &pass.noisy, wanted: Some(&wanted), ..Sequence::default() };
        batch.push_noisy_against(noisy, clean, 0)?;
        targets.extend(own);
    }
    let hidden = model.forward_against(&batch, clean)?;
    Ok(split(&model.token_nll(&hidden, &Targets::of(&targets).ids)?, passes))
}

/// [`nll_of`] where the noisy text is all that is read, as in training under such a mask: each document by itself, if
/// `clean` has any.
fn noisy_nll(
    model: &Transformer,
    row: Row<'_>,
    clean: Sequence<'_>,
    passes: &[Pass],
    mask: AttentionMask,
) -> Result<Vec<Vec<f32>>> {
    let predicts = model.config().predicts;
    let rows = PassRows { window: row.clean().len(), predicts, clean_half: false };
    let (mut batch, mut targets) = (Batch::default(), Vec::new());
    for pass in passes {
        let own = pass.targets(row, rows);
        let wanted = rows_of(&own);
        batch.push(Sequence { tokens: &pass.noisy, wanted: Some(&wanted), ..clean }, mask)?;
        targets.extend(own);
    }
    let hidden = model.forward(&batch)?;
    Ok(split(&model.token_nll(&hidden, &Targets::of(&targets).ids)?, passes))
}

/// [`nll_of`] for a shifted head, which reads the clean text in every pass.
fn shifted_nll(
    model: &Transformer,
    row: Row<'_>,
    clean: Sequence<'_>,
    passes: &[Pass],
    block_size: NonZeroUsize,
) -> Result<Vec<Vec<f32>>> {
    let rows = PassRows { window: row.clean().len(), predicts: Predicts::Next, clean_half: true };
    let mut all = Vec::with_capacity(passes.len());
    for pass in passes {
        let targets = pass.targets(row, rows);
        let wanted = rows_of(&targets);
        let noisy = Sequence { tokens: &pass.noisy, wanted: Some(&wanted), ..clean };
        let mut batch = Batch::default();
        batch.push_noisy_and_clean(noisy, clean.tokens, block_size)?;
        all.push(model.token_nll(&model.forward(&batch)?, &Targets::of(&targets).ids)?);
    }
    Ok(all)
}

/// Cuts the likelihoods of a batch of passes into those of each.
fn split(nll: &[f32], passes: &[Pass]) -> Vec<Vec<f32>> {
    let mut rest = nll;
    let mut parts = Vec::with_capacity(passes.len());
    for pass in passes {
        let (own, after) = rest.split_at(pass.scored.len());
        parts.push(own.to_vec());
        rest = after;
    }
    parts
}

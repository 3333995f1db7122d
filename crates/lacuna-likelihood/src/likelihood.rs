//! Runs every method's passes over one text, and adds up what they give.

use lacuna_model::{Attention, AttentionMask, Batch, Sequence, Transformer};
use lacuna_objective::{
    BlockSums, MonteCarlo, Pass, Row, Targets, document_block_ranges, exact_passes,
    left_to_right_passes, monte_carlo_passes, next_token_targets, predictable, rows_of,
};
use lacuna_random::{Purpose, stream};
use std::num::NonZeroUsize;
use std::ops::AddAssign;

use crate::error::{Error, Result};
use crate::noisy::NoisyReader;

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
    /// The likelihood of no text, to add others to.
    pub fn none(method: Method) -> Self {
        let is_estimate = matches!(method, Method::MonteCarlo { .. });
        Self { standard_error: is_estimate.then_some(0.0), ..Self::default() }
    }

    /// Nats per scored token.
    pub fn nats_per_token(&self) -> f64 {
        self.nats / self.tokens.max(1) as f64
    }

    /// Bits per byte of a text of `bytes` bytes.
    pub fn bits_per_byte(&self, bytes: u64) -> f64 {
        self.nats / std::f64::consts::LN_2 / bytes.max(1) as f64
    }
}

/// The likelihood of both together, whose passes are the larger number and whose errors are independent.
impl AddAssign for Likelihood {
    fn add_assign(&mut self, other: Self) {
        self.nats += other.nats;
        self.tokens += other.tokens;
        self.passes = self.passes.max(other.passes);
        self.standard_error = match (self.standard_error, other.standard_error) {
            (Some(one), Some(other)) => Some(one.hypot(other)),
            (one, other) => one.or(other),
        };
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

impl<'a> Text<'a> {
    /// The text as the model reads it: with its documents where they do not see each other.
    pub(crate) fn as_read(&self, document_mask: bool) -> Sequence<'a> {
        let documents = document_mask.then_some(self.documents);
        Sequence { tokens: self.tokens, documents, ..Sequence::default() }
    }

    /// The lengths of the pieces that are read apart: the documents, or the text as a whole.
    pub(crate) fn read_apart(&self, document_mask: bool) -> Vec<usize> {
        if document_mask { self.documents.to_vec() } else { vec![self.tokens.len()] }
    }

    pub(crate) fn check(&self) -> Result<()> {
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
    pub(crate) fn reading(
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
    let mut total = Likelihood::none(scoring.method);
    for (i, text) in texts.iter().enumerate() {
        if let Some(one) = likelihood_of(model, text, i as u64, scoring, &mut || true)? {
            total += one;
        }
        progress(i + 1);
    }
    Ok(total)
}

/// Scores one text, as [`likelihood`] scores each of its texts.
///
/// `number` names the text among all that are scored together: Monte-Carlo draws its masks from a stream of this number,
/// so that the errors of two texts with different numbers are independent. `between` is called after every batch of
/// passes; where it says `false`, the text is given up and `None` returned.
///
/// # Errors
/// As [`likelihood`].
pub fn likelihood_of(
    model: &Transformer,
    text: &Text<'_>,
    number: u64,
    scoring: &Scoring,
    between: &mut dyn FnMut() -> bool,
) -> Result<Option<Likelihood>> {
    text.check()?;
    let scored = scored_positions(text, scoring.document_mask);
    match (scoring.method, scoring.blocks) {
        (Method::Autoregressive, _) => {
            let one = next_token(model, text, &scored, scoring)?;
            Ok(between().then_some(one))
        }
        (_, Some(blocks)) => {
            block_diffusion(model, text, &scored, (blocks, scoring), number, between)
        }
        (_, None) => Err(Error::NoBlocks),
    }
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
    let read = Sequence { wanted: Some(&rows), ..text.as_read(scoring.document_mask) };
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
    (blocks, scoring): (Blocks, &Scoring),
    number: u64,
    between: &mut dyn FnMut() -> bool,
) -> Result<Option<Likelihood>> {
    let (block_size, alone) = scoring.reading(blocks.block_size, text.tokens.len());
    let ranges = document_block_ranges(&text.read_apart(scoring.document_mask), block_size);
    let row = Row::new(text.tokens, scored, &ranges)?;
    let tokens = scored.iter().filter(|s| **s).count();
    let reader =
        NoisyReader::new(model, row, text.as_read(scoring.document_mask), block_size, alone)?;
    let batch = scoring.batch_size.max(1);
    if let Method::MonteCarlo { samples, seed } = scoring.method {
        let mut rng = stream(seed, Purpose::Likelihood, 0, number);
        let passes = monte_carlo_passes(row, blocks.mask_id, samples, &mut rng);
        let mut estimate = MonteCarlo::new();
        let add = &mut |pass: &Pass, nll: &[f32]| Ok(estimate.add(pass, nll)?);
        if !run(&reader, passes, batch, add, between)? {
            return Ok(None);
        }
        let estimate = estimate.estimate();
        let standard_error = Some(estimate.standard_error);
        return Ok(Some(Likelihood {
            nats: estimate.nelbo,
            tokens,
            passes: samples,
            standard_error,
        }));
    }
    let passes: Box<dyn Iterator<Item = Pass>> = match scoring.method {
        Method::LeftToRight => Box::new(left_to_right_passes(row, blocks.mask_id)),
        _ => Box::new(exact_passes(row, blocks.mask_id)?),
    };
    let (mut sums, mut passes_made) = (BlockSums::new(row), 0);
    let add = &mut |pass: &Pass, nll: &[f32]| {
        passes_made += 1;
        Ok(sums.add(pass, nll)?)
    };
    if !run(&reader, passes, batch, add, between)? {
        return Ok(None);
    }
    Ok(Some(Likelihood { nats: sums.total(), tokens, passes: passes_made, standard_error: None }))
}

/// Runs passes, a batch at a time, so that any number of them takes the memory of one batch; `false` where `between` gave
/// them up.
fn run(
    reader: &NoisyReader<'_>,
    passes: impl Iterator<Item = Pass>,
    batch: usize,
    add: &mut dyn FnMut(&Pass, &[f32]) -> Result<()>,
    between: &mut dyn FnMut() -> bool,
) -> Result<bool> {
    let mut passes = passes.peekable();
    while passes.peek().is_some() {
        let chunk: Vec<Pass> = passes.by_ref().take(batch).collect();
        for (pass, nll) in chunk.iter().zip(reader.nll(&chunk)?) {
            add(pass, &nll)?;
        }
        if !between() {
            return Ok(false);
        }
    }
    Ok(true)
}

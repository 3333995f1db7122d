//! Collects the rows of one pass, on the host: tokens, their positions, the keys that each sees, and the rows whose
//! hidden states are wanted.

use lacuna_kernels::{Activations, AttentionMask, KeyRanges, Segments};
use std::num::NonZeroUsize;
use std::ops::Range;

use crate::clean::CleanKeys;
use crate::error::{Error, Result};
use crate::rows::{segments, whole};

/// The tokens of one sequence in a pass, with their past, their documents, and the rows that are wanted of them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sequence<'a> {
    /// The tokens that the pass reads.
    pub tokens: &'a [u32],
    /// The number of tokens before them whose keys and values a cache holds. All tokens of the pass see those.
    pub past: usize,
    /// The lengths of its documents, whose positions begin at 0 and which see nothing of each other; `None` if it is
    /// one.
    pub documents: Option<&'a [usize]>,
    /// The tokens whose hidden states are wanted, counted from the first of `tokens`; `None`: all.
    pub wanted: Option<&'a [u32]>,
}

impl<'a> From<&'a [u32]> for Sequence<'a> {
    fn from(tokens: &'a [u32]) -> Self {
        Self { tokens, ..Self::default() }
    }
}

/// The rows of one pass: the tokens of any number of sequences, laid end to end.
///
/// Training windows, their noisy and clean halves, prompts and blocks that are decoded differ in what is pushed, and in
/// nothing behind that. A row's result never depends on which other sequences are in the batch.
///
/// ```
/// use lacuna_kernels::AttentionMask;
/// use lacuna_model::{Batch, Sequence};
///
/// let mut batch = Batch::default();
/// batch.push([7u32, 8, 9].as_slice().into(), AttentionMask::Causal)?;
/// let last = Sequence { tokens: &[7, 8], wanted: Some(&[1]), ..Sequence::default() };
/// batch.push(last, AttentionMask::Full)?;
/// assert_eq!((batch.tokens(), batch.positions()), (&[7, 8, 9, 7, 8][..], &[0, 1, 2, 0, 1][..]));
/// assert_eq!(batch.wanted(), [0, 1, 2, 4]);
/// # Ok::<(), lacuna_model::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Batch {
    tokens: Vec<u32>,
    positions: Vec<u32>,
    parts: Vec<Part>,
    wanted: Vec<u32>,
    /// The key ranges that were laid out last, with their mask and length: windows of one length share them, and the
    /// plans of work that attention makes from them.
    laid_out: Option<((AttentionMask, usize), KeyRanges)>,
    precision: Activations,
}

/// The rows of one sequence, which see nothing of the others.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) rows: Range<usize>,
    pub(crate) past: usize,
    /// The keys that each row sees: those of the past, then of the rows, then those of `clean`.
    pub(crate) ranges: KeyRanges,
    /// The rows of a clean read whose keys stand behind the part's own; empty without one.
    pub(crate) clean: Range<usize>,
    /// The part's own stretch of the batch's list of wanted rows.
    pub(crate) wanted: Range<usize>,
}

impl Batch {
    /// A batch of one sequence under any mask on one copy of its tokens.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn of<'a>(sequence: impl Into<Sequence<'a>>, mask: AttentionMask) -> Result<Self> {
        let mut batch = Self::default();
        batch.push(sequence.into(), mask)?;
        Ok(batch)
    }

    /// Adds a sequence under any mask on one copy of its tokens: a window, a prompt, a block behind what is cached.
    ///
    /// # Errors
    /// Errors if documents do not fill the sequence, or a wanted token is beyond its end.
    pub fn push(&mut self, sequence: Sequence<'_>, mask: AttentionMask) -> Result<()> {
        let (n, past) = (sequence.tokens.len(), sequence.past);
        sequence.check_wanted(n)?;
        let ranges = match sequence.documents {
            Some(documents) => of_documents(mask, documents, &sequence)?,
            None if past > 0 => KeyRanges::new(mask, n, past + n, past),
            None => self.laid_out(mask, n),
        };
        self.tokens.extend_from_slice(sequence.tokens);
        self.extend_positions(&sequence);
        self.finish(n, &sequence, ranges, 0..0);
        Ok(())
    }

    /// Adds a window of block-diffusion training, [noisy ; clean]: each noisy block sees itself and the clean blocks
    /// before it, and positions count from 0 in both halves (paper §2). `noisy.wanted` counts in [noisy ; clean],
    /// because a shifted head reads a block's first token off the clean row before it; `None` wants the noisy half.
    ///
    /// # Errors
    /// As [`push`](Self::push), and if the halves differ in length.
    pub fn push_noisy_and_clean(
        &mut self,
        noisy: Sequence<'_>,
        clean: &[u32],
        block_size: NonZeroUsize,
    ) -> Result<()> {
        let n = noisy.tokens.len();
        noisy.check_wanted(2 * n)?;
        if clean.len() != n {
            let found = clean.len();
            return Err(Error::Input(format!(
                "{n} noisy tokens and {found} clean ones: they must agree"
            )));
        }
        let mask = AttentionMask::BlockDiffusion { block_size, seq_len: n };
        let ranges = match noisy.documents {
            Some(documents) => of_documents(mask, documents, &noisy)?,
            None => self.laid_out(mask, 2 * n),
        };
        for half in [noisy.tokens, clean] {
            self.tokens.extend_from_slice(half);
            self.extend_positions(&noisy);
        }
        self.finish(2 * n, &noisy, ranges, 0..0);
        Ok(())
    }

    /// Adds a noisy version of a window whose clean half was read before: window `window` of `clean`.
    ///
    /// # Errors
    /// As [`push`](Self::push), if the halves differ in length, or if `noisy` has documents: those of the clean half
    /// count.
    pub fn push_noisy_against(
        &mut self,
        noisy: Sequence<'_>,
        clean: &CleanKeys,
        window: usize,
    ) -> Result<()> {
        let (rows, positions, ranges) = clean.of_window(window)?;
        noisy.check_wanted(noisy.tokens.len())?;
        noisy.check_undivided("the clean half's documents count, given to `read_clean`")?;
        if rows.len() != noisy.tokens.len() {
            let (found, expected) = (noisy.tokens.len(), rows.len());
            return Err(Error::Input(format!(
                "{found} noisy tokens and {expected} clean ones: they must agree"
            )));
        }
        self.tokens.extend_from_slice(noisy.tokens);
        self.positions.extend_from_slice(positions);
        self.finish(rows.len(), &noisy, ranges, rows);
        Ok(())
    }

    /// Adds a draft to be verified, \[`draft` masks | `queued` finished tokens | `draft` drafted tokens\]: the training
    /// mask at inference. `queued` tokens are whole blocks; the draft's last block may be short.
    ///
    /// # Errors
    /// Errors if the sequence is not `queued` and twice `draft` long, `queued` ends within a block, a wanted token is
    /// beyond the end, or the sequence has documents.
    pub fn push_draft(
        &mut self,
        sequence: Sequence<'_>,
        block_size: NonZeroUsize,
        draft: usize,
    ) -> Result<()> {
        self.push_drafted(sequence, block_size, draft, KeyRanges::speculative)
    }

    /// [`push_draft`](Self::push_draft) under causal attention: a token sees of its own block only what stands before
    /// it, and itself.
    ///
    /// # Errors
    /// As [`push_draft`](Self::push_draft).
    pub fn push_causal_draft(
        &mut self,
        sequence: Sequence<'_>,
        block_size: NonZeroUsize,
        draft: usize,
    ) -> Result<()> {
        self.push_drafted(sequence, block_size, draft, KeyRanges::speculative_causal)
    }

    fn push_drafted(
        &mut self,
        sequence: Sequence<'_>,
        block_size: NonZeroUsize,
        draft: usize,
        ranges: fn(NonZeroUsize, usize, usize, usize) -> KeyRanges,
    ) -> Result<()> {
        let (n, past) = (sequence.tokens.len(), sequence.past);
        sequence.check_wanted(n)?;
        sequence.check_undivided("a draft belongs to one text")?;
        let Some(queued) = n.checked_sub(2 * draft) else {
            return Err(Error::Input(format!("{n} tokens hold no draft of {draft} and its masks")));
        };
        if !queued.is_multiple_of(block_size.get()) {
            return Err(Error::Input(format!(
                "{queued} finished tokens before a draft are no whole blocks of {block_size}"
            )));
        }
        let ranges = ranges(block_size, queued, draft, past);
        self.tokens.extend_from_slice(sequence.tokens);
        let finished = past..past + queued + draft;
        let masked = past + queued..finished.end;
        self.positions.extend(masked.chain(finished).map(|position| position as u32));
        self.finish(n, &sequence, ranges, 0..0);
        Ok(())
    }

    /// The same rows, whose pass multiplies stored weights with activations of this precision; no precision but f32
    /// is exact. It holds for the projections of the layers: logits are made exactly, and so is attention.
    #[must_use]
    pub fn in_precision(self, precision: Activations) -> Self {
        Self { precision, ..self }
    }

    /// The precision of the activations that stored weights are multiplied with.
    pub fn precision(&self) -> Activations {
        self.precision
    }

    /// The token of each row.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The position of each row in its sequence or document.
    pub fn positions(&self) -> &[u32] {
        &self.positions
    }

    /// The rows whose hidden states are wanted, in the order in which a pass gives them.
    pub fn wanted(&self) -> &[u32] {
        &self.wanted
    }

    /// The sequences, and what each row sees of its own, in a pass without caches: for whoever computes a pass elsewhere.
    ///
    /// # Errors
    /// Errors if a sequence has a past.
    pub fn segments(&self) -> Result<Segments> {
        let all: Vec<usize> = (0..self.parts.len()).collect();
        segments(self, &all, false, whole)
    }

    /// The sequences of a pass over caches, and what each row sees of its own cache, the pass's rows included.
    ///
    /// # Errors
    /// Errors if rows see more than a sequence has.
    pub fn segments_in_caches(&self) -> Result<Segments> {
        let all: Vec<usize> = (0..self.parts.len()).collect();
        segments(self, &all, true, whole)
    }

    pub(crate) fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// Tells whether every row is wanted, in order.
    pub(crate) fn wants_all(&self) -> bool {
        self.wanted.len() == self.tokens.len()
            && self.wanted.iter().enumerate().all(|(i, row)| i == *row as usize)
    }

    fn laid_out(&mut self, mask: AttentionMask, len: usize) -> KeyRanges {
        match &self.laid_out {
            Some((key, ranges)) if *key == (mask, len) => ranges.clone(),
            _ => {
                let ranges = KeyRanges::new(mask, len, len, 0);
                self.laid_out = Some(((mask, len), ranges.clone()));
                ranges
            }
        }
    }

    fn extend_positions(&mut self, sequence: &Sequence<'_>) {
        let positions = |len: usize, first: usize| (first..first + len).map(|at| at as u32);
        match sequence.documents {
            Some(documents) => {
                self.positions.extend(documents.iter().flat_map(|len| positions(*len, 0)))
            }
            None => self.positions.extend(positions(sequence.tokens.len(), sequence.past)),
        }
    }

    /// Records the last `n` rows as the part of one sequence, and those of them that are wanted.
    fn finish(
        &mut self,
        n: usize,
        sequence: &Sequence<'_>,
        ranges: KeyRanges,
        clean: Range<usize>,
    ) {
        let rows = self.tokens.len() - n..self.tokens.len();
        let first = self.wanted.len();
        match sequence.wanted {
            None => self
                .wanted
                .extend((rows.start..rows.start + sequence.tokens.len()).map(|row| row as u32)),
            Some(wanted) => self.wanted.extend(wanted.iter().map(|row| rows.start as u32 + row)),
        }
        let wanted = first..self.wanted.len();
        self.parts.push(Part { rows, past: sequence.past, ranges, clean, wanted });
    }
}

impl Sequence<'_> {
    /// Checks that the wanted rows are among the `n` that the sequence takes.
    fn check_wanted(&self, n: usize) -> Result<()> {
        match self.wanted.unwrap_or_default().iter().find(|row| **row as usize >= n) {
            Some(beyond) => {
                Err(Error::Input(format!("row {beyond} is wanted of a sequence of {n}")))
            }
            None => Ok(()),
        }
    }

    /// Refuses documents where nothing would heed them.
    fn check_undivided(&self, why: &str) -> Result<()> {
        match self.documents {
            Some(_) => Err(Error::Input(format!("documents can't be given here: {why}"))),
            None => Ok(()),
        }
    }
}

fn of_documents(
    mask: AttentionMask,
    documents: &[usize],
    sequence: &Sequence<'_>,
) -> Result<KeyRanges> {
    let (covered, n) = (documents.iter().sum::<usize>(), sequence.tokens.len());
    if covered != n || sequence.past > 0 {
        return Err(Error::Input(format!("documents of {covered} tokens in a window of {n}")));
    }
    Ok(KeyRanges::documents(mask, documents)?)
}

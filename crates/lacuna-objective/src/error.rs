//! Lists the errors of rules, rows and losses.

use lacuna_schedules::Error as ScheduleError;

use crate::{MaskSampler, Weighting};

/// An error of a rule, a row or a loss.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A schedule or band that makes no sense.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),

    /// A name that no rate transform, mask sampler or weighting has.
    #[error("unknown {kind} {name:?}, expected one of {expected}")]
    UnknownName {
        /// The kind of part that was looked for.
        kind: &'static str,
        /// The name that was found.
        name: String,
        /// The names that would have been right.
        expected: &'static str,
    },

    /// A weight that does not follow from how the masks are drawn.
    #[error(
        "weighting {weighting} does not follow from mask sampler {mask_sampler}, \
         which goes with {expected}"
    )]
    Weighting {
        /// The weighting asked for.
        weighting: Weighting,
        /// The mask sampler it was asked for with.
        mask_sampler: MaskSampler,
        /// The weightings that go with this sampler.
        expected: &'static str,
    },

    /// A mask forced at a rate near 0 carries a weight without bound, and an infinite one on average.
    #[error(
        "weighting paper with forced masks has no finite mean while the mask rate reaches 0: \
         use rate transform block-clip, a band that starts above 0, or weighting unbiased"
    )]
    UnboundedWeight,

    /// Two slices that go together differ in length.
    #[error("{what}: {found} given, expected {expected}")]
    Length {
        /// The slice, in words.
        what: &'static str,
        /// Its length.
        found: usize,
        /// The length it must have.
        expected: usize,
    },

    /// Blocks that overlap, go backwards or leave the row.
    #[error(
        "block {block} covers {start}..{end}, expected a range within {free}..{row_len}: blocks ascend, \
         do not overlap, and lie in the row"
    )]
    Block {
        /// Its index.
        block: usize,
        /// Its first position.
        start: usize,
        /// One past its last position.
        end: usize,
        /// The position at which the block before it ended.
        free: usize,
        /// The row's length.
        row_len: usize,
    },

    /// The complement of a corruption that is not half of a pair.
    #[error("only mask sampler complementary-pairs has complements, this one is {mask_sampler}")]
    NotPaired {
        /// The sampler in use.
        mask_sampler: MaskSampler,
    },

    /// Exact enumeration of a block that is too large for it.
    #[error(
        "block {block} has {eligible} tokens to score, which takes 2^{eligible} - 1 passes; exact likelihood \
         goes up to {max} tokens, use the Monte-Carlo estimate"
    )]
    TooManyPasses {
        /// The block's index.
        block: usize,
        /// Its eligible tokens.
        eligible: usize,
        /// The most that are enumerated.
        max: usize,
    },

    /// A loss over nothing.
    #[error("loss: denominator is {0}, expected the number of eligible tokens, above 0")]
    Denominator(f64),

    /// A tensor operation failed.
    #[error("{}", lacuna_kernels::message(.0))]
    Tensor(#[from] candle_core::Error),
}

/// The result of this crate's functions.
pub type Result<T> = core::result::Result<T, Error>;

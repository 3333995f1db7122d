//! Lists the purposes of streams, and the words that they stand for in a key.

/// The purpose that a stream is drawn for; the second word of its key.
///
/// A new purpose takes a word that no other has. A word never changes, because the data order, the masks and the
/// tokens of every recorded run come from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Purpose {
    /// The times of a step's blocks; counters: step, 0 (drawn for the whole global batch at once).
    Times = 2,
    /// The masks of a training row; counters: step, row.
    Masks = 3,
    /// The masks of Monte-Carlo likelihood; counters: 0, number of the text.
    Likelihood = 4,
    /// The first values of a mask token's embedding in a checkpoint that had none; counters: 0, row of the table.
    MaskEmbedding = 6,
    /// The order of windows within an epoch; counters: epoch, 0.
    Shuffle = u64::from_le_bytes(*b"shuffle\0"),
    /// The order of a source's windows within an epoch, where several sources are mixed; counters: epoch, number of
    /// the source.
    SourceShuffle = u64::from_le_bytes(*b"sources\0"),
    /// The documents that are rewritten for filling in the middle, and the places of their holes; counters: the first
    /// eight bytes of the document's hash, 0.
    Hole = u64::from_le_bytes(*b"hole\0\0\0\0"),
    /// The number of end tokens behind a conversation; counters: number of the sample, 0.
    SampleEnd = u64::from_le_bytes(*b"eoscount"),
    /// The values of fresh weights; counters: number of the tensor, 0.
    Weights = u64::from_le_bytes(*b"init\0\0\0\0"),
    /// The values that a training pass drops; counters: step, number of the sample in the step and of the term in the
    /// model.
    Dropout = u64::from_le_bytes(*b"dropout\0"),
    /// The first values of an adapter; counters: number of the adapter, 0.
    Adapter = u64::from_le_bytes(*b"adapter\0"),
    /// The roundings of moments that are kept in eight bits; counters: step of the optimizer, number of the block of 256
    /// numbers among those of all parameters.
    Rounding = u64::from_le_bytes(*b"rounding"),
    /// The tasks that a score's interval is drawn from; counters: the k of pass@k, 0.
    Resampling = u64::from_le_bytes(*b"resample"),
    /// The token at a position; counters: position, refinement.
    Token = 0x746f_6b65_6e00_0001,
    /// The position that is filled next; counters: position, refinement.
    Order = 0x6f72_6465_7200_0002,
}

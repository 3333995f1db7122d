//! Defines one packed context, and the two rules that windows in memory and on disk share.

/// A packed context: what a model sees in one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// Token ids; as many as every window of the dataset has.
    pub tokens: Vec<u32>,
    /// The tokens that may be supervised: not padding, not a prompt. One flag a token.
    pub eligible: Vec<bool>,
    /// The lengths of the documents in it, in order; their sum is the window's length. The first may
    /// be the rest of a document that began in the window before, the last may go on in the next.
    /// Padding counts as a document.
    pub documents: Vec<usize>,
}

/// The first id that an embedding of `vocab_size` rows does not hold, as a reason.
pub(crate) fn check_ids(tokens: &[u32], vocab_size: usize) -> Result<(), String> {
    let outside = |&token: &u32| token as usize >= vocab_size;
    match tokens.iter().position(outside) {
        None => Ok(()),
        Some(at) => {
            let token = tokens[at];
            Err(format!("token {at} is {token}, outside the vocabulary of {vocab_size}"))
        }
    }
}

/// The lengths between `begin`, the cuts and `end`.
pub(crate) fn lengths(begin: usize, end: usize, cuts: impl Iterator<Item = usize>) -> Vec<usize> {
    let mut from = begin;
    cuts.chain([end]).map(|cut| cut - std::mem::replace(&mut from, cut)).collect()
}

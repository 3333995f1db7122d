//! Names what can go wrong between a plan and a machine.

/// The reasons for which a plan can't be made or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernels have no form for such a model.
    #[error("{what}: the CUDA kernels take {expected}")]
    Unsupported {
        /// The thing that is asked for.
        what: String,
        /// The things that would do.
        expected: &'static str,
    },
    /// The batch does not fit the model, or itself.
    #[error("{0}")]
    Input(String),
    /// The machine's room for keys and values is taken.
    #[error(
        "keys and values of {tokens} tokens beside {others} of other texts: the card has room for {rows}; decode fewer texts \
         at once, or shorter ones"
    )]
    NoRoom {
        /// Tokens that are asked for.
        tokens: usize,
        /// Tokens that others have room for.
        others: usize,
        /// Tokens that there is room for in all.
        rows: usize,
    },
    /// There is no card, or this build can't use one.
    #[error("no card can be used: {0}")]
    NoCard(String),
    /// The machine failed, or refused a step.
    #[error("{doing}: {reason}")]
    Machine {
        /// The step, in words.
        doing: String,
        /// The machine's own words.
        reason: String,
    },
}

/// The result of anything here that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

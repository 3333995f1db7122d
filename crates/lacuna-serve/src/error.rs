//! Says why a server could not be started, or stopped serving.

use std::net::SocketAddr;

/// The reason why nothing is served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A server that others can reach needs a key.
    #[error(
        "{0} can be reached from other machines, and no key is given: whoever reaches it could have the model write; \
         give keys, or listen on 127.0.0.1"
    )]
    KeyNeeded(SocketAddr),
    /// A key that no request could carry.
    #[error("key {number} {reason}; a key is 8 to 512 visible ASCII characters")]
    Key {
        /// Its number, from 1.
        number: usize,
        /// The reason.
        reason: &'static str,
    },
    /// The address can't be listened on.
    #[error("{address} can't be listened on: {reason}")]
    Listen {
        /// The address that was asked for.
        address: SocketAddr,
        /// The system's reason.
        reason: std::io::Error,
    },
    /// The system gave no thread or timer.
    #[error("the server can't start: {0}")]
    Start(#[from] std::io::Error),
    /// The model can't do what a server needs.
    #[error(transparent)]
    Model(#[from] lacuna_engine::Error),
    /// The thread that decodes has ended before the server did.
    #[error("the thread that decodes has ended; what it printed on stderr says why")]
    Worker,
}

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

//! Holds what a handler asks of the thread that decodes, and what it hears back.

use lacuna_engine::{Completion, Resolved};
use lacuna_likelihood::TokenScore;
use std::time::{Duration, Instant};
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::{self, error::TrySendError};

use super::queue::Class;
use super::running::Times;

/// A request on its way through the thread that decodes.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) task: Task,
    pub(crate) class: Class,
    /// Its owner, for fairness.
    pub(crate) key: usize,
    /// The editor whose text it goes on with.
    pub(crate) slot: Option<u64>,
    /// For which it is decoded at most, once its prompt is read; its first block is finished all the same.
    pub(crate) deadline: Option<Duration>,
    /// True if every pass is told of.
    pub(crate) watch: bool,
    /// The time at which it was handed over.
    pub(crate) came: Instant,
    pub(crate) to: mpsc::Sender<Reply>,
    /// Its place among those that the server takes on; free again when it is dropped.
    #[expect(dead_code, reason = "it is held, not read")]
    pub(crate) permit: Option<OwnedSemaphorePermit>,
}

/// The things that can be asked for.
#[derive(Debug)]
pub(crate) enum Task {
    /// Continue a prompt.
    Write(Box<Resolved>),
    /// Continue a prompt that asks for a draft, changed.
    Edit { request: Box<Resolved>, draft: Vec<u32> },
    /// Tell the likelihood of each token, and the best so many in its place.
    Score { tokens: Vec<u32>, best: usize },
    /// Read a prompt, for the next request.
    Read(Box<Resolved>),
}

/// News of a request. The last is `Done`, `Scored`, `Refused` or `Failed`.
#[derive(Debug)]
pub(crate) enum Reply {
    /// More of its text.
    Text(String),
    /// A pass over its open block, for those who watch.
    Seen(Seen),
    Done(Box<Written>),
    Scored(Vec<TokenScore>),
    /// It can't be done as it was asked for.
    Refused(String),
    /// It went wrong on the way.
    Failed(String),
}

/// The open block of a request after a pass.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// Its first position, counted from the first new token; what it holds of the prompt is left out.
    pub(crate) start: usize,
    /// The number of the refinement within the block.
    pub(crate) refinement: usize,
    /// Places of the block, each with its text, the confidence of that, and true if it is filled in.
    pub(crate) places: Vec<Place>,
    /// All of its places are final.
    pub(crate) finished: bool,
}

/// A place of the open block.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) position: usize,
    pub(crate) text: String,
    pub(crate) confidence: f64,
    pub(crate) filled: bool,
}

/// A request that came to its end.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) completion: Completion,
    /// Tokens of its prompt that were remembered.
    pub(crate) remembered: usize,
    /// The parts of its time.
    pub(crate) times: Times,
    /// True if its deadline ended it.
    pub(crate) late: bool,
}

impl Job {
    /// Tells whether nobody listens any more.
    pub(crate) fn is_gone(&self) -> bool {
        self.class != Class::Background && self.to.is_closed()
    }

    /// Tells whether its reader lags: half of the news that it may leave are waiting. Nothing more is written for it until
    /// it has taken some of them.
    pub(crate) fn lags(&self) -> bool {
        self.class != Class::Background && 2 * self.to.capacity() < self.to.max_capacity()
    }

    /// Tells the handler, and says whether it can be told: one that takes nothing loses its request.
    pub(crate) fn tell(&self, reply: Reply) -> bool {
        match self.to.try_send(reply) {
            Ok(()) => true,
            Err(TrySendError::Full(_) | TrySendError::Closed(_)) => self.class == Class::Background,
        }
    }
}

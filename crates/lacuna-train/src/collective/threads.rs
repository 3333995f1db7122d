//! Carries messages between the threads of one process.

use std::sync::mpsc::{Receiver, Sender, channel};

use super::{elsewhere, gone};
use crate::error::Result;

/// A thread's place among the ranks. Made by [`Collective::threads`](super::Collective::threads).
#[derive(Debug)]
pub struct Seat {
    rank: usize,
    /// A line to every rank; none to itself.
    lines: Vec<Option<Line>>,
}

/// A line between two ranks: the end that one speaks into, and the end that it hears the other from.
#[derive(Debug)]
struct Line {
    say: Sender<Message>,
    hear: Receiver<Message>,
}

#[derive(Debug)]
enum Message {
    /// Bytes, and the point of the run that they belong to.
    At(&'static str, Vec<u8>),
    /// The last message of a rank that did not end well.
    Ended,
}

/// The seats of some threads, each with a line to each other.
pub(super) fn seats(size: usize) -> Vec<Seat> {
    let seat = |rank| Seat { rank, lines: (0..size).map(|_| None).collect() };
    let mut seats: Vec<Seat> = (0..size).map(seat).collect();
    for one in 0..size {
        for other in one + 1..size {
            let ((say, heard), (answer, hear)) = (channel(), channel());
            seats[one].lines[other] = Some(Line { say, hear });
            seats[other].lines[one] = Some(Line { say: answer, hear: heard });
        }
    }
    seats
}

impl Seat {
    pub(super) fn rank(&self) -> usize {
        self.rank
    }

    pub(super) fn size(&self) -> usize {
        self.lines.len()
    }

    pub(super) fn exchange(
        &self,
        place: &'static str,
        mut messages: Vec<Vec<u8>>,
    ) -> Result<Vec<Vec<u8>>> {
        for (rank, line) in self.others() {
            let message = Message::At(place, std::mem::take(&mut messages[rank]));
            line.say.send(message).map_err(|_| gone(rank))?;
        }
        for (rank, line) in self.others() {
            messages[rank] = match line.hear.recv() {
                Ok(Message::At(theirs, bytes)) if theirs == place => bytes,
                Ok(Message::At(..)) => return Err(elsewhere(rank)),
                Ok(Message::Ended) | Err(_) => return Err(gone(rank)),
            };
        }
        Ok(messages)
    }

    /// Tells the others that this rank did not end well.
    pub(super) fn leave(&self) {
        for (_, line) in self.others() {
            // A rank that has gone itself need not hear it.
            let _ = line.say.send(Message::Ended);
        }
    }

    fn others(&self) -> impl Iterator<Item = (usize, &Line)> {
        self.lines.iter().enumerate().filter_map(|(rank, line)| Some((rank, line.as_ref()?)))
    }
}

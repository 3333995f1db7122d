//! Runs the thread that owns the model: what waits, what is read, what is decoded, and who is told of it.

mod cost;
mod job;
mod news;
mod prompts;
mod queue;
mod running;
mod sharing;
mod solo;
mod turns;
mod worker;

pub(crate) use cost::Costs;
#[cfg(test)]
pub(crate) use job::Place;
pub(crate) use job::{Job, Reply, Seen, Task, Written};
pub(crate) use queue::Class;
pub(crate) use solo::likelihood_name;
pub(crate) use worker::{Counters, Orders, Settings, start};

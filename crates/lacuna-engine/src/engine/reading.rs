//! Reads prompts in parts, between the passes of those that are decoded, and remembers what was read.

use std::num::NonZeroUsize;

use super::{Engine, Id};
use crate::error::{Error, Result};
use crate::prefixes::Prefixes;
use crate::resolve::{Plan, Resolved};
use crate::session::{Prefix, Session};
use lacuna_model::Activations;
use lacuna_samplers::{Request, View};

/// A request whose prompt is being read, in as many passes as its caller likes.
#[derive(Debug)]
pub struct Reading {
    request: Resolved,
    slot: Option<u64>,
    prefix: Prefix,
    /// Tokens of the prompt that need not be read: they were remembered.
    remembered: usize,
}

impl Reading {
    /// The request.
    pub fn request(&self) -> &Resolved {
        &self.request
    }

    /// The number of tokens of the prompt that were remembered from earlier texts, in whole blocks.
    pub fn remembered(&self) -> usize {
        self.remembered
    }

    /// The request, and what was read of it, for a session of the caller's.
    pub fn into_parts(self) -> (Resolved, Prefix) {
        (self.request, self.prefix)
    }
}

impl<'m> Engine<'m> {
    /// Keeps what was read of texts that are done with, in at most `bytes_max` bytes, for [`begin`](Self::begin).
    ///
    /// The text that is written does not depend on it, up to rounding; as with [`Session::read_prompt_in`] a prompt that is read in
    /// another precision than f32 is remembered as it was read.
    #[must_use]
    pub fn remembering(mut self, bytes_max: u64) -> Self {
        let mut bytes_max = bytes_max;
        if self.model.is_on_machine()
            && let Some(room) = &mut self.memory_max
        {
            // They lie beside those of running requests.
            bytes_max = bytes_max.min(*room / 4);
            *room -= bytes_max;
        }
        self.prefixes = Some(Prefixes::new(bytes_max, self.model.cache_bytes_per_token()));
        self.session = Session::of(self.model).remembering();
        self
    }

    /// Bytes of keys and values that are kept of texts that are done with.
    pub fn remembered_bytes(&self) -> u64 {
        self.prefixes.as_ref().map_or(0, Prefixes::bytes)
    }

    /// Tokens of prompts that were read so far, those that were remembered left out.
    pub fn prompt_rows(&self) -> usize {
        self.session.prompt_rows()
    }

    /// Begins to read a request's prompt behind the longest beginning of it that is remembered. `slot` names the text
    /// that it goes on with, such as an editor's: its own last text is remembered in preference to others.
    ///
    /// # Errors
    /// As [`push`](Self::push), and when there is no memory for its keys and values.
    pub fn begin(&mut self, request: Resolved, slot: Option<u64>) -> Result<Reading> {
        let of_sampler = sampled(&request)?;
        of_sampler.validate()?;
        let (view, precision) = (of_sampler.view, request.prompt_precision);
        let prompt = &of_sampler.prompt;
        // The last token is read again where what follows it is read off it; `prefill` sees to the rest.
        let most = match view {
            View::Blocks { .. } | View::CausalBlocks { .. } => prompt.len(),
            View::Causal => prompt.len().saturating_sub(1),
        };
        let kept = match &mut self.prefixes {
            Some(prefixes) => prefixes.take(slot, &prompt[..most], (view, precision))?,
            None => None,
        };
        let len = kept.as_ref().map_or(0, |prefix| prefix.tokens().len());
        let prompt = &prompt[..most];
        let prefix = match self.of_others(prompt, (view, precision), len)? {
            Some(longer) => {
                self.put_away(kept, None);
                longer
            }
            None => match kept {
                Some(kept) => kept,
                None => self.session.prefix(view, precision)?,
            },
        };
        let remembered = prefix.tokens().len();
        Ok(Reading { request, slot, prefix, remembered })
    }

    /// A copy of what others that run or wait have read of this prompt, where it is more than `len` tokens.
    fn of_others(
        &self,
        prompt: &[u32],
        (view, precision): (View, Activations),
        len: usize,
    ) -> Result<Option<Prefix>> {
        let waiting = self.waiting.iter().filter_map(|one| one.prefix.as_ref());
        let shared = waiting.map(|prefix| (prefix.shared(prompt, view, precision), prefix));
        let longest = shared.max_by_key(|(shared, _)| *shared).filter(|(shared, _)| *shared > len);
        let most = longest.map_or(len, |(shared, _)| shared);
        match (self.session.copied_beginning(prompt, view, precision, most)?, longest) {
            (Some(running), _) => Ok(Some(running)),
            (None, Some((shared, prefix))) => prefix.copied(shared).map(Some),
            (None, None) => Ok(None),
        }
    }

    /// Reads on in a prompt, at most `rows` tokens (or one block), and says whether it is read: what is left then is
    /// less than a block and rides in the request's first pass.
    ///
    /// # Errors
    /// The model's.
    pub fn read(&mut self, reading: &mut Reading, rows: NonZeroUsize) -> Result<bool> {
        let request = sampled(&reading.request)?;
        self.session.read_on(&mut reading.prefix, &request.prompt, rows.get())
    }

    /// [`push`](Self::push) of a request of which something was read.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn join(&mut self, reading: Reading) -> Result<Id> {
        let Reading { request, slot, prefix, .. } = reading;
        self.take(request, Some(prefix), slot)
    }

    /// Ends a reading; what was read is remembered.
    pub fn abandon(&mut self, reading: Reading) {
        self.put_away(Some(reading.prefix), reading.slot);
    }

    /// Keeps what was read of a text, where anything is kept.
    pub fn put_away(&mut self, prefix: Option<Prefix>, slot: Option<u64>) {
        if let (Some(prefixes), Some(prefix)) = (&mut self.prefixes, prefix) {
            prefixes.put(slot, prefix);
        }
    }
}

/// The sampler's request, if it is one of an engine's.
fn sampled(request: &Resolved) -> Result<&Request> {
    match &request.plan {
        Plan::Autoregressive(request) | Plan::Blocks(request) => Ok(request),
        Plan::Reference(_) => {
            let reason = "the released algorithm decodes one text at a time, not several at once";
            Err(Error::Request(reason.into()))
        }
    }
}

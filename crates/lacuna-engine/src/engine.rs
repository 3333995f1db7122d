//! Decodes many requests on one model at once: continuous batching, tokens to text included.

use lacuna_checkpoint::Attention;
use lacuna_model::{Activations, KvCache};
use lacuna_samplers::{
    BlockEvent, Decoder, DraftCounts, Error as SamplerError, Event as SamplerEvent, FinishReason,
    Generation, Guidance, Refinement, Request, Step,
};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::time::Instant;

use crate::error::{Error, Result};
use crate::generate::{Completion, Seconds};
use crate::memory::MemoryLimit;
use crate::open::Model;
use crate::options::DraftSource;
use crate::prefixes::Prefixes;
use crate::resolve::{Plan, Resolved};
use crate::session::{Prefix, Session};
use crate::text::{TokenText, check_stops};

mod joining;
mod reading;

pub use reading::Reading;

/// The limits within which an [`Engine`] shares its model.
#[derive(Clone, Copy, Debug)]
pub struct EngineOptions {
    /// Requests that are decoded at once; the others wait in the order in which they came (16).
    pub running_max: NonZeroUsize,
    /// The memory that the keys and values of the running requests may take together, each counted
    /// at its longest (what the machine has available when the engine is made).
    pub memory: MemoryLimit,
    /// True if [`Event::Refinement`] and [`Event::Block`] come too (no).
    pub details: bool,
}

impl Default for EngineOptions {
    fn default() -> Self {
        const SIXTEEN: NonZeroUsize = NonZeroUsize::new(16).expect("not zero");
        Self { running_max: SIXTEEN, memory: MemoryLimit::default(), details: false }
    }
}

/// A request of an [`Engine`]. Ids rise from request to request, and are never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(usize);

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An event of one request in a step. It owns what it tells, so that it can be sent to whoever asked.
#[derive(Debug)]
pub enum Event {
    /// More of its text has become certain: it is whole characters, and no stop text can take it back. All pieces
    /// joined are the text that it ends with. A model without a tokenizer gives none.
    Text {
        /// The request.
        id: Id,
        /// The text that follows the pieces before it; never empty.
        piece: String,
    },
    /// A pass over its open block, with [`EngineOptions::details`].
    Refinement {
        /// The request.
        id: Id,
        /// The tokens that were proposed, and those that were filled in; its `request` is the id's
        /// number.
        refinement: Refinement,
    },
    /// A finished block, with [`EngineOptions::details`].
    Block {
        /// The request.
        id: Id,
        /// Absolute position of the block.
        block_start: usize,
        /// Its new tokens.
        tokens: Vec<u32>,
    },
    /// It came to its end. Nothing is told of it any more.
    Finished {
        /// The request.
        id: Id,
        /// All of it. Its seconds are those that passed since it joined: `prefill` until its first step was over,
        /// `decode` after that, with all that these steps did for others.
        completion: Completion,
    },
    /// It can't go on. Nothing is told of it any more.
    Failed {
        /// The request.
        id: Id,
        /// The reason.
        error: Error,
    },
}

impl Event {
    /// The request that it is about.
    pub fn id(&self) -> Id {
        match self {
            Self::Text { id, .. } | Self::Refinement { id, .. } | Self::Block { id, .. } => *id,
            Self::Finished { id, .. } | Self::Failed { id, .. } => *id,
        }
    }
}

/// Decodes any number of requests on one model together, block diffusion and autoregressive ones in the same passes.
///
/// Requests come and go between two passes. What one writes depends on it alone, never on the others; one that fails
/// ends alone, with its reason.
///
/// ```no_run
/// use lacuna_engine::{Engine, EngineOptions, Event, GenerateOptions, Model, OpenOptions, Resolved};
///
/// let model = Model::open("runs/tiny/final".as_ref(), &OpenOptions::default())?;
/// let mut engine = Engine::new(&model, EngineOptions::default());
/// for prompt in ["def fibonacci(n):\n", "def is_prime(n):\n"] {
///     engine.push(Resolved::new(&model, prompt, &GenerateOptions::default())?)?;
/// }
/// while !engine.is_empty() {
///     for event in engine.step() {
///         match event {
///             Event::Text { id, piece } => println!("{id}: {piece:?}"),
///             Event::Finished { id, completion } => println!("{id}: {:?}", completion.finish),
///             Event::Failed { id, error } => println!("{id}: {error}"),
///             Event::Refinement { .. } | Event::Block { .. } => {}
///         }
///     }
/// }
/// # Ok::<(), lacuna_engine::Error>(())
/// ```
#[derive(Debug)]
pub struct Engine<'m> {
    model: &'m Model,
    options: EngineOptions,
    memory_max: Option<u64>,
    session: Session,
    decoder: Decoder,
    next_id: usize,
    /// The beginnings of texts that are done with, if they are kept.
    prefixes: Option<Prefixes>,
    waiting: VecDeque<Waiting<'m>>,
    /// By their numbers in the decoder.
    running: BTreeMap<usize, Running<'m>>,
    /// Events that the next step tells.
    events: Vec<Event>,
}

/// A request that no pass has seen.
#[derive(Debug)]
struct Waiting<'m> {
    request: Request,
    guidance: Guidance,
    /// The part of its prompt that was read before.
    prefix: Option<Prefix>,
    running: Running<'m>,
}

/// The surroundings of a request in the decoder: its tokens on their way to text.
#[derive(Debug)]
struct Running<'m> {
    id: Id,
    /// The editor, or whoever it is whose text is remembered apart.
    slot: Option<u64>,
    text: Option<TokenText<'m>>,
    /// New tokens that `text` has.
    taken: usize,
    prompt_tokens: usize,
    prompt_precision: Activations,
    draft_source: DraftSource,
    attention: Option<Attention>,
    /// Bytes of keys and values at its longest.
    memory: u64,
    /// Since when it runs, and seconds until its first pass was over.
    began: Instant,
    joined: Option<f64>,
    /// The reason why its tokens make no text.
    failed: Option<Error>,
}

impl<'m> Engine<'m> {
    /// An engine without requests.
    pub fn new(model: &'m Model, options: EngineOptions) -> Self {
        Self {
            model,
            options,
            memory_max: model.memory_for_caches(options.memory),
            session: Session::of(model),
            decoder: Decoder::new(),
            next_id: 0,
            prefixes: None,
            waiting: VecDeque::new(),
            running: BTreeMap::new(),
            events: Vec::new(),
        }
    }

    /// Takes a request, which joins as soon as there is room for it.
    ///
    /// # Errors
    /// Errors if it asks for the released algorithm, which decodes one text at a time, if a setting is out of range,
    /// if there is no tokenizer for its stop texts, or if it alone needs more memory than all may take.
    pub fn push(&mut self, request: Resolved) -> Result<Id> {
        self.take(request, None, None)
    }

    /// [`push`](Self::push) of a request of which something may have been read.
    fn take(&mut self, request: Resolved, prefix: Option<Prefix>, slot: Option<u64>) -> Result<Id> {
        let (guidance, draft_source) = (request.guidance()?, request.drafts());
        let attention = request.attention_of_blocks();
        let drafted = request.lookup.as_ref().map_or(0, |lookup| lookup.limits.blocks_max);
        let Resolved { prompt, prompt_precision, stop, plan, .. } = request;
        let request = match plan {
            Plan::Autoregressive(request) | Plan::Blocks(request) => request,
            Plan::Reference(_) => {
                let reason =
                    "the released algorithm decodes one text at a time, not several at once";
                return Err(Error::Request(reason.into()));
            }
        };
        request.validate()?;
        check_stops(&stop)?;
        if !stop.is_empty() {
            self.model.tokenizer()?;
        }
        let tokenizer = self.model.tokenizer.as_deref();
        let text =
            tokenizer.map(|tokenizer| TokenText::new(tokenizer, &prompt, stop)).transpose()?;
        // A draft and its masks are there until it is known how much of it holds.
        let drafted = 2 * drafted * request.block_size().get();
        let longest = request.prompt.len() + request.max_new_tokens;
        let memory = self.cache_bytes(longest.saturating_add(drafted));
        if let Some(most) = self.memory_max.filter(|most| memory > *most) {
            return Err(Error::Request(format!(
                "a prompt of {} tokens and {} new ones need {memory} bytes of keys and values: at most {most} may \
                 be taken; ask for fewer new tokens",
                request.prompt.len(),
                request.max_new_tokens
            )));
        }
        let id = Id(self.next_id);
        self.next_id += 1;
        let (prompt_tokens, began) = (prompt.len(), Instant::now());
        let running = Running {
            id,
            slot,
            text,
            taken: 0,
            prompt_tokens,
            prompt_precision,
            draft_source,
            attention,
            memory,
            began,
            joined: None,
            failed: None,
        };
        self.waiting.push_back(Waiting { request, guidance, prefix, running });
        Ok(id)
    }

    /// Tells whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.len() == 0 && self.events.is_empty()
    }

    /// The number of requests that run or wait.
    pub fn len(&self) -> usize {
        self.running.len() + self.waiting.len()
    }

    /// The number of them that wait for room.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Forward passes so far, those over prompts included.
    pub fn passes(&self) -> usize {
        self.session.passes()
    }

    /// One pass over all running requests, and what came of it, each request's events in order. Those that wait join
    /// first, as far as there is room.
    pub fn step(&mut self) -> Vec<Event> {
        self.admit();
        let mut events = std::mem::take(&mut self.events);
        let Self { options, session, decoder, running, .. } = self;
        let Step { finished, failed } = decoder.step_drafting(session, |event| {
            let number = match event {
                SamplerEvent::Refinement(refinement) => refinement.request,
                SamplerEvent::Block(block) => block.request,
            };
            match running.get_mut(&number) {
                Some(one) => one.watch(event, options.details, &mut events),
                None => ControlFlow::Continue(()),
            }
        });
        for generation in finished {
            if let Some(one) = self.running.remove(&generation.request) {
                keep(&mut self.session, &mut self.prefixes, generation.request, one.slot);
                one.end(generation, &mut events);
            }
        }
        for failure in failed {
            if let Some(one) = self.running.remove(&failure.request) {
                keep(&mut self.session, &mut self.prefixes, failure.request, one.slot);
                events.push(Event::Failed { id: one.id, error: failure.error.into() });
            }
        }
        for one in self.running.values_mut() {
            one.joined.get_or_insert_with(|| one.began.elapsed().as_secs_f64());
        }
        events
    }

    /// Ends a request between two steps. What it has written in finished blocks is returned; no event tells of it any
    /// more.
    ///
    /// # Errors
    /// Errors if no request of that id runs or waits, or its tokens make no text.
    pub fn cancel(&mut self, id: Id) -> Result<Completion> {
        if let Some(at) = self.waiting.iter().position(|one| one.running.id == id)
            && let Some(Waiting { mut running, prefix, .. }) = self.waiting.remove(at)
        {
            self.put_away(prefix, running.slot);
            running.began = Instant::now();
            return running.completion(Generation {
                request: id.0,
                tokens: Vec::new(),
                text_len: 0,
                finish: FinishReason::Stop,
                forwards: 0,
                blocks: 0,
                drafts: DraftCounts::default(),
            });
        }
        let found = self.running.iter().find(|(_, one)| one.id == id).map(|(number, _)| *number);
        let number = found.ok_or(SamplerError::NotUnderWay { request: id.0 })?;
        let generation = self.decoder.cancel(&mut self.session, number)?;
        let one = self.running.remove(&number).expect("found above");
        keep(&mut self.session, &mut self.prefixes, number, one.slot);
        one.completion(generation)
    }

    /// The bytes that the keys and values of so many tokens take, room for growth included.
    fn cache_bytes(&self, tokens: usize) -> u64 {
        // A cache has room for some tokens from the beginning.
        let tokens = tokens.max(crate::session::FIRST_CAPACITY);
        let bytes = self.model.cache_bytes_per_token();
        bytes.saturating_mul(KvCache::capacity_for(tokens) as u64)
    }
}

/// Keeps what was read of a sequence that has ended, where anything is kept.
fn keep(session: &mut Session, prefixes: &mut Option<Prefixes>, number: usize, slot: Option<u64>) {
    if let (Some(prefixes), Some(prefix)) = (prefixes, session.unseat(number)) {
        prefixes.put(slot, prefix);
    }
}

impl Running<'_> {
    /// Turns what a pass made of it into events; ends it where a stop text is complete.
    fn watch(
        &mut self,
        event: SamplerEvent<'_>,
        details: bool,
        events: &mut Vec<Event>,
    ) -> ControlFlow<usize> {
        let id = self.id;
        match event {
            SamplerEvent::Refinement(refinement) => {
                if details {
                    let refinement = Refinement { request: id.0, ..refinement.clone() };
                    events.push(Event::Refinement { id, refinement });
                }
                ControlFlow::Continue(())
            }
            SamplerEvent::Block(block) => {
                if details {
                    let (block_start, tokens) = (block.block_start, block.tokens.to_vec());
                    events.push(Event::Block { id, block_start, tokens });
                }
                self.read(block, events)
            }
        }
    }

    /// The text of a finished block.
    fn read(&mut self, block: &BlockEvent<'_>, events: &mut Vec<Event>) -> ControlFlow<usize> {
        let Some(text) = &mut self.text else { return ControlFlow::Continue(()) };
        let before = self.taken;
        let new = block.generated.get(before..block.text_len).unwrap_or_default();
        self.taken += new.len();
        let ended = match text.push(new) {
            Ok(ended) => ended,
            Err(error) => {
                self.failed = Some(error);
                return ControlFlow::Break(usize::MAX);
            }
        };
        let piece = text.certain();
        if !piece.is_empty() {
            events.push(Event::Text { id: self.id, piece: piece.to_owned() });
        }
        ended.map_or(ControlFlow::Continue(()), |n| ControlFlow::Break(before + n))
    }

    /// The last of its events.
    fn end(mut self, generation: Generation, events: &mut Vec<Event>) {
        let id = self.id;
        let given = self.text.as_ref().map_or(0, TokenText::given);
        self.joined.get_or_insert_with(|| self.began.elapsed().as_secs_f64());
        match self.completion(generation) {
            Ok(completion) => {
                if let Some(rest) = completion.text.get(given..).filter(|rest| !rest.is_empty()) {
                    events.push(Event::Text { id, piece: rest.to_owned() });
                }
                events.push(Event::Finished { id, completion });
            }
            Err(error) => events.push(Event::Failed { id, error }),
        }
    }

    /// Its tokens, and the text that they are.
    fn completion(self, generation: Generation) -> Result<Completion> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let Generation { tokens, text_len, finish, forwards, drafts, .. } = generation;
        // A character that is cut off at the prompt's end is no text of a request that wrote
        // nothing.
        let text = match self.text.filter(|_| !tokens.is_empty()) {
            Some(text) => text.finish()?.0,
            None => String::new(),
        };
        let prefill = self.joined.unwrap_or(0.0);
        let seconds = Seconds { prefill, decode: self.began.elapsed().as_secs_f64() - prefill };
        Ok(Completion {
            text,
            tokens,
            text_len,
            prompt_tokens: self.prompt_tokens,
            prompt_precision: self.prompt_precision,
            forwards,
            finish,
            seconds,
            draft_source: self.draft_source,
            attention: self.attention,
            drafts,
        })
    }
}

//! Records decoding in traces: JSON lines that can be read, replayed, and written again byte for
//! byte.
//!
//! A trace holds, per request, a [`Line::Header`] with everything that was asked for, a
//! [`Line::Refinement`] for every pass with all candidates, a [`Line::Block`] for every finished
//! block, and a [`Line::End`]. [`Trace::replay`] runs the fill rule again on the recorded
//! candidates, and so derives the text anew.
//!
//! ```
//! use lacuna_samplers::trace::{Line, Trace};
//! # use lacuna_samplers::Request;
//! # let request = Request::new(vec![1, 2], 4, std::num::NonZeroUsize::MIN, 5);
//! let mut text = Line::header(0, &request).to_json() + "\n";
//! // … one line per event: `text += &(Line::from(event).to_json() + "\n")` …
//! let trace = Trace::parse(&text)?;
//! assert_eq!(trace.to_jsonl(), text);
//! # Ok::<(), lacuna_samplers::Error>(())
//! ```

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::reference::Settings;
use crate::request::{Event, FinishReason, Generation, Refinement, Request};
use crate::{FillRule, Sampling, View};

mod replay;

use replay::Replay;

/// The format that this crate writes, and the only one it reads.
pub const VERSION: u32 = 1;

/// The name of causal attention in a header.
const CAUSAL: &str = "causal";

/// The algorithm that wrote a trace, as its header names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// [`Decoder`](crate::Decoder) in blocks, with or without drafts.
    Fused,
    /// [`reference::generate`](crate::reference::generate): MASK may be filled in, and the position
    /// counts as masked then.
    Reference,
    /// [`Decoder`](crate::Decoder) under the causal view: blocks of one token.
    Autoregressive,
}

/// One line of a trace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
#[expect(
    clippy::large_enum_variant,
    reason = "a request has one header, and hundreds of other lines"
)]
pub enum Line {
    /// The settings that were asked for.
    Header {
        /// [`VERSION`].
        version: u32,
        /// The request, by its number.
        request: usize,
        /// The algorithm that ran.
        mode: Mode,
        /// Prompt, seed and all other settings.
        settings: Request,
        /// The precision in which the prompt was read, if it was not exact.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        prompt_precision: Option<String>,
        /// The format that keys and values were kept in, if it was less precise than they were computed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cache_precision: Option<String>,
        /// The source of drafts, if there was one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        drafts: Option<String>,
        /// The attention that blocks were decoded with, if it was not block-causal: `full`, where one block is prompt
        /// and new text, or `causal`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        attention: Option<String>,
        /// The rule that the text keeps to, if there was one: a refinement fills none of its candidates that do not agree
        /// with those ranked higher.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        constraint: Option<String>,
    },
    /// One pass over one block.
    Refinement(Refinement),
    /// A finished block.
    Block {
        /// The request, by its number.
        request: usize,
        /// Absolute position of the block.
        block_start: usize,
        /// Its new tokens, as they stand in the result.
        tokens: Vec<u32>,
    },
    /// The request's end.
    End {
        /// The request, by its number.
        request: usize,
        /// The reason why it ended.
        finish: FinishReason,
        /// The number of new tokens that remain.
        tokens: usize,
        /// The number of them that are text.
        text_len: usize,
    },
}

impl Line {
    /// The first line of a request's trace.
    pub fn header(request: usize, settings: &Request) -> Self {
        let mode = match settings.view {
            View::Blocks { .. } | View::CausalBlocks { .. } => Mode::Fused,
            View::Causal => Mode::Autoregressive,
        };
        let header = Self::exact_header(request, mode, settings.clone());
        match settings.view {
            View::CausalBlocks { .. } => header.with_attention(CAUSAL),
            View::Blocks { .. } | View::Causal => header,
        }
    }

    /// The header of a request that is computed exactly throughout.
    fn exact_header(request: usize, mode: Mode, settings: Request) -> Self {
        let (prompt_precision, cache_precision, drafts) = (None, None, None);
        let (attention, constraint) = (None, None);
        Self::Header {
            version: VERSION,
            request,
            mode,
            settings,
            prompt_precision,
            cache_precision,
            drafts,
            attention,
            constraint,
        }
    }

    /// The header of a request whose prompt was read less precisely; other lines stay as they are.
    #[must_use]
    pub fn with_prompt_precision(mut self, name: &str) -> Self {
        if let Self::Header { prompt_precision, .. } = &mut self {
            *prompt_precision = Some(name.to_owned());
        }
        self
    }

    /// The header of a request whose keys and values were kept in a less precise format; other lines stay as they are.
    #[must_use]
    pub fn with_cache_precision(mut self, name: &str) -> Self {
        if let Self::Header { cache_precision, .. } = &mut self {
            *cache_precision = Some(name.to_owned());
        }
        self
    }

    /// The header of a request whose tokens were drafted, and checked several at a time; other lines stay as they are.
    #[must_use]
    pub fn with_drafts(mut self, source: &str) -> Self {
        if let Self::Header { drafts, .. } = &mut self {
            *drafts = Some(source.to_owned());
        }
        self
    }

    /// The header of a request whose blocks were decoded with other attention than block-causal; other lines stay as they
    /// are.
    #[must_use]
    pub fn with_attention(mut self, name: &str) -> Self {
        if let Self::Header { attention, .. } = &mut self {
            *attention = Some(name.to_owned());
        }
        self
    }

    /// The header of a request whose text keeps to a rule; other lines stay as they are.
    #[must_use]
    pub fn with_constraint(mut self, rule: &str) -> Self {
        if let Self::Header { constraint, .. } = &mut self {
            *constraint = Some(rule.to_owned());
        }
        self
    }

    /// The first line of a trace in reference mode, whose arguments are put into a request's words.
    /// `remasking: random` needs none of its own: what ranked is recorded as the confidence.
    ///
    /// # Errors
    /// A block length of 0.
    pub fn reference_header(prompt: &[u32], settings: &Settings) -> Result<Self> {
        let Some(block_size) = std::num::NonZeroUsize::new(settings.block_length) else {
            return crate::error::setting("block_length", 0, "at least 1");
        };
        let fill = match settings.threshold {
            None => FillRule::LowConfidence,
            Some(tau) => FillRule::Threshold { tau },
        };
        let sampling = Sampling {
            temperature: settings.temperature,
            seed: settings.seed,
            ..Sampling::default()
        };
        let request = Request {
            steps: std::num::NonZeroUsize::new(settings.steps),
            fill,
            sampling,
            eos_ids: settings.eos_id.into_iter().collect(),
            ..Request::new(prompt.to_vec(), settings.gen_length, block_size, settings.mask_id)
        };
        Ok(Self::exact_header(0, Mode::Reference, request))
    }

    /// The last line of a request's trace.
    pub fn end(generation: &Generation) -> Self {
        let Generation { request, finish, text_len, .. } = *generation;
        Self::End { request, finish, tokens: generation.tokens.len(), text_len }
    }

    /// The line as JSON, without a line break.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a line has string keys and finite numbers")
    }

    fn request(&self) -> usize {
        match self {
            Self::Header { request, .. } | Self::Block { request, .. } => *request,
            Self::End { request, .. } => *request,
            Self::Refinement(refinement) => refinement.request,
        }
    }
}

impl From<Event<'_>> for Line {
    fn from(event: Event<'_>) -> Self {
        match event {
            Event::Refinement(refinement) => Self::Refinement(refinement.clone()),
            Event::Block(block) => Self::Block {
                request: block.request,
                block_start: block.block_start,
                tokens: block.tokens.to_vec(),
            },
        }
    }
}

/// A whole trace.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trace {
    /// Its lines; those of several requests may be interleaved.
    pub lines: Vec<Line>,
}

/// A request's text as a replay derives it.
#[derive(Clone, Debug, PartialEq)]
pub struct Replayed {
    /// The request, by its number.
    pub request: usize,
    /// The settings that were asked for.
    pub settings: Request,
    /// The new tokens.
    pub tokens: Vec<u32>,
    /// The number of them that are text; all, for a trace that was cut off.
    pub text_len: usize,
    /// The reason why it ended; None for a trace that was cut off.
    pub finish: Option<FinishReason>,
    /// Refinements that were replayed.
    pub refinements: usize,
}

impl Trace {
    /// Reads JSON lines; empty lines are skipped. A last line that has no end is one that was cut off, and left out.
    ///
    /// # Errors
    /// A line that is no line of this format and version, by its number.
    pub fn parse(text: &str) -> Result<Self> {
        let mut lines = Vec::new();
        let whole = text.rfind('\n').map_or(0, |end| text[..end].lines().count());
        for (index, text) in text.lines().enumerate().filter(|(_, text)| !text.trim().is_empty()) {
            let wrong = |reason: String| Error::Trace { line: index + 1, reason };
            let mut line: Line = match serde_json::from_str(text) {
                Ok(line) => line,
                Err(_) if index >= whole && !lines.is_empty() => break,
                Err(error) => return Err(wrong(error.to_string())),
            };
            if let Line::Header { version, mode, settings, attention, .. } = &mut line {
                if *version != VERSION {
                    return Err(wrong(format!("format version {version}: expected {VERSION}")));
                }
                // The settings of a causal view are written as blocks of one, and those of causal blocks as blocks.
                let block_size = settings.block_size();
                match (*mode, attention.as_deref()) {
                    (Mode::Autoregressive, _) if block_size.get() == 1 => {
                        settings.view = View::Causal;
                    }
                    (Mode::Fused, Some(CAUSAL)) => {
                        settings.view = View::CausalBlocks { block_size };
                    }
                    _ => {}
                }
            }
            lines.push(line);
        }
        Ok(Self { lines })
    }

    /// The same bytes that were written.
    pub fn to_jsonl(&self) -> String {
        self.lines.iter().map(|line| line.to_json() + "\n").collect()
    }

    /// Derives every request's text from its candidates and its fill rule, and checks it against
    /// the recorded fills and blocks.
    ///
    /// # Errors
    /// [`Error::Trace`] at the first line that contradicts those before it (lines are
    /// counted without empty ones).
    pub fn replay(&self) -> Result<Vec<Replayed>> {
        let mut replays: BTreeMap<usize, Replay> = BTreeMap::new();
        for (index, line) in self.lines.iter().enumerate() {
            let wrong = |reason: String| Error::Trace { line: index + 1, reason };
            let request = line.request();
            if let Line::Header { mode, settings, constraint, .. } = line {
                let mut replay = Replay::new(request, *mode, settings).map_err(wrong)?;
                replay.is_constrained = constraint.is_some();
                if replays.insert(request, replay).is_some() {
                    return Err(wrong(format!("request {request} has two headers")));
                }
                continue;
            }
            let Some(replay) = replays.get_mut(&request) else {
                return Err(wrong(format!("request {request} has no header")));
            };
            replay.take(line).map_err(wrong)?;
        }
        Ok(replays.into_values().map(Replay::finish).collect())
    }
}

//! A text continued, by block diffusion or autoregressively, as the checkpoint is.

use lacuna_samplers::reference::{self, Remasking};
use lacuna_samplers::trace::Line;
use lacuna_samplers::{Event, FillRule, FinishReason, Generation, Request, Sampling};
use std::borrow::Cow;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use crate::error::{Error, Result};
use crate::mode::{block_size, choose_mode, no_mask};
use crate::open::Model;
use crate::session::Session;
use crate::text::{Stops, TokenText};

/// Which block decoder runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DecodeMode {
    /// Commit and next denoise in one pass.
    #[default]
    Fused,
    /// The released algorithm, step by step.
    Reference,
}

/// What is continued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prompt {
    /// Text, encoded with the checkpoint's tokenizer.
    Text(String),
    /// Token ids as they are.
    Ids(Vec<u32>),
}

impl From<&str> for Prompt {
    fn from(text: &str) -> Self {
        Prompt::Text(text.to_owned())
    }
}

impl From<Vec<u32>> for Prompt {
    fn from(ids: Vec<u32>) -> Self {
        Prompt::Ids(ids)
    }
}

/// How a text is continued. `None` means the checkpoint's own value, else the default named.
#[derive(Clone, Debug)]
pub struct GenerateOptions {
    /// At most this many new tokens (128).
    pub max_new_tokens: usize,
    /// No end before this many.
    pub min_new_tokens: usize,
    /// Tokens in a block (4).
    pub block_size: Option<NonZeroUsize>,
    /// Refinements in all, as in the released code (one a token).
    pub steps: Option<NonZeroUsize>,
    /// Which masked positions a refinement fills.
    pub fill: FillRule,
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// Fused or reference.
    pub mode: DecodeMode,
    /// End-of-text ids.
    pub eos_ids: Option<Vec<u32>>,
    /// MASK.
    pub mask_id: Option<u32>,
    /// In reference mode too, never fill in MASK.
    pub forbid_mask: bool,
    /// Texts that end the continuation, which does not include them.
    pub stop: Vec<String>,
    /// Decode a checkpoint in the mode that it was not trained for.
    pub allow_mode_mismatch: bool,
    /// Whether to decode autoregressively; `None`: as the checkpoint is.
    pub autoregressive: Option<bool>,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self {
            max_new_tokens: 128,
            min_new_tokens: 0,
            block_size: None,
            steps: None,
            fill: FillRule::default(),
            sampling: Sampling::default(),
            mode: DecodeMode::default(),
            eos_ids: None,
            mask_id: None,
            forbid_mask: false,
            stop: Vec::new(),
            allow_mode_mismatch: false,
            autoregressive: None,
        }
    }
}

/// Why a continuation ended.
pub use lacuna_samplers::FinishReason as StopReason;

/// Wall time of the two parts of a decode.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seconds {
    /// Reading the prompt.
    pub prefill: f64,
    /// Writing.
    pub decode: f64,
}

/// A continuation.
#[derive(Clone, Debug)]
pub struct Written {
    /// The new text, without end-of-text and stop text.
    pub text: String,
    /// The new tokens.
    pub tokens: Vec<u32>,
    /// How many of them are text: those before end-of-text.
    pub text_len: usize,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Passes after the prefill (reference mode: as the released code counts nfe).
    pub forwards: usize,
    /// Why it ended.
    pub finish: FinishReason,
    /// Wall time.
    pub seconds: Seconds,
}

impl Written {
    /// New tokens per pass.
    pub fn tokens_per_forward(&self) -> f64 {
        self.tokens.len() as f64 / self.forwards.max(1) as f64
    }
}

/// Continues a prompt.
///
/// `observe` gets every event of the decoding, for streaming and traces.
///
/// # Errors
/// Errors if the checkpoint is of the other mode, an option is out of range, or the model has too few
/// positions.
pub fn generate(
    model: &Model,
    prompt: impl Into<Prompt>,
    options: &GenerateOptions,
    mut observe: impl FnMut(Event<'_>),
) -> Result<Written> {
    let session = &mut Session::new(Arc::clone(&model.transformer));
    generate_in(session, model, prompt, options, |event| {
        observe(event);
        ControlFlow::Continue(())
    })
}

/// [`generate`] in a session of its caller, on the same model. One that is
/// [`remembering`](Session::remembering) reads only what differs from the text before, as the turns of a
/// conversation do. Where `observe` breaks, the continuation ends with its last finished block.
///
/// # Errors
/// As [`generate`].
pub fn generate_in(
    session: &mut Session,
    model: &Model,
    prompt: impl Into<Prompt>,
    options: &GenerateOptions,
    mut observe: impl FnMut(Event<'_>) -> ControlFlow<()>,
) -> Result<Written> {
    let prompt = prompt_ids(model, prompt.into())?;
    let autoregressive = choose_mode(model, options)?;
    let options = &within_positions(model, &prompt, options)?;
    write(model, &prompt, options, &mut observe, |eos_ids, observer| {
        match (autoregressive, options.mode) {
            (true, _) => {
                let request = autoregressive_request(model, &prompt, options, eos_ids);
                fused(session, request, observer)
            }
            (false, DecodeMode::Fused) => {
                fused(session, request(model, &prompt, options, eos_ids)?, observer)
            }
            (false, DecodeMode::Reference) => {
                reference_decode(session, model, &prompt, options, eos_ids, observer)
            }
        }
    })
}

/// The first line of the trace that [`generate`] with the same arguments leaves; the events are the lines
/// after it, and [`trace_end`] the last.
///
/// # Errors
/// As [`generate`], before anything is decoded.
pub fn trace_header(
    model: &Model,
    prompt: impl Into<Prompt>,
    options: &GenerateOptions,
) -> Result<Line> {
    let prompt = prompt_ids(model, prompt.into())?;
    let options = &within_positions(model, &prompt, options)?;
    let eos_ids = eos_ids(model, options);
    Ok(match (choose_mode(model, options)?, options.mode) {
        (true, _) => Line::header(0, &autoregressive_request(model, &prompt, options, eos_ids)),
        (false, DecodeMode::Fused) => Line::header(0, &request(model, &prompt, options, eos_ids)?),
        (false, DecodeMode::Reference) => {
            Line::reference_header(&prompt, &reference_settings(model, options, &eos_ids)?)?
        }
    })
}

/// No more new tokens than the model has positions for. The released algorithm gets what was asked for: it fills
/// blocks of a number that must come out even.
fn within_positions<'a>(
    model: &Model,
    prompt: &[u32],
    options: &'a GenerateOptions,
) -> Result<Cow<'a, GenerateOptions>> {
    let (max, held) = (model.config().max_position_embeddings, prompt.len());
    let room = max.saturating_sub(held);
    if options.max_new_tokens <= room {
        return Ok(Cow::Borrowed(options));
    }
    if room == 0 || options.mode == DecodeMode::Reference {
        let asked = options.max_new_tokens;
        let reason = format!(
            "a prompt of {held} tokens and {asked} new ones are more than the model's {max} positions"
        );
        return Err(Error::Request(reason));
    }
    Ok(Cow::Owned(GenerateOptions { max_new_tokens: room, ..options.clone() }))
}

/// The last line of a trace.
pub fn trace_end(written: &Written) -> Line {
    let Written { finish, text_len, .. } = *written;
    Line::End { request: 0, finish, tokens: written.tokens.len(), text_len }
}

/// The prompt's ids, each one that the model embeds.
///
/// # Errors
/// Errors if there is no tokenizer for a text, or an id is beyond the vocabulary.
pub fn prompt_ids(model: &Model, prompt: Prompt) -> Result<Vec<u32>> {
    let prompt = match prompt {
        Prompt::Ids(ids) => ids,
        Prompt::Text(text) => model.tokenizer()?.encode_with_special_tokens(&text)?,
    };
    let vocab = model.config().vocab_size;
    match prompt.iter().find(|id| **id as usize >= vocab) {
        Some(id) => {
            Err(Error::Request(format!("prompt id {id} is outside the model's {vocab} tokens")))
        }
        None => Ok(prompt),
    }
}

fn eos_ids(model: &Model, options: &GenerateOptions) -> Vec<u32> {
    options.eos_ids.clone().unwrap_or_else(|| model.ends_of_text())
}

/// What every decoder has around it: stop texts, the clock, the text of the tokens.
pub(crate) fn write(
    model: &Model,
    prompt: &[u32],
    options: &GenerateOptions,
    observe: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    decode: impl FnOnce(Vec<u32>, Observer<'_>) -> Result<Decoded>,
) -> Result<Written> {
    let began = Instant::now();
    let mut stops = Stops::new(model, prompt, &options.stop)?;
    let mut on_event = |event: Event<'_>| {
        match observe(event) {
            ControlFlow::Continue(()) => stops.end(event),
            // All that is finished.
            ControlFlow::Break(()) => ControlFlow::Break(usize::MAX),
        }
    };
    let decoded = decode(eos_ids(model, options), &mut on_event)?;
    let Decoded { tokens, text_len, forwards, finish, prefill } = decoded;
    let elapsed = began.elapsed().as_secs_f64();
    let written = match &model.tokenizer {
        Some(tokenizer) => {
            let mut text = TokenText::new(tokenizer, prompt, &options.stop)?;
            text.push(&tokens[..text_len])?;
            text.finish()?.0
        }
        None => String::new(),
    };
    Ok(Written {
        text: written,
        tokens,
        text_len,
        prompt_tokens: prompt.len(),
        forwards,
        finish,
        seconds: Seconds { prefill, decode: elapsed - prefill },
    })
}

pub(crate) struct Decoded {
    tokens: Vec<u32>,
    text_len: usize,
    forwards: usize,
    finish: FinishReason,
    prefill: f64,
}

impl Decoded {
    pub(crate) fn new(generation: Generation, prefill: f64) -> Self {
        let Generation { tokens, text_len, finish, forwards, .. } = generation;
        Self { tokens, text_len, forwards, finish, prefill }
    }
}

pub(crate) type Observer<'a> = &'a mut dyn FnMut(Event<'_>) -> ControlFlow<usize>;

fn mask_id(model: &Model, options: &GenerateOptions) -> Result<u32> {
    options.mask_id.or_else(|| model.mask_id()).ok_or_else(|| Error::Request(no_mask(model)))
}

/// The request that options and checkpoint amount to.
pub(crate) fn request(
    model: &Model,
    prompt: &[u32],
    options: &GenerateOptions,
    eos_ids: Vec<u32>,
) -> Result<Request> {
    let mask_id = mask_id(model, options)?;
    let mut request =
        Request::new(prompt.to_vec(), options.max_new_tokens, block_size(model, options), mask_id);
    request.min_new_tokens = options.min_new_tokens;
    request.steps = options.steps;
    request.fill = options.fill;
    request.sampling = options.sampling.clone();
    request.eos_ids = eos_ids;
    Ok(request)
}

/// Decodes a request in blocks or token by token, as it says.
fn fused(session: &mut Session, request: Request, observer: Observer<'_>) -> Result<Decoded> {
    session.begin(true);
    let generation = lacuna_samplers::generate(session, request, observer)?;
    Ok(Decoded::new(generation, session.prefill_seconds()))
}

fn autoregressive_request(
    model: &Model,
    prompt: &[u32],
    options: &GenerateOptions,
    eos_ids: Vec<u32>,
) -> Request {
    let mut prompt = prompt.to_vec();
    if prompt.is_empty() {
        // Something must come before the first token.
        prompt.extend(model.config().bos_token_id);
    }
    // An autoregressive checkpoint may have no MASK; an id that no token has forbids nothing.
    let mask_id = options.mask_id.or(model.config().mask_token_id()).unwrap_or(u32::MAX);
    let mut request = Request::autoregressive(prompt, options.max_new_tokens);
    request.mask_id = mask_id;
    request.min_new_tokens = options.min_new_tokens;
    request.sampling = options.sampling.clone();
    request.eos_ids = eos_ids;
    request
}

/// The arguments of the released code that options and checkpoint amount to.
fn reference_settings(
    model: &Model,
    options: &GenerateOptions,
    eos_ids: &[u32],
) -> Result<reference::Settings> {
    let block_size = block_size(model, options);
    let (remasking, threshold) = match options.fill {
        FillRule::LowConfidence => (Remasking::LowConfidence, None),
        FillRule::Threshold { tau } => (Remasking::LowConfidence, Some(tau)),
        FillRule::Random => (Remasking::Random, None),
        other => {
            let message = format!(
                "--mode reference knows low-confidence, random and --threshold, not {other}; \
                 the default mode has it"
            );
            return Err(Error::Request(message));
        }
    };
    let mut settings = reference::Settings::new(
        options.max_new_tokens,
        block_size.get(),
        mask_id(model, options)?,
    );
    if let Some(steps) = options.steps {
        settings.steps = steps.get();
    }
    settings.temperature = options.sampling.temperature;
    settings.remasking = remasking;
    settings.threshold = threshold;
    settings.eos_id = eos_ids.first().copied();
    settings.forbid_mask = options.forbid_mask;
    settings.seed = options.sampling.seed;
    Ok(settings)
}

fn reference_decode(
    session: &mut Session,
    model: &Model,
    prompt: &[u32],
    options: &GenerateOptions,
    eos_ids: Vec<u32>,
    observer: Observer<'_>,
) -> Result<Decoded> {
    let settings = reference_settings(model, options, &eos_ids)?;
    session.begin(false);
    let output = reference::generate(session, prompt, &settings, observer)?;
    let tokens = output.tokens().to_vec();
    let text_len = tokens.iter().position(|t| Some(*t) == settings.eos_id).unwrap_or(tokens.len());
    Ok(Decoded {
        text_len,
        forwards: output.nfe,
        finish: output.finish,
        prefill: session.prefill_seconds(),
        tokens,
    })
}

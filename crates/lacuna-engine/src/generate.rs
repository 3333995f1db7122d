//! Continues a text, by block diffusion or autoregressively, as the checkpoint is.

use lacuna_checkpoint::Attention;
use lacuna_model::Activations;
use lacuna_samplers::reference::{self, Settings};
use lacuna_samplers::trace::Line;
use lacuna_samplers::{DraftCounts, Event, FinishReason, Generation, Guidance, Request};
use std::ops::ControlFlow;
use std::time::Instant;

use crate::error::Result;
use crate::open::Model;
use crate::options::{DraftSource, GenerateOptions, Prompt};
use crate::resolve::{Plan, Resolved};
use crate::session::Session;
use crate::text::{Stops, TokenText};

/// Wall time of the two parts of a decode.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seconds {
    /// Reading the prompt.
    pub prefill: f64,
    /// Writing.
    pub decode: f64,
}

/// A finished text: continued, filled in or written anew from a draft.
#[derive(Clone, Debug)]
pub struct Completion {
    /// The new text, without end-of-text and stop text.
    pub text: String,
    /// The new tokens.
    pub tokens: Vec<u32>,
    /// The number of them that are text: those before end-of-text.
    pub text_len: usize,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// The precision in which the prompt was read: that of the options, where the model's weights have a form for it.
    pub prompt_precision: Activations,
    /// The tokens that a masked position saw; None where the text was written token by token.
    pub attention: Option<Attention>,
    /// Passes after the prefill (reference mode: as the released code counts nfe).
    pub forwards: usize,
    /// The reason why it ended.
    pub finish: FinishReason,
    /// Wall time.
    pub seconds: Seconds,
    /// The source of its drafts: lookup, if drafts were looked up, and the old text in an edit.
    pub draft_source: DraftSource,
    /// The use of its drafts; all zero without any.
    pub drafts: DraftCounts,
}

impl Completion {
    /// New tokens per pass.
    pub fn tokens_per_forward(&self) -> f64 {
        self.tokens.len() as f64 / self.forwards.max(1) as f64
    }

    /// The last line of its trace.
    pub fn trace_end(&self) -> Line {
        let Self { finish, text_len, .. } = *self;
        Line::End { request: 0, finish, tokens: self.tokens.len(), text_len }
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
) -> Result<Completion> {
    let session = &mut Session::of(model);
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
) -> Result<Completion> {
    let resolved = Resolved::new(model, prompt, options)?;
    let fused = !matches!(resolved.plan, Plan::Reference(_));
    session.begin(fused, resolved.prompt_precision);
    write((model, &resolved), resolved.drafts(), &mut observe, |observer| match &resolved.plan {
        Plan::Autoregressive(request) | Plan::Blocks(request) => {
            decoded(session, request.clone(), resolved.guidance()?, observer)
        }
        Plan::Reference(settings) => released(session, &resolved.prompt, settings, observer),
    })
}

/// Puts around a decoder what all of them need: stop texts, the clock, the text of the tokens. The decoder gives its
/// tokens, and the seconds that the prompt took; its caller knows where its drafts come from.
pub(crate) fn write(
    (model, resolved): (&Model, &Resolved),
    draft_source: DraftSource,
    observe: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    decode: impl FnOnce(Observer<'_>) -> Result<(Generation, f64)>,
) -> Result<Completion> {
    let Resolved { prompt, stop, .. } = resolved;
    let began = Instant::now();
    let mut stops = Stops::new(model, prompt, stop)?;
    let mut on_event = |event: Event<'_>| {
        match observe(event) {
            ControlFlow::Continue(()) => stops.end(event),
            // All that is finished.
            ControlFlow::Break(()) => ControlFlow::Break(usize::MAX),
        }
    };
    let (generation, prefill) = decode(&mut on_event)?;
    let Generation { tokens, text_len, forwards, finish, drafts, .. } = generation;
    let elapsed = began.elapsed().as_secs_f64();
    let text = match &model.tokenizer {
        Some(tokenizer) => {
            let mut text = TokenText::new(tokenizer, prompt, stop)?;
            text.push(&tokens[..text_len])?;
            text.finish()?.0
        }
        None => String::new(),
    };
    Ok(Completion {
        text,
        tokens,
        text_len,
        prompt_tokens: prompt.len(),
        prompt_precision: resolved.prompt_precision,
        attention: resolved.attention_of_blocks(),
        forwards,
        finish,
        seconds: Seconds { prefill, decode: elapsed - prefill },
        draft_source,
        drafts,
    })
}

pub(crate) type Observer<'a> = &'a mut dyn FnMut(Event<'_>) -> ControlFlow<usize>;

/// Decodes a request in blocks or token by token, as it says, with what it brings along.
fn decoded(
    session: &mut Session,
    request: Request,
    guidance: Guidance,
    observer: Observer<'_>,
) -> Result<(Generation, f64)> {
    let generation = lacuna_samplers::generate_with(session, request, guidance, observer)?;
    Ok((generation, session.prefill_seconds()))
}

fn released(
    session: &mut Session,
    prompt: &[u32],
    settings: &Settings,
    observer: Observer<'_>,
) -> Result<(Generation, f64)> {
    let output = reference::generate(session, prompt, settings, observer)?;
    let tokens = output.tokens().to_vec();
    let text_len = tokens.iter().position(|t| Some(*t) == settings.eos_id).unwrap_or(tokens.len());
    let (finish, forwards) = (output.finish, output.nfe);
    let drafts = DraftCounts::default();
    let generation =
        Generation { request: 0, tokens, text_len, finish, forwards, blocks: 0, drafts };
    Ok((generation, session.prefill_seconds()))
}

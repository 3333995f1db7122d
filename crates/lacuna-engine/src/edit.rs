//! Writes a text anew with its old version as draft.

use lacuna_checkpoint::Attention;
use lacuna_samplers::{Drafter, Event, Guidance, generate_with};
use std::ops::ControlFlow;

use crate::error::{Error, Result};
use crate::generate::{Completion, write};
use crate::open::Model;
use crate::options::{DraftSource, GenerateOptions, Prompt, prompt_ids};
use crate::resolve::{Plan, Resolved, drafting};
use crate::session::Session;

/// Continues a prompt that asks for `old`, changed, with the blocks of `old` as draft: many are verified in
/// one pass. The tokens are those of [`generate`](crate::generate) (up to rounding in the passes); drafts are
/// accepted where the fill rule takes a whole block at once, as
/// [`Threshold`](lacuna_samplers::FillRule::Threshold) does where the model is sure.
///
/// # Errors
/// As [`generate`](crate::generate); also in reference mode, which knows no drafts, and under full attention, where one
/// block is the whole text.
pub fn edit(
    model: &Model,
    prompt: impl Into<Prompt>,
    old: &[u32],
    options: &GenerateOptions,
    mut observe: impl FnMut(Event<'_>),
) -> Result<Completion> {
    // The old text is the draft.
    let options = GenerateOptions { drafts: Some(DraftSource::OldText), ..options.clone() };
    let session = &mut Session::of(model);
    let resolved = Resolved::new(model, prompt, &options)?;
    edit_in(session, model, &resolved, old, |event| {
        observe(event);
        ControlFlow::Continue(())
    })
}

/// [`edit`] of a request that is resolved, in a session of its caller, on the same model: its sequence 0, which may be
/// [seated](Session::seat) with what was read of the prompt. Where `observe` breaks, the text ends with its last
/// finished block. Nothing is looked up, whatever the request says: the old text is the draft.
///
/// # Errors
/// As [`edit`].
pub fn edit_in(
    session: &mut Session,
    model: &Model,
    resolved: &Resolved,
    old: &[u32],
    mut observe: impl FnMut(Event<'_>) -> ControlFlow<()>,
) -> Result<Completion> {
    let old = prompt_ids(model, Prompt::Ids(old.to_vec()))?;
    let (request, causal) = match &resolved.plan {
        Plan::Blocks(request) => (request, false),
        Plan::Autoregressive(request) => (request, true),
        Plan::Reference(_) => {
            let message = "the released algorithm takes no drafts; decode without one";
            return Err(Error::Request(message.into()));
        }
    };
    if resolved.attention == Attention::Full {
        let message = "under full attention the whole text is one block, and there is none behind it to be drafted; \
                       decode without a draft";
        return Err(Error::Request(message.into()));
    }
    let drafter = Some(Drafter::old_text(old, drafting(model, causal))?);
    let guidance = Guidance { drafter, ..resolved.guidance()? };
    write((model, resolved), DraftSource::OldText, &mut observe, |observer| {
        let request = request.clone();
        session.begin(true, resolved.prompt_precision);
        let edited = generate_with(session, request, guidance, observer)?;
        Ok((edited, session.prefill_seconds()))
    })
}

//! A text written anew with its old version as draft.

use lacuna_samplers::{Drafting, Edit, Event};
use std::ops::ControlFlow;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::generate::{Decoded, GenerateOptions, Prompt, Written, prompt_ids, write};
use crate::open::Model;
use crate::resolve::{Plan, Resolved};
use crate::session::Session;

/// A text written anew, and what its draft was good for.
#[derive(Clone, Debug)]
pub struct Edited {
    /// The new text: the tokens that [`generate`](crate::generate) writes.
    pub written: Written,
    /// Passes that verified drafts, among `written.forwards`.
    pub speculative_passes: usize,
    /// Blocks that stood in a draft.
    pub drafted_blocks: usize,
    /// Drafted blocks that came out equal to their draft in one refinement.
    pub accepted_blocks: usize,
    /// Passes that [`generate`](crate::generate) would have taken on top.
    pub passes_saved: usize,
}

/// Continues a prompt that asks for `old`, changed, with the blocks of `old` as draft: many are verified in
/// one pass. The tokens are those of [`generate`](crate::generate) (up to rounding in the passes); drafts are
/// accepted where the fill rule takes a whole block at once, as
/// [`Threshold`](lacuna_samplers::FillRule::Threshold) does where the model is sure.
///
/// # Errors
/// As [`generate`](crate::generate); also for an autoregressive checkpoint and for reference mode, which know
/// no drafts.
pub fn edit(
    model: &Model,
    prompt: impl Into<Prompt>,
    old: &[u32],
    options: &GenerateOptions,
    mut observe: impl FnMut(Event<'_>),
) -> Result<Edited> {
    let old = prompt_ids(model, Prompt::Ids(old.to_vec()))?;
    let resolved = Resolved::new(model, prompt, options)?;
    let Plan::Blocks(request) = &resolved.plan else {
        let message = "only block diffusion in fused mode takes drafts; decode without one";
        return Err(Error::Request(message.into()));
    };
    let mut counts = None;
    let mut observe = |event: Event<'_>| {
        observe(event);
        ControlFlow::Continue(())
    };
    let written = write(model, &resolved, &mut observe, |observer| {
        let request = request.clone();
        let mut session = Session::new(Arc::clone(&model.transformer));
        let edit =
            lacuna_samplers::edit(&mut session, request, &old, Drafting::default(), observer)?;
        let decoded = Decoded::new(edit.generation.clone(), session.prefill_seconds());
        counts = Some(edit);
        Ok(decoded)
    })?;
    let Edit { speculative_passes, drafted_blocks, accepted_blocks, passes_saved, .. } =
        counts.expect("set before a decode ends well");
    Ok(Edited { written, speculative_passes, drafted_blocks, accepted_blocks, passes_saved })
}

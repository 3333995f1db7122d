//! Decides how texts are scored: the methods that a checkpoint can have, blocks, windows, passes.

use anyhow::Result;
use clap::ValueEnum;
use lacuna::likelihood::{
    Blocks, Likelihood, Method, Scoring, Strides, Text, likelihood_of, scored_positions,
};
use lacuna::objective::EXACT_ELIGIBLE_MAX;
use lacuna::{Attention, Error, Model};
use std::num::NonZeroUsize;
use std::ops::Range;

use super::super::{Usage, said};
use super::tokens::Tokens;
use super::{Args, BATCH, ENUMERATED_MAX, MANY_PASSES};

/// A method as the command line names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(super) enum Named {
    /// One causal pass
    Ar,
    /// The NELBO, every way to mask a block enumerated
    Exact,
    /// Blocks filled from the left
    LeftToRight,
    /// An estimate of the NELBO
    MonteCarlo,
    /// All of them that the checkpoint can have
    All,
}

impl Named {
    const METHODS: [Self; 4] = [Self::Ar, Self::Exact, Self::LeftToRight, Self::MonteCarlo];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ar => "ar",
            Self::Exact => "exact",
            Self::LeftToRight => "left-to-right",
            Self::MonteCarlo => "monte-carlo",
            Self::All => "all",
        }
    }

    pub(super) fn of_name(name: &str) -> Option<Self> {
        Self::METHODS.into_iter().find(|method| method.name() == name)
    }
}

/// A method that is left out, and the reason.
pub(super) type Missing = (Named, String);

/// The way in which texts are scored.
pub(super) struct Plan<'m> {
    pub(super) model: &'m Model,
    /// The methods, in the order of their table.
    pub(super) methods: Vec<Named>,
    pub(super) missing: Vec<Missing>,
    pub(super) attention: Attention,
    block_size: NonZeroUsize,
    mask_id: Option<u32>,
    samples: usize,
    seed: u64,
    /// Tokens that are read at once at most, and the number by which windows follow each other.
    window: usize,
    stride: Option<usize>,
    /// True if a method is named by itself: then it is that one or an error.
    is_single: bool,
}

/// A part of a text that is read at once.
pub(super) struct Window {
    pub(super) read: Range<usize>,
    /// A flag for each token that is read: true if it counts in this window.
    pub(super) eligible: Vec<bool>,
}

impl<'m> Plan<'m> {
    /// The plan that the flags ask for; `most` is the scored tokens of the text that has most. In-place middles stand between what is
    /// around them.
    pub(super) fn new(
        args: &Args,
        model: &'m Model,
        most: usize,
        are_in_place: bool,
    ) -> Result<Self> {
        let attention = attention(args, model);
        let diffusion = model.is_block_diffusion();
        let usual = match (diffusion, attention) {
            // Its blocks are those of a block-diffusion method.
            _ if args.order.any_order => Named::LeftToRight,
            (false, _) => Named::Ar,
            (true, Attention::Full) if most > ENUMERATED_MAX => Named::MonteCarlo,
            (true, _) => Named::Exact,
        };
        let is_all = args.how.method.contains(&Named::All);
        let mut wanted = match (is_all, args.how.method.is_empty()) {
            (true, _) => Named::METHODS.to_vec(),
            (_, true) => vec![usual],
            _ => args.how.method.clone(),
        };
        wanted.sort_unstable();
        wanted.dedup();
        if let ([Named::Ar], Some(other)) =
            (&wanted[..], args.how.attention.filter(|one| *one != Attention::Causal))
        {
            let message = format!(
                "--attention {other}: --method ar reads causally; leave one of the two out"
            );
            return Err(Usage(message).into());
        }
        let positions = model.config().max_position_embeddings;
        let window = args.window.map_or(positions, |window| window.get().min(positions));
        let mut plan = Self {
            model,
            methods: Vec::new(),
            missing: Vec::new(),
            attention,
            block_size: model.block_size(args.how.block_size),
            mask_id: args.how.mask_id.or_else(|| model.mask_id()),
            samples: args.how.samples,
            seed: args.how.seed,
            window,
            stride: args.stride.map(NonZeroUsize::get),
            is_single: wanted.len() == 1,
        };
        for method in wanted {
            match plan.refuses(method, args) {
                None => plan.methods.push(method),
                Some(error) if plan.is_single => return Err(error),
                Some(error) => plan.missing.push((method, said(&error))),
            }
        }
        if are_in_place && plan.methods.contains(&Named::Ar) {
            let reason = "it reads causally, and a middle in its place is read with what stands behind it; --infill fim puts \
                          that before it";
            if plan.is_single {
                return Err(Usage(format!("--method ar: {reason}")).into());
            }
            plan.leave_out(Named::Ar, reason.into());
        }
        // Nobody asks for hours by the word `all`.
        let passes = plan.passes_of_block(Named::Exact, plan.block(Named::Exact, most));
        if is_all && passes > MANY_PASSES && plan.methods.contains(&Named::Exact) {
            plan.leave_out(Named::Exact, format!("{passes} passes; --method exact makes them"));
        }
        if plan.methods.is_empty() {
            let reasons = plan.missing.iter().map(|(one, why)| format!("{}: {why}", one.name()));
            anyhow::bail!(
                "none of the methods is for this model; {}",
                reasons.collect::<Vec<_>>().join("; ")
            );
        }
        Ok(plan)
    }

    /// True if one method was asked for by itself.
    pub(super) fn is_single(&self) -> bool {
        self.is_single
    }

    /// Leaves a method out of the table, for this reason.
    pub(super) fn leave_out(&mut self, method: Named, reason: String) {
        self.methods.retain(|other| *other != method);
        self.missing.push((method, reason));
    }

    /// The reason why this checkpoint can't be scored so.
    fn refuses(&self, method: Named, args: &Args) -> Option<anyhow::Error> {
        let (model, is_ar) = (self.model, method == Named::Ar);
        let diffusion = model.is_block_diffusion();
        if is_ar == diffusion && !args.how.allow_mode_mismatch {
            let own = if diffusion { "exact, left-to-right and monte-carlo are" } else { "ar is" };
            let error = anyhow::Error::from(Error::Mode(lacuna::mode_mismatch(!diffusion)));
            return Some(match self.is_single {
                true => {
                    let method = method.name();
                    error.context(format!("--method {method} is not for this model, {own}"))
                }
                false => error,
            });
        }
        if is_ar {
            return None;
        }
        if self.mask_id.is_none() {
            return Some(Error::Unsupported { what: lacuna::no_mask(model) }.into());
        }
        let one = NonZeroUsize::MIN;
        let size = args.how.block_size.filter(|_| self.attention == Attention::Causal)?;
        (size != one || method == Named::MonteCarlo).then(|| {
            let message = format!(
                "--block-size {size}: under causal attention exact and left-to-right take the text token by token, and \
                 monte-carlo masks it as a whole; leave it out, or give --attention block-causal"
            );
            Usage(message).into()
        })
    }

    /// The tokens that a method masks as one block, in a window of so many.
    fn block(&self, method: Named, tokens: usize) -> NonZeroUsize {
        let whole = NonZeroUsize::new(tokens).unwrap_or(NonZeroUsize::MIN);
        match (self.attention, method) {
            (Attention::BlockCausal, _) => self.block_size,
            (Attention::Full, _) | (Attention::Causal, Named::MonteCarlo) => whole,
            (Attention::Causal, _) => NonZeroUsize::MIN,
        }
    }

    /// The blocks of a window under this plan, for methods that have some.
    pub(super) fn blocks(&self, method: Named, tokens: usize) -> Option<Blocks> {
        let mask_id = self.mask_id.filter(|_| method != Named::Ar)?;
        Some(Blocks { block_size: self.block(method, tokens), mask_id })
    }

    /// The windows of a text, in which each scored token counts once.
    pub(super) fn windows(&self, text: &Tokens) -> Result<Vec<Window>> {
        let tokens = text.tokens.len();
        if tokens <= self.window {
            return Ok(vec![Window { read: 0..tokens, eligible: text.eligible.clone() }]);
        }
        if text.is_whole {
            anyhow::bail!(
                "a middle and what stands around it have {tokens} tokens, and {} are read at once: shorten what stands \
                 around it",
                self.window
            );
        }
        let strides = self.strides()?;
        let mut windows = Vec::new();
        for (read, scored) in strides.windows(tokens) {
            let counts = |at: usize| scored.contains(&at) && text.eligible[at];
            let eligible: Vec<bool> = read.clone().map(counts).collect();
            if eligible.iter().skip(1).any(|counts| *counts) {
                windows.push(Window { read, eligible });
            }
        }
        Ok(windows)
    }

    /// The windows of texts that do not fit into one.
    pub(super) fn strides(&self) -> Result<Strides> {
        let is_in_blocks = self.methods != [Named::Ar] && self.attention == Attention::BlockCausal;
        let step = if is_in_blocks { self.block_size.get() } else { 1 };
        let stride = self.stride.unwrap_or((self.window / 2 / step * step).max(step));
        let strides = Strides::new(self.window, stride, step);
        strides.map_err(|error| Usage(format!("--stride, --window: {error}")).into())
    }

    /// Tokens that are read at once at most.
    pub(super) fn window(&self) -> usize {
        self.window
    }

    /// The number of passes that a method takes over a window; an error where they can't be listed.
    pub(super) fn passes(&self, method: Named, window: &Window) -> Result<u64> {
        let size = self.block(method, window.read.len()).get();
        let scored = scored(window);
        let block = scored.chunks(size).map(|block| block.iter().filter(|s| **s).count()).max();
        let block = NonZeroUsize::new(block.unwrap_or(0)).unwrap_or(NonZeroUsize::MIN);
        let passes = self.passes_of_block(method, block);
        if method == Named::Exact && passes >= 1 << EXACT_ELIGIBLE_MAX {
            anyhow::bail!(
                "--method exact lists every way to mask a block, and one of this text has more than {EXACT_ELIGIBLE_MAX} \
                 tokens; --method monte-carlo estimates the same and states its error"
            );
        }
        Ok(passes)
    }

    /// The number of passes for blocks of which the largest has so many scored tokens.
    fn passes_of_block(&self, method: Named, block: NonZeroUsize) -> u64 {
        match method {
            Named::LeftToRight => block.get() as u64,
            Named::MonteCarlo => self.samples as u64,
            Named::Exact => {
                let patterns = u32::try_from(block.get()).ok().and_then(|b| 1u64.checked_shl(b));
                patterns.map_or(u64::MAX, |patterns| patterns - 1)
            }
            Named::Ar | Named::All => 1,
        }
    }

    /// The runs of the model that a method takes over a window: a batch of passes is one, and so is the clean text.
    pub(super) fn runs(&self, method: Named, window: &Window) -> Result<u64> {
        let passes = self.passes(method, window)?;
        Ok(passes.div_ceil(BATCH as u64) + u64::from(passes > 1))
    }

    /// The settings by which a method scores a window.
    pub(super) fn scoring(&self, method: Named, window: &Window) -> Scoring {
        Scoring {
            method: match method {
                Named::Ar | Named::All => Method::Autoregressive,
                Named::Exact => Method::Exact,
                Named::LeftToRight => Method::LeftToRight,
                Named::MonteCarlo => Method::MonteCarlo { samples: self.samples, seed: self.seed },
            },
            blocks: self.blocks(method, window.read.len()),
            attention: self.attention,
            document_mask: false,
            batch_size: BATCH,
        }
    }

    /// Scores a text by a method; `None` where `between` ended it. `number` is that of the text among all.
    pub(super) fn score(
        &self,
        method: Named,
        text: &Tokens,
        number: usize,
        between: &mut dyn FnMut() -> bool,
    ) -> Result<Option<Likelihood>> {
        let mut total = None;
        for (at, window) in self.windows(text)?.iter().enumerate() {
            self.passes(method, window)?;
            let scoring = self.scoring(method, window);
            let documents = [window.read.len()];
            let read = Text {
                tokens: &text.tokens[window.read.clone()],
                eligible: &window.eligible,
                documents: &documents,
            };
            // A stream of masks for each window of each text.
            let number = ((number as u64) << 32) + at as u64;
            let model = &self.model.transformer;
            let Some(one) = likelihood_of(model, &read, number, &scoring, between)? else {
                return Ok(None);
            };
            *total.get_or_insert_with(|| Likelihood::none(scoring.method)) += one;
        }
        Ok(total)
    }
}

/// Flags the tokens of a window that are scored.
fn scored(window: &Window) -> Vec<bool> {
    let tokens = vec![0; window.read.len()];
    let documents = [tokens.len()];
    let text = Text { tokens: &tokens, eligible: &window.eligible, documents: &documents };
    scored_positions(&text, false)
}

/// The attention that was asked for, else the checkpoint's. A block size that is given to one of full attention has it
/// scored block by block.
pub(super) fn attention(args: &Args, model: &Model) -> Attention {
    let of_checkpoint = match model.config().attention {
        Attention::Full if args.how.block_size.is_some() => Attention::BlockCausal,
        other => other,
    };
    args.how.attention.unwrap_or(of_checkpoint)
}

//! Makes options and a model one exact request. It is the only place that knows what is taken where
//! nothing is said.

use lacuna_checkpoint::{Attention, CachePrecision, Mode, Predicts};
use lacuna_model::Activations;
use lacuna_samplers::reference::{Remasking, Settings};
use lacuna_samplers::trace::Line;
use lacuna_samplers::{Constraint, Drafter, Drafting, FillRule, Guidance, Request};
use std::num::NonZeroUsize;
use std::sync::Arc;

use crate::advice::{Advice, Knob};
use crate::error::{Error, Result, unsupported};
use crate::open::Model;
use crate::options::{Algorithm, DraftSource, GenerateOptions, Prompt, prompt_ids};

mod attention;

pub use attention::attention;

/// Tokens in a block where neither options nor checkpoint say.
const BLOCK_SIZE: NonZeroUsize = NonZeroUsize::new(4).expect("not zero");

/// The confidence from which positions are filled together where no rule is asked for.
const TAU: f64 = 0.9;

/// A request with nothing left to decide: what options and checkpoint amount to.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The tokens to continue, as they were given.
    pub prompt: Vec<u32>,
    /// The precision in which they are read: f32 where the model's weights have no form for another.
    pub prompt_precision: Activations,
    /// Texts that end the continuation.
    pub stop: Vec<String>,
    /// The sampler's arguments.
    pub plan: Plan,
    /// The tokens that a masked position sees; causal where the text is written token by token.
    pub attention: Attention,
    /// The precision in which the model keeps keys and values.
    pub cache: CachePrecision,
    /// The texts in which drafts are looked up besides the request, and the limits of drafts; None where nothing is
    /// drafted.
    pub lookup: Option<Lookup>,
    /// The rule that the new text keeps to.
    pub constraint: Option<Rule>,
}

/// A pattern, made a rule for a model.
#[derive(Clone, Debug)]
pub struct Rule {
    /// The regular expression that it is.
    pub regex: String,
    /// The automaton over the model's tokens.
    pub constraint: Arc<Constraint>,
}

/// Drafts by lookup, as far as a request decides them.
#[derive(Clone, Debug)]
pub struct Lookup {
    /// Texts besides prompt and what is written.
    pub texts: Vec<Vec<u32>>,
    /// Limits, from what the model's passes cost.
    pub limits: Drafting,
}

/// The arguments of the sampler that decodes a request.
#[derive(Clone, Debug)]
pub enum Plan {
    /// Of next-token decoding.
    Autoregressive(Request),
    /// Of block decoding.
    Blocks(Request),
    /// Of the released algorithm.
    Reference(Settings),
}

impl Resolved {
    /// Decides everything that `options` leave open, from what the checkpoint says of itself.
    ///
    /// At most as many new tokens remain as the model has positions for; the released algorithm gets what was asked for,
    /// since it fills blocks of a number that must come out even.
    ///
    /// # Errors
    /// Errors if the checkpoint was trained for another algorithm, there is no tokenizer for a text, an id is outside
    /// the vocabulary, the model has no position for a new token, or an option is none of the algorithm's.
    pub fn new(
        model: &Model,
        prompt: impl Into<Prompt>,
        options: &GenerateOptions,
    ) -> Result<Self> {
        let prompt = prompt_ids(model, prompt.into())?;
        let algorithm = algorithm(model, options);
        let is_autoregressive = !model.is_block_diffusion();
        let asked = algorithm == Algorithm::Autoregressive;
        if asked != is_autoregressive && !options.allow_mode_mismatch {
            return Err(Error::Mode(mismatch(is_autoregressive)));
        }
        let max_new_tokens = within_positions(model, &prompt, algorithm, options)?;
        let attention = attention(model, algorithm, options)?;
        let request = |base: Request| Request {
            min_new_tokens: options.min_new_tokens,
            sampling: options.sampling.clone(),
            eos_ids: eos_ids(model, options),
            ..base
        };
        let plan = match algorithm {
            Algorithm::Autoregressive => {
                let mut read = prompt.clone();
                if read.is_empty() {
                    // Something must come before the first token.
                    read.extend(model.config().bos_token_id);
                }
                // An autoregressive checkpoint may have no MASK.
                let mask_id = options.mask_id.or(model.config().mask_token_id());
                let mut request = request(Request::autoregressive(read, max_new_tokens));
                request.mask_id = mask_id.unwrap_or(request.mask_id);
                Plan::Autoregressive(request)
            }
            Algorithm::Blocks => {
                let mask_id = mask_id(model, options)?;
                let size = model.block_size(options.block_size);
                let base = Request::new(prompt.clone(), max_new_tokens, size, mask_id);
                let mut request = request(attention::seeing(attention, base));
                request.steps = options.steps;
                request.fill = fill(model, algorithm, options);
                Plan::Blocks(request)
            }
            Algorithm::Reference => Plan::Reference(settings(model, options, max_new_tokens)?),
        };
        // Of a canvas nothing is read ahead: every pass is over all of it, and exact.
        let prompt_precision = match attention {
            Attention::Full => Activations::F32,
            _ => model.prompt_precision(options.prompt_precision),
        };
        let cache = model.transformer.cache_precision();
        let lookup = lookup(model, (&plan, attention), options)?;
        let constraint = rule(model, &plan, options)?;
        let stop = options.stop.clone();
        Ok(Self { prompt, prompt_precision, stop, plan, attention, cache, lookup, constraint })
    }

    /// The source of its drafts and its rule, for whoever decodes it.
    ///
    /// # Errors
    /// Limits of drafts that are out of range.
    pub fn guidance(&self) -> Result<Guidance> {
        let drafter =
            self.lookup.as_ref().map(|lookup| Drafter::lookup(&lookup.texts, lookup.limits));
        let constraint = self.constraint.as_ref().map(|rule| Arc::clone(&rule.constraint));
        Ok(Guidance { drafter: drafter.transpose()?, constraint })
    }

    /// The source of its drafts, by name.
    pub fn drafts(&self) -> DraftSource {
        match self.lookup {
            Some(_) => DraftSource::Lookup,
            None => DraftSource::None,
        }
    }

    /// The tokens that a masked position sees; None where the text is written token by token.
    pub fn attention_of_blocks(&self) -> Option<Attention> {
        Some(self.attention).filter(|_| self.algorithm() != Algorithm::Autoregressive)
    }

    /// The number of tokens that are refined together: one where the text is written token by token.
    pub fn block_size(&self) -> usize {
        match &self.plan {
            Plan::Autoregressive(request) | Plan::Blocks(request) => request.block_size().get(),
            Plan::Reference(settings) => settings.block_length,
        }
    }

    /// The algorithm, with its settings.
    pub fn algorithm(&self) -> Algorithm {
        match self.plan {
            Plan::Autoregressive(_) => Algorithm::Autoregressive,
            Plan::Blocks(_) => Algorithm::Blocks,
            Plan::Reference(_) => Algorithm::Reference,
        }
    }

    /// The first line of the trace of this request; the events are the lines after it, and
    /// [`Completion::trace_end`](crate::Completion::trace_end) the last.
    ///
    /// # Errors
    /// A block size that the released algorithm does not take.
    pub fn trace_header(&self) -> Result<Line> {
        let header = match &self.plan {
            Plan::Autoregressive(request) | Plan::Blocks(request) => Line::header(0, request),
            Plan::Reference(settings) => Line::reference_header(&self.prompt, settings)?,
        };
        let header = match self.prompt_precision {
            Activations::F32 => header,
            rounded => header.with_prompt_precision(rounded.name()),
        };
        let header = match self.cache {
            CachePrecision::F32 => header,
            packed => header.with_cache_precision(packed.name()),
        };
        let header = match self.drafts() {
            DraftSource::None => header,
            source => header.with_drafts(source.name()),
        };
        // Causal blocks are a view of the sampler's own, whose headers say so.
        let header = match self.attention {
            Attention::Full => header.with_attention(self.attention.name()),
            Attention::BlockCausal | Attention::Causal => header,
        };
        Ok(match &self.constraint {
            None => header,
            Some(rule) => header.with_constraint(&rule.regex),
        })
    }

    /// The rule that fills masked positions, in a few words for people.
    pub fn rule(&self) -> String {
        match &self.plan {
            Plan::Autoregressive(_) => "one by one".to_owned(),
            Plan::Blocks(request) => request.fill.to_string(),
            Plan::Reference(Settings { threshold: Some(tau), .. }) => {
                format!("reference {}", FillRule::Threshold { tau: *tau })
            }
            Plan::Reference(Settings { remasking: Remasking::Random, .. }) => {
                format!("reference {}", FillRule::Random)
            }
            Plan::Reference(_) => format!("reference {}", FillRule::LowConfidence),
        }
    }
}

/// The algorithm for a model under these options: the one asked for, else the one it was trained for.
pub fn algorithm(model: &Model, options: &GenerateOptions) -> Algorithm {
    options.algorithm.unwrap_or(match model.is_block_diffusion() {
        true => Algorithm::Blocks,
        false => Algorithm::Autoregressive,
    })
}

/// The rule that says which masked positions a refinement fills: as asked for, else every one that
/// is at least this confident.
fn fill(model: &Model, algorithm: Algorithm, options: &GenerateOptions) -> FillRule {
    // The released algorithm, and a number of steps, share the positions out.
    let is_shared_out = algorithm == Algorithm::Reference || options.steps.is_some();
    // A shifted head reads a token off the position before it. Where that is masked too, what it says of the token is
    // of nothing in particular, however sure: one position a pass.
    let is_alone = model.config().predicts == Predicts::Next;
    options.fill.unwrap_or(match is_shared_out || is_alone {
        true => FillRule::LowConfidence,
        false => FillRule::Threshold { tau: TAU },
    })
}

fn eos_ids(model: &Model, options: &GenerateOptions) -> Vec<u32> {
    options.eos_ids.clone().unwrap_or_else(|| model.ends_of_text())
}

fn mask_id(model: &Model, options: &GenerateOptions) -> Result<u32> {
    options.mask_id.or_else(|| model.mask_id()).ok_or_else(|| unsupported(no_mask(model)))
}

/// Drafts by lookup, if they were asked for or pay.
fn lookup(
    model: &Model,
    (plan, attention): (&Plan, Attention),
    options: &GenerateOptions,
) -> Result<Option<Lookup>> {
    let shifted = model.config().predicts == Predicts::Next;
    let (refusal, pays) = match plan {
        Plan::Autoregressive(_) => (None, true),
        Plan::Reference(_) => (
            Some("the released algorithm, which checks no drafts; leave out one of the two"),
            false,
        ),
        Plan::Blocks(_) if attention == Attention::Full => (
            Some(
                "full attention: the whole text is one block, and there is none behind it to be drafted",
            ),
            false,
        ),
        Plan::Blocks(_) if shifted => {
            (Some("a model whose head is shifted, behind which drafts can't be checked"), false)
        }
        // Blocks of four come true too rarely for what their rows cost: see `drafting`.
        Plan::Blocks(_) => (None, false),
    };
    match (
        options.drafts.unwrap_or(if pays { DraftSource::Lookup } else { DraftSource::None }),
        refusal,
    ) {
        (DraftSource::None | DraftSource::OldText, _) => Ok(None),
        (DraftSource::Lookup, Some(reason)) => {
            Err(unsupported(format!("{} lookup: this is {reason}", Knob::Drafts)))
        }
        (DraftSource::Lookup, None) => {
            let texts = options.draft_texts.iter();
            let texts = texts.map(|text| prompt_ids(model, Prompt::Ids(text.clone())));
            let texts = texts.collect::<Result<_>>()?;
            let causal = matches!(plan, Plan::Autoregressive(_));
            Ok(Some(Lookup { texts, limits: drafting(model, causal) }))
        }
    }
}

/// The rule of a pattern, where nothing else says where the text ends.
fn rule(model: &Model, plan: &Plan, options: &GenerateOptions) -> Result<Option<Rule>> {
    let Some(pattern) = &options.pattern else { return Ok(None) };
    let refusal = match plan {
        Plan::Reference(_) => Some((
            Knob::Algorithm,
            "the released algorithm fills positions without looking at what stands beside them",
        )),
        _ if !options.stop.is_empty() => {
            Some((Knob::Stop, "a stop text would end the text where the pattern does not"))
        }
        _ if options.min_new_tokens > 0 => {
            Some((Knob::MinNewTokens, "the pattern itself says where the text may end"))
        }
        _ => None,
    };
    if let Some((knob, reason)) = refusal {
        return Err(unsupported(format!(
            "{} and {knob}: {reason}; leave one of the two out",
            Knob::Pattern
        )));
    }
    let (Plan::Autoregressive(request) | Plan::Blocks(request)) = plan else { return Ok(None) };
    if request.eos_ids.is_empty() {
        let message = format!(
            "{}: a text that keeps to a pattern ends with an end-of-text token, and there is none here",
            Knob::Pattern
        );
        return Err(unsupported(message));
    }
    let constraint = pattern.constraint(model, &request.eos_ids)?;
    Ok(Some(Rule { regex: pattern.regex()?, constraint }))
}

/// The limits of drafts, from what a pass of more rows costs on this model.
pub(crate) fn drafting(model: &Model, causal: bool) -> Drafting {
    // By the passes of 1 to 16 rows in benches/record/2026-11-26-intel-xeon-2t each row more takes 5 to 9 % of a pass of
    // one row where weights are floats, for which a pass waits, 5 to 14 % in 8 bits and 18 to 22 % in 4. The passes that
    // this saves of whole decodes are in benches/record/2026-11-26-amd-epyc-2t/drafts.md.
    let row_cost = match model.prompt_precision(Activations::Int8) {
        _ if model.is_on_machine() || !model.transformer.device().is_cpu() => 0.005,
        Activations::F32 => 0.06,
        Activations::Int8 => 0.18,
    };
    let blocks_max = if causal { 24 } else { 8 };
    Drafting { blocks_max, row_cost, ..Drafting::default() }
}

/// No more new tokens than the model has positions for.
fn within_positions(
    model: &Model,
    prompt: &[u32],
    algorithm: Algorithm,
    options: &GenerateOptions,
) -> Result<usize> {
    let (max, held) = (model.config().max_position_embeddings, prompt.len());
    let (room, asked) = (max.saturating_sub(held), options.max_new_tokens);
    if asked > room && (room == 0 || algorithm == Algorithm::Reference) {
        let reason = format!(
            "a prompt of {held} tokens and {asked} new ones are more than the model's {max} positions; \
             shorten the prompt or ask for fewer new tokens"
        );
        return Err(Error::Request(reason));
    }
    Ok(asked.min(room))
}

/// The arguments of the released code.
fn settings(model: &Model, options: &GenerateOptions, max_new_tokens: usize) -> Result<Settings> {
    let (remasking, threshold) = match fill(model, Algorithm::Reference, options) {
        FillRule::LowConfidence => (Remasking::LowConfidence, None),
        FillRule::Threshold { tau } => (Remasking::LowConfidence, Some(tau)),
        FillRule::Random => (Remasking::Random, None),
        other => {
            let message = format!(
                "{} reference knows low-confidence, random and {}, not {other}; the default mode has it",
                Knob::Algorithm,
                Knob::Threshold
            );
            return Err(unsupported(message));
        }
    };
    let block_size = model.block_size(options.block_size).get();
    let new = Settings::new(max_new_tokens, block_size, mask_id(model, options)?);
    Ok(Settings {
        steps: options.steps.map_or(new.steps, NonZeroUsize::get),
        temperature: options.sampling.temperature,
        remasking,
        threshold,
        eos_id: eos_ids(model, options).first().copied(),
        forbid_mask: options.forbid_mask,
        seed: options.sampling.seed,
        ..new
    })
}

impl Model {
    /// Tokens in a block: as asked for, else the checkpoint's, else 4.
    pub fn block_size(&self, asked: Option<NonZeroUsize>) -> NonZeroUsize {
        let of_checkpoint = match self.config().mode {
            Mode::BlockDiffusion { block_size, .. } => Some(block_size),
            Mode::Autoregressive => None,
        };
        asked.or(of_checkpoint).unwrap_or(BLOCK_SIZE)
    }

    /// The precision in which prompts are read where this one is asked for: f32, unless some of the weights are stored in
    /// a format that is multiplied with rounded activations, on the CPU.
    pub fn prompt_precision(&self, asked: Activations) -> Activations {
        match self.is_on_machine() {
            true => Activations::F32,
            false => self.transformer.precision(asked),
        }
    }
}

/// The words for a model that is to fill in masked blocks where nothing names MASK.
pub fn no_mask(model: &Model) -> Advice {
    let way_out = match model.is_block_diffusion() {
        true => String::new(),
        false => format!(
            "; without {} it is decoded token by token, as it was trained, and {} makes it a start for training",
            Knob::AllowModeMismatch,
            Knob::ToBlockDiffusion
        ),
    };
    format!(
        "the model is to fill in masked blocks, and neither its configuration nor its tokenizer names a MASK token: \
         give the id of a special token with {} N{way_out}",
        Knob::MaskId
    )
    .into()
}

/// The words for a checkpoint that is to be used as what it was not trained for.
pub fn mismatch(autoregressive: bool) -> Advice {
    let (is, not) = if autoregressive {
        ("autoregressive: trained to predict the next token", "fill in masked blocks")
    } else {
        ("block diffusion: trained to fill in masked blocks", "predict the next token")
    };
    let mask = match autoregressive {
        true => format!(" (with {} N if nothing names a MASK token)", Knob::MaskId),
        false => String::new(),
    };
    format!(
        "this checkpoint is {is}, and would write nonsense if made to {not}; \
         {} does it all the same{mask}",
        Knob::AllowModeMismatch
    )
    .into()
}

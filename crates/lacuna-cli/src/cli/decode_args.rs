//! Holds the decoding flags that generate, chat, fill and edit share.

use anyhow::Result;
use lacuna::checkpoint::{StorageDtype, Workload};
use lacuna::samplers::{FillRule, Sampling};
use lacuna::{
    Activations, Algorithm, Attention, CachePrecision, GenerateOptions, MAX_NEW_TOKENS, Model,
    Prompt, algorithm, attention,
};
use std::num::NonZeroUsize;

use super::Usage;
use super::model_args::cache_precision;
use super::ranges::{self, Ids};

/// Flags that say how a text is written: flags that agree with one another.
#[derive(Debug)]
pub(crate) struct DecodeArgs(Flags);

impl std::ops::Deref for DecodeArgs {
    type Target = Flags;

    fn deref(&self) -> &Flags {
        &self.0
    }
}

impl clap::FromArgMatches for DecodeArgs {
    fn from_arg_matches(matches: &clap::ArgMatches) -> Result<Self, clap::Error> {
        let flags = Flags::from_arg_matches(matches)?;
        let refused = |message| clap::Error::raw(clap::error::ErrorKind::ValueValidation, message);
        flags.check().map_err(|message| refused(message + "\n"))?;
        Ok(Self(flags))
    }

    fn update_from_arg_matches(&mut self, matches: &clap::ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl clap::Args for DecodeArgs {
    fn augment_args(command: clap::Command) -> clap::Command {
        Flags::augment_args(command)
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Flags::augment_args_for_update(command)
    }
}

/// The flags that [`DecodeArgs`] are made of.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Decoding")]
pub(crate) struct Flags {
    /// Token ids in place of text: 1,2,3
    #[arg(long, value_name = "IDS", allow_hyphen_values = true)]
    pub(crate) prompt_ids: Option<Ids>,
    /// At most this many new tokens; default: 128, for edit what the file needs and some more
    #[arg(long, value_name = "G", allow_hyphen_values = true, value_parser = ranges::at_least_one)]
    pub(crate) max_new_tokens: Option<usize>,
    /// No end of text before this many new tokens
    #[arg(long, value_name = "N", default_value_t = 0, allow_hyphen_values = true, value_parser = ranges::count)]
    min_new_tokens: usize,
    /// Tokens in a block; default: the checkpoint's, else 4
    #[arg(long, value_name = "B", allow_hyphen_values = true, value_parser = ranges::size)]
    block_size: Option<NonZeroUsize>,
    /// Tokens that a masked position sees: block-causal (its block and those before it), full (prompt and all new tokens:
    /// one block, read as a whole in every pass), causal (those before it); default: as the checkpoint was trained, and
    /// block-causal with --block-size where that is full
    #[arg(long, value_name = "A")]
    attention: Option<Attention>,
    /// Refinements in all, as in the released code, by --fill low-confidence
    #[arg(long, value_name = "S", allow_hyphen_values = true, value_parser = ranges::size)]
    steps: Option<NonZeroUsize>,
    /// Fill every position at least this confident, and always the most confident; default: 0.9, without --steps,
    /// --fill, --mode reference and a model whose head is shifted
    #[arg(long, value_name = "τ", conflicts_with = "fill", allow_hyphen_values = true, value_parser = ranges::probability)]
    threshold: Option<f64>,
    /// Rule for the masked positions that a pass fills: low-confidence, random, margin, entropy,
    /// left-to-right, threshold=τ, factor=f, entropy-bounded=γ
    #[arg(long, value_name = "RULE", allow_hyphen_values = true, value_parser = fill_rule)]
    fill: Option<FillRule>,
    /// fused: commit and next denoise in one pass; reference: the released algorithm, pass by pass
    #[arg(long, value_parser = ["fused", "reference"])]
    mode: Option<String>,
    /// model: as the checkpoint's generation_config.json says, where no flag below says otherwise; greedy: always the
    /// most probable token
    #[arg(long, default_value = "model", value_parser = ["model", "greedy"])]
    sampling: String,
    /// 0: always the most probable token; default: the checkpoint's, else 0
    #[arg(long, short = 't', value_name = "T", allow_hyphen_values = true, value_parser = ranges::not_negative)]
    temperature: Option<f64>,
    /// Only the most probable tokens that hold this much probability
    #[arg(long, value_name = "P", allow_hyphen_values = true, value_parser = ranges::probability_above_zero)]
    top_p: Option<f64>,
    /// Only the K most probable tokens
    #[arg(long, value_name = "K", allow_hyphen_values = true, value_parser = ranges::size)]
    top_k: Option<NonZeroUsize>,
    /// Only tokens at least this probable in proportion to the most probable
    #[arg(long, value_name = "P", allow_hyphen_values = true, value_parser = ranges::probability)]
    min_p: Option<f64>,
    /// Above 1: tokens already seen become less likely
    #[arg(long, value_name = "X", allow_hyphen_values = true, value_parser = ranges::positive)]
    repetition_penalty: Option<f64>,
    /// Taken from a token's logit for each time that the new text has it; below 0 it becomes more likely
    #[arg(long, value_name = "X", allow_hyphen_values = true, value_parser = ranges::number)]
    frequency_penalty: Option<f64>,
    /// Taken from a token's logit if the new text has it
    #[arg(long, value_name = "X", allow_hyphen_values = true, value_parser = ranges::number)]
    presence_penalty: Option<f64>,
    /// Names the random stream: the same seed writes the same text
    #[arg(long, value_name = "N", default_value_t = 0, allow_hyphen_values = true, value_parser = ranges::seed)]
    seed: u64,
    /// End-of-text id; default: the checkpoint's
    #[arg(long, value_name = "N", conflicts_with = "no_eos", allow_hyphen_values = true, value_parser = ranges::token_id)]
    eos_id: Option<u32>,
    /// Never end before --max-new-tokens
    #[arg(long)]
    no_eos: bool,
    /// MASK id; default: the checkpoint's
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = ranges::token_id)]
    mask_id: Option<u32>,
    /// Never fill in MASK itself (only --mode reference ever does)
    #[arg(long)]
    forbid_mask: bool,
    /// Precision of what weights are multiplied with where the prompt is read: f32, which is exact, or int8, which takes
    /// 0.4 to 0.7 of the time on a long one and moves near-ties among tokens
    #[arg(long, value_name = "P", default_value = "f32", value_parser = precision)]
    prompt_precision: Activations,
    /// End before this text; may be repeated
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, value_parser = ranges::not_empty)]
    stop: Vec<String>,
    /// Use an autoregressive checkpoint as block diffusion, or the reverse
    #[arg(long)]
    allow_mode_mismatch: bool,
    /// Format of the keys and values that are kept of the text so far: f32 (as computed: tokens are exact), bf16 (half
    /// the memory), q8_0 (about a quarter; about one token in a hundred is another); kernels on a card keep bf16
    #[arg(long, value_name = "FORMAT", default_value_t, value_parser = cache_precision)]
    pub(crate) cache_precision: CachePrecision,
}

impl Flags {
    /// Refuses what can't be met whatever the model is.
    fn check(&self) -> Result<(), String> {
        if let Some(max) = self.max_new_tokens.filter(|max| self.min_new_tokens > *max) {
            return Err(format!(
                "--min-new-tokens {}: expected at most --max-new-tokens, {max}",
                self.min_new_tokens
            ));
        }
        whole_canvas(self.attention, self.block_size)?;
        if let (Some(mask), Some(eos)) = (self.mask_id, self.eos_id)
            && mask == eos
        {
            return Err(format!("--mask-id {mask}: expected another token than --eos-id"));
        }
        let drawn = [
            ("--temperature", self.temperature.is_some_and(|temperature| temperature > 0.0)),
            ("--top-p", self.top_p.is_some()),
            ("--top-k", self.top_k.is_some()),
            ("--min-p", self.min_p.is_some()),
        ];
        if let (Some((flag, _)), "greedy") =
            (drawn.iter().find(|(_, given)| *given), &*self.sampling)
        {
            return Err(format!(
                "{flag}: --sampling greedy takes the most probable token; leave one of the two out"
            ));
        }
        if self.mode.as_deref() != Some("reference") {
            return Ok(());
        }
        if let Some(attention) = self.attention.filter(|one| *one != Attention::BlockCausal) {
            return Err(format!(
                "--attention {attention}: --mode reference is the released algorithm, which decodes block-causally; \
                 leave one of the two out"
            ));
        }
        let unknown = [
            ("--top-p", self.top_p.is_some()),
            ("--top-k", self.top_k.is_some()),
            ("--min-p", self.min_p.is_some()),
            ("--repetition-penalty", self.repetition_penalty.is_some_and(|penalty| penalty != 1.0)),
            ("--frequency-penalty", self.frequency_penalty.is_some_and(|penalty| penalty != 0.0)),
            ("--presence-penalty", self.presence_penalty.is_some_and(|penalty| penalty != 0.0)),
            ("--min-new-tokens", self.min_new_tokens > 0),
        ];
        if let Some((flag, _)) = unknown.iter().find(|(_, given)| *given) {
            return Err(format!(
                "{flag}: --mode reference is the released algorithm, which has none; leave one of the two out"
            ));
        }
        let known = |rule: &FillRule| {
            matches!(rule, FillRule::LowConfidence | FillRule::Random | FillRule::Threshold { .. })
        };
        if let Some(rule) = self.fill.filter(|rule| !known(rule)) {
            return Err(format!(
                "--fill {rule}: --mode reference knows low-confidence, random and threshold=τ; the default mode \
                 has it"
            ));
        }
        let (Some(tokens), Some(block)) = (self.max_new_tokens, self.block_size) else {
            return Ok(());
        };
        in_reference_mode(tokens, block, self.steps)
    }

    /// About what decoding computes that starts with so much text.
    pub(crate) fn work(&self, text: usize) -> Workload {
        // Code takes about three bytes a token.
        let prompt = self.prompt_ids.as_ref().map_or(text / 3 + 1, |ids| ids.0.len());
        let mut work = Workload::decoding(
            prompt.saturating_add(self.max_new_tokens.unwrap_or(MAX_NEW_TOKENS)),
        );
        work.logit_rows = work.logit_rows.max(self.block_size.map_or(0, NonZeroUsize::get));
        work.cache = self.cache_precision;
        work
    }

    /// Says on stderr where the model's weights have no form for rounded prompts.
    fn note_precision(&self, model: &Model) {
        let asked = self.prompt_precision;
        if model.prompt_precision(asked) != asked {
            note!(
                "note: --prompt-precision {} changes nothing here: only weights in {} are multiplied so; --dtype keeps \
                 the model's in one of them",
                asked.name(),
                with_form(asked)
            );
        }
    }

    /// Tells whether the released algorithm was asked for.
    pub(crate) fn is_reference(&self) -> bool {
        self.mode.as_deref() == Some("reference")
    }

    /// The options for a model, with the checkpoint's own sampling where no flag of that kind is given; says on
    /// stderr what it is.
    pub(crate) fn sampled_options(&self, model: &Model) -> Result<GenerateOptions> {
        let mut options = self.options(model);
        let asked = self.temperature.is_some()
            || self.top_p.is_some()
            || self.top_k.is_some()
            || self.min_p.is_some()
            || self.repetition_penalty.is_some()
            || self.frequency_penalty.is_some()
            || self.presence_penalty.is_some();
        if asked || self.is_reference() || self.sampling == "greedy" {
            return Ok(options);
        }
        if let Some(sampling) = model.sampling()? {
            options.sampling = Sampling { seed: self.seed, ..sampling };
        }
        Ok(options)
    }

    /// The options for a model; says on stderr what it can't follow.
    pub(crate) fn options(&self, model: &Model) -> GenerateOptions {
        self.note_precision(model);
        // Flags that only block diffusion has ask for it.
        let diffusion = self.mode.is_some()
            || self.block_size.is_some()
            || self.attention.is_some()
            || self.steps.is_some()
            || self.threshold.is_some()
            || self.fill.is_some()
            || self.mask_id.is_some();
        let algorithm = match (diffusion, self.allow_mode_mismatch, model.is_block_diffusion()) {
            _ if self.is_reference() => Some(Algorithm::Reference),
            (true, _, _) | (false, true, false) => Some(Algorithm::Blocks),
            (false, true, true) => Some(Algorithm::Autoregressive),
            (false, false, _) => None,
        };
        GenerateOptions {
            max_new_tokens: self.max_new_tokens.unwrap_or(MAX_NEW_TOKENS.max(self.min_new_tokens)),
            min_new_tokens: self.min_new_tokens,
            block_size: self.block_size,
            attention: self.attention,
            steps: self.steps,
            fill: self.threshold.map(|tau| FillRule::Threshold { tau }).or(self.fill),
            sampling: Sampling {
                temperature: self.temperature.unwrap_or(0.0),
                top_k: self.top_k,
                top_p: self.top_p,
                min_p: self.min_p,
                repetition_penalty: self.repetition_penalty.unwrap_or(1.0),
                frequency_penalty: self.frequency_penalty.unwrap_or(0.0),
                presence_penalty: self.presence_penalty.unwrap_or(0.0),
                seed: self.seed,
            },
            algorithm,
            eos_ids: if self.no_eos { Some(Vec::new()) } else { self.eos_id.map(|id| vec![id]) },
            mask_id: self.mask_id,
            forbid_mask: self.forbid_mask,
            prompt_precision: self.prompt_precision,
            stop: self.stop.clone(),
            allow_mode_mismatch: self.allow_mode_mismatch,
            ..GenerateOptions::default()
        }
    }
}

/// The law by which tokens were drawn and the format that keys and values were kept in, for `--json`.
pub(crate) fn used(model: &Model, sampling: &Sampling) -> serde_json::Value {
    serde_json::json!({
        "sampling": {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "min_p": sampling.min_p,
            "repetition_penalty": sampling.repetition_penalty,
            "frequency_penalty": sampling.frequency_penalty,
            "presence_penalty": sampling.presence_penalty,
            "seed": sampling.seed,
        },
        "cache_precision": model.cache_precision_name(),
    })
}

/// Tells whether the whole text is one block, by these options.
pub(crate) fn is_one_block(model: &Model, options: &GenerateOptions) -> bool {
    matches!(attention(model, algorithm(model, options), options), Ok(Attention::Full))
}

/// Refuses blocks of a size of their own where the whole text is one.
pub(crate) fn whole_canvas(
    attention: Option<Attention>,
    block_size: Option<NonZeroUsize>,
) -> Result<(), String> {
    match (attention, block_size) {
        (Some(Attention::Full), Some(size)) => Err(format!(
            "--attention full: the whole text is one block, so --block-size {size} says nothing; leave one of the two \
             out"
        )),
        _ => Ok(()),
    }
}

/// The precision of a name, or what the names are.
fn precision(name: &str) -> Result<Activations, String> {
    let names = Activations::ALL.map(Activations::name).join(" or ");
    Activations::from_name(name).ok_or_else(|| format!("expected {names}"))
}

/// The formats of weights that are multiplied with activations of a precision.
fn with_form(precision: Activations) -> String {
    let formats = StorageDtype::ALL.into_iter();
    let formats = formats.filter(|dtype| dtype.is_packable() && precision.of(*dtype) == precision);
    formats.map(StorageDtype::name).collect::<Vec<_>>().join(", ")
}

/// A fill rule, or what the rules are.
pub(crate) fn fill_rule(text: &str) -> Result<FillRule, String> {
    text.parse().map_err(|error: lacuna::samplers::Error| match error {
        lacuna::samplers::Error::Setting { expected, .. } => format!("expected {expected}"),
        other => other.to_string(),
    })
}

/// Tells whether the released algorithm can share its steps out: whole blocks, and as many steps
/// for each.
fn in_reference_mode(
    tokens: usize,
    block: NonZeroUsize,
    steps: Option<NonZeroUsize>,
) -> Result<(), String> {
    if !tokens.is_multiple_of(block.get()) {
        return Err(format!(
            "--max-new-tokens {tokens}: --mode reference expects a multiple of the block size, {block}"
        ));
    }
    let blocks = tokens / block.get();
    match steps {
        Some(steps) if !steps.get().is_multiple_of(blocks) => Err(format!(
            "--steps {steps}: --mode reference expects a multiple of the number of blocks, {blocks}"
        )),
        _ => Ok(()),
    }
}

/// Refuses what does not fit the model, in the flags' names, before anything is computed.
pub(crate) fn check_against(
    model: &Model,
    prompt: &Prompt,
    options: &GenerateOptions,
) -> Result<()> {
    let vocab = model.config().vocab_size;
    if let Prompt::Ids(ids) = prompt {
        in_vocabulary("--prompt-ids", ids, vocab)?;
    }
    in_vocabulary("--mask-id", options.mask_id.as_slice(), vocab)?;
    in_vocabulary("--eos-id", options.eos_ids.as_deref().unwrap_or_default(), vocab)?;
    let positions = model.config().max_position_embeddings;
    let lengths = [
        ("--block-size", options.block_size.map_or(0, NonZeroUsize::get)),
        ("--min-new-tokens", options.min_new_tokens),
    ];
    if let Some((flag, length)) = lengths.iter().find(|(_, length)| *length > positions) {
        let message =
            format!("{flag} {length}: the model has {positions} positions, expected at most those");
        return Err(Usage(message).into());
    }
    if !options.stop.is_empty() && model.tokenizer.is_none() {
        let message = "--stop: the checkpoint has no tokenizer.json, so its tokens are no text to compare with";
        return Err(Usage(message.into()).into());
    }
    let algorithm = algorithm(model, options);
    attention(model, algorithm, options)?;
    if algorithm == Algorithm::Reference {
        let block = model.block_size(options.block_size);
        in_reference_mode(options.max_new_tokens, block, options.steps).map_err(Usage)?;
    }
    Ok(())
}

/// Refuses a flag with an id that the model has no token for.
pub(crate) fn in_vocabulary(flag: &str, ids: &[u32], vocab: usize) -> Result<()> {
    match ids.iter().find(|id| **id as usize >= vocab) {
        Some(id) => {
            let last = vocab.saturating_sub(1);
            let message =
                format!("{flag}: the model has {vocab} tokens, so expected 0 to {last}, not {id}");
            Err(Usage(message).into())
        }
        None => Ok(()),
    }
}

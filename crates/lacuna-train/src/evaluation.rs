//! Measures what a stage has learnt, on held-out text, beside what counting alone achieves.

use lacuna_checkpoint::Mode;
use lacuna_data::Window;
use lacuna_data::stats::{Bigram, Unigram};
use lacuna_likelihood::{Blocks, Likelihood, Method, Scoring, Text, likelihood, scored_positions};
use lacuna_model::Transformer;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::recipe::{ObjectiveKind, Recipe, Stage};
use crate::setup::RunData;

/// Held-out scores of one model, all of the same tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// Names and scores: `autoregressive`, or `exact NELBO` and `left to right`; then `unigram`, `bigram`.
    pub scores: Vec<(ScoreName, Likelihood)>,
    /// Held-out windows scored.
    pub windows: usize,
    /// UTF-8 bytes of the scored tokens.
    pub bytes: u64,
}

/// The name of a score.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScoreName {
    /// −log p of the next token.
    Autoregressive,
    /// Exact block NELBO.
    ExactNelbo,
    /// Monte-Carlo NELBO, where a block is too large to enumerate.
    MonteCarloNelbo,
    /// In-block left-to-right NLL.
    LeftToRight,
    /// The baseline of counting tokens.
    Unigram,
    /// The baseline of counting pairs of tokens (interpolated Kneser–Ney).
    Bigram,
}

impl ScoreName {
    /// The name as people read it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Autoregressive => "autoregressive NLL",
            Self::ExactNelbo => "exact block NELBO",
            Self::MonteCarloNelbo => "Monte-Carlo NELBO",
            Self::LeftToRight => "left-to-right NLL",
            Self::Unigram => "unigram baseline",
            Self::Bigram => "bigram baseline",
        }
    }

    /// Tells whether it is a score of counting tokens, and none of the model.
    pub fn is_baseline(self) -> bool {
        matches!(self, Self::Unigram | Self::Bigram)
    }
}

impl Evaluation {
    /// The score of a name, if it was computed.
    pub fn get(&self, name: ScoreName) -> Option<&Likelihood> {
        self.scores.iter().find(|(n, _)| *n == name).map(|(_, score)| score)
    }
}

/// Scores the held-out windows that the recipe asks for, by the model and by counting; `None` if it asks for none or
/// there are none.
///
/// `progress` hears windows done and in all.
///
/// # Errors
/// Errors if a tensor operation fails or a window can't be read.
pub fn evaluate(
    recipe: &Recipe,
    stage: &Stage,
    data: &RunData,
    model: &Transformer,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Option<Evaluation>> {
    let mut evaluation = evaluate_model(recipe, stage, data, model, progress)?;
    if let Some(evaluation) = &mut evaluation {
        let windows = held_out_windows(recipe, data)?;
        evaluation.scores.extend(baselines(recipe, data, &windows)?);
    }
    Ok(evaluation)
}

/// Scores the same windows by the model alone, as is done on the way: counting tokens would read the whole corpus.
///
/// # Errors
/// As [`evaluate`].
pub fn evaluate_model(
    recipe: &Recipe,
    stage: &Stage,
    data: &RunData,
    model: &Transformer,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Option<Evaluation>> {
    let windows = held_out_windows(recipe, data)?;
    if windows.is_empty() {
        return Ok(None);
    }
    let texts: Vec<Text<'_>> = windows.iter().map(text).collect();
    let methods: &[(ScoreName, Method)] = match (stage.objective, model.config().mode) {
        (ObjectiveKind::Autoregressive, _) => {
            &[(ScoreName::Autoregressive, Method::Autoregressive)]
        }
        (_, Mode::BlockDiffusion { block_size, .. }) if block_size.get() <= 8 => {
            &[(ScoreName::ExactNelbo, Method::Exact), (ScoreName::LeftToRight, Method::LeftToRight)]
        }
        _ => &[(ScoreName::MonteCarloNelbo, Method::MonteCarlo { samples: 8, seed: 0 })],
    };
    let blocks = match model.config().mode {
        Mode::BlockDiffusion { block_size, mask_token_id } => {
            mask_token_id.map(|mask_id| Blocks { block_size, mask_id })
        }
        Mode::Autoregressive => None,
    };
    // Nobody walks these passes back: a graph behind them would hold every activation of a pass until its end.
    let model = &model.frozen()?;
    let (count, all) = (windows.len(), windows.len() * methods.len());
    progress(0, all);
    let mut scores = Vec::new();
    for (i, (name, method)) in methods.iter().enumerate() {
        let scoring = Scoring {
            method: *method,
            blocks,
            document_mask: recipe.data.document_mask,
            batch_size: 8,
        };
        let mut report = |done| progress(i * count + done, all);
        scores.push((*name, likelihood(model, &texts, &scoring, &mut report)?));
    }
    let lengths = data.tokenizer.token_bytes();
    let bytes = scored_tokens(recipe, &windows)
        .map(|(_, token)| u64::from(lengths.get(token as usize).copied().unwrap_or(0)))
        .sum();
    Ok(Some(Evaluation { scores, windows: count, bytes }))
}

/// The windows that are scored, spread over the whole held-out part, because neighbours are of one file.
fn held_out_windows(recipe: &Recipe, data: &RunData) -> Result<Vec<Window>> {
    let count = recipe.evaluation.windows.min(data.held_out.windows());
    let stride = data.held_out.windows().checked_div(count).unwrap_or(0);
    let windows = (0..count).map(|i| data.held_out.window(i * stride));
    Ok(windows.collect::<lacuna_data::Result<_>>()?)
}

/// The tokens that are scored, each behind the one before it.
fn scored_tokens(recipe: &Recipe, windows: &[Window]) -> impl Iterator<Item = (u32, u32)> {
    let document_mask = recipe.data.document_mask;
    windows.iter().flat_map(move |window| {
        let scored = scored_positions(&text(window), document_mask);
        let pairs = (1..scored.len()).filter(move |i| scored[*i]);
        pairs.map(move |i| (window.tokens[i - 1], window.tokens[i]))
    })
}

/// The scores that counting the training text achieves on the same tokens.
fn baselines(
    recipe: &Recipe,
    data: &RunData,
    windows: &[Window],
) -> Result<[(ScoreName, Likelihood); 2]> {
    let dataset = data.train.dataset();
    let (unigram, bigram) = (Unigram::count(dataset)?, Bigram::count(dataset)?);
    let (mut by_unigram, mut by_bigram) = (Likelihood::default(), Likelihood::default());
    for (previous, token) in scored_tokens(recipe, windows) {
        by_unigram.nats -= unigram.probability(token).ln();
        by_bigram.nats -= bigram.probability(Some(previous), token).ln();
        by_unigram.tokens += 1;
        by_bigram.tokens += 1;
    }
    Ok([(ScoreName::Unigram, by_unigram), (ScoreName::Bigram, by_bigram)])
}

fn text(window: &Window) -> Text<'_> {
    let Window { tokens, eligible, documents } = window;
    Text { tokens, eligible, documents }
}

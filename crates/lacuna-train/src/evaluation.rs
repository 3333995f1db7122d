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
    /// Names and scores: `autoregressive`, or a NELBO and `left to right`, as the stage was trained; then `unigram`,
    /// `bigram`.
    pub scores: Vec<(ScoreName, Likelihood)>,
    /// Held-out windows scored.
    pub windows: usize,
    /// UTF-8 bytes of the scored tokens.
    pub bytes: u64,
}

/// The name of a score.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
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
}

impl Evaluation {
    /// The score of a name, if it was computed.
    pub fn get(&self, name: ScoreName) -> Option<&Likelihood> {
        self.scores.iter().find(|(n, _)| *n == name).map(|(_, score)| score)
    }
}

/// Scores the held-out windows that the recipe asks for; `None` if it asks for none or there are none.
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
    let count = recipe.evaluation.windows.min(data.held_out.windows());
    if count == 0 {
        return Ok(None);
    }
    // The windows are spread over the whole held-out part, because neighbours are of one file.
    let stride = data.held_out.windows() / count;
    let windows: Vec<Window> =
        (0..count).map(|i| data.held_out.window(i * stride)).collect::<lacuna_data::Result<_>>()?;
    let texts: Vec<Text<'_>> = windows.iter().map(text).collect();
    let left_to_right = (ScoreName::LeftToRight, Method::LeftToRight);
    let monte_carlo = (ScoreName::MonteCarloNelbo, Method::MonteCarlo { samples: 8, seed: 0 });
    let methods: &[(ScoreName, Method)] = match (stage.objective, model.config().mode) {
        (ObjectiveKind::Autoregressive, _) => {
            &[(ScoreName::Autoregressive, Method::Autoregressive)]
        }
        // It is scored behind clean text, as it is decoded, and on noisy text, as it was trained.
        (ObjectiveKind::CausalDiffusion, _) => &[left_to_right, monte_carlo],
        (_, Mode::BlockDiffusion { block_size, .. }) if block_size.get() <= 8 => {
            &[(ScoreName::ExactNelbo, Method::Exact), left_to_right]
        }
        _ => &[monte_carlo],
    };
    let blocks = match model.config().mode {
        Mode::BlockDiffusion { block_size, mask_token_id } => {
            mask_token_id.map(|mask_id| Blocks { block_size, mask_id })
        }
        Mode::Autoregressive => None,
    };
    let all = count * methods.len();
    progress(0, all);
    let mut scores = Vec::new();
    for (i, (name, method)) in methods.iter().enumerate() {
        let scoring = Scoring {
            method: *method,
            blocks,
            attention: model.config().attention,
            document_mask: recipe.data.document_mask,
            batch_size: 8,
        };
        let mut report = |done| progress(i * count + done, all);
        scores.push((*name, likelihood(model, &texts, &scoring, &mut report)?));
    }
    let dataset = data.train.dataset();
    let (unigram, bigram) = (Unigram::count(dataset)?, Bigram::count(dataset)?);
    let lengths = data.tokenizer.token_bytes();
    let (mut by_unigram, mut by_bigram, mut bytes) =
        (Likelihood::default(), Likelihood::default(), 0);
    for (window, text) in windows.iter().zip(&texts) {
        let scored = scored_positions(text, recipe.data.document_mask);
        for i in (1..scored.len()).filter(|i| scored[*i]) {
            let (previous, token) = (window.tokens[i - 1], window.tokens[i]);
            by_unigram.nats -= unigram.probability(token).ln();
            by_bigram.nats -= bigram.probability(Some(previous), token).ln();
            by_unigram.tokens += 1;
            by_bigram.tokens += 1;
            bytes += u64::from(lengths.get(token as usize).copied().unwrap_or(0));
        }
    }
    scores.push((ScoreName::Unigram, by_unigram));
    scores.push((ScoreName::Bigram, by_bigram));
    Ok(Some(Evaluation { scores, windows: count, bytes }))
}

fn text(window: &Window) -> Text<'_> {
    let Window { tokens, eligible, documents } = window;
    Text { tokens, eligible, documents }
}

//! Chooses which of the masked positions of a block are filled in one refinement.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, setting};

/// The token proposed for one masked position, with what the fill rules rank by.
///
/// `margin`, `entropy` and `uniform` are 0 unless the rule asks for them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// Absolute position in the sequence.
    pub position: usize,
    /// The proposed token.
    pub token: u32,
    /// Its probability under the model: softmax of the logits as they came, at temperature 1.
    pub confidence: f64,
    /// `confidence` less the largest probability of any other allowed token (p1 − p2 at T = 0).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub margin: f64,
    /// Entropy of the model's distribution, in nats.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub entropy: f64,
    /// A draw from [0, 1) that belongs to this position and refinement.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub uniform: f64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature serde asks for")]
fn is_zero(value: &f64) -> bool {
    *value == 0.0
}

/// The statistics that a rule ranks by, beyond the confidence that every trace shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Needs {
    /// [`Candidate::margin`].
    pub(crate) margin: bool,
    /// [`Candidate::entropy`].
    pub(crate) entropy: bool,
    /// [`Candidate::uniform`].
    pub(crate) uniform: bool,
}

impl Needs {
    /// A candidate without what nobody needs, which is 0 then.
    pub(crate) fn of(self, candidate: Candidate) -> Candidate {
        let only = |needed: bool, value: f64| if needed { value } else { 0.0 };
        Candidate {
            margin: only(self.margin, candidate.margin),
            entropy: only(self.entropy, candidate.entropy),
            uniform: only(self.uniform, candidate.uniform),
            ..candidate
        }
    }
}

/// The rule that says which masked positions a refinement fills.
///
/// Rules with a schedule fill its quota ([`quota`]); the others decide for themselves how many.
/// Every rule fills at least one position, and breaks ties towards the lowest position.
///
/// | written | fills |
/// |---|---|
/// | `low-confidence` | the quota of most confident candidates (the released code's default) |
/// | `threshold=τ` | the most confident, and any other with confidence ≥ τ |
/// | `factor=f` | in falling confidence, the n-th while its confidence ≥ 1 − f/(n+1); the first always |
/// | `entropy-bounded=γ` | in rising entropy, the longest prefix with ΣH − max H ≤ γ |
/// | `margin` | the quota of largest p1 − p2 |
/// | `entropy` | the quota of lowest entropy |
/// | `left-to-right` | the quota of lowest positions |
/// | `random` | a quota drawn at random |
///
/// ```
/// use lacuna_samplers::FillRule;
/// let rule: FillRule = "threshold=0.9".parse()?;
/// assert_eq!(rule, FillRule::Threshold { tau: 0.9 });
/// assert_eq!(rule.to_string(), "threshold=0.9");
/// # Ok::<(), lacuna_samplers::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum FillRule {
    /// The most confident candidates, as many as the schedule says.
    #[default]
    LowConfidence,
    /// The most confident candidate, and every other with confidence ≥ `tau`.
    Threshold {
        /// τ, in [0, 1].
        tau: f64,
    },
    /// In falling confidence, the n-th while its confidence ≥ 1 − `factor`/(n+1); the first always.
    Factor {
        /// f, at least 0.
        factor: f64,
    },
    /// In rising entropy, the longest prefix with ΣH − max H ≤ `gamma`.
    EntropyBounded {
        /// γ in nats, at least 0.
        gamma: f64,
    },
    /// The largest p1 − p2, as many as the schedule says.
    Margin,
    /// The lowest entropy, as many as the schedule says.
    Entropy,
    /// The lowest positions, as many as the schedule says.
    LeftToRight,
    /// A uniform choice, as many as the schedule says.
    Random,
}

impl FillRule {
    /// The statistics that [`select`](Self::select) reads of each candidate beyond confidence and
    /// position.
    pub(crate) fn needs(self) -> Needs {
        Needs {
            margin: self == Self::Margin,
            entropy: matches!(self, Self::Entropy | Self::EntropyBounded { .. }),
            uniform: self == Self::Random,
        }
    }

    /// Indices into `candidates` of those to fill, ascending; at least one unless there is none.
    ///
    /// `quota` is how many a scheduled rule fills; the others ignore it.
    pub fn select(self, candidates: &[Candidate], quota: usize) -> Vec<usize> {
        let mut chosen = self.ranked(candidates, quota);
        chosen.sort_unstable();
        chosen
    }

    /// Indices into `candidates` of those to fill, the one that ranks highest first; else as [`select`](Self::select).
    pub fn ranked(self, candidates: &[Candidate], quota: usize) -> Vec<usize> {
        if candidates.is_empty() {
            return Vec::new();
        }
        let rank = |c: &Candidate| match self {
            Self::LowConfidence | Self::Threshold { .. } | Self::Factor { .. } => c.confidence,
            Self::EntropyBounded { .. } | Self::Entropy => -c.entropy,
            Self::Margin => c.margin,
            Self::LeftToRight => -(c.position as f64),
            Self::Random => c.uniform,
        };
        let mut order: Vec<usize> = (0..candidates.len()).collect();
        order.sort_by(|&a, &b| {
            let (a, b) = (&candidates[a], &candidates[b]);
            rank(b).total_cmp(&rank(a)).then(a.position.cmp(&b.position))
        });
        let ranked = order.iter().map(|&index| &candidates[index]);
        let count = match self {
            Self::Threshold { tau } => ranked.take_while(|c| c.confidence >= tau).count(),
            Self::Factor { factor } => ranked
                .zip(1..)
                .take_while(|(c, n)| c.confidence >= 1.0 - factor / f64::from(n + 1))
                .count(),
            Self::EntropyBounded { gamma } => ranked
                .scan(0.0, |below, c| {
                    let fits = *below <= gamma; // ΣH − max H of the prefix that ends here
                    *below += c.entropy;
                    fits.then_some(())
                })
                .count(),
            _ => quota,
        };
        order.truncate(count.clamp(1, candidates.len()));
        order
    }

    /// Checks the rule's parameter.
    ///
    /// # Errors
    /// A parameter outside its range, or not a number.
    pub fn validate(self) -> Result<()> {
        match self {
            Self::Threshold { tau } if !(0.0..=1.0).contains(&tau) => {
                setting("threshold", tau, "a number between 0 and 1")
            }
            Self::Factor { factor } if !(factor >= 0.0 && factor.is_finite()) => {
                setting("factor", factor, "a finite number of at least 0")
            }
            Self::EntropyBounded { gamma } if !(gamma >= 0.0 && gamma.is_finite()) => {
                setting("entropy-bounded", gamma, "a finite number of nats, at least 0")
            }
            _ => Ok(()),
        }
    }
}

/// The number of a block's `masked` positions that the schedule fills in refinement j of `steps`: m
/// div s, and one more in the first m mod s refinements.
///
/// With more steps than masks, the first m refinements fill one each and the rest nothing.
///
/// ```
/// use lacuna_samplers::quota;
/// let filled: Vec<usize> = (0..4).map(|j| quota(6, 4, j)).collect();
/// assert_eq!(filled, [2, 2, 1, 1]);
/// ```
pub fn quota(masked: usize, steps: usize, refinement: usize) -> usize {
    let steps = steps.max(1);
    masked / steps + usize::from(refinement < masked % steps)
}

impl fmt::Display for FillRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LowConfidence => f.write_str("low-confidence"),
            Self::Threshold { tau } => write!(f, "threshold={tau}"),
            Self::Factor { factor } => write!(f, "factor={factor}"),
            Self::EntropyBounded { gamma } => write!(f, "entropy-bounded={gamma}"),
            Self::Margin => f.write_str("margin"),
            Self::Entropy => f.write_str("entropy"),
            Self::LeftToRight => f.write_str("left-to-right"),
            Self::Random => f.write_str("random"),
        }
    }
}

const NAMES: &str = "low-confidence, threshold=TAU, factor=F, entropy-bounded=GAMMA, margin, \
                     entropy, left-to-right or random";

impl FromStr for FillRule {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let number = |value: &str| match value.parse::<f64>() {
            Ok(number) => Ok(number),
            Err(_) => setting("fill", text, "a number after the `=`"),
        };
        let rule = match text.split_once('=') {
            None => match text {
                "low-confidence" | "static" => Self::LowConfidence,
                "margin" => Self::Margin,
                "entropy" => Self::Entropy,
                "left-to-right" => Self::LeftToRight,
                "random" => Self::Random,
                _ => return setting("fill", text, NAMES),
            },
            Some(("threshold", value)) => Self::Threshold { tau: number(value)? },
            Some(("factor", value)) => Self::Factor { factor: number(value)? },
            Some(("entropy-bounded", value)) => Self::EntropyBounded { gamma: number(value)? },
            Some(_) => return setting("fill", text, NAMES),
        };
        rule.validate()?;
        Ok(rule)
    }
}

impl TryFrom<String> for FillRule {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<FillRule> for String {
    fn from(rule: FillRule) -> Self {
        rule.to_string()
    }
}

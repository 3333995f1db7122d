//! Scores texts one after the other, with progress, until all are done or Ctrl-C ends it.

use anyhow::Result;
use lacuna::likelihood::{Likelihood, Method, Scoring, Text, likelihood};
use std::process::exit;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use indicatif::{HumanCount, HumanDuration};

use super::super::progress::{At, Layers, Progress, count};
use super::super::{said, signals};
use super::plan::{Named, Plan, Window};
use super::tokens::{Prepared, Tokens};
use super::told::Scores;
use super::{BATCH, DEFAULT_SAMPLES, MANY_PASSES};

const YEAR: f64 = 365.0 * 24.0 * 3600.0;

/// Set by the first Ctrl-C.
static ENDED: AtomicBool = AtomicBool::new(false);

/// Hears Ctrl-C: the first ends the work behind what is finished, a second one the program.
pub(super) fn hear_interrupts() -> Result<()> {
    signals::on_interrupt(|| {
        if ENDED.swap(true, Ordering::SeqCst) {
            exit(130);
        }
    })?;
    Ok(())
}

/// Tells whether Ctrl-C was pressed.
pub(super) fn is_ended() -> bool {
    ENDED.load(Ordering::SeqCst)
}

/// Progress over texts, counted in layers of the model.
pub(super) struct Watched {
    at: Arc<AtomicUsize>,
    _line: Progress,
}

impl Watched {
    /// `runs` is the runs of the model that all of them take.
    pub(super) fn new(plan: &Plan<'_>, what: &str, texts: usize, runs: u64) -> Self {
        let at = Arc::new(AtomicUsize::new(0));
        let layers = Layers::of(plan.model, runs);
        let (now, what) = (Arc::clone(&at), what.to_owned());
        let line = Progress::watching(move || {
            let number = now.load(Ordering::Relaxed);
            let what = match texts {
                1 => what.clone(),
                _ => format!("text {} of {}, {what}", count(number + 1), count(texts)),
            };
            At { what, part: Some(layers.part()) }
        });
        Self { at, _line: line }
    }

    pub(super) fn at(&self, text: usize) {
        self.at.store(text, Ordering::Relaxed);
    }
}

/// Scores the texts from `first` on, with progress if it `shows`, and hands each to `take`. Returns false where Ctrl-C ended it.
pub(super) fn score(
    plan: &Plan<'_>,
    texts: &[Prepared],
    (first, shows): (usize, bool),
    take: &mut dyn FnMut(usize, Result<Scores, String>) -> Result<()>,
) -> Result<bool> {
    let left = || texts.iter().skip(first).flat_map(|text| &text.tokens);
    let runs: u64 = left().map(|text| runs(plan, text)).fold(0, u64::saturating_add);
    let tokens: usize = left().map(|text| text.tokens.len()).sum();
    let names: Vec<_> = plan.methods.iter().map(|method| method.name()).collect();
    let what = format!("{} tokens, {}", count(tokens), names.join(", "));
    let watched = shows.then(|| Watched::new(plan, &what, texts.len(), runs));
    for (number, text) in texts.iter().enumerate().skip(first) {
        if let Some(watched) = &watched {
            watched.at(number);
        }
        let scores = match &text.tokens {
            Err(reason) => Err(reason.clone()),
            Ok(text) => match one(plan, text, number) {
                Some(scores) => scores,
                None => return Ok(false),
            },
        };
        take(number, scores)?;
        if is_ended() {
            return Ok(number + 1 == texts.len());
        }
    }
    Ok(true)
}

/// The scores of one text by every method; `None` where Ctrl-C ended it. A single method that fails is the text's failure.
fn one(plan: &Plan<'_>, text: &Tokens, number: usize) -> Option<Result<Scores, String>> {
    let (mut methods, mut missing) = (Vec::new(), plan.missing.clone());
    for method in &plan.methods {
        match plan.score(*method, text, number, &mut || !is_ended()) {
            Ok(Some(score)) => methods.push((*method, score)),
            Ok(None) => return None,
            Err(error) if plan.is_single() => return Some(Err(said(&error))),
            Err(error) => missing.push((*method, said(&error))),
        }
    }
    Some(Ok(Scores { methods, missing, bytes: text.bytes, is_single: plan.is_single() }))
}

/// The runs of the model that a text takes, as far as it can be scored.
fn runs(plan: &Plan<'_>, text: &Tokens) -> u64 {
    let windows = plan.windows(text).unwrap_or_default();
    let each = |method: &Named, window: &Window| plan.runs(*method, window).unwrap_or(0);
    let all = windows.iter().flat_map(|window| plan.methods.iter().map(move |m| each(m, window)));
    all.fold(0, u64::saturating_add)
}

/// Says what the longest of the scores takes if it is long, and what would be shorter. The time is that of a few passes
/// on the text's first window.
pub(super) fn announce(plan: &Plan<'_>, text: &Tokens) -> Result<()> {
    let windows = plan.windows(text)?;
    let Some(window) = windows.first() else { return Ok(()) };
    let mut longest = (0, Named::Ar);
    for method in &plan.methods {
        // A method that can't be had says so where it is scored.
        longest = longest.max((plan.passes(*method, window).unwrap_or(0), *method));
    }
    let (passes, method) = longest;
    if passes <= MANY_PASSES {
        return Ok(());
    }
    let documents = [window.read.len()];
    let read = Text {
        tokens: &text.tokens[window.read.clone()],
        eligible: &window.eligible,
        documents: &documents,
    };
    let few = Scoring {
        method: Method::MonteCarlo { samples: BATCH, seed: 0 },
        ..plan.scoring(method, window)
    };
    let timing = Progress::passes("timing a few passes", plan.model, 2);
    let began = Instant::now();
    likelihood(&plan.model.transformer, &[read], &few, &mut |_| {})?;
    let seconds =
        began.elapsed().as_secs_f64() * windows.len() as f64 * passes as f64 / BATCH as f64;
    drop(timing);
    let time = match Duration::try_from_secs_f64(seconds) {
        Ok(time) if seconds < YEAR => HumanDuration(time).to_string(),
        _ => "more than a year".to_owned(),
    };
    let block = plan.passes(Named::LeftToRight, window).unwrap_or(0);
    let cheaper = match method {
        Named::Exact => format!(
            "; --method left-to-right takes {block}, --method monte-carlo {DEFAULT_SAMPLES} and states its error"
        ),
        Named::LeftToRight => {
            format!("; --method monte-carlo takes {DEFAULT_SAMPLES} and states its error")
        }
        _ => "; fewer --samples take less time and leave more error".to_owned(),
    };
    note!("this takes {} passes over the text, about {time}{cheaper}", HumanCount(passes));
    Ok(())
}

/// The sum of no scores by this plan.
pub(super) fn nothing(plan: &Plan<'_>) -> Scores {
    let none = |method: &Named| match method {
        Named::MonteCarlo => {
            (*method, Likelihood::none(Method::MonteCarlo { samples: 1, seed: 0 }))
        }
        _ => (*method, Likelihood::default()),
    };
    Scores {
        methods: plan.methods.iter().map(none).collect(),
        missing: plan.missing.clone(),
        bytes: Some(0),
        is_single: plan.is_single(),
    }
}

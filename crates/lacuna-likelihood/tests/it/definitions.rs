//! Holds the likelihood of a part of a text to its definition: every way to mask it, or every prefix of it.

use lacuna_likelihood::{Method, Text, likelihood};
use lacuna_model::{Attention, Transformer};
use lacuna_objective::Predicts;

use super::{MASK, close, log_p, model, scoring, text};

/// The NELBO of the flagged tokens: of each block, over all sets S of its flagged positions that are not empty,
/// 1/(|S|·C(n, |S|)) of the nats of S while exactly S is masked; all else of the text is clean.
fn nelbo(
    model: &Transformer,
    tokens: &[u32],
    counts: &[bool],
    attention: Attention,
    size: usize,
) -> f64 {
    let mut total = 0.0;
    for first in (0..tokens.len()).step_by(size) {
        let block = first..(first + size).min(tokens.len());
        let positions: Vec<usize> = block.filter(|at| counts[*at]).collect();
        let n = positions.len();
        for set in 1u32..1 << n {
            let masked: Vec<usize> =
                (0..n).filter(|bit| set >> bit & 1 == 1).map(|bit| positions[bit]).collect();
            let mut noisy = tokens.to_vec();
            masked.iter().for_each(|at| noisy[*at] = MASK);
            let log_p = log_p(model, &noisy, tokens, attention, size);
            let nats: f64 = masked.iter().map(|at| -log_p[*at][tokens[*at] as usize]).sum();
            let m = masked.len();
            let subsets: f64 = (0..m).map(|i| (n - i) as f64 / (i + 1) as f64).product();
            total += nats / (m as f64 * subsets);
        }
    }
    total
}

/// Nats of the flagged tokens, each with itself and the later flagged ones of its block masked.
pub(super) fn left_to_right(
    model: &Transformer,
    tokens: &[u32],
    counts: &[bool],
    attention: Attention,
    size: usize,
) -> f64 {
    let mut total = 0.0;
    for (at, token) in tokens.iter().enumerate().filter(|(at, _)| counts[*at]) {
        let mut noisy = tokens.to_vec();
        let block = at..(at / size * size + size).min(tokens.len());
        block.filter(|at| counts[*at]).for_each(|at| noisy[at] = MASK);
        total -= log_p(model, &noisy, tokens, attention, size)[at][*token as usize];
    }
    total
}

#[test]
fn a_middle_is_scored_behind_clean_text_and_by_every_way_to_mask_it() {
    let tokens = text(14);
    // A middle that begins and ends within blocks, as the response of a prompt does.
    let eligible: Vec<bool> = (0..tokens.len()).map(|at| (5..11).contains(&at)).collect();
    let middle = Text { tokens: &tokens, eligible: &eligible, documents: &[14] };
    for predicts in [Predicts::Same, Predicts::Next] {
        let model = model(predicts);
        for (attention, size) in [(Attention::BlockCausal, 4), (Attention::Full, 14)] {
            let nats = |method| {
                let scoring = scoring(method, attention, size);
                likelihood(&model, &[middle], &scoring, &mut |_| {}).unwrap().nats
            };
            let exact = nelbo(&model, &tokens, &eligible, attention, size);
            let case = format!("{predicts:?}, {attention}");
            assert!(close(nats(Method::Exact), exact), "{case}: {}, {exact}", nats(Method::Exact));
            let ordered = left_to_right(&model, &tokens, &eligible, attention, size);
            let found = nats(Method::LeftToRight);
            assert!(close(found, ordered), "{case}: {found}, {ordered}");
        }
    }
}

#[test]
fn under_full_attention_a_middle_in_its_place_sees_what_stands_behind_it() {
    let (tokens, model) = (text(12), model(Predicts::Same));
    let eligible: Vec<bool> = (0..12).map(|at| (4..7).contains(&at)).collect();
    let nats = |tokens: &[u32], attention| {
        let middle = Text { tokens, eligible: &eligible, documents: &[12] };
        let scoring = scoring(Method::Exact, attention, 4);
        likelihood(&model, &[middle], &scoring, &mut |_| {}).unwrap().nats
    };
    let mut other = tokens.clone();
    other[10] = 40;
    assert!((nats(&tokens, Attention::Full) - nats(&other, Attention::Full)).abs() > 1e-3);
    let blocks = |tokens: &[u32]| nats(tokens, Attention::BlockCausal);
    assert_eq!(blocks(&tokens), blocks(&other), "what stands in a later block is not seen");
}

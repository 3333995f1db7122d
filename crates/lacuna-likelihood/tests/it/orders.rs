//! Holds the order of filling to its definition: the rule applied by hand, pass by pass, block by block.

use lacuna_likelihood::{Error, Filled, Method, Orders, Text, any_order, likelihood};
use lacuna_model::{Attention, Transformer};
use lacuna_objective::Predicts;
use lacuna_samplers::{Candidate, FillRule};

use super::{MASK, VOCAB, close, log_p, model, scoring, text};

/// Fills one block after the other by hand, the text's own tokens put in.
fn by_hand(
    model: &Transformer,
    tokens: &[u32],
    counts: &[bool],
    (attention, size): (Attention, usize),
    rule: FillRule,
) -> Vec<Filled> {
    let mut all = Vec::new();
    for (block, first) in (0..tokens.len()).step_by(size).enumerate() {
        let ends = (first + size).min(tokens.len());
        let mut open: Vec<usize> = (first..ends).filter(|at| counts[*at]).collect();
        let of = open.len();
        for pass in 0.. {
            if open.is_empty() {
                break;
            }
            let mut noisy = tokens.to_vec();
            open.iter().for_each(|at| noisy[*at] = MASK);
            let log_p = log_p(model, &noisy, tokens, attention, size);
            let candidates: Vec<Candidate> = open
                .iter()
                .map(|position| {
                    let log_p = &log_p[*position];
                    let mut ids: Vec<usize> =
                        (0..VOCAB).filter(|id| *id != MASK as usize).collect();
                    ids.sort_by(|a, b| log_p[*b].total_cmp(&log_p[*a]));
                    Candidate {
                        position: *position,
                        token: ids[0] as u32,
                        confidence: log_p[ids[0]].exp(),
                        margin: log_p[ids[0]].exp() - log_p[ids[1]].exp(),
                        entropy: -log_p.iter().map(|l| l * l.exp()).sum::<f64>(),
                        uniform: 0.0,
                    }
                })
                .collect();
            for chosen in rule.ranked(&candidates, 1) {
                let Candidate { position, token: candidate, confidence, .. } = candidates[chosen];
                let token = tokens[position];
                let nats = -log_p[position][token as usize];
                let rank = of - open.len();
                open.retain(|at| *at != position);
                all.push(Filled {
                    position,
                    block,
                    pass,
                    rank,
                    of,
                    candidate,
                    confidence,
                    token,
                    nats,
                });
            }
        }
    }
    all.sort_by_key(|filled| filled.position);
    all
}

#[test]
fn every_rule_fills_what_it_fills_by_hand() {
    let tokens = text(13);
    let eligible: Vec<bool> = (0..13).map(|at| at > 0 && at != 6).collect();
    let read = Text { tokens: &tokens, eligible: &eligible, documents: &[13] };
    for predicts in [Predicts::Same, Predicts::Next] {
        let model = model(predicts);
        for (attention, size) in [(Attention::BlockCausal, 4), (Attention::Full, 13)] {
            for rule in [
                FillRule::LowConfidence,
                FillRule::Threshold { tau: 0.3 },
                FillRule::Factor { factor: 0.9 },
                FillRule::EntropyBounded { gamma: 2.0 },
                FillRule::Margin,
                FillRule::Entropy,
                FillRule::LeftToRight,
            ] {
                let scoring = scoring(Method::Exact, attention, size);
                let found = any_order(&model, &read, &scoring, (rule, 0), &mut || true);
                let found = found.unwrap().unwrap();
                let expected = by_hand(&model, &tokens, &eligible, (attention, size), rule);
                assert_eq!(found.len(), 11);
                for (found, expected) in found.iter().zip(&expected) {
                    let case = format!("{rule} {predicts:?} {attention}: {found:?}, {expected:?}");
                    let as_it_is =
                        Filled { confidence: expected.confidence, nats: expected.nats, ..*found };
                    assert_eq!(as_it_is, *expected, "{case}");
                    assert!(close(found.confidence, expected.confidence), "{case}");
                    assert!(close(found.nats, expected.nats), "{case}");
                }
            }
        }
    }
}

#[test]
fn filled_from_the_left_it_is_the_left_to_right_likelihood() {
    let (tokens, model) = (text(21), model(Predicts::Same));
    let read = Text { tokens: &tokens, eligible: &[true; 21], documents: &[21] };
    for attention in [Attention::BlockCausal, Attention::Full] {
        let scoring = scoring(Method::LeftToRight, attention, 4);
        let filled = any_order(&model, &read, &scoring, (FillRule::LeftToRight, 0), &mut || true);
        let mut orders = Orders::default();
        orders.add(&filled.unwrap().unwrap());
        let score = likelihood(&model, &[read], &scoring, &mut |_| {}).unwrap();
        assert!(close(orders.all.nats, score.nats), "{attention}: {orders:?}, {score:?}");
        assert_eq!((orders.all.tokens, orders.passes), (20, 20), "one token a pass");
    }
}

#[test]
fn a_random_order_has_the_seed_s_and_every_threshold_fills_everything() {
    let (tokens, model) = (text(17), model(Predicts::Same));
    let read = Text { tokens: &tokens, eligible: &[true; 17], documents: &[17] };
    let scoring = scoring(Method::Exact, Attention::BlockCausal, 8);
    let fill = |rule, seed| {
        any_order(&model, &read, &scoring, (rule, seed), &mut || true).unwrap().unwrap()
    };
    assert_eq!(fill(FillRule::Random, 1), fill(FillRule::Random, 1));
    assert_ne!(fill(FillRule::Random, 1), fill(FillRule::Random, 2));
    let passes = |tau| {
        let filled = fill(FillRule::Threshold { tau }, 0);
        assert!(filled.iter().map(|one| one.position).eq(1..17));
        let mut orders = Orders::default();
        orders.add(&filled);
        orders.passes
    };
    assert_eq!((passes(0.0), passes(1.0)), (3, 16), "a pass a block, or one a token");
}

#[test]
fn it_ends_where_it_is_told_to_and_says_where_there_is_no_order() {
    let (tokens, model) = (text(9), model(Predicts::Same));
    let read = Text { tokens: &tokens, eligible: &[true; 9], documents: &[9] };
    let blocks = scoring(Method::Exact, Attention::BlockCausal, 4);
    let rule = (FillRule::LowConfidence, 0);
    let mut passes = 0;
    let ended = any_order(&model, &read, &blocks, rule, &mut || {
        passes += 1;
        passes < 2
    });
    assert_eq!((ended.unwrap(), passes), (None, 2));
    let causal = scoring(Method::Exact, Attention::Causal, 4);
    let refused = any_order(&model, &read, &causal, rule, &mut || true);
    assert!(matches!(refused, Err(Error::NoOrder)), "{refused:?}");
}

//! Holds scores by windows to those of the whole text, where both can be had.

use lacuna_likelihood::{Likelihood, Method, Strides, Text, likelihood_of};
use lacuna_model::{Attention, Transformer};
use lacuna_objective::Predicts;

use super::definitions::left_to_right;
use super::{close, model, scoring, text};

/// The score of the tokens of `counted` in the text `read` of a longer one.
fn part(
    model: &Transformer,
    tokens: &[u32],
    (read, counted): (std::ops::Range<usize>, std::ops::Range<usize>),
    method: Method,
) -> Likelihood {
    let eligible: Vec<bool> = read.clone().map(|at| counted.contains(&at)).collect();
    let documents = [read.len()];
    let text = Text { tokens: &tokens[read], eligible: &eligible, documents: &documents };
    let scoring = scoring(method, Attention::BlockCausal, 4);
    likelihood_of(model, &text, 0, &scoring, &mut || true).unwrap().unwrap()
}

const METHODS: [Method; 3] = [Method::Autoregressive, Method::Exact, Method::LeftToRight];

#[test]
fn windows_that_reach_back_to_the_beginning_give_the_score_of_the_whole_text() {
    let (tokens, model) = (text(30), model(Predicts::Same));
    for method in METHODS {
        let whole = part(&model, &tokens, (0..30, 0..30), method);
        // Each stretch is scored behind all that stands before it: the parts are those of the whole.
        let mut sum = Likelihood::none(method);
        for stretch in [0..8, 8..12, 12..28, 28..30] {
            sum += part(&model, &tokens, (0..stretch.end, stretch), method);
        }
        assert!(close(sum.nats, whole.nats), "{method:?}: {sum:?}, {whole:?}");
        assert_eq!(sum.tokens, whole.tokens);
    }
}

#[test]
fn strides_score_every_token_once_and_each_behind_the_context_that_a_window_has() {
    let (tokens, model) = (text(50), model(Predicts::Same));
    let strides = Strides::new(17, 9, 4).unwrap();
    assert_eq!((strides.window(), strides.stride()), (16, 8), "whole blocks");
    for method in METHODS {
        let whole = part(&model, &tokens, (0..50, 0..50), method);
        let mut sum = Likelihood::none(method);
        for (read, scored) in strides.windows(50) {
            let one = part(&model, &tokens, (read.clone(), scored.clone()), method);
            if method == Method::LeftToRight {
                // By hand: the window as a text of its own, of which the last tokens count, but never the first.
                let counts: Vec<bool> =
                    read.clone().map(|at| at > read.start && scored.contains(&at)).collect();
                let attention = Attention::BlockCausal;
                let expected = left_to_right(&model, &tokens[read], &counts, attention, 4);
                assert!(close(one.nats, expected), "{one:?}, {expected}");
            }
            sum += one;
        }
        assert_eq!(sum.tokens, whole.tokens, "{method:?}");
        assert!((sum.nats - whole.nats).abs() > 1e-3, "less context is another score");
    }
    // A window that holds the whole text is the whole text.
    let one: Vec<_> = Strides::new(64, 32, 4).unwrap().windows(50).collect();
    assert_eq!(one, [(0..50, 0..50)]);
}

#[test]
fn errors_of_texts_with_different_numbers_are_independent() {
    let (tokens, model) = (text(20), model(Predicts::Same));
    let method = Method::MonteCarlo { samples: 16, seed: 3 };
    let read = Text { tokens: &tokens, eligible: &[true; 20], documents: &[20] };
    let scoring = scoring(method, Attention::BlockCausal, 8);
    let score = |number| likelihood_of(&model, &read, number, &scoring, &mut || true).unwrap();
    assert_eq!(score(1), score(1));
    let (one, other) = (score(1).unwrap(), score(2).unwrap());
    assert_ne!(one.nats, other.nats, "each number has masks of its own");
    let mut both = one;
    both += other;
    let (a, b) = (one.standard_error.unwrap(), other.standard_error.unwrap());
    assert!(close(both.standard_error.unwrap(), (a * a + b * b).sqrt()));
    assert_eq!(likelihood_of(&model, &read, 1, &scoring, &mut || false).unwrap(), None);
}

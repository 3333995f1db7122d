//! Checks the loss: its value, its gradients, and that the parts of a batch add up.

use candle_core::{Device, Tensor, Var};
use lacuna_kernels::{Backend, linear_cross_entropy};
use lacuna_objective::{Error, Targets, weighted_loss};

/// The hidden states of six supervised rows, hidden size 4, and a head of vocabulary 5.
fn model() -> (Tensor, Tensor) {
    let values = |n: usize, k: f32| (0..n).map(|i| (i as f32 * k).sin()).collect::<Vec<_>>();
    let hidden = Tensor::from_vec(values(24, 0.7), (6, 4), &Device::Cpu).expect("shape fits");
    let head = Tensor::from_vec(values(20, 1.3), (5, 4), &Device::Cpu).expect("shape fits");
    (hidden, head)
}

fn targets() -> Targets {
    Targets { ids: vec![0, 1, 2, 3, 4, 0], weights: vec![2.0, 1.5, 1.0, 4.0, 0.25, 0.5] }
}

/// The targets of a part of the rows.
fn part(rows: std::ops::Range<usize>) -> Targets {
    let Targets { ids, weights } = targets();
    Targets { ids: ids[rows.clone()].to_vec(), weights: weights[rows].to_vec() }
}

/// −log softmax(head · hidden)[id], from plain numbers.
fn nll(hidden: &Tensor, head: &Tensor, row: usize, id: u32) -> f64 {
    let hidden: Vec<Vec<f32>> = hidden.to_vec2().expect("a matrix");
    let head: Vec<Vec<f32>> = head.to_vec2().expect("a matrix");
    let logit = |v: &Vec<f32>| -> f64 {
        v.iter().zip(&hidden[row]).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    };
    let logits: Vec<f64> = head.iter().map(logit).collect();
    logits.iter().map(|z| z.exp()).sum::<f64>().ln() - logits[id as usize]
}

#[test]
fn the_loss_is_the_weighted_sum_over_eligible_tokens() {
    let (hidden, head) = model();
    let targets = targets();
    let loss = weighted_loss(Backend::cpu(), &hidden, &head, &targets, 8.0).unwrap();
    let mut expected = 0.0;
    for i in 0..6 {
        let one = nll(&hidden, &head, i, targets.ids[i]);
        assert!((f64::from(loss.nll[i]) - one).abs() < 1e-5, "nll is reported unweighted");
        expected += f64::from(targets.weights[i]) * one / 8.0;
    }
    assert!((loss.loss - expected).abs() < 1e-5 * expected, "{} against {expected}", loss.loss);
}

#[test]
fn the_gradients_are_those_that_a_graph_gives() {
    let (hidden, head) = model();
    let targets = targets();
    let found = weighted_loss(Backend::cpu(), &hidden, &head, &targets, 8.0).unwrap();
    let (hidden, head) = (Var::from_tensor(&hidden).unwrap(), Var::from_tensor(&head).unwrap());
    let weights: Vec<f32> = targets.weights.iter().map(|w| w / 8.0).collect();
    let graph =
        linear_cross_entropy(Backend::cpu(), &hidden, &head, &targets.ids, &weights).unwrap();
    let store = graph.loss.backward().unwrap();
    assert_eq!(found.loss as f32, graph.loss.to_scalar::<f32>().unwrap());
    assert_eq!(found.nll, graph.nll);
    for (found, leaf) in [(&found.hidden, &hidden), (&found.head, &head)] {
        let values = |t: &Tensor| t.to_vec2::<f32>().unwrap();
        assert_eq!(values(found), values(store.get(leaf.as_tensor()).unwrap()));
    }
    let rows: Vec<Vec<f32>> = found.hidden.to_vec2().unwrap();
    assert!(rows.iter().all(|row| row.iter().any(|g| *g != 0.0)), "every masked row learns");
}

/// Loss and gradients of the parts add up to those of the whole, to 1e-6 relative.
#[test]
fn the_loss_does_not_depend_on_the_split_into_micro_batches() {
    let (hidden, head) = model();
    let whole = weighted_loss(Backend::cpu(), &hidden, &head, &targets(), 8.0).unwrap();
    let (mut sum, mut gradient) = (0.0, head.zeros_like().unwrap());
    for rows in [0..2, 2..5, 5..6] {
        let hidden = hidden.narrow(0, rows.start, rows.len()).unwrap();
        let loss = weighted_loss(Backend::cpu(), &hidden, &head, &part(rows), 8.0).unwrap();
        sum += loss.loss;
        gradient = (gradient + loss.head).unwrap();
    }
    let off = (sum - whole.loss).abs();
    assert!(off <= 1e-6 * whole.loss, "{sum} against {}", whole.loss);
    let squares = |t: &Tensor| t.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
    let difference = squares(&(gradient - &whole.head).unwrap()).sqrt();
    assert!(difference <= 1e-6 * squares(&whole.head).sqrt(), "{difference}");
}

#[test]
fn a_loss_over_nothing_is_refused() {
    let (hidden, head) = model();
    for denominator in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let refused = weighted_loss(Backend::cpu(), &hidden, &head, &targets(), denominator);
        assert!(matches!(refused, Err(Error::Denominator(_))));
    }
}

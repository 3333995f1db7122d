//! The loss: what is counted, what it is divided by, where gradients go.

use candle_core::{Device, Tensor, Var};
use lacuna_kernels::Backend;
use lacuna_objective::{
    Error, Predicts, Targets, weighted_loss, weighted_loss_gradients, weighted_loss_of_rows,
};

/// Two windows of three tokens, hidden size 4, vocabulary 5.
fn model() -> (Var, Var) {
    let values = |n: usize, k: f32| (0..n).map(|i| (i as f32 * k).sin()).collect::<Vec<_>>();
    let hidden = Var::from_vec(values(24, 0.7), (2, 3, 4), &Device::Cpu).expect("shape fits");
    let head = Var::from_vec(values(20, 1.3), (5, 4), &Device::Cpu).expect("shape fits");
    (hidden, head)
}

/// −log softmax(head · hidden)[id], from plain numbers.
fn nll(hidden: &Var, head: &Var, row: usize, id: u32) -> f64 {
    let hidden: Vec<Vec<f32>> =
        hidden.flatten_to(1).and_then(|t| t.to_vec2()).expect("two windows");
    let head: Vec<Vec<f32>> = head.to_vec2().expect("a matrix");
    let logit = |v: &Vec<f32>| -> f64 {
        v.iter().zip(&hidden[row]).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    };
    let logits: Vec<f64> = head.iter().map(logit).collect();
    logits.iter().map(|z| z.exp()).sum::<f64>().ln() - logits[id as usize]
}

const CLEAN: [u32; 6] = [0, 1, 2, 3, 4, 0];
const WEIGHTS: [f32; 6] = [2.0, 0.0, 1.0, 4.0, 0.0, 0.5];

#[test]
fn only_masked_positions_are_targets() {
    let own = Targets::masked(&CLEAN, &WEIGHTS, 3, Predicts::Own).unwrap();
    assert_eq!((own.rows, own.ids), (vec![0, 2, 3, 5], vec![0, 2, 3, 0]));
    assert_eq!(own.weights, [2.0, 1.0, 4.0, 0.5]);
    // Read off the position before; nothing precedes a window's first token.
    let next = Targets::masked(&CLEAN, &WEIGHTS, 3, Predicts::Next).unwrap();
    assert_eq!((next.rows, next.ids), (vec![1, 4], vec![2, 0]));
}

#[test]
fn autoregression_reads_each_eligible_token_off_the_one_before() {
    let eligible = [true, true, false, true, true, true];
    let targets = Targets::next_token(&CLEAN, &eligible, 3).unwrap();
    assert_eq!((targets.rows, targets.ids), (vec![0, 3, 4], vec![1, 4, 0]));
    assert_eq!(targets.weights, [1.0; 3]);
}

#[test]
fn the_loss_is_the_weighted_sum_over_eligible_tokens() {
    let (hidden, head) = model();
    let targets = Targets::masked(&CLEAN, &WEIGHTS, 3, Predicts::Own).unwrap();
    let loss = weighted_loss(Backend::cpu(), &hidden, &head, &targets, 6.0).unwrap();
    let mut expected = 0.0;
    for i in 0..4 {
        let (row, id) = (targets.rows[i] as usize, targets.ids[i]);
        let one = nll(&hidden, &head, row, id);
        assert!((f64::from(loss.nll[i]) - one).abs() < 1e-5, "nll is reported unweighted");
        expected += f64::from(targets.weights[i]) * one / 6.0;
    }
    let value = f64::from(loss.loss.to_scalar::<f32>().unwrap());
    assert!((value - expected).abs() < 1e-5 * expected, "{value} against {expected}");
}

#[test]
fn rows_without_a_mask_get_no_gradient_and_masked_ones_do() {
    let (hidden, head) = model();
    let targets = Targets::masked(&CLEAN, &WEIGHTS, 3, Predicts::Own).unwrap();
    let loss = weighted_loss(Backend::cpu(), &hidden, &head, &targets, 6.0).unwrap().loss;
    let gradients = loss.backward().unwrap();
    let gradient = gradients.get(hidden.as_tensor()).unwrap().flatten_to(1).unwrap();
    let rows: Vec<Vec<f32>> = gradient.to_vec2().unwrap();
    for (row, weight) in rows.iter().zip(WEIGHTS) {
        assert_eq!(row.iter().any(|g| *g != 0.0), weight > 0.0);
    }
    assert!(gradients.get(head.as_tensor()).is_some());
}

#[test]
fn gradients_without_a_graph_are_those_of_the_graph() {
    let (hidden, head) = model();
    let targets = Targets::masked(&CLEAN, &WEIGHTS, 3, Predicts::Own).unwrap();
    let rows = Tensor::new(targets.rows.as_slice(), hidden.device()).unwrap();
    let hidden =
        Var::from_tensor(&hidden.flatten_to(1).unwrap().index_select(&rows, 0).unwrap().detach());
    let hidden = hidden.unwrap();
    let graph = weighted_loss_of_rows(Backend::cpu(), &hidden, &head, &targets, 6.0).unwrap();
    let store = graph.loss.backward().unwrap();
    let found = weighted_loss_gradients(Backend::cpu(), &hidden, &head, &targets, 6.0).unwrap();
    assert_eq!(found.loss as f32, graph.loss.to_scalar::<f32>().unwrap());
    assert_eq!(found.nll, graph.nll);
    for (found, leaf) in [(&found.hidden, &hidden), (&found.head, &head)] {
        let values = |t: &Tensor| t.to_vec2::<f32>().unwrap();
        assert_eq!(values(found), values(store.get(leaf.as_tensor()).unwrap()));
    }
    assert!(weighted_loss_gradients(Backend::cpu(), &hidden, &head, &targets, 0.0).is_err());
}

/// Loss and gradients of the parts add up to those of the whole, to 1e-6 relative.
#[test]
fn the_loss_does_not_depend_on_the_split_into_micro_batches() {
    let (hidden, head) = model();
    let whole = Targets::masked(&CLEAN, &WEIGHTS, 3, Predicts::Own).unwrap();
    let whole = weighted_loss(Backend::cpu(), &hidden, &head, &whole, 6.0).unwrap().loss;
    let whole_gradient = whole.backward().unwrap();
    let whole_gradient = whole_gradient.get(head.as_tensor()).unwrap();
    let (mut sum, mut gradient) = (0.0, head.zeros_like().unwrap());
    for part in 0..2 {
        let tokens = part * 3..part * 3 + 3;
        let targets =
            Targets::masked(&CLEAN[tokens.clone()], &WEIGHTS[tokens], 3, Predicts::Own).unwrap();
        let hidden = hidden.narrow(0, part, 1).unwrap();
        let loss = weighted_loss(Backend::cpu(), &hidden, &head, &targets, 6.0).unwrap().loss;
        sum += loss.to_scalar::<f32>().unwrap();
        let gradients = loss.backward().unwrap();
        gradient = (gradient + gradients.get(head.as_tensor()).unwrap()).unwrap();
    }
    let whole = whole.to_scalar::<f32>().unwrap();
    assert!((sum - whole).abs() <= 1e-6 * whole, "{sum} against {whole}");
    let squares = |t: &Tensor| t.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
    let difference = squares(&(gradient - whole_gradient).unwrap()).sqrt();
    assert!(difference <= 1e-6 * squares(whole_gradient).sqrt(), "{difference}");
}

#[test]
fn a_batch_without_masks_costs_nothing_and_still_reaches_the_model() {
    let (hidden, head) = model();
    let targets = Targets::masked(&CLEAN, &[0.0; 6], 3, Predicts::Own).unwrap();
    let loss = weighted_loss(Backend::cpu(), &hidden, &head, &targets, 6.0).unwrap();
    assert_eq!(loss.loss.to_scalar::<f32>().unwrap(), 0.0);
    assert!(loss.nll.is_empty());
    let gradients = loss.loss.backward().unwrap();
    let gradient = gradients.get(hidden.as_tensor()).unwrap();
    assert_eq!(gradient.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap(), 0.0);
}

#[test]
fn nonsense_is_refused() {
    let (hidden, head) = model();
    let targets = Targets::masked(&CLEAN, &WEIGHTS, 3, Predicts::Own).unwrap();
    for denominator in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let refused = weighted_loss(Backend::cpu(), &hidden, &head, &targets, denominator);
        assert!(matches!(refused, Err(Error::Denominator(_))));
    }
    let short = Targets::masked(&CLEAN, &WEIGHTS[..5], 3, Predicts::Own);
    assert!(matches!(short, Err(Error::Length { .. })));
    let ragged = Targets::masked(&CLEAN, &WEIGHTS, 4, Predicts::Own);
    assert!(matches!(ragged, Err(Error::Length { .. })));
    let no_window = Targets::next_token(&CLEAN, &[true; 6], 0);
    assert!(matches!(no_window, Err(Error::Length { .. })));
}

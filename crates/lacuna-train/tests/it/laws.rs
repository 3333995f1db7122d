//! Checks the laws of a step and of a likelihood, which must hold whatever the weights.

use candle_core::{DType, Device};
use lacuna_checkpoint::{Attention, Config};
use lacuna_data::Window;
use lacuna_kernels::AttentionMask;
use lacuna_likelihood::{Blocks, Method, Scoring, Text, likelihood};
use lacuna_model::{Batch, Sequence, Transformer};
use lacuna_objective::{
    CorruptionRule, Pass, Predicts, Row, exact_passes, left_to_right_passes, monte_carlo_passes,
};
use lacuna_random::{Purpose, stream};
use lacuna_schedules::{TimeSampling, Warmup};
use lacuna_train::{
    AdamW, AdamWConfig, Collective, ObjectiveKind, Parameter, StageObjective, StepSettings, step,
};
use std::num::NonZeroUsize;

const MASK: u32 = 5;
const VOCAB: usize = 64;
/// The number of tokens in a window.
const WINDOW: usize = 32;

fn model(vocab_size: usize, dtype: DType) -> Transformer {
    let config = Config {
        vocab_size,
        hidden_size: 32,
        intermediate_size: 48,
        num_layers: 2,
        num_heads: 4,
        num_kv_heads: 2,
        head_dim: 8,
        ..Config::default()
    };
    let model = Transformer::init(config, 5, dtype, &Device::Cpu).unwrap();
    for (name, var) in model.parameters().unwrap().iter() {
        if !name.is_norm() {
            var.set(&(var.as_tensor() * 8.0).unwrap()).unwrap();
        }
    }
    model
}

/// An objective with the paper's rule.
fn objective(kind: ObjectiveKind) -> StageObjective {
    let block_size = if kind == ObjectiveKind::BlockDiffusion { 4 } else { WINDOW };
    let rule = (CorruptionRule::paper(MASK), TimeSampling::default());
    StageObjective {
        kind,
        block_size: NonZeroUsize::new(block_size).unwrap(),
        corruption: (kind != ObjectiveKind::Autoregressive).then_some(rule),
        predicts: Predicts::Same,
        document_mask: false,
        recompute: false,
    }
}

/// Windows of two documents each, no two alike.
fn windows(n: u32) -> Vec<Window> {
    let token = |window: u32, i: u32| 6 + (window * 29 + i * 37 + i * i * window) % 50;
    let window = |window: u32| Window {
        tokens: (0..WINDOW as u32).map(|i| token(window, i)).collect(),
        eligible: vec![true; WINDOW],
        documents: vec![19, WINDOW - 19],
    };
    (0..n).map(window).collect()
}

fn settings(micro_batch_size: usize) -> StepSettings<'static> {
    StepSettings { micro_batch_size, learning_rate: 1e-3, collective: &Collective::Alone }
}

const KINDS: [ObjectiveKind; 4] = [
    ObjectiveKind::Autoregressive,
    ObjectiveKind::BlockDiffusion,
    ObjectiveKind::FullDiffusion,
    ObjectiveKind::CausalDiffusion,
];

#[test]
fn loss_and_update_do_not_depend_on_the_micro_batch_split() {
    for kind in KINDS {
        let objective = objective(kind);
        let examples = objective.examples(&windows(6), 3, 40, 40).unwrap();
        let outcomes: Vec<_> = [6, 3, 2, 1]
            .into_iter()
            .map(|micro| {
                let model = model(VOCAB, DType::F32);
                let parameters = model.parameters().unwrap().iter();
                let parameters = parameters.map(|(_, v)| Parameter::new(v.clone()));
                let mut optimizer =
                    AdamW::new(parameters.collect(), AdamWConfig::default()).unwrap();
                step(&model, &objective, &mut optimizer, &examples, settings(micro)).unwrap()
            })
            .collect();
        for other in &outcomes[1..] {
            let loss = (other.loss / outcomes[0].loss - 1.0).abs();
            let norm = (other.grad_norm / outcomes[0].grad_norm - 1.0).abs();
            assert!(loss < 1e-6, "{kind:?}: loss off by {loss:e}");
            // f32 gradients are summed in another order.
            assert!(norm < 1e-5, "{kind:?}: gradient norm off by {norm:e}");
        }
    }
}

#[test]
fn a_step_without_a_masked_token_changes_nothing() {
    let mut rule = CorruptionRule { warmup: Warmup::new(1000), ..CorruptionRule::paper(MASK) };
    rule.warmup = rule.warmup.with_rate_init(1e-9).unwrap();
    let corruption = Some((rule, TimeSampling::default()));
    let objective = StageObjective { corruption, ..objective(ObjectiveKind::BlockDiffusion) };
    let examples = objective.examples(&windows(2), 3, 0, 0).unwrap();
    assert!(examples.iter().all(|example| example.targets.is_empty()));
    let model = model(VOCAB, DType::F32);
    let values = || -> Vec<Vec<f32>> {
        let vars = model.parameters().unwrap().iter();
        vars.map(|(_, var)| var.flatten_all().unwrap().to_vec1().unwrap()).collect()
    };
    let before = values();
    let parameters = model.parameters().unwrap().iter().map(|(_, v)| Parameter::new(v.clone()));
    let mut optimizer = AdamW::new(parameters.collect(), AdamWConfig::default()).unwrap();
    let outcome = step(&model, &objective, &mut optimizer, &examples, settings(2)).unwrap();
    assert_eq!((outcome.loss, outcome.grad_norm, outcome.nll.len()), (0.0, 0.0, 0));
    assert_eq!((optimizer.steps(), values()), (0, before));
}

#[test]
fn every_parameter_learns_in_every_kind_of_stage() {
    for predicts in [Predicts::Same, Predicts::Next] {
        for kind in KINDS {
            let objective = StageObjective { predicts, ..objective(kind) };
            let examples = objective.examples(&windows(2), 3, 40, 40).unwrap();
            let model = model(VOCAB, DType::F32);
            let eligible = examples.iter().map(|e| e.eligible).sum();
            let out = objective.loss_and_gradients(&model, &examples, eligible).unwrap().unwrap();
            for (name, gradient) in out.gradients.iter() {
                let norm = gradient.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
                assert!(norm > 0.0 && norm.is_finite(), "{kind:?}: {name} gets {norm}");
            }
        }
    }
}

#[test]
fn noise_depends_on_seed_step_and_row_alone() {
    let objective = objective(ObjectiveKind::BlockDiffusion);
    let windows = windows(5);
    let noisy = |seed, step| -> Vec<Vec<u32>> {
        let examples = objective.examples(&windows, seed, step, 100).unwrap();
        examples.into_iter().map(|e| e.input).collect()
    };
    assert_eq!(noisy(1, 7), noisy(1, 7));
    assert_ne!(noisy(1, 7), noisy(1, 8));
    assert_ne!(noisy(1, 7), noisy(2, 7));
    let rows = noisy(1, 7);
    let masks = |row: &[u32]| row.iter().map(|t| *t == MASK).collect::<Vec<_>>();
    assert_ne!(masks(&rows[0]), masks(&rows[1]), "rows share their noise");
}

#[test]
fn prompts_and_padding_are_never_masked_and_never_supervised() {
    let objective = objective(ObjectiveKind::BlockDiffusion);
    let mut window = windows(1).remove(0);
    // The prompt ends inside a block.
    window.eligible.iter_mut().take(10).for_each(|e| *e = false);
    let last = window.eligible.len() - 3;
    window.eligible[last..].iter_mut().for_each(|e| *e = false);
    for step in 0..50 {
        let examples = objective.examples(&[window.clone()], 9, step, step).unwrap();
        let example = &examples[0];
        assert_eq!(example.eligible, window.tokens.len() - 13);
        assert_eq!(example.input[..10], window.tokens[..10]);
        assert_eq!(example.input[last..], window.tokens[last..]);
        assert!(example.targets.iter().all(|t| (10..last as u32).contains(&t.row)));
    }
}

fn score(model: &Transformer, window: &Window, method: Method, block_size: usize) -> f64 {
    let blocks = Blocks { block_size: NonZeroUsize::new(block_size).unwrap(), mask_id: MASK };
    let scoring = Scoring {
        method,
        blocks: Some(blocks),
        attention: Attention::BlockCausal,
        document_mask: false,
        batch_size: 3,
    };
    likelihood(model, &[text(window)], &scoring, &mut |_| {}).unwrap().nats
}

fn text(window: &Window) -> Text<'_> {
    Text { tokens: &window.tokens, eligible: &window.eligible, documents: &window.documents }
}

fn short_window() -> Window {
    let tokens: Vec<u32> = (0..11u32).map(|i| 6 + (i * 37 + 11) % 50).collect();
    Window { eligible: vec![true; tokens.len()], documents: vec![tokens.len()], tokens }
}

#[test]
fn blocks_of_one_masked_token_are_next_token_prediction_without_shift() {
    let model = model(VOCAB, DType::F64);
    let window = short_window();
    // The same is done by hand: each token behind its clean prefix, MASK in its own place, causal attention.
    let mut by_hand = 0.0;
    for i in 1..window.tokens.len() {
        let mut tokens = window.tokens[..i].to_vec();
        tokens.push(MASK);
        let last = [i as u32];
        let text = Sequence { tokens: &tokens, wanted: Some(&last), ..Sequence::default() };
        let batch = Batch::of(text, AttentionMask::Causal).unwrap();
        let hidden = model.forward(&batch).unwrap();
        by_hand += f64::from(model.token_nll(&hidden, &[window.tokens[i]]).unwrap()[0]);
    }
    for method in [Method::Exact, Method::LeftToRight] {
        let nats = score(&model, &window, method, 1);
        assert!((nats / by_hand - 1.0).abs() < 1e-6, "{method:?}: {nats}, by hand {by_hand}");
    }
}

#[test]
fn blocks_of_one_under_a_shifted_head_are_next_token_prediction() {
    let mut model = model(VOCAB, DType::F32);
    model.set_predicts(Predicts::Next);
    let window = short_window();
    let autoregressive = score(&model, &window, Method::Autoregressive, 1);
    for method in [Method::Exact, Method::LeftToRight] {
        let nats = score(&model, &window, method, 1);
        assert!((nats / autoregressive - 1.0).abs() < 1e-5, "{method:?}: {nats}, {autoregressive}");
    }
}

#[test]
fn the_exact_nelbo_is_the_mean_over_all_orders_and_monte_carlo_agrees() {
    let model = model(VOCAB, DType::F32);
    let window = short_window();
    let exact = score(&model, &window, Method::Exact, 4);
    // All orders of four places, applied to every block at once; the first block has three scored tokens.
    let mut orders: Vec<Vec<usize>> = vec![vec![]];
    for _ in 0..4 {
        let longer = |order: &Vec<usize>| -> Vec<Vec<usize>> {
            let rest = (0..4).filter(|i| !order.contains(i));
            rest.map(|i| [order.as_slice(), &[i]].concat()).collect()
        };
        orders = orders.iter().flat_map(longer).collect();
    }
    assert_eq!(orders.len(), 24);
    let four = NonZeroUsize::new(4).unwrap();
    let mut mean = 0.0;
    for order in &orders {
        let place = |offset: usize| order.iter().position(|o| *o == offset).unwrap();
        for now in 0..4 {
            let hidden_at = |i: usize| i > 0 && place(i % 4) >= now;
            let noisy: Vec<u32> =
                (0..11).map(|i| if hidden_at(i) { MASK } else { window.tokens[i] }).collect();
            let rows: Vec<u32> = (1..11u32).filter(|i| place(*i as usize % 4) == now).collect();
            if rows.is_empty() {
                continue;
            }
            let noisy = Sequence { tokens: &noisy, wanted: Some(&rows), ..Sequence::default() };
            let mut batch = Batch::default();
            batch.push_noisy_and_clean(noisy, &window.tokens, four).unwrap();
            let hidden = model.forward(&batch).unwrap();
            let targets: Vec<u32> = rows.iter().map(|i| window.tokens[*i as usize]).collect();
            let nll = model.token_nll(&hidden, &targets).unwrap();
            mean += nll.iter().map(|v| f64::from(*v)).sum::<f64>() / 24.0;
        }
    }
    assert!((exact / mean - 1.0).abs() < 1e-5, "exact {exact}, mean over orders {mean}");

    let blocks = Blocks { block_size: four, mask_id: MASK };
    let method = Method::MonteCarlo { samples: 400, seed: 1 };
    let scoring = Scoring {
        method,
        blocks: Some(blocks),
        attention: Attention::BlockCausal,
        document_mask: false,
        batch_size: 50,
    };
    let estimate = likelihood(&model, &[text(&window)], &scoring, &mut |_| {}).unwrap();
    let error = estimate.standard_error.unwrap();
    assert!(
        error > 0.0 && (estimate.nats - exact).abs() < 4.0 * error,
        "{estimate:?}, exact {exact}"
    );
}

/// Nats of a pass, computed from the logits of its noisy text alone.
fn nats_by_hand(model: &Transformer, window: &Window, pass: &Pass, mask: AttentionMask) -> f64 {
    let shift = usize::from(model.config().predicts == Predicts::Next);
    let hidden = model.forward(&Batch::of(pass.noisy.as_slice(), mask).unwrap()).unwrap();
    let logits = model.logits(&hidden).unwrap().to_dtype(DType::F64).unwrap();
    let logits = logits.to_vec2::<f64>().unwrap();
    let nll = |position: usize| {
        let row = &logits[position - shift];
        let sum: f64 = row.iter().map(|logit| logit.exp()).sum();
        sum.ln() - row[window.tokens[position] as usize]
    };
    pass.scored.iter().map(|scored| scored.coefficient * nll(scored.position)).sum()
}

#[test]
fn scores_under_full_and_causal_attention_are_those_of_noisy_texts_read_as_in_training() {
    let window = short_window();
    let eligible: Vec<bool> = (0..window.tokens.len()).map(|at| at > 0).collect();
    let whole = 0..window.tokens.len();
    let blocks = std::slice::from_ref(&whole);
    let row = Row::new(&window.tokens, &eligible, blocks).unwrap();
    for predicts in [Predicts::Same, Predicts::Next] {
        let mut model = model(VOCAB, DType::F32);
        model.set_predicts(predicts);
        let score = |attention, method| {
            // The block size says nothing here.
            let blocks = Blocks { block_size: NonZeroUsize::new(3).unwrap(), mask_id: MASK };
            let blocks = Some(blocks);
            let scoring =
                Scoring { method, blocks, attention, document_mask: false, batch_size: 3 };
            likelihood(&model, &[text(&window)], &scoring, &mut |_| {}).unwrap()
        };
        let samples = 7;
        let sampled = || {
            let mut rng = stream(9, Purpose::Likelihood, 0, 0);
            monte_carlo_passes(row, MASK, samples, &mut rng).collect::<Vec<_>>()
        };
        for (attention, mask) in
            [(Attention::Full, AttentionMask::Full), (Attention::Causal, AttentionMask::Causal)]
        {
            let passes = sampled();
            let by_hand = passes.iter().map(|pass| nats_by_hand(&model, &window, pass, mask));
            let by_hand = by_hand.sum::<f64>() / samples as f64;
            let scored = score(attention, Method::MonteCarlo { samples, seed: 9 });
            let case = format!("{attention}, {predicts:?}");
            assert!((scored.nats / by_hand - 1.0).abs() < 1e-5, "{case}: {scored:?}, {by_hand}");
            assert!(scored.standard_error.unwrap() > 0.0 && scored.tokens == 10, "{case}");
        }
        let exact: Vec<Pass> = exact_passes(row, MASK).unwrap().collect();
        let ordered: Vec<Pass> = left_to_right_passes(row, MASK).collect();
        for (method, passes) in [(Method::Exact, exact), (Method::LeftToRight, ordered)] {
            let mask = AttentionMask::Full;
            let by_hand: f64 =
                passes.iter().map(|pass| nats_by_hand(&model, &window, pass, mask)).sum();
            let scored = score(Attention::Full, method);
            assert!(
                (scored.nats / by_hand - 1.0).abs() < 1e-5,
                "{method:?}: {scored:?}, {by_hand}"
            );
            assert_eq!(scored.passes, passes.len());
            // Under causal attention, token by token behind clean text.
            let blocks = self::score(&model, &window, method, 1);
            assert_eq!(score(Attention::Causal, method).nats, blocks, "{method:?}");
        }
    }
}

#[test]
fn documents_that_do_not_see_each_other_are_a_canvas_each() {
    let model = model(VOCAB, DType::F32);
    let window = windows(1).remove(0);
    let scoring = Scoring {
        method: Method::MonteCarlo { samples: 5, seed: 2 },
        blocks: Some(Blocks { block_size: NonZeroUsize::MIN, mask_id: MASK }),
        attention: Attention::Full,
        document_mask: true,
        batch_size: 2,
    };
    let together = likelihood(&model, &[text(&window)], &scoring, &mut |_| {}).unwrap();
    assert_eq!(together.tokens, WINDOW - 2, "the first of each document is context");
    // A document's part of the score does not depend on the other document.
    let mut other = window.clone();
    other.tokens[25..].fill(7);
    let mut first = window.clone();
    first.eligible[19..].fill(false);
    let mut first_of_other = other.clone();
    first_of_other.eligible[19..].fill(false);
    let nats =
        |window: &Window| likelihood(&model, &[text(window)], &scoring, &mut |_| {}).unwrap().nats;
    assert!((nats(&first) / nats(&first_of_other) - 1.0).abs() < 1e-6);
}

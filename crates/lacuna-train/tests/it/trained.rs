//! Checks what is trained and by which rule: adapters, frozen parameters, dropout, rounded parameters, running means.

use candle_core::{DType, Device, Tensor, Var};
use lacuna_checkpoint::{Field, Kind, Name};
use lacuna_model::{Adapter, Transformer};
use lacuna_train::{
    AdamW, AdamWConfig, Ema, Example, ObjectiveKind, Parameter, ParameterGroup, StageObjective,
    step,
};

use super::laws::{KINDS, VOCAB, model, objective, settings, windows};

fn numbers(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn waves(shape: &[usize], salt: usize, dtype: DType) -> Tensor {
    let n = shape.iter().product::<usize>();
    let waves: Vec<f64> = (0..n).map(|i| 0.3 * ((i * 37 + salt * 11 + 5) as f64).sin()).collect();
    Tensor::from_vec(waves, shape, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
}

/// A model with adapters of rank 3 beside queries, values and the last projections of its feed-forward parts.
fn adapted(dtype: DType) -> Transformer {
    let base = model(VOCAB, dtype);
    let shapes = base.config().shapes();
    let shape = |name: Name| shapes.iter().find(|(n, _)| *n == name).unwrap().1.clone();
    base.adapted(|name| {
        let targets = [Field::Q, Field::V, Field::Down];
        let wanted = targets.contains(&name.field) && name.kind == Kind::Weight;
        wanted.then(|| {
            let (shape, salt) = (shape(name), name.layer.unwrap() * 7 + name.field as usize);
            let a = Var::from_tensor(&waves(&[3, shape[1]], salt, dtype)).unwrap();
            let b = Var::from_tensor(&waves(&[shape[0], 3], salt + 1, dtype)).unwrap();
            Adapter { a, b, scale: 0.5 }
        })
    })
    .unwrap()
}

fn loss(objective: &StageObjective, model: &Transformer, examples: &[Example]) -> f64 {
    let eligible = examples.iter().map(|e| e.eligible).sum();
    objective.loss_and_gradients(model, examples, eligible).unwrap().unwrap().loss
}

fn gradients(objective: &StageObjective, model: &Transformer, examples: &[Example]) -> Vec<Tensor> {
    let eligible = examples.iter().map(|e| e.eligible).sum();
    objective.loss_and_gradients(model, examples, eligible).unwrap().unwrap().gradients
}

/// Compares the gradient of everything that is trained with central differences along a direction of its own.
fn check_by_differences(objective: &StageObjective, model: &Transformer, what: &str) {
    let examples = objective.examples(&windows(3), 3, 40, 40).unwrap();
    let found = gradients(objective, model, &examples);
    let trained = model.trained().unwrap();
    assert_eq!(found.len(), trained.len());
    for (i, ((name, var), gradient)) in trained.iter().zip(&found).enumerate() {
        let direction = waves(var.dims(), i, DType::F64);
        let start = var.as_tensor().copy().unwrap();
        let at = |by: f64| {
            var.set(&(&start + (&direction * by).unwrap()).unwrap()).unwrap();
            loss(objective, model, &examples)
        };
        // The error of central differences falls with the square of the width: 1e-6 of the loss's third derivative.
        let slope = (at(1e-4) - at(-1e-4)) / 2e-4;
        var.set(&start).unwrap();
        let along: f64 =
            numbers(gradient).iter().zip(numbers(&direction)).map(|(g, d)| g * d).sum();
        let off = (slope - along).abs() / along.abs().max(1e-3);
        assert!(off < 1e-4, "{what}, {name}: {along} by hand, {slope} by differences");
    }
}

#[test]
fn the_gradients_of_adapters_are_those_that_differences_give() {
    for kind in [ObjectiveKind::Autoregressive, ObjectiveKind::BlockDiffusion] {
        check_by_differences(&objective(kind), &adapted(DType::F64), &format!("{kind:?}"));
    }
}

#[test]
fn gradients_under_dropout_are_those_that_differences_give_whether_recomputed_or_not() {
    for recompute in [false, true] {
        for kind in [ObjectiveKind::Autoregressive, ObjectiveKind::BlockDiffusion] {
            let objective = StageObjective { dropout: 0.3, recompute, ..objective(kind) };
            check_by_differences(&objective, &model(VOCAB, DType::F64), &format!("{kind:?}"));
        }
    }
}

#[test]
fn the_gradients_of_adapters_are_the_full_gradient_s_projections() {
    // dA = s · Bᵀ · dW and dB = s · dW · Aᵀ, with dW the gradient of the merged matrix in full training.
    let adapters = adapted(DType::F64);
    let folder = tempfile::tempdir().unwrap();
    adapters.save(folder.path()).unwrap();
    let weights = lacuna_checkpoint::Weights::open(folder.path()).unwrap();
    let merged = Transformer::trainable(&weights, DType::F64, &Device::Cpu).unwrap();
    for kind in KINDS {
        let objective = objective(kind);
        let examples = objective.examples(&windows(3), 3, 40, 40).unwrap();
        let whole = gradients(&objective, &merged, &examples);
        let whole: Vec<_> = merged.trained().unwrap().into_iter().zip(whole).collect();
        let ours = gradients(&objective, &adapters, &examples);
        let trained = adapters.trained().unwrap();
        for (pair, found) in trained.chunks(2).zip(ours.chunks(2)) {
            let beside = pair[0].0.parameter();
            let (_, d_w) = whole.iter().find(|((name, _), _)| name.parameter() == beside).unwrap();
            let (a, b) = (pair[0].1.as_tensor(), pair[1].1.as_tensor());
            let d_a = (b.t().unwrap().matmul(d_w).unwrap() * 0.5).unwrap();
            let d_b = (d_w.matmul(&a.t().unwrap()).unwrap() * 0.5).unwrap();
            for (found, expected) in found.iter().zip([d_a, d_b]) {
                let (found, expected) = (numbers(found), numbers(&expected));
                let largest = expected.iter().fold(0f64, |most, value| most.max(value.abs()));
                let off = found.iter().zip(&expected).map(|(x, y)| (x - y).abs());
                let off = off.fold(0f64, f64::max);
                assert!(largest > 0.0 && off < 1e-10 * largest, "{kind:?}, {beside}: {off:e}");
            }
        }
    }
}

fn optimizer(model: &Transformer, rounds: bool) -> AdamW {
    let parameters = model.trained().unwrap().into_iter();
    let parameters = parameters.map(|(_, var)| Parameter { rounds, ..Parameter::new(var.clone()) });
    AdamW::new(parameters.collect(), AdamWConfig::default()).unwrap()
}

fn values(model: &Transformer) -> Vec<(Name, Vec<f64>)> {
    let parameters = model.parameters().unwrap().iter();
    parameters.map(|(name, var)| (name, numbers(var))).collect()
}

#[test]
fn adapters_are_learnt_and_the_weights_beside_them_stay_bit_for_bit() {
    let model = adapted(DType::F32);
    let (before, mut optimizer) = (values(&model), optimizer(&model, false));
    let objective = objective(ObjectiveKind::BlockDiffusion);
    let moved = |model: &Transformer| -> Vec<Vec<f64>> {
        model.trained().unwrap().iter().map(|(_, var)| numbers(var)).collect()
    };
    let start = moved(&model);
    for at in 40..44 {
        let examples = objective.examples(&windows(3), 3, at, at).unwrap();
        step(&model, &objective, &mut optimizer, &examples, settings(3)).unwrap();
    }
    assert!(values(&model) == before);
    assert!(moved(&model).iter().zip(&start).all(|(now, then)| now != then));
    // Merged and written, it is the same model.
    let folder = tempfile::tempdir().unwrap();
    model.save(folder.path()).unwrap();
    let merged = lacuna_checkpoint::Weights::open(folder.path()).unwrap();
    let merged = Transformer::trainable(&merged, DType::F32, &Device::Cpu).unwrap();
    let examples = objective.examples(&windows(3), 3, 40, 40).unwrap();
    assert_eq!(loss(&objective, &model, &examples), loss(&objective, &merged, &examples));
}

#[test]
fn what_is_frozen_stays_and_the_rest_learns_as_it_would() {
    for frozen in [
        &[ParameterGroup::Embedding][..],
        &[ParameterGroup::Attention, ParameterGroup::Norms],
        &ParameterGroup::MATRICES,
    ] {
        let whole = model(VOCAB, DType::F64);
        let is_frozen =
            |name: Name| frozen.contains(&ParameterGroup::of(name)) || name.layer == Some(0);
        let part = model(VOCAB, DType::F64).frozen(is_frozen).unwrap();
        let objective = objective(ObjectiveKind::BlockDiffusion);
        let examples = objective.examples(&windows(3), 3, 40, 40).unwrap();
        let all = gradients(&objective, &whole, &examples);
        let all: Vec<_> = whole.trained().unwrap().into_iter().zip(all).collect();
        let some = gradients(&objective, &part, &examples);
        let trained = part.trained().unwrap();
        assert_eq!(trained.len(), some.len());
        assert!(trained.len() < all.len());
        for ((name, _), gradient) in trained.iter().zip(&some) {
            assert!(!is_frozen(name.parameter()), "{name}");
            let (_, expected) = all.iter().find(|((other, _), _)| other == name).unwrap();
            assert_eq!(numbers(gradient), numbers(expected), "{name}");
        }
        let before = values(&part);
        step(&part, &objective, &mut optimizer(&part, false), &examples, settings(3)).unwrap();
        for ((name, now), (_, then)) in values(&part).iter().zip(&before) {
            assert_eq!(now == then, is_frozen(*name), "{name}");
        }
    }
    assert!(model(VOCAB, DType::F32).frozen(|_| true).is_err());
}

#[test]
fn dropout_does_not_depend_on_the_split_and_drops_what_it_says() {
    for kind in KINDS {
        let dropping = StageObjective { dropout: 0.25, ..objective(kind) };
        let examples = dropping.examples(&windows(6), 3, 40, 40).unwrap();
        let model = model(VOCAB, DType::F32);
        let whole = loss(&dropping, &model, &examples);
        assert_ne!(whole, loss(&objective(kind), &model, &examples));
        let eligible: usize = examples.iter().map(|e| e.eligible).sum();
        for micro in [1, 2, 3] {
            let parts = examples.chunks(micro).map(|part| {
                dropping.loss_and_gradients(&model, part, eligible).unwrap().map_or(0.0, |p| p.loss)
            });
            let off = (parts.sum::<f64>() / whole - 1.0).abs();
            assert!(off < 1e-6, "{kind:?}: off by {off:e} in parts of {micro}");
        }
        // Another step drops other values.
        let moved = |mut example: Example| {
            example.address.step += 1;
            example
        };
        let other: Vec<_> = examples.iter().cloned().map(moved).collect();
        assert_ne!(whole, loss(&dropping, &model, &other));
    }
}

#[test]
fn rounded_parameters_are_learnt_as_f32_ones_are_within_two_hundredths() {
    let objective = objective(ObjectiveKind::BlockDiffusion);
    let run = |rounds: bool| -> (Vec<f64>, Transformer, AdamW) {
        let model = model(VOCAB, DType::F32);
        let mut optimizer = optimizer(&model, rounds);
        if rounds {
            for (_, var) in model.parameters().unwrap().iter() {
                let rounded = var.as_tensor().detach().to_dtype(DType::BF16).unwrap();
                var.set(&rounded.to_dtype(DType::F32).unwrap()).unwrap();
            }
        }
        let losses = (40..70).map(|at| {
            let examples = objective.examples(&windows(6), 3, at, at).unwrap();
            step(&model, &objective, &mut optimizer, &examples, settings(6)).unwrap().loss
        });
        (losses.collect(), model, optimizer)
    };
    let (exact, _, _) = run(false);
    let (rounded, model, optimizer) = run(true);
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    // A bf16 has 8 bits: each weight is up to one part in 512 off, and what they add up to less. The loss falls by
    // much more than that.
    assert!(mean(&exact[20..]) < 0.9 * mean(&exact[..10]), "{exact:?}");
    for (at, (one, other)) in exact.iter().zip(&rounded).enumerate() {
        assert!((one / other - 1.0).abs() < 0.02, "step {at}: {one} exact, {other} rounded");
    }
    for ((name, var), copy) in model.trained().unwrap().iter().zip(optimizer.values()) {
        let rounded = numbers(&copy.to_dtype(DType::BF16).unwrap());
        let (read, copy) = (numbers(var), numbers(copy));
        assert_eq!(read, rounded, "{name}");
        assert_ne!(read, copy, "{name}: nothing adds up below a bf16's last bit");
    }
}

#[test]
fn the_running_mean_is_that_of_its_definition() {
    let model = model(VOCAB, DType::F32);
    let mut optimizer = optimizer(&model, false);
    let objective = objective(ObjectiveKind::Autoregressive);
    let mut ema = Ema::new(0.9, &optimizer).unwrap();
    let mut expected: Vec<Vec<f64>> = optimizer.values().map(numbers).collect();
    for at in 0..5 {
        let examples = objective.examples(&windows(3), 3, at, at).unwrap();
        step(&model, &objective, &mut optimizer, &examples, settings(3)).unwrap();
        ema.update(model.backend(), &optimizer).unwrap();
        for (mean, value) in expected.iter_mut().zip(optimizer.values()) {
            let value = numbers(value);
            mean.iter_mut().zip(value).for_each(|(mean, value)| *mean = 0.9 * *mean + 0.1 * value);
        }
    }
    let averaged = ema.model(&model).unwrap();
    for ((name, var), expected) in averaged.trained().unwrap().iter().zip(&expected) {
        for (found, expected) in numbers(var).iter().zip(expected) {
            // Five roundings of f32.
            assert!((found - expected).abs() <= 1e-6 * expected.abs().max(0.1), "{name}");
        }
    }
    assert_ne!(values(&averaged), values(&model));
}

#[test]
fn an_optimizer_that_is_reset_is_a_new_one() {
    let objective = objective(ObjectiveKind::Autoregressive);
    let examples = objective.examples(&windows(3), 3, 0, 0).unwrap();
    let (one, other) = (model(VOCAB, DType::F32), model(VOCAB, DType::F32));
    let mut worn = optimizer(&one, false);
    for _ in 0..3 {
        step(&one, &objective, &mut worn, &examples, settings(3)).unwrap();
    }
    for ((_, from), (_, to)) in
        one.parameters().unwrap().iter().zip(other.parameters().unwrap().iter())
    {
        to.set(&from.as_tensor().copy().unwrap()).unwrap();
    }
    worn.reset().unwrap();
    assert_eq!(worn.steps(), 0);
    let mut fresh = optimizer(&other, false);
    for _ in 0..2 {
        step(&one, &objective, &mut worn, &examples, settings(3)).unwrap();
        step(&other, &objective, &mut fresh, &examples, settings(3)).unwrap();
    }
    assert_eq!(values(&one), values(&other));
}

//! Compares the backward pass that is written out with the graph that candle walks back.

use candle_core::{DType, Device, Tensor, Var};
use lacuna_checkpoint::{Kind, Name, Parts};
use lacuna_model::{Adapter, AttentionMask, Batch, Config, Parameters, Sequence, Transformer};
use std::num::NonZeroUsize;

const WINDOW: usize = 24;

fn config() -> Config {
    Config {
        vocab_size: 96,
        hidden_size: 32,
        intermediate_size: 48,
        num_layers: 3,
        num_heads: 4,
        num_kv_heads: 2,
        head_dim: 8,
        max_position_embeddings: 64,
        ..Config::default()
    }
}

fn configs() -> Vec<(&'static str, Config)> {
    let untied = Config { tie_word_embeddings: false, ..config() };
    let tied = Config { tie_word_embeddings: true, ..config() };
    let attention = Parts { attention_bias: true, attention_output_bias: true, ..Parts::NONE };
    let biased = Config { parts: Parts { mlp_bias: true, ..attention }, ..config() };
    let normed = Config { parts: Parts { qk_norm: true, ..Parts::NONE }, head_dim: 12, ..config() };
    // The first layer, which reads each token once, is here also the last, which reads wanted rows.
    let single = Config { num_layers: 1, ..normed.clone() };
    vec![
        ("untied", untied),
        ("tied", tied),
        ("biases", biased),
        ("qk-norm", normed),
        ("one layer", single),
    ]
}

/// Parameters that are nowhere special: norms not 1, biases not 0.
fn model(config: &Config, dtype: DType) -> Transformer {
    let fresh = Transformer::init(config.clone(), 3, DType::F32, &Device::Cpu).unwrap();
    let moved = |_, var: &Var| {
        let n = var.elem_count();
        let waves: Vec<f32> = (0..n).map(|i| 0.2 * ((i * 37 + n) as f32).sin()).collect();
        let waves = Tensor::from_vec(waves, var.shape(), &Device::Cpu).unwrap();
        let moved = (var.as_tensor().detach() + waves).unwrap().to_dtype(dtype).unwrap();
        Var::from_tensor(&moved).unwrap()
    };
    let parameters = fresh.parameters().unwrap().map(moved);
    Transformer::from_parameters(config.clone(), parameters).unwrap()
}

fn ids(salt: u32, rows: usize) -> Vec<u32> {
    (0..(rows * WINDOW) as u32).map(|i| (i * 29 + salt * 17) % 96).collect()
}

/// Two windows under a mask, with the rows that are wanted of each.
fn windows(mask: AttentionMask, wanted: Option<[&[u32]; 2]>) -> Batch {
    let mut batch = Batch::default();
    for (i, tokens) in ids(2, 2).chunks(WINDOW).enumerate() {
        let wanted = wanted.map(|wanted| wanted[i]);
        batch.push(Sequence { tokens, wanted, ..Sequence::default() }, mask).unwrap();
    }
    batch
}

/// Two windows, noisy and clean, with the rows of [noisy ; clean] that are wanted of each.
fn both(documents: [Option<&[usize]>; 2], wanted: [&[u32]; 2]) -> Batch {
    let (noisy, clean, mut batch) = (ids(1, 2), ids(2, 2), Batch::default());
    for (i, (tokens, clean)) in noisy.chunks(WINDOW).zip(clean.chunks(WINDOW)).enumerate() {
        let (documents, wanted) = (documents[i], Some(wanted[i]));
        let noisy = Sequence { tokens, documents, wanted, past: 0 };
        batch.push_noisy_and_clean(noisy, clean, NonZeroUsize::new(4).unwrap()).unwrap();
    }
    batch
}

fn passes() -> Vec<(&'static str, Batch)> {
    let documents: [&[usize]; 2] = [&[10, 14], &[3, 20, 1]];
    let w = WINDOW as u32;
    vec![
        ("causal, all rows", windows(AttentionMask::Causal, None)),
        ("full, some rows", windows(AttentionMask::Full, Some([&[0, 5, 5], &[6]]))),
        ("block diffusion", both([None; 2], [&[1, 2, 9], &[0, 7]])),
        ("as many rows of each window", both([None; 2], [&[1, 2], &[7, 0]])),
        ("one window alone", both([None; 2], [&[], &[3, 4]])),
        ("apart", both(documents.map(Some), [&[0, 11], &[5]])),
        ("rows of the clean half", both([None; 2], [&[3, w + 3], &[w + 1]])),
    ]
}

/// A scalar that no row or column leaves untouched: Σ sin(row, column) · (hidden · headᵀ).
fn probe(hidden: &Tensor, head: &Tensor) -> Tensor {
    let logits = hidden.matmul(&head.t().unwrap()).unwrap();
    let n = logits.elem_count();
    let waves: Vec<f64> = (0..n).map(|i| (i as f64 * 0.7).sin()).collect();
    let waves = Tensor::from_vec(waves, logits.shape(), &Device::Cpu).unwrap();
    (logits * waves.to_dtype(hidden.dtype()).unwrap()).unwrap().sum_all().unwrap()
}

/// The hidden states and the gradient of every parameter, by candle's graph.
fn by_graph(model: &Transformer, batch: &Batch) -> (Tensor, Parameters<Tensor>) {
    let hidden = model.forward(batch).unwrap();
    let store = probe(&hidden, &model.head().unwrap()).backward().unwrap();
    let gradient = |_, var: &Var| store.get(var.as_tensor()).unwrap().clone();
    (hidden.detach(), model.parameters().unwrap().map(gradient))
}

fn by_hand(model: &Transformer, batch: &Batch, recompute: bool) -> (Tensor, Parameters<Tensor>) {
    let (hidden, saved) = model.forward_train(batch, recompute).unwrap();
    let leaf = Var::from_tensor(&hidden).unwrap();
    let head = Var::from_tensor(&model.head().unwrap().detach()).unwrap();
    let store = probe(leaf.as_tensor(), head.as_tensor()).backward().unwrap();
    let (d_hidden, d_head) = (store.get(&leaf).unwrap(), store.get(&head).unwrap());
    (hidden, model.backward(saved, d_hidden, d_head).unwrap())
}

/// max |a − b| / max |b|.
fn error(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.dims(), b.dims());
    let top = |t: Tensor| {
        let top = t.abs().unwrap().flatten_all().unwrap().max(0).unwrap();
        top.to_dtype(DType::F64).unwrap().to_scalar::<f64>().unwrap()
    };
    top((a - b).unwrap()) / top(b.clone()).max(f64::MIN_POSITIVE)
}

#[test]
fn gradients_written_out_are_the_graphs() {
    for (name, config) in configs() {
        let model = model(&config, DType::F64);
        for (pass, batch) in passes() {
            let (hidden, expected) = by_graph(&model, &batch);
            let (found_hidden, found) = by_hand(&model, &batch, false);
            let off = error(&found_hidden, &hidden);
            assert!(off <= 1e-12, "{name}, {pass}: hidden states are {off:.1e} off");
            for (parameter, (a, b)) in found.zip(&expected).unwrap().iter() {
                let off = error(a, b);
                assert!(off <= 1e-12, "{name}, {pass}: {parameter} is {off:.1e} off");
            }
        }
    }
}

/// A model with adapters of rank 2 beside every second matrix of its layers.
fn adapted(config: &Config) -> Transformer {
    let shapes = config.shapes();
    model(config, DType::F64)
        .adapted(|name: Name| {
            let layer = name.layer.filter(|_| name.kind == Kind::Weight && !name.is_norm())?;
            let (_, shape) = shapes.iter().find(|(other, _)| *other == name)?;
            let waves = |shape: (usize, usize), salt: usize| {
                let n = shape.0 * shape.1;
                let waves: Vec<f64> =
                    (0..n).map(|i| 0.3 * ((i * 31 + salt) as f64).sin()).collect();
                Var::from_tensor(&Tensor::from_vec(waves, shape, &Device::Cpu).unwrap()).unwrap()
            };
            let salt = layer + name.field as usize;
            let (a, b) = (waves((2, shape[1]), salt), waves((shape[0], 2), salt + 7));
            salt.is_multiple_of(2).then_some(Adapter { a, b, scale: 0.7 })
        })
        .unwrap()
}

#[test]
fn the_gradients_of_adapters_written_out_are_the_graphs() {
    for (name, config) in configs() {
        let model = adapted(&config);
        for (pass, batch) in passes() {
            let hidden = model.forward(&batch).unwrap();
            let store = probe(&hidden, &model.head().unwrap()).backward().unwrap();
            let (found_hidden, saved) = model.forward_train(&batch, true).unwrap();
            let leaf = Var::from_tensor(&found_hidden).unwrap();
            let head = Var::from_tensor(&model.head().unwrap().detach()).unwrap();
            let outer = probe(leaf.as_tensor(), head.as_tensor()).backward().unwrap();
            let (d_hidden, d_head) = (outer.get(&leaf).unwrap(), outer.get(&head).unwrap());
            let found = model.gradients(saved, d_hidden, d_head).unwrap();
            assert!(error(&found_hidden, &hidden.detach()) <= 1e-12, "{name}, {pass}");
            let trained = model.trained().unwrap();
            assert_eq!(trained.len(), found.len());
            for ((what, var), gradient) in trained.iter().zip(&found) {
                let off = error(gradient, store.get(var.as_tensor()).unwrap());
                assert!(off <= 1e-12, "{name}, {pass}: {what} is {off:.1e} off");
            }
        }
    }
}

#[test]
fn a_pass_that_records_nothing_gives_the_bits_of_one_that_does() {
    for dtype in [DType::F32, DType::F64] {
        for (name, config) in configs() {
            let model = model(&config, dtype);
            let reader = model.unrecorded().unwrap();
            assert!(reader.parameters().is_err());
            for (pass, batch) in passes() {
                let (one, other) =
                    (model.forward(&batch).unwrap(), reader.forward(&batch).unwrap());
                assert!(!other.track_op(), "{name}, {pass}");
                assert_eq!(error(&other, &one.detach()), 0.0, "{name}, {pass}");
            }
        }
    }
}

/// Gradients by the fused f32 operations, both ways, are compared with f64: written out they must be as near to it as
/// the graph's are. (Which gradients are small sums of large terms depends on the case, so the graph's own error is
/// the measure.) The largest errors of two ways to round scatter by some times, above all of norms with few numbers, and
/// otherwise on each set of instructions; so the mean over a configuration is held tightly, a single one loosely.
#[test]
fn gradients_in_f32_are_as_exact_as_the_graphs() {
    for (name, config) in configs() {
        let (exact, model) = (model(&config, DType::F64), model(&config, DType::F32));
        let mut times = Vec::new();
        for (pass, batch) in passes() {
            let (_, expected) = by_graph(&exact, &batch);
            let (_, graph) = by_graph(&model, &batch);
            let (_, found) = by_hand(&model, &batch, false);
            let all = found.zip(&graph).unwrap();
            for (parameter, ((a, b), c)) in all.zip(&expected).unwrap().iter() {
                let wide = |t: &Tensor| t.to_dtype(DType::F64).unwrap();
                let (off, graph_off) = (error(&wide(a), c), error(&wide(b), c));
                let bound = 10.0 * graph_off + 1e-6;
                assert!(off <= bound, "{name}, {pass}: {parameter} is {off:.1e} off, {bound:.1e}");
                times.push(((off + 1e-7) / (graph_off + 1e-7)).ln());
            }
        }
        let mean = (times.iter().sum::<f64>() / times.len() as f64).exp();
        assert!(mean <= 1.25, "{name}: errors are {mean:.2} times the graph's");
    }
}

#[test]
fn activations_computed_again_give_the_same_bits() {
    for (name, config) in configs() {
        let model = model(&config, DType::F32);
        for (pass, batch) in passes() {
            let bits = |tensors: Parameters<Tensor>| {
                let of = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                tensors.map(|_, t| of(t).into_iter().map(f32::to_bits).collect::<Vec<_>>())
            };
            let (kept, again) = (by_hand(&model, &batch, false).1, by_hand(&model, &batch, true).1);
            assert!(bits(kept) == bits(again), "{name}, {pass}");
        }
    }
}

#[test]
fn a_pass_without_a_wanted_row_has_no_gradient() {
    let model = model(&config(), DType::F32);
    let batch = windows(AttentionMask::Causal, Some([&[]; 2]));
    let error = model.forward_train(&batch, false).unwrap_err().to_string();
    assert!(error.contains("no row is wanted"), "{error}");
}

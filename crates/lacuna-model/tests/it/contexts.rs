//! Tests the claim that the paper rests on: what the model sees in training is what it sees when it decodes
//! (invariant 11). The 2L pass, the two-pass form, one block at a time and the cached decoder agree, in logits and in
//! gradients; and nothing leaks.

use candle_core::{DType, Device, Tensor};
use lacuna_model::{AttentionMask, Batch, CachePrecision, Config, KvCache, Sequence, Transformer};
use std::num::NonZeroUsize;

const MASK: u32 = 5;
const WINDOW: usize = 21;

fn model(dtype: DType) -> Transformer {
    model_of(8, dtype)
}

fn model_of(head_dim: usize, dtype: DType) -> Transformer {
    let config = Config {
        vocab_size: 61,
        hidden_size: 32,
        intermediate_size: 48,
        num_layers: 3,
        num_heads: 4,
        num_kv_heads: 2,
        head_dim,
        ..Config::default()
    };
    let model = Transformer::init(config, 11, dtype, &Device::Cpu).unwrap();
    // Initial weights give nearly flat attention; ten times larger ones make every mistake visible.
    for (name, var) in model.parameters().unwrap().iter() {
        if !name.is_norm() {
            var.set(&(var.as_tensor() * 10.0).unwrap()).unwrap();
        }
    }
    model
}

/// Clean tokens and a noisy version with about half of them masked.
fn window(salt: u32) -> (Vec<u32>, Vec<u32>) {
    let at = |i: u32| (i * 7919 + salt * 104_729) % 1_000_003;
    let clean: Vec<u32> = (0..WINDOW as u32).map(|i| 6 + at(i) % 50).collect();
    let noisy =
        clean.iter().enumerate().map(|(i, t)| if at(i as u32 + 99) % 2 == 0 { MASK } else { *t });
    let noisy = noisy.collect();
    (clean, noisy)
}

fn size(b: usize) -> NonZeroUsize {
    NonZeroUsize::new(b).unwrap()
}

fn training_pass(model: &Transformer, noisy: &[u32], clean: &[u32], b: usize) -> Tensor {
    training_passes(model, &[(noisy, clean, None)], b)
}

/// Noisy and clean tokens of a window, and the lengths of its documents.
type Halves<'a> = (&'a [u32], &'a [u32], Option<&'a [usize]>);

/// Logits of the noisy halves of windows.
fn training_passes(model: &Transformer, windows: &[Halves<'_>], b: usize) -> Tensor {
    let mut batch = Batch::default();
    for (noisy, clean, documents) in windows {
        let noisy = Sequence { tokens: noisy, documents: *documents, ..Sequence::default() };
        batch.push_noisy_and_clean(noisy, clean, size(b)).unwrap();
    }
    model.logits(&model.forward(&batch).unwrap()).unwrap()
}

fn two_passes(model: &Transformer, noisy: &[u32], clean: &[u32], b: usize) -> Tensor {
    let clean = model.read_clean(&[clean.into()], size(b)).unwrap();
    let mut batch = Batch::default();
    batch.push_noisy_against(noisy.into(), &clean, 0).unwrap();
    model.logits(&model.forward_against(&batch, &clean).unwrap()).unwrap()
}

/// Runs one sequence behind its cache; gives the logits of the listed tokens.
fn pass(
    model: &Transformer,
    cache: &mut KvCache,
    tokens: &[u32],
    (mask, rows): (AttentionMask, &[u32]),
) -> Tensor {
    let sequence = Sequence { tokens, past: cache.len(), wanted: Some(rows), documents: None };
    let batch = Batch::of(sequence, mask).unwrap();
    let hidden = model.forward_cached(&batch, &mut [cache]).unwrap();
    if rows.is_empty() { hidden } else { model.logits(&hidden).unwrap() }
}

/// Each noisy block behind its clean prefix, in a pass of its own.
fn block_by_block(model: &Transformer, noisy: &[u32], clean: &[u32], b: usize) -> Tensor {
    let mut logits = Vec::new();
    for start in (0..WINDOW).step_by(b) {
        let end = (start + b).min(WINDOW);
        let tokens = [&clean[..start], &noisy[start..end]].concat();
        let rows: Vec<u32> = (start as u32..end as u32).collect();
        let mask = AttentionMask::BlockCausal { block_size: size(b) };
        let text = Sequence { tokens: &tokens, wanted: Some(&rows), ..Sequence::default() };
        let hidden = model.forward(&Batch::of(text, mask).unwrap()).unwrap();
        logits.push(model.logits(&hidden).unwrap());
    }
    Tensor::cat(&logits, 0).unwrap()
}

/// Decodes with a cache. If `fused`, the commit of a block rides in the next block's pass.
fn cached(model: &Transformer, noisy: &[u32], clean: &[u32], b: usize, fused: bool) -> Tensor {
    let mut cache = model.new_cache(1).unwrap();
    let mask = AttentionMask::BlockCausal { block_size: size(b) };
    let mut queued: &[u32] = &[];
    let mut logits = Vec::new();
    for start in (0..WINDOW).step_by(b) {
        let end = (start + b).min(WINDOW);
        let tokens = [queued, &noisy[start..end]].concat();
        let rows: Vec<u32> = (queued.len() as u32..tokens.len() as u32).collect();
        logits.push(pass(model, &mut cache, &tokens, (mask, &rows)));
        cache.keep(0..queued.len()).unwrap();
        queued = &clean[start..end];
        if !fused {
            assert_eq!(pass(model, &mut cache, queued, (mask, &[])).dim(0).unwrap(), 0);
            cache.keep(0..queued.len()).unwrap();
            queued = &[];
        }
    }
    Tensor::cat(&logits, 0).unwrap()
}

fn largest_difference(a: &Tensor, b: &Tensor) -> f64 {
    let off = (a - b).unwrap().abs().unwrap().max_all().unwrap();
    off.to_dtype(DType::F64).unwrap().to_scalar().unwrap()
}

#[test]
fn all_four_forms_give_the_same_logits() {
    // In f64 the order of sums alone differs. In f32 roundings are 2⁻²⁴ relative, over logits of about 50 and three
    // layers.
    for (dtype, tolerance) in [(DType::F64, 1e-11), (DType::F32, 2e-3)] {
        let model = model(dtype);
        for b in [1, 2, 4, 8, 16, WINDOW] {
            let (clean, noisy) = window(b as u32);
            let expected = training_pass(&model, &noisy, &clean, b);
            for (form, logits) in [
                ("two passes", two_passes(&model, &noisy, &clean, b)),
                ("block by block", block_by_block(&model, &noisy, &clean, b)),
                ("cached", cached(&model, &noisy, &clean, b, false)),
                ("cached, fused commit", cached(&model, &noisy, &clean, b, true)),
            ] {
                let off = largest_difference(&logits, &expected);
                assert!(off < tolerance, "{form}, B = {b}, {dtype:?}: {off:e}");
            }
        }
    }
}

#[test]
fn all_differentiable_forms_give_the_same_gradients() {
    for (dtype, tolerance) in [(DType::F64, 1e-11), (DType::F32, 1e-4)] {
        let model = model(dtype);
        for b in [1, 4, 8] {
            let (clean, noisy) = window(40 + b as u32);
            let gradients = |logits: Tensor| {
                // Any function of all logits will do; this one has no symmetry.
                let n = logits.elem_count() as u32;
                let weights = Tensor::arange(0u32, n, &Device::Cpu).unwrap();
                let weights =
                    weights.to_dtype(dtype).unwrap().affine(0.37, 0.0).unwrap().cos().unwrap();
                let loss = (logits.flatten_all().unwrap() * weights).unwrap().sum_all().unwrap();
                let store = loss.backward().unwrap();
                let of = |var: &candle_core::Var| store.get(var).cloned();
                let parameters = model.parameters().unwrap().iter();
                parameters.map(|(name, var)| (name, of(var))).collect::<Vec<_>>()
            };
            let expected = gradients(training_pass(&model, &noisy, &clean, b));
            for (form, found) in [
                ("two passes", gradients(two_passes(&model, &noisy, &clean, b))),
                ("block by block", gradients(block_by_block(&model, &noisy, &clean, b))),
            ] {
                for ((name, a), (_, e)) in found.iter().zip(&expected) {
                    let e = e
                        .as_ref()
                        .unwrap_or_else(|| panic!("{name} got no gradient from the 2L pass"));
                    let a =
                        a.as_ref().unwrap_or_else(|| panic!("{name} got no gradient from {form}"));
                    let scale = largest_difference(e, &e.zeros_like().unwrap());
                    let off = largest_difference(a, e) / scale;
                    assert!(scale > 0.0 && off < tolerance, "{form}, B = {b}, {name}: {off:e}");
                }
            }
        }
    }
}

#[test]
fn a_clean_block_reaches_later_noisy_blocks_only() {
    let model = model(DType::F32);
    let b = 4;
    let (clean, noisy) = window(3);
    let before = training_pass(&model, &noisy, &clean, b);
    for changed in 0..WINDOW.div_ceil(b) {
        let mut other = clean.clone();
        other[changed * b] = 6 + (other[changed * b] + 1) % 50;
        let after = training_pass(&model, &noisy, &other, b);
        // Its own block and all before it keep the very same bits.
        let own_and_before = ((changed + 1) * b).min(WINDOW);
        let kept = |t: &Tensor| t.narrow(0, 0, own_and_before).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(kept(&before), kept(&after), "clean block {changed} leaks");
        if own_and_before < WINDOW {
            assert!(
                largest_difference(&before, &after) > 1e-3,
                "clean block {changed} is not read"
            );
        }
    }
}

#[test]
fn a_noisy_block_reaches_no_other_block() {
    let model = model(DType::F32);
    let b = 4;
    let (clean, noisy) = window(4);
    let before = training_pass(&model, &noisy, &clean, b).to_vec2::<f32>().unwrap();
    for changed in 0..WINDOW.div_ceil(b) {
        let mut other = noisy.clone();
        other[changed * b] = if other[changed * b] == MASK { 7 } else { MASK };
        let after = training_pass(&model, &other, &clean, b).to_vec2::<f32>().unwrap();
        for i in 0..WINDOW {
            assert_eq!(i / b == changed, before[i] != after[i], "block {changed}, position {i}");
        }
    }
}

#[test]
fn documents_of_a_window_are_as_if_alone() {
    let model = model(DType::F64);
    let b = 4;
    let (clean, noisy) = window(5);
    let documents = [6, 9, 6];
    let packed = training_passes(&model, &[(&noisy, &clean, Some(&documents))], b);
    let mut start = 0;
    for len in &documents {
        let (n, c) = (&noisy[start..start + len], &clean[start..start + len]);
        let alone = training_pass(&model, n, c, b);
        let off = largest_difference(&packed.narrow(0, start, *len).unwrap(), &alone);
        assert!(off < 1e-11, "document at {start}: {off:e}");
        start += len;
    }
}

#[test]
fn a_draft_is_verified_as_the_blocks_would_be_denoised_one_by_one() {
    let off = drafts_are_off_by(&model(DType::F64));
    assert!(off < 1e-11, "{off:e}");
}

#[test]
fn a_causal_draft_is_verified_as_the_blocks_would_be_read_one_by_one_under_the_causal_mask() {
    let (b, model) = (4, model(DType::F64));
    let (clean, _) = window(6);
    let masks = [MASK; WINDOW];
    // A block of masks behind the clean text before it, as one text.
    let block = |start: usize| {
        let text = [&clean[..start], &masks[..b]].concat();
        let wanted: Vec<u32> = (start as u32..(start + b) as u32).collect();
        let read = Sequence { tokens: &text, wanted: Some(&wanted), ..Sequence::default() };
        let hidden = model.forward(&Batch::of(read, AttentionMask::Causal).unwrap()).unwrap();
        model.logits(&hidden).unwrap()
    };
    for queued in [0, 4, 8] {
        let (prefix, draft) = (4, 8);
        let mut cache = model.new_cache(1).unwrap();
        pass(&model, &mut cache, &clean[..prefix], (AttentionMask::Causal, &[]));
        cache.keep(0..prefix).unwrap();
        let from = prefix + queued;
        let tokens = [&masks[..draft], &clean[prefix..from + draft]].concat();
        let rows: Vec<u32> = (0..draft as u32).collect();
        let drafted =
            Sequence { tokens: &tokens, past: prefix, wanted: Some(&rows), documents: None };
        let mut batch = Batch::default();
        batch.push_causal_draft(drafted, size(b), draft).unwrap();
        let hidden = model.forward_cached(&batch, &mut [&mut cache]).unwrap();
        let logits = model.logits(&hidden).unwrap();
        for start in [0, b] {
            let found = logits.narrow(0, start, b).unwrap();
            let off = largest_difference(&found, &block(from + start));
            assert!(off < 1e-11, "{queued} queued, block {start}: {off:e}");
        }
        cache.keep(draft..draft + queued + b).unwrap();
        let next = pass(&model, &mut cache, &masks[..b], (AttentionMask::Causal, &[0, 1, 2, 3]));
        let off = largest_difference(&next, &block(from + b));
        assert!(off < 1e-11, "behind what was kept: {off:e}");
    }
}

/// Verifies drafts, keeps a part of each, and goes on behind it; gives the largest difference of a logit from those of
/// the training pass.
fn drafts_are_off_by(model: &Transformer) -> f64 {
    let b = 4;
    let (clean, _) = window(6);
    let masks = vec![MASK; WINDOW];
    let expected = training_pass(model, &masks, &clean, b);
    let mut most = 0f64;
    for queued in [0, 4, 8] {
        let (prefix, draft) = (4, 8);
        let mut cache = model.new_cache(1).unwrap();
        let mask = AttentionMask::BlockCausal { block_size: size(b) };
        pass(model, &mut cache, &clean[..prefix], (mask, &[]));
        cache.keep(0..prefix).unwrap();
        let from = prefix + queued;
        let tokens = [&masks[..draft], &clean[prefix..from + draft]].concat();
        let rows: Vec<u32> = (0..draft as u32).collect();
        let drafted =
            Sequence { tokens: &tokens, past: prefix, wanted: Some(&rows), documents: None };
        let mut batch = Batch::default();
        batch.push_draft(drafted, size(b), draft).unwrap();
        let hidden = model.forward_cached(&batch, &mut [&mut cache]).unwrap();
        let logits = model.logits(&hidden).unwrap();
        most = most.max(largest_difference(&logits, &expected.narrow(0, from, draft).unwrap()));
        // The keys that are kept of the draft are those that a commit would have written.
        cache.keep(draft..draft + queued + b).unwrap();
        assert_eq!(cache.len(), from + b);
        let next = pass(model, &mut cache, &masks[..b], (mask, &[0, 1, 2, 3]));
        most = most.max(largest_difference(&next, &expected.narrow(0, from + b, b).unwrap()));
    }
    most
}

/// Reads a text, crops it inside, and goes on with the rest: the largest difference from logits without a cache.
fn crops_are_off_by(model: &Transformer) -> f64 {
    let (clean, _) = window(3);
    let text = |tokens: &[u32]| Batch::of(tokens, AttentionMask::Causal).unwrap();
    let expected = model.logits(&model.forward(&text(&clean)).unwrap()).unwrap();
    let mut cache = model.new_cache(1).unwrap();
    pass(model, &mut cache, &clean, (AttentionMask::Causal, &[]));
    cache.keep(0..WINDOW).unwrap();
    cache.truncate(9);
    let rows: Vec<u32> = (0..WINDOW as u32 - 9).collect();
    let rest = pass(model, &mut cache, &clean[9..], (AttentionMask::Causal, &rows));
    largest_difference(&rest, &expected.narrow(0, 9, WINDOW - 9).unwrap())
}

#[test]
fn caches_of_less_precision_give_nearly_the_logits_of_none() {
    // Measured, of logits of about 50: 0.039 in bf16, 0.086 in q8_0. Twice that is allowed.
    for (precision, tolerance) in
        [(CachePrecision::F32, 2e-3), (CachePrecision::BF16, 8e-2), (CachePrecision::Q8_0, 0.17)]
    {
        let model = model_of(32, DType::F32).with_cache_precision(precision).unwrap();
        let mut most = drafts_are_off_by(&model).max(crops_are_off_by(&model));
        for (b, fused) in [(1, false), (4, true), (4, false)] {
            let (clean, noisy) = window(b as u32);
            let expected = training_pass(&model, &noisy, &clean, b);
            let found = cached(&model, &noisy, &clean, b, fused);
            most = most.max(largest_difference(&found, &expected));
        }
        assert!(most < tolerance, "{precision}: {most:e}");
    }
}

#[test]
fn heads_that_are_no_whole_blocks_are_refused_in_words() {
    let refused = model(DType::F32).with_cache_precision(CachePrecision::Q8_0).unwrap_err();
    let refused = refused.to_string();
    assert!(refused.contains("blocks of 32, and the model's heads have 8 values"), "{refused}");
}

#[test]
fn a_sequence_in_a_batch_is_as_if_alone() {
    let model = model(DType::F32);
    let mask = AttentionMask::BlockCausal { block_size: size(4) };
    let texts: Vec<Vec<u32>> =
        (0..3).map(|i| window(20 + i).0[..4 * (i as usize + 1)].to_vec()).collect();
    let cache = || model.new_cache(1).unwrap();
    let mut alone = Vec::new();
    for text in &texts {
        let rows: Vec<u32> = (0..text.len() as u32).collect();
        alone.push(pass(&model, &mut cache(), text, (mask, &rows)));
    }
    let mut caches: Vec<KvCache> = texts.iter().map(|_| cache()).collect();
    let mut batch = Batch::default();
    texts.iter().for_each(|text| batch.push(text.as_slice().into(), mask).unwrap());
    let hidden = model.forward_cached(&batch, &mut caches.iter_mut().collect::<Vec<_>>()).unwrap();
    let together = model.logits(&hidden).unwrap();
    let off = largest_difference(&together, &Tensor::cat(&alone, 0).unwrap());
    assert!(off < 1e-3, "{off:e}");
}

#[test]
fn sequences_of_which_some_rows_or_none_are_wanted_are_as_if_alone() {
    let model = model(DType::F64);
    let mask = AttentionMask::BlockCausal { block_size: size(4) };
    let texts = [12, 4, 8, 16].map(|len| window(30 + len).0[..len as usize].to_vec());
    // The second is only read, as a prompt or a commit is; of the others the last rows, or one in the middle.
    let wanted: [&[u32]; 4] = [&[8, 9, 10, 11], &[], &[3], &[0, 15]];
    let cache = || KvCache::new(model.config(), 1, DType::F64, &Device::Cpu).unwrap();
    let mut alone = Vec::new();
    let mut caches = Vec::new();
    let mut batch = Batch::default();
    for (text, rows) in texts.iter().zip(wanted) {
        let mut own = cache();
        let logits = pass(&model, &mut own, text, (mask, rows));
        if !rows.is_empty() {
            alone.push(logits);
        }
        own.keep(0..text.len()).unwrap();
        caches.push((cache(), own));
        let sequence = Sequence { tokens: text, wanted: Some(rows), ..Sequence::default() };
        batch.push(sequence, mask).unwrap();
    }
    let mut shared: Vec<_> = caches.iter_mut().map(|(shared, _)| shared).collect();
    let together = model.logits(&model.forward_cached(&batch, &mut shared).unwrap()).unwrap();
    let off = largest_difference(&together, &Tensor::cat(&alone, 0).unwrap());
    assert!(off < 1e-11, "{off:e}");

    // The keys that each left behind, of the one that was only read too, serve the block that follows alike.
    for ((shared, own), text) in caches.iter_mut().zip(&texts) {
        shared.keep(0..text.len()).unwrap();
        let [a, b] = [shared, own].map(|cache| pass(&model, cache, &[MASK; 4], (mask, &[0, 3])));
        assert!(largest_difference(&a, &b) < 1e-11, "behind {} tokens", text.len());
    }
}

#[test]
fn a_batch_refuses_a_sequence_that_it_would_misread() {
    let model = model(DType::F32);
    let (clean, noisy) = window(4);
    let documents: &[usize] = &[6, 15];
    let divided = Sequence { tokens: &noisy, documents: Some(documents), ..Sequence::default() };
    let read = model.read_clean(&[clean.as_slice().into()], size(4)).unwrap();
    let refusals = [
        Batch::default().push_noisy_against(divided, &read, 0),
        Batch::default().push_draft(divided, size(4), 8),
        // Three finished tokens before a draft of four: the blocks would be counted from the wrong place.
        Batch::default().push_draft(clean[..11].into(), size(4), 4),
    ];
    let said = refusals.map(|refused| refused.unwrap_err().to_string());
    assert!(said[0].contains("the clean half's documents count"), "{}", said[0]);
    assert!(said[1].contains("a draft belongs to one text"), "{}", said[1]);
    assert!(said[2].contains("3 finished tokens"), "{}", said[2]);
}

#[test]
fn block_size_one_is_causal_attention() {
    let model = model(DType::F64);
    let (clean, _) = window(9);
    let one = AttentionMask::BlockCausal { block_size: size(1) };
    let under = |mask| model.forward(&Batch::of(clean.as_slice(), mask).unwrap()).unwrap();
    let (a, b) = (under(one), under(AttentionMask::Causal));
    assert_eq!(largest_difference(&a, &b), 0.0);
}

/// Clean and noisy tokens of a window.
type TwoForms = (Vec<u32>, Vec<u32>);

/// The logits of two windows, given the lengths of each one's documents.
fn two_windows(
    model: &Transformer,
    windows: &[TwoForms; 2],
    documents: [Option<&[usize]>; 2],
) -> Tensor {
    let [one, other] = windows;
    let [of_one, of_other] = documents;
    training_passes(model, &[(&one.1, &one.0, of_one), (&other.1, &other.0, of_other)], 4)
}

#[test]
fn documents_of_a_batch_are_as_if_alone_in_every_window() {
    for (dtype, tolerance) in [(DType::F64, 1e-11), (DType::F32, 2e-3)] {
        let model = model(dtype);
        let documents: [&[usize]; 2] = [&[WINDOW], &[6, 9, 6]];
        let windows = [window(7), window(8)];
        let packed = two_windows(&model, &windows, documents.map(Some));
        for (w, (clean, noisy)) in windows.iter().enumerate() {
            let mut start = 0;
            for len in documents[w] {
                let (n, c) = (&noisy[start..start + len], &clean[start..start + len]);
                let alone = training_pass(&model, n, c, 4);
                let found = packed.narrow(0, w * WINDOW + start, *len).unwrap();
                let off = largest_difference(&found, &alone);
                assert!(off < tolerance, "{dtype:?}, window {w}, document at {start}: {off:e}");
                start += len;
            }
        }
    }
}

#[test]
fn one_document_a_window_gives_the_gradients_of_no_documents() {
    let model = model(DType::F32);
    let windows = [window(7), window(8)];
    let gradients = |documents: Option<&[usize]>| -> Vec<Tensor> {
        let logits = two_windows(&model, &windows, [documents; 2]);
        let loss = logits.cos().unwrap().sum_all().unwrap();
        let store = loss.backward().unwrap();
        let parameters = model.parameters().unwrap().iter();
        parameters.map(|(_, var)| store.get(var).unwrap().clone()).collect()
    };
    let (apart, plain) = (gradients(Some(&[WINDOW])), gradients(None));
    for (((name, _), a), e) in model.parameters().unwrap().iter().zip(&apart).zip(&plain) {
        let scale = largest_difference(e, &e.zeros_like().unwrap());
        let off = largest_difference(a, e) / scale;
        assert!(off < 1e-4, "{name}: {off:e}");
    }
}

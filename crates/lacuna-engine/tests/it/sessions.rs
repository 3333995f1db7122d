//! Holds a session to keep what it has when a call fails, and to know its sequences by name.

use crate::support::{tiny, tiny_in};
use candle_core::{DType, Device};
use lacuna_engine::{Activations, Error, Session, StorageDtype};
use lacuna_model::{
    AttentionMask, Batch, CachePrecision, Config, KvCache, Mode, Predicts, Sequence, Transformer,
};
use lacuna_samplers::{Denoiser, Draft, Segment, Speculative, View};
use std::num::NonZeroUsize;
use std::sync::Arc;

const MASK: u32 = 5;
const FOUR: NonZeroUsize = NonZeroUsize::new(4).unwrap();
const BLOCKS: View = View::Blocks { block_size: FOUR };
const POSITIONS: usize = 24;

/// Random weights, few positions, and a head that is shifted or not.
fn model(shifted: bool) -> Arc<Transformer> {
    let config = Config {
        vocab_size: 64,
        hidden_size: 32,
        intermediate_size: 48,
        num_layers: 2,
        num_heads: 4,
        num_kv_heads: 2,
        head_dim: 32,
        max_position_embeddings: POSITIONS,
        mode: Mode::BlockDiffusion { block_size: FOUR, mask_token_id: Some(MASK) },
        ..Config::default()
    };
    let mut model = Transformer::init(config, 3, DType::F32, &Device::Cpu).unwrap();
    model.set_predicts(if shifted { Predicts::Next } else { Predicts::Same });
    Arc::new(model)
}

/// The same with keys and values kept in a format.
fn kept_in(precision: CachePrecision) -> Arc<Transformer> {
    let model = Arc::unwrap_or_clone(model(false));
    Arc::new(model.with_cache_precision(precision).unwrap())
}

fn tokens(count: u32, seed: u32) -> Vec<u32> {
    (0..count).map(|i| 6 + (i * 13 + seed * 7) % 50).collect()
}

fn causal(sequence: usize) -> Segment<'static> {
    Segment { sequence, view: View::Causal, block: &[], rows: &[0] }
}

fn blocks(sequence: usize, rows: &[usize]) -> Segment<'_> {
    Segment { sequence, view: BLOCKS, block: &[MASK; 4], rows }
}

fn logits(session: &mut Session, segments: &[Segment<'_>]) -> Result<Vec<Vec<f32>>, Error> {
    let mut rows = Vec::new();
    session.denoise(segments, &mut |row| rows.push(row.to_vec()))?;
    Ok(rows)
}

/// A session with a sequence in blocks (0), a causal one (1) and one at its last position (2), each with something
/// queued.
fn begun(shifted: bool) -> Session {
    let mut session = Session::new(model(shifted));
    session.prefill(0, &tokens(8, 1), BLOCKS).unwrap();
    session.prefill(1, &tokens(7, 2), View::Causal).unwrap();
    session.prefill(2, &tokens(POSITIONS as u32, 3), View::Causal).unwrap();
    session.commit(0, &tokens(4, 4)).unwrap();
    session.commit(2, &[9]).unwrap();
    session
}

#[test]
fn a_pass_that_fails_leaves_every_sequence_as_it_was() {
    for shifted in [false, true] {
        let rows = [0, 1, 3];
        let pair = [blocks(0, &rows), causal(1)];
        let expected = logits(&mut begun(shifted), &pair).unwrap();
        assert_eq!(expected.len(), 4);

        let mut session = begun(shifted);
        for segments in [
            &[pair[0], pair[1], causal(2)][..],
            &[causal(2), pair[1], pair[0]],
            &[pair[0], causal(7)],
            &[pair[0], pair[1], pair[0]],
        ] {
            logits(&mut session, segments).unwrap_err();
        }
        assert_eq!(logits(&mut session, &pair).unwrap(), expected, "shifted: {shifted}");
        // The queues went with that pass: the same again, from the caches.
        assert_eq!(logits(&mut session, &pair[1..]).unwrap(), expected[3..]);
        for (row, expected) in logits(&mut session, &pair).unwrap().iter().zip(&expected) {
            let apart = row.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(apart < 1e-4, "{apart}, shifted: {shifted}");
        }
        // In any order.
        let swapped = logits(&mut session, &[pair[1], pair[0]]).unwrap();
        assert_eq!(swapped[0], expected[3]);
    }
}

#[test]
fn a_sequence_that_was_not_begun_is_an_error_and_not_an_empty_one() {
    let mut session = begun(false);
    let said = |result: Result<(), Error>| result.unwrap_err().to_string();
    let unknown = "sequence 7 was not begun, or has been released";
    assert_eq!(said(logits(&mut session, &[causal(7)]).map(drop)), unknown);
    assert_eq!(said(session.commit(7, &[9])), unknown);
    let draft = Draft { sequence: 7, view: BLOCKS, tokens: &[9; 4], mask_id: MASK };
    assert_eq!(said(session.speculate(&[], &[draft], &mut |_| {})), unknown);
    assert_eq!(said(session.accept(7, 0)), unknown);
    assert_eq!(said(session.rewind(7, &[9], View::Causal).map(drop)), unknown);
    session.release(7);
    session.release(1);
    let released = said(logits(&mut session, &[causal(1)]).map(drop));
    assert_eq!(released, unknown.replace('7', "1"));

    assert_eq!(said(session.prefill(0, &[], BLOCKS)), "sequence 0 was begun already");
    let other = Segment { view: View::Causal, ..blocks(0, &[0]) };
    assert_eq!(
        said(logits(&mut session, &[other]).map(drop)),
        "sequence 0 was begun under another view"
    );
    session.prefill(1, &[], View::Causal).unwrap();
    let nothing = said(logits(&mut session, &[causal(1)]).map(drop));
    assert!(nothing.contains("at least one token"), "{nothing}");
}

#[test]
fn a_remembered_sequence_is_begun_anew_before_it_is_used() {
    for precision in CachePrecision::ALL {
        begins_anew(&kept_in(precision));
    }
}

fn begins_anew(model: &Arc<Transformer>) {
    let mut session = Session::new(Arc::clone(model)).remembering();
    session.prefill(0, &tokens(8, 1), BLOCKS).unwrap();
    session.release(0);
    logits(&mut session, &[blocks(0, &[0])]).unwrap_err();
    let passes = session.passes();
    session.prefill(0, &tokens(8, 1), BLOCKS).unwrap();
    assert_eq!(session.passes(), passes, "all of it is remembered");
    let again = logits(&mut session, &[blocks(0, &[0, 2])]).unwrap();
    let mut fresh = Session::new(Arc::clone(model));
    fresh.prefill(0, &tokens(8, 1), BLOCKS).unwrap();
    assert_eq!(logits(&mut fresh, &[blocks(0, &[0, 2])]).unwrap(), again);
}

#[test]
fn sequences_share_a_pass_in_every_precision_without_a_trace_of_each_other() {
    for precision in CachePrecision::ALL {
        let begun = || {
            let mut session = Session::new(kept_in(precision));
            session.prefill(0, &tokens(8, 1), BLOCKS).unwrap();
            session.prefill(1, &tokens(7, 2), View::Causal).unwrap();
            session
        };
        let segments = [blocks(0, &[0, 3]), causal(1)];
        let together = logits(&mut begun(), &segments).unwrap();
        let alone = segments.map(|segment| logits(&mut begun(), &[segment]).unwrap()).concat();
        for (row, expected) in together.iter().zip(&alone) {
            let apart = row.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(apart < 1e-4, "{precision}: {apart}");
        }
    }
}

/// A session on a model whose weights have products with rounded activations, with one prompt under a view.
fn reading(precision: Activations, view: View) -> Session {
    let model = tiny_in("tiny_untied", Some(StorageDtype::Q8_0)).transformer;
    let mut session = Session::new(model).remembering();
    session.read_prompt_in(0, precision);
    session.prefill(0, &tokens(8, 1), view).unwrap();
    session
}

#[test]
fn only_the_pass_over_a_prompt_is_rounded() {
    for (view, mask, read) in [
        (BLOCKS, AttentionMask::BlockCausal { block_size: FOUR }, 8),
        (View::Causal, AttentionMask::Causal, 7),
    ] {
        let segment = match view {
            View::Causal => causal(0),
            View::Blocks { .. } | View::CausalBlocks { .. } => blocks(0, &[0, 1, 2, 3]),
        };
        let mut session = reading(Activations::Int8, view);
        assert_eq!(session.passes(), 1, "the prompt has a pass of its own");
        let found = logits(&mut session, &[segment]).unwrap();

        // The same by hand: what is read in the prompt's pass, and what comes after it.
        let model = session.model();
        let mut cache = KvCache::new(model.config(), 16, DType::F32, &Device::Cpu).unwrap();
        let mut pass = |tokens: &[u32], wanted: Option<&[u32]>, precision| {
            let sequence = Sequence { tokens, past: cache.len(), wanted, documents: None };
            let batch = Batch::of(sequence, mask).unwrap().in_precision(precision);
            let hidden = model.forward_cached(&batch, &mut [&mut cache]).unwrap();
            cache.keep(0..if wanted.is_some() { tokens.len() } else { 0 }).unwrap();
            model.logits(&hidden).unwrap()
        };
        let prompt = tokens(8, 1);
        pass(&prompt[..read], Some(&[]), Activations::Int8);
        let open = [&prompt[read..], segment.block].concat();
        let expected = pass(&open, None, Activations::F32).to_vec2::<f32>().unwrap();
        assert_eq!(found, expected, "{view:?}");

        let exact = logits(&mut reading(Activations::F32, view), &[segment]).unwrap();
        let apart = exact.iter().flatten().zip(found.iter().flatten()).map(|(a, b)| (a - b).abs());
        let apart = apart.fold(0.0, f32::max);
        assert!(apart > 1e-4 && apart < 0.5, "{view:?}: {apart}");
    }
}

#[test]
fn what_was_read_in_one_precision_is_not_remembered_in_another() {
    for view in [BLOCKS, View::Causal] {
        let segment = match view {
            View::Causal => causal(0),
            View::Blocks { .. } | View::CausalBlocks { .. } => blocks(0, &[0, 3]),
        };
        let [exact, rounded] = [Activations::F32, Activations::Int8].map(|precision| {
            let mut session = reading(precision, view);
            (precision, logits(&mut session, &[segment]).unwrap())
        });
        let mut session = reading(Activations::Int8, view);
        for (precision, expected) in [&exact, &rounded, &exact, &exact] {
            session.release(0);
            session.read_prompt_in(0, *precision);
            session.prefill(0, &tokens(8, 1), view).unwrap();
            assert_eq!(logits(&mut session, &[segment]).unwrap(), *expected, "{precision:?}");
        }
    }
}

/// The logits of a draft's rows.
fn drafted(session: &mut Session, view: View, tokens: &[u32]) -> Vec<Vec<f32>> {
    let draft = Draft { sequence: 0, view, tokens, mask_id: MASK };
    let mut rows = Vec::new();
    session.speculate(&[], &[draft], &mut |row| rows.push(row.to_vec())).unwrap();
    rows
}

#[test]
fn a_drafts_rows_are_those_of_its_blocks_one_after_the_other_and_any_part_of_it_may_be_accepted() {
    let segment = |view| match view {
        View::Causal => causal(0),
        blocks => Segment { view: blocks, ..self::blocks(0, &[0, 1, 2, 3]) },
    };
    for view in [BLOCKS, View::CausalBlocks { block_size: FOUR }, View::Causal] {
        let (size, draft) = (view.block_size().get(), tokens(8, 5));
        for accepted in 0..=draft.len() / size {
            let begun = || {
                let mut session = Session::new(tiny("tiny_untied").transformer);
                session.prefill(0, &tokens(8, 1), view).unwrap();
                session.commit(0, &tokens(size as u32, 3)).unwrap();
                session
            };
            let (mut whole, mut single) = (begun(), begun());
            let rows = drafted(&mut whole, view, &draft);
            assert_eq!(rows.len(), draft.len());
            whole.accept(0, accepted * size).unwrap();
            let close = |found: &[Vec<f32>], expected: &[Vec<f32>]| {
                assert_eq!(found.len(), expected.len());
                for (a, b) in found.iter().flatten().zip(expected.iter().flatten()) {
                    assert!((a - b).abs() < 1e-4, "{view:?}, {accepted} accepted: {a} and {b}");
                }
            };
            for (block, rows) in draft.chunks(size).zip(rows.chunks(size)).take(accepted) {
                close(rows, &logits(&mut single, &[segment(view)]).unwrap());
                single.commit(0, block).unwrap();
            }
            // Behind what was accepted, with another block committed and without.
            let expected = logits(&mut single, &[segment(view)]).unwrap();
            close(&logits(&mut whole, &[segment(view)]).unwrap(), &expected);
            close(&logits(&mut whole, &[segment(view)]).unwrap(), &expected);
            let other = tokens(size as u32, 9);
            whole.commit(0, &other).unwrap();
            single.commit(0, &other).unwrap();
            let expected = logits(&mut single, &[segment(view)]).unwrap();
            close(&logits(&mut whole, &[segment(view)]).unwrap(), &expected);
        }
    }
}

#[test]
fn a_draft_right_behind_an_accepted_one_is_read_from_the_logits_that_are_there() {
    let mut whole = Session::new(tiny("tiny_untied").transformer);
    whole.prefill(0, &tokens(8, 1), View::Causal).unwrap();
    let draft = tokens(6, 5);
    let first = drafted(&mut whole, View::Causal, &draft);
    whole.accept(0, 3).unwrap();
    // Nothing is queued now: the first row is the last one that was accepted.
    let again = drafted(&mut whole, View::Causal, &draft[3..]);
    for (a, b) in first[3..].iter().flatten().zip(again.iter().flatten()) {
        assert!((a - b).abs() < 1e-4, "{a} and {b}");
    }
    whole.accept(0, 3).unwrap();
    assert_eq!(logits(&mut whole, &[causal(0)]).unwrap().len(), 1);
}

//! Looks at plans without running them: where their pointers lead, what memory they take, what is refused.

use lacuna_checkpoint::Config;
use lacuna_device::{Error, Layout, Plan, Step, StepOptions, TrainingBatch, TrainingStep};
use lacuna_kernels::{AttentionMask, KeyRanges, Segments};

use crate::model::{Planned, Supervised, biased, config, state, tied_and_normed};
use crate::step::options;

fn expect_in_arena(plan: &Plan) {
    for upload in &plan.uploads {
        assert!(upload.at + upload.data.bytes.len() as u64 <= plan.arena_bytes);
    }
    for step in &plan.steps {
        match step {
            Step::Zero { at, bytes } | Step::Fresh { at, bytes } => {
                assert!(at + bytes <= plan.arena_bytes);
            }
            Step::Copy { from, to, bytes } => {
                assert!(from.max(to) + bytes <= plan.arena_bytes);
            }
            Step::Launch(launch) => {
                assert!(launch.grid.iter().all(|blocks| *blocks > 0), "{}", launch.kernel);
                assert!(launch.args.offsets().all(|at| at < plan.arena_bytes), "{}", launch.kernel);
                assert!(launch.args.bytes.len().is_multiple_of(8), "{}", launch.kernel);
            }
        }
    }
}

/// No buffer that begins its life lies where state or a table does.
fn expect_tables_untouched(plan: &Plan, state_bytes: u64) {
    for step in &plan.steps {
        let Step::Fresh { at, bytes } = step else { continue };
        assert!(*at >= state_bytes);
        for upload in &plan.uploads {
            let end = upload.at + upload.data.bytes.len() as u64;
            assert!(end <= *at || at + bytes <= upload.at);
        }
    }
}

#[test]
fn plans_stay_in_their_arena_and_off_state_and_tables() {
    for config in [config(), biased(), tied_and_normed()] {
        let state = state(&config);
        for recompute in [false, true] {
            let options = StepOptions { recompute, ..options() };
            for of in [
                Supervised::diffusion(&config, &[&[10, 27], &[21]]),
                Supervised::causal(&config, &[5]),
            ] {
                let planned = Planned::new(&config, &state, &of, &options);
                expect_in_arena(&planned.step.plan);
                expect_tables_untouched(&planned.step.plan, planned.layout.bytes());
            }
        }
    }
}

#[test]
fn recomputed_layers_add_their_input_alone_to_the_memory() {
    let bytes = |num_layers: usize, recompute: bool| {
        let config = Config { num_layers, ..config() };
        let state = state(&config);
        let of = Supervised::diffusion(&config, &[&[40]]);
        let options = StepOptions { recompute, ..options() };
        let planned = Planned::new(&config, &state, &of, &options);
        planned.step.plan.arena_bytes - planned.layout.bytes()
    };
    let input = 80 * 72 * 2u64;
    let more = bytes(6, true) - bytes(4, true);
    assert!((2 * input..3 * input).contains(&more), "{more} bytes more, {input} an input");
    assert!(bytes(6, false) - bytes(4, false) > 5 * more);
}

#[test]
fn models_without_kernels_are_refused_with_what_would_do() {
    let refused = |config: Config| match Layout::new(&config, 8) {
        Err(error @ Error::Unsupported { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    };
    let heads = refused(Config { head_dim: 80, ..config() });
    assert_eq!(heads, "heads of 80 numbers: the CUDA kernels take heads of 64 or 128");
    let hidden = refused(Config { hidden_size: 100, ..config() });
    assert!(hidden.contains("a hidden size of 100") && hidden.contains("multiples of 8"));
    assert!(Layout::new(&config(), 65).unwrap_err().to_string().contains("65 positions"));
}

#[test]
fn batches_that_do_not_fit_are_refused() {
    let layout = Layout::new(&config(), 8).unwrap();
    let segments = Segments::end_to_end([KeyRanges::new(AttentionMask::Causal, 2, 2, 0)]);
    let fits = TrainingBatch {
        tokens: &[1, 2],
        positions: &[0, 1],
        segments: &segments,
        wanted: &[0],
        targets: &[2],
        weights: &[1.],
    };
    let planned = |batch, options| TrainingStep::new(&layout, batch, &options);
    assert!(planned(fits, StepOptions::default()).is_ok());
    let chunk = StepOptions { vocab_chunk: 100, ..StepOptions::default() };
    assert!(planned(fits, chunk).unwrap_err().to_string().contains("multiple of 128"));
    for (batch, reason) in [
        (TrainingBatch { tokens: &[1], ..fits }, "1 tokens, 2 positions, 2 queries"),
        (TrainingBatch { tokens: &[1, 300], ..fits }, "token 300 is outside"),
        (TrainingBatch { targets: &[300], ..fits }, "token 300 is outside"),
        (TrainingBatch { positions: &[0, 8], ..fits }, "position 8, planned for 8"),
        (TrainingBatch { wanted: &[2], ..fits }, "row 2 is wanted of 2"),
        (TrainingBatch { wanted: &[], ..fits }, "no row is wanted"),
        (TrainingBatch { weights: &[], ..fits }, "1 targets, 0 weights"),
    ] {
        let error = planned(batch, StepOptions::default()).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
}

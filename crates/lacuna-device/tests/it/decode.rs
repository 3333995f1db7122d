//! Decodes with an engine whose passes are planned launches on the emulation, and compares it with the engine on the CPU.

use candle_core::{DType, Device, Tensor, Var};
use half::bf16;
use lacuna_checkpoint::{Config, Mode, Parts, Predicts};
use lacuna_device::{Card, Weights};
use lacuna_engine::{
    Algorithm, Completion, DecodeEvent, DraftSource, Engine, EngineOptions, Event, FillRule,
    GenerateOptions, Model, OnMachine, OpenOptions, Plan, Prompt, Resolved, Sampling, Session,
    StorageDtype, edit, generate,
};
use lacuna_model::Transformer;
use lacuna_samplers::{Denoiser, Segment, View, generate_batch};
use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use crate::emulation::{Emulation, Fault};
use crate::model::{biased, state, tied_and_normed};

const MASK: u32 = 3;
const BLOCK: NonZeroUsize = NonZeroUsize::new(4).unwrap();
/// Keys and values of so many tokens have room. Each text begins with 256, so texts have to move where one grows.
const CACHE_TOKENS: usize = 1300;

fn blocks() -> Mode {
    Mode::BlockDiffusion { block_size: BLOCK, mask_token_id: Some(MASK) }
}

fn config() -> Config {
    Config {
        hidden_size: 96,
        intermediate_size: 64,
        max_position_embeddings: 512,
        mode: blocks(),
        ..tied_and_normed()
    }
}

/// Writes a model of this configuration, in bf16.
fn checkpoint(config: &Config, folder: &Path) {
    let numbers = state(config).zip(&config.shapes()).unwrap().map(|_, (state, shape)| {
        let rounded = state.master.iter().map(|x| bf16::from_f32(*x).to_f32());
        let rounded: Vec<f32> = rounded.collect();
        Var::from_tensor(&Tensor::from_vec(rounded, shape.as_slice(), &Device::Cpu).unwrap())
            .unwrap()
    });
    let model = Transformer::from_parameters(config.clone(), numbers).unwrap();
    model.save_in(folder, DType::BF16).unwrap();
}

fn options(dtype: Option<StorageDtype>) -> OpenOptions {
    OpenOptions { dtype, ..OpenOptions::default() }
}

fn emulated(folder: &Path, dtype: Option<StorageDtype>, schedule: i32, tokens: usize) -> Model {
    let machine = Box::new(Emulation::new(schedule));
    let on = OnMachine { machine, card: Card::Small, cache_tokens: Some(tokens) };
    Model::open_on(folder, &options(dtype), on).unwrap()
}

/// The n-th prompt: of another length each.
fn prompt(n: usize) -> Vec<u32> {
    (0..[9, 3, 37, 1, 14, 6][n % 6]).map(|i| 5 + (i * 37 + 11 * n as u32) % 290).collect()
}

/// The n-th request, greedy: every kind of rule, blocks of several sizes.
fn greedy(n: usize, algorithm: Algorithm) -> GenerateOptions {
    let rules = [
        FillRule::LowConfidence,
        FillRule::Threshold { tau: 0.02 },
        FillRule::Margin,
        FillRule::EntropyBounded { gamma: 8.0 },
    ];
    GenerateOptions {
        max_new_tokens: 7 + 2 * n,
        block_size: (algorithm == Algorithm::Blocks)
            .then(|| NonZeroUsize::new([4, 1, 8, 5][n % 4]).unwrap()),
        fill: (algorithm == Algorithm::Blocks).then_some(rules[n % rules.len()]),
        algorithm: Some(algorithm),
        allow_mode_mismatch: true,
        eos_ids: Some(Vec::new()),
        mask_id: Some(MASK),
        drafts: Some(DraftSource::None),
        ..GenerateOptions::default()
    }
}

/// The same under every law of drawing.
fn drawn(n: usize, algorithm: Algorithm) -> GenerateOptions {
    let laws = [
        Sampling { temperature: 0.9, ..Sampling::default() },
        Sampling { temperature: 1.2, top_k: NonZeroUsize::new(20), ..Sampling::default() },
        Sampling { temperature: 0.8, top_p: Some(0.7), ..Sampling::default() },
        Sampling { temperature: 1.1, min_p: Some(0.02), ..Sampling::default() },
        Sampling { repetition_penalty: 1.3, ..Sampling::default() },
        Sampling { temperature: 1.0, repetition_penalty: 1.2, ..Sampling::default() },
    ];
    let sampling = Sampling { seed: 40 + n as u64, ..laws[n % laws.len()].clone() };
    GenerateOptions { sampling, ..greedy(n, algorithm) }
}

/// The texts that an engine writes for all of these requests together.
fn together(model: &Model, requests: &[(Vec<u32>, GenerateOptions)]) -> Vec<Completion> {
    let mut engine = Engine::new(model, EngineOptions::default());
    let ids: Vec<_> = requests
        .iter()
        .map(|(prompt, options)| {
            let prompt = Prompt::Ids(prompt.clone());
            engine.push(Resolved::new(model, prompt, options).unwrap()).unwrap()
        })
        .collect();
    let mut finished = BTreeMap::new();
    while !engine.is_empty() {
        for event in engine.step() {
            match event {
                Event::Finished { id, completion } => drop(finished.insert(id, completion)),
                Event::Failed { id, error } => panic!("{id}: {error:?}"),
                _ => {}
            }
        }
    }
    ids.iter().map(|id| finished.remove(id).unwrap()).collect()
}

fn alone(model: &Model, (prompt, options): &(Vec<u32>, GenerateOptions)) -> Completion {
    generate(model, Prompt::Ids(prompt.clone()), options, |_| {}).unwrap()
}

/// Tokens, and passes that decoding without drafts takes: with some a pass is longer on the CPU, so that fewer are made.
fn outcome(written: &Completion) -> (&[u32], usize) {
    (&written.tokens, written.forwards + written.drafts.passes_saved)
}

/// On the emulation each request gets what it gets on the CPU, alone and among the others; says how many passes had how
/// many plans.
fn expect_the_cpus(
    config: &Config,
    dtype: Option<StorageDtype>,
    schedule: i32,
    requests: &[(Vec<u32>, GenerateOptions)],
) {
    let folder = tempfile::tempdir().unwrap();
    checkpoint(config, folder.path());
    let cpu = Model::open(folder.path(), &options(dtype)).unwrap();
    let model = emulated(folder.path(), dtype, schedule, CACHE_TOKENS);
    let expected: Vec<Completion> = requests.iter().map(|request| alone(&cpu, request)).collect();
    let found = together(&model, requests);
    for (n, (found, expected)) in found.iter().zip(&expected).enumerate() {
        assert_eq!(outcome(found), outcome(expected), "request {n} among others, {dtype:?}");
    }
    let one = alone(&model, &requests[0]);
    assert_eq!(outcome(&one), outcome(&expected[0]), "alone, {dtype:?}");
    // Every draw was made there: what is read are candidates, of 40 bytes each.
    let counts = model.machine_counts().unwrap();
    assert!(counts.bytes_read.is_multiple_of(40) && counts.bytes_read > 0);
    assert!(counts.bytes_read / 40 < 4 * 300 * counts.passes / 40, "{counts:?}");
    assert!(counts.plans < counts.passes, "{counts:?}");
}

fn requests(n: usize, of: impl Fn(usize) -> GenerateOptions) -> Vec<(Vec<u32>, GenerateOptions)> {
    (0..n).map(|n| (prompt(n), of(n))).collect()
}

#[test]
#[ignore = "wants emulated kernels: `cargo xtask cuda emulate plan`"]
fn blocks_are_decoded_to_the_cpus_tokens_alone_and_among_others() {
    let all = requests(4, |n| greedy(n, Algorithm::Blocks));
    for schedule in [0, 6] {
        expect_the_cpus(&config(), None, schedule, &all);
    }
}

#[test]
#[ignore = "wants emulated kernels: `cargo xtask cuda emulate plan`"]
fn an_autoregressive_model_with_heads_of_128_is_decoded_to_the_cpus_tokens() {
    let config = Config {
        mode: Mode::Autoregressive,
        predicts: Predicts::Next,
        num_heads: 2,
        num_kv_heads: 1,
        head_dim: 128,
        tie_word_embeddings: false,
        ..config()
    };
    expect_the_cpus(&config, None, 0, &requests(4, |n| greedy(n, Algorithm::Autoregressive)));
}

#[test]
#[ignore = "wants emulated kernels: `cargo xtask cuda emulate plan`"]
fn quantized_weights_and_biases_give_the_cpus_tokens() {
    let parts = Parts { qk_norm: true, ..biased().parts };
    // Rows of whole blocks of every format, also where the attention's output is read.
    let config = Config { hidden_size: 256, intermediate_size: 256, parts, ..config() };
    for dtype in [StorageDtype::Q8_0, StorageDtype::Q4_0, StorageDtype::Q4_1, StorageDtype::Q4K] {
        expect_the_cpus(&config, Some(dtype), 0, &requests(2, |n| greedy(n, Algorithm::Blocks)));
    }
}

#[test]
#[ignore = "wants emulated kernels: `cargo xtask cuda emulate plan`"]
fn a_shifted_head_reads_the_block_before_again_and_writes_the_cpus_tokens() {
    let config = Config { predicts: Predicts::Next, ..config() };
    let fill = Some(FillRule::LowConfidence);
    let of = |n| GenerateOptions { fill, ..greedy(n, Algorithm::Blocks) };
    expect_the_cpus(&config, None, 0, &requests(3, of));
}

#[test]
#[ignore = "wants emulated kernels: `cargo xtask cuda emulate plan`"]
fn tokens_are_drawn_where_the_logits_are_as_the_sampler_draws_them() {
    let folder = tempfile::tempdir().unwrap();
    checkpoint(&config(), folder.path());
    let model = emulated(folder.path(), None, 0, 2 * CACHE_TOKENS);
    for algorithm in [Algorithm::Blocks, Algorithm::Autoregressive] {
        let all = requests(6, |n| drawn(n, algorithm));
        let found = together(&model, &all);
        let before = model.machine_counts().unwrap();
        // A denoiser that is asked for logits gives them, and the sampler draws.
        let requests = all.iter().map(|(prompt, options)| {
            let resolved = Resolved::new(&model, Prompt::Ids(prompt.clone()), options).unwrap();
            match resolved.plan {
                Plan::Blocks(request) | Plan::Autoregressive(request) => request,
                Plan::Reference(_) => panic!("another algorithm"),
            }
        });
        let mut session = Session::of(&model);
        let by_host = generate_batch(&mut session, requests, |_| ControlFlow::Continue(()));
        for (n, (found, by_host)) in found.iter().zip(by_host).enumerate() {
            let by_host = by_host.unwrap();
            assert_eq!(found.tokens, by_host.tokens, "request {n}, {algorithm:?}");
            assert_eq!(found.text_len, by_host.text_len);
        }
        let after = model.machine_counts().unwrap();
        let row = 4 * config().vocab_size as u64;
        assert!((after.bytes_read - before.bytes_read).is_multiple_of(row), "rows of logits");
    }
}

#[test]
#[ignore = "wants emulated kernels: `cargo xtask cuda emulate plan`"]
fn a_law_that_needs_the_logits_on_the_host_gets_them_and_the_others_do_not() {
    let folder = tempfile::tempdir().unwrap();
    checkpoint(&config(), folder.path());
    let cpu = Model::open(folder.path(), &options(None)).unwrap();
    let model = emulated(folder.path(), None, 0, CACHE_TOKENS);
    let penalised = GenerateOptions {
        sampling: Sampling { frequency_penalty: 0.5, presence_penalty: 0.3, ..Sampling::default() },
        ..greedy(0, Algorithm::Blocks)
    };
    let all = [(prompt(0), penalised), (prompt(1), greedy(1, Algorithm::Blocks))];
    let found = together(&model, &all);
    for (found, request) in found.iter().zip(&all) {
        assert_eq!(outcome(found), outcome(&alone(&cpu, request)));
    }
    // Of the first request's passes, which propose a token for each hole, the rows; 40 bytes for those of the second.
    let holes: u64 = [3, 2, 1, 4, 3, 2, 1].iter().sum();
    let row = 4 * config().vocab_size as u64;
    let read = model.machine_counts().unwrap().bytes_read;
    assert_eq!(found[0].forwards, 7);
    assert_eq!(read / row, holes, "{read} bytes");
    assert!((read % row).is_multiple_of(40));
}

/// The bits of the logits of a pass over a block of masks behind each prompt.
fn bits(session: &mut Session, prompts: &[Vec<u32>], numbers: &[usize]) -> Vec<Vec<u32>> {
    let view = View::Blocks { block_size: BLOCK };
    for (number, prompt) in numbers.iter().zip(prompts) {
        session.prefill(*number, &prompt[..prompt.len() / 4 * 4], view).unwrap();
    }
    let masks = [MASK; 4];
    let segment =
        |number: &usize| Segment { sequence: *number, view, block: &masks, rows: &[0, 1, 2, 3] };
    let segments: Vec<_> = numbers.iter().map(segment).collect();
    let mut rows = Vec::new();
    let mut read = |row: &[f32]| rows.push(row.iter().map(|x| x.to_bits()).collect());
    session.denoise(&segments, &mut read).unwrap();
    numbers.iter().for_each(|number| session.release(*number));
    rows
}

#[test]
#[ignore = "wants emulated kernels: `cargo xtask cuda emulate plan`"]
fn a_plan_that_is_played_again_has_the_bits_of_a_fresh_one_whoever_shares_the_pass() {
    let folder = tempfile::tempdir().unwrap();
    checkpoint(&config(), folder.path());
    let model = emulated(folder.path(), None, 0, CACHE_TOKENS);
    let prompts: Vec<_> = [2, 0, 4].map(prompt).into();
    let mut session = Session::of(&model);
    let first = bits(&mut session, &prompts, &[0, 1, 2]);
    let made = model.machine_counts().unwrap();
    // Other texts, of about the same lengths, under the same plans.
    let others: Vec<_> = prompts.iter().map(|p| p.iter().map(|t| t + 1).collect()).collect();
    let other = bits(&mut session, &others, &[3, 4, 5]);
    assert_ne!(other, first);
    let again = bits(&mut session, &prompts, &[6, 7, 8]);
    assert!(again == first, "played again");
    let played = model.machine_counts().unwrap();
    assert_eq!(played.plans, made.plans, "nothing was planned anew");
    assert_eq!(played.passes, 3 * made.passes);
    // Alone, and on a machine that has run nothing else.
    let one = bits(&mut session, &prompts[1..2], &[9]);
    assert!(one[..] == first[4..8], "alone");
    drop((session, model));
    let fresh = emulated(folder.path(), None, 6, CACHE_TOKENS);
    let found = bits(&mut Session::of(&fresh), &prompts[1..2], &[0]);
    assert!(found[..] == first[4..8], "fresh, under another order of threads");
}

#[test]
#[ignore = "wants emulated kernels: `cargo xtask cuda emulate plan`"]
fn texts_move_where_one_grows_and_one_that_has_no_room_fails_alone() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config { num_layers: 1, ..config() };
    checkpoint(&config, folder.path());
    let cpu = Model::open(folder.path(), &options(None)).unwrap();
    // Each text begins with room for 256 tokens: two fit, and both grow beyond that.
    let model = emulated(folder.path(), None, 0, 660);
    let long: Vec<u32> = (0..250).map(|i| 5 + i * 7 % 290).collect();
    let longer: Vec<u32> = (0..270).map(|i| 6 + i * 11 % 290).collect();
    let of = GenerateOptions {
        max_new_tokens: 20,
        fill: Some(FillRule::Threshold { tau: 0. }),
        ..greedy(0, Algorithm::Blocks)
    };
    let both = [(long, of.clone()), (longer, of.clone())];
    let found = together(&model, &both);
    for (found, request) in found.iter().zip(&both) {
        assert_eq!(outcome(found), outcome(&alone(&cpu, request)));
    }
    let most = (0..400).map(|i| 5 + i % 290).collect();
    let longest = GenerateOptions { max_new_tokens: 100, ..of };
    let mut engine = Engine::new(&model, EngineOptions::default());
    let resolved = Resolved::new(&model, Prompt::Ids(most), &longest).unwrap();
    assert!(engine.push(resolved).is_ok(), "500 tokens have room alone");
    let mut sessions: Vec<Session> = (0..3).map(|_| Session::of(&model)).collect();
    let view = View::Blocks { block_size: BLOCK };
    let begun: Vec<_> =
        sessions.iter_mut().map(|one| one.prefill(0, &[5, 6, 7, 8], view)).collect();
    assert!(begun[0].is_ok() && begun[1].is_ok());
    let error = begun[2].as_ref().unwrap_err().to_string();
    assert!(error.contains("256 tokens") && error.contains("660"), "{error}");
}

#[test]
#[ignore = "wants emulated kernels: `cargo xtask cuda emulate plan`"]
fn drafts_are_verified_and_a_prompt_is_read_in_parts_as_on_the_cpu() {
    let folder = tempfile::tempdir().unwrap();
    checkpoint(&config(), folder.path());
    let cpu = Model::open(folder.path(), &options(None)).unwrap();
    let model = emulated(folder.path(), None, 0, CACHE_TOKENS);
    for algorithm in [Algorithm::Blocks, Algorithm::Autoregressive] {
        let of = GenerateOptions { max_new_tokens: 30, ..greedy(0, algorithm) };
        let plain = alone(&cpu, &(prompt(4), of.clone()));
        // A draft that is right but for one token.
        let mut old = plain.tokens.clone();
        old[23] = old[23] % 290 + 6;
        let edited =
            |model: &Model| edit(model, Prompt::Ids(prompt(4)), &old, &of, |_| {}).unwrap();
        let (found, expected) = (edited(&model), edited(&cpu));
        assert_eq!(outcome(&found), outcome(&expected), "{algorithm:?}");
        assert_eq!(found.tokens, plain.tokens, "{algorithm:?}");
        let drafts = found.drafts;
        assert!(drafts.accepted_blocks > 0 && drafts.passes_saved > 0, "{algorithm:?}: {drafts:?}");
    }
    // A server reads prompts between passes, and remembers what was read.
    let of = greedy(0, Algorithm::Blocks);
    let expected = alone(&cpu, &(prompt(2), of.clone()));
    let mut engine = Engine::new(&model, EngineOptions::default()).remembering(1 << 30);
    for time in 0..2 {
        let resolved = Resolved::new(&model, Prompt::Ids(prompt(2)), &of).unwrap();
        let mut reading = engine.begin(resolved, None).unwrap();
        assert_eq!(reading.remembered() > 0, time > 0);
        while !engine.read(&mut reading, NonZeroUsize::new(8).unwrap()).unwrap() {}
        engine.join(reading).unwrap();
        let mut tokens = None;
        while !engine.is_empty() {
            for event in engine.step() {
                if let Event::Finished { completion, .. } = event {
                    tokens = Some(completion.tokens);
                }
            }
        }
        assert_eq!(tokens.as_ref(), Some(&expected.tokens));
    }
}

/// The candidates that a decode proposed, pass by pass, or that it failed.
fn proposed(model: &Model) -> Option<Vec<(u32, f64)>> {
    let of = GenerateOptions { max_new_tokens: 9, ..greedy(0, Algorithm::Blocks) };
    let mut all = Vec::new();
    let written = generate(model, Prompt::Ids(prompt(4)), &of, |event| {
        if let DecodeEvent::Refinement(refinement) = event {
            all.extend(refinement.candidates.iter().map(|one| (one.token, one.confidence)));
        }
    });
    written.ok().map(|_| all)
}

#[test]
#[ignore = "wants emulated kernels: `cargo xtask cuda emulate plan`"]
fn every_kernel_that_is_left_out_of_a_pass_and_tables_that_are_stale_are_found() {
    let folder = tempfile::tempdir().unwrap();
    checkpoint(&config(), folder.path());
    let cpu = proposed(&Model::open(folder.path(), &options(None)).unwrap()).unwrap();
    let same = |found: &[(u32, f64)]| {
        let pairs = found.iter().zip(&cpu);
        found.len() == cpu.len()
            && pairs.into_iter().all(|((a, p), (b, q))| a == b && (p - q).abs() < 1e-2 * q)
    };
    let kernels = Arc::default();
    let with = |fault| {
        let machine = Emulation::new(0).with_fault(fault, Arc::clone(&kernels));
        let machine = Box::new(machine);
        let on = OnMachine { machine, card: Card::Small, cache_tokens: Some(300) };
        proposed(&Model::open_on(folder.path(), &options(None), on).unwrap())
    };
    assert!(same(&with(None).unwrap()), "as it is");
    let all: Vec<&'static str> = kernels.lock().unwrap().iter().copied().collect();
    assert!(all.len() > 12, "{all:?}");
    let faults = all.into_iter().map(Fault::LeftOut).chain([Fault::Stale]);
    let unfound: Vec<_> = faults
        .filter(|fault| {
            println!("{fault:?}");
            with(Some(*fault)).is_some_and(|found| same(&found))
        })
        .collect();
    assert!(unfound.is_empty(), "not found: {unfound:?}");
}

#[test]
fn formats_without_kernels_are_kept_in_bf16_and_rows_of_broken_blocks_are_refused() {
    assert_eq!(Weights::kept_in(StorageDtype::Q6K, &[64, 256]), StorageDtype::BF16);
    assert_eq!(Weights::kept_in(StorageDtype::Q4K, &[64, 96]), StorageDtype::BF16);
    assert_eq!(Weights::kept_in(StorageDtype::Q4K, &[64, 256]), StorageDtype::Q4K);
    assert_eq!(Weights::kept_in(StorageDtype::BF16, &[64]), StorageDtype::F32);
    let refused = |config: &Config, dtype| {
        let formats = config.shapes().map(|_, _| dtype);
        Weights::stored(config, 48, &formats).unwrap_err().to_string()
    };
    let error = refused(&config(), StorageDtype::Q6K);
    assert!(error.contains("q6_k") && error.contains("q8_0"), "{error}");
    let error = refused(&config(), StorageDtype::Q4K);
    assert!(error.contains("[300, 96] numbers in q4_k"), "{error}");
}

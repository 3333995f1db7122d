//! Compares planned steps with the CPU's: losses, every gradient, every updated parameter.

use lacuna_checkpoint::Config;
use lacuna_device::{Card, StepOptions};

use crate::emulation::Emulation;
use crate::model::{
    OPTIMIZER, Planned, Results, State, Supervised, biased, config, differences, on_the_cpu, state,
    tied_and_normed,
};
use lacuna_checkpoint::Parameters;

/// Two chunks of the vocabulary, and the optimizer behind the gradients.
pub(crate) fn options() -> StepOptions {
    StepOptions { vocab_chunk: 256, optimizer: Some(OPTIMIZER), ..StepOptions::default() }
}

fn run(
    config: &Config,
    state: &Parameters<State>,
    of: &Supervised,
    options: &StepOptions,
    schedule: i32,
) -> Results {
    Planned::new(config, state, of, options).run(&mut Emulation::new(schedule)).unwrap()
}

/// The bits of everything, NaNs too.
fn same_bits(a: &Results, b: &Results) -> bool {
    let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    let of = |results: &Results| {
        let Results { loss, norm, nll, gradients, masters, values } = results;
        let (gradients, masters) = (gradients.map(|_, x| bits(x)), masters.map(|_, x| bits(x)));
        let values = values.map(|_, x| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>());
        (loss.to_bits(), norm.to_bits(), bits(nll), gradients, masters, values)
    };
    of(a) == of(b)
}

fn expect_the_cpus(name: &str, config: &Config, of: &Supervised, options: &StepOptions) {
    let state = state(config);
    let cpu = on_the_cpu(config, &state, &[of]);
    let found = run(config, &state, of, options, 0);
    let told = differences(&found, &cpu, &state);
    assert!(told.is_empty(), "{name}:\n{}", told.join("\n"));
}

#[test]
#[ignore = "wants emulated kernels: `cargo xtask cuda emulate plan`"]
fn a_planned_step_of_ragged_documents_is_the_cpus_and_has_its_bits_under_every_order() {
    let config = config();
    // 134 rows in windows of 37, 21 and 9 tokens, two of the first one's documents: more than a tile.
    let of = Supervised::diffusion(&config, &[&[10, 27], &[21], &[9]]);
    expect_the_cpus("block diffusion", &config, &of, &options());
    let state = state(&config);
    let [first, again, ahead, random] =
        [0, 0, 2, 6].map(|schedule| run(&config, &state, &of, &options(), schedule));
    assert!(same_bits(&first, &again), "a second run");
    assert!(same_bits(&first, &ahead), "the last warp ahead");
    assert!(same_bits(&first, &random), "warps at random");
}

#[test]
#[ignore = "wants emulated kernels: `cargo xtask cuda emulate plan`"]
fn a_head_that_is_the_embedding_and_norms_of_heads_have_the_cpus_gradients() {
    let config = tied_and_normed();
    let of = Supervised::diffusion(&config, &[&[14], &[5, 6]]);
    expect_the_cpus("tied and normed", &config, &of, &options());
}

#[test]
#[ignore = "wants emulated kernels: `cargo xtask cuda emulate plan`"]
fn biases_have_the_cpus_gradients() {
    let config = biased();
    let of = Supervised::diffusion(&config, &[&[14], &[5, 6]]);
    for card in [Card::Small, Card::Hopper] {
        expect_the_cpus(&format!("{card:?}"), &config, &of, &StepOptions { card, ..options() });
    }
}

#[test]
#[ignore = "wants emulated kernels: `cargo xtask cuda emulate plan`"]
fn gradients_of_micro_batches_add_up_to_the_cpus() {
    // A head of its own, whose embedding's gradient is zeroed once; then one that both uses add to.
    for config in [biased(), tied_and_normed()] {
        let micro_batches = [
            Supervised::diffusion(&config, &[&[14]]),
            Supervised::diffusion(&config, &[&[5, 6]]),
            Supervised::diffusion(&config, &[&[9], &[4]]),
        ];
        let all: Vec<&Supervised> = micro_batches.iter().collect();
        let state = state(&config);
        let cpu = on_the_cpu(&config, &state, &all);
        let planned = Planned::of_all(&config, &state, &all, &options());
        let told = differences(&planned.run(&mut Emulation::new(0)).unwrap(), &cpu, &state);
        assert!(told.is_empty(), "{:?}:\n{}", config.parts, told.join("\n"));
    }
}

#[test]
#[ignore = "wants emulated kernels: `cargo xtask cuda emulate plan`"]
fn the_kernels_of_hopper_and_heads_of_128_do_the_same() {
    let config = Config { head_dim: 128, num_heads: 2, num_kv_heads: 1, ..tied_and_normed() };
    let of = Supervised::causal(&config, &[20, 3]);
    for card in [Card::Small, Card::Hopper] {
        let options = StepOptions { card, ..options() };
        expect_the_cpus(&format!("{card:?}"), &config, &of, &options);
    }
}

#[test]
#[ignore = "wants emulated kernels: `cargo xtask cuda emulate plan`"]
fn activations_that_are_computed_again_have_the_same_bits_in_less_memory() {
    let config = Config { num_layers: 3, ..tied_and_normed() };
    let state = state(&config);
    let of = Supervised::diffusion(&config, &[&[13], &[8]]);
    let recompute = StepOptions { recompute: true, ..options() };
    let planned = [options(), recompute].map(|o| Planned::new(&config, &state, &of, &o));
    let [kept, again] = [0, 1].map(|i: usize| planned[i].run(&mut Emulation::new(0)).unwrap());
    assert!(same_bits(&kept, &again));
    let [kept, again] = [0, 1].map(|i: usize| planned[i].step.plan.arena_bytes);
    assert!(again < kept, "{again} bytes, {kept} with all activations");
}

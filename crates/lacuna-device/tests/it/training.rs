//! Plays plans of micro-batches again for other batches, and compares their bits with those of plans that are new.

use lacuna_device::{Layout, MicroBatch, ParameterState, StepOptions, Training, TrainingStep};

use crate::emulation::Emulation;
use crate::model::{OPTIMIZER, State, Supervised, state, tied_and_normed};
use lacuna_checkpoint::{Config, Parameters};

fn begin<'m>(
    machine: &'m mut Emulation,
    config: &Config,
    state: &Parameters<State>,
) -> Training<'m> {
    let layout = Layout::new(config, 48).unwrap();
    let options = StepOptions { vocab_chunk: 256, ..StepOptions::default() };
    let mut training = Training::new(machine, layout, &options, OPTIMIZER).unwrap();
    let places = training.layout().parameters().clone();
    for (_, (place, state)) in places.zip(state).unwrap().iter() {
        let State { master, first, second } = state;
        let state =
            ParameterState { master: master.clone(), first: first.clone(), second: second.clone() };
        training.write(**place, &state).unwrap();
    }
    training
}

fn take(training: &mut Training<'_>, of: &Supervised) -> MicroBatch {
    training.micro_batch(of.on(&of.batch.segments().unwrap())).unwrap()
}

fn bits(of: &MicroBatch) -> (u64, Vec<u32>) {
    (of.loss.to_bits(), of.nll.iter().map(|x| x.to_bits()).collect())
}

#[test]
#[ignore = "wants emulated kernels: `cargo xtask cuda emulate plan`"]
fn batches_of_one_shape_have_one_plan_and_the_bits_of_a_new_one() {
    let config = tied_and_normed();
    let state = state(&config);
    let [one, other] = [(); 2].map(|()| Supervised::diffusion(&config, &[&[14], &[9]]));
    let other = other.less_one();
    assert_ne!(one.batch.wanted().len(), other.batch.wanted().len());

    let mut machine = Emulation::new(0);
    let mut training = begin(&mut machine, &config, &state);
    let mut norms = Vec::new();
    let mut losses = Vec::new();
    for step in 1..=3 {
        // The first micro-batch of a step overwrites gradients, the others add to them: two plans.
        let parts = [&one, &other, &one].map(|of| take(&mut training, of));
        assert_eq!(
            parts[1].nll.len(),
            other.batch.wanted().len(),
            "rows that were added are not told"
        );
        norms.push(training.gradient_norm().unwrap().to_bits());
        losses.push(parts.each_ref().map(bits));
        assert_eq!(bits(&parts[0]), bits(&parts[2]), "a sum's first part and its last");
        training.update(step, 1e-3).unwrap();
    }
    let counts = training.counts();
    assert_eq!((counts.plans, counts.micro_batches), (2, 9));
    drop(training);
    drop(machine);

    // The same with a plan of its own for every micro-batch: on a machine that has run nothing else.
    let mut machine = Emulation::new(6);
    let mut fresh = begin(&mut machine, &config, &state);
    let parts = [&one, &other, &one].map(|of| take(&mut fresh, of));
    assert_eq!(parts.each_ref().map(bits), losses[0]);
    assert_eq!(fresh.gradient_norm().unwrap().to_bits(), norms[0]);

    // Rows that rounding up adds weigh nothing.
    let layout = Layout::new(&config, 48).unwrap();
    let segments = other.batch.segments().unwrap();
    let exact = TrainingStep::new(&layout, other.on(&segments), &StepOptions::default()).unwrap();
    assert_eq!(exact.wanted, parts[1].nll.len());
    assert_eq!(exact.operations.to_bits(), parts[1].operations.to_bits());
}

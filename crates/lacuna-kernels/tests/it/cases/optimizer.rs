//! Compares AdamW's update with its formula and with its definition.

use super::*;
use lacuna_kernels::{
    AdamWUpdate, Backend, Moments, adamw, adamw_eight_bit, global_norm, moving_average,
};

fn variables(dtype: DType) -> Vec<Var> {
    let mut draw = Numbers::new(71);
    let shapes: [&[usize]; 4] = [&[300, 300], &[300], &[7, 5], &[1]];
    let var =
        |shape: &&[usize]| Var::from_tensor(&draw.tensor(shape).to_dtype(dtype).unwrap()).unwrap();
    shapes.iter().map(var).collect()
}

fn gradients(step: u64, vars: &[Var], dtype: DType) -> Vec<Tensor> {
    let mut draw = Numbers::new(1000 + step);
    let scale = if step.is_multiple_of(2) { 1. } else { 1e-4 };
    vars.iter().map(|v| (draw.tensor(v.dims()) * scale).unwrap().to_dtype(dtype).unwrap()).collect()
}

/// An optimizer with β₁ 0.9 and β₂ 0.95 that decays matrices by 0.1 and clips gradients at a norm of `clip`.
struct Optimizer<'a> {
    parameters: &'a [Var],
    moments: Vec<Moments>,
    step: i32,
    clip: f64,
}

impl<'a> Optimizer<'a> {
    fn new(parameters: &'a [Var], clip: f64) -> Self {
        let moments = parameters.iter().map(|p| Moments::zeros(p).unwrap()).collect();
        Self { parameters, moments, step: 0, clip }
    }

    fn step(&mut self, backend: Backend, gradients: &[Tensor], learning_rate: f64) -> f64 {
        let norm = global_norm(backend, gradients).unwrap();
        self.step += 1;
        let states = self.parameters.iter().zip(gradients).zip(&mut self.moments);
        for ((parameter, gradient), moments) in states {
            let decay = if parameter.rank() > 1 { 0.1 } else { 0. };
            let update = AdamWUpdate {
                beta1: 0.9,
                beta2: 0.95,
                eps: 1e-8,
                grad_scale: (self.clip / (norm + 1e-6)).min(1.),
                step_size: learning_rate / (1. - 0.9f64.powi(self.step)),
                root_scale: 1. / (1. - 0.95f64.powi(self.step)).sqrt(),
                shrink: 1. - learning_rate * decay,
            };
            adamw(backend, parameter, gradient, moments, &update).unwrap();
        }
        norm
    }
}

/// The expected values come from the update written out for one number, in f64, as PyTorch documents it.
pub(crate) fn ten_steps_follow_the_formula(backend: Backend) {
    for (clip, tolerance) in [(f64::INFINITY, 2e-6), (1., 2e-6)] {
        let vars = variables(DType::F32);
        let mut fast = Optimizer::new(&vars, clip);
        let mut plain = vars.iter().map(|v| numbers(v)).collect::<Vec<_>>();
        let mut m = plain.iter().map(|p| vec![0f64; p.len()]).collect::<Vec<_>>();
        let mut v = m.clone();
        for step in 1..=10 {
            let grads = gradients(step, &vars, DType::F32);
            let norm = fast.step(backend, &grads, 1e-2);
            let values = grads.iter().map(numbers).collect::<Vec<_>>();
            let want = values.iter().flatten().map(|g| g * g).sum::<f64>().sqrt();
            assert!((norm / want - 1.).abs() < 1e-6, "{norm} {want}");
            let factor = (clip / (want + 1e-6)).min(1.);
            for i in 0..plain.len() {
                let decay = if vars[i].rank() > 1 { 0.1 } else { 0. };
                for j in 0..plain[i].len() {
                    let g = values[i][j] * factor;
                    m[i][j] = 0.9 * m[i][j] + (1. - 0.9) * g;
                    v[i][j] = 0.95 * v[i][j] + (1. - 0.95) * g * g;
                    let m_hat = m[i][j] / (1. - 0.9f64.powf(step as f64));
                    let v_hat = v[i][j] / (1. - 0.95f64.powf(step as f64));
                    plain[i][j] *= 1. - 1e-2 * decay;
                    plain[i][j] -= 1e-2 * m_hat / (v_hat.sqrt() + 1e-8);
                }
            }
        }
        for (var, plain) in vars.iter().zip(plain) {
            let want = Tensor::from_vec(plain, var.shape(), &Device::Cpu).unwrap();
            assert!(error(var, &want) < tolerance, "{clip} {:?}", var.dims());
        }
    }
}

/// f64 parameters take the composed form, f32 the fused one.
pub(crate) fn fused_steps_agree_with_composed_ones(backend: Backend) {
    let (fast, plain) = (variables(DType::F32), variables(DType::F64));
    let (mut a, mut b) = (Optimizer::new(&fast, 1.), Optimizer::new(&plain, 1.));
    for step in 0..5 {
        let norm = a.step(backend, &gradients(step, &fast, DType::F32), 1e-2);
        let same = b.step(backend, &gradients(step, &plain, DType::F64), 1e-2);
        assert!((norm / same - 1.).abs() < 1e-6);
    }
    for (a, b) in fast.iter().zip(&plain) {
        assert!(error(a, b) < 2e-6);
    }
}

/// Steps far below the resolution of bf16 add up in the f32 master instead of being lost.
pub(crate) fn small_steps_are_not_lost_in_half_precision(backend: Backend) {
    for dtype in [DType::BF16, DType::F16] {
        let var = Var::from_tensor(&Tensor::full(1f32, 100, &Device::Cpu).unwrap());
        let var = Var::from_tensor(&var.unwrap().to_dtype(dtype).unwrap()).unwrap();
        let vars = [var];
        let mut adamw = Optimizer::new(&vars, 1.);
        let grad = Tensor::full(1f32, 100, &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
        for _ in 0..1000 {
            adamw.step(backend, std::slice::from_ref(&grad), 1e-4);
        }
        assert_eq!(vars[0].dtype(), dtype);
        // Equal gradients make steps of exactly the learning rate: 1 − 1000 · 1e-4.
        for x in numbers(&vars[0]) {
            assert!((x - 0.9).abs() < 4e-3, "{dtype:?} {x}");
        }
    }
}

/// An f32 parameter that passes read rounded is the bf16 of its copy, in which small steps add up.
pub(crate) fn small_steps_are_not_lost_in_rounded_parameters(backend: Backend) {
    for (dtype, copies) in [(DType::F32, true), (DType::F64, false)] {
        let ones = Tensor::full(1f32, 70_000, &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
        let vars = [Var::from_tensor(&ones).unwrap()];
        let mut adamw = Optimizer::new(&vars, f64::INFINITY);
        adamw.moments = vec![Moments::rounding(&vars[0]).unwrap()];
        assert_eq!(adamw.moments[0].master.is_some(), copies);
        for _ in 0..100 {
            adamw.step(backend, std::slice::from_ref(&ones), 1e-4);
        }
        if let Some(master) = &adamw.moments[0].master {
            let rounded = master.to_dtype(DType::BF16).unwrap();
            assert_eq!(numbers(&vars[0]), numbers(&rounded));
            for x in numbers(master) {
                assert!((x - 0.99).abs() < 1e-5, "{x}");
            }
        }
    }
}

/// mean ← d · mean + (1 − d) · value, in place, as its definition says in f64.
pub(crate) fn a_running_mean_agrees_with_its_definition(backend: Backend) {
    let mut draw = Numbers::new(5);
    let (mean, value) = (draw.tensor(&[70_000]), draw.tensor(&[70_000]));
    let mut fast = mean.copy().unwrap();
    let wide = |x: &Tensor| x.to_dtype(DType::F64).unwrap();
    let mut slow = wide(&mean);
    for _ in 0..3 {
        moving_average(backend, &mut fast, &value, 0.9).unwrap();
        slow = lacuna_kernels::reference::moving_average(&slow, &wide(&value), 0.9).unwrap();
    }
    assert!(error(&fast, &slow) < 1e-6);
    let short = draw.tensor(&[3]);
    assert!(moving_average(backend, &mut fast, &short, 0.9).is_err());
}

pub(crate) fn thread_count_does_not_matter(backend: Backend) {
    same_for_any_thread_count("adamw", &|| {
        let vars = variables(DType::F32);
        let mut adamw = Optimizer::new(&vars, 1.);
        let grads = gradients(0, &vars, DType::F32);
        let norm = adamw.step(backend, &grads, 1e-2);
        assert_eq!(norm, global_norm(backend, &grads).unwrap());
        vars.iter().flat_map(|v| numbers(v)).chain([norm]).collect()
    });
}

/// One step in eight bits is a step from what the bytes stand for; its moments are then rounded to one of their two
/// neighbours, those of the definition by the same draws.
pub(crate) fn a_step_in_eight_bits_is_a_step_from_what_the_bytes_stand_for(backend: Backend) {
    let vars = variables(DType::F32);
    let words = |block: usize, words: &mut [u32; 256]| {
        let draw = |i: usize| ((block * 256 + i) as u32).wrapping_mul(0x9E37_79B9) ^ 0x5bd1_e995;
        words.iter_mut().enumerate().for_each(|(i, word)| *word = draw(i));
    };
    for var in &vars {
        let mut eight = Moments::eight_bit(var, false).unwrap();
        for step in 1..=6 {
            let gradient = &gradients(step, std::slice::from_ref(var), DType::F32)[0];
            let step = step as i32;
            let update = AdamWUpdate {
                beta1: 0.9,
                beta2: 0.95,
                eps: 1e-8,
                grad_scale: 0.5,
                step_size: 1e-2 / (1. - 0.9f64.powi(step)),
                root_scale: 1. / (1. - 0.95f64.powi(step)).sqrt(),
                shrink: 0.999,
            };
            let before = Var::from_tensor(&var.copy().unwrap()).unwrap();
            let mut whole = eight.from_eight_bit(var).unwrap();
            adamw(backend, &before, gradient, &mut whole, &update).unwrap();
            adamw_eight_bit(backend, var, gradient, &mut eight, &update, &words).unwrap();
            assert!(error(var, &before) < 1e-6);
            let rounded = eight.from_eight_bit(var).unwrap();
            let largest = numbers(&whole.first).into_iter().fold(0f64, |most, x| most.max(x.abs()));
            for (x, r) in numbers(&whole.first).into_iter().zip(numbers(&rounded.first)) {
                // Below the smallest float of a block, numbers are as far from each other as it is from 0.
                assert!((x - r).abs() <= x.abs() / 8. + largest * 2f64.powi(-14), "{x} {r}");
            }
            for (x, r) in numbers(&whole.second).into_iter().zip(numbers(&rounded.second)) {
                assert!(r > 0. && (x - r).abs() <= x / 8. + 1e-9, "{x} {r}");
            }
        }
    }
    let doubles = variables(DType::F64);
    assert!(Moments::eight_bit(&doubles[0], false).unwrap_err().to_string().contains("F64"));
}

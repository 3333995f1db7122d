use super::*;
use lacuna_kernels::{AdamW, AdamWConfig, Backend, Parameter, global_norm};

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

fn optimizer(vars: &[Var], config: AdamWConfig) -> AdamW {
    AdamW::new(vars.iter().cloned().map(Parameter::new).collect(), config).unwrap()
}

/// The update written out for one number, in f64, as PyTorch documents it.
pub(crate) fn ten_steps_follow_the_formula(backend: Backend) {
    for (clip_norm, tolerance) in [(None, 2e-6), (Some(1.), 2e-6)] {
        let config = AdamWConfig { clip_norm, ..AdamWConfig::default() };
        let vars = variables(DType::F32);
        let mut fast = optimizer(&vars, config);
        let mut plain = vars.iter().map(|v| numbers(v)).collect::<Vec<_>>();
        let mut m = plain.iter().map(|p| vec![0f64; p.len()]).collect::<Vec<_>>();
        let mut v = m.clone();
        for step in 1..=10 {
            let grads = gradients(step, &vars, DType::F32);
            let norm = fast.step_tensors(backend, &grads, 1e-2).unwrap();
            let values = grads.iter().map(numbers).collect::<Vec<_>>();
            let want = values.iter().flatten().map(|g| g * g).sum::<f64>().sqrt();
            assert!((norm / want - 1.).abs() < 1e-6, "{norm} {want}");
            let factor = clip_norm.map_or(1., |clip| (clip / (want + 1e-6)).min(1.));
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
            assert!(error(var, &want) < tolerance, "{clip_norm:?} {:?}", var.dims());
        }
    }
}

/// f64 parameters take the composed form, f32 the fused one.
pub(crate) fn fused_steps_agree_with_composed_ones(backend: Backend) {
    let (fast, plain) = (variables(DType::F32), variables(DType::F64));
    let config = AdamWConfig::default();
    let (mut a, mut b) = (optimizer(&fast, config), optimizer(&plain, config));
    for step in 0..5 {
        let norm = a.step_tensors(backend, &gradients(step, &fast, DType::F32), 1e-2).unwrap();
        let same = b.step_tensors(backend, &gradients(step, &plain, DType::F64), 1e-2).unwrap();
        assert!((norm / same - 1.).abs() < 1e-6);
    }
    for (a, b) in fast.iter().zip(&plain) {
        assert!(error(a, b) < 2e-6);
    }
}

/// Steps far below a bf16 unit add up in the f32 master instead of being lost.
pub(crate) fn small_steps_are_not_lost_in_half_precision(backend: Backend) {
    for dtype in [DType::BF16, DType::F16] {
        let var = Var::from_tensor(&Tensor::full(1f32, 100, &Device::Cpu).unwrap());
        let var = Var::from_tensor(&var.unwrap().to_dtype(dtype).unwrap()).unwrap();
        let mut adamw = optimizer(std::slice::from_ref(&var), AdamWConfig::default());
        let grad = Tensor::full(1f32, 100, &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
        for _ in 0..1000 {
            adamw.step_tensors(backend, std::slice::from_ref(&grad), 1e-4).unwrap();
        }
        assert_eq!(var.dtype(), dtype);
        // Equal gradients make steps of exactly the learning rate: 1 − 1000 · 1e-4.
        for x in numbers(&var) {
            assert!((x - 0.9).abs() < 4e-3, "{dtype:?} {x}");
        }
    }
}

pub(crate) fn a_restored_state_continues_bit_for_bit(backend: Backend) {
    for dtype in [DType::F32, DType::BF16, DType::F64] {
        let (whole, parted) = (variables(dtype), variables(dtype));
        let config = AdamWConfig::default();
        let (mut a, mut b) = (optimizer(&whole, config), optimizer(&parted, config));
        for step in 0..3 {
            a.step_tensors(backend, &gradients(step, &whole, dtype), 1e-2).unwrap();
            b.step_tensors(backend, &gradients(step, &parted, dtype), 1e-2).unwrap();
        }
        let state = b.state().unwrap();
        let mut c = optimizer(&parted, config);
        c.restore(state).unwrap();
        for step in 3..6 {
            a.step_tensors(backend, &gradients(step, &whole, dtype), 1e-2).unwrap();
            c.step_tensors(backend, &gradients(step, &parted, dtype), 1e-2).unwrap();
        }
        assert_eq!(c.steps(), 6);
        for (a, c) in whole.iter().zip(&parted) {
            assert_eq!(numbers(a), numbers(c));
        }
    }
}

pub(crate) fn a_parameter_without_gradient_is_an_error(backend: Backend) {
    let vars = variables(DType::F32);
    let mut adamw = optimizer(&vars, AdamWConfig::default());
    let loss = vars[0].sqr().unwrap().sum_all().unwrap();
    let error = adamw.step(backend, &loss.backward().unwrap(), 1e-3).unwrap_err().to_string();
    assert!(error.contains("parameter 1 of shape [300] got no gradient"), "{error}");
    assert_eq!(adamw.steps(), 0);
}

pub(crate) fn thread_count_does_not_matter(backend: Backend) {
    same_for_any_thread_count("adamw", &|| {
        let vars = variables(DType::F32);
        let mut adamw = optimizer(&vars, AdamWConfig::default());
        let grads = gradients(0, &vars, DType::F32);
        let norm = adamw.step_tensors(backend, &grads, 1e-2).unwrap();
        assert_eq!(norm, global_norm(backend, &grads).unwrap());
        vars.iter().flat_map(|v| numbers(v)).chain([norm]).collect()
    });
}

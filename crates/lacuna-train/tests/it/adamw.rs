//! Tests the optimizer as an object: its state, and what it refuses. The update itself is an operation of
//! lacuna-kernels, tested there.

use candle_core::{DType, Device, Tensor, Var};
use lacuna_kernels::Backend;
use lacuna_train::{AdamW, AdamWConfig, Parameter};

fn tensor(shape: &[usize], salt: u64) -> Tensor {
    let n = shape.iter().product::<usize>() as u64;
    let value = |i: u64| {
        let x = (i + (salt << 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        ((x ^ (x >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    Tensor::from_vec((0..n).map(value).collect::<Vec<_>>(), shape, &Device::Cpu).unwrap()
}

fn tensors(dtype: DType, salt: u64) -> Vec<Tensor> {
    let shapes: [&[usize]; 4] = [&[300, 300], &[300], &[7, 5], &[1]];
    shapes.iter().map(|shape| tensor(shape, salt).to_dtype(dtype).unwrap()).collect()
}

fn variables(dtype: DType) -> Vec<Var> {
    tensors(dtype, 71).iter().map(|x| Var::from_tensor(x).unwrap()).collect()
}

fn optimizer(vars: &[Var]) -> AdamW {
    optimizer_with(vars, None)
}

fn optimizer_with(vars: &[Var], eight_bit: Option<u64>) -> AdamW {
    let parameters = vars.iter().cloned().map(Parameter::new).collect();
    AdamW::new(parameters, AdamWConfig { eight_bit, ..AdamWConfig::default() }).unwrap()
}

fn numbers(t: &Tensor) -> Vec<f64> {
    t.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1().unwrap()
}

#[test]
fn a_restored_state_continues_bit_for_bit() {
    for backend in Backend::here() {
        let whole = [DType::F32, DType::BF16, DType::F64].map(|dtype| (dtype, None));
        let eight_bit = [DType::F32, DType::BF16].map(|dtype| (dtype, Some(7)));
        for (dtype, seed) in whole.into_iter().chain(eight_bit) {
            let optimizer = |vars: &[Var]| optimizer_with(vars, seed);
            let (whole, parted) = (variables(dtype), variables(dtype));
            let (mut a, mut b) = (optimizer(&whole), optimizer(&parted));
            for step in 0..3 {
                a.step_tensors(backend, &tensors(dtype, step), 1e-2).unwrap();
                b.step_tensors(backend, &tensors(dtype, step), 1e-2).unwrap();
            }
            let state = b.state().unwrap();
            // A saved state is a copy: going on does not change it.
            b.step_tensors(backend, &tensors(dtype, 9), 0.).unwrap();
            let mut c = optimizer(&parted);
            c.restore(state).unwrap();
            for step in 3..6 {
                a.step_tensors(backend, &tensors(dtype, step), 1e-2).unwrap();
                c.step_tensors(backend, &tensors(dtype, step), 1e-2).unwrap();
            }
            assert_eq!(c.steps(), 6);
            for (a, c) in whole.iter().zip(&parted) {
                assert_eq!(numbers(a), numbers(c), "{backend:?} {dtype:?} {seed:?}");
            }
        }
    }
}

#[test]
fn a_parameter_without_gradient_is_an_error() {
    let vars = variables(DType::F32);
    let mut adamw = optimizer(&vars);
    let loss = vars[0].sqr().unwrap().sum_all().unwrap();
    let gradients = loss.backward().unwrap();
    let error = adamw.step(Backend::cpu(), &gradients, 1e-3).unwrap_err().to_string();
    assert!(error.contains("parameter 1 of shape [300] got no gradient"), "{error}");
    assert_eq!(adamw.steps(), 0);
}

#[test]
fn moments_in_eight_bits_are_a_quarter_of_the_others_and_are_not_taken_for_them() {
    let (whole, vars) = (variables(DType::F32), variables(DType::F32));
    let (mut exact, mut rounded) = (optimizer(&whole), optimizer_with(&vars, Some(1)));
    for step in 0..20 {
        exact.step_tensors(Backend::cpu(), &tensors(DType::F32, step), 1e-2).unwrap();
        rounded.step_tensors(Backend::cpu(), &tensors(DType::F32, step), 1e-2).unwrap();
    }
    let bytes = |state: &lacuna_train::AdamWState| -> usize {
        let all = state.moments.iter().flat_map(|(first, second)| [first, second]);
        all.map(|moment| moment.elem_count() * moment.dtype().size_in_bytes()).sum()
    };
    let (exact_state, state) = (exact.state().unwrap(), rounded.state().unwrap());
    assert!(bytes(&state) * 100 < bytes(&exact_state) * 26, "{}", bytes(&state));
    // A rounding moves a number by an eighth of it at most, and so does all of them together to a parameter's way.
    let start = variables(DType::F32);
    let distance = |a: &[Var], b: &[Var]| {
        let pairs = a.iter().zip(b).flat_map(|(a, b)| numbers(a).into_iter().zip(numbers(b)));
        pairs.map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt()
    };
    let (apart, way) = (distance(&whole, &vars), distance(&whole, &start));
    assert!(apart > 0.0 && apart < way / 8.0, "{apart} of {way}");
    assert!(rounded.restore(exact_state).unwrap_err().to_string().contains("moments 0"));
    assert!(exact.restore(state).unwrap_err().to_string().contains("moments 0"));
}

//! Holds the cases, for any implementation. Tensors of f32 on the CPU take the fused kernels and those of f64 the
//! reference, so one function run in both types is a comparison of the two.

#![allow(dead_code, reason = "each test binary uses its share of the cases")]
#![allow(clippy::unwrap_used, reason = "called by tests alone")]

use candle_core::{DType, Device, Result, Tensor, Var};

pub(crate) mod attention;
pub(crate) mod gradients;
pub(crate) mod optimizer;
pub(crate) mod parts;

/// A small random generator; candle's can't be seeded on the CPU.
pub(crate) struct Numbers(u64);

impl Numbers {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// Draws numbers that are uniform in ±√3: mean 0, variance 1.
    pub(crate) fn tensor(&mut self, shape: &[usize]) -> Tensor {
        let n = shape.iter().product();
        let draw = |_| ((self.next() >> 40) as f32 / (1u32 << 23) as f32 - 1.) * 1.732;
        Tensor::from_vec((0..n).map(draw).collect::<Vec<f32>>(), shape, &Device::Cpu).unwrap()
    }
}

/// Value and gradients of one operation.
pub(crate) struct Run {
    pub(crate) value: Tensor,
    pub(crate) gradients: Vec<Tensor>,
}

/// Runs `f` in `dtype` and differentiates Σ f · r for a fixed random r.
pub(crate) fn run(
    inputs: &[Tensor],
    dtype: DType,
    f: &dyn Fn(&[Tensor]) -> Result<Tensor>,
) -> Result<Run> {
    let vars =
        inputs.iter().map(|x| Var::from_tensor(&x.to_dtype(dtype)?)).collect::<Result<Vec<_>>>()?;
    let tensors = vars.iter().map(|v| v.as_tensor().clone()).collect::<Vec<_>>();
    let value = f(&tensors)?;
    let direction = Numbers::new(99).tensor(value.dims()).to_dtype(dtype)?;
    let gradients = value.mul(&direction)?.sum_all()?.backward()?;
    let found = vars
        .iter()
        .enumerate()
        .map(|(i, v)| gradients.get(v).cloned().unwrap_or_else(|| panic!("input {i}: no gradient")))
        .collect();
    Ok(Run { value, gradients: found })
}

pub(crate) fn numbers(t: &Tensor) -> Vec<f64> {
    t.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1().unwrap()
}

/// Largest difference, relative to the largest magnitude expected.
pub(crate) fn error(got: &Tensor, want: &Tensor) -> f64 {
    assert_eq!(got.dims(), want.dims());
    let (got, want) = (numbers(got), numbers(want));
    assert!(got.iter().all(|x| x.is_finite()), "not finite");
    let scale = want.iter().fold(1e-30f64, |m, x| m.max(x.abs()));
    got.iter().zip(&want).fold(0f64, |m, (x, y)| m.max((x - y).abs())) / scale
}

/// The largest error of f32 against f64, for the value and every gradient. It is a few times what rounding of f32
/// operands alone costs (measured: below 1e-6 in every case), far below any wrong term.
pub(crate) const TOLERANCE: f64 = 4e-6;

pub(crate) fn agrees_with_f64(
    name: &str,
    inputs: &[Tensor],
    f: &dyn Fn(&[Tensor]) -> Result<Tensor>,
) -> Result<()> {
    let fast = run(inputs, DType::F32, f)?;
    let want = run(inputs, DType::F64, f)?;
    let e = error(&fast.value, &want.value);
    assert!(e < TOLERANCE, "{name}: value off by {e:e}");
    for (i, (got, want)) in fast.gradients.iter().zip(&want.gradients).enumerate() {
        assert!(numbers(want).iter().any(|x| *x != 0.), "{name}: gradient {i} is all zero");
        let e = error(got, want);
        assert!(e < TOLERANCE, "{name}: gradient {i} off by {e:e}");
    }
    Ok(())
}

/// Compares the gradients in f64 with central differences at a few coordinates of every input.
pub(crate) fn gradients_are_slopes(
    name: &str,
    inputs: &[Tensor],
    f: &dyn Fn(&[Tensor]) -> Result<Tensor>,
) -> Result<()> {
    const STEP: f64 = 1e-5;
    let exact = run(inputs, DType::F64, f)?;
    let direction = numbers(&Numbers::new(99).tensor(exact.value.dims()));
    let wide = inputs.iter().map(|x| x.to_dtype(DType::F64)).collect::<Result<Vec<_>>>()?;
    let mut draw = Numbers::new(5);
    for (i, input) in wide.iter().enumerate() {
        let values = numbers(input);
        for _ in 0..6 {
            let at = draw.below(values.len());
            let objective = |delta: f64| -> Result<f64> {
                let mut moved = values.clone();
                moved[at] += delta;
                let mut inputs = wide.clone();
                inputs[i] = Tensor::from_vec(moved, input.shape(), &Device::Cpu)?;
                let value = numbers(&f(&inputs)?);
                Ok(value.iter().zip(&direction).map(|(x, y)| x * y).sum())
            };
            let slope = (objective(STEP)? - objective(-STEP)?) / (2. * STEP);
            let got = numbers(&exact.gradients[i])[at];
            // Third derivatives of order one: error STEP², plus rounding 1e-16 / STEP.
            assert!(
                (slope - got).abs() < 1e-7 * (1. + got.abs()),
                "{name}: {i}[{at}] {got} {slope}"
            );
        }
    }
    Ok(())
}

/// Runs `f` in pools of one and of two threads; every number must be the same, bit for bit.
pub(crate) fn same_for_any_thread_count(name: &str, f: &(dyn Fn() -> Vec<f64> + Sync)) {
    let with = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(f)
    };
    let (one, two, three) = (with(1), with(2), with(3));
    assert!(!one.is_empty() && one == two && one == three, "{name} depends on the thread count");
}

//! Computes the head and its loss on CPU tensors of f32, some hundred rows at a time.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use candle_core::{CpuStorage, CustomOp2, Device, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::{CrossEntropy, CrossEntropyGradients};
use crate::backend::Isa;
use crate::gemm::{Matrix, product, product_added, product_again};
use crate::raw::{Scratch, elements, filled_at_once, slice, write_rows};
use crate::simd::{exp, max_body, simd};

pub(super) fn linear_cross_entropy(
    isa: Isa,
    hidden: &Tensor,
    head: &Tensor,
    targets: &[u32],
    weights: &[f32],
) -> Result<CrossEntropy> {
    let (hidden, head) = (hidden.contiguous()?, head.contiguous()?);
    let nll = Arc::new(OnceLock::new());
    let op = HeadLoss {
        isa,
        targets: targets.to_vec(),
        weights: weights.to_vec(),
        wanted: [hidden.track_op(), head.track_op()],
        nll: nll.clone(),
        gradients: OnceLock::new(),
    };
    let loss = hidden.apply_op2(&head, op)?;
    let nll = nll.get().cloned().unwrap_or_default();
    Ok(CrossEntropy { loss, nll })
}

pub(super) fn linear_cross_entropy_gradients(
    isa: Isa,
    hidden: &Tensor,
    head: &Tensor,
    targets: &[u32],
    weights: &[f32],
) -> Result<CrossEntropyGradients> {
    let ((n, h), v) = (hidden.dims2()?, head.dim(0)?);
    let device = hidden.device();
    let (hidden, head) = (hidden.contiguous()?, head.contiguous()?);
    let [hidden, head] = elements([&hidden, &head])?;
    let (hidden, head) = (Matrix::new(&hidden, n, h), Matrix::new(&head, v, h));
    let sweep = Sweep { isa, hidden, head, targets, weights };
    let (nll, [d_hidden, d_head]) = sweep.with_gradients([true, true]);
    let tensor = |values: Option<Vec<f32>>, rows| {
        Tensor::from_vec(values.unwrap_or_default(), (rows, h), device)
    };
    let (loss, hidden, head) = (sum(&nll, weights), tensor(d_hidden, n)?, tensor(d_head, v)?);
    Ok(CrossEntropyGradients { loss, nll, hidden, head })
}

pub(super) fn token_nll(
    isa: Isa,
    hidden: &Tensor,
    head: &Tensor,
    targets: &[u32],
) -> Result<Vec<f32>> {
    let ((n, h), v) = (hidden.dims2()?, head.dim(0)?);
    let (hidden, head) = (hidden.contiguous()?, head.contiguous()?);
    let [hidden, head] = elements([&hidden, &head])?;
    let (hidden, head) = (Matrix::new(&hidden, n, h), Matrix::new(&head, v, h));
    let weights = vec![1.; n];
    Ok(Sweep { isa, hidden, head, targets, weights: &weights }.with_gradients([false, false]).0)
}

fn sum(nll: &[f32], weights: &[f32]) -> f64 {
    nll.iter().zip(weights).map(|(ce, w)| f64::from(*ce) * f64::from(*w)).sum()
}

struct HeadLoss {
    isa: Isa,
    targets: Vec<u32>,
    weights: Vec<f32>,
    /// For hidden and head each, true if its gradient is wanted.
    wanted: [bool; 2],
    nll: Arc<OnceLock<Vec<f32>>>,
    /// Gradients for an upstream gradient of 1, formed on the way forward.
    gradients: OnceLock<[Option<Tensor>; 2]>,
}

impl CustomOp2 for HeadLoss {
    fn name(&self) -> &'static str {
        "linear_cross_entropy"
    }

    fn cpu_fwd(
        &self,
        hidden: &CpuStorage,
        hidden_layout: &Layout,
        head: &CpuStorage,
        head_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (n, h) = hidden_layout.shape().dims2()?;
        let (v, _) = head_layout.shape().dims2()?;
        let hidden = Matrix::new(slice(hidden, hidden_layout)?, n, h);
        let head = Matrix::new(slice(head, head_layout)?, v, h);
        let (targets, weights) = (&*self.targets, &*self.weights);
        let sweep = Sweep { isa: self.isa, hidden, head, targets, weights };
        let (nll, [d_hidden, d_head]) = sweep.with_gradients(self.wanted);
        let loss = sum(&nll, &self.weights);
        let tensor = |values: Option<Vec<f32>>, rows: usize| {
            values.map(|values| Tensor::from_vec(values, (rows, h), &Device::Cpu)).transpose()
        };
        // Set once: an operation runs forward once.
        let _ = self.gradients.set([tensor(d_hidden, n)?, tensor(d_head, v)?]);
        let _ = self.nll.set(nll);
        Ok((CpuStorage::F32(vec![loss as f32]), Shape::from(())))
    }

    fn bwd(
        &self,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
        upstream: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let Some([d_hidden, d_head]) = self.gradients.get() else {
            bail!("cross-entropy: backward came before forward")
        };
        let upstream = f64::from(upstream.to_scalar::<f32>()?);
        let scaled = |t: &Option<Tensor>| match t {
            Some(t) if upstream != 1. => t.affine(upstream, 0.).map(Some),
            other => Ok(other.clone()),
        };
        Ok((scaled(d_hidden)?, scaled(d_head)?))
    }
}

/// Elements of logits that exist at one time: 8 MiB, within reach of the last-level cache.
const LOGITS: usize = 2 << 20;

/// The inputs of a sweep, which computes all logits once, chunk by chunk.
#[derive(Clone, Copy)]
struct Sweep<'a> {
    isa: Isa,
    hidden: Matrix<'a>,
    head: Matrix<'a>,
    targets: &'a [u32],
    weights: &'a [f32],
}

/// The memory that a sweep writes from chunk to chunk.
struct Work {
    logits: Scratch,
    nll: Vec<f32>,
    /// For hidden and head each, true if its gradient is wanted.
    wanted: [bool; 2],
    d_head: Option<Vec<f32>>,
}

impl Sweep<'_> {
    /// The cross-entropy of every row, and those gradients of hidden and head that are wanted.
    fn with_gradients(&self, wanted: [bool; 2]) -> (Vec<f32>, [Option<Vec<f32>>; 2]) {
        let (n, h, v) = (self.targets.len(), self.head.cols(), self.head.rows());
        // The shape alone decides the size of chunks, so that sums come out the same whatever the number of threads.
        let chunk = (LOGITS / v).clamp(32, 512).min(n);
        let logits = Scratch::new(chunk * v);
        let mut work = Work { logits, nll: vec![0.; n], wanted, d_head: None };
        let rows = |i: usize| i * chunk..((i + 1) * chunk).min(n);
        let d_hidden = if wanted[0] {
            Some(filled_at_once(n * h, |to| {
                write_rows(to, chunk * h, |i, to| {
                    let d_logits = self.visit(rows(i), &mut work);
                    product(d_logits, self.head, to)
                })
            }))
        } else {
            for i in 0..n.div_ceil(chunk) {
                self.visit(rows(i), &mut work);
            }
            None
        };
        (work.nll, [d_hidden, work.d_head])
    }

    /// Writes the cross-entropy of some rows. If a gradient is wanted, the rows' logits are overwritten by their
    /// gradient, which is returned, and the rows' share of the head's gradient is added up if that is wanted.
    fn visit<'w>(&self, rows: Range<usize>, work: &'w mut Work) -> Matrix<'w> {
        let Work { logits, nll, wanted, d_head } = work;
        let (h, v) = (self.head.cols(), self.head.rows());
        let logits = &mut logits[..rows.len() * v];
        let hidden = self.hidden.slice_rows(rows.clone());
        product_again(hidden, self.head.t(), logits);
        let (isa, differentiate) = (self.isa, wanted.contains(&true));
        let targets = self.targets[rows.clone()].par_iter().zip(&self.weights[rows.clone()]);
        let losses = nll[rows.clone()].par_iter_mut().zip(logits.par_chunks_exact_mut(v));
        losses.zip(targets).for_each(|((nll, logits), (target, weight))| {
            *nll = row_loss(isa, logits, *target as usize, *weight, differentiate);
        });
        let d_logits = Matrix::new(logits, rows.len(), v);
        match (wanted[1], d_head) {
            (false, _) => {}
            (true, Some(d_head)) => product_added(d_logits.t(), hidden, d_head),
            (true, none) => {
                *none = Some(filled_at_once(v * h, |to| product(d_logits.t(), hidden, to)));
            }
        }
        d_logits
    }
}

simd!(
    /// The cross-entropy of one row. If `differentiate`, its logits become weight · (softmax − one-hot).
    fn row_loss(logits: &mut [f32], target: usize, weight: f32, differentiate: bool) -> f32 =
        row_loss_body
);

#[inline(always)]
fn row_loss_body<const FMA: bool>(
    logits: &mut [f32],
    target: usize,
    weight: f32,
    differentiate: bool,
) -> f32 {
    let max = max_body(logits);
    let at_target = logits[target];
    let mut sum = 0f64;
    // Lanes are added up in f64 every 4096 elements: long vocabularies lose nothing.
    for block in logits.chunks_mut(4096) {
        let mut lanes = [0f32; 16];
        let (whole, rest) = block.as_chunks_mut::<16>();
        for x in whole {
            for lane in 0..16 {
                x[lane] = exp::<FMA>(x[lane] - max);
                lanes[lane] += x[lane];
            }
        }
        for x in rest {
            *x = exp::<FMA>(*x - max);
            lanes[0] += *x;
        }
        sum += lanes.iter().map(|x| f64::from(*x)).sum::<f64>();
    }
    if differentiate {
        let scale = (f64::from(weight) / sum) as f32;
        logits.iter_mut().for_each(|x| *x *= scale);
        logits[target] -= weight;
    }
    (sum.ln() + f64::from(max) - f64::from(at_target)) as f32
}

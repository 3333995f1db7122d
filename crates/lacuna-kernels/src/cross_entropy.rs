//! The language-model head and its loss in one operation.

use std::sync::{Arc, OnceLock};

use candle_core::{CpuStorage, CustomOp2, Device, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::backend::{Backend, Isa};
use crate::cpu::{Scratch, slice, with, written};
use crate::gemm::{Matrix, product};
use crate::reference;
use crate::simd::{exp, max_body, simd};

/// What [`linear_cross_entropy`] yields.
#[derive(Clone, Debug)]
pub struct CrossEntropy {
    /// Σ_i weights\[i\] · ce_i: a scalar, differentiable in hidden and head.
    pub loss: Tensor,
    /// ce_i of every row, unweighted; carries no gradient.
    pub nll: Vec<f32>,
}

/// Σ_i weights\[i\] · ce_i with ce_i = log Σ_j exp(z_ij) − z_i,target(i), z = hidden · headᵀ.
///
/// hidden: `[n, h]`, head: `[v, h]`. Give it supervised rows only: a row of weight 0 costs as much
/// as any other.
///
/// Rows are taken some hundred at a time, each with its whole vocabulary: their log Σ exp is then
/// exact before the gradient is formed, so one visit of the logits serves the loss and both
/// gradients, in three products instead of four, and only that chunk of logits ever exists.
///
/// # Errors
/// If shapes disagree or a target is not below v.
pub fn linear_cross_entropy(
    backend: Backend,
    hidden: &Tensor,
    head: &Tensor,
    targets: &[u32],
    weights: &[f32],
) -> Result<CrossEntropy> {
    reference::check_cross_entropy(hidden, head, targets, Some(weights))?;
    let Backend::Cpu(isa) = backend.serving_filled(&[hidden, head]) else {
        return reference::linear_cross_entropy(hidden, head, targets, weights);
    };
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

/// What [`linear_cross_entropy_gradients`] yields.
#[derive(Clone, Debug)]
pub struct CrossEntropyGradients {
    /// Σ_i weights\[i\] · ce_i.
    pub loss: f64,
    /// ce_i of every row, unweighted.
    pub nll: Vec<f32>,
    /// The loss's gradient in hidden, `[n, h]`.
    pub hidden: Tensor,
    /// The loss's gradient in head, `[v, h]`.
    pub head: Tensor,
}

/// [`linear_cross_entropy`] and its gradients at once. Records nothing.
///
/// # Errors
/// As [`linear_cross_entropy`].
pub fn linear_cross_entropy_gradients(
    backend: Backend,
    hidden: &Tensor,
    head: &Tensor,
    targets: &[u32],
    weights: &[f32],
) -> Result<CrossEntropyGradients> {
    let (n, h, v) = reference::check_cross_entropy(hidden, head, targets, Some(weights))?;
    let Backend::Cpu(isa) = backend.serving_filled(&[hidden, head]) else {
        return reference::linear_cross_entropy_gradients(hidden, head, targets, weights);
    };
    let (mut nll, mut d_head) = (Vec::new(), Vec::new());
    let d_hidden = with(&hidden.contiguous()?, |hidden| {
        with(&head.contiguous()?, |head| {
            let (hidden, head) = (Matrix::new(hidden, n, h), Matrix::new(head, v, h));
            let write_both = |d_hidden: &mut [f32]| {
                let write = |d_head: &mut [f32]| {
                    let gradients = [Some(d_hidden), Some(d_head)];
                    nll = sweep(isa, hidden, head, targets, weights, gradients);
                };
                // SAFETY: `sweep` assigns to all of both gradients before it adds to any.
                d_head = unsafe { written(v * h, write) };
            };
            // SAFETY: as above.
            Ok(unsafe { written(n * h, write_both) })
        })
    })?;
    let tensor = |values, rows| Tensor::from_vec(values, (rows, h), hidden.device());
    let (loss, hidden, head) = (sum(&nll, weights), tensor(d_hidden, n)?, tensor(d_head, v)?);
    Ok(CrossEntropyGradients { loss, nll, hidden, head })
}

fn sum(nll: &[f32], weights: &[f32]) -> f64 {
    nll.iter().zip(weights).map(|(ce, w)| f64::from(*ce) * f64::from(*w)).sum()
}

/// ce_i of every row, without gradients: what scoring needs.
///
/// # Errors
/// As [`linear_cross_entropy`].
pub fn token_nll(
    backend: Backend,
    hidden: &Tensor,
    head: &Tensor,
    targets: &[u32],
) -> Result<Vec<f32>> {
    let (n, h, v) = reference::check_cross_entropy(hidden, head, targets, None)?;
    let Backend::Cpu(isa) = backend.serving_filled(&[hidden, head]) else {
        return reference::token_nll(hidden, head, targets);
    };
    with(&hidden.contiguous()?, |hidden| {
        with(&head.contiguous()?, |head| {
            let (hidden, head) = (Matrix::new(hidden, n, h), Matrix::new(head, v, h));
            Ok(sweep(isa, hidden, head, targets, &vec![1.; n], [None, None]))
        })
    })
}

struct HeadLoss {
    isa: Isa,
    targets: Vec<u32>,
    weights: Vec<f32>,
    /// Whether hidden and head are trained.
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
        let mut gradients =
            [self.wanted[0].then(|| vec![0f32; n * h]), self.wanted[1].then(|| vec![0f32; v * h])];
        let outputs = gradients.each_mut().map(Option::as_deref_mut);
        let nll = sweep(self.isa, hidden, head, &self.targets, &self.weights, outputs);
        let loss = sum(&nll, &self.weights);
        let [d_hidden, d_head] = gradients;
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

/// ce of every row; writes the gradients that are asked for.
fn sweep(
    isa: Isa,
    hidden: Matrix<'_>,
    head: Matrix<'_>,
    targets: &[u32],
    weights: &[f32],
    [mut d_hidden, mut d_head]: [Option<&mut [f32]>; 2],
) -> Vec<f32> {
    let (n, h, v) = (targets.len(), head.cols(), head.rows());
    // By shape alone, so that sums come out the same whatever the number of threads.
    let chunk = (LOGITS / v).clamp(32, 512).min(n);
    let mut logits = Scratch::new(chunk * v);
    let mut nll = vec![0f32; n];
    let differentiate = d_hidden.is_some() || d_head.is_some();
    for first in (0..n).step_by(chunk) {
        let rows = first..(first + chunk).min(n);
        let logits = &mut logits[..rows.len() * v];
        let hidden = hidden.slice_rows(rows.clone());
        product(hidden, head.t(), logits, false);
        let targets = &targets[rows.clone()];
        let row_weights = targets.par_iter().zip(&weights[rows.clone()]);
        nll[rows.clone()]
            .par_iter_mut()
            .zip(logits.par_chunks_exact_mut(v))
            .zip(row_weights)
            .for_each(|((nll, logits), (target, weight))| {
                *nll = row_loss(isa, logits, *target as usize, *weight, differentiate);
            });
        let d_logits = Matrix::new(logits, rows.len(), v);
        if let Some(d_hidden) = &mut d_hidden {
            product(d_logits, head, &mut d_hidden[rows.start * h..rows.end * h], false);
        }
        if let Some(d_head) = &mut d_head {
            product(d_logits.t(), hidden, d_head, first > 0);
        }
    }
    nll
}

simd!(
    /// ce of one row; if asked, its logits become weight · (softmax − one-hot).
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

//! Shares the optimizer out: each rank sums the gradients of some of the parameters, updates those, and alone keeps
//! their moments (ZeRO-1, Rajbhandari et al. 2020, §5.1). All have all parameters after each step.

use bytemuck::{Pod, cast_slice, pod_collect_to_vec};
use candle_core::{DType, Tensor};
use lacuna_kernels::{Backend, eight_bit_len, sums_of_squares};
use std::ops::Range;

use super::tree::{self, Part};
use super::{Collective, elsewhere};
use crate::adamw::{AdamW, AdamWState};
use crate::ema::Ema;
use crate::error::Result;
use crate::objective::LossAndGradients;

/// The ranks of a run, and the parameters that each updates: ranges that lie behind each other, in the order of the
/// ranks.
#[derive(Debug)]
pub(crate) struct Ranks<'a> {
    collective: &'a Collective,
    shards: Vec<Range<usize>>,
}

/// Cuts parameters of these sizes into as many parts as there are ranks, as equal as whole parameters can be.
pub(crate) fn shards(sizes: &[usize], ranks: usize) -> Vec<Range<usize>> {
    let total: usize = sizes.iter().sum();
    let (mut ranges, mut start, mut before) = (Vec::with_capacity(ranks), 0, 0);
    for rank in 1..=ranks {
        let mut end = start;
        // A parameter goes to the rank in whose part its middle lies.
        while end < sizes.len()
            && (rank == ranks || (2 * before + sizes[end]) * ranks < 2 * total * rank)
        {
            before += sizes[end];
            end += 1;
        }
        ranges.push(start..end);
        start = end;
    }
    ranges
}

impl<'a> Ranks<'a> {
    /// The ranks that share out parameters of these sizes.
    pub(crate) fn of(collective: &'a Collective, sizes: &[usize]) -> Self {
        Self { collective, shards: shards(sizes, collective.size()) }
    }

    /// The parameters of this rank.
    pub(crate) fn own(&self) -> Range<usize> {
        self.shards[self.collective.rank()].clone()
    }

    fn are_one(&self) -> bool {
        self.collective.size() == 1
    }

    /// The sum over all micro-batches of all ranks, with the gradients of this rank's parameters; `None` if no token
    /// of any is supervised. `parts` are this rank's nodes of the [tree] over `leaves` micro-batches.
    pub(crate) fn sum(
        &self,
        leaves: usize,
        parts: Vec<Part<LossAndGradients>>,
        parameters: &[&Tensor],
    ) -> Result<Option<LossAndGradients>> {
        if self.are_one() {
            return tree::joined(leaves, parts, &LossAndGradients::add);
        }
        let message = |own: &Range<usize>| encoded(&parts, own);
        let messages = self.shards.iter().map(message).collect::<Result<_>>()?;
        drop(parts);
        let messages = self.collective.exchange("gradients", messages)?;
        let own = &parameters[self.own()];
        let mut all = Vec::new();
        for (rank, message) in messages.iter().enumerate() {
            all.extend(decoded(message, own)?.ok_or_else(|| elsewhere(rank))?);
        }
        tree::joined(leaves, all, &LossAndGradients::add)
    }

    /// Σ g² of every parameter, in their order, from this rank's part of the gradient. It has the same bits for any
    /// number of ranks.
    pub(crate) fn sums_of_squares(
        &self,
        backend: Backend,
        gradients: &[Tensor],
    ) -> Result<Vec<f64>> {
        let squares = sums_of_squares(backend, gradients)?;
        if self.are_one() {
            return Ok(squares);
        }
        let bits: Vec<u64> = squares.into_iter().map(f64::to_bits).collect();
        let all = self.collective.gathered("norm", &bits)?.concat();
        Ok(all.into_iter().map(f64::from_bits).collect())
    }

    /// Gives every rank the parameters that each has updated.
    pub(crate) fn spread(&self, optimizer: &AdamW) -> Result<()> {
        if self.are_one() {
            return Ok(());
        }
        let parameters: Vec<_> = optimizer.parameters().map(|parameter| &parameter.var).collect();
        let mut own = Vec::new();
        for var in &parameters[self.own()] {
            write(&mut own, var)?;
        }
        let messages = self.collective.exchange("parameters", vec![own; self.collective.size()])?;
        for (rank, message) in messages.iter().enumerate() {
            if rank == self.collective.rank() {
                continue;
            }
            let mut rest = message.as_slice();
            for var in &parameters[self.shards[rank].clone()] {
                var.set(&read(&mut rest, var, var.dtype())?.ok_or_else(|| elsewhere(rank))?)?;
            }
        }
        Ok(())
    }

    /// The state of the optimizer for all parameters, and the running means of all, for the first rank, which writes
    /// them; `None` for the others. It shares memory with the optimizer's own.
    pub(crate) fn gathered(
        &self,
        optimizer: &AdamW,
        ema: Option<&Ema>,
    ) -> Result<Option<Gathered>> {
        let state = optimizer.shared_state();
        let means = ema.map(|ema| ema.means().to_vec());
        if self.are_one() {
            return Ok(Some(Gathered { state, means }));
        }
        let mut messages = vec![Vec::new(); self.collective.size()];
        if !self.collective.is_first() {
            for (i, ((first, second), master)) in
                state.moments.iter().zip(&state.masters).enumerate()
            {
                let mean = means.as_ref().map(|means| &means[i]);
                let all = [Some(first), Some(second), master.as_ref(), mean];
                all.into_iter().flatten().try_for_each(|one| write(&mut messages[0], one))?;
            }
        }
        let messages = self.collective.exchange("optimizer", messages)?;
        if !self.collective.is_first() {
            return Ok(None);
        }
        let mut whole = Gathered { state, means };
        let parameters: Vec<_> = optimizer.parameters().collect();
        for (rank, message) in messages.iter().enumerate().skip(1) {
            let mut rest = message.as_slice();
            for parameter in &parameters[self.shards[rank].clone()] {
                let var = &parameter.var;
                let dtype = summed_in(var);
                let kept = match optimizer.config().eight_bit {
                    Some(_) => DType::U8,
                    None => dtype,
                };
                let mut take = |dtype| read(&mut rest, var, dtype)?.ok_or_else(|| elsewhere(rank));
                whole.state.moments.push((take(kept)?, take(kept)?));
                let master = parameter.has_master().then(|| take(dtype)).transpose()?;
                whole.state.masters.push(master);
                if let Some(means) = &mut whole.means {
                    means.push(take(DType::F32)?);
                }
            }
        }
        Ok(Some(whole))
    }
}

/// All that a checkpoint keeps of the optimizer, of every rank.
#[derive(Clone, Debug)]
pub(crate) struct Gathered {
    pub(crate) state: AdamWState,
    /// The running means, if the run keeps them.
    pub(crate) means: Option<Vec<Tensor>>,
}

/// The type that gradients and moments of a parameter have.
fn summed_in(parameter: &Tensor) -> DType {
    if parameter.dtype() == DType::F64 { DType::F64 } else { DType::F32 }
}

/// The parts of a sum as bytes, with the gradients of some parameters.
fn encoded(parts: &[Part<LossAndGradients>], own: &Range<usize>) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let number = |bytes: &mut Vec<u8>, n: u64| bytes.extend(n.to_le_bytes());
    for (node, sum) in parts {
        number(&mut bytes, node.start as u64);
        number(&mut bytes, node.end as u64);
        number(&mut bytes, sum.as_ref().map_or(0, |sum| 1 + sum.nll.len() as u64));
        let Some(sum) = sum else { continue };
        number(&mut bytes, sum.loss.to_bits());
        bytes.extend_from_slice(cast_slice(&sum.nll));
        for gradient in &sum.gradients[own.clone()] {
            write(&mut bytes, gradient)?;
        }
    }
    Ok(bytes)
}

/// [`encoded`], read again; `None` if the bytes are something else.
fn decoded(mut bytes: &[u8], own: &[&Tensor]) -> Result<Option<Vec<Part<LossAndGradients>>>> {
    let mut parts = Vec::new();
    while !bytes.is_empty() {
        let mut number = || Some(u64::from_le_bytes(*bytes.split_off(..8)?.first_chunk()?));
        let (Some(start), Some(end), Some(present)) = (number(), number(), number()) else {
            return Ok(None);
        };
        let node = start as usize..end as usize;
        let Some(tokens) = present.checked_sub(1) else {
            parts.push((node, None));
            continue;
        };
        let Some(loss) = number().map(f64::from_bits) else { return Ok(None) };
        let Some(nll) = values(&mut bytes, tokens as usize) else { return Ok(None) };
        let mut gradients = Vec::with_capacity(own.len());
        for parameter in own {
            let Some(gradient) = read(&mut bytes, parameter, summed_in(parameter))? else {
                return Ok(None);
            };
            gradients.push(gradient);
        }
        parts.push((node, Some(LossAndGradients { loss, nll, gradients })));
    }
    Ok(Some(parts))
}

/// Appends a tensor's values: f64 and bytes as they are, all others as f32, which holds them exactly.
fn write(bytes: &mut Vec<u8>, tensor: &Tensor) -> Result<()> {
    let flat = tensor.flatten_all()?;
    match flat.dtype() {
        DType::F64 => bytes.extend_from_slice(cast_slice(&flat.to_vec1::<f64>()?)),
        DType::U8 => bytes.extend_from_slice(&flat.to_vec1::<u8>()?),
        _ => {
            let values = flat.to_dtype(DType::F32)?.to_vec1::<f32>()?;
            bytes.extend_from_slice(cast_slice(&values));
        }
    }
    Ok(())
}

/// Takes a tensor of the shape and on the device of `like`, or the bytes of one of its moments; `None` if there are too
/// few.
fn read(bytes: &mut &[u8], like: &Tensor, dtype: DType) -> Result<Option<Tensor>> {
    let (shape, device, count) = (like.shape(), like.device(), like.elem_count());
    let tensor = match dtype {
        DType::F64 => {
            values::<f64>(bytes, count).map(|values| Tensor::from_vec(values, shape, device))
        }
        DType::U8 => {
            let len = eight_bit_len(count);
            values::<u8>(bytes, len).map(|values| Tensor::from_vec(values, len, device))
        }
        _ => values::<f32>(bytes, count).map(|values| Tensor::from_vec(values, shape, device)),
    };
    Ok(tensor.transpose()?.map(|tensor| tensor.to_dtype(dtype)).transpose()?)
}

fn values<T: Pod>(bytes: &mut &[u8], count: usize) -> Option<Vec<T>> {
    Some(pod_collect_to_vec(bytes.split_off(..count.checked_mul(size_of::<T>())?)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn every_parameter_belongs_to_one_rank_and_parts_are_about_equal() {
        for (sizes, ranks) in [(vec![100, 10, 10, 10, 30], 2), (vec![5; 40], 7), (vec![9, 1], 4)] {
            let all: Vec<usize> = shards(&sizes, ranks).into_iter().flatten().collect();
            assert_eq!(all, (0..sizes.len()).collect::<Vec<_>>(), "{sizes:?} by {ranks}");
        }
        assert!(shards(&[5; 40], 4).into_iter().all(|part| part.len() == 10));
        assert_eq!(shards(&[], 2), [0..0, 0..0]);
    }

    #[test]
    fn a_sum_comes_through_bytes_as_it_was() {
        let tensor =
            |values: &[f32]| Tensor::from_slice(values, (values.len(),), &Device::Cpu).unwrap();
        let gradients =
            vec![tensor(&[1.0]), tensor(&[0.1, -0.0, f32::MIN_POSITIVE]), tensor(&[3.0])];
        let sum =
            LossAndGradients { loss: 0.1 + 0.2, nll: vec![1.5, 2.5], gradients: gradients.clone() };
        let parts = vec![(0..1, None), (1..3, Some(sum))];
        let bytes = encoded(&parts, &(1..2)).unwrap();
        let read = decoded(&bytes, &[&gradients[1]]).unwrap().unwrap();
        assert_eq!((&read[0].0, read[0].1.is_none()), (&(0..1), true));
        let (node, Some(sum)) = &read[1] else { panic!("a sum") };
        assert_eq!((node, sum.loss.to_bits()), (&(1..3), (0.1f64 + 0.2).to_bits()));
        assert_eq!(sum.nll, [1.5, 2.5]);
        let bits = |tensor: &Tensor| {
            let values = tensor.to_vec1::<f32>().unwrap();
            values.into_iter().map(f32::to_bits).collect::<Vec<_>>()
        };
        assert_eq!(bits(&sum.gradients[0]), bits(&gradients[1]));
        assert!(decoded(&bytes[..bytes.len() - 1], &[&gradients[1]]).unwrap().is_none());
        assert!(decoded(&bytes[..3], &[&gradients[1]]).unwrap().is_none());
    }
}

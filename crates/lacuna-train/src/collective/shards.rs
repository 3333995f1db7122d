//! Shares the optimizer out: each rank sums the gradients of some of the parameters, updates those, and alone keeps
//! their moments (ZeRO-1, Rajbhandari et al. 2020, §5.1). All have all parameters after each step.

use bytemuck::{Pod, cast_slice, pod_collect_to_vec};
use candle_core::{DType, Tensor};
use lacuna_kernels::{Backend, sum_of_squares};
use std::ops::Range;

use super::tree::{self, Part};
use super::{Collective, elsewhere};
use crate::adamw::{AdamW, AdamWState};
use crate::error::Result;

/// A sum over micro-batches: of the losses, and of the gradients of some parameters, in their order.
#[derive(Clone, Debug)]
pub(crate) struct Sum {
    pub(crate) loss: f64,
    pub(crate) nll: Vec<f32>,
    pub(crate) gradients: Vec<Tensor>,
}

impl Sum {
    /// The sum of two, the first one's tokens first.
    pub(crate) fn add(mut self, other: Self) -> Result<Self> {
        self.loss += other.loss;
        self.nll.extend(other.nll);
        for (sum, part) in self.gradients.iter_mut().zip(&other.gradients) {
            *sum = (&*sum + part)?;
        }
        Ok(self)
    }
}

/// The parameters of each rank: ranges that lie behind each other, in the order of the ranks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shards(Vec<Range<usize>>);

impl Shards {
    /// Cuts parameters of these sizes into as many parts as there are ranks, as equal as whole parameters can be.
    pub(crate) fn of(sizes: &[usize], ranks: usize) -> Self {
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
        Self(ranges)
    }

    /// The parameters of one rank.
    pub(crate) fn range(&self, rank: usize) -> Range<usize> {
        self.0[rank].clone()
    }

    /// The sum over all micro-batches of all ranks, with the gradients of this rank's parameters; `None` if no token
    /// of any is supervised. `parts` are this rank's nodes of the [tree] over `leaves` micro-batches.
    pub(crate) fn sum(
        &self,
        collective: &Collective,
        leaves: usize,
        parts: Vec<Part<Sum>>,
        parameters: &[&Tensor],
    ) -> Result<Option<Sum>> {
        if collective.size() == 1 {
            return tree::joined(leaves, parts, &Sum::add);
        }
        let message = |own: &Range<usize>| encoded(&parts, own);
        let messages = self.0.iter().map(message).collect::<Result<_>>()?;
        drop(parts);
        let messages = collective.exchange("gradients", messages)?;
        let own = &parameters[self.range(collective.rank())];
        let mut all = Vec::new();
        for (rank, message) in messages.iter().enumerate() {
            all.extend(decoded(message, own)?.ok_or_else(|| elsewhere(rank))?);
        }
        tree::joined(leaves, all, &Sum::add)
    }

    /// The norm of the whole gradient, from this rank's part of it. It has the same bits for any number of ranks:
    /// squares are summed for each parameter, and then in the order of the parameters.
    pub(crate) fn norm(
        &self,
        collective: &Collective,
        backend: Backend,
        gradients: &[Tensor],
    ) -> Result<f64> {
        let squares = gradients.iter().map(|gradient| sum_of_squares(backend, gradient));
        let bits = squares.map(|square| Ok(square?.to_bits())).collect::<Result<Vec<u64>>>()?;
        let all = collective.gathered("norm", &bits)?.concat();
        Ok(all.into_iter().map(f64::from_bits).fold(0., |sum, square| sum + square).sqrt())
    }

    /// Gives every rank the parameters that each has updated.
    pub(crate) fn spread(&self, collective: &Collective, optimizer: &AdamW) -> Result<()> {
        if collective.size() == 1 {
            return Ok(());
        }
        let parameters: Vec<_> = optimizer.parameters().map(|parameter| &parameter.var).collect();
        let mut own = Vec::new();
        for var in &parameters[self.range(collective.rank())] {
            write(&mut own, var)?;
        }
        let messages = collective.exchange("parameters", vec![own; collective.size()])?;
        for (rank, message) in messages.iter().enumerate() {
            if rank == collective.rank() {
                continue;
            }
            let mut rest = message.as_slice();
            for var in &parameters[self.range(rank)] {
                var.set(&read(&mut rest, var, var.dtype())?.ok_or_else(|| elsewhere(rank))?)?;
            }
        }
        Ok(())
    }

    /// The optimizer's whole state for the first rank, which writes it; `None` for the others.
    pub(crate) fn whole_state(
        &self,
        collective: &Collective,
        optimizer: &AdamW,
    ) -> Result<Option<AdamWState>> {
        let state = optimizer.state()?;
        if collective.size() == 1 {
            return Ok(Some(state));
        }
        let mut messages = vec![Vec::new(); collective.size()];
        if !collective.is_first() {
            for ((first, second), master) in state.moments.iter().zip(&state.masters) {
                write(&mut messages[0], first)?;
                write(&mut messages[0], second)?;
                master.iter().try_for_each(|master| write(&mut messages[0], master))?;
            }
        }
        let messages = collective.exchange("optimizer", messages)?;
        if !collective.is_first() {
            return Ok(None);
        }
        let mut whole = state;
        let parameters: Vec<_> = optimizer.parameters().map(|parameter| &parameter.var).collect();
        for (rank, message) in messages.iter().enumerate().skip(1) {
            let mut rest = message.as_slice();
            for var in &parameters[self.range(rank)] {
                let dtype = if var.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
                let mut take = || read(&mut rest, var, dtype)?.ok_or_else(|| elsewhere(rank));
                whole.moments.push((take()?, take()?));
                let is_half = matches!(var.dtype(), DType::BF16 | DType::F16);
                whole.masters.push(is_half.then(take).transpose()?);
            }
        }
        Ok(Some(whole))
    }
}

/// The parts of a sum as bytes, with the gradients of some parameters.
fn encoded(parts: &[Part<Sum>], own: &Range<usize>) -> Result<Vec<u8>> {
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
fn decoded(mut bytes: &[u8], own: &[&Tensor]) -> Result<Option<Vec<Part<Sum>>>> {
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
            let dtype = if parameter.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
            let Some(gradient) = read(&mut bytes, parameter, dtype)? else { return Ok(None) };
            gradients.push(gradient);
        }
        parts.push((node, Some(Sum { loss, nll, gradients })));
    }
    Ok(Some(parts))
}

/// Appends a tensor's values: f64 as they are, all others as f32, which holds them exactly.
fn write(bytes: &mut Vec<u8>, tensor: &Tensor) -> Result<()> {
    let flat = tensor.flatten_all()?;
    match flat.dtype() {
        DType::F64 => bytes.extend_from_slice(cast_slice(&flat.to_vec1::<f64>()?)),
        _ => {
            let values = flat.to_dtype(DType::F32)?.to_vec1::<f32>()?;
            bytes.extend_from_slice(cast_slice(&values));
        }
    }
    Ok(())
}

/// Takes a tensor of the shape and on the device of `like`; `None` if the bytes are too few.
fn read(bytes: &mut &[u8], like: &Tensor, dtype: DType) -> Result<Option<Tensor>> {
    let (shape, device, count) = (like.shape(), like.device(), like.elem_count());
    let tensor = match dtype {
        DType::F64 => {
            values::<f64>(bytes, count).map(|values| Tensor::from_vec(values, shape, device))
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
            let shards = Shards::of(&sizes, ranks);
            let all: Vec<usize> = (0..ranks).flat_map(|rank| shards.range(rank)).collect();
            assert_eq!(all, (0..sizes.len()).collect::<Vec<_>>(), "{sizes:?} by {ranks}");
        }
        let parts = Shards::of(&[5; 40], 4);
        assert!((0..4).all(|rank| parts.range(rank).len() == 10));
        assert_eq!(Shards::of(&[], 2).range(1), 0..0);
    }

    #[test]
    fn a_sum_comes_through_bytes_as_it_was() {
        let tensor =
            |values: &[f32]| Tensor::from_slice(values, (values.len(),), &Device::Cpu).unwrap();
        let gradients =
            vec![tensor(&[1.0]), tensor(&[0.1, -0.0, f32::MIN_POSITIVE]), tensor(&[3.0])];
        let sum = Sum { loss: 0.1 + 0.2, nll: vec![1.5, 2.5], gradients: gradients.clone() };
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

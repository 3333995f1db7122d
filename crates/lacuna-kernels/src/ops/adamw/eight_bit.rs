//! Keeps the moments of AdamW in a byte a number, so that training takes a quarter of the memory for them.
//!
//! Numbers share a factor in blocks of 256 (Dettmers et al. 2022, arXiv 2110.02861, §2.1): the power of two that the
//! block's largest number lies at or below. Divided by it, every number is a small float with three bits of mantissa:
//! the first moment has a sign, 15 exponents and a zero, the second 32 exponents and no zero, since it is divided by.
//!
//! A number is rounded by chance, upwards as often as it lies near the upper of its two neighbours, so that rounding
//! adds noise and no bias. Rounded to the nearest, a running mean could stop: with β₂ = .95 a second moment falls by a
//! twentieth in a step without gradient, and half the distance to the next lower byte is up to an eighteenth. Two
//! exceptions: second moments below 2⁻³² of the factor are raised to about that, and a block of numbers below 2⁻⁹⁰
//! becomes zeros. All numbers must be finite, which a trainer makes sure of before it updates anything.
//!
//! A power of two divides exactly, so numbers that were rounded before stay as they are, whatever the draws.

use candle_core::{CpuStorage, DType, Result, Tensor, Var, bail};
use rayon::prelude::*;

use super::cpu::{CHUNK, Scalars, step_body, with_master};
use super::{AdamWUpdate, Moments, reference};
use crate::backend::{Backend, Isa, Serving};
use crate::raw::{elements, lend, lend_storage};
use crate::simd::simd;

/// Numbers that share a factor.
pub const EIGHT_BIT_BLOCK: usize = 256;

/// Bytes of a factor, which stand in front of its block's.
const FACTOR: usize = 4;

/// Draws behind the roundings of a block, by the block's number: of each word one half rounds the first moment, the
/// other the second.
pub type RoundingWords<'a> = &'a (dyn Fn(usize, &mut [u32; EIGHT_BIT_BLOCK]) + Sync);

/// Bytes that one of the moments of so many numbers takes.
pub fn eight_bit_len(numbers: usize) -> usize {
    numbers.saturating_add(FACTOR * numbers.div_ceil(EIGHT_BIT_BLOCK))
}

impl Moments {
    /// The moments before the first step as bytes, and the f32 copy of a parameter that `rounds` or is of half
    /// precision.
    ///
    /// # Errors
    /// If the parameter is of another type, or is not in the processor's memory.
    pub fn eight_bit(parameter: &Tensor, rounds: bool) -> Result<Self> {
        if !matches!(parameter.dtype(), DType::F32 | DType::BF16 | DType::F16) {
            bail!(
                "adamw: 8-bit moments of {:?}, expected a float of 32 bits or fewer",
                parameter.dtype()
            )
        }
        if !parameter.device().is_cpu() {
            bail!("adamw: 8-bit moments are for the CPU")
        }
        let bytes = eight_bit_len(parameter.elem_count());
        let zeros = || Tensor::zeros(bytes, DType::U8, parameter.device());
        let copied = rounds || parameter.dtype() != DType::F32;
        let master = copied.then(|| parameter.detach().to_dtype(DType::F32)?.copy()).transpose()?;
        Ok(Self { first: zeros()?, second: zeros()?, master })
    }

    /// Both moments of such bytes as f32, in the shape of their parameter.
    ///
    /// # Errors
    /// If they are not the bytes of so many numbers.
    pub fn from_eight_bit(&self, parameter: &Tensor) -> Result<Self> {
        let all = |bytes: &Tensor, value: fn(u8) -> f32| -> Result<Tensor> {
            if bytes.dims() != [eight_bit_len(parameter.elem_count())] {
                bail!("adamw: 8-bit moments of shape {:?} for {:?}", bytes.dims(), parameter.dims())
            }
            let bytes = bytes.to_vec1::<u8>()?;
            let blocks = bytes.chunks(FACTOR + EIGHT_BIT_BLOCK);
            let values = blocks.flat_map(|block| {
                let factor = factor_of(block);
                block[FACTOR..].iter().map(move |byte| value(*byte) * factor)
            });
            Tensor::from_vec(values.collect::<Vec<_>>(), parameter.shape(), parameter.device())
        };
        let (first, second) = (all(&self.first, first_value)?, all(&self.second, second_value)?);
        Ok(Self { first, second, master: self.master.clone() })
    }
}

/// [`adamw`](super::adamw) on moments that are kept in eight bits, with the draws that they are rounded by.
///
/// # Errors
/// If shapes or types disagree.
pub fn adamw_eight_bit(
    backend: Backend,
    parameter: &Var,
    gradient: &Tensor,
    moments: &mut Moments,
    update: &AdamWUpdate,
    words: RoundingWords<'_>,
) -> Result<()> {
    let bytes = eight_bit_len(parameter.elem_count());
    for (what, dims) in [("first", moments.first.dims()), ("second", moments.second.dims())] {
        if dims != [bytes] {
            bail!("adamw: the {what} moment has {dims:?} bytes, expected {bytes}")
        }
    }
    let stepped = moments.master.as_ref().unwrap_or(parameter);
    for (what, x) in [("gradient", gradient), ("master", stepped)] {
        if x.dims() != parameter.dims() {
            bail!("adamw: a {what} is {:?}, expected {:?}", x.dims(), parameter.dims())
        }
    }
    let in_place = parameter.is_contiguous() && stepped.is_contiguous();
    match backend.serving(&[stepped]) {
        Serving::Cpu(isa) if in_place => fused(isa, parameter, gradient, moments, update, words),
        _ => {
            let mut whole = moments.from_eight_bit(parameter)?;
            reference::adamw(parameter, gradient, &mut whole, update)?;
            let [first, second] = [&whole.first, &whole.second].map(Tensor::flatten_all);
            let (first, second) = (first?.to_vec1::<f32>()?, second?.to_vec1::<f32>()?);
            let pairs = first.chunks(EIGHT_BIT_BLOCK).zip(second.chunks(EIGHT_BIT_BLOCK));
            let (mut firsts, mut seconds) = (vec![0; bytes], vec![0; bytes]);
            let blocks = firsts.chunks_mut(FACTOR + EIGHT_BIT_BLOCK);
            let blocks = blocks.zip(seconds.chunks_mut(FACTOR + EIGHT_BIT_BLOCK)).zip(pairs);
            let mut drawn = [0; EIGHT_BIT_BLOCK];
            for (number, ((firsts, seconds), (first, second))) in blocks.enumerate() {
                words(number, &mut drawn);
                encode(first, second, firsts, seconds, &drawn);
            }
            let master = whole.master;
            let device = parameter.device();
            let [first, second] = [firsts, seconds].map(|all| Tensor::from_vec(all, bytes, device));
            *moments = Moments { first: first?, second: second?, master };
            Ok(())
        }
    }
}

fn fused(
    isa: Isa,
    parameter: &Var,
    gradient: &Tensor,
    moments: &Moments,
    update: &AdamWUpdate,
    words: RoundingWords<'_>,
) -> Result<()> {
    /// Bytes of the blocks of a chunk.
    const BYTES: usize = CHUNK / EIGHT_BIT_BLOCK * (FACTOR + EIGHT_BIT_BLOCK);
    let gradient = gradient.to_dtype(DType::F32)?.contiguous()?;
    let [gradient] = elements([&gradient])?;
    let update = Scalars::from(*update);
    let Moments { first, second, master } = moments;
    with_master(parameter, master.as_ref(), |p| {
        lend_bytes(first, |first| {
            lend_bytes(second, |second| {
                lend(p, |p| {
                    let moments = first.par_chunks_mut(BYTES).zip(second.par_chunks_mut(BYTES));
                    let values = p.par_chunks_mut(CHUNK).zip(gradient.par_chunks(CHUNK));
                    values.zip(moments).enumerate().for_each(|(i, ((p, g), (first, second)))| {
                        let begin = i * (CHUNK / EIGHT_BIT_BLOCK);
                        step_chunk(isa, p, g, [first, second], update, begin, words);
                    });
                    Ok(())
                })
            })
        })
    })
}

fn step_chunk(
    isa: Isa,
    p: &mut [f32],
    g: &[f32],
    [first, second]: [&mut [u8]; 2],
    update: Scalars,
    begin: usize,
    words: RoundingWords<'_>,
) {
    let moments =
        first.chunks_mut(FACTOR + EIGHT_BIT_BLOCK).zip(second.chunks_mut(FACTOR + EIGHT_BIT_BLOCK));
    let values = p.chunks_mut(EIGHT_BIT_BLOCK).zip(g.chunks(EIGHT_BIT_BLOCK));
    let mut drawn = [0; EIGHT_BIT_BLOCK];
    for (block, ((p, g), (first, second))) in values.zip(moments).enumerate() {
        words(begin + block, &mut drawn);
        step_block(isa, p, g, first, second, &drawn, update);
    }
}

fn lend_bytes(tensor: &Tensor, f: impl FnOnce(&mut [u8]) -> Result<()>) -> Result<()> {
    lend_storage(tensor, |storage, own| match storage {
        CpuStorage::U8(bytes) => f(&mut bytes[own]),
        _ => bail!("adamw: 8-bit moments are not bytes on the CPU"),
    })
}

simd!(fn step_block(
    p: &mut [f32], g: &[f32], first: &mut [u8], second: &mut [u8], drawn: &[u32; EIGHT_BIT_BLOCK], update: Scalars
) = step_block_body);

#[inline(always)]
fn step_block_body<const FMA: bool>(
    p: &mut [f32],
    g: &[f32],
    first: &mut [u8],
    second: &mut [u8],
    drawn: &[u32; EIGHT_BIT_BLOCK],
    update: Scalars,
) {
    let (mut m, mut v) = ([0.; EIGHT_BIT_BLOCK], [0.; EIGHT_BIT_BLOCK]);
    let (m, v) = (&mut m[..p.len()], &mut v[..p.len()]);
    decode(first, m, first_value);
    decode(second, v, second_value);
    step_body::<FMA>(p, g, m, v, update);
    encode(m, v, first, second, drawn);
}

#[inline(always)]
fn decode(block: &[u8], to: &mut [f32], value: impl Fn(u8) -> f32) {
    let factor = factor_of(block);
    for (to, byte) in to.iter_mut().zip(&block[FACTOR..]) {
        *to = value(*byte) * factor;
    }
}

#[inline(always)]
fn encode(
    m: &[f32],
    v: &[f32],
    first: &mut [u8],
    second: &mut [u8],
    drawn: &[u32; EIGHT_BIT_BLOCK],
) {
    let largest = |values: &[f32]| values.iter().fold(0f32, |most, x| most.max(x.abs()));
    let factor = factor_above(largest(m));
    let inverse = if factor > 0. { 1. / factor } else { 0. };
    first[..FACTOR].copy_from_slice(&factor.to_le_bytes());
    for ((byte, x), word) in first[FACTOR..].iter_mut().zip(m).zip(drawn) {
        *byte = first_byte(x * inverse, word & 0xFFFF);
    }
    let factor = factor_above(largest(v));
    let inverse = if factor > 0. { 1. / factor } else { 0. };
    second[..FACTOR].copy_from_slice(&factor.to_le_bytes());
    for ((byte, x), word) in second[FACTOR..].iter_mut().zip(v).zip(drawn) {
        *byte = second_byte(x * inverse, word >> 16);
    }
}

/// The factor in front of a block.
#[inline(always)]
fn factor_of(block: &[u8]) -> f32 {
    f32::from_le_bytes([block[0], block[1], block[2], block[3]])
}

/// The power of two that a block's largest number lies at or below. It is 0 where all are so small that they change
/// nothing: no product with a factor is below the normal numbers, then.
#[inline(always)]
fn factor_above(largest: f32) -> f32 {
    const LEAST: f32 = f32::from_bits((127 - 90) << 23); // 2⁻⁹⁰
    const MOST: f32 = f32::from_bits((127 + 126) << 23); // 2¹²⁶, whose inverse is a normal number
    if largest < LEAST {
        return 0.;
    }
    let above = f32::from_bits((largest.min(MOST).to_bits() + 0x7F_FFFF) & 0xFF80_0000);
    above.min(MOST)
}

/// Bits of an f32's mantissa that a byte lacks.
const CUT: u32 = 20;
/// The number 1 in steps of the floats that have three bits of mantissa.
const ONE: u32 = 1f32.to_bits() >> CUT;
/// The steps below the first moment's byte 0, and below the second's.
const FIRST: u32 = ONE - 127;
const SECOND: u32 = ONE - 255;
/// The first moment's smallest number, beside 0.
const SMALLEST: f32 = f32::from_bits((FIRST + 1) << CUT);

#[inline(always)]
fn first_value(byte: u8) -> f32 {
    let byte = u32::from(byte);
    let magnitude = if byte & 0x7F == 0 { 0 } else { (FIRST + (byte & 0x7F)) << CUT };
    f32::from_bits(magnitude | (byte & 0x80) << 24)
}

#[inline(always)]
fn second_value(byte: u8) -> f32 {
    f32::from_bits((SECOND + u32::from(byte)) << CUT)
}

/// A byte whose mean over all `draw`s, of 16 bits each, is the number: |x| ≤ 1.
#[inline(always)]
fn first_byte(x: f32, draw: u32) -> u8 {
    let magnitude = x.abs();
    // Between 0 and the smallest number floats are as far from each other as those two.
    let lowest = u32::from(magnitude > (draw as f32 + 0.5) * (SMALLEST / 65536.));
    let rounded = (up_by(magnitude, draw).max(FIRST) - FIRST).min(127);
    let magnitude = if magnitude < SMALLEST { lowest } else { rounded };
    (x.to_bits() >> 24 & 0x80 | magnitude) as u8
}

/// A byte whose mean over all `draw`s is the number, 0 ≤ x ≤ 1, unless that lies below the smallest.
#[inline(always)]
fn second_byte(x: f32, draw: u32) -> u8 {
    (up_by(x, draw).max(SECOND) - SECOND).min(255) as u8
}

/// A number in steps, rounded up if the draw is larger than its distance to the upper neighbour.
#[inline(always)]
fn up_by(x: f32, draw: u32) -> u32 {
    // The draw's 16 bits are the upper ones of those that are cut; half of the last stands for the others.
    (x.to_bits() + (draw << (CUT - 16) | 1 << (CUT - 17))) >> CUT
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The mean of a number's bytes over all draws.
    fn mean(x: f32, byte: fn(f32, u32) -> u8, value: fn(u8) -> f32) -> f64 {
        (0..1 << 16).map(|draw| f64::from(value(byte(x, draw)))).sum::<f64>() / 65536.
    }

    #[test]
    fn rounding_has_the_number_as_its_mean() {
        let mut x = 1f32;
        while x > 1e-9 {
            let first = mean(x, first_byte, first_value);
            // A draw of the 65536 more or less: by so much of the distance of the two neighbours.
            let neighbours = if x < SMALLEST { SMALLEST } else { x / 8. };
            let apart = f64::from(neighbours) / 65536.;
            assert!((first - f64::from(x)).abs() <= apart, "{x}: {first}");
            assert!((mean(-x, first_byte, first_value) + first).abs() < 1e-12, "-{x}");
            if x >= second_value(0) {
                let second = mean(x, second_byte, second_value);
                assert!(
                    (second - f64::from(x)).abs() <= f64::from(x) / 8. / 65536.,
                    "{x}: {second}"
                );
            }
            x *= 0.917;
        }
        assert_eq!(
            second_value(second_byte(0., 65535)),
            second_value(0),
            "never 0: it is divided by"
        );
    }

    #[test]
    fn what_a_byte_stands_for_is_rounded_to_that_byte() {
        for byte in 0..=255 {
            for draw in [0, 1, 32768, 65535] {
                let zero = byte == 0x80; // −0
                assert!(zero || first_byte(first_value(byte), draw) == byte, "{byte}");
                assert_eq!(second_byte(second_value(byte), draw), byte);
            }
        }
        assert_eq!((first_value(127), first_value(255), second_value(255)), (1., -1., 1.));
        assert_eq!((first_value(0), first_value(1)), (0., SMALLEST));
    }

    #[test]
    fn a_block_that_was_rounded_stays_as_it_is() {
        let numbers: Vec<f32> = (0..200).map(|i| ((i as f32) * 0.7).sin() * 3e-5).collect();
        let squares: Vec<f32> = numbers.iter().map(|x| x * x).collect();
        let len = FACTOR + numbers.len();
        let encoded = |m: &[f32], v: &[f32], word: u32| {
            let (mut first, mut second) = (vec![0; len], vec![0; len]);
            encode(m, v, &mut first, &mut second, &[word; EIGHT_BIT_BLOCK]);
            (first, second)
        };
        let decoded = |(first, second): &(Vec<u8>, Vec<u8>)| {
            let (mut m, mut v) = (vec![0.; 200], vec![0.; 200]);
            decode(first, &mut m, first_value);
            decode(second, &mut v, second_value);
            (m, v)
        };
        let once = encoded(&numbers, &squares, 0x9ABC_1234);
        let (m, v) = decoded(&once);
        let again = encoded(&m, &v, 0xFFFF_FFFF);
        assert_eq!(decoded(&again), (m.clone(), v.clone()));
        for (x, rounded) in numbers.iter().zip(&m).chain(squares.iter().zip(&v)) {
            assert!((x - rounded).abs() <= x.abs() / 8. + 1e-9, "{x}: {rounded}");
        }
        assert_eq!(decoded(&encoded(&[0.; 200], &[0.; 200], 7)), (vec![0.; 200], vec![0.; 200]));
    }

    #[test]
    fn the_factor_is_the_power_of_two_at_or_above() {
        for (largest, factor) in [(1., 1.), (0.51, 1.), (1.01, 2.), (3e-5, 2f32.powi(-15))] {
            assert_eq!(factor_above(largest), factor);
        }
        assert_eq!((factor_above(0.), factor_above(1e-30)), (0., 0.));
        assert_eq!(factor_above(f32::MAX), 2f32.powi(126));
    }
}

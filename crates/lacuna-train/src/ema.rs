//! Keeps a running mean of the weights, which often scores better than the weights themselves.

use candle_core::{DType, Tensor};
use lacuna_kernels::{Backend, moving_average};
use lacuna_model::Transformer;

use crate::adamw::AdamW;
use crate::error::Result;

/// The exponential moving average of everything that is trained: e ← d · e + (1 − d) · p behind every update, e = p at
/// the start. It is kept in f32, of the f32 copies where passes read rounded weights.
#[derive(Debug)]
pub struct Ema {
    decay: f64,
    means: Vec<Tensor>,
}

impl Ema {
    /// The average before the first update: the parameters themselves.
    ///
    /// # Errors
    /// If a copy fails on the device.
    pub fn new(decay: f64, optimizer: &AdamW) -> Result<Self> {
        let copy = |value: &Tensor| value.to_dtype(DType::F32)?.force_contiguous()?.copy();
        let means = optimizer.values().map(copy).collect::<candle_core::Result<_>>()?;
        Ok(Self { decay, means })
    }

    /// Begins anew with the parameters as they are.
    ///
    /// # Errors
    /// If a copy fails on the device.
    pub(crate) fn begin(&mut self, optimizer: &AdamW) -> Result<()> {
        *self = Self::new(self.decay, optimizer)?;
        Ok(())
    }

    /// Takes in the parameters behind an update.
    ///
    /// # Errors
    /// If the optimizer is of another model.
    pub fn update(&mut self, backend: Backend, optimizer: &AdamW) -> Result<()> {
        for (mean, value) in self.means.iter_mut().zip(optimizer.values()) {
            moving_average(backend, mean, value, self.decay)?;
        }
        Ok(())
    }

    /// The means, in the order of the optimizer's parameters.
    pub fn means(&self) -> &[Tensor] {
        &self.means
    }

    /// Goes on from saved means.
    ///
    /// # Errors
    /// If the number or a shape differs from the parameters'.
    pub fn restore(&mut self, means: &[Tensor]) -> Result<()> {
        let same = means.len() == self.means.len()
            && means.iter().zip(&self.means).all(|(new, own)| new.dims() == own.dims());
        if !same {
            let reason = "the saved average is of other parameters";
            return Err(candle_core::Error::Msg(reason.into()).into());
        }
        let place = |(new, own): (&Tensor, &Tensor)| {
            new.to_dtype(DType::F32)?.to_device(own.device())?.force_contiguous()
        };
        self.means =
            means.iter().zip(&self.means).map(place).collect::<candle_core::Result<_>>()?;
        Ok(())
    }

    /// The model with the averages in place of its weights, if they are those of all parameters.
    ///
    /// # Errors
    /// If a copy fails on the device.
    pub fn model(&self, of: &Transformer) -> Result<Transformer> {
        Ok(of.with_trained(&self.means)?)
    }
}

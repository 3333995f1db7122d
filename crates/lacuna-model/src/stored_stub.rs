//! Temporary.
#![allow(missing_docs)]
use candle_core::{Result, Tensor};
#[derive(Debug)]
pub struct WeightMatrix(Tensor);
impl WeightMatrix {
    pub fn of(t: Tensor) -> Self {
        Self(t)
    }
    pub fn matmul(&self, x: &Tensor) -> Result<Tensor> {
        x.matmul(&self.0.t()?)
    }
    pub fn matmul_many(w: &[&Self], x: &Tensor) -> Result<Vec<Tensor>> {
        w.iter().map(|w| w.matmul(x)).collect()
    }
    pub fn rows_f32(&self, ids: &[u32]) -> Result<Tensor> {
        self.0.index_select(&Tensor::new(ids, self.0.device())?, 0)
    }
    pub fn to_tensor(&self) -> Result<Tensor> {
        Ok(self.0.clone())
    }
}

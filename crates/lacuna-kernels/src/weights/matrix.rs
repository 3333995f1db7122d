//! Keeps weight matrices as they are stored, and multiplies them with a few rows.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use candle_core::{DType, Device, Result, Storage, Tensor, bail};

use super::dtype::StorageDtype;
use super::matmul::{self, Stored};
use super::{int8, quant};
use crate::backend::{Backend, Isa};
use crate::reference;

/// A range of bytes that someone keeps alive: a mapped file, a buffer. Clones share it.
#[derive(Clone)]
pub struct Bytes {
    owner: Arc<dyn AsRef<[u8]> + Send + Sync>,
    range: Range<usize>,
}

impl Bytes {
    /// The bytes `range` of what `owner` holds. Nothing is copied; the owner lives as long as this.
    ///
    /// # Errors
    /// If the range is not within the owner's bytes.
    pub fn new(owner: Arc<dyn AsRef<[u8]> + Send + Sync>, range: Range<usize>) -> Result<Self> {
        let held = (*owner).as_ref().len();
        if range.start > range.end || range.end > held {
            bail!("bytes {}..{} lie outside the {held} bytes held", range.start, range.end);
        }
        Ok(Self { owner, range })
    }

    /// Gives the bytes as a slice.
    ///
    /// # Panics
    /// If the owner has shrunk since.
    pub fn as_slice(&self) -> &[u8] {
        &(*self.owner).as_ref()[self.range.clone()]
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        let range = 0..bytes.len();
        Self { owner: Arc::new(bytes), range }
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bytes({:?})", self.range)
    }
}

/// The precision of the activations that weights are multiplied with.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Activations {
    /// Activations stay as they are.
    #[default]
    F32,
    /// Rounded to eight bits in blocks of 32 along a row, where the weights are q4_0, q4_1, q8_0, q4_k or
    /// q6_k; in other formats as they are. Many rows take less than half the time.
    ///
    /// An activation is off by at most 1/254 of the largest magnitude a in its block, so a result by at most
    /// Σ |w|·a / 254, and by a few roundings of f32. Every row is rounded by itself: its result has the
    /// same bits alone and in a batch, with one thread and with many.
    Int8,
}

impl Activations {
    /// Every precision, the exact one first.
    pub const ALL: [Self; 2] = [Self::F32, Self::Int8];

    /// Its name in records and on command lines.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Int8 => "int8",
        }
    }

    /// The precision of a name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|activations| activations.name() == name)
    }

    /// The precision that weights in `dtype` are really multiplied in: formats without integer codes take f32 always.
    pub fn of(self, dtype: StorageDtype) -> Self {
        if int8::has_codes(dtype) { self } else { Self::F32 }
    }
}

/// A weight matrix `[rows, cols]` = [out, in], kept as it is stored: plain floats or GGML blocks.
///
/// Products are exact in the sense that matters for decoding: every weight is unpacked to f32,
/// multiplied with f32 activations and summed in f32, in an order that depends on the number of
/// columns alone. So a row's result has the same bits alone and in a batch, with one thread and
/// with many. (Rounding the activations to 8 bits, as llama.cpp always does, saves arithmetic where there
/// are many rows, and moves near-ties: only who asks for [`Activations::Int8`] gets it.)
///
/// Inference on the CPU only: no gradient flows through, and an `x` that wants one is refused.
///
/// # Example: four rows against an 8-bit matrix
/// ```
/// use candle_core::{Device, Tensor};
/// use lacuna_kernels::{Backend, StorageDtype, WeightMatrix};
///
/// let weights: Vec<f32> = (0..64 * 96).map(|i| (i % 7) as f32 - 3.0).collect();
/// let matrix = WeightMatrix::quantize(&weights, 64, 96, StorageDtype::Q8_0)?;
/// let y = matrix.matmul(Backend::cpu(), &Tensor::ones((4, 96), candle_core::DType::F32, &Device::Cpu)?)?;
/// assert_eq!(y.dims(), [4, 64]);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct WeightMatrix {
    dtype: StorageDtype,
    rows: usize,
    cols: usize,
    bytes: Bytes,
}

impl WeightMatrix {
    /// A matrix over bytes that are already in `dtype`'s layout, row after row, at any alignment.
    ///
    /// # Errors
    /// If a dimension is 0, a row is not a whole number of blocks, or the bytes are not exactly as
    /// many as the shape needs.
    pub fn new(dtype: StorageDtype, rows: usize, cols: usize, bytes: Bytes) -> Result<Self> {
        let expected = byte_len(dtype, rows, cols)?;
        let held = bytes.range.len();
        if held != expected {
            bail!("{dtype:?} weights [{rows}, {cols}] take {expected} bytes, not {held}");
        }
        Ok(Self { dtype, rows, cols, bytes })
    }

    /// Packs `values` (`[rows, cols]`, row after row) into `dtype`: any but Q2K, Q3K and Q5K.
    ///
    /// # Errors
    /// If the shape does not fit, a value is not finite or beyond what an f16 holds (±65504; F64,
    /// F32 and BF16 take any value), or the format is read only.
    pub fn quantize(values: &[f32], rows: usize, cols: usize, dtype: StorageDtype) -> Result<Self> {
        byte_len(dtype, rows, cols)?;
        if rows.checked_mul(cols) != Some(values.len()) {
            bail!("weights [{rows}, {cols}] do not hold {} values", values.len());
        }
        let unbounded = matches!(dtype, StorageDtype::F64 | StorageDtype::F32 | StorageDtype::BF16);
        let fits = |value: &f32| unbounded || value.abs() <= 65504.0;
        if let Some(at) = values.iter().position(|value| !fits(value)) {
            let value = values[at];
            bail!("weight {value} at [{}, {}] does not fit {dtype:?}", at / cols, at % cols);
        }
        match quant::quantize(dtype, values) {
            Some(bytes) => Self::new(dtype, rows, cols, bytes.into()),
            None => bail!("{dtype:?} is only read, not written; use Q4K or Q6K"),
        }
    }

    /// The storage format.
    pub fn dtype(&self) -> StorageDtype {
        self.dtype
    }

    /// The number of rows: outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The number of columns: inputs.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The stored bytes, for writing them to a file again.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.as_slice()
    }

    /// x · Wᵀ: x `[.., cols]`, f32 → `[.., rows]`, f32.
    ///
    /// # Errors
    /// If x is not f32 on the CPU, ends in another number of columns, or is tracked for gradients.
    pub fn matmul(&self, backend: Backend, x: &Tensor) -> Result<Tensor> {
        let mut outputs = Self::matmul_many(backend, &[self], x)?;
        Ok(outputs.pop().expect("one matrix, one product"))
    }

    /// x · Wᵀ for several matrices over one x in one parallel region: query, key and value, or
    /// gate and up. The same bits as one at a time.
    ///
    /// # Errors
    /// As [`Self::matmul`], for each matrix.
    pub fn matmul_many(backend: Backend, matrices: &[&Self], x: &Tensor) -> Result<Vec<Tensor>> {
        Self::matmul_many_with(backend, matrices, x, Activations::F32)
    }

    /// [`Self::matmul_many`] with activations in the given precision.
    ///
    /// # Errors
    /// As [`Self::matmul`], for each matrix.
    pub fn matmul_many_with(
        backend: Backend,
        matrices: &[&Self],
        x: &Tensor,
        activations: Activations,
    ) -> Result<Vec<Tensor>> {
        let Some(&cols) = x.dims().last() else { bail!("x is a scalar, expected [.., cols]") };
        if let Some(matrix) = matrices.iter().find(|matrix| matrix.cols != cols) {
            bail!("x {:?} against weights [{}, {}]", x.shape(), matrix.rows, matrix.cols);
        }
        if x.dtype() != DType::F32 || !x.device().is_cpu() {
            bail!("x is {:?} on {:?}, expected F32 on the cpu", x.dtype(), x.device().location());
        }
        if x.track_op() {
            bail!("no gradient flows through stored weights; detach x, or use `linear`");
        }
        let x = x.contiguous()?;
        if backend == Backend::Reference && x.elem_count() > 0 {
            let product = |matrix: &&Self| {
                let w = matrix.to_tensor(backend)?;
                match activations.of(matrix.dtype) {
                    Activations::F32 => reference::linear(&x, &w),
                    Activations::Int8 => reference::linear(&rounded(&x)?, &w),
                }
            };
            return matrices.iter().map(product).collect();
        }
        let outputs = {
            let (storage, layout) = x.storage_and_layout();
            let Storage::Cpu(storage) = &*storage else { bail!("x is not on the cpu") };
            let start = layout.start_offset();
            let values = &storage.as_slice::<f32>()?[start..start + x.elem_count()];
            match values.is_empty() {
                true => vec![Vec::new(); matrices.len()],
                false => products(loops(backend), matrices, values, activations),
            }
        };
        let mut shape = x.dims().to_vec();
        let last = shape.len() - 1;
        let tensors = matrices.iter().zip(outputs).map(|(matrix, output)| {
            shape[last] = matrix.rows;
            Tensor::from_vec(output, shape.as_slice(), &Device::Cpu)
        });
        tensors.collect()
    }

    /// Rows `ids` as f32 `[ids.len(), cols]`: the embedding look-up.
    ///
    /// # Errors
    /// If an id is not below the number of rows, or the result would not fit in memory's range.
    pub fn rows_f32(&self, backend: Backend, ids: &[u32]) -> Result<Tensor> {
        if let Some(at) = ids.iter().position(|&id| id as usize >= self.rows) {
            bail!("id {} at {at} is beyond the {} rows", ids[at], self.rows);
        }
        self.unpack(backend, ids.iter().map(|&id| id as usize), ids.len())
    }

    /// All weights as f32 `[rows, cols]`.
    ///
    /// # Errors
    /// If they would not fit in memory's range.
    pub fn to_tensor(&self, backend: Backend) -> Result<Tensor> {
        self.unpack(backend, 0..self.rows, self.rows)
    }

    fn unpack(
        &self,
        backend: Backend,
        ids: impl Iterator<Item = usize>,
        count: usize,
    ) -> Result<Tensor> {
        let values = count.checked_mul(self.cols).filter(|&n| n <= isize::MAX as usize / 4);
        let Some(values) = values else { bail!("{count} rows of {} weights overflow", self.cols) };
        let mut out = vec![0.0; values];
        matmul::unpack_rows(self.stored(), ids, &mut out, loops(backend));
        Tensor::from_vec(out, (count, self.cols), &Device::Cpu)
    }

    fn stored(&self) -> Stored<'_> {
        let Self { dtype, rows, cols, .. } = *self;
        Stored { dtype, rows, cols, bytes: self.as_bytes() }
    }
}

/// Products in the order of the matrices, which may be multiplied in either precision.
fn products(
    isa: Isa,
    matrices: &[&WeightMatrix],
    x: &[f32],
    activations: Activations,
) -> Vec<Vec<f32>> {
    let is_int8 = |matrix: &WeightMatrix| activations.of(matrix.dtype) == Activations::Int8;
    let cols = matrices.first().map_or(1, |matrix| matrix.cols);
    let of = |int8: bool| {
        let some = matrices.iter().filter(|matrix| is_int8(matrix) == int8);
        let stored: Vec<Stored<'_>> = some.map(|matrix| matrix.stored()).collect();
        let products = if int8 { int8::products } else { matmul::products };
        if stored.is_empty() { Vec::new() } else { products(&stored, x, cols, isa) }.into_iter()
    };
    let (mut exact, mut rounded) = (of(false), of(true));
    let next = |matrix: &&WeightMatrix| {
        let from = if is_int8(matrix) { &mut rounded } else { &mut exact };
        from.next().expect("a product for each matrix")
    };
    matrices.iter().map(next).collect()
}

/// The values that rounded activations stand for.
fn rounded(x: &Tensor) -> Result<Tensor> {
    let values = int8::rounded_values(&x.flatten_all()?.to_vec1()?);
    Tensor::from_vec(values, x.shape(), x.device())
}

/// The instructions that unpack and multiply: stored weights are on the CPU, whatever computes with them.
fn loops(backend: Backend) -> Isa {
    match backend {
        Backend::Cpu(isa) => isa.runnable(),
        _ => Isa::Portable,
    }
}

fn byte_len(dtype: StorageDtype, rows: usize, cols: usize) -> Result<usize> {
    if rows == 0 || cols == 0 {
        bail!("weights [{rows}, {cols}] are empty; both dimensions must be at least 1");
    }
    if !cols.is_multiple_of(dtype.block_len()) {
        let block_len = dtype.block_len();
        bail!("{dtype:?} rows of {cols} weights are not whole blocks of {block_len}");
    }
    match dtype.row_bytes(cols).and_then(|bytes| bytes.checked_mul(rows)) {
        Some(bytes) => Ok(bytes),
        None => bail!("{dtype:?} weights [{rows}, {cols}] overflow the address space"),
    }
}

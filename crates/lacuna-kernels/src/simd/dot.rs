//! Multiplies bytes, four to a lane, in vectors that have an instruction for it.

use super::vector::Vector;

/// A [`Vector`] that multiplies bytes.
///
/// Its loops are entered by [`run_bytes`](super::run_bytes) alone, which asks the processor for more than
/// [`run`](super::run) does.
pub(crate) trait Dot: Vector {
    /// Four unsigned bytes for each lane.
    type Bytes: Copy;

    /// The sum of no products: zero in every lane.
    fn none() -> Self::Bits;
    /// The four bytes of each lane as one word, the first one lowest.
    fn load_bytes(from: &[u32]) -> Self::Bytes;
    /// sum + Σ codes · x over a lane's four bytes, exactly; codes are below 128.
    fn dot(sum: Self::Bits, codes: Self::Bytes, x: [i8; 4]) -> Self::Bits;
    /// The same for codes up to 255.
    fn dot_wide(sum: Self::Bits, codes: Self::Bytes, x: [i8; 4]) -> Self::Bits;
}

/// A loop that [`run_bytes`](super::run_bytes) compiles for each instruction set.
pub(crate) trait ByteKernel {
    type Output;

    /// As [`Kernel::run`](super::Kernel::run).
    fn run<V: Dot>(self) -> Self::Output;
}

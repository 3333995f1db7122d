//! Defines the vector that every hand-written loop is generic over.
//!
//! A loop is written once, as a [`Kernel`] whose body is generic over [`Vector`] and marked
//! `#[inline(always)]`. [`run`](super::run) compiles it once for each instruction set, in that set's
//! one `#[target_feature]` entry point, and calls the widest that was asked for and runs here.
//!
//! **Why the methods are safe.** A vector's instructions must exist on the machine that runs them.
//! The types that implement [`Vector`] are private to `simd`, so the only way to one is the type
//! parameter of a kernel's body, which only an entry point fills in, after the features were detected.

/// Some lanes of f32, and integers of 32 bits beside them.
///
/// Slices may begin at any address; each must hold at least as many elements as a method reads or
/// writes, which is checked, and costs nothing where the compiler knows the length.
pub(crate) trait Vector: Copy {
    /// Floats in a vector: 8 or 16.
    const LANES: usize;
    /// The number of vectors that a loop may keep in registers.
    const REGISTERS: usize;
    /// True if packed weights are read so fast that few rows of x are multiplied with them as they lie, without
    /// unpacking them first.
    const READS_STORED: bool;
    /// True if a product and a sum are rounded once, as [`mul_add`](Self::mul_add) may do.
    const FUSED: bool;
    /// Is the vector of eight lanes on the same machine, for matrices that are no wider.
    type Eight: Vector;
    /// Holds `LANES` integers of 32 bits, the form in which packed weights are taken apart.
    type Bits: Copy;
    /// Holds the sixteen values q · scale + offset that a nibble q can stand for.
    type Nibbles: Copy;

    /// Gives every lane `value`.
    fn splat(value: f32) -> Self;
    /// Reads the first `LANES` floats.
    fn load(from: &[f32]) -> Self;
    /// Writes the first `LANES` floats.
    fn store(self, to: &mut [f32]);
    /// Computes self · by + plus, with one rounding wherever the machine can.
    fn mul_add(self, by: Self, plus: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    /// Sums the lanes of each vector, in an order that does not depend on its place among the four.
    fn sums(four: [Self; 4]) -> [f32; 4];

    /// Reads `LANES` f32 as files store them: little endian.
    fn load_f32(from: &[u8]) -> Self;
    /// Reads `LANES` IEEE halves as files store them.
    fn load_f16(from: &[u8]) -> Self;
    /// Reads `LANES` bf16 as files store them.
    #[inline(always)]
    fn load_bf16(from: &[u8]) -> Self {
        Self::from_bits(Self::shl(Self::load_u16(from), 16))
    }

    /// Reads `LANES` bytes, one to a lane.
    fn load_u8(from: &[u8]) -> Self::Bits;
    /// Reads `LANES` signed bytes, one to a lane.
    fn load_i8(from: &[u8]) -> Self::Bits;
    /// Reads `LANES` signed bytes as floats of the same value.
    #[inline(always)]
    fn from_i8(from: &[u8]) -> Self {
        Self::to_f32(Self::load_i8(from))
    }
    /// Reads `LANES` integers of two bytes as files store them.
    fn load_u16(from: &[u8]) -> Self::Bits;
    /// Puts bit `first` + i of the word into lane i; the lane's other bits are zero.
    fn bits_of(word: u32, first: usize) -> Self::Bits;
    fn and(bits: Self::Bits, mask: u32) -> Self::Bits;
    fn or(bits: Self::Bits, other: Self::Bits) -> Self::Bits;
    fn shl(bits: Self::Bits, by: usize) -> Self::Bits;
    /// Shifts each lane to the right; zeros come in from the left.
    fn shr(bits: Self::Bits, by: usize) -> Self::Bits;
    /// Turns signed integers into floats of the same value.
    fn to_f32(bits: Self::Bits) -> Self;
    /// Takes the lanes for the bits of floats.
    fn from_bits(bits: Self::Bits) -> Self;

    /// Makes the table of values q · scale + offset for q = 0 to 15. They are exact if product and sum are.
    fn nibbles(scale: f32, offset: f32) -> Self::Nibbles;
    /// Makes the table of values (q + first) · scale for q = 0 to 15. They are exact if those and first · scale are.
    #[inline(always)]
    fn nibbles_from(first: f32, scale: f32) -> Self::Nibbles {
        Self::nibbles(scale, first * scale)
    }
    /// Looks up the values of the low (0) or the high (1) nibbles of `LANES` bytes.
    fn look_up(bytes: &[u8], which: usize, values: Self::Nibbles) -> Self;

    /// Asks for the cache line at an address, which need not exist, into the first-level cache.
    fn prefetch(at: *const u8);
    /// The same into the second-level cache.
    fn prefetch_second(at: *const u8);
}

/// A loop that [`run`](super::run) compiles for each instruction set.
pub(crate) trait Kernel {
    type Output;

    /// Runs the loop. It must be `#[inline(always)]`, as must everything generic over V that it calls, so that it is
    /// compiled for the instruction set of its caller.
    fn run<V: Vector>(self) -> Self::Output;
}

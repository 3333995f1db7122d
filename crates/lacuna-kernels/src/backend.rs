//! Chooses who computes an operation: candle's own operations, which define it, or the processor's fused loops.
//!
//! Every operation takes a [`Backend`] as its first argument, and a caller who does not care passes [`Backend::of`]
//! its device. Nothing here is a setting of the process: two models in one program may run on different backends.

use candle_core::{DType, Device, Tensor};

/// A set of vector instructions that fused loops are compiled for, in order from narrow to wide.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Isa {
    /// Plain Rust: what the compiler makes of it for any processor of the architecture.
    Portable,
    /// NEON, on AArch64.
    Neon,
    /// AVX2, FMA and F16C, on x86-64.
    Avx2,
    /// AVX-512 F, DQ and VL beside AVX2, on x86-64.
    Avx512,
}

impl Isa {
    const ALL: [Self; 4] = [Self::Portable, Self::Neon, Self::Avx2, Self::Avx512];

    /// The widest set that this machine has.
    pub fn best() -> Self {
        Self::Avx512.runnable()
    }

    /// All sets that this machine has, for tests and comparisons.
    pub fn here() -> Vec<Self> {
        Self::ALL.into_iter().filter(|isa| isa.runs_here()).collect()
    }

    /// This set if the machine has it, else the widest narrower one that it has. Loops compiled for the result run
    /// here.
    pub(crate) fn runnable(self) -> Self {
        if self.runs_here() {
            return self;
        }
        let narrower = Self::ALL.into_iter().rev().filter(|isa| *isa < self);
        narrower.into_iter().find(|isa| isa.runs_here()).unwrap_or(Self::Portable)
    }

    #[cfg(target_arch = "x86_64")]
    fn runs_here(self) -> bool {
        let avx2 = || {
            std::is_x86_feature_detected!("avx2")
                && std::is_x86_feature_detected!("fma")
                && std::is_x86_feature_detected!("f16c")
        };
        match self {
            Self::Portable => true,
            Self::Neon => false,
            Self::Avx2 => avx2(),
            Self::Avx512 => {
                avx2()
                    && std::is_x86_feature_detected!("avx512f")
                    && std::is_x86_feature_detected!("avx512dq")
                    && std::is_x86_feature_detected!("avx512vl")
            }
        }
    }

    #[cfg(target_arch = "aarch64")]
    fn runs_here(self) -> bool {
        match self {
            Self::Portable => true,
            Self::Neon => std::arch::is_aarch64_feature_detected!("neon"),
            Self::Avx2 | Self::Avx512 => false,
        }
    }

    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    fn runs_here(self) -> bool {
        self == Self::Portable
    }
}

/// The implementation that computes an operation. Every operation takes it as its first argument.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use lacuna_kernels::{Backend, swiglu};
///
/// let (gate, up) = (Tensor::new(&[1f32, -2.], &Device::Cpu)?, Tensor::new(&[3f32, 4.], &Device::Cpu)?);
/// let fused = swiglu(Backend::of(&Device::Cpu), &gate, &up)?;
/// let defined = swiglu(Backend::Reference, &gate, &up)?;
/// assert!((fused - defined)?.abs()?.max(0)?.to_scalar::<f32>()? < 1e-6);
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Backend {
    /// The definitions in [`reference`](mod@crate::reference), from candle's own operations: any float dtype,
    /// any device.
    Reference,
    /// Fused loops for f32 tensors on the CPU, with instructions up to those named; products of f32 matrices are
    /// the gemm crate's, which takes the widest there are. Tensors of other dtypes or devices go to the reference.
    Cpu(Isa),
    /// Kernels for Apple's GPU, of the operations that have one; the others go to the reference, which is candle's
    /// own kernels there. With the feature `metal`.
    #[cfg(feature = "metal")]
    Metal,
}

/// Tells who really computes an operation, where a [`Backend`] has no kernel of its own for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Serving {
    Reference,
    /// Loops for this set of instructions, which the machine has.
    Cpu(Isa),
}

impl Backend {
    /// Fused loops with the widest instructions of this machine.
    pub fn cpu() -> Self {
        Self::Cpu(Isa::best())
    }

    /// The fastest backend for tensors on `device`: fused loops on the CPU, kernels on Apple's GPU, the reference
    /// elsewhere.
    pub fn of(device: &Device) -> Self {
        match device {
            Device::Cpu => Self::cpu(),
            #[cfg(feature = "metal")]
            Device::Metal(_) => Self::Metal,
            _ => Self::Reference,
        }
    }

    /// All backends that this machine has, for tests: the reference and every instruction set.
    pub fn here() -> Vec<Self> {
        let fused = Isa::here().into_iter().map(Self::Cpu);
        std::iter::once(Self::Reference).chain(fused).collect()
    }

    /// Tells who computes an operation on `tensors`: the fused loops take f32 tensors on the CPU, and the reference
    /// all others.
    pub(crate) fn serving(self, tensors: &[&Tensor]) -> Serving {
        match self {
            Self::Cpu(isa) if tensors.iter().all(|t| is_f32(t)) => Serving::Cpu(isa.runnable()),
            _ => Serving::Reference,
        }
    }

    /// [`Self::serving`] for operations whose fused loops take no empty tensors.
    pub(crate) fn serving_filled(self, tensors: &[&Tensor]) -> Serving {
        match tensors.iter().all(|t| t.elem_count() > 0) {
            true => self.serving(tensors),
            false => Serving::Reference,
        }
    }
}

fn is_f32(t: &Tensor) -> bool {
    t.dtype() == DType::F32 && t.device().is_cpu()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_runs_here_and_what_does_not_run_is_narrowed() {
        assert!(Isa::best().runs_here() && Isa::here().contains(&Isa::Portable));
        for isa in Isa::ALL {
            assert!(isa.runnable() <= isa && isa.runnable().runs_here(), "{isa:?}");
            assert_eq!(isa.runnable() == isa, Isa::here().contains(&isa), "{isa:?}");
        }
    }

    #[test]
    fn the_reference_serves_what_the_loops_do_not_take() {
        let f32s = Tensor::zeros(2, DType::F32, &Device::Cpu).unwrap();
        let (empty, f64s) = (f32s.narrow(0, 0, 0).unwrap(), f32s.to_dtype(DType::F64).unwrap());
        let cpu = Backend::cpu();
        assert_eq!(cpu.serving(&[&f32s, &empty]), Serving::Cpu(Isa::best()));
        assert_eq!(cpu.serving(&[&f32s, &f64s]), Serving::Reference);
        assert_eq!(cpu.serving_filled(&[&f32s, &empty]), Serving::Reference);
        assert_eq!(Backend::Reference.serving(&[&f32s]), Serving::Reference);
    }
}

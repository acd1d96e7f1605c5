//! The device as a handle: threads and an instruction set.

use crate::threads::Threads;
use crate::{CpuError, Isa, Prepared};

/// The CPU device.
///
/// A small handle: threads and an instruction set. It holds no memory between calls.
///
/// ```
/// use microseq_cpu::Cpu;
/// let cpu = Cpu::with_threads(1)?;
/// println!("{} threads, {}", cpu.threads(), cpu.isa());
/// # Ok::<(), microseq_cpu::CpuError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Cpu {
    pub(crate) threads: Threads,
    isa: Isa,
}

impl Default for Cpu {
    fn default() -> Self {
        Self::new()
    }
}

impl Cpu {
    /// The threads of the rayon pool that calls are made in (the global pool outside of any; without
    /// the feature `rayon`, the calling thread), and the best instruction set of this machine.
    pub fn new() -> Self {
        Self { threads: Threads::ambient(), isa: Isa::best() }
    }

    /// As [`new`](Cpu::new), with the instruction set that the environment variable `MICROSEQ_ISA`
    /// names (`amxbf16`, `avx512bf16`, `avx512`, `avx2`, `portable`), if it is set.
    ///
    /// # Errors
    /// [`CpuError::UnknownIsa`], [`CpuError::IsaUnavailable`].
    pub fn from_environment() -> Result<Self, CpuError> {
        Ok(Self { threads: Threads::ambient(), isa: Isa::from_environment()? })
    }

    /// `threads` threads of its own, up to 4,096, while the calling thread waits; with one, the calling thread works itself.
    ///
    /// # Errors
    /// [`CpuError::ZeroThreads`], [`CpuError::TooManyThreads`], [`CpuError::Threads`].
    pub fn with_threads(threads: usize) -> Result<Self, CpuError> {
        Ok(Self { threads: Threads::of(threads)?, isa: Isa::best() })
    }

    /// The same device on another instruction set.
    ///
    /// # Errors
    /// [`CpuError::IsaUnavailable`].
    pub fn with_isa(mut self, isa: Isa) -> Result<Self, CpuError> {
        self.isa = isa.checked()?;
        Ok(self)
    }

    /// How many threads a call made here and now would use.
    pub fn threads(&self) -> usize {
        self.threads.count()
    }

    /// The instruction set.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Whether this device's kernels fit what was prepared.
    pub(crate) fn check_prepared(&self, prepared: &Prepared) -> Result<(), CpuError> {
        if prepared.isa != self.isa {
            return Err(CpuError::PreparedForAnotherIsa { prepared: prepared.isa, device: self.isa });
        }
        Ok(())
    }
}

//! What can go wrong on the CPU device.

use crate::Isa;
use microseq_core::ShapeError;
use thiserror::Error;

/// Why the CPU device refuses.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CpuError {
    /// Operands do not fit the call.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// Metadata that was prepared for another instruction set: its tiles have another size.
    #[error("the call was prepared for {prepared}, this device runs {device}")]
    PreparedForAnotherIsa {
        /// The instruction set of the device that prepared.
        prepared: Isa,
        /// The instruction set of this device.
        device: Isa,
    },
    /// An instruction set that this machine lacks.
    #[error("this CPU or operating system has no {isa}")]
    IsaUnavailable {
        /// The instruction set asked for.
        isa: Isa,
    },
    /// A name that is no instruction set.
    #[error("{name:?} is no instruction set, expected one of amxbf16, avx512bf16, avx512, avx2, portable")]
    UnknownIsa {
        /// The name given.
        name: std::string::String,
    },
    /// A device of no threads.
    #[error("the number of threads is 0, expected at least 1")]
    ZeroThreads,
    /// More threads than any machine has processors.
    #[error("the number of threads is {threads}, expected {limit} at most")]
    TooManyThreads {
        /// Threads asked for.
        threads: usize,
        /// The most that can be asked for.
        limit: usize,
    },
    /// The threads could not be started, or the build has no threads.
    #[error("cannot start {threads} threads: {reason}")]
    Threads {
        /// Threads asked for.
        threads: usize,
        /// What stopped it.
        reason: std::string::String,
    },
}

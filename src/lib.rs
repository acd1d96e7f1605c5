#![cfg_attr(feature = "cpu", doc = include_str!("../README.md"))]
// The README's example runs on the CPU device.
#![cfg_attr(not(feature = "cpu"), doc = "Attention over packed documents: `microseq-core` under one name.")]
#![no_std]
#![forbid(unsafe_code)]

pub use microseq_core::*;

/// The CPU device: multithreaded, SIMD chosen at run time.
#[cfg(feature = "cpu")]
pub mod cpu {
    pub use microseq_cpu::*;
}

/// Transports between ranks on memory of the host: threads, and with the feature `mpi` processes.
#[cfg(feature = "ranks")]
pub mod ranks {
    pub use microseq_ranks::*;
}

/// The CUDA device: NVIDIA GPUs of compute capability 8.0 and up, on the caller's memory and stream.
#[cfg(feature = "cuda")]
pub mod cuda {
    pub use microseq_cuda::*;
}

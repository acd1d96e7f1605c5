//! The devices that examples can run on.

use clap::ValueEnum;
use microseq::cpu::{Cpu, CpuError, Isa};
use microseq::dev::HostHarness;

/// A device, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DeviceName {
    /// The multithreaded CPU device.
    Cpu,
}

/// The CPU device on so many threads, or on all; `MICROSEQ_ISA` may name the instruction set.
pub(crate) fn cpu(threads: Option<usize>) -> Result<HostHarness<Cpu>, CpuError> {
    let device = match threads {
        Some(threads) => Cpu::with_threads(threads)?.with_isa(Isa::from_environment()?)?,
        None => Cpu::from_environment()?,
    };
    Ok(HostHarness::new(device))
}

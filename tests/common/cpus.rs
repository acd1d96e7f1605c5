//! The CPU device in every form that this machine can run.

use microseq::cpu::{Cpu, Isa};
use microseq::dev::HostHarness;

/// Numbers of threads that results must not depend on; more than a small machine has cores.
pub(crate) const THREADS: [usize; 4] = [1, 2, 3, 5];

/// The instruction sets of this machine.
pub(crate) fn isas() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.available())
}

/// A device for an instruction set and a number of threads.
pub(crate) fn cpu(isa: Isa, threads: usize) -> Cpu {
    let cpu = Cpu::with_threads(threads).expect("threads can be started");
    cpu.with_isa(isa).expect("the instruction set is available")
}

/// Such a device as the drivers of [`microseq::dev::run`] take it.
pub(crate) fn harness(isa: Isa, threads: usize) -> HostHarness<Cpu> {
    HostHarness::new(cpu(isa, threads))
}

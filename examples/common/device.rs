//! The devices that examples and benches can run on, chosen at run time.

use anyhow::Result;
use clap::ValueEnum;
use microseq::cpu::{Cpu, CpuError, Isa};
use microseq::dev::{Harness, HostHarness};
use std::fmt;

/// A device, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DeviceName {
    /// The multithreaded CPU device.
    Cpu,
    /// The first NVIDIA GPU that `CUDA_VISIBLE_DEVICES` shows.
    #[cfg(feature = "cuda")]
    Cuda,
}

/// Work that any device can do.
pub(crate) trait Work {
    /// What comes of it.
    type Output;

    /// Does it on an open device.
    fn on<H: Harness>(self, harness: &H, about: &About) -> Result<Self::Output>;
}

/// What a program may want to say of an open device.
#[derive(Clone, Debug)]
pub(crate) struct About {
    /// Its name on the command line.
    pub(crate) device: &'static str,
    /// A CPU's threads.
    pub(crate) threads: Option<usize>,
    /// A CPU's instruction set.
    pub(crate) isa: Option<Isa>,
    /// A GPU's name.
    pub(crate) gpu: Option<String>,
}

impl fmt::Display for About {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.device)?;
        if let Some(threads) = self.threads {
            write!(f, ", {threads} threads")?;
        }
        if let Some(isa) = self.isa {
            write!(f, ", {isa}")?;
        }
        self.gpu.iter().try_for_each(|gpu| write!(f, ", {gpu}"))
    }
}

/// Opens a device and does the work on it. `threads` are the CPU device's.
pub(crate) fn run<W: Work>(device: DeviceName, threads: Option<usize>, work: W) -> Result<W::Output> {
    match device {
        DeviceName::Cpu => {
            let harness = cpu(threads)?;
            let cpu = harness.device();
            let (threads, isa) = (Some(cpu.threads()), Some(cpu.isa()));
            work.on(&harness, &About { device: "cpu", threads, isa, gpu: None })
        }
        #[cfg(feature = "cuda")]
        DeviceName::Cuda => {
            anyhow::ensure!(threads.is_none(), "a number of threads is for the CPU device, this is cuda");
            let cuda = microseq::cuda::Cuda::new(0)?;
            let about = About { device: "cuda", threads: None, isa: None, gpu: Some(cuda.name()?) };
            work.on(&microseq::cuda::CudaHarness::new(cuda), &about)
        }
    }
}

/// The CPU device on so many threads, or on all; `MICROSEQ_ISA` may name the instruction set.
pub(crate) fn cpu(threads: Option<usize>) -> Result<HostHarness<Cpu>, CpuError> {
    let device = match threads {
        Some(threads) => Cpu::with_threads(threads)?.with_isa(Isa::from_environment()?)?,
        None => Cpu::from_environment()?,
    };
    Ok(HostHarness::new(device))
}

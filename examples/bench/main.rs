//! Measures one workload on one device and prints one line of JSON.
//!
//! The measuring itself is in `benches/measure`, which the criterion benches share.

mod args;
mod line;
mod run;

#[path = "../../benches/measure/mod.rs"]
mod measure;

#[path = "../common"]
mod common {
    pub(crate) mod device;
    pub(crate) mod exit;
    pub(crate) mod lengths;
}

use anyhow::{Result, ensure};
use args::Args;
use clap::Parser;
use common::device::{self, DeviceName};
use common::exit;
use line::Line;
use measure::peak::Instruction;
use measure::workload::Workload;
use measure::{memory, timing};
use microseq::cpu::Cpu;
use microseq::dev::{Harness, HostHarness};
use microseq::{DType, bf16, f16};
use run::Measurement;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    exit::report(print(&Args::parse()))
}

fn print(args: &Args) -> Result<()> {
    let line = serde_json::to_string(&measured(args)?)?;
    writeln!(std::io::stdout(), "{line}")?;
    Ok(())
}

fn measured(args: &Args) -> Result<Line> {
    let workload = args.workload()?;
    ensure!(workload.lengths.iter().any(|&length| length > 0), "there are no tokens to measure");
    let budget = Duration::try_from_secs_f64(args.seconds)?;
    match args.device {
        DeviceName::Cpu => on_cpu(args, &workload, &device::cpu(args.threads)?, budget),
    }
}

fn on_cpu(args: &Args, workload: &Workload, harness: &HostHarness<Cpu>, budget: Duration) -> Result<Line> {
    let (device, dtype) = (harness.device(), args.dtype());
    let instruction = Instruction::of_cpu(device.isa(), dtype);
    // Before and after, since clocks fall as a machine warms up: the higher one is the peak.
    let before = instruction.peak_gflops(device.threads())?;
    let measurements = match dtype {
        DType::F32 => run::measure::<_, f32>(harness, workload, args.fresh, budget)?,
        DType::F16 => run::measure::<_, f16>(harness, workload, args.fresh, budget)?,
        DType::Bf16 => run::measure::<_, bf16>(harness, workload, args.fresh, budget)?,
    };
    let max_rss_mb = memory::peak_mb();
    let after = instruction.peak_gflops(device.threads())?;
    let median = |value: fn(&Measurement) -> f64| timing::median(measurements.iter().map(value));
    Ok(Line {
        workload: workload.name.clone(),
        dtype: dtype.to_string(),
        device: "cpu",
        isa: device.isa().to_string(),
        threads: device.threads(),
        fresh: args.fresh,
        repetitions: measurements.len(),
        forward_ms: median(Measurement::forward_ms),
        backward_ms: median(Measurement::backward_ms),
        forward_gflops: median(Measurement::forward_gflops),
        backward_gflops: median(Measurement::backward_gflops),
        peak_gflops: before.max(after),
        peak_instruction: instruction.to_string(),
        max_rss_mb,
    })
}

#[cfg(test)]
mod tests;

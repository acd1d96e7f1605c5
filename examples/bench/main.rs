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
use common::device::{self, About, Work};
use common::exit;
use line::Line;
use measure::peak::Instruction;
use measure::workload::Workload;
use measure::{memory, timing};
use microseq::dev::Harness;
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
    device::run(args.device, args.threads, Measuring { args, workload: &workload, budget })
}

/// A workload to be measured on a device.
struct Measuring<'a> {
    args: &'a Args,
    workload: &'a Workload,
    budget: Duration,
}

impl Work for Measuring<'_> {
    type Output = Line;

    fn on<H: Harness>(self, harness: &H, about: &About) -> Result<Line> {
        let Self { args, workload, budget } = self;
        line(harness, about, args, workload, budget)
    }
}

fn line<H: Harness>(
    harness: &H,
    about: &About,
    args: &Args,
    workload: &Workload,
    budget: Duration,
) -> Result<Line> {
    let dtype = args.dtype();
    // Before and after, since clocks fall as a machine warms up: the higher one is the peak.
    let instruction = about.isa.map(|isa| Instruction::of_cpu(isa, dtype));
    let peak = || instruction.zip(about.threads).map(|(i, threads)| i.peak_gflops(threads)).transpose();
    let before = peak()?;
    let measurements = match dtype {
        DType::F32 => run::measure::<_, f32>(harness, workload, args.fresh, budget)?,
        DType::F16 => run::measure::<_, f16>(harness, workload, args.fresh, budget)?,
        DType::Bf16 => run::measure::<_, bf16>(harness, workload, args.fresh, budget)?,
    };
    let max_rss_mb = memory::peak_mb();
    let after = peak()?;
    let median = |value: fn(&Measurement) -> f64| timing::median(measurements.iter().map(value));
    Ok(Line {
        workload: workload.name.clone(),
        dtype: dtype.to_string(),
        device: about.device,
        gpu: about.gpu.clone(),
        isa: about.isa.map(|isa| isa.to_string()),
        threads: about.threads,
        fresh: args.fresh,
        repetitions: measurements.len(),
        forward_ms: median(Measurement::forward_ms),
        backward_ms: median(Measurement::backward_ms),
        forward_gflops: median(Measurement::forward_gflops),
        backward_gflops: median(Measurement::backward_gflops),
        peak_gflops: before.zip(after).map(|(before, after)| before.max(after)),
        peak_instruction: instruction.map(|instruction| instruction.to_string()),
        max_rss_mb,
    })
}

#[cfg(test)]
mod tests;

//! Both passes of every workload that is sized for the device, in every element type, on a CPU as a
//! fraction of the machine's peak.
//!
//! `cargo bench --bench attention -- FILTER`, where a benchmark is called
//! `cpu_one_doc/f32/forward`. The environment chooses the rest: `MICROSEQ_BENCH_DEVICE` (`cpu`, or with
//! the feature `cuda` also `cuda`), `MICROSEQ_BENCH_THREADS` (all by default) and `MICROSEQ_ISA`.
//!
//! Elements in criterion's report are floating-point operations, so Gelem/s is GFLOP/s.

mod measure;

#[path = "../examples/common/device.rs"]
mod device;

use anyhow::{Context, Result};
use clap::ValueEnum;
use criterion::{Bencher, Criterion, Throughput};
use device::{About, DeviceName, Work};
use measure::layer::{Cut, Layer, Operands};
use measure::peak::Instruction;
use measure::workload::{self, Workload};
use measure::{check, timing};
use microseq::dev::Harness;
use microseq::{DType, Element, Pass, bf16, f16};
use std::cell::RefCell;
use std::env;
use std::time::Duration;

fn main() -> Result<()> {
    let mut criterion = Criterion::default().sample_size(10).configure_from_args();
    device::run(device_name()?, threads()?, Benches(&mut criterion))?;
    criterion.final_summary();
    Ok(())
}

/// The benches, to be run on a device.
struct Benches<'a>(&'a mut Criterion);

impl Work for Benches<'_> {
    type Output = ();

    fn on<H: Harness>(self, harness: &H, about: &About) -> Result<()> {
        let workloads = if about.gpu.is_some() { workload::gpu()? } else { workload::cpu()? };
        for workload in workloads {
            typed::<H, f32>(self.0, harness, about, &workload)?;
            typed::<H, bf16>(self.0, harness, about, &workload)?;
            typed::<H, f16>(self.0, harness, about, &workload)?;
        }
        Ok(())
    }
}

fn device_name() -> Result<DeviceName> {
    let name = env::var("MICROSEQ_BENCH_DEVICE").unwrap_or_else(|_| "cpu".into());
    DeviceName::from_str(&name, true).map_err(|reason| anyhow::anyhow!("MICROSEQ_BENCH_DEVICE: {reason}"))
}

fn threads() -> Result<Option<usize>> {
    let Ok(threads) = env::var("MICROSEQ_BENCH_THREADS") else { return Ok(None) };
    let count =
        threads.parse().with_context(|| format!("MICROSEQ_BENCH_THREADS is {threads:?}, not a number"))?;
    Ok(Some(count))
}

/// Both passes of a workload in one type.
fn typed<H: Harness, E: Element>(
    criterion: &mut Criterion,
    harness: &H,
    about: &About,
    workload: &Workload,
) -> Result<()> {
    let plan = workload.plan()?;
    let cut = Cut::new::<E>(harness, plan, workload.attention()?)?;
    // Criterion alone knows which benchmarks its filter lets through: build and check the operands
    // when the first of the two runs.
    let layer = RefCell::new(None);
    let mut group = criterion.benchmark_group(format!("{}/{}", workload.name, E::DTYPE));
    for (name, pass) in [("forward", Pass::Forward), ("backward", Pass::Backward)] {
        let flops = match pass {
            Pass::Forward => cut.forward_flops(),
            Pass::Backward => cut.backward_flops(),
        };
        group.throughput(Throughput::Elements(flops as u64));
        let mut best = Duration::MAX;
        group.bench_function(name, |bencher| {
            let mut layer = layer.borrow_mut();
            let layer = layer.get_or_insert_with(|| checked::<H, E>(harness, workload, &cut));
            best = best.min(run(bencher, layer, &cut, pass));
        });
        if best < Duration::MAX {
            report(flops / best.as_secs_f64() / 1e9, about, E::DTYPE)?;
        }
    }
    group.finish();
    Ok(())
}

/// A layer whose results are right.
fn checked<'h, H: Harness, E: Element>(
    harness: &'h H,
    workload: &Workload,
    cut: &Cut<'_, H>,
) -> Layer<'h, H, E> {
    let attention = workload.attention().expect("the workload has been planned");
    let operands = Operands::random(&attention, cut.plan.tokens());
    let mut layer = Layer::new(harness, attention, cut.plan.tokens(), &operands);
    layer.reserve(cut);
    check::check(&mut layer, cut).expect("only right results are measured");
    layer
}

/// Measures a pass; returns the shortest time of one repetition.
fn run<H: Harness, E: Element>(
    bencher: &mut Bencher<'_>,
    layer: &mut Layer<'_, H, E>,
    cut: &Cut<'_, H>,
    pass: Pass,
) -> Duration {
    let mut best = Duration::MAX;
    bencher.iter_custom(|repetitions| {
        let mut sum = Duration::ZERO;
        for _ in 0..repetitions {
            let time = match pass {
                Pass::Forward => timing::forward(layer, cut),
                Pass::Backward => timing::backward(layer, cut),
            };
            let time = time.expect("the check ran the same calls");
            best = best.min(time);
            sum += time;
        }
        sum
    });
    best
}

/// Says how much of a CPU's peak, measured now, the best repetition reached. The best against the best:
/// the peak is the best of some readings too.
fn report(gflops: f64, about: &About, dtype: DType) -> Result<()> {
    let (Some(isa), Some(threads)) = (about.isa, about.threads) else {
        println!("                        best {gflops:.1} GFLOP/s ({about})");
        return Ok(());
    };
    let instruction = Instruction::of_cpu(isa, dtype);
    let peak = instruction.peak_gflops(threads)?;
    println!(
        "                        best {gflops:.1} GFLOP/s, {:.1}% of {peak:.1} ({instruction}, {threads} threads)",
        100.0 * gflops / peak
    );
    Ok(())
}

//! Repetitions of a workload: of one packing, or of a fresh one each time.

use crate::measure::layer::{Cut, Layer, Operands};
use crate::measure::workload::Workload;
use crate::measure::{check, memory, packing, timing};
use anyhow::Result;
use microseq::dev::{Harness, Random};
use microseq::{Element, Plan};
use std::time::{Duration, Instant};

/// Repetitions before any is counted.
const WARM_UP: usize = 2;

/// One repetition.
pub(crate) struct Measurement {
    forward: Duration,
    backward: Duration,
    forward_flops: f64,
}

impl Measurement {
    pub(crate) fn forward_ms(&self) -> f64 {
        self.forward.as_secs_f64() * 1e3
    }

    pub(crate) fn backward_ms(&self) -> f64 {
        self.backward.as_secs_f64() * 1e3
    }

    pub(crate) fn forward_gflops(&self) -> f64 {
        self.forward_flops / self.forward.as_secs_f64() / 1e9
    }

    pub(crate) fn backward_gflops(&self) -> f64 {
        2.5 * self.forward_flops / self.backward.as_secs_f64() / 1e9
    }
}

/// Checks the results, warms up, and repeats for about as long as the budget.
pub(crate) fn measure<H: Harness, E: Element>(
    harness: &H,
    workload: &Workload,
    fresh: bool,
    budget: Duration,
) -> Result<Vec<Measurement>> {
    let attention = workload.attention()?;
    let plan = workload.plan()?;
    let cut = Cut::new::<E>(harness, plan, attention)?;
    let operands = Operands::random(&attention, plan.tokens());
    let mut layer = Layer::<H, E>::new(harness, attention, plan.tokens(), &operands);
    drop(operands);
    layer.reserve(&cut);
    check::check(&mut layer, &cut)?;
    memory::reset_peak();

    let mut random = Random::new(2);
    let mut once = || {
        if fresh { fresh_packing(&mut layer, workload, &mut random) } else { repetition(&mut layer, &cut) }
    };
    for _ in 0..WARM_UP {
        once()?;
    }
    timing::repeat(budget, once)
}

/// Both passes over a packing that is prepared already.
fn repetition<H: Harness, E: Element>(layer: &mut Layer<'_, H, E>, cut: &Cut<'_, H>) -> Result<Measurement> {
    let times = timing::both(layer, cut)?;
    Ok(Measurement { forward: times.forward, backward: times.backward, forward_flops: cut.forward_flops() })
}

/// Both passes over a packing never seen before. A training step pays for its planning and preparation
/// once for all layers; here one layer pays for all of it.
fn fresh_packing<H: Harness, E: Element>(
    layer: &mut Layer<'_, H, E>,
    workload: &Workload,
    random: &mut Random,
) -> Result<Measurement> {
    let lengths = packing::redraw(&workload.lengths, random);
    let begin = Instant::now();
    let plan = Plan::new(&lengths, workload.micro_sequence_length)?;
    let cut = Cut::new::<E>(layer.harness(), plan, layer.attention)?;
    layer.reserve(&cut);
    let prepared = begin.elapsed();
    let mut measurement = repetition(layer, &cut)?;
    measurement.forward += prepared;
    Ok(measurement)
}

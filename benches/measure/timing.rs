//! Repetitions and medians.

use super::layer::{Cut, Layer};
use anyhow::Result;
use microseq::Element;
use microseq::dev::Harness;
use std::time::{Duration, Instant};

/// What one repetition of both passes took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    pub(crate) forward: Duration,
    pub(crate) backward: Duration,
}

/// Runs both passes once, as a runtime does: forward over all steps, then backward.
pub(crate) fn both<H: Harness, E: Element>(layer: &mut Layer<'_, H, E>, cut: &Cut<'_, H>) -> Result<Times> {
    Ok(Times { forward: forward(layer, cut)?, backward: backward(layer, cut)? })
}

/// Runs and times the forward pass.
pub(crate) fn forward<H: Harness, E: Element>(
    layer: &mut Layer<'_, H, E>,
    cut: &Cut<'_, H>,
) -> Result<Duration> {
    let begin = Instant::now();
    layer.forward(cut)?;
    Ok(begin.elapsed())
}

/// Runs and times the backward pass, over the results of the last forward pass.
pub(crate) fn backward<H: Harness, E: Element>(
    layer: &mut Layer<'_, H, E>,
    cut: &Cut<'_, H>,
) -> Result<Duration> {
    let begin = Instant::now();
    layer.backward(cut)?;
    Ok(begin.elapsed())
}

/// Repeats until so much time has gone by, a few times at least.
pub(crate) fn repeat<T>(budget: Duration, mut once: impl FnMut() -> Result<T>) -> Result<Vec<T>> {
    const AT_LEAST: usize = 5;
    const AT_MOST: usize = 1000;
    let begin = Instant::now();
    let mut results = Vec::new();
    while results.len() < AT_LEAST || (begin.elapsed() < budget && results.len() < AT_MOST) {
        results.push(once()?);
    }
    Ok(results)
}

/// The middle one, or the upper of the two in the middle; NaN of none.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

//! The check before the clock: sampled rows of a workload against float64.
//!
//! The oracle takes one pair of a query and a key at a time; over a whole workload that is minutes.
//! What is checked instead, for all heads:
//! - `out`, `lse` and `dq` of [`SAMPLES`] query rows: the first and the last of the sequence and others
//!   at even distances, each against the oracle over all keys that it sees;
//! - `dk` and `dv` of [`SAMPLES`] key rows, chosen likewise, each against a plain float64 sum over all
//!   queries that see it. It takes `out` and `lse` as the device gave them, which the first part
//!   covers.
//!
//! The conformance suite and the golden data, not this, are the tests of a device.

use super::layer::{Cut, Layer};
use anyhow::{Result, ensure};
use core::ops::Range;
use microseq::dev::oracle::{self, Answer, Inputs};
use microseq::dev::{Distance, Harness, Quantity, tolerance};
use microseq::{Attention, Batch, Element, Plan, Varlen};

/// Rows that each part checks, at most.
const SAMPLES: usize = 24;

/// Runs both passes once and compares.
///
/// # Errors
/// The device's own, and results further from float64 than the tolerance of their type.
pub(crate) fn check<H: Harness, E: Element>(layer: &mut Layer<'_, H, E>, cut: &Cut<'_, H>) -> Result<()> {
    layer.clear_gradients();
    layer.forward(cut)?;
    layer.backward(cut)?;
    let whole = Whole::download(layer, &cut.plan);
    let rows = samples(cut.plan.documents_end());
    let mut queries = Comparison::default();
    let mut keys = Comparison::default();
    for document in documents(&cut.plan) {
        for &row in rows.iter().filter(|row| document.contains(row)) {
            whole.query(row, &document, &mut queries);
            whole.key(row, &document, &mut keys);
        }
    }
    queries.verdict::<E>(&["out", "lse", "dq"])?;
    keys.verdict::<E>(&["dk", "dv"])
}

/// Row numbers at even distances, the first and the last among them.
fn samples(rows: usize) -> Vec<usize> {
    let count = SAMPLES.min(rows);
    (0..count).map(|n| if count == 1 { 0 } else { n * (rows - 1) / (count - 1) }).collect()
}

/// Where the documents lie.
fn documents(plan: &Plan<'_>) -> impl Iterator<Item = Range<usize>> {
    plan.lengths().iter().scan(0, |end, &length| {
        let begin = *end;
        *end += length as usize;
        Some(begin..*end)
    })
}

/// Given and expected values, for each quantity.
#[derive(Default)]
struct Comparison {
    quantities: [(Vec<f64>, Vec<f64>); 3],
}

impl Comparison {
    fn add(
        &mut self,
        quantity: usize,
        given: impl IntoIterator<Item = f64>,
        expected: impl IntoIterator<Item = f64>,
    ) {
        self.quantities[quantity].0.extend(given);
        self.quantities[quantity].1.extend(expected);
    }

    fn verdict<E: Element>(&self, names: &[&str]) -> Result<()> {
        for (name, (given, expected)) in names.iter().zip(&self.quantities) {
            let quantity = match *name {
                "out" => Quantity::Out,
                "lse" => Quantity::Lse,
                _ => Quantity::Gradient,
            };
            let allowed = tolerance(quantity, E::DTYPE);
            let distance = Distance::between(given, expected);
            ensure!(
                distance.within(allowed),
                "{name} is wrong, nothing is measured: rms {:e} from float64, magnitude {:e}, tolerance {allowed:e} ({})",
                distance.rms,
                distance.magnitude,
                E::DTYPE
            );
        }
        Ok(())
    }
}

/// All operands and results, on the host.
struct Whole<E> {
    attention: Attention,
    tokens: usize,
    q: Vec<E>,
    kv: Vec<E>,
    dout: Vec<E>,
    out: Vec<E>,
    lse: Vec<f32>,
    dq: Vec<E>,
    dkv: Vec<f32>,
}

impl<E: Element> Whole<E> {
    fn download<H: Harness>(layer: &Layer<'_, H, E>, plan: &Plan<'_>) -> Self {
        let harness = layer.harness();
        Self {
            attention: layer.attention,
            tokens: plan.tokens(),
            q: harness.download(&layer.q),
            kv: harness.download(&layer.kv),
            dout: harness.download(&layer.dout),
            out: harness.download(&layer.out),
            lse: harness.download(&layer.lse),
            dq: harness.download(&layer.dq),
            dkv: harness.download(&layer.dkv),
        }
    }

    /// Elements of a row of Q.
    fn row(&self, row: usize) -> Range<usize> {
        let width = self.attention.heads() * self.attention.head_dim();
        row * width..(row + 1) * width
    }

    /// Elements of a head of a row of Q.
    fn head(&self, row: usize, head: usize) -> Range<usize> {
        let begin = (row * self.attention.heads() + head) * self.attention.head_dim();
        begin..begin + self.attention.head_dim()
    }

    /// Elements of a key and of its value.
    fn pair(&self, row: usize, kv_head: usize) -> [Range<usize>; 2] {
        let (kv_heads, head_dim) = (self.attention.kv_heads(), self.attention.head_dim());
        let key = (row * 2 * kv_heads + kv_head) * head_dim;
        let value = key + kv_heads * head_dim;
        [key..key + head_dim, value..value + head_dim]
    }

    /// How many rows a query reaches back, itself included.
    fn reach(&self) -> usize {
        self.attention.mask().window.map_or(usize::MAX, core::num::NonZeroUsize::get)
    }

    /// One query row against the oracle.
    fn query(&self, row: usize, document: &Range<usize>, into: &mut Comparison) {
        let seen = document.start.max((row + 1).saturating_sub(self.reach()))..row + 1;
        let answer = self.oracle(row, seen);
        into.add(0, widened(&self.out[self.row(row)]), answer.out);
        let lse = (0..self.attention.heads()).map(|head| f64::from(self.lse[head * self.tokens + row]));
        into.add(1, lse, answer.lse);
        into.add(2, widened(&self.dq[self.row(row)]), answer.dq);
    }

    /// The oracle's answer for one query over the keys that it sees.
    fn oracle(&self, row: usize, seen: Range<usize>) -> Answer {
        let width = 2 * self.attention.kv_heads() * self.attention.head_dim();
        let kv = oracle::widen(&self.kv[seen.start * width..seen.end * width]);
        let (k, v) = oracle::unpack(&kv, self.attention.kv_heads(), self.attention.head_dim());
        let (q, dout) = (oracle::widen(&self.q[self.row(row)]), oracle::widen(&self.dout[self.row(row)]));
        let (cu_seqlens_q, cu_seqlens_k) = ([0, 1], [0, seen.len() as i32]);
        let varlen = Varlen::new(&cu_seqlens_q, &cu_seqlens_k, 1, seen.len());
        let batch = Batch::Varlen(varlen.expect("one query, and its keys"));
        oracle::attention(&self.attention, &batch, &Inputs { q: &q, k: &k, v: &v, dout: Some(&dout) })
    }

    /// One key row against a sum over the queries that see it.
    fn key(&self, row: usize, document: &Range<usize>, into: &mut Comparison) {
        let seen_by = row..document.end.min(row.saturating_add(self.reach()));
        for kv_head in 0..self.attention.kv_heads() {
            let [k, v] = self.pair(row, kv_head);
            let mut sum = KeySum::new(&self.kv[k.clone()], &self.kv[v.clone()]);
            let group = self.attention.group();
            for query in seen_by.clone() {
                for head in kv_head * group..(kv_head + 1) * group {
                    self.add_query(query, head, &mut sum);
                }
            }
            into.add(0, self.dkv[k].iter().copied().map(f64::from), sum.dk);
            into.add(1, self.dkv[v].iter().copied().map(f64::from), sum.dv);
        }
    }

    fn add_query(&self, query: usize, head: usize, sum: &mut KeySum) {
        let here = self.head(query, head);
        let scale = f64::from(self.attention.scale());
        let (q, out) = (&self.q[here.clone()], &self.out[here.clone()]);
        let dout = &self.dout[here];
        let lse = f64::from(self.lse[head * self.tokens + query]);
        let weight = (scale * dot(q, &sum.k) - lse).exp();
        let mean: f64 = widened(dout).zip(widened(out)).map(|(a, b)| a * b).sum();
        let dproduct = scale * weight * (dot(dout, &sum.v) - mean);
        sum.dk.iter_mut().zip(widened(q)).for_each(|(sum, q)| *sum += dproduct * q);
        sum.dv.iter_mut().zip(widened(dout)).for_each(|(sum, dout)| *sum += weight * dout);
    }
}

/// A key, its value, and their gradients so far.
struct KeySum {
    k: Vec<f64>,
    v: Vec<f64>,
    dk: Vec<f64>,
    dv: Vec<f64>,
}

impl KeySum {
    fn new<E: Element>(k: &[E], v: &[E]) -> Self {
        Self { k: oracle::widen(k), v: oracle::widen(v), dk: vec![0.0; k.len()], dv: vec![0.0; v.len()] }
    }
}

fn widened<E: Element>(elements: &[E]) -> impl Iterator<Item = f64> {
    elements.iter().map(|x| f64::from(x.to_f32()))
}

fn dot<E: Element>(a: &[E], b: &[f64]) -> f64 {
    widened(a).zip(b).map(|(a, b)| a * b).sum()
}

//! A device of one's own in an afternoon: safe, naive, some 160 lines.
//!
//! Beside computing attention, a device owes its users four things, marked where they are kept:
//!
//! 1. operands are checked before anything is written;
//! 2. every element of `out`, `lse` and `dq` is written, rows of no document included;
//! 3. nothing depends on a document's neighbours, so its results are the same wherever it lies;
//! 4. `dk` and `dv` are added to in an order that does not depend on how the sequence was cut.

use anyhow::Result;
use clap::Parser;
use core::num::NonZeroUsize;
use microseq::dev::run::{self, Options, Sequence};
use microseq::dev::{HostHarness, Random, conformance};
use microseq::{
    Accumulate, Attention, Backward, Device, Element, Flush, Forward, Gather, Host, KvMut, KvRef,
    MAX_HEAD_DIM, Plan, Problem, Scratch, Segment, Shape, ShapeError,
};
use std::ops::Range;

/// A device without state. One with threads or a queue would keep them here.
struct Naive;

/// What the device remembers of a step, for all layers and both passes. A GPU would keep its tile
/// lists here.
struct Prepared {
    attention: Attention,
    shape: Shape,
    segments: Vec<Segment>,
}

impl Device for Naive {
    type Space = Host;
    type Error = ShapeError;
    type Prepared = Prepared;

    fn prepare(&self, problem: &Problem<'_>) -> Result<Prepared, ShapeError> {
        Ok(Prepared {
            attention: *problem.attention(),
            shape: problem.shape(),
            segments: problem.batch().segments().collect(),
        })
    }

    fn gather_into<E: Element>(&self, operands: Gather<'_, '_, Host, E>) -> Result<(), ShapeError> {
        operands.check()?;
        let Gather { from, mut into } = operands;
        let mut begin = 0;
        for share in from {
            zip_rows(*share, &mut into, begin, |from, into| into.copy_from_slice(from));
            begin += share.k().layout().rows();
        }
        Ok(())
    }

    fn forward<E: Element>(
        &self,
        prepared: &Prepared,
        operands: Forward<'_, Host, E>,
        _: Scratch<'_, Host>,
    ) -> Result<(), ShapeError> {
        operands.check(&prepared.shape)?; // 1.
        let Forward { q, kv, mut out, mut lse } = operands;
        for (row, head) in rows_and_heads(&prepared.shape) {
            out.get_mut(row, head).fill(E::default()); // 2.
            lse.get_mut(row, head)[0] = f32::NEG_INFINITY;
        }
        for query in prepared.queries().filter(|query| !query.keys.is_empty()) {
            let Query { row, head, kv_head, keys } = query;
            let score = |key| prepared.score(q.get(row, head), kv.k().get(key, kv_head)).value;
            let max = keys.clone().map(score).fold(f32::NEG_INFINITY, f32::max);
            let mut sum = 0.0;
            let mut weighted = [0.0; MAX_HEAD_DIM];
            for key in keys {
                let weight = (score(key) - max).exp();
                sum += weight;
                add_scaled(&mut weighted, weight, kv.v().get(key, kv_head));
            }
            write_scaled(out.get_mut(row, head), 1.0 / sum, &weighted);
            lse.get_mut(row, head)[0] = max + sum.ln();
        }
        Ok(())
    }

    fn backward<E: Element>(
        &self,
        prepared: &Prepared,
        operands: Backward<'_, Host, E>,
        _: Scratch<'_, Host>,
    ) -> Result<(), ShapeError> {
        operands.check(&prepared.shape)?; // 1.
        let Backward { q, kv, out, lse, dout, mut dq, mut dkv } = operands;
        for (row, head) in rows_and_heads(&prepared.shape) {
            dq.get_mut(row, head).fill(E::default()); // 2.
        }
        for Query { row, head, kv_head, keys } in prepared.queries() {
            let (q, dout) = (q.get(row, head), dout.get(row, head));
            let delta = dot(out.get(row, head), dout);
            let mut dq_sum = [0.0; MAX_HEAD_DIM];
            for key in keys {
                let (k, v) = (kv.k().get(key, kv_head), kv.v().get(key, kv_head));
                let score = prepared.score(q, k);
                let p = (score.value - lse.get(row, head)[0]).exp();
                let ds = p * (dot(dout, v) - delta) * score.slope;
                add_scaled(&mut dq_sum, ds, k);
                add_scaled(dkv.key_mut(key, kv_head), ds, q);
                add_scaled(dkv.value_mut(key, kv_head), p, dout);
            }
            write_scaled(dq.get_mut(row, head), 1.0, &dq_sum);
        }
        Ok(())
    }

    fn accumulate(&self, operands: Accumulate<'_, Host>) -> Result<(), ShapeError> {
        operands.check()?;
        let Accumulate { from, mut into } = operands;
        zip_rows(from, &mut into, 0, |from, into| add_scaled(into, 1.0, from));
        Ok(())
    }

    fn flush<E: Element>(&self, operands: Flush<'_, Host, E>) -> Result<(), ShapeError> {
        operands.check()?;
        let Flush { from, mut into } = operands;
        zip_rows(from, &mut into, 0, |from, into| write_scaled(into, 1.0, from));
        Ok(())
    }
}

/// A head of a query row, the K/V head it uses and the key rows it sees.
struct Query {
    row: usize,
    head: usize,
    kv_head: usize,
    keys: Range<usize>,
}

/// A masked score, and how it changes with `q.k`.
struct Score {
    value: f32,
    slope: f32,
}

impl Prepared {
    /// 3. A query's keys follow from its own segment alone.
    fn query(&self, segment: &Segment, i: usize, head: usize) -> Query {
        let keys = self.attention.mask().keys(i, segment.q_len, segment.k_len);
        Query {
            row: segment.q_begin + i,
            head,
            kv_head: head / self.attention.group(),
            keys: segment.k_begin + keys.start..segment.k_begin + keys.end,
        }
    }

    /// 4. The last query first, as the steps of a backward pass; forward, any order would do.
    fn queries(&self) -> impl Iterator<Item = Query> {
        let rows = self.segments.iter().rev().flat_map(|s| (0..s.q_len).rev().map(move |i| (s, i)));
        rows.flat_map(move |(s, i)| (0..self.shape.heads).map(move |head| self.query(s, i, head)))
    }

    fn score<E: Element>(&self, q: &[E], k: &[E]) -> Score {
        let scale = self.attention.scale();
        let scaled = scale * dot(q, k);
        match self.attention.softcap() {
            None => Score { value: scaled, slope: scale },
            Some(softcap) => {
                let tanh = (scaled / softcap).tanh();
                Score { value: softcap * tanh, slope: scale * (1.0 - tanh * tanh) }
            }
        }
    }
}

fn rows_and_heads(shape: &Shape) -> impl Iterator<Item = (usize, usize)> + use<> {
    let heads = shape.heads;
    (0..shape.q_rows).flat_map(move |row| (0..heads).map(move |head| (row, head)))
}

/// Calls `f` with each head of each key and value of `from` and its place in `into`, where the rows
/// lie from `begin` on.
fn zip_rows<A: Element, B: Element>(
    from: KvRef<'_, Host, A>,
    into: &mut KvMut<'_, Host, B>,
    begin: usize,
    f: impl Fn(&[A], &mut [B]),
) {
    let layout = from.k().layout();
    for row in 0..layout.rows() {
        for head in 0..layout.heads() {
            f(from.k().get(row, head), into.key_mut(begin + row, head));
            f(from.v().get(row, head), into.value_mut(begin + row, head));
        }
    }
}

fn dot<E: Element>(a: &[E], b: &[E]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a.to_f32() * b.to_f32()).sum()
}

/// `into += factor * from`
fn add_scaled<E: Element>(into: &mut [f32], factor: f32, from: &[E]) {
    for (into, from) in into.iter_mut().zip(from) {
        *into += factor * from.to_f32();
    }
}

/// `into = factor * from`, rounded
fn write_scaled<E: Element>(into: &mut [E], factor: f32, from: &[f32]) {
    for (into, from) in into.iter_mut().zip(from) {
        *into = E::from_f32(factor * from);
    }
}

/// Checks the device against the suite, then runs a tiny sequence on it.
#[derive(Parser)]
struct Args {
    /// Rows of a step of the tiny sequence.
    #[arg(long, value_name = "ROWS", default_value = "5")]
    micro_sequence_length: NonZeroUsize,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let harness = harness();
    for rule in conformance::rules() {
        (rule.check)(&harness);
        println!("kept: {}", rule.name.replace('_', " "));
    }
    tiny_sequence(&harness, args.micro_sequence_length.get())
}

/// The device and memory that it reaches. That 4. holds for every cut, in every type, is claimed
/// here, so that it is checked.
fn harness() -> HostHarness<Naive> {
    HostHarness::new(Naive).with_dkv_grain(|_| Some(1))
}

/// Three documents of one head, in steps and in one: the same bits.
fn tiny_sequence(harness: &HostHarness<Naive>, micro_sequence_length: usize) -> Result<()> {
    let lengths = [4, 1, 10];
    let mut random = Random::new(0);
    let [q, dout] = [(); 2].map(|()| random.elements::<f32>(15 * 8));
    let kv = random.elements::<f32>(15 * 2 * 8);
    let run = |micro_sequence_length| -> Result<_> {
        let plan = Plan::new(&lengths, micro_sequence_length)?;
        let attention = Attention::new(1, 1, 8)?;
        let inputs = Sequence { plan, attention, q: &q, kv: &kv, dout: Some(&dout) };
        Ok(run::sequence(harness, &inputs, Options::default())?)
    };
    let same = run(micro_sequence_length)? == run(15)?;
    println!(
        "documents of {lengths:?} tokens in steps of {micro_sequence_length}: same bits as in one: {same}"
    );
    Ok(())
}

/// The same suite as tests, one for each rule.
#[cfg(test)]
mod tests {
    microseq::conformance_tests!(super::harness());
}

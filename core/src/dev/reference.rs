//! The simplest device that passes the suite: one query at a time, in safe code.

use crate::{
    Accumulate, Attention, Backward, Device, Element, Flush, Forward, Gather, Host, KvMut, KvRef, Problem,
    Scratch, Segment, Shape, ShapeError,
};
use core::ops::Range;
use std::vec::Vec;

/// A device that is easy to read and slow: float64 inside, on the calling thread, any element type.
///
/// Its `dk` and `dv` have the same bits for every cut into steps
/// ([`dkv_grain`](super::Harness::dkv_grain) 1): queries are taken last to first, and each adds
/// straight to the store.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reference;

/// The metadata of [`Reference`]: the segments, walked once.
#[derive(Clone, Debug)]
pub struct ReferencePrepared {
    attention: Attention,
    shape: Shape,
    segments: Vec<Segment>,
}

impl Device for Reference {
    type Space = Host;
    type Error = ShapeError;
    type Prepared = ReferencePrepared;

    fn prepare(&self, problem: &Problem<'_>) -> Result<ReferencePrepared, ShapeError> {
        let segments = problem.batch().segments().collect();
        Ok(ReferencePrepared { attention: *problem.attention(), shape: problem.shape(), segments })
    }

    fn gather_into<E: Element>(&self, mut operands: Gather<'_, '_, Host, E>) -> Result<(), ShapeError> {
        operands.check()?;
        let mut begin = 0;
        for share in operands.from {
            each_row(share, &mut operands.into, begin, |into, from| into.copy_from_slice(from));
            begin += share.k().layout().rows();
        }
        Ok(())
    }

    fn forward<E: Element>(
        &self,
        prepared: &ReferencePrepared,
        mut operands: Forward<'_, Host, E>,
        _scratch: Scratch<'_, Host>,
    ) -> Result<(), ShapeError> {
        operands.check(&prepared.shape)?;
        for row in 0..prepared.shape.q_rows {
            for head in 0..prepared.shape.heads {
                operands.out.get_mut(row, head).fill(E::from_f32(0.0));
                operands.lse.get_mut(row, head)[0] = f32::NEG_INFINITY;
            }
        }
        for query in prepared.queries() {
            for head in 0..prepared.shape.heads {
                forward_query(&prepared.attention, &mut operands, &query, head);
            }
        }
        Ok(())
    }

    fn backward<E: Element>(
        &self,
        prepared: &ReferencePrepared,
        mut operands: Backward<'_, Host, E>,
        _scratch: Scratch<'_, Host>,
    ) -> Result<(), ShapeError> {
        operands.check(&prepared.shape)?;
        for row in 0..prepared.shape.q_rows {
            for head in 0..prepared.shape.heads {
                operands.dq.get_mut(row, head).fill(E::from_f32(0.0));
            }
        }
        for query in prepared.queries() {
            for head in 0..prepared.shape.heads {
                backward_query(&prepared.attention, &mut operands, &query, head);
            }
        }
        Ok(())
    }

    fn accumulate(&self, mut operands: Accumulate<'_, Host>) -> Result<(), ShapeError> {
        operands.check()?;
        each_row(&operands.from, &mut operands.into, 0, |into, from| {
            into.iter_mut().zip(from).for_each(|(into, from)| *into += from);
        });
        Ok(())
    }

    fn flush<E: Element>(&self, mut operands: Flush<'_, Host, E>) -> Result<(), ShapeError> {
        operands.check()?;
        each_row(&operands.from, &mut operands.into, 0, |into, from| {
            into.iter_mut().zip(from).for_each(|(into, &from)| *into = E::from_f32(from));
        });
        Ok(())
    }
}

/// A query that sees keys: its row, and their rows.
struct Query {
    row: usize,
    keys: Range<usize>,
}

impl ReferencePrepared {
    /// The queries that see keys, those of each document last to first.
    fn queries(&self) -> impl Iterator<Item = Query> {
        let mask = self.attention.mask();
        let queries = move |s: &Segment| {
            let s = *s;
            (0..s.q_len).rev().map(move |i| {
                let keys = mask.keys(i, s.q_len, s.k_len);
                Query { row: s.q_begin + i, keys: s.k_begin + keys.start..s.k_begin + keys.end }
            })
        };
        self.segments.iter().flat_map(queries).filter(|query| !query.keys.is_empty())
    }
}

/// Applies `copy` to every key and value of `from` and its place in the rows of `into` from `begin`
/// on.
fn each_row<T: Element, U: Element>(
    from: &KvRef<'_, Host, T>,
    into: &mut KvMut<'_, Host, U>,
    begin: usize,
    copy: impl Fn(&mut [U], &[T]),
) {
    let layout = from.k().layout();
    for row in 0..layout.rows() {
        for head in 0..layout.heads() {
            copy(into.key_mut(begin + row, head), from.k().get(row, head));
            copy(into.value_mut(begin + row, head), from.v().get(row, head));
        }
    }
}

fn forward_query<E: Element>(
    attention: &Attention,
    operands: &mut Forward<'_, Host, E>,
    query: &Query,
    head: usize,
) {
    let kv_head = head / attention.group();
    let q = operands.q.get(query.row, head);
    let score = |key| Score::new(attention, q, operands.kv.k().get(key, kv_head)).capped;
    let scores: Vec<f64> = query.keys.clone().map(score).collect();
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let lse = max + scores.iter().map(|score| (score - max).exp()).sum::<f64>().ln();

    let mut out = std::vec![0.0; attention.head_dim()];
    for (key, score) in query.keys.clone().zip(scores) {
        add(&mut out, (score - lse).exp(), operands.kv.v().get(key, kv_head));
    }
    store(operands.out.get_mut(query.row, head), &out);
    operands.lse.get_mut(query.row, head)[0] = lse as f32;
}

fn backward_query<E: Element>(
    attention: &Attention,
    operands: &mut Backward<'_, Host, E>,
    query: &Query,
    head: usize,
) {
    let kv_head = head / attention.group();
    let q = operands.q.get(query.row, head);
    let dout = operands.dout.get(query.row, head);
    let lse = f64::from(operands.lse.get(query.row, head)[0]);
    // The mean of dout.v under the softmax is dout.out.
    let mean = dot(dout, operands.out.get(query.row, head));

    let mut dq = std::vec![0.0; attention.head_dim()];
    for key in query.keys.clone() {
        let (k, v) = (operands.kv.k().get(key, kv_head), operands.kv.v().get(key, kv_head));
        let score = Score::new(attention, q, k);
        let weight = (score.capped - lse).exp();
        let dproduct = weight * (dot(dout, v) - mean) * score.slope;
        add(&mut dq, dproduct, k);
        add_f32(operands.dkv.key_mut(key, kv_head), dproduct, q);
        add_f32(operands.dkv.value_mut(key, kv_head), weight, dout);
    }
    store(operands.dq.get_mut(query.row, head), &dq);
}

/// A score, and its slope over the product `q.k`.
struct Score {
    capped: f64,
    slope: f64,
}

impl Score {
    fn new<E: Element>(attention: &Attention, q: &[E], k: &[E]) -> Self {
        let scale = f64::from(attention.scale());
        let score = scale * dot(q, k);
        let Some(softcap) = attention.softcap().map(f64::from) else {
            return Self { capped: score, slope: scale };
        };
        let tanh = (score / softcap).tanh();
        Self { capped: softcap * tanh, slope: scale * (1.0 - tanh * tanh) }
    }
}

fn dot<E: Element>(a: &[E], b: &[E]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(a.to_f32()) * f64::from(b.to_f32())).sum()
}

fn add<E: Element>(to: &mut [f64], factor: f64, from: &[E]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to += factor * f64::from(from.to_f32()));
}

fn add_f32<E: Element>(to: &mut [f32], factor: f64, from: &[E]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to += (factor * f64::from(from.to_f32())) as f32);
}

fn store<E: Element>(to: &mut [E], from: &[f64]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to = E::from_f32(*from as f32));
}

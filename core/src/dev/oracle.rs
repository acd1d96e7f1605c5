//! The obvious answer: masked softmax attention in float64, one query at a time.
//!
//! Slow, and written to be read beside the definition. Everything else is checked against it; it
//! is itself checked against central differences and the golden data.

use crate::{Attention, Batch, Element, Mask, Plan, Segment, Varlen};
use std::vec;
use std::vec::Vec;

/// Dense operands, `[rows, heads, head_dim]` each.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// Queries, `[q_rows, heads, head_dim]`.
    pub q: &'a [f64],
    /// Keys, `[k_rows, kv_heads, head_dim]`.
    pub k: &'a [f64],
    /// Values, `[k_rows, kv_heads, head_dim]`.
    pub v: &'a [f64],
    /// Gradient of the output, `[q_rows, heads, head_dim]`. Without it all gradients are 0.
    pub dout: Option<&'a [f64]>,
}

/// What attention gives, dense.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// `[q_rows, heads, head_dim]`; 0 where a query sees no key.
    pub out: Vec<f64>,
    /// `[heads, q_rows]`, natural log; minus infinity where a query sees no key.
    pub lse: Vec<f64>,
    /// `[q_rows, heads, head_dim]`.
    pub dq: Vec<f64>,
    /// `[k_rows, kv_heads, head_dim]`.
    pub dk: Vec<f64>,
    /// `[k_rows, kv_heads, head_dim]`.
    pub dv: Vec<f64>,
}

/// Widens elements; exact.
pub fn widen<E: Element>(elements: &[E]) -> Vec<f64> {
    elements.iter().map(|x| f64::from(x.to_f32())).collect()
}

/// Splits dense packed K/V, `[rows, 2 * kv_heads, head_dim]`, into keys and values.
pub fn unpack<T: Copy>(kv: &[T], kv_heads: usize, head_dim: usize) -> (Vec<T>, Vec<T>) {
    let half = kv_heads * head_dim;
    let (mut k, mut v) = (Vec::new(), Vec::new());
    for row in kv.chunks_exact(2 * half) {
        k.extend_from_slice(&row[..half]);
        v.extend_from_slice(&row[half..]);
    }
    (k, v)
}

/// Joins dense keys and values into packed K/V, `[rows, 2 * kv_heads, head_dim]`.
pub fn pack<T: Copy>(k: &[T], v: &[T], kv_heads: usize, head_dim: usize) -> Vec<T> {
    let half = kv_heads * head_dim;
    let rows = k.chunks_exact(half).zip(v.chunks_exact(half));
    rows.flat_map(|(k, v)| k.iter().chain(v)).copied().collect()
}

/// Attention over a batch, forward and backward; every gradient starts from 0.
///
/// # Panics
/// Where an operand is shorter than the batch needs.
pub fn attention(attention: &Attention, batch: &Batch<'_>, inputs: &Inputs<'_>) -> Answer {
    let shape =
        Dense { heads: attention.heads(), kv_heads: attention.kv_heads(), head_dim: attention.head_dim() };
    let mut answer = shape.nothing_seen(batch.q_rows(), batch.k_rows());
    for segment in batch.segments() {
        for head in 0..attention.heads() {
            for i in 0..segment.q_len {
                query(attention, &shape, &segment, head, i, inputs, &mut answer);
            }
        }
    }
    answer
}

/// Attention over a whole packed sequence at once, however the plan cuts it. `kv` is packed,
/// `[tokens, 2 * kv_heads, head_dim]`.
///
/// # Panics
/// Where an operand is shorter than the plan's tokens need.
pub fn sequence(
    plan: &Plan<'_>,
    operator: &Attention,
    q: &[f64],
    kv: &[f64],
    dout: Option<&[f64]>,
) -> Answer {
    let mut cu_seqlens = vec![0];
    for &length in plan.lengths() {
        cu_seqlens.push(cu_seqlens[cu_seqlens.len() - 1] + length as i32);
    }
    let varlen = Varlen::new(&cu_seqlens, &cu_seqlens, plan.tokens(), plan.tokens());
    let batch = Batch::Varlen(varlen.expect("a plan's lengths fit its tokens"));
    let (k, v) = unpack(kv, operator.kv_heads(), operator.head_dim());
    attention(operator, &batch, &Inputs { q, k: &k, v: &v, dout })
}

/// Places in dense tensors.
struct Dense {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
}

impl Dense {
    fn nothing_seen(&self, q_rows: usize, k_rows: usize) -> Answer {
        let q = q_rows * self.heads * self.head_dim;
        let k = k_rows * self.kv_heads * self.head_dim;
        Answer {
            out: vec![0.0; q],
            lse: vec![f64::NEG_INFINITY; self.heads * q_rows],
            dq: vec![0.0; q],
            dk: vec![0.0; k],
            dv: vec![0.0; k],
        }
    }

    fn q(&self, row: usize, head: usize) -> core::ops::Range<usize> {
        let begin = (row * self.heads + head) * self.head_dim;
        begin..begin + self.head_dim
    }

    fn k(&self, row: usize, kv_head: usize) -> core::ops::Range<usize> {
        let begin = (row * self.kv_heads + kv_head) * self.head_dim;
        begin..begin + self.head_dim
    }
}

/// Design: "query i sees key j iff `j <= i + (k_len - q_len)`; with a sliding window of w, also
/// `j > i + (k_len - q_len) - w`". Without causality only the second holds.
fn sees(mask: Mask, i: usize, j: usize, q_len: usize, k_len: usize) -> bool {
    let diagonal = i as i128 + k_len as i128 - q_len as i128;
    let j = j as i128;
    let past = !mask.causal || j <= diagonal;
    let near = mask.window.is_none_or(|window| j > diagonal - window.get() as i128);
    past && near
}

/// Query `i` of a segment, one head: its output, and what it adds to the gradients.
fn query(
    attention: &Attention,
    shape: &Dense,
    segment: &Segment,
    head: usize,
    i: usize,
    inputs: &Inputs<'_>,
    answer: &mut Answer,
) {
    let kv_head = head / (attention.heads() / attention.kv_heads());
    let keys: Vec<_> = (0..segment.k_len)
        .filter(|&j| sees(attention.mask(), i, j, segment.q_len, segment.k_len))
        .map(|j| shape.k(segment.k_begin + j, kv_head))
        .collect();
    if keys.is_empty() {
        return;
    }
    let row = segment.q_begin + i;
    let here = shape.q(row, head);
    let q = &inputs.q[here.clone()];
    let scale = f64::from(attention.scale());

    let products: Vec<f64> = keys.iter().map(|key| scale * dot(q, &inputs.k[key.clone()])).collect();
    let scores: Vec<f64> = products.iter().map(|&x| cap(attention, x)).collect();
    let lse = log_sum_exp(&scores);
    let weights: Vec<f64> = scores.iter().map(|&x| (x - lse).exp()).collect();

    let q_rows = answer.lse.len() / shape.heads;
    answer.lse[head * q_rows + row] = lse;
    for (key, &weight) in keys.iter().zip(&weights) {
        add(&mut answer.out[here.clone()], weight, &inputs.v[key.clone()]);
    }

    let Some(dout) = inputs.dout.map(|dout| &dout[here.clone()]) else { return };
    let dweights: Vec<f64> = keys.iter().map(|key| dot(dout, &inputs.v[key.clone()])).collect();
    let mean = dot(&weights, &dweights);
    for (n, key) in keys.iter().enumerate() {
        let dscore = weights[n] * (dweights[n] - mean);
        let dproduct = scale * cap_slope(attention, products[n]) * dscore;
        add(&mut answer.dq[here.clone()], dproduct, &inputs.k[key.clone()]);
        add(&mut answer.dk[key.clone()], dproduct, q);
        add(&mut answer.dv[key.clone()], weights[n], dout);
    }
}

fn cap(attention: &Attention, x: f64) -> f64 {
    attention.softcap().map_or(x, |cap| f64::from(cap) * (x / f64::from(cap)).tanh())
}

fn cap_slope(attention: &Attention, x: f64) -> f64 {
    attention.softcap().map_or(1.0, |cap| 1.0 - (x / f64::from(cap)).tanh().powi(2))
}

fn log_sum_exp(x: &[f64]) -> f64 {
    let max = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    max + x.iter().map(|x| (x - max).exp()).sum::<f64>().ln()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(to: &mut [f64], factor: f64, from: &[f64]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to += factor * from);
}

//! One plain varlen batch, keys and values apart.

use super::call::{Data, Manner, call};
use super::{Outcome, Result, RunError, check_elements};
use crate::dev::Harness;
use crate::{Attention, Device, Element, Problem, Varlen};
use std::vec;
use std::vec::Vec;

/// A varlen batch, dense on the host.
#[derive(Clone, Copy, Debug)]
pub struct VarlenBatch<'a, E> {
    /// The documents.
    pub varlen: Varlen<'a>,
    /// The operator.
    pub attention: Attention,
    /// Queries, `[q_rows, heads, head_dim]`.
    pub q: &'a [E],
    /// Keys, `[k_rows, kv_heads, head_dim]`.
    pub k: &'a [E],
    /// Values, `[k_rows, kv_heads, head_dim]`.
    pub v: &'a [E],
    /// Gradient of the output, `[q_rows, heads, head_dim]`. Without it only the forward pass runs.
    pub dout: Option<&'a [E]>,
}

/// Gradients of a varlen batch.
#[derive(Clone, Debug, PartialEq)]
pub struct VarlenGradients<E> {
    /// `[q_rows, heads, head_dim]`.
    pub dq: Vec<E>,
    /// `[k_rows, kv_heads, head_dim]`.
    pub dk: Vec<f32>,
    /// `[k_rows, kv_heads, head_dim]`.
    pub dv: Vec<f32>,
}

/// Runs a varlen batch forward and, with a gradient of the output, backward into zeros.
///
/// # Errors
/// [`RunError`]: inputs of wrong sizes, or the device's own.
pub fn varlen<H: Harness, E: Element>(
    harness: &H,
    inputs: &VarlenBatch<'_, E>,
) -> Result<Outcome<E, VarlenGradients<E>>, H> {
    let problem = Problem::new(inputs.attention, inputs.varlen, E::DTYPE)?;
    let shape = problem.shape();
    let q_elements = shape.q_rows * shape.heads * shape.head_dim;
    let k_elements = shape.k_rows * shape.kv_heads * shape.head_dim;
    check_elements::<H>("q", inputs.q.len(), q_elements)?;
    check_elements::<H>("k", inputs.k.len(), k_elements)?;
    check_elements::<H>("v", inputs.v.len(), k_elements)?;
    check_elements::<H>("dout", inputs.dout.map_or(q_elements, <[E]>::len), q_elements)?;

    let data = Data {
        q: inputs.q.to_vec(),
        k: inputs.k.to_vec(),
        v: inputs.v.to_vec(),
        dout: inputs.dout.map(<[E]>::to_vec),
        dk: vec![0.0; k_elements],
        dv: vec![0.0; k_elements],
    };
    let prepared = harness.device().prepare(&problem).map_err(RunError::Device)?;
    let results = call(harness, &shape, &prepared, &data, Manner::default())?;
    let gradients = results.gradients.map(|g| VarlenGradients { dq: g.dq, dk: g.dk, dv: g.dv });
    Ok(Outcome { out: results.out, lse: results.lse, gradients })
}

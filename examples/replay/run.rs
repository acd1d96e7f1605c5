//! Running a case on a device.

use crate::case::{Case, Form, Tensor};
use crate::common::tensors::Stored;
use anyhow::{Context, Result};
use microseq::dev::Harness;
use microseq::dev::run::{self, Options, Sequence, VarlenBatch};
use microseq::{Element, Plan, Varlen};
use safetensors::Dtype;

/// A tensor to write.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) name: &'static str,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Vec<u8>,
}

impl Output {
    fn new<T: Stored>(name: &'static str, shape: &[usize], elements: &[T]) -> Self {
        Self { name, dtype: T::STORED, shape: shape.into(), bytes: T::to_bytes(elements) }
    }
}

/// Runs a case; a sequence in steps of `micro_sequence_length` rows, or in one.
pub(crate) fn case<H, E>(
    harness: &H,
    case: &Case<E>,
    micro_sequence_length: Option<usize>,
) -> Result<Vec<Output>>
where
    H: Harness,
    E: Element + Stored,
{
    match &case.form {
        Form::Sequence { lengths, kv } => {
            let tokens = case.q.shape[0];
            // A sequence of no rows has no steps, but their length must be one.
            let rows = micro_sequence_length.unwrap_or(tokens.max(1));
            sequence(harness, case, Plan::padded(lengths, tokens, rows)?, kv)
        }
        Form::Op { cu_seqlens_q, cu_seqlens_k, k, v } => {
            let varlen = Varlen::new(cu_seqlens_q, cu_seqlens_k, case.q.shape[0], k.shape[0])?;
            op(harness, case, varlen, k, v)
        }
    }
}

fn sequence<H, E>(harness: &H, case: &Case<E>, plan: Plan<'_>, kv: &Tensor<E>) -> Result<Vec<Output>>
where
    H: Harness,
    E: Element + Stored,
{
    let inputs = Sequence {
        plan,
        attention: case.attention,
        q: &case.q.elements,
        kv: &kv.elements,
        dout: case.dout.as_deref(),
    };
    let outcome =
        run::sequence(harness, &inputs, Options::default()).context("the sequence cannot be run")?;
    let mut outputs = forward(case, &outcome.out, &outcome.lse);
    if let Some(gradients) = outcome.gradients {
        outputs.push(Output::new("dq", &case.q.shape, &gradients.dq));
        outputs.push(Output::new("dkv", &kv.shape, &gradients.dkv));
    }
    Ok(outputs)
}

fn op<H, E>(
    harness: &H,
    case: &Case<E>,
    varlen: Varlen<'_>,
    k: &Tensor<E>,
    v: &Tensor<E>,
) -> Result<Vec<Output>>
where
    H: Harness,
    E: Element + Stored,
{
    let inputs = VarlenBatch {
        varlen,
        attention: case.attention,
        q: &case.q.elements,
        k: &k.elements,
        v: &v.elements,
        dout: case.dout.as_deref(),
    };
    let outcome = run::varlen(harness, &inputs).context("the batch cannot be run")?;
    let mut outputs = forward(case, &outcome.out, &outcome.lse);
    if let Some(gradients) = outcome.gradients {
        outputs.push(Output::new("dq", &case.q.shape, &gradients.dq));
        outputs.push(Output::new("dk", &k.shape, &gradients.dk));
        outputs.push(Output::new("dv", &v.shape, &gradients.dv));
    }
    Ok(outputs)
}

fn forward<E: Stored>(case: &Case<E>, out: &[E], lse: &[f32]) -> Vec<Output> {
    let [rows, heads, _] = case.q.shape;
    vec![Output::new("out", &case.q.shape, out), Output::new("lse", &[heads, rows], lse)]
}

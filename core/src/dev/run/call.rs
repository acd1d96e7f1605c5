//! One prepared problem: a forward and a backward call over views of any arrangement.
//!
//! Every output is poisoned beforehand. Afterwards every input is checked, and every place around and
//! between the rows of an output.

use super::watched::{KvTensor, Watched, WatchedKv};
use super::{Result, RunError, poison};
use crate::dev::Harness;
use crate::dev::harness::{PreparedOf, SpaceOf};
use crate::dev::tensor::{Arrangement, Tensor};
use crate::{Backward, Device, Element, Forward, Layout, Pass, Shape};
use std::vec;
use std::vec::Vec;

/// Dense operands of a call.
#[derive(Clone, Debug)]
pub(crate) struct Data<E> {
    pub(crate) q: Vec<E>,
    pub(crate) k: Vec<E>,
    pub(crate) v: Vec<E>,
    /// Without it only the forward pass runs.
    pub(crate) dout: Option<Vec<E>>,
    /// What the gradient store holds before the call.
    pub(crate) dk: Vec<f32>,
    pub(crate) dv: Vec<f32>,
}

/// Dense results of a call.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Results<E> {
    pub(crate) out: Vec<E>,
    pub(crate) lse: Vec<f32>,
    pub(crate) gradients: Option<Gradients<E>>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Gradients<E> {
    pub(crate) dq: Vec<E>,
    pub(crate) dk: Vec<f32>,
    pub(crate) dv: Vec<f32>,
}

/// How the operands of a call lie in memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manner {
    pub(crate) arrangement: Arrangement,
    /// Keys and values in one buffer, or in two of different strides.
    pub(crate) packed: bool,
    /// Bytes by which scratch is off its buffer's begin.
    pub(crate) scratch_offset: usize,
    /// What scratch holds.
    pub(crate) scratch_byte: u8,
}

impl Default for Manner {
    fn default() -> Self {
        Self {
            arrangement: Arrangement::Dense,
            packed: false,
            scratch_offset: 0,
            scratch_byte: super::POISON_BYTE,
        }
    }
}

impl Manner {
    /// Every arrangement, packed and separate.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        let manner = |arrangement, packed| Self { arrangement, packed, ..Self::default() };
        Arrangement::ALL.into_iter().flat_map(move |a| [true, false].map(|packed| manner(a, packed)))
    }
}

/// What lies around outputs: not a NaN, whose bits might change in a copy.
const GUARD: f32 = -7.75;

/// Runs both passes of a prepared problem.
///
/// # Panics
/// Where the device changed an input, or a place outside the rows of an output.
pub(crate) fn call<H: Harness, E: Element>(
    harness: &H,
    shape: &Shape,
    prepared: &PreparedOf<H>,
    data: &Data<E>,
    manner: Manner,
) -> Result<Results<E>, H> {
    let mut call = Call::new(harness, shape, prepared, data, manner);
    call.forward()?;
    let out = call.out.take(harness, "out");
    let lse = call.lse.take_lse(harness);
    let gradients = match &data.dout {
        Some(dout) => Some(call.backward(dout, &data.dk, &data.dv)?),
        None => None,
    };
    call.q.assert_unchanged(harness, "q");
    call.kv.assert_unchanged(harness, "kv");
    Ok(Results { out, lse, gradients })
}

/// A call and its memory.
struct Call<'a, H: Harness, E: Element> {
    harness: &'a H,
    shape: &'a Shape,
    prepared: &'a PreparedOf<H>,
    manner: Manner,
    q_layout: Layout,
    q: Watched<H, E>,
    kv: WatchedKv<H, E>,
    out: Watched<H, E>,
    lse: Watched<H, f32>,
}

impl<'a, H: Harness, E: Element> Call<'a, H, E> {
    fn new(
        harness: &'a H,
        shape: &'a Shape,
        prepared: &'a PreparedOf<H>,
        data: &Data<E>,
        manner: Manner,
    ) -> Self {
        let q_layout = manner.arrangement.layout(shape.q_rows, shape.heads, shape.head_dim);
        let lse_layout = manner.arrangement.lse_layout(shape.heads, shape.q_rows);
        let kv = KvTensor::new(shape, manner, &data.k, &data.v, poison());
        Self {
            harness,
            shape,
            prepared,
            manner,
            q_layout,
            q: Watched::new(harness, Tensor::scatter(q_layout, &data.q, poison())),
            kv: WatchedKv::new(harness, kv),
            out: Watched::new(harness, Tensor::filled(q_layout, poison(), E::from_f32(GUARD))),
            lse: Watched::new(harness, Tensor::filled(lse_layout, poison(), GUARD)),
        }
    }

    fn forward(&mut self) -> Result<(), H> {
        let harness = self.harness;
        let mut scratch = Scratch::new(harness, self.prepared, Pass::Forward, self.manner);
        let operands = Forward {
            q: self.q.view(harness)?,
            kv: self.kv.view(harness)?,
            out: self.out.view_mut(harness)?,
            lse: self.lse.view_mut(harness)?,
        };
        let result = harness.device().forward(self.prepared, operands, scratch.lend(harness));
        // Scratch must outlive the work, failed or not.
        harness.synchronise();
        result.map_err(RunError::Device)
    }

    fn backward(&mut self, dout: &[E], dk: &[f32], dv: &[f32]) -> Result<Gradients<E>, H> {
        let harness = self.harness;
        let out = Watched::new(harness, self.out.now(harness));
        let lse = Watched::new(harness, self.lse.now(harness));
        let dout = Watched::new(harness, Tensor::scatter(self.q_layout, dout, poison()));
        let mut dq = Watched::new(harness, Tensor::filled(self.q_layout, poison(), E::from_f32(GUARD)));
        let mut dkv = WatchedKv::new(harness, KvTensor::new(self.shape, self.manner, dk, dv, GUARD));
        let mut scratch = Scratch::new(harness, self.prepared, Pass::Backward, self.manner);
        let operands = Backward {
            q: self.q.view(harness)?,
            kv: self.kv.view(harness)?,
            out: out.view(harness)?,
            lse: lse.view(harness)?,
            dout: dout.view(harness)?,
            dq: dq.view_mut(harness)?,
            dkv: dkv.view_mut(harness)?,
        };
        let result = harness.device().backward(self.prepared, operands, scratch.lend(harness));
        harness.synchronise();
        result.map_err(RunError::Device)?;
        out.assert_unchanged(harness, "out, in the backward pass");
        lse.assert_unchanged(harness, "lse, in the backward pass");
        dout.assert_unchanged(harness, "dout");
        let (dk, dv) = dkv.take(harness);
        Ok(Gradients { dq: dq.take(harness, "dq"), dk, dv })
    }
}

/// Scratch of the size that the device asks for, no more.
struct Scratch<H: Harness> {
    buffer: H::Buffer<u8>,
    offset: usize,
}

impl<H: Harness> Scratch<H> {
    fn new(harness: &H, prepared: &PreparedOf<H>, pass: Pass, manner: Manner) -> Self {
        let bytes = harness.device().scratch_bytes(prepared, pass) + manner.scratch_offset;
        let buffer = harness.upload(&vec![manner.scratch_byte; bytes]);
        Self { buffer, offset: manner.scratch_offset }
    }

    fn lend(&mut self, harness: &H) -> crate::Scratch<'_, SpaceOf<H>> {
        harness.view_mut_from(&mut self.buffer, self.offset)
    }
}

//! One prepared problem: a forward and a backward call over views of any arrangement.
//!
//! Every output is poisoned beforehand, and every place around and between the rows of an output is
//! checked afterwards.

use super::{Placed, Result, RunError, poison};
use crate::dev::Harness;
use crate::dev::harness::{PreparedOf, SpaceOf};
use crate::dev::oracle;
use crate::dev::tensor::{Arrangement, Tensor};
use crate::{Backward, Device, Element, Forward, KvMut, KvRef, Pass, Shape, ViewError};
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
/// Where the device changed a place outside the rows of an output.
pub(crate) fn call<H: Harness, E: Element>(
    harness: &H,
    shape: &Shape,
    prepared: &PreparedOf<H>,
    data: &Data<E>,
    manner: Manner,
) -> Result<Results<E>, H> {
    let arrangement = manner.arrangement;
    let q_layout = arrangement.layout(shape.q_rows, shape.heads, shape.head_dim);
    let lse_layout = arrangement.lse_layout(shape.heads, shape.q_rows);
    let place = |dense: &[E]| Placed::new(harness, q_layout, &input(q_layout, dense).memory);
    let q = place(&data.q);
    let kv = PlacedKv::new(harness, &KvTensor::new(shape, manner, &data.k, &data.v, poison()));
    let mut out = Output::new(harness, Tensor::filled(q_layout, poison(), E::from_f32(GUARD)));
    let mut lse = Output::new(harness, Tensor::filled(lse_layout, poison(), GUARD));

    let mut scratch = Scratch::new(harness, prepared, Pass::Forward, manner);
    let operands = Forward {
        q: q.rows(harness)?,
        kv: kv.view(harness)?,
        out: out.placed.rows_mut(harness)?,
        lse: lse.placed.rows_mut(harness)?,
    };
    harness.device().forward(prepared, operands, scratch.lend(harness)).map_err(RunError::Device)?;
    harness.synchronise();
    drop(scratch);

    let Some(dout) = &data.dout else {
        return Ok(Results { out: out.take(harness, "out"), lse: lse.take_lse(harness), gradients: None });
    };
    let dout = place(dout);
    let mut dq = Output::new(harness, Tensor::filled(q_layout, poison(), E::from_f32(GUARD)));
    let store = KvTensor::new(shape, manner, &data.dk, &data.dv, GUARD);
    let mut dkv = PlacedKv::new(harness, &store);
    let mut scratch = Scratch::new(harness, prepared, Pass::Backward, manner);
    let operands = Backward {
        q: q.rows(harness)?,
        kv: kv.view(harness)?,
        out: out.placed.rows(harness)?,
        lse: lse.placed.rows(harness)?,
        dout: dout.rows(harness)?,
        dq: dq.placed.rows_mut(harness)?,
        dkv: dkv.view_mut(harness)?,
    };
    harness.device().backward(prepared, operands, scratch.lend(harness)).map_err(RunError::Device)?;
    harness.synchronise();
    drop(scratch);

    let (dk, dv) = dkv.take(harness, &store);
    let gradients = Some(Gradients { dq: dq.take(harness, "dq"), dk, dv });
    Ok(Results { out: out.take(harness, "out"), lse: lse.take_lse(harness), gradients })
}

/// An input, poison in its gaps.
fn input<E: Element>(layout: crate::Layout, dense: &[E]) -> Tensor<E> {
    Tensor::scatter(layout, dense, poison())
}

/// Memory that a call writes, and what it held before.
pub(crate) struct Output<H: Harness, T: Element> {
    pub(crate) placed: Placed<H, T>,
    before: Tensor<T>,
}

impl<H: Harness, T: Element> Output<H, T> {
    pub(crate) fn new(harness: &H, before: Tensor<T>) -> Self {
        Self { placed: Placed::new(harness, before.layout, &before.memory), before }
    }

    /// The memory as it is now.
    pub(crate) fn now(&self, harness: &H) -> Tensor<T> {
        Tensor { layout: self.before.layout, memory: harness.download(&self.placed.buffer) }
    }

    /// The dense elements.
    pub(crate) fn take(&self, harness: &H, name: &str) -> Vec<T> {
        let now = self.now(harness);
        if let Some(place) = now.first_change_outside(&self.before) {
            panic!("{name}: element {place} of the memory is outside the view {:?}, yet changed", now.layout);
        }
        now.collect()
    }
}

impl<H: Harness> Output<H, f32> {
    /// The dense elements of an lse, `[heads, rows]`.
    fn take_lse(&self, harness: &H) -> Vec<f32> {
        transpose(&self.take(harness, "lse"), self.before.layout.heads())
    }
}

/// `[rows, heads]` to `[heads, rows]`.
fn transpose(dense: &[f32], heads: usize) -> Vec<f32> {
    (0..heads).flat_map(|head| dense.iter().skip(head).step_by(heads).copied()).collect()
}

/// Keys and values on the host, or their gradients.
pub(crate) enum KvTensor<T> {
    Packed(Tensor<T>),
    Separate(Tensor<T>, Tensor<T>),
}

impl<T: Element> KvTensor<T> {
    pub(crate) fn new(shape: &Shape, manner: Manner, k: &[T], v: &[T], gap: T) -> Self {
        let (rows, heads, head_dim) = (shape.k_rows, shape.kv_heads, shape.head_dim);
        let layout = manner.arrangement.layout(rows, heads, head_dim);
        if manner.packed {
            let layout = manner.arrangement.layout(rows, 2 * heads, head_dim);
            return Self::Packed(Tensor::scatter(layout, &oracle::pack(k, v, heads, head_dim), gap));
        }
        // Strides of the values that differ from those of the keys.
        let v_layout = layout.with_offset(layout.offset() + 4);
        let v_layout =
            v_layout.with_row_stride(v_layout.row_stride() + if rows_lead(&v_layout) { 6 } else { 0 });
        Self::Separate(Tensor::scatter(layout, k, gap), Tensor::scatter(v_layout, v, gap))
    }
}

/// Whether a row's heads lie together, so that rows may move apart.
fn rows_lead(layout: &crate::Layout) -> bool {
    layout.row_stride() >= layout.heads() * layout.head_stride()
}

/// Keys and values in the device's space, or their gradients.
pub(crate) enum PlacedKv<H: Harness, T: Element> {
    Packed(Placed<H, T>),
    Separate(Placed<H, T>, Placed<H, T>),
}

type ViewResult<T> = core::result::Result<T, ViewError>;

impl<H: Harness, T: Element> PlacedKv<H, T> {
    pub(crate) fn new(harness: &H, tensor: &KvTensor<T>) -> Self {
        let place = |tensor: &Tensor<T>| Placed::new(harness, tensor.layout, &tensor.memory);
        match tensor {
            KvTensor::Packed(kv) => Self::Packed(place(kv)),
            KvTensor::Separate(k, v) => Self::Separate(place(k), place(v)),
        }
    }

    pub(crate) fn view(&self, harness: &H) -> ViewResult<KvRef<'_, SpaceOf<H>, T>> {
        match self {
            Self::Packed(kv) => KvRef::packed(kv.rows(harness)?),
            Self::Separate(k, v) => KvRef::separate(k.rows(harness)?, v.rows(harness)?),
        }
    }

    pub(crate) fn view_mut(&mut self, harness: &H) -> ViewResult<KvMut<'_, SpaceOf<H>, T>> {
        match self {
            Self::Packed(kv) => KvMut::packed(kv.rows_mut(harness)?),
            Self::Separate(k, v) => KvMut::separate(k.rows_mut(harness)?, v.rows_mut(harness)?),
        }
    }

    /// The dense keys and values.
    ///
    /// # Panics
    /// Where a place outside the rows changed.
    pub(crate) fn take(self, harness: &H, before: &KvTensor<T>) -> (Vec<T>, Vec<T>) {
        let take =
            |placed, before: &Tensor<T>, name| Output { placed, before: before.clone() }.take(harness, name);
        match (self, before) {
            (Self::Packed(kv), KvTensor::Packed(before)) => {
                let dense = take(kv, before, "dkv");
                let layout = before.layout;
                oracle::unpack(&dense, layout.heads() / 2, layout.head_dim())
            }
            (Self::Separate(k, v), KvTensor::Separate(k_before, v_before)) => {
                (take(k, k_before, "dk"), take(v, v_before, "dv"))
            }
            _ => unreachable!("made from the tensor it is compared with"),
        }
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

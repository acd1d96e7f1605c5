//! Drives a device as a runtime would, over data that lies densely on the host.
//!
//! [`sequence`] runs a whole packed sequence step by step over one slot, with simulated ranks;
//! [`ranked`] runs one rank's part of it, over a transport; [`varlen`] runs one plain varlen batch. Both poison every output beforehand, so what a device
//! leaves unwritten comes back as NaN.

pub(crate) mod call;
mod ranked;
mod sequence;
mod varlen;
pub(crate) mod watched;

pub use ranked::{RankedError, ranked, together};
pub use sequence::{Options, Sequence, SequenceGradients, sequence};
pub use varlen::{VarlenBatch, VarlenGradients, varlen};

use crate::dev::Harness;
use crate::dev::harness::{PreparedOf, SpaceOf};
use crate::{
    Device, Element, Layout, Pass, PlanError, ProblemError, RowsMut, RowsRef, SlotError, StepError,
    VarlenError, ViewError,
};
use std::vec;
use std::vec::Vec;
use thiserror::Error;

/// What a pass gives; `gradients` where a gradient of the output was given.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome<E, G> {
    /// `[rows, heads, head_dim]`.
    pub out: Vec<E>,
    /// `[heads, rows]`.
    pub lse: Vec<f32>,
    /// The gradients of the inputs.
    pub gradients: Option<G>,
}

/// Why a run failed; `D` is the device's error.
#[derive(Clone, Debug, PartialEq, Error)]
#[non_exhaustive]
pub enum RunError<D: core::error::Error> {
    /// An input with too few or too many elements.
    #[error("{input} has {given} elements, expected {expected}")]
    Elements {
        /// Which input.
        input: &'static str,
        /// Elements that fit.
        expected: usize,
        /// Elements given.
        given: usize,
    },
    /// Lengths that cannot be planned.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Bad `cu_seqlens`.
    #[error(transparent)]
    Varlen(#[from] VarlenError),
    /// An operator that cannot be applied to a step.
    #[error(transparent)]
    Problem(#[from] ProblemError),
    /// A share that cannot be had of a step.
    #[error(transparent)]
    Step(#[from] StepError),
    /// A step out of turn.
    #[error(transparent)]
    Slot(#[from] SlotError),
    /// A view that cannot be made.
    #[error(transparent)]
    View(#[from] ViewError),
    /// The device's own.
    #[error("the device failed: {0}")]
    Device(#[source] D),
}

/// The result of a run on a harness's device.
pub type Result<T, H> = core::result::Result<T, RunError<super::ErrorOf<H>>>;

/// What outputs hold before a call.
pub(crate) fn poison<E: Element>() -> E {
    E::from_f32(f32::NAN)
}

/// Bytes that read as NaN in every element type.
const POISON_BYTE: u8 = 0xff;

/// Scratch for both passes over all of the prepared problems, poisoned.
fn scratch<'p, H: Harness>(harness: &H, prepared: impl Iterator<Item = &'p PreparedOf<H>>) -> H::Buffer<u8>
where
    PreparedOf<H>: 'p,
{
    let device = harness.device();
    let bytes = prepared
        .flat_map(|p| [Pass::Forward, Pass::Backward].map(|pass| device.scratch_bytes(p, pass)))
        .max();
    harness.upload(&vec![POISON_BYTE; bytes.unwrap_or(0)])
}

fn check_elements<H: Harness>(input: &'static str, given: usize, expected: usize) -> Result<(), H> {
    if given != expected {
        return Err(RunError::Elements { input, expected, given });
    }
    Ok(())
}

/// A buffer of the harness and the tensor in it.
struct Placed<H: Harness, T: Element> {
    buffer: H::Buffer<T>,
    layout: Layout,
}

impl<H: Harness, T: Element> Placed<H, T> {
    /// Copies memory that a layout speaks of.
    fn new(harness: &H, layout: Layout, memory: &[T]) -> Self {
        Self { buffer: harness.upload(memory), layout }
    }

    /// A dense tensor of one value.
    fn filled(harness: &H, layout: Layout, value: T) -> Self {
        let elements = layout.rows() * layout.heads() * layout.head_dim();
        Self::new(harness, layout, &vec![value; elements])
    }

    fn rows(&self, harness: &H) -> core::result::Result<RowsRef<'_, SpaceOf<H>, T>, ViewError> {
        RowsRef::new(harness.view(&self.buffer), self.layout)
    }

    fn rows_mut(&mut self, harness: &H) -> core::result::Result<RowsMut<'_, SpaceOf<H>, T>, ViewError> {
        RowsMut::new(harness.view_mut(&mut self.buffer), self.layout)
    }
}

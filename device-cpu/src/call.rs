//! What a call needs besides its operands: scratch, dq on its way, and rows that no kernel visits.

use crate::Prepared;
use crate::kernel::{backward, forward};
use crate::prepare::RelayPlace;
use crate::scratch::{self, Carver};
use crate::strided::StridedMut;
use core::ops::Range;
use core::sync::atomic::{AtomicU32, Ordering};
use microseq_core::{Pass, Scalar, ShapeError};

/// How a call's scratch is divided: what the lanes share, then a part for each.
pub(crate) struct ScratchPlan {
    shared: usize,
    pub(crate) lane: usize,
    pub(crate) lanes: usize,
}

impl ScratchPlan {
    pub(crate) fn new(prepared: &Prepared, pass: Pass, threads: usize) -> Self {
        let geometry = prepared.geometry();
        let (shared, lane, units) = match pass {
            Pass::Forward => (
                0,
                forward::bytes(&geometry, prepared.shape.head_dim, prepared.block_rows),
                prepared.forward.units().len(),
            ),
            Pass::Backward => (
                Relays::bytes(prepared),
                backward::bytes(&geometry, prepared.shape.head_dim, prepared.block_keys),
                prepared.backward.units().len(),
            ),
        };
        let lanes = threads.min(units);
        Self { shared, lane, lanes }
    }

    /// Bytes to ask of a caller.
    pub(crate) fn bytes(&self) -> usize {
        match self.shared + self.lane * self.lanes {
            0 => 0,
            bytes => bytes + scratch::ALIGN - 1,
        }
    }

    /// Whether a caller lent as much.
    pub(crate) fn check(&self, scratch: &[u8]) -> Result<(), ShapeError> {
        if scratch.len() < self.bytes() {
            return Err(ShapeError::Scratch { expected: self.bytes(), given: scratch.len() });
        }
        Ok(())
    }
}

/// dq on its way, of all documents.
pub(crate) struct Relays {
    dq: *mut f32,
    turns: *const AtomicU32,
}

// SAFETY: the pointers are into the call's exclusive scratch; who may use which part of it when is
// the contract of `backward::run`.
unsafe impl Sync for Relays {}

impl Relays {
    pub(crate) fn carve(memory: &mut Carver, prepared: &Prepared) -> Self {
        Self { dq: memory.take(prepared.relay_elements), turns: memory.take(prepared.relay_turns) }
    }

    fn bytes(prepared: &Prepared) -> usize {
        Carver::count(|memory| Self::carve(memory, prepared))
    }

    /// No turn has been taken yet.
    pub(crate) fn reset(&self, prepared: &Prepared) {
        for turn in 0..prepared.relay_turns {
            // SAFETY: the array holds that many; any bytes are an `AtomicU32`.
            unsafe { (*self.turns.add(turn)).store(0, Ordering::Relaxed) };
        }
    }

    /// The relay of a document and a K/V head, if its dq is handed on.
    pub(crate) fn relay(
        &self,
        prepared: &Prepared,
        document: usize,
        kv_head: usize,
    ) -> Option<backward::Relay> {
        let RelayPlace { elements, turns, places } = prepared.documents[document].relay?;
        let first = kv_head * places;
        let len = backward::relay_len(&prepared.geometry());
        // SAFETY: the arrays were sized for the places of every K/V head of such documents.
        unsafe {
            let (dq, turns) = (self.dq.add(elements + first * len), self.turns.add(turns + first));
            Some(backward::Relay { dq, turns, places })
        }
    }
}

/// Fills every head of some query rows.
///
/// # Safety
/// The rows and the problem's heads are inside the view, whose heads hold `head_dim` elements; no
/// other thread touches them.
pub(crate) unsafe fn fill_rows<T: Scalar>(
    to: &StridedMut<T>,
    rows: Range<usize>,
    prepared: &Prepared,
    head_dim: usize,
    value: T,
) {
    for row in rows {
        for head in 0..prepared.shape.heads {
            // SAFETY: the caller vouches for row and head.
            unsafe { core::slice::from_raw_parts_mut(to.at(row, head), head_dim) }.fill(value);
        }
    }
}

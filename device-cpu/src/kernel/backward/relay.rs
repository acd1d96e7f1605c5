//! dq of a block of rows, summed up by the document's blocks of keys in ascending order.

use super::{Call, Rows};
use crate::kernel::rows::Sight;
use crate::kernel::{Geometry, ROW_PANELS, pack};
use crate::simd::Simd;
use core::sync::atomic::{AtomicU32, Ordering};
use microseq_core::Element;

/// dq of a document and a K/V head on its way from block to block of keys.
#[derive(Clone, Copy)]
pub(crate) struct Relay {
    /// `[block of rows][panel][width][2 * LANES]`.
    pub(crate) dq: *mut f32,
    /// For each block of rows, one more than the last block of keys that added to it; 0 before any.
    pub(crate) turns: *const AtomicU32,
}

/// Elements of dq of a block of rows on its way.
pub(crate) const fn relay_len(geometry: &Geometry) -> usize {
    geometry.row_block() * geometry.width
}

impl<E: Element> Call<'_, E> {
    /// Where dq of a block of rows is summed up: waits until the block of keys before has added to it, or
    /// starts from 0 where this is the first that the rows see.
    ///
    /// # Safety
    /// As [`run`](super::run).
    #[inline(always)]
    pub(super) unsafe fn take_turn<S: Simd>(&self, index: usize, sight: &Sight) -> *mut f32 {
        let Self { operands, block, arrays, .. } = self;
        let len = relay_len(&self.geometry);
        // SAFETY: the relay holds all blocks of rows of the document.
        unsafe {
            let dq = match block.relay {
                None => arrays.dq,
                Some(relay) => relay.dq.add(index * len),
            };
            let first = sight.first_begin / operands.block_keys;
            if block.index <= first {
                for i in (0..len).step_by(S::LANES) {
                    S::store(dq.add(i), S::splat(0.0));
                }
            } else if let Some(relay) = block.relay {
                // The block before was taken earlier and has the same rows still to come: it is never far.
                let turn = &*relay.turns.add(index);
                while turn.load(Ordering::Acquire) as usize != block.index {
                    core::hint::spin_loop();
                    std::thread::yield_now();
                }
            }
            dq
        }
    }

    /// Hands dq on to the next block of keys, or writes it where this is the last that the rows see.
    ///
    /// # Safety
    /// As [`run`](super::run).
    #[inline(always)]
    pub(super) unsafe fn end_turn<S: Simd>(&self, index: usize, rows: Rows, sight: &Sight, dq: *mut f32) {
        let Self { operands, block, arrays, .. } = self;
        let Geometry { panel: lanes, width, .. } = self.geometry;
        let last = (sight.last_end - 1) / operands.block_keys;
        // SAFETY: the relay holds all blocks of rows of the document; the rows are the document's, and
        // after the last block of keys no other thread writes them.
        unsafe {
            if block.index < last {
                if let Some(relay) = block.relay {
                    (*relay.turns.add(index)).store(block.index as u32 + 1, Ordering::Release);
                }
                return;
            }
            for panel in 0..ROW_PANELS {
                let (first, count) = rows.panel::<S>(panel);
                let dq = dq.add(panel * lanes * width);
                for i in (0..lanes * width).step_by(S::LANES) {
                    S::store(dq.add(i), S::add(S::load(dq.add(i)), S::splat(0.0)));
                }
                // The packed rows are not needed any more.
                pack::from_lanes::<S>(dq, width, arrays.staging);
                pack::write_rows::<S, E>(
                    &block.document,
                    arrays.staging,
                    first,
                    count,
                    operands.head_dim,
                    &operands.dq,
                );
            }
        }
    }
}

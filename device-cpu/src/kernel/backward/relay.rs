//! dq of a block of rows, summed up by the document's blocks of keys in ascending order.

use super::Call;
use crate::kernel::products::Products;
use crate::kernel::{Geometry, KEYS, ROWS, pack};
use core::ops::Range;
use core::sync::atomic::{AtomicU32, Ordering};
use microseq_core::Element;

/// dq of a document and a K/V head on its way from block to block of keys.
#[derive(Clone, Copy)]
pub(crate) struct Relay {
    /// `[block of rows][row][width]`.
    pub(crate) dq: *mut f32,
    /// For each block of rows, one more than the last block of keys that added to it; 0 before any.
    pub(crate) turns: *const AtomicU32,
}

/// Elements of dq of a block of rows on its way.
pub(crate) const fn relay_len(geometry: &Geometry) -> usize {
    ROWS * geometry.width
}

impl<E: Element> Call<'_, E> {
    /// The blocks of keys that see rows: the first and the last.
    #[inline(always)]
    fn blocks_of_keys(&self, rows: &Range<usize>) -> (usize, usize) {
        let (document, keys) = (&self.block.document, self.operands.block_keys);
        (document.keys(rows.start).start / keys, (document.keys(rows.end - 1).end - 1) / keys)
    }

    /// Whether each row's dq is complete after one tile, and is rounded at once.
    #[inline(always)]
    pub(super) fn sees_whole_rows(&self, keys: &Range<usize>) -> bool {
        let one_tile = self.block.relay.is_none() && keys.len() <= KEYS;
        one_tile && self.operands.head_dim == self.geometry.width
    }

    /// Where dq of a block of rows is summed up: waits until the block of keys before has added to it. The
    /// first that the rows see starts from nothing.
    ///
    /// # Safety
    /// As [`run`](super::run).
    #[inline(always)]
    pub(super) unsafe fn take_turn(&self, index: usize, rows: &Range<usize>) -> *mut f32 {
        let Self { block, arrays, .. } = self;
        let Some(relay) = block.relay else { return arrays.dq };
        let (first, _) = self.blocks_of_keys(rows);
        // SAFETY: the relay holds all blocks of rows of the document.
        unsafe {
            if block.index > first {
                // The block before was taken earlier and has the same rows still to come: it is never far.
                let turn = &*relay.turns.add(index);
                while turn.load(Ordering::Acquire) as usize != block.index {
                    core::hint::spin_loop();
                    std::thread::yield_now();
                }
            }
            relay.dq.add(index * relay_len(&self.geometry))
        }
    }

    /// Hands dq on to the next block of keys, or writes it where this is the last that the rows see.
    ///
    /// # Safety
    /// As [`run`](super::run).
    #[inline(always)]
    pub(super) unsafe fn end_turn<P: Products>(&self, index: usize, rows: &Range<usize>, dq: *mut f32) {
        let Self { operands, block, geometry, .. } = self;
        if self.sees_whole_rows(&block.keys(operands.block_keys)) {
            return;
        }
        let (_, last) = self.blocks_of_keys(rows);
        // SAFETY: the relay holds all blocks of rows of the document; the rows are the document's, and
        // after the last block of keys no other thread writes them.
        unsafe {
            if block.index < last {
                if let Some(relay) = block.relay {
                    (*relay.turns.add(index)).store(block.index as u32 + 1, Ordering::Release);
                }
                return;
            }
            for (i, (row, head)) in block.document.places(rows.start).take(rows.len()).enumerate() {
                let dq = dq.add(i * geometry.width);
                pack::narrow::<P::S, P::A, E>(dq, 1.0, operands.head_dim, operands.dq.at(row, head));
            }
        }
    }
}

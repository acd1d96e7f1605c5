//! dq of a block of rows, summed up by the document's blocks of keys in ascending order.

use super::{Call, rows_of_block};
use crate::kernel::products::Products;
use crate::kernel::{Geometry, KEYS, ROWS, pack};
use core::ops::Range;
use core::sync::atomic::{AtomicU32, Ordering};
use microseq_core::Element;

/// dq of a document and a K/V head on its way from block to block of keys.
///
/// A block of rows takes the place of the one [`places`](Self::places) before it, which no block of keys
/// sees that sees it too: the last block of keys of the one comes before the first of the other.
#[derive(Clone, Copy)]
pub(crate) struct Relay {
    /// `[place][row][width]`.
    pub(crate) dq: *mut f32,
    /// For each place, one more than the last block of keys that is done with it; 0 before any.
    pub(crate) turns: *const AtomicU32,
    /// Places for blocks of rows.
    pub(crate) places: usize,
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

    /// The turn at which a block of keys may add to dq of block `index` of rows: once the block of keys
    /// before it is done, or the last one of the rows that had the place.
    #[inline(always)]
    fn turn_to_await(&self, relay: &Relay, index: usize, rows: &Range<usize>) -> usize {
        let Self { block, .. } = self;
        if block.index > self.blocks_of_keys(rows).0 {
            block.index
        } else if index >= relay.places {
            self.blocks_of_keys(&rows_of_block(&block.document, index - relay.places)).1 + 1
        } else {
            0
        }
    }

    /// Where dq of a block of rows is summed up: waits until it is this block of keys' turn. The first that
    /// the rows see starts from nothing.
    ///
    /// # Safety
    /// As [`run`](super::run).
    #[inline(always)]
    pub(super) unsafe fn take_turn(&self, index: usize, rows: &Range<usize>) -> *mut f32 {
        let Self { block, arrays, .. } = self;
        let Some(relay) = block.relay else { return arrays.dq };
        let (awaited, place) = (self.turn_to_await(&relay, index, rows), index % relay.places);
        // SAFETY: places are below their count.
        unsafe {
            let turn = &*relay.turns.add(place);
            // Blocks of keys wait for earlier ones only, which were taken before: the first of those at
            // work waits for none. They have the same rows still to come: they are never far.
            while turn.load(Ordering::Acquire) as usize != awaited {
                core::hint::spin_loop();
                std::thread::yield_now();
            }
            relay.dq.add(place * relay_len(&self.geometry))
        }
    }

    /// Writes dq where this is the last block of keys that the rows see, and hands it, or its place, on.
    ///
    /// # Safety
    /// As [`run`](super::run).
    #[inline(always)]
    pub(super) unsafe fn end_turn<P: Products>(&self, index: usize, rows: &Range<usize>, dq: *mut f32) {
        let Self { operands, block, geometry, .. } = self;
        if self.sees_whole_rows(&block.keys(operands.block_keys)) {
            return;
        }
        // SAFETY: the rows are the document's, and after the last block of keys no other thread writes
        // them; places are below their count.
        unsafe {
            if block.index == self.blocks_of_keys(rows).1 {
                for (i, (row, head)) in block.document.places(rows.start).take(rows.len()).enumerate() {
                    let dq = dq.add(i * geometry.width);
                    pack::narrow::<P::S, P::A, E>(dq, 1.0, operands.head_dim, operands.dq.at(row, head));
                }
            }
            if let Some(relay) = block.relay {
                let turn = &*relay.turns.add(index % relay.places);
                turn.store(block.index as u32 + 1, Ordering::Release);
            }
        }
    }
}

//! Asking for memory before it is needed: the next block of rows, the next block of keys.

use super::{Block, Operands, Rows, row_blocks_that_see};
use crate::kernel::pack;
use core::ops::Range;
use microseq_core::Element;

/// Part of a whole that is asked for in pieces: from `.0` on, `.1` of `.2`.
pub(super) type Share = (usize, usize, usize);

/// The part of `0..count` that falls to a share.
#[inline(always)]
fn part(count: usize, (done, step, all): Share) -> Range<usize> {
    done * count / all..(done + step).min(all) * count / all
}

impl Block {
    /// Asks for a share of `rows`: while tiles of keys meet one block of rows, the next arrives.
    ///
    /// # Safety
    /// The document and the head are inside the operands' views; the rows are the document's.
    #[inline(always)]
    pub(super) unsafe fn prefetch_rows<E: Element>(&self, operands: &Operands<E>, rows: Rows, share: Share) {
        for row in part(rows.end - rows.begin, share) {
            let (row, head) = self.document.place(rows.begin + row);
            // SAFETY: the rows are the document's.
            unsafe {
                for from in [&operands.q, &operands.out, &operands.dout] {
                    pack::prefetch(from.at(row, head), operands.head_dim);
                }
                if self.relay.is_none() {
                    pack::prefetch(operands.dq.at(row, head), operands.head_dim);
                }
            }
        }
    }

    /// Asks for a share of the block's keys, their gradients, and the rows that it starts with.
    ///
    /// # Safety
    /// The document and the head are inside the operands' views.
    #[inline(always)]
    pub(super) unsafe fn prefetch_start<E: Element>(
        &self,
        operands: &Operands<E>,
        rows_of_block: usize,
        share: Share,
    ) {
        let (keys, head, head_dim) = (self.keys(operands.block_keys), self.kv_head, operands.head_dim);
        let row_blocks = row_blocks_that_see(&self.document, &keys, rows_of_block);
        // SAFETY: the keys and the rows are the document's.
        unsafe {
            for key in part(keys.len(), share) {
                let row = self.document.segment.k_begin + keys.start + key;
                pack::prefetch(operands.k.at(row, head), head_dim);
                pack::prefetch(operands.v.at(row, head), head_dim);
                pack::prefetch(operands.dk.at(row, head), head_dim);
                pack::prefetch(operands.dv.at(row, head), head_dim);
            }
            if let Some(last) = row_blocks.last() {
                self.prefetch_rows(operands, Rows::of_block(&self.document, last, rows_of_block), share);
            }
        }
    }
}

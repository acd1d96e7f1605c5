//! What is needed next: the next block of rows, the next block of keys.

use super::{Block, Operands, row_blocks_that_see, rows_of_block};
use crate::kernel::Places;
use crate::kernel::ahead::Ahead;
use core::ops::Range;
use microseq_core::Element;

/// Part of a whole that is asked for in pieces: from `.0` on, `.1` of `.2`.
pub(super) type Share = (usize, usize, usize);
const ALL: Share = (0, 1, 1);

/// The part of `0..count` that falls to a share.
#[inline(always)]
fn part(count: usize, (done, step, all): Share) -> Range<usize> {
    done * count / all..(done + step).min(all) * count / all
}

impl Block {
    /// Asks for a share of some rows.
    #[inline(always)]
    pub(super) fn ask_rows<E: Element>(
        &self,
        operands: &Operands<E>,
        rows: &Range<usize>,
        share: Share,
        ahead: &mut Ahead,
    ) {
        let part = part(rows.len(), share);
        let places = self.document.places(rows.start + part.start);
        ahead.add(operands.q.span(places, part.len(), operands.head_dim));
        ahead.add(operands.dout.span(places, part.len(), operands.head_dim));
        if self.need_output(&operands.scoring, rows) {
            ahead.add(operands.out.span(places, part.len(), operands.head_dim));
        }
        if self.relay.is_none() {
            ahead.add(operands.dq.span(places, part.len(), operands.head_dim));
        }
    }

    /// Asks for a share of the block's keys and their gradients.
    #[inline(always)]
    pub(super) fn ask_keys<E: Element>(&self, operands: &Operands<E>, share: Share, ahead: &mut Ahead) {
        let keys = self.keys(operands.block_keys);
        let part = part(keys.len(), share);
        let row = self.document.segment.k_begin + keys.start + part.start;
        let (places, head_dim) = (Places::down(row, self.kv_head), operands.head_dim);
        ahead.add(operands.k.span(places, part.len(), head_dim));
        ahead.add(operands.v.span(places, part.len(), head_dim));
        ahead.add(operands.dk.span(places, part.len(), head_dim));
        ahead.add(operands.dv.span(places, part.len(), head_dim));
    }

    /// The rows that the block starts with.
    #[inline(always)]
    pub(super) fn first_rows<E: Element>(&self, operands: &Operands<E>) -> Range<usize> {
        let blocks = row_blocks_that_see(&self.document, &self.keys(operands.block_keys));
        blocks.last().map_or(self.opening(), |last| rows_of_block(&self.document, last))
    }

    /// Asks for the rows that the block starts with.
    #[inline(always)]
    pub(in crate::kernel) fn ask_first_rows<E: Element>(&self, operands: &Operands<E>, ahead: &mut Ahead) {
        self.ask_rows(operands, &self.first_rows(operands), ALL, ahead);
    }

    /// Asks for all of the block's keys.
    #[inline(always)]
    pub(in crate::kernel) fn ask_all_keys<E: Element>(&self, operands: &Operands<E>, ahead: &mut Ahead) {
        self.ask_keys(operands, ALL, ahead);
    }
}

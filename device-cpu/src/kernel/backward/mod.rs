//! The backward pass over one block of a document's keys: `dq =`, `dk +=`, `dv +=`.
//!
//! dk and dv of the block start from the gradient store and take up the document's rows from the last
//! to the first, a block of panels at a time: products, probabilities, then the three products of the
//! gradients ([`visit`]). dq of a block of rows is handed from one block of keys to the next,
//! ascending, and written by the last ([`relay`]).

mod ahead;
mod arrays;
mod load;
mod relay;
mod visit;

use super::rows::DocumentRows;
use super::softmax::Scoring;
use super::{Arithmetic, Geometry, KEYS, padded};
use crate::scratch::Carver;
use crate::simd::Simd;
use crate::strided::{StridedMut, StridedRef};
use arrays::Arrays;
use core::ops::Range;
use microseq_core::Element;

pub(crate) use arrays::bytes;
pub(crate) use relay::{Relay, relay_len};

/// The most keys of a block: as many tiles as keep keys, values and their gradients in a core's own
/// cache and what is next to it. Blocks may have fewer, in tiles; no bit depends on it.
pub(crate) const fn largest_block(head_dim: usize) -> usize {
    let tiles = 512 / padded(head_dim);
    KEYS * if tiles > 4 {
        4
    } else if tiles < 1 {
        1
    } else {
        tiles
    }
}

/// Operands of a backward call.
pub(crate) struct Operands<E> {
    pub(crate) q: StridedRef<E>,
    pub(crate) k: StridedRef<E>,
    pub(crate) v: StridedRef<E>,
    pub(crate) out: StridedRef<E>,
    pub(crate) lse: StridedRef<f32>,
    pub(crate) dout: StridedRef<E>,
    pub(crate) dq: StridedMut<E>,
    pub(crate) dk: StridedMut<f32>,
    pub(crate) dv: StridedMut<f32>,
    pub(crate) head_dim: usize,
    /// Keys of a block.
    pub(crate) block_keys: usize,
    pub(crate) scoring: Scoring,
}

/// A block of a document's keys, for one K/V head.
pub(crate) struct Block {
    pub(crate) document: DocumentRows,
    pub(crate) kv_head: usize,
    /// The block's number; it begins at key `index * block_keys`.
    pub(crate) index: usize,
    /// The document's dq in the making, where it has more than one block of keys.
    pub(crate) relay: Option<Relay>,
}

impl Block {
    /// The block's keys.
    fn keys(&self, block_keys: usize) -> Range<usize> {
        let begin = self.index * block_keys;
        begin..self.document.segment.k_len.min(begin + block_keys)
    }
}

/// Some of a document's rows.
#[derive(Clone, Copy)]
struct Rows {
    begin: usize,
    end: usize,
}

impl Rows {
    /// The rows of block `index` of a document.
    #[inline(always)]
    fn of_block(document: &DocumentRows, index: usize, rows_of_block: usize) -> Self {
        let begin = index * rows_of_block;
        Self { begin, end: document.len().min(begin + rows_of_block) }
    }

    /// First row and number of rows of a panel.
    #[inline(always)]
    fn panel<S: Simd>(&self, panel: usize) -> (usize, usize) {
        let first = (self.begin + panel * 2 * S::LANES).min(self.end);
        (first, (self.end - first).min(2 * S::LANES))
    }
}

/// The blocks of rows that see some of the keys `keys`: all between the first and the last.
pub(crate) fn row_blocks_that_see(
    document: &DocumentRows,
    keys: &Range<usize>,
    rows_of_block: usize,
) -> Range<usize> {
    let count = document.len().div_ceil(rows_of_block);
    let sight = |block: usize| {
        document.sight(block * rows_of_block, ((block + 1) * rows_of_block).min(document.len()))
    };
    let begin = partition(count, |block| sight(block).last_end <= keys.start);
    let end = partition(count, |block| sight(block).first_begin < keys.end);
    begin..end.max(begin)
}

/// The first of `0..count` for which `holds` is false; it holds for all before.
fn partition(count: usize, holds: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = low + (high - low) / 2;
        if holds(middle) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

/// All that a step of the pass needs: the caller's memory, which block of it, and this lane's arrays.
struct Call<'a, E> {
    operands: &'a Operands<E>,
    block: &'a Block,
    geometry: Geometry,
    arrays: Arrays,
}

/// Runs the pass over one block of keys. `upcoming` is what this thread will do next, if it is known.
///
/// # Safety
/// As [`Simd`]; the document and the head are inside the operands' views; no other thread touches the
/// block's rows of dk and dv, nor, but for the document's other blocks of keys, its rows of dq and the
/// relay; every block of keys of a lower index has been taken by a thread; `memory` has [`bytes`] and
/// is this thread's alone.
#[inline(always)]
pub(crate) unsafe fn run<S: Simd, A: Arithmetic<S>, E: Element, const MR: usize>(
    operands: &Operands<E>,
    block: &Block,
    upcoming: Option<&Block>,
    mut memory: Carver,
) {
    let geometry = Geometry::new(2 * S::LANES, A::PER_WORD, operands.head_dim);
    let call = Call {
        operands,
        block,
        geometry,
        arrays: Arrays::carve(&mut memory, &geometry, operands.block_keys),
    };
    let keys = block.keys(operands.block_keys);
    let rows_of_block = geometry.row_block();
    // SAFETY: the caller's contract, passed on.
    unsafe {
        call.load_keys::<S, A>(&keys);
        let row_blocks = row_blocks_that_see(&block.document, &keys, rows_of_block);
        for index in row_blocks.clone().rev() {
            let rows = Rows::of_block(&block.document, index, rows_of_block);
            call.load_rows::<S, A>(rows);
            let sight = block.document.sight(rows.begin, rows.end);
            let dq = call.take_turn::<S>(index, &sight);
            for tile in keys.clone().step_by(KEYS) {
                let share = (tile - keys.start, KEYS, keys.len());
                if index > row_blocks.start {
                    let next = Rows::of_block(&block.document, index - 1, rows_of_block);
                    block.prefetch_rows(operands, next, share);
                } else if let Some(upcoming) = upcoming {
                    upcoming.prefetch_start(operands, rows_of_block, share);
                }
                call.visit::<S, A, MR>(rows, &keys, tile, dq);
            }
            call.end_turn::<S>(index, rows, &sight, dq);
        }
        call.store_gradients::<S>(&keys);
    }
}

//! The backward pass over one block of a document's keys: `dq =`, `dk +=`, `dv +=`.
//!
//! dk and dv of the block start from the gradient store, or where that is known to hold zeros from these,
//! and take up the document's rows from the last to the first, a block of panels at a time: products,
//! probabilities, then the three products of the gradients ([`visit`]). dq of a block of rows is handed from
//! one block of keys to the next, ascending, and written by the last ([`relay`]).

mod ahead;
mod arrays;
mod load;
mod relay;
mod visit;

use super::ahead::Ahead;
use super::gradient;
use super::products::Products;
use super::rows::DocumentRows;
use super::scoring::Scoring;
use super::{GRAIN, Geometry, KEYS, MultiplyAdd, PANEL, ROWS, opening, padded};
use crate::scratch::Carver;
use crate::strided::{StridedMut, StridedRef};
use arrays::Arrays;
use core::ops::Range;
use microseq_core::Element;

pub(crate) use arrays::bytes;
pub(crate) use relay::{Relay, relay_len};

/// The most keys of a block: as many grains as keep keys, values and their gradients in a core's own
/// cache and what is next to it. Blocks may have fewer; no bit depends on it.
pub(crate) const fn largest_block(head_dim: usize) -> usize {
    let grains = 512 / padded(head_dim);
    GRAIN
        * if grains > 4 {
            4
        } else if grains < 1 {
            1
        } else {
            grains
        }
}

/// Rows that products sum up at once, at most.
const AT_ONCE: usize = PANEL;

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
    /// Whether the keys' gradient rows hold zeros as yet.
    pub(crate) zeroed: bool,
    /// The document's dq in the making, where it has more than one block of keys.
    pub(crate) relay: Option<Relay>,
}

impl Block {
    /// The block's keys.
    fn keys(&self, block_keys: usize) -> Range<usize> {
        let begin = self.index * block_keys;
        begin..self.document.segment.k_len.min(begin + block_keys)
    }

    /// The rows of the document's opening, where the block has all keys that they see: the first.
    #[inline(always)]
    fn opening(&self) -> Range<usize> {
        0..if self.index == 0 { self.document.opening() } else { 0 }
    }

    /// Whether gradients of one of the rows need its output.
    #[inline(always)]
    fn need_output(&self, scoring: &Scoring, rows: &Range<usize>) -> bool {
        if rows.is_empty() {
            return false;
        }
        // Both ends rise with the row: what holds for all keys together holds for each row's.
        let (first, last) = (self.document.keys(rows.start), self.document.keys(rows.end - 1));
        let needed = |keys: &Range<usize>| gradient::needs_output(scoring, keys);
        needed(&(first.start..last.end))
            && (needed(&last) || self.document.runs(rows.clone()).any(|run| needed(&run.keys)))
    }
}

/// Where a document's blocks of rows begin: behind the opening, then at multiples of [`ROWS`], where blocks of
/// keys begin too. Before the first of those a block begins at a multiple of [`AT_ONCE`].
struct RowBlocks {
    opening: usize,
    /// The last multiple that is not behind the opening.
    base: usize,
    /// Whether the rows from the opening to the next multiple are two blocks.
    cut: bool,
}

impl RowBlocks {
    #[inline(always)]
    fn new(document: &DocumentRows) -> Self {
        let opening = document.opening();
        let base = opening / ROWS * ROWS;
        Self { opening, base, cut: (1..AT_ONCE).contains(&(opening - base)) }
    }

    /// The first row of block `index`.
    #[inline(always)]
    fn begin(&self, index: usize) -> usize {
        match index {
            0 => self.opening,
            1 if self.cut => self.base + AT_ONCE,
            _ => self.base + (index - usize::from(self.cut)) * ROWS,
        }
    }

    /// How many blocks `rows` rows are, the opening's among them.
    fn count(&self, rows: usize) -> usize {
        if rows == self.opening {
            0
        } else if self.cut && rows <= self.base + AT_ONCE {
            1
        } else {
            (rows - self.base).div_ceil(ROWS) + usize::from(self.cut)
        }
    }
}

/// The rows of block `index` of a document.
#[inline(always)]
pub(crate) fn rows_of_block(document: &DocumentRows, index: usize) -> Range<usize> {
    let blocks = RowBlocks::new(document);
    blocks.begin(index)..document.len().min(blocks.begin(index + 1))
}

/// How many blocks of rows a document has.
pub(crate) fn row_blocks(document: &DocumentRows) -> usize {
    RowBlocks::new(document).count(document.len())
}

/// The blocks of rows that see some of the keys `keys`: all between the first and the last.
pub(crate) fn row_blocks_that_see(document: &DocumentRows, keys: &Range<usize>) -> Range<usize> {
    let count = row_blocks(document);
    let last_end = |block: usize| document.keys(rows_of_block(document, block).end - 1).end;
    let first_begin = |block: usize| document.keys(rows_of_block(document, block).start).start;
    let begin = partition(count, |block| last_end(block) <= keys.start);
    let end = partition(count, |block| first_begin(block) < keys.end);
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

/// All that a step of the pass needs: the caller's memory, which block of it, what this thread does
/// next, and this lane's arrays.
struct Call<'a, E> {
    operands: &'a Operands<E>,
    block: &'a Block,
    upcoming: Option<&'a Block>,
    geometry: Geometry,
    arrays: Arrays,
}

/// Runs the pass over one block of keys. `upcoming` is what this thread will do next, if it is known.
///
/// # Safety
/// As [`Simd`](crate::simd::Simd); the document and the head are inside the operands' views; no other
/// thread touches the block's rows of dk and dv, nor, but for the document's other blocks of keys, its
/// rows of dq and the relay; every block of keys of a lower index has been taken by a thread; `memory`
/// has [`bytes`] and is this thread's alone.
#[inline(always)]
pub(crate) unsafe fn run<P: Products, E: Element>(
    operands: &Operands<E>,
    block: &Block,
    upcoming: Option<&Block>,
    memory: Carver,
) {
    let keys = block.keys(operands.block_keys);
    let row_blocks = row_blocks_that_see(&block.document, &keys);
    let mut ahead = Ahead::new();
    // SAFETY: the caller's contract, passed on.
    unsafe {
        if !row_blocks.is_empty() {
            visit_all::<P, E>(operands, block, upcoming, (keys, row_blocks), &mut ahead, memory);
        }
        if !block.opening().is_empty() {
            opening::backward::<P, E>(operands, block, upcoming, &mut ahead, memory);
        }
    }
}

/// The block's keys meet all rows that see some of them, but for those of the opening.
///
/// # Safety
/// As [`run`]; the keys and the blocks of rows are the block's.
#[inline(always)]
unsafe fn visit_all<P: Products, E: Element>(
    operands: &Operands<E>,
    block: &Block,
    upcoming: Option<&Block>,
    (keys, row_blocks): (Range<usize>, Range<usize>),
    ahead: &mut Ahead,
    mut memory: Carver,
) {
    let geometry = Geometry::new(P::A::PER_WORD, operands.head_dim);
    let arrays = Arrays::carve(&mut memory, &geometry, operands.block_keys);
    let call = Call { operands, block, upcoming, geometry, arrays };
    // SAFETY: the caller's contract, passed on.
    unsafe {
        P::begin();
        call.load_keys::<P>(&keys);
        for index in row_blocks.clone().rev() {
            let rows = rows_of_block(&block.document, index);
            call.load_rows::<P>(&rows);
            let dq = call.take_turn(index, &rows);
            for tile in keys.clone().step_by(KEYS) {
                call.ask((&keys, tile), (&row_blocks, index, &rows), ahead);
                call.visit::<P>(&rows, &keys, tile, dq, ahead);
                ahead.finish();
            }
            call.end_turn::<P>(index, &rows, dq);
        }
        call.store_gradients::<P>(&keys);
        P::end();
    }
}

impl<E: Element> Call<'_, E> {
    /// Whether `delta` of one of the rows takes its output.
    #[inline(always)]
    fn need_output(&self, rows: &Range<usize>) -> bool {
        self.block.need_output(&self.operands.scoring, rows)
    }

    /// Lists what comes after a block of rows and a tile: the next rows; at the end, what the upcoming
    /// block starts with.
    #[inline(always)]
    fn ask(
        &self,
        (keys, tile): (&Range<usize>, usize),
        (blocks, index, rows): (&Range<usize>, usize, &Range<usize>),
        ahead: &mut Ahead,
    ) {
        let Self { operands, block, upcoming, .. } = self;
        let tiles = (tile - keys.start, KEYS, keys.len());
        ahead.clear();
        if index > blocks.start {
            block.ask_rows(operands, &rows_of_block(&block.document, index - 1), tiles, ahead);
        } else if !block.opening().is_empty() {
            block.ask_rows(operands, &block.opening(), tiles, ahead);
        } else if let Some(upcoming) = upcoming {
            upcoming.ask_rows(operands, &upcoming.first_rows(operands), tiles, ahead);
        }
        if let Some(upcoming) = upcoming {
            let done = (blocks.end - 1 - index) * keys.len() + (tile - keys.start);
            upcoming.ask_keys(operands, (done, KEYS.min(keys.end - tile), blocks.len() * keys.len()), ahead);
        }
        ahead.spread(block.document.size(rows, &(tile..keys.end.min(tile + KEYS))));
    }
}

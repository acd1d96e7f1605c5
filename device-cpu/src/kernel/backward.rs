//! The backward pass over one block of a document's keys: `dq =`, `dk +=`, `dv +=`.
//!
//! dk and dv of the block start from the gradient store and take up the document's rows from the last
//! to the first, a block of panels at a time: products, probabilities, then the three products of the
//! gradients. dq of a block of rows is handed from one block of keys to the next, ascending, and
//! written by the last.

use super::rows::{DocumentRows, Sight};
use super::softmax::{self, LaneSight, Scoring};
use super::{CHUNK, KEYS, gemm, pack, padded};
use crate::scratch::{Carver, Sizes};
use crate::simd::{MAX_LANES, Simd};
use crate::strided::{StridedMut, StridedRef};
use core::f32::consts::LOG2_E;
use core::ops::Range;
use core::sync::atomic::{AtomicU32, Ordering};
use microseq_core::Element;

/// Panels of a block of rows.
pub(crate) const ROW_PANELS: usize = 2;

/// Keys of a block: as many tiles as keep keys, values and their gradients in a core's own cache.
pub(crate) const fn block_keys(head_dim: usize) -> usize {
    let tiles = 256 / padded(head_dim);
    KEYS * if tiles > 2 {
        2
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

/// Part of a whole that is asked for in pieces: from `.0` on, `.1` of `.2`.
type Share = (usize, usize, usize);

/// The part of `0..count` that falls to a share.
#[inline(always)]
fn part(count: usize, (done, step, all): Share) -> Range<usize> {
    done * count / all..(done + step).min(all) * count / all
}

impl Block {
    /// The block's keys.
    fn keys(&self, head_dim: usize) -> Range<usize> {
        let begin = self.index * block_keys(head_dim);
        begin..self.document.segment.k_len.min(begin + block_keys(head_dim))
    }

    /// Asks for a share of `rows`: while tiles of keys meet one block of rows, the next arrives.
    ///
    /// # Safety
    /// The document and the head are inside the operands' views; the rows are the document's.
    #[inline(always)]
    unsafe fn prefetch_rows<E: Element>(&self, operands: &Operands<E>, rows: Rows, share: Share) {
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
    unsafe fn prefetch_start<E: Element>(&self, operands: &Operands<E>, rows_of_block: usize, share: Share) {
        let (keys, head, head_dim) = (self.keys(operands.head_dim), self.kv_head, operands.head_dim);
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

/// dq of a document and a K/V head on its way from block to block of keys.
#[derive(Clone, Copy)]
pub(crate) struct Relay {
    /// `[block of rows][panel][width][2 * LANES]`.
    pub(crate) dq: *mut f32,
    /// For each block of rows, one more than the last block of keys that added to it; 0 before any.
    pub(crate) turns: *const AtomicU32,
}

/// A lane's arrays.
struct Arrays {
    /// The block's keys and values, a tile after the other.
    k: *mut f32,
    v: *mut f32,
    /// Their gradients, `[block_keys][width]`.
    dk: *mut f32,
    dv: *mut f32,
    /// A block of rows, `[row][width]` …
    q_rows: *mut f32,
    dout_rows: *mut f32,
    /// … and `[panel][width][2 * LANES]`.
    q: *mut f32,
    dout: *mut f32,
    dq: *mut f32,
    /// logsumexp in base 2 and `out . dout`, one for each row.
    lse: *mut f32,
    delta: *mut f32,
    /// Probabilities and gradients of products, `[panel][KEYS][2 * LANES]`.
    p: *mut f32,
    ds: *mut f32,
}

/// Scratch of a lane; a panel has `lanes` rows.
pub(crate) fn sizes(head_dim: usize, lanes: usize) -> Sizes {
    let (width, keys, rows) = (padded(head_dim), block_keys(head_dim), ROW_PANELS * lanes);
    let mut sizes = Sizes::default();
    for _ in 0..4 {
        sizes = sizes.with::<f32>(keys * width);
    }
    for _ in 0..5 {
        sizes = sizes.with::<f32>(rows * width);
    }
    sizes.with::<f32>(rows).with::<f32>(rows).with::<f32>(rows * KEYS).with::<f32>(rows * KEYS)
}

/// Elements of dq of a block of rows on its way.
pub(crate) fn relay_len(head_dim: usize, lanes: usize) -> usize {
    ROW_PANELS * lanes * padded(head_dim)
}

impl Arrays {
    fn carve(mut memory: Carver, head_dim: usize, lanes: usize) -> Self {
        let (width, keys, rows) = (padded(head_dim), block_keys(head_dim), ROW_PANELS * lanes);
        Self {
            k: memory.take(keys * width),
            v: memory.take(keys * width),
            dk: memory.take(keys * width),
            dv: memory.take(keys * width),
            q_rows: memory.take(rows * width),
            dout_rows: memory.take(rows * width),
            q: memory.take(rows * width),
            dout: memory.take(rows * width),
            dq: memory.take(rows * width),
            lse: memory.take(rows),
            delta: memory.take(rows),
            p: memory.take(rows * KEYS),
            ds: memory.take(rows * KEYS),
        }
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

/// Runs the pass over one block of keys. `upcoming` is what this thread will do next, if it is known.
///
/// # Safety
/// As [`Simd`]; the document and the head are inside the operands' views; no other thread touches the
/// block's rows of dk and dv, nor, but for the document's other blocks of keys, its rows of dq and the
/// relay; every block of keys of a lower index has been taken by a thread; `memory` has [`sizes`] and
/// is this thread's alone.
#[inline(always)]
pub(crate) unsafe fn run<S: Simd, E: Element, const MR: usize>(
    operands: &Operands<E>,
    block: &Block,
    upcoming: Option<&Block>,
    memory: Carver,
) {
    let arrays = Arrays::carve(memory, operands.head_dim, 2 * S::LANES);
    let keys = block.keys(operands.head_dim);
    let rows_of_block = ROW_PANELS * 2 * S::LANES;
    // SAFETY: the caller's contract, passed on.
    unsafe {
        load_keys::<S, E>(operands, block, &arrays, &keys);
        let row_blocks = row_blocks_that_see(&block.document, &keys, rows_of_block);
        for index in row_blocks.clone().rev() {
            let rows = Rows::of_block(&block.document, index, rows_of_block);
            load_rows::<S, E>(operands, block, &arrays, rows);
            let sight = block.document.sight(rows.begin, rows.end);
            let dq = take_turn::<S>(operands, block, &arrays, index, &sight);
            for tile in keys.clone().step_by(KEYS) {
                let share = (tile - keys.start, KEYS, keys.len());
                if index > row_blocks.start {
                    let next = Rows::of_block(&block.document, index - 1, rows_of_block);
                    block.prefetch_rows(operands, next, share);
                } else if let Some(upcoming) = upcoming {
                    upcoming.prefetch_start(operands, rows_of_block, share);
                }
                visit::<S, MR>(operands, block, &arrays, rows, &keys, tile, dq);
            }
            end_turn::<S, E>(operands, block, &arrays, index, rows, &sight, dq);
        }
        store_gradients::<S, E>(operands, block, &arrays, &keys);
    }
}

/// Packs the block's keys and values and fetches their gradients so far.
///
/// # Safety
/// As [`run`].
#[inline(always)]
unsafe fn load_keys<S: Simd, E: Element>(
    operands: &Operands<E>,
    block: &Block,
    arrays: &Arrays,
    keys: &Range<usize>,
) {
    let (head, head_dim, width) = (block.kv_head, operands.head_dim, padded(operands.head_dim));
    let row = |key: usize| block.document.segment.k_begin + key;
    // SAFETY: the keys are the document's; the arrays hold a block.
    unsafe {
        for tile in keys.clone().step_by(KEYS) {
            let count = KEYS.min(keys.end - tile);
            let place = (tile - keys.start) * width;
            pack::tile::<S, E>(&operands.k, row(tile), count, head, head_dim, arrays.k.add(place));
            pack::tile::<S, E>(&operands.v, row(tile), count, head, head_dim, arrays.v.add(place));
        }
        for key in keys.clone() {
            let place = (key - keys.start) * width;
            pack::widen::<S, f32>(operands.dk.at(row(key), head), head_dim, arrays.dk.add(place), width);
            pack::widen::<S, f32>(operands.dv.at(row(key), head), head_dim, arrays.dv.add(place), width);
        }
    }
}

/// Writes the gradients back. Adding 0 settles the sign of a zero, which could depend on how many
/// masked rows were added.
///
/// # Safety
/// As [`run`].
#[inline(always)]
unsafe fn store_gradients<S: Simd, E: Element>(
    operands: &Operands<E>,
    block: &Block,
    arrays: &Arrays,
    keys: &Range<usize>,
) {
    let (head, head_dim, width) = (block.kv_head, operands.head_dim, padded(operands.head_dim));
    // SAFETY: the keys are the document's; the arrays hold a block.
    unsafe {
        for (from, to) in [(arrays.dk, &operands.dk), (arrays.dv, &operands.dv)] {
            for key in keys.clone() {
                let from = from.add((key - keys.start) * width);
                for i in (0..width).step_by(S::LANES) {
                    S::store(from.add(i), S::add(S::load(from.add(i)), S::splat(0.0)));
                }
                pack::narrow::<S, f32>(from, head_dim, to.at(block.document.segment.k_begin + key, head));
            }
        }
    }
}

/// Packs a block of rows, by row and by lane, with its logsumexp and `out . dout`.
///
/// # Safety
/// As [`run`]; the rows are the document's.
#[inline(always)]
unsafe fn load_rows<S: Simd, E: Element>(operands: &Operands<E>, block: &Block, arrays: &Arrays, rows: Rows) {
    let (lanes, head_dim, width) = (2 * S::LANES, operands.head_dim, padded(operands.head_dim));
    let (all, count) = (ROW_PANELS * lanes, rows.end - rows.begin);
    let document = &block.document;
    // SAFETY: the arrays hold a block of rows.
    unsafe {
        // The output is needed by lane only: it passes through the places of the queries and of dq.
        pack::rows::<S, E>(document, &operands.out, rows.begin, count, all, head_dim, arrays.q_rows);
        transpose_panels::<S>(arrays.q_rows, width, arrays.dq);
        pack::rows::<S, E>(document, &operands.dout, rows.begin, count, all, head_dim, arrays.dout_rows);
        transpose_panels::<S>(arrays.dout_rows, width, arrays.dout);
        pack::rows::<S, E>(document, &operands.q, rows.begin, count, all, head_dim, arrays.q_rows);
        transpose_panels::<S>(arrays.q_rows, width, arrays.q);
        for lane in (0..all).step_by(S::LANES) {
            let place = lane / lanes * lanes * width + lane % lanes;
            let delta = dot::<S>(arrays.dq.add(place), arrays.dout.add(place), head_dim);
            S::store(arrays.delta.add(lane), delta);
        }
        // Lanes without a row, and rows that saw no key, have probability 0.
        for lane in 0..all {
            *arrays.lse.add(lane) = f32::INFINITY;
        }
        for lane in 0..count {
            let (row, head) = document.place(rows.begin + lane);
            let lse = *operands.lse.at(row, head);
            if lse != f32::NEG_INFINITY {
                *arrays.lse.add(lane) = lse * LOG2_E;
            }
        }
    }
}

/// Transposes each panel of a block of rows.
///
/// # Safety
/// As [`Simd`]; both pointers reach a block of rows.
#[inline(always)]
unsafe fn transpose_panels<S: Simd>(from: *const f32, width: usize, to: *mut f32) {
    for panel in 0..ROW_PANELS {
        let place = panel * 2 * S::LANES * width;
        // SAFETY: the caller vouches for the pointers.
        unsafe { pack::to_lanes::<S>(from.add(place), width, to.add(place)) }
    }
}

/// The dot products of a vector of rows, by lane, in the order of [`gemm::scores`]: where a row sees
/// one key only, so that `out = v`, this is exactly its `dout . v`, and the gradient of its score is
/// exactly 0.
///
/// # Safety
/// As [`Simd`]; both pointers reach `head_dim` steps of a panel.
#[inline(always)]
unsafe fn dot<S: Simd>(a: *const f32, b: *const f32, head_dim: usize) -> S::V {
    // SAFETY: the caller vouches for the pointers.
    unsafe {
        let mut sum = S::splat(0.0);
        for k in 0..head_dim {
            let place = k * 2 * S::LANES;
            sum = S::fma(S::load(a.add(place)), S::load(b.add(place)), sum);
        }
        sum
    }
}

/// Where dq of a block of rows is summed up: waits until the block of keys before has added to it, or
/// starts from 0 where this is the first that the rows see.
///
/// # Safety
/// As [`run`].
#[inline(always)]
unsafe fn take_turn<S: Simd>(
    operands: &Operands<impl Element>,
    block: &Block,
    arrays: &Arrays,
    index: usize,
    sight: &Sight,
) -> *mut f32 {
    let len = relay_len(operands.head_dim, 2 * S::LANES);
    // SAFETY: the relay holds all blocks of rows of the document.
    unsafe {
        let dq = match block.relay {
            None => arrays.dq,
            Some(relay) => relay.dq.add(index * len),
        };
        let first = sight.first_begin / block_keys(operands.head_dim);
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
/// As [`run`].
#[inline(always)]
unsafe fn end_turn<S: Simd, E: Element>(
    operands: &Operands<E>,
    block: &Block,
    arrays: &Arrays,
    index: usize,
    rows: Rows,
    sight: &Sight,
    dq: *mut f32,
) {
    let (lanes, width) = (2 * S::LANES, padded(operands.head_dim));
    let last = (sight.last_end - 1) / block_keys(operands.head_dim);
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
            // The packed queries are not needed any more.
            pack::from_lanes::<S>(dq, width, arrays.q_rows);
            pack::write_rows::<S, E>(
                &block.document,
                arrays.q_rows,
                first,
                count,
                operands.head_dim,
                &operands.dq,
            );
        }
    }
}

/// A block of rows meets a tile of keys.
///
/// # Safety
/// As [`run`]; keys and rows are packed, `tile` is one of the block's, `dq` holds a block of rows.
#[inline(always)]
unsafe fn visit<S: Simd, const MR: usize>(
    operands: &Operands<impl Element>,
    block: &Block,
    arrays: &Arrays,
    rows: Rows,
    keys: &Range<usize>,
    tile: usize,
    dq: *mut f32,
) {
    let (lanes, width) = (2 * S::LANES, padded(operands.head_dim));
    let count = KEYS.min(keys.end - tile);
    let place = (tile - keys.start) * width;
    let mut ranges = [const { 0..0 }; ROW_PANELS];
    // SAFETY: the arrays hold the tile and the block of rows.
    unsafe {
        for (panel, seen) in ranges.iter_mut().enumerate() {
            let (first, rows) = rows.panel::<S>(panel);
            if rows == 0 {
                continue;
            }
            let sight = block.document.sight(first, first + rows);
            let range = sight.within(tile, count, MR);
            if range.is_empty() {
                continue;
            }
            let hidden = !sight.covers(tile, &range);
            let mask = hidden.then(|| LaneSight::<S>::new(&block.document, first, rows, tile));
            let (k, v) = (arrays.k.add(place), arrays.v.add(place));
            differentiate::<S, MR>(operands, arrays, panel, k, v, range.clone(), mask.as_ref());
            let ds = arrays.ds.add((panel * KEYS + range.start) * lanes);
            for column in (0..width).step_by(MR) {
                let k = k.add(column / CHUNK * CHUNK * KEYS + range.start * CHUNK + column % CHUNK);
                let dq = dq.add((panel * width + column) * lanes);
                gemm::add_keys::<S, MR>(k, ds, range.len(), [S::splat(1.0); 2], dq);
            }
            *seen = range;
        }
        let (dk, dv) = (arrays.dk.add(place), arrays.dv.add(place));
        for key in (0..count).step_by(MR) {
            add_to_keys::<S, MR>(arrays.p, arrays.dout_rows, dv, width, key, &ranges);
            add_to_keys::<S, MR>(arrays.ds, arrays.q_rows, dk, width, key, &ranges);
        }
    }
}

/// Probabilities `p` and gradients of products `ds` of a panel, for the keys `range` of a tile; 0 for
/// the rest of the last group of `MR` keys.
///
/// # Safety
/// As [`run`]; keys and rows are packed; `range` is inside the tile, its begin a multiple of `MR`.
#[inline(always)]
unsafe fn differentiate<S: Simd, const MR: usize>(
    operands: &Operands<impl Element>,
    arrays: &Arrays,
    panel: usize,
    k: *const f32,
    v: *const f32,
    range: Range<usize>,
    mask: Option<&LaneSight<S>>,
) {
    let (lanes, head_dim, width) = (2 * S::LANES, operands.head_dim, padded(operands.head_dim));
    // SAFETY: MR divides KEYS, so groups of MR stay inside the tile's arrays.
    unsafe {
        let (p, ds) = (arrays.p.add(panel * KEYS * lanes), arrays.ds.add(panel * KEYS * lanes));
        let (q, dout) = (arrays.q.add(panel * width * lanes), arrays.dout.add(panel * width * lanes));
        for key in range.clone().step_by(MR) {
            gemm::scores::<S, MR>(k.add(key * CHUNK), KEYS * CHUNK, q, head_dim, p.add(key * lanes));
            gemm::scores::<S, MR>(v.add(key * CHUNK), KEYS * CHUNK, dout, head_dim, ds.add(key * lanes));
        }
        for half in 0..2 {
            let at = panel * lanes + half * S::LANES;
            let row = (S::load(arrays.lse.add(at)), S::load(arrays.delta.add(at)));
            softmax::differentiate::<S>(&operands.scoring, mask, (p, ds), range.clone(), half, row);
        }
        for i in (range.end * lanes..range.end.next_multiple_of(MR) * lanes).step_by(S::LANES) {
            S::store(p.add(i), S::splat(0.0));
            S::store(ds.add(i), S::splat(0.0));
        }
    }
}

/// Adds to `MR` keys' gradients the rows of the panels that see one of them: neighbouring panels, for
/// what a row sees rises with the row.
///
/// # Safety
/// As [`run`]; `factors` holds the panels' tiles for their `ranges`, `rows` the block of rows,
/// `gradients` the tile's.
#[inline(always)]
unsafe fn add_to_keys<S: Simd, const MR: usize>(
    factors: *const f32,
    rows: *const f32,
    gradients: *mut f32,
    width: usize,
    key: usize,
    ranges: &[Range<usize>; ROW_PANELS],
) {
    let lanes = 2 * S::LANES;
    let mut first = 0;
    while first < ROW_PANELS && !(ranges[first].start <= key && key < ranges[first].end) {
        first += 1;
    }
    let mut behind = first;
    while behind < ROW_PANELS && ranges[behind].start <= key && key < ranges[behind].end {
        behind += 1;
    }
    if first == behind {
        return;
    }
    // SAFETY: `width` is a multiple of LANES; the caller vouches for the arrays.
    unsafe {
        let p = factors.add((first * KEYS + key) * lanes);
        let rows = rows.add(first * lanes * width);
        let gradients = gradients.add(key * width);
        let mut column = 0;
        while column + 2 * S::LANES <= width {
            let (b, c) = (rows.add(column), gradients.add(column));
            gemm::add_rows::<S, MR, 2>(p, KEYS * lanes, behind - first, b, c, width);
            column += 2 * S::LANES;
        }
        while column < width {
            let (b, c) = (rows.add(column), gradients.add(column));
            gemm::add_rows::<S, MR, 1>(p, KEYS * lanes, behind - first, b, c, width);
            column += S::LANES;
        }
    }
}

const _: () = assert!(KEYS.is_multiple_of(CHUNK) && CHUNK.is_multiple_of(MAX_LANES));

//! The forward pass over one block of a document's rows: `out =`, `lse =`.
//!
//! For each tile of keys from the first that the block sees to the last, and each panel of the block:
//! products, running softmax, output. Then the output is divided, transposed back and rounded.

use super::rows::DocumentRows;
use super::softmax::{LaneSight, Running, Scoring, advance};
use super::{CHUNK, KEYS, gemm, pack, padded};
use crate::scratch::{Carver, Sizes};
use crate::simd::Simd;
use crate::strided::{StridedMut, StridedRef};
use microseq_core::Element;

/// Operands of a forward call.
pub(crate) struct Operands<E> {
    pub(crate) q: StridedRef<E>,
    pub(crate) k: StridedRef<E>,
    pub(crate) v: StridedRef<E>,
    pub(crate) out: StridedMut<E>,
    pub(crate) lse: StridedMut<f32>,
    pub(crate) head_dim: usize,
    pub(crate) scoring: Scoring,
}

/// A block of a document's rows, for one K/V head.
pub(crate) struct Block {
    pub(crate) document: DocumentRows,
    pub(crate) kv_head: usize,
    /// The rows: `begin..end`.
    pub(crate) begin: usize,
    pub(crate) end: usize,
}

/// A lane's arrays.
struct Arrays {
    /// Panels of queries, `[panel][width][2 * LANES]`.
    q: *mut f32,
    /// Panels of output, the same.
    out: *mut f32,
    /// Running maxima and sums, `[panel][2 * LANES]` each.
    max: *mut f32,
    sum: *mut f32,
    k: *mut f32,
    v: *mut f32,
    /// A panel's scores of a tile, `[KEYS][2 * LANES]`.
    scores: *mut f32,
    /// A panel's rows, `[2 * LANES][width]`.
    rows: *mut f32,
}

/// Scratch of a lane, for blocks of up to `panels` panels of `lanes` rows.
pub(crate) fn sizes(head_dim: usize, panels: usize, lanes: usize) -> Sizes {
    let width = padded(head_dim);
    Sizes::default()
        .with::<f32>(panels * width * lanes)
        .with::<f32>(panels * width * lanes)
        .with::<f32>(panels * lanes)
        .with::<f32>(panels * lanes)
        .with::<f32>(width * KEYS)
        .with::<f32>(width * KEYS)
        .with::<f32>(KEYS * lanes)
        .with::<f32>(width * lanes)
}

impl Arrays {
    fn carve(mut memory: Carver, head_dim: usize, panels: usize, lanes: usize) -> Self {
        let width = padded(head_dim);
        Self {
            q: memory.take(panels * width * lanes),
            out: memory.take(panels * width * lanes),
            max: memory.take(panels * lanes),
            sum: memory.take(panels * lanes),
            k: memory.take(width * KEYS),
            v: memory.take(width * KEYS),
            scores: memory.take(KEYS * lanes),
            rows: memory.take(width * lanes),
        }
    }
}

/// Runs the pass over one block. `upcoming` is what this thread will do next, if it is known.
///
/// # Safety
/// As [`Simd`]; the documents and the heads are inside the operands' views, no other thread touches
/// the block's rows of `out` and `lse`, and `memory` has [`sizes`] for blocks of this many panels and
/// is this thread's alone.
#[inline(always)]
pub(crate) unsafe fn run<S: Simd, E: Element, const MR: usize>(
    operands: &Operands<E>,
    block: &Block,
    upcoming: Option<&Block>,
    panels: usize,
    memory: Carver,
) {
    let arrays = Arrays::carve(memory, operands.head_dim, panels, 2 * S::LANES);
    // SAFETY: the caller's contract, passed on.
    unsafe {
        start::<S, E>(operands, block, &arrays);
        let sight = block.document.sight(block.begin, block.end);
        let mut tile = sight.first_begin / KEYS * KEYS;
        while tile < sight.last_end {
            let last = tile + KEYS >= sight.last_end;
            attend_tile::<S, E, MR>(operands, block, upcoming.filter(|_| last), &arrays, tile);
            tile += KEYS;
        }
        finish::<S, E>(operands, block, &arrays);
    }
}

impl Block {
    /// The rows of panel `panel`: first row and number of rows; none behind the last panel.
    #[inline(always)]
    fn panel<S: Simd>(&self, panel: usize) -> Option<(usize, usize)> {
        let first = self.begin + panel * 2 * S::LANES;
        (first < self.end).then(|| (first, (self.end - first).min(2 * S::LANES)))
    }

    /// Asks for share `share` of `shares` of the keys and values of the tile at `tile`.
    ///
    /// # Safety
    /// The document and the head are inside the operands' views.
    #[inline(always)]
    unsafe fn prefetch_tile<E: Element>(
        &self,
        operands: &Operands<E>,
        tile: usize,
        share: usize,
        shares: usize,
    ) {
        let segment = &self.document.segment;
        let keys = KEYS.min(segment.k_len.saturating_sub(tile));
        for key in share * keys / shares..(share + 1) * keys / shares {
            let row = segment.k_begin + tile + key;
            // SAFETY: the keys are the document's.
            unsafe {
                pack::prefetch(operands.k.at(row, self.kv_head), operands.head_dim);
                pack::prefetch(operands.v.at(row, self.kv_head), operands.head_dim);
            }
        }
    }

    /// Asks for share `share` of `shares` of the block's rows and of its first tile.
    ///
    /// # Safety
    /// The document and the head are inside the operands' views.
    #[inline(always)]
    unsafe fn prefetch_start<E: Element>(&self, operands: &Operands<E>, share: usize, shares: usize) {
        let tile = self.document.keys(self.begin).start / KEYS * KEYS;
        let rows = self.end - self.begin;
        // SAFETY: the keys and the rows are the document's.
        unsafe {
            self.prefetch_tile(operands, tile, share, shares);
            for row in share * rows / shares..(share + 1) * rows / shares {
                let (row, head) = self.document.place(self.begin + row);
                pack::prefetch(operands.q.at(row, head), operands.head_dim);
                pack::prefetch(operands.out.at(row, head), operands.head_dim);
            }
        }
    }
}

/// Packs the block's queries and empties its state.
///
/// # Safety
/// As [`run`].
#[inline(always)]
unsafe fn start<S: Simd, E: Element>(operands: &Operands<E>, block: &Block, arrays: &Arrays) {
    let (lanes, width) = (2 * S::LANES, padded(operands.head_dim));
    let mut panel = 0;
    while let Some((first, rows)) = block.panel::<S>(panel) {
        // SAFETY: the arrays hold the block's panels.
        unsafe {
            pack::rows::<S, E>(
                &block.document,
                &operands.q,
                first,
                rows,
                lanes,
                operands.head_dim,
                arrays.rows,
            );
            pack::to_lanes::<S>(arrays.rows, width, arrays.q.add(panel * width * lanes));
            for i in (0..width * lanes).step_by(S::LANES) {
                S::store(arrays.out.add(panel * width * lanes + i), S::splat(0.0));
            }
            for half in 0..2 {
                let at = panel * lanes + half * S::LANES;
                S::store(arrays.max.add(at), S::splat(f32::NEG_INFINITY));
                S::store(arrays.sum.add(at), S::splat(0.0));
            }
        }
        panel += 1;
    }
}

/// Takes every panel of the block past the tile of keys that begins at `tile`. Meanwhile the next tile
/// arrives, or, where this is the last one, what the upcoming block starts with.
///
/// # Safety
/// As [`run`]; `tile` is a multiple of [`KEYS`] below the document's keys.
#[inline(always)]
unsafe fn attend_tile<S: Simd, E: Element, const MR: usize>(
    operands: &Operands<E>,
    block: &Block,
    upcoming: Option<&Block>,
    arrays: &Arrays,
    tile: usize,
) {
    let segment = &block.document.segment;
    let keys = KEYS.min(segment.k_len - tile);
    let (first_key, head, head_dim) = (segment.k_begin + tile, block.kv_head, operands.head_dim);
    // SAFETY: the keys are the document's; the arrays hold tiles and panels.
    unsafe {
        pack::tile::<S, E>(&operands.k, first_key, keys, head, head_dim, arrays.k);
        pack::tile::<S, E>(&operands.v, first_key, keys, head, head_dim, arrays.v);
        let panels = (block.end - block.begin).div_ceil(2 * S::LANES);
        let mut panel = 0;
        while let Some((first, rows)) = block.panel::<S>(panel) {
            match upcoming {
                Some(upcoming) => upcoming.prefetch_start(operands, panel, panels),
                None => block.prefetch_tile(operands, tile + KEYS, panel, panels),
            }
            let sight = block.document.sight(first, first + rows);
            let range = sight.within(tile, keys, MR);
            if !range.is_empty() {
                let hidden = !sight.covers(tile, &range);
                let mask = hidden.then(|| LaneSight::<S>::new(&block.document, first, rows, tile));
                attend_panel::<S, MR>(&operands.scoring, head_dim, arrays, panel, range, mask.as_ref());
            }
            panel += 1;
        }
    }
}

/// Takes a panel past the keys `range` of the packed tile.
///
/// # Safety
/// As [`run`]; the tile is packed and `range` is inside it, its begin a multiple of `MR`.
#[inline(always)]
unsafe fn attend_panel<S: Simd, const MR: usize>(
    scoring: &Scoring,
    head_dim: usize,
    arrays: &Arrays,
    panel: usize,
    range: core::ops::Range<usize>,
    mask: Option<&LaneSight<S>>,
) {
    let (lanes, width) = (2 * S::LANES, padded(head_dim));
    // SAFETY: MR divides KEYS and CHUNK, so groups of MR stay inside tile and panel.
    unsafe {
        let q = arrays.q.add(panel * width * lanes);
        for key in range.clone().step_by(MR) {
            let scores = arrays.scores.add(key * lanes);
            gemm::scores::<S, MR>(arrays.k.add(key * CHUNK), KEYS * CHUNK, q, head_dim, scores);
        }

        let mut factors = [S::splat(0.0); 2];
        for (half, factor) in factors.iter_mut().enumerate() {
            let (max, sum) = (
                arrays.max.add(panel * lanes + half * S::LANES),
                arrays.sum.add(panel * lanes + half * S::LANES),
            );
            let mut state = Running { max: S::load(max), sum: S::load(sum) };
            *factor = advance::<S>(scoring, mask, arrays.scores, range.clone(), half, &mut state);
            S::store(max, state.max);
            S::store(sum, state.sum);
        }

        let p = arrays.scores.add(range.start * lanes);
        for column in (0..width).step_by(MR) {
            let v = arrays.v.add(column / CHUNK * CHUNK * KEYS + range.start * CHUNK + column % CHUNK);
            let out = arrays.out.add((panel * width + column) * lanes);
            gemm::add_keys::<S, MR>(v, p, range.len(), factors, out);
        }
    }
}

/// Divides by the sums and writes `out` and `lse`.
///
/// # Safety
/// As [`run`].
#[inline(always)]
unsafe fn finish<S: Simd, E: Element>(operands: &Operands<E>, block: &Block, arrays: &Arrays) {
    let (lanes, width) = (2 * S::LANES, padded(operands.head_dim));
    let mut panel = 0;
    while let Some((first, rows)) = block.panel::<S>(panel) {
        // SAFETY: the arrays hold the block's panels; the rows are the document's.
        unsafe {
            let out = arrays.out.add(panel * width * lanes);
            for half in 0..2 {
                let zero = S::splat(0.0);
                let sum = S::load(arrays.sum.add(panel * lanes + half * S::LANES));
                // A row that saw no key has sum 0 and output 0; NaN stays NaN.
                let inverse = S::where_less(zero, sum, S::div(S::splat(1.0), sum), sum);
                for column in 0..width {
                    let place = out.add(column * lanes + half * S::LANES);
                    S::store(place, S::add(S::mul(S::load(place), inverse), zero));
                }
            }
            pack::from_lanes::<S>(out, width, arrays.rows);
            pack::write_rows::<S, E>(
                &block.document,
                arrays.rows,
                first,
                rows,
                operands.head_dim,
                &operands.out,
            );
            for lane in 0..rows {
                let (row, head) = block.document.place(first + lane);
                let at = panel * lanes + lane;
                *operands.lse.at(row, head) =
                    *arrays.max.add(at) * operands.scoring.natural() + (*arrays.sum.add(at)).ln();
            }
        }
        panel += 1;
    }
}

//! The forward pass over one block of a document's rows: `out =`, `lse =`.
//!
//! For each tile of keys from the first that the block sees to the last, and each panel of the block:
//! products, running softmax, output. Then the output is divided, transposed back and rounded.

use super::rows::DocumentRows;
use super::softmax::{LaneSight, Running, Scoring, advance};
use super::{Arithmetic, CHUNK, Geometry, KEYS, gemm, pack, padded};
use crate::scratch::Carver;
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
    /// Panels of queries, `[panel][words][2 * LANES]`.
    q: *mut f32,
    /// Panels of output, `[panel][width][2 * LANES]`.
    out: *mut f32,
    /// Running maxima and sums, `[panel][2 * LANES]` each.
    max: *mut f32,
    sum: *mut f32,
    /// Tiles: keys by words of head_dim, values by words of keys.
    k: *mut f32,
    v: *mut f32,
    /// A panel's scores of a tile, `[KEYS][2 * LANES]`.
    scores: *mut f32,
    /// A panel's rows, `[2 * LANES][width]`.
    rows: *mut f32,
}

impl Arrays {
    /// For blocks of up to `panels` panels.
    fn carve(memory: &mut Carver, geometry: &Geometry, panels: usize) -> Self {
        let Geometry { panel, width, words, per_word } = *geometry;
        Self {
            q: memory.take(panels * words * panel),
            out: memory.take(panels * width * panel),
            max: memory.take(panels * panel),
            sum: memory.take(panels * panel),
            k: memory.take(words * KEYS),
            v: memory.take(width * KEYS / per_word),
            scores: memory.take(KEYS * panel),
            rows: memory.take(width * panel),
        }
    }
}

/// Bytes of scratch of a lane, for blocks of up to `panels` panels.
pub(crate) fn bytes(geometry: &Geometry, panels: usize) -> usize {
    let mut memory = Carver::counting();
    Arrays::carve(&mut memory, geometry, panels);
    memory.used()
}

/// Runs the pass over one block. `upcoming` is what this thread will do next, if it is known.
///
/// # Safety
/// As [`Simd`]; the documents and the heads are inside the operands' views, no other thread touches
/// the block's rows of `out` and `lse`, and `memory` has [`bytes`] for blocks of this many panels and
/// is this thread's alone.
#[inline(always)]
pub(crate) unsafe fn run<S: Simd, A: Arithmetic<S>, E: Element, const MR: usize>(
    operands: &Operands<E>,
    block: &Block,
    upcoming: Option<&Block>,
    panels: usize,
    mut memory: Carver,
) {
    let geometry = Geometry::new(2 * S::LANES, A::PER_WORD, operands.head_dim);
    let arrays = Arrays::carve(&mut memory, &geometry, panels);
    // SAFETY: the caller's contract, passed on.
    unsafe {
        start::<S, A, E>(operands, block, &geometry, &arrays);
        let sight = block.document.sight(block.begin, block.end);
        let mut tile = sight.first_begin / KEYS * KEYS;
        while tile < sight.last_end {
            let last = tile + KEYS >= sight.last_end;
            let upcoming = upcoming.filter(|_| last);
            attend_tile::<S, A, E, MR>(operands, block, upcoming, &geometry, &arrays, tile);
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
unsafe fn start<S: Simd, A: Arithmetic<S>, E: Element>(
    operands: &Operands<E>,
    block: &Block,
    geometry: &Geometry,
    arrays: &Arrays,
) {
    let Geometry { panel: lanes, width, words, .. } = *geometry;
    let mut panel = 0;
    while let Some((first, rows)) = block.panel::<S>(panel) {
        // SAFETY: the arrays hold the block's panels.
        unsafe {
            let (document, head_dim) = (&block.document, operands.head_dim);
            let source = pack::Source { document, view: &operands.q, first, rows, head_dim };
            pack::rows::<S, A, E>(source, lanes, words, arrays.rows);
            pack::to_lanes::<S>(arrays.rows, words, arrays.q.add(panel * words * lanes));
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
unsafe fn attend_tile<S: Simd, A: Arithmetic<S>, E: Element, const MR: usize>(
    operands: &Operands<E>,
    block: &Block,
    upcoming: Option<&Block>,
    geometry: &Geometry,
    arrays: &Arrays,
    tile: usize,
) {
    let segment = &block.document.segment;
    let keys = KEYS.min(segment.k_len - tile);
    let (first, head, head_dim) = (segment.k_begin + tile, block.kv_head, operands.head_dim);
    // SAFETY: the keys are the document's; the arrays hold tiles and panels.
    unsafe {
        pack::tile::<S, A, E>(pack::Keys { view: &operands.k, first, keys, head, head_dim }, arrays.k);
        let values = pack::Keys { view: &operands.v, first, keys, head, head_dim };
        if A::PER_WORD == 1 {
            pack::tile::<S, A, E>(values, arrays.v);
        } else {
            pack::pair_tile(values, arrays.v);
        }
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
                attend_panel::<S, A, MR>(operands, geometry, arrays, panel, range, mask.as_ref());
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
unsafe fn attend_panel<S: Simd, A: Arithmetic<S>, const MR: usize>(
    operands: &Operands<impl Element>,
    geometry: &Geometry,
    arrays: &Arrays,
    panel: usize,
    range: core::ops::Range<usize>,
    mask: Option<&LaneSight<S>>,
) {
    let Geometry { panel: lanes, width, words, per_word } = *geometry;
    let used = operands.head_dim.div_ceil(per_word);
    // SAFETY: MR divides KEYS and CHUNK, so groups of MR stay inside tile and panel.
    unsafe {
        let q = arrays.q.add(panel * words * lanes);
        for key in range.clone().step_by(MR) {
            let scores = arrays.scores.add(key * lanes);
            gemm::scores::<S, A, MR>(arrays.k.add(key * CHUNK), KEYS * CHUNK, q, used, scores);
        }

        let mut factors = [S::splat(0.0); 2];
        for (half, factor) in factors.iter_mut().enumerate() {
            let (max, sum) = (
                arrays.max.add(panel * lanes + half * S::LANES),
                arrays.sum.add(panel * lanes + half * S::LANES),
            );
            let mut state = Running { max: S::load(max), sum: S::load(sum) };
            *factor = advance::<S>(&operands.scoring, mask, arrays.scores, range.clone(), half, &mut state);
            S::store(max, state.max);
            S::store(sum, state.sum);
        }

        let p = arrays.scores.add(range.start * lanes);
        let keys = range.len().next_multiple_of(per_word);
        if per_word > 1 {
            for i in (range.len() * lanes..keys * lanes).step_by(S::LANES) {
                S::store(p.add(i), S::splat(0.0));
            }
            pack::fold_keys::<S, A>(p, keys, p);
        }
        for column in (0..width).step_by(MR) {
            let chunk = arrays.v.add(column / CHUNK * CHUNK * (KEYS / per_word));
            let v = chunk.add(range.start / per_word * CHUNK + column % CHUNK);
            let out = arrays.out.add((panel * width + column) * lanes);
            gemm::add_keys::<S, A, MR>(v, p, keys / per_word, factors, out);
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

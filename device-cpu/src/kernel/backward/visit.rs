//! A block of rows meets a tile of keys: the five products.

use super::{Call, Rows};
use crate::kernel::softmax::{self, LaneSight};
use crate::kernel::{Arithmetic, CHUNK, Geometry, KEYS, ROW_PANELS, gemm, pack};
use crate::simd::{MAX_LANES, Simd};
use core::ops::Range;
use microseq_core::Element;

impl<E: Element> Call<'_, E> {
    /// A block of rows meets the tile of keys at `tile`: adds to its dq, and to the tile's dk and dv.
    ///
    /// # Safety
    /// As [`run`](super::run); keys and rows are packed, `tile` is one of the block's, `dq` holds a
    /// block of rows.
    #[inline(always)]
    pub(super) unsafe fn visit<S: Simd, A: Arithmetic<S>, const MR: usize>(
        &self,
        rows: Rows,
        keys: &Range<usize>,
        tile: usize,
        dq: *mut f32,
    ) {
        let Self { block, arrays, .. } = self;
        let Geometry { panel: lanes, width, words, per_word } = self.geometry;
        let (done, count) = (tile - keys.start, KEYS.min(keys.end - tile));
        let mut ranges = [const { 0..0 }; ROW_PANELS];
        // SAFETY: the arrays hold the tile and the block of rows.
        unsafe {
            let (k, v) = (arrays.k.add(done * words), arrays.v.add(done * words));
            let k_pairs = arrays.k_pairs.add(done * width / per_word);
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
                self.differentiate::<S, A, MR>(panel, k, v, range.clone(), mask.as_ref());
                let dq = dq.add(panel * width * lanes);
                self.add_to_rows::<S, A, MR>(panel, k_pairs, range.clone(), dq);
                *seen = range;
            }
            let (dk, dv) = (arrays.dk.add(done * width), arrays.dv.add(done * width));
            for key in (0..count).step_by(MR) {
                self.add_to_keys::<S, A, MR>(arrays.p, arrays.dout_rows, dv, key, &ranges);
                self.add_to_keys::<S, A, MR>(arrays.ds, arrays.q_rows, dk, key, &ranges);
            }
        }
    }

    /// Probabilities `p` and gradients of products `ds` of a panel, for the keys `range` of a tile; 0
    /// for the rest of the last group of `MR` keys.
    ///
    /// # Safety
    /// As [`visit`](Self::visit); `range` is inside the tile, its begin a multiple of `MR`.
    #[inline(always)]
    unsafe fn differentiate<S: Simd, A: Arithmetic<S>, const MR: usize>(
        &self,
        panel: usize,
        k: *const f32,
        v: *const f32,
        range: Range<usize>,
        mask: Option<&LaneSight<S>>,
    ) {
        let Self { operands, arrays, .. } = self;
        let Geometry { panel: lanes, words, per_word, .. } = self.geometry;
        let used = operands.head_dim.div_ceil(per_word);
        // SAFETY: MR divides KEYS, so groups of MR stay inside the tile's arrays.
        unsafe {
            let (p, ds) = self.panel_values(panel);
            let (q, dout) = (arrays.q.add(panel * words * lanes), arrays.dout.add(panel * words * lanes));
            for key in range.clone().step_by(MR) {
                let place = key * lanes;
                gemm::scores::<S, A, MR>(k.add(key * CHUNK), KEYS * CHUNK, q, used, p.add(place));
                gemm::scores::<S, A, MR>(v.add(key * CHUNK), KEYS * CHUNK, dout, used, ds.add(place));
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

    /// A panel's `p` and `ds`.
    ///
    /// # Safety
    /// `panel` is one of a block of rows.
    #[inline(always)]
    unsafe fn panel_values(&self, panel: usize) -> (*mut f32, *mut f32) {
        let place = panel * KEYS * self.geometry.panel;
        // SAFETY: the arrays hold a block of rows.
        unsafe { (self.arrays.p.add(place), self.arrays.ds.add(place)) }
    }

    /// Adds to a panel's dq the keys `range` of a tile, and leaves its `p` and `ds` in words of rows.
    ///
    /// # Safety
    /// As [`visit`](Self::visit); `p` and `ds` of the range are there.
    #[inline(always)]
    unsafe fn add_to_rows<S: Simd, A: Arithmetic<S>, const MR: usize>(
        &self,
        panel: usize,
        k_pairs: *const f32,
        range: Range<usize>,
        dq: *mut f32,
    ) {
        let Geometry { panel: lanes, width, per_word, .. } = self.geometry;
        let words = range.len().div_ceil(per_word);
        // SAFETY: the arrays hold the tile; `range` begins at a multiple of MR, which is even, and what
        // follows it up to the next is 0.
        unsafe {
            let (p, ds) = self.panel_values(panel);
            let mut factors = ds.add(range.start * lanes);
            if per_word > 1 {
                pack::fold_keys::<S, A>(factors, words * per_word, self.arrays.ds_pairs);
                let keys = range.start..range.end.next_multiple_of(MR);
                pack::fold_rows::<S, A>(p, keys.clone());
                pack::fold_rows::<S, A>(ds, keys);
                factors = self.arrays.ds_pairs;
            }
            for column in (0..width).step_by(MR) {
                let chunk = k_pairs.add(column / CHUNK * CHUNK * (KEYS / per_word));
                let k = chunk.add(range.start / per_word * CHUNK + column % CHUNK);
                gemm::add_keys::<S, A, MR>(k, factors, words, [S::splat(1.0); 2], dq.add(column * lanes));
            }
        }
    }

    /// Adds to `MR` keys' gradients the rows of the panels that see one of them: neighbouring panels,
    /// for what a row sees rises with the row.
    ///
    /// # Safety
    /// As [`visit`](Self::visit); `factors` holds the panels' tiles in words of rows for their
    /// `ranges`, `rows` the block of rows, `gradients` the tile's.
    #[inline(always)]
    unsafe fn add_to_keys<S: Simd, A: Arithmetic<S>, const MR: usize>(
        &self,
        factors: *const f32,
        rows: *const f32,
        gradients: *mut f32,
        key: usize,
        ranges: &[Range<usize>; ROW_PANELS],
    ) {
        let Geometry { panel: lanes, width, per_word, .. } = self.geometry;
        let mut first = 0;
        while first < ROW_PANELS && !ranges[first].contains(&key) {
            first += 1;
        }
        let mut behind = first;
        while behind < ROW_PANELS && ranges[behind].contains(&key) {
            behind += 1;
        }
        if first == behind {
            return;
        }
        // SAFETY: `width` is a multiple of LANES; the caller vouches for the arrays.
        unsafe {
            let p = factors.add(first * KEYS * lanes + key * lanes / per_word);
            let rows = rows.add(first * lanes / per_word * width);
            let gradients = gradients.add(key * width);
            let mut column = 0;
            while column + 2 * S::LANES <= width {
                let (b, c) = (rows.add(column), gradients.add(column));
                gemm::add_rows::<S, A, MR, 2>(p, KEYS * lanes, behind - first, b, c, width);
                column += 2 * S::LANES;
            }
            while column < width {
                let (b, c) = (rows.add(column), gradients.add(column));
                gemm::add_rows::<S, A, MR, 1>(p, KEYS * lanes, behind - first, b, c, width);
                column += S::LANES;
            }
        }
    }
}

const _: () = assert!(KEYS.is_multiple_of(CHUNK) && CHUNK.is_multiple_of(MAX_LANES));

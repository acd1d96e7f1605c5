//! Between the caller's memory and a lane's arrays: keys, rows, and the gradients of keys.

use super::{Block, Call, Rows};
use crate::kernel::{Arithmetic, Geometry, KEYS, ROW_PANELS, pack};
use crate::simd::Simd;
use core::f32::consts::LOG2_E;
use core::ops::Range;
use microseq_core::Element;

impl Block {
    /// The K/V row of a key.
    fn row(&self, key: usize) -> usize {
        self.document.segment.k_begin + key
    }
}

impl<E: Element> Call<'_, E> {
    /// Packs the block's keys and values and fetches their gradients so far.
    ///
    /// # Safety
    /// As [`run`](super::run); `keys` are the block's.
    #[inline(always)]
    pub(super) unsafe fn load_keys<S: Simd, A: Arithmetic<S>>(&self, keys: &Range<usize>) {
        let Self { operands, block, arrays, .. } = self;
        let Geometry { width, words, per_word, .. } = self.geometry;
        let (head, head_dim) = (block.kv_head, operands.head_dim);
        // SAFETY: the keys are the document's; the arrays hold a block.
        unsafe {
            for tile in keys.clone().step_by(KEYS) {
                let (done, count) = (tile - keys.start, KEYS.min(keys.end - tile));
                let part = |view| pack::Keys { view, first: block.row(tile), keys: count, head, head_dim };
                pack::tile::<S, A, E>(part(&operands.k), arrays.k.add(done * words));
                pack::tile::<S, A, E>(part(&operands.v), arrays.v.add(done * words));
                if per_word > 1 {
                    pack::pair_tile(part(&operands.k), arrays.k_pairs.add(done * width / per_word));
                }
            }
            for key in keys.clone() {
                let (row, place) = (block.row(key), (key - keys.start) * width);
                pack::widen::<S, f32>(operands.dk.at(row, head), head_dim, arrays.dk.add(place), width);
                pack::widen::<S, f32>(operands.dv.at(row, head), head_dim, arrays.dv.add(place), width);
            }
        }
    }

    /// Writes the gradients back. Adding 0 settles the sign of a zero, which could depend on how many
    /// masked rows were added.
    ///
    /// # Safety
    /// As [`run`](super::run); `keys` are the block's.
    #[inline(always)]
    pub(super) unsafe fn store_gradients<S: Simd>(&self, keys: &Range<usize>) {
        let Self { operands, block, arrays, .. } = self;
        let width = self.geometry.width;
        // SAFETY: the keys are the document's; the arrays hold a block.
        unsafe {
            for (from, to) in [(arrays.dk, &operands.dk), (arrays.dv, &operands.dv)] {
                for key in keys.clone() {
                    let from = from.add((key - keys.start) * width);
                    for i in (0..width).step_by(S::LANES) {
                        S::store(from.add(i), S::add(S::load(from.add(i)), S::splat(0.0)));
                    }
                    let to = to.at(block.row(key), block.kv_head);
                    pack::narrow::<S, f32>(from, operands.head_dim, to);
                }
            }
        }
    }

    /// Packs a block of rows, by words of rows and by words of head_dim, with its logsumexp and
    /// `out . dout`.
    ///
    /// # Safety
    /// As [`run`](super::run); the rows are the document's.
    #[inline(always)]
    pub(super) unsafe fn load_rows<S: Simd, A: Arithmetic<S>>(&self, rows: Rows) {
        let Self { operands, block, arrays, .. } = self;
        let Geometry { panel: lanes, width, words, per_word } = self.geometry;
        let (document, head_dim) = (&block.document, operands.head_dim);
        let (all, count) = (self.geometry.row_block(), rows.end - rows.begin);
        let source = |view| pack::Source { document, view, first: rows.begin, rows: count, head_dim };
        // SAFETY: the arrays hold a block of rows.
        unsafe {
            // The output is needed for its products with dout only: it passes through the place of dq.
            pack::rows::<S, A, E>(source(&operands.out), all, words, arrays.staging);
            transpose_panels::<S>(arrays.staging, words, arrays.dq);
            let dout = if per_word > 1 { arrays.staging } else { arrays.dout_rows };
            pack::rows::<S, A, E>(source(&operands.dout), all, words, dout);
            transpose_panels::<S>(dout, words, arrays.dout);
            pack::rows::<S, A, E>(source(&operands.q), all, words, arrays.staging);
            transpose_panels::<S>(arrays.staging, words, arrays.q);
            if per_word > 1 {
                pack::row_pairs(source(&operands.dout), all, width, arrays.dout_rows);
                pack::row_pairs(source(&operands.q), all, width, arrays.q_rows);
            }
            for lane in (0..all).step_by(S::LANES) {
                let place = lane / lanes * lanes * words + lane % lanes;
                let used = head_dim.div_ceil(per_word);
                let delta = dot::<S, A>(arrays.dq.add(place), arrays.dout.add(place), used);
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

/// The dot products of a vector of rows, by lane, in the order and arithmetic of
/// [`scores`](crate::kernel::gemm::scores): where a row sees one key only, so that `out = v`, this is
/// exactly its `dout . v`, and the gradient of its score is exactly 0.
///
/// # Safety
/// As [`Simd`]; both pointers reach `words` steps of a panel.
#[inline(always)]
unsafe fn dot<S: Simd, A: Arithmetic<S>>(a: *const f32, b: *const f32, words: usize) -> S::V {
    // SAFETY: the caller vouches for the pointers.
    unsafe {
        let mut sum = S::splat(0.0);
        for k in 0..words {
            let place = k * 2 * S::LANES;
            sum = A::multiply_add(S::load(a.add(place)), S::load(b.add(place)), sum);
        }
        sum
    }
}

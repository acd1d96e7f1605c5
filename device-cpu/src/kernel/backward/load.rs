//! Between the caller's memory and a lane's arrays: keys, rows, and the gradients of keys.

use super::{Block, Call};
use crate::kernel::lanes::Square;
use crate::kernel::pack::{self, Keys, Source};
use crate::kernel::products::Products;
use crate::kernel::{KEYS, MultiplyAdd, ROWS};
use crate::simd::{MAX_LANES, Simd};
use crate::strided::StridedRef;
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
    /// Packs the block's keys and values and fetches their gradients so far, or zeros.
    ///
    /// # Safety
    /// As [`run`](super::run); `keys` are the block's.
    #[inline(always)]
    pub(super) unsafe fn load_keys<P: Products>(&self, keys: &Range<usize>) {
        let Self { operands, block, arrays, .. } = self;
        let (geometry, width) = (&self.geometry, self.geometry.width);
        let (head, head_dim) = (block.kv_head, operands.head_dim);
        // SAFETY: the keys are the document's; the arrays hold a block.
        unsafe {
            for tile in keys.clone().step_by(KEYS) {
                let (index, count) = ((tile - keys.start) / KEYS, KEYS.min(keys.end - tile));
                let place = index * geometry.transposed_tile();
                let part = |view| Keys { view, first: block.row(tile), keys: count, head, head_dim };
                let (k, v) = (part(&operands.k), part(&operands.v));
                k.pack_transposed::<P::S, P::A>(geometry.words, arrays.staging, arrays.k.add(place));
                v.pack_transposed::<P::S, P::A>(geometry.words, arrays.staging, arrays.v.add(place));
                let place = index * geometry.tile_by_keys();
                k.pack_by_keys::<P::S, P::A>(P::PAD, arrays.k_by_keys.add(place));
            }
            if block.zeroed {
                for gradient in [arrays.dk, arrays.dv] {
                    gradient.write_bytes(0, keys.len() * width);
                }
                return;
            }
            for key in keys.clone() {
                let (row, place) = (block.row(key), (key - keys.start) * width);
                pack::widen::<P::S, f32>(operands.dk.at(row, head), head_dim, arrays.dk.add(place), width);
                pack::widen::<P::S, f32>(operands.dv.at(row, head), head_dim, arrays.dv.add(place), width);
            }
        }
    }

    /// Writes the gradients back.
    ///
    /// # Safety
    /// As [`run`](super::run); `keys` are the block's.
    #[inline(always)]
    pub(super) unsafe fn store_gradients<P: Products>(&self, keys: &Range<usize>) {
        let Self { operands, block, arrays, .. } = self;
        // SAFETY: the keys are the document's; the arrays hold a block.
        unsafe {
            for key in keys.clone() {
                for (from, to) in [(arrays.dk, &operands.dk), (arrays.dv, &operands.dv)] {
                    let from = from.add((key - keys.start) * self.geometry.width);
                    let to = to.at(block.row(key), block.kv_head);
                    pack::narrow::<P::S, P::A, f32>(from, 1.0, operands.head_dim, to);
                }
            }
        }
    }

    /// Packs a block of rows, by words of head_dim and by words of rows, and what is known of each.
    ///
    /// # Safety
    /// As [`run`](super::run); the rows are the document's.
    #[inline(always)]
    pub(super) unsafe fn load_rows<P: Products>(&self, rows: &Range<usize>) {
        let Self { operands, arrays, .. } = self;
        // SAFETY: the arrays hold a block of rows.
        unsafe {
            let (q, dout) = (self.source(&operands.q, rows), self.source(&operands.dout, rows));
            q.pack::<P::S, P::A>(ROWS, arrays.q);
            dout.pack::<P::S, P::A>(ROWS, arrays.dout);
            if P::A::PER_WORD > 1 {
                q.pack_by_rows::<P::S, P::A>(ROWS, P::PAD, arrays.q_by_rows);
                dout.pack_by_rows::<P::S, P::A>(ROWS, P::PAD, arrays.dout_by_rows);
            }
            self.load_known(rows);
            self.load_delta::<P::S>(rows);
        }
    }

    /// Rows of a view.
    #[inline(always)]
    fn source<'b>(&self, view: &'b StridedRef<E>, rows: &Range<usize>) -> Source<'b, E> {
        let first = self.block.document.places(rows.start);
        Source { view, first, rows: rows.len(), head_dim: self.operands.head_dim }
    }

    /// Fetches logsumexp and scale of rows.
    ///
    /// # Safety
    /// As [`load_rows`](Self::load_rows).
    #[inline(always)]
    unsafe fn load_known(&self, rows: &Range<usize>) {
        let Self { operands, block, arrays, .. } = self;
        for run in block.document.runs(rows.clone()) {
            let scale = if run.keys.len() == 1 { 0.0 } else { operands.scoring.scale() };
            for i in 0..run.rows {
                // SAFETY: the arrays hold a block of rows, which are the document's.
                unsafe {
                    let lse = *operands.lse.at(run.row, run.head + i);
                    // A row that saw no key has probability 0.
                    let lse = if lse == f32::NEG_INFINITY { f32::INFINITY } else { lse * LOG2_E };
                    *arrays.lse.add(run.at + i) = lse;
                    *arrays.scale.add(run.at + i) = scale;
                }
            }
        }
    }

    /// `out . dout` of rows, where it is needed.
    ///
    /// # Safety
    /// As [`load_rows`](Self::load_rows).
    #[inline(always)]
    unsafe fn load_delta<S: Simd>(&self, rows: &Range<usize>) {
        let Self { operands, block, arrays, .. } = self;
        if !self.need_output(rows) {
            return;
        }
        let mut places = block.document.places(rows.start);
        for first in (0..rows.len()).step_by(S::LANES) {
            let mut square = Square::new();
            // SAFETY: the rows are the document's; the array holds a block of them, in whole vectors.
            unsafe {
                for row in 0..S::LANES.min(rows.len() - first) {
                    let Some((place, head)) = places.next() else { break };
                    let (out, dout) = (operands.out.at(place, head), operands.dout.at(place, head));
                    square.set::<S>(row, products::<S, E>(out, dout, operands.head_dim));
                }
                S::store(arrays.delta.add(first), square.join::<S, false>());
            }
        }
    }
}

/// The sums of the products of every `LANES`-th of `n` elements.
///
/// # Safety
/// As [`Simd`]; the pointers reach `n` elements.
#[inline(always)]
unsafe fn products<S: Simd, E: Element>(a: *const E, b: *const E, n: usize) -> S::V {
    let whole = n / S::LANES * S::LANES;
    // SAFETY: the caller vouches for the elements.
    unsafe {
        let mut sum = S::splat(0.0);
        for i in (0..whole).step_by(S::LANES) {
            sum = S::fma(pack::load::<S, E>(a.add(i)), pack::load::<S, E>(b.add(i)), sum);
        }
        if whole < n {
            let (mut left, mut right) = ([0.0; MAX_LANES], [0.0; MAX_LANES]);
            pack::widen::<S, E>(a.add(whole), n - whole, left.as_mut_ptr(), S::LANES);
            pack::widen::<S, E>(b.add(whole), n - whole, right.as_mut_ptr(), S::LANES);
            sum = S::fma(S::load(left.as_ptr()), S::load(right.as_ptr()), sum);
        }
        sum
    }
}

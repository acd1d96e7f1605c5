//! A block of rows meets a tile of keys: the five products.

use super::Call;
use crate::kernel::ahead::Ahead;
use crate::kernel::fold;
use crate::kernel::gemm::Before;
use crate::kernel::gradient;
use crate::kernel::products::{Products, Rows};
use crate::kernel::sights::Sights;
use crate::kernel::sink::{Rounded, Sums};
use crate::kernel::{CHUNK, Geometry, KEYS, ROWS};
use core::ops::Range;
use microseq_core::Element;

impl<E: Element> Call<'_, E> {
    /// A block of rows meets the tile of keys at `tile`: adds to its dq, and to the tile's dk and dv.
    ///
    /// # Safety
    /// As [`run`](super::run); keys and rows are packed, `tile` is one of the block's, `dq` holds a
    /// block of rows.
    #[inline(always)]
    pub(super) unsafe fn visit<P: Products>(
        &self,
        rows: &Range<usize>,
        keys: &Range<usize>,
        tile: usize,
        dq: *mut f32,
        ahead: &mut Ahead,
    ) {
        let Self { operands, block, arrays, .. } = self;
        let Geometry { width, per_word, .. } = self.geometry;
        let transposed = (tile - keys.start) / KEYS * self.geometry.transposed_tile();
        let (done, chunks) = (tile - keys.start, width / CHUNK);
        let used = operands.head_dim.div_ceil(per_word);
        let sights = Sights::new(&block.document, rows.clone(), tile..keys.end.min(tile + KEYS));
        let packed = |words: *mut f32| Rows { words, capacity: ROWS };
        // SAFETY: the arrays hold the block of keys and the block of rows.
        unsafe {
            let (p, ds) = (arrays.p, arrays.ds);
            P::scores(packed(arrays.q), arrays.k.add(transposed), used, &sights, p, ahead);
            P::scores(packed(arrays.dout), arrays.v.add(transposed), used, &sights, ds, ahead);
            gradient::differentiate::<P>(&operands.scoring, &sights, (p, ds), arrays.known());

            let by_rows = P::fold_rows(p, &sights, arrays.by_rows);
            P::add_rows(by_rows, arrays.dout_by_rows, chunks, &sights, arrays.dv.add(done * width), ahead);
            let by_rows = P::fold_rows(ds, &sights, arrays.by_rows);
            P::add_rows(by_rows, arrays.q_by_rows, chunks, &sights, arrays.dk.add(done * width), ahead);
            fold::keys::<P>(ds, &sights);
            let k = arrays.k_by_keys.add(done / KEYS * self.geometry.tile_by_keys());
            let before = Before { sums: dq, width, factors: None };
            if !self.sees_whole_rows(keys) {
                return P::add_keys(ds, k, chunks, &sights, before, Sums { rows: dq, width }, ahead);
            }
            let (mut to, factors) = ([arrays.staging.cast::<E>(); ROWS], [1.0; ROWS]);
            for (to, (row, head)) in to.iter_mut().zip(block.document.places(rows.start).take(rows.len())) {
                *to = operands.dq.at(row, head);
            }
            let sink = Rounded::<P::A, E>::new(&to, &factors);
            P::add_keys(ds, k, chunks, &sights, before, sink, ahead);
        }
    }
}

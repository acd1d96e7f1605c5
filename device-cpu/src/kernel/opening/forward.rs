//! The forward pass over a document's opening.

use super::batch::Batch;
use super::products::{self, SUMS};
use super::softmax::Softmax;
use super::staging::{StagedKeys, StagedRows};
use super::sums::{self, WEIGHTS};
use super::{MultiplyAdd, steps};
use crate::kernel::Geometry;
use crate::kernel::ahead::Ahead;
use crate::kernel::forward::{Block, Operands};
use crate::kernel::products::Products;
use crate::scratch::Carver;
use crate::simd::{MAX_LANES, Simd};
use microseq_core::Element;

/// A lane's arrays.
struct Arrays {
    /// Products before their lanes are joined, and probabilities, `[key][row]`.
    sums: *mut f32,
    p: *mut f32,
    /// Copies where the products cannot take what the caller holds.
    q: StagedRows,
    out: StagedRows,
    k: StagedKeys,
    v: StagedKeys,
}

impl Arrays {
    fn carve(memory: &mut Carver, geometry: &Geometry, head_dim: usize) -> Self {
        Self {
            sums: memory.take(SUMS),
            p: memory.take(WEIGHTS),
            q: StagedRows::carve(memory, geometry, head_dim),
            out: StagedRows::carve(memory, geometry, head_dim),
            k: StagedKeys::carve(memory, geometry, head_dim),
            v: StagedKeys::carve(memory, geometry, head_dim),
        }
    }
}

/// Bytes of scratch of a lane.
pub(crate) fn bytes(geometry: &Geometry, head_dim: usize) -> usize {
    let mut memory = Carver::counting();
    Arrays::carve(&mut memory, geometry, head_dim);
    memory.used()
}

/// Runs the pass over a block that is an opening. `upcoming` is what this thread will do next, if it is
/// known.
///
/// # Safety
/// As [`forward::run`](crate::kernel::forward::run); `memory` has [`bytes`].
#[inline(always)]
pub(crate) unsafe fn run<P: Products, E: Element>(
    operands: &Operands<E>,
    block: &Block,
    upcoming: Option<&Block>,
    ahead: &mut Ahead,
    mut memory: Carver,
) {
    let geometry = Geometry::new(P::A::PER_WORD, operands.head_dim);
    let arrays = Arrays::carve(&mut memory, &geometry, operands.head_dim);
    let (document, width) = (&block.document, arrays.q.width());
    if let Some(upcoming) = upcoming {
        upcoming.ask_start(operands, (0, 1, 1), ahead);
    }
    ahead.spread_over(steps(document, width));
    let keys = 0..document.keys(document.opening() - 1).end;
    let row = |key: usize| (document.segment.k_begin + key, block.kv_head);
    // SAFETY: keys and rows are the document's; no other thread writes the rows.
    unsafe {
        let at = |(row, head)| operands.k.at(row, head);
        let k = arrays.k.read(keys.clone().map(row).map(at));
        let at = |(row, head)| operands.v.at(row, head);
        let v = arrays.v.read(keys.map(row).map(at));
        for index in 0..Batch::count::<P::S>(document) {
            let batch = Batch::new::<P::S>(document, index);
            let q = arrays.q.read(batch.places().map(|(row, head)| operands.q.at(row, head)));
            let out = || batch.places().map(|(row, head)| operands.out.at(row, head));

            let products = products::multiply::<P, E>(&batch, &q, &k, width, arrays.sums, ahead);
            let softmax = Softmax::<P::S>::new(&operands.scoring, &batch, products);
            for key in batch.keys() {
                P::S::store(arrays.p.add(key * P::S::LANES), softmax.p[key]);
            }
            let mut lse = [0.0f32; MAX_LANES];
            P::S::store(lse.as_mut_ptr(), softmax.lse);
            for (lse, (row, head)) in lse.iter().zip(batch.places()) {
                *operands.lse.at(row, head) = *lse;
            }
            let to = arrays.out.write(out());
            sums::of_keys::<P, E>(&batch, arrays.p, &v, &to, width, ahead);
            arrays.out.flush(out());
        }
    }
    ahead.finish();
}

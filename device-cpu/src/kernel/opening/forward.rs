//! The forward pass over a document's opening.

use super::arrays::{Arrays, keys};
use super::batch::Batch;
use super::softmax::Softmax;
use super::staging::StagedRows;
use super::{MultiplyAdd, products, steps, sums};
use crate::kernel::Geometry;
use crate::kernel::ahead::Ahead;
use crate::kernel::forward::{Block, Operands};
use crate::kernel::products::Products;
use crate::scratch::Carver;
use crate::simd::{MAX_LANES, Simd};
use microseq_core::Element;

/// A lane's arrays.
struct Own {
    arrays: Arrays,
    out: StagedRows,
}

impl Own {
    fn carve(memory: &mut Carver, geometry: &Geometry, head_dim: usize) -> Self {
        Self {
            arrays: Arrays::carve(memory, geometry, head_dim),
            out: StagedRows::carve(memory, geometry, head_dim),
        }
    }
}

/// Bytes of scratch of a lane.
pub(crate) fn bytes(geometry: &Geometry, head_dim: usize) -> usize {
    Carver::count(|memory| Own::carve(memory, geometry, head_dim))
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
    let Own { arrays, out } = Own::carve(&mut memory, &geometry, operands.head_dim);
    let (document, width) = (&block.document, arrays.width());
    ahead.turn_to(upcoming, steps(document, width), |upcoming, ahead| {
        upcoming.ask_start(operands, (0, 1, 1), ahead);
    });
    // SAFETY: keys and rows are the document's; no other thread writes the rows.
    unsafe {
        let k = arrays.k.read(&operands.k, keys(document, block.kv_head));
        let v = arrays.v.read(&operands.v, keys(document, block.kv_head));
        for index in 0..Batch::count::<P::S>(document) {
            let batch = Batch::new::<P::S>(document, index);
            let q = arrays.q.read(&operands.q, batch.places());
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
            let to = out.write(&operands.out, batch.places());
            sums::of_keys::<P, E>(&batch, arrays.p, &v, &to, width, ahead);
            out.flush(&operands.out, batch.places());
        }
    }
    ahead.finish();
}

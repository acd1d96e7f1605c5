//! The backward pass over a document's opening: `dq =`, `dk +=`, `dv +=`.

use super::arrays::{Arrays, keys};
use super::batch::Batch;
use super::softmax::Softmax;
use super::staging::{StagedKeys, StagedRows};
use super::sums::{self, WEIGHTS};
use super::{MultiplyAdd, OPENING, products, steps};
use crate::kernel::Geometry;
use crate::kernel::ahead::Ahead;
use crate::kernel::backward::{Block, Operands};
use crate::kernel::products::Products;
use crate::kernel::scoring::Scoring;
use crate::scratch::Carver;
use crate::simd::Simd;
use microseq_core::Element;

/// A lane's arrays.
struct Own {
    arrays: Arrays,
    /// Gradients of products, `[key][row]`.
    ds: *mut f32,
    dout: StagedRows,
    dq: StagedRows,
    dk: StagedKeys,
    dv: StagedKeys,
}

impl Own {
    fn carve(memory: &mut Carver, geometry: &Geometry, head_dim: usize) -> Self {
        Self {
            arrays: Arrays::carve(memory, geometry, head_dim),
            ds: memory.take(WEIGHTS),
            dout: StagedRows::carve(memory, geometry, head_dim),
            dq: StagedRows::carve(memory, geometry, head_dim),
            dk: StagedKeys::carve(memory, geometry, head_dim),
            dv: StagedKeys::carve(memory, geometry, head_dim),
        }
    }
}

/// Bytes of scratch of a lane.
pub(crate) fn bytes(geometry: &Geometry, head_dim: usize) -> usize {
    Carver::count(|memory| Own::carve(memory, geometry, head_dim))
}

/// Runs the pass over the opening of a block's document, after all other rows that see its keys. `upcoming`
/// is what this thread will do next, if it is known.
///
/// # Safety
/// As [`backward::run`](crate::kernel::backward::run), for the document's first block of keys; `memory` has
/// [`bytes`].
#[inline(always)]
pub(crate) unsafe fn run<P: Products, E: Element>(
    operands: &Operands<E>,
    block: &Block,
    upcoming: Option<&Block>,
    ahead: &mut Ahead,
    mut memory: Carver,
) {
    let geometry = Geometry::new(P::A::PER_WORD, operands.head_dim);
    let own = Own::carve(&mut memory, &geometry, operands.head_dim);
    let arrays = &own.arrays;
    let (document, width) = (&block.document, arrays.width());
    // Whether no rows behind the opening were here before.
    let alone = document.len() == document.opening();
    // Twice the products; sums of rows are about as many as sums of keys.
    ahead.turn_to(upcoming, 2 * steps(document, width), |upcoming, ahead| {
        upcoming.ask_first_rows(operands, ahead);
        // Else they have asked for the keys.
        if alone {
            upcoming.ask_all_keys(operands, ahead);
        }
    });
    let keys = || keys(document, block.kv_head);
    // SAFETY: keys and rows are the document's; no other thread touches those to be written.
    unsafe {
        let k = arrays.k.read(&operands.k, keys());
        let v = arrays.v.read(&operands.v, keys());
        let last = Batch::count::<P::S>(document) - 1;
        // Rows that nobody added to: none behind the opening, and the batch that comes first sees all keys.
        let zeroed = block.zeroed && alone && Batch::new::<P::S>(document, last).keys().start == 0;
        if !zeroed {
            own.dk.read(&operands.dk.reading(), keys());
            own.dv.read(&operands.dv.reading(), keys());
        }
        let (dk, dv) = (own.dk.write(&operands.dk, keys()), own.dv.write(&operands.dv, keys()));
        for index in (0..=last).rev() {
            let batch = Batch::new::<P::S>(document, index);
            let q = arrays.q.read(&operands.q, batch.places());
            let dout = own.dout.read(&operands.dout, batch.places());

            // Twice the same code: a loop over both, as below, costs a twentieth of the pass in the cache.
            let products = products::multiply::<P, E>(&batch, &q, &k, width, arrays.sums, ahead);
            let dp = products::multiply::<P, E>(&batch, &dout, &v, width, arrays.sums, ahead);
            differentiate::<P::S>(&operands.scoring, &batch, products, dp, (arrays.p, own.ds));
            // Rows of later batches are summed up already: rows go from the last to the first (I2).
            for (weights, rows, to) in [(arrays.p, &dout, &dv), (own.ds, &q, &dk)] {
                sums::of_rows::<P, E>(&batch, weights, rows, (to, zeroed && index == last), width, ahead);
            }
            let to = own.dq.write(&operands.dq, batch.places());
            sums::of_keys::<P, E>(&batch, own.ds, &k, &to, width, ahead);
            own.dq.flush(&operands.dq, batch.places());
        }
        own.dk.flush(&operands.dk, keys());
        own.dv.flush(&operands.dv, keys());
    }
    ahead.finish();
}

/// Probabilities `p` and gradients of the products `ds`, from products and `dout . v`; 0 where a row does
/// not see the key.
///
/// # Safety
/// As [`Simd`]; `p` and `ds` reach [`WEIGHTS`].
#[inline(always)]
unsafe fn differentiate<S: Simd>(
    scoring: &Scoring,
    batch: &Batch<'_>,
    products: [S::V; OPENING],
    mut dp: [S::V; OPENING],
    (p, ds): (*mut f32, *mut f32),
) {
    // SAFETY: the caller has the instruction set; the arrays hold a vector for each key.
    unsafe {
        let softmax = Softmax::<S>::new(scoring, batch, products);
        let (mut delta, scale) = (S::splat(0.0), S::splat(scoring.scale()));
        for key in batch.keys() {
            dp[key] = batch.see::<S>(key, dp[key], 0.0);
            delta = S::fma(softmax.p[key], dp[key], delta);
            S::store(p.add(key * S::LANES), softmax.p[key]);
        }
        for key in batch.keys() {
            let slope = scoring.slope::<S>(softmax.raw[key], scale);
            let pull = S::mul(S::sub(dp[key], delta), slope);
            let gradient = batch.see::<S>(key, S::mul(softmax.p[key], pull), 0.0);
            S::store(ds.add(key * S::LANES), gradient);
        }
    }
}

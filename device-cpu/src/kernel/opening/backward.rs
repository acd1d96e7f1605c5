//! The backward pass over a document's opening: `dq =`, `dk +=`, `dv +=`.

use super::batch::Batch;
use super::products::{self, SUMS};
use super::softmax::Softmax;
use super::staging::{StagedKeys, StagedRows};
use super::sums::{self, WEIGHTS};
use super::{MultiplyAdd, OPENING, steps};
use crate::kernel::Geometry;
use crate::kernel::ahead::Ahead;
use crate::kernel::backward::{Block, Operands};
use crate::kernel::products::Products;
use crate::kernel::scoring::Scoring;
use crate::scratch::Carver;
use crate::simd::Simd;
use microseq_core::Element;

/// A lane's arrays.
struct Arrays {
    /// Products before their lanes are joined; probabilities and gradients of products, `[key][row]`.
    sums: *mut f32,
    p: *mut f32,
    ds: *mut f32,
    /// Copies where the products cannot take what the caller holds.
    q: StagedRows,
    dout: StagedRows,
    dq: StagedRows,
    k: StagedKeys,
    v: StagedKeys,
    dk: StagedKeys,
    dv: StagedKeys,
}

impl Arrays {
    fn carve(memory: &mut Carver, geometry: &Geometry, head_dim: usize) -> Self {
        Self {
            sums: memory.take(SUMS),
            p: memory.take(WEIGHTS),
            ds: memory.take(WEIGHTS),
            q: StagedRows::carve(memory, geometry, head_dim),
            dout: StagedRows::carve(memory, geometry, head_dim),
            dq: StagedRows::carve(memory, geometry, head_dim),
            k: StagedKeys::carve(memory, geometry, head_dim),
            v: StagedKeys::carve(memory, geometry, head_dim),
            dk: StagedKeys::carve(memory, geometry, head_dim),
            dv: StagedKeys::carve(memory, geometry, head_dim),
        }
    }
}

/// Bytes of scratch of a lane.
pub(crate) fn bytes(geometry: &Geometry, head_dim: usize) -> usize {
    let mut memory = Carver::counting();
    Arrays::carve(&mut memory, geometry, head_dim);
    memory.used()
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
    let arrays = Arrays::carve(&mut memory, &geometry, operands.head_dim);
    let (document, width) = (&block.document, arrays.q.width());
    ahead.clear();
    if let Some(upcoming) = upcoming {
        upcoming.ask_start(operands, ahead);
    }
    // Twice the products; sums of rows are about as many as sums of keys.
    ahead.spread_over(2 * steps(document, width));
    let keys = || {
        let row = move |key: usize| document.segment.k_begin + key;
        (0..document.keys(document.opening() - 1).end).map(row)
    };
    let head = block.kv_head;
    // SAFETY: keys and rows are the document's; no other thread touches those to be written.
    unsafe {
        let k = arrays.k.read(keys().map(|row| operands.k.at(row, head)));
        let v = arrays.v.read(keys().map(|row| operands.v.at(row, head)));
        let dk_rows = || keys().map(|row| operands.dk.at(row, head));
        let dv_rows = || keys().map(|row| operands.dv.at(row, head));
        arrays.dk.read(dk_rows().map(<*mut f32>::cast_const));
        arrays.dv.read(dv_rows().map(<*mut f32>::cast_const));
        let (dk, dv) = (arrays.dk.write(dk_rows()), arrays.dv.write(dv_rows()));
        for index in (0..Batch::count::<P::S>(document)).rev() {
            let batch = Batch::new::<P::S>(document, index);
            let q = arrays.q.read(batch.places().map(|(row, head)| operands.q.at(row, head)));
            let dout = arrays.dout.read(batch.places().map(|(row, head)| operands.dout.at(row, head)));
            let dq = || batch.places().map(|(row, head)| operands.dq.at(row, head));

            let products = products::multiply::<P, E>(&batch, &q, &k, width, arrays.sums, ahead);
            let dp = products::multiply::<P, E>(&batch, &dout, &v, width, arrays.sums, ahead);
            differentiate::<P::S>(&operands.scoring, &batch, products, dp, (arrays.p, arrays.ds));
            // Rows of later batches are summed up already: rows go from the last to the first (I2).
            sums::of_rows::<P, E>(&batch, arrays.p, &dout, &dv, width, ahead);
            sums::of_rows::<P, E>(&batch, arrays.ds, &q, &dk, width, ahead);
            let to = arrays.dq.write(dq());
            sums::of_keys::<P, E>(&batch, arrays.ds, &k, &to, width, ahead);
            arrays.dq.flush(dq());
        }
        arrays.dk.flush(dk_rows());
        arrays.dv.flush(dv_rows());
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

//! Sums of keys and of rows, each with a weight: out, dq; dk and dv.

use super::batch::Batch;
use super::staging::{Reading, Writing};
use super::{KEYS, OPENING, ROWS};
use crate::kernel::ahead::Ahead;
use crate::kernel::pack;
use crate::kernel::products::Products;
use crate::simd::{MAX_LANES, Simd};
use core::array::from_fn;
use core::ops::Range;
use microseq_core::Element;

/// A weight for each key and row of a batch, `[key][row]`.
pub(super) const WEIGHTS: usize = OPENING * MAX_LANES;

/// Columns of a tile of the widest vectors.
pub(super) const COLUMNS: usize = 4 * MAX_LANES;

/// `to[row] = sum of weights[key][row] * keys[key]` over the keys that a row sees, ascending, rounded.
///
/// # Safety
/// As [`Simd`]; `weights` reaches [`WEIGHTS`] and is the batch's, as keys and rows are, which reach `width`
/// elements, whole chunks.
#[inline(always)]
pub(super) unsafe fn of_keys<P: Products, E: Element>(
    batch: &Batch<'_>,
    weights: *const f32,
    keys: &Reading<E, OPENING>,
    to: &Writing<E, MAX_LANES>,
    width: usize,
    ahead: &mut Ahead,
) {
    for run in batch.runs() {
        let behind = run.at + run.rows;
        let mut row = run.at;
        while row < behind {
            let four = row + ROWS <= behind;
            // SAFETY: the rows are the batch's.
            unsafe {
                let keys = Weighted { of: keys, places: run.keys.clone(), weights: weights.add(row) };
                if four {
                    row_tiles::<P, E, ROWS>(&keys, from_fn(|i| to[row + i]), width, ahead);
                } else {
                    row_tiles::<P, E, 1>(&keys, [to[row]], width, ahead);
                }
            }
            row += if four { ROWS } else { 1 };
        }
    }
}

/// Keys to be summed up for some rows, or rows for some keys: which ones, and their weights from the first
/// of those rows, or keys, on.
struct Weighted<'a, E, const N: usize> {
    of: &'a Reading<E, N>,
    places: Range<usize>,
    weights: *const f32,
}

/// Takes the columns of a row in tiles: of as many vectors as leave registers free.
macro_rules! tiles {
    ($simd:ty, $width:ident, |$column:ident, $vectors:ident| $tile:expr) => {{
        let lanes = <$simd as Simd>::LANES;
        let mut $column = 0;
        if lanes == MAX_LANES {
            while $column + 4 * lanes <= $width {
                const $vectors: usize = 4;
                $tile;
                $column += 4 * lanes;
            }
        }
        while $column + 2 * lanes <= $width {
            const $vectors: usize = 2;
            $tile;
            $column += 2 * lanes;
        }
        while $column < $width {
            const $vectors: usize = 1;
            $tile;
            $column += lanes;
        }
    }};
}

/// Some rows of a token.
///
/// # Safety
/// As [`of_keys`].
#[inline(always)]
unsafe fn row_tiles<P: Products, E: Element, const ROWS: usize>(
    keys: &Weighted<'_, E, OPENING>,
    to: [*mut E; ROWS],
    width: usize,
    ahead: &mut Ahead,
) {
    // SAFETY: columns are below the width.
    unsafe {
        tiles!(P::S, width, |column, VECTORS| {
            row_tile::<P, E, ROWS, VECTORS>(keys, to, column);
            ahead.step();
        });
    }
}

/// Some columns of them.
///
/// # Safety
/// As [`of_keys`].
#[inline(always)]
unsafe fn row_tile<P: Products, E: Element, const ROWS: usize, const VECTORS: usize>(
    keys: &Weighted<'_, E, OPENING>,
    to: [*mut E; ROWS],
    column: usize,
) {
    let lanes = <P::S as Simd>::LANES;
    // SAFETY: the caller vouches for keys, rows and columns.
    unsafe {
        let mut sums = [[P::S::splat(0.0); VECTORS]; ROWS];
        for place in keys.places.clone() {
            let key = keys.of[place].add(column);
            let key: [_; VECTORS] = from_fn(|n| pack::load::<P::S, E>(key.add(n * lanes)));
            for (row, sums) in sums.iter_mut().enumerate() {
                let weight = P::S::splat(*keys.weights.add(place * lanes + row));
                for (sum, key) in sums.iter_mut().zip(key) {
                    *sum = P::S::fma(weight, key, *sum);
                }
            }
        }
        for (row, sums) in sums.into_iter().enumerate() {
            for (n, sum) in sums.into_iter().enumerate() {
                let to = to[row].add(column + n * lanes);
                pack::round::<P::S, P::A, E>(sum, 1.0, to);
            }
        }
    }
}

/// `to[key] += sum of weights[key][row] * rows[row]` over the rows that see one of some neighbouring keys,
/// descending. Weights of keys that a row does not see are 0.
///
/// # Safety
/// As [`of_keys`].
#[inline(always)]
pub(super) unsafe fn of_rows<P: Products, E: Element>(
    batch: &Batch<'_>,
    weights: *const f32,
    rows: &Reading<E, MAX_LANES>,
    to: &Writing<f32, OPENING>,
    width: usize,
    ahead: &mut Ahead,
) {
    let (lanes, end) = (<P::S as Simd>::LANES, batch.keys().end);
    for key in batch.keys().step_by(KEYS) {
        // SAFETY: keys and rows are the batch's, columns below the width.
        unsafe {
            let weights = weights.add(key * lanes);
            let two = key + KEYS <= end;
            let places = batch.seeing(&(key..end.min(key + KEYS)));
            let rows = Weighted { of: rows, places, weights };
            tiles!(P::S, width, |column, VECTORS| {
                if two {
                    key_tile::<P, E, KEYS, VECTORS>(&rows, from_fn(|i| to[key + i]), column);
                } else {
                    key_tile::<P, E, 1, VECTORS>(&rows, [to[key]], column);
                }
                ahead.step();
            });
        }
    }
}

/// Some columns of the sums of some keys.
///
/// # Safety
/// As [`of_keys`].
#[inline(always)]
unsafe fn key_tile<P: Products, E: Element, const KEYS: usize, const VECTORS: usize>(
    rows: &Weighted<'_, E, MAX_LANES>,
    to: [*mut f32; KEYS],
    column: usize,
) {
    let lanes = <P::S as Simd>::LANES;
    // SAFETY: the caller vouches for keys, rows and columns.
    unsafe {
        let to = to.map(|to| to.add(column));
        let mut sums = to.map(|to| from_fn::<_, VECTORS, _>(|n| P::S::load(to.add(n * lanes))));
        for place in rows.places.clone().rev() {
            let row = rows.of[place].add(column);
            let row: [_; VECTORS] = from_fn(|n| pack::load::<P::S, E>(row.add(n * lanes)));
            for (key, sums) in sums.iter_mut().enumerate() {
                let weight = P::S::splat(*rows.weights.add(key * lanes + place));
                for (sum, row) in sums.iter_mut().zip(row) {
                    *sum = P::S::fma(weight, row, *sum);
                }
            }
        }
        for (to, sums) in to.into_iter().zip(sums) {
            for (n, sum) in sums.into_iter().enumerate() {
                P::S::store(to.add(n * lanes), P::S::add(sum, P::S::splat(0.0)));
            }
        }
    }
}

//! Products of rows with the keys that they see: sums along head_dim.

use super::batch::Batch;
use super::staging::Reading;
use super::{KEYS, MultiplyAdd, OPENING, ROWS};
use crate::kernel::ahead::Ahead;
use crate::kernel::pack;
use crate::kernel::products::Products;
use crate::simd::{MAX_LANES, Simd};
use core::array::from_fn;
use microseq_core::Element;

/// Elements of the sums of a batch before their lanes are joined: for each key, a vector for each row.
pub(super) const SUMS: usize = OPENING * MAX_LANES * MAX_LANES;

/// `rows[row] . keys[key]` for the keys that some row of a batch sees, a row in each lane; lanes of rows
/// that do not see the key hold something.
///
/// # Safety
/// As [`Simd`]; rows and keys are the batch's and reach `width` elements, whole chunks of words; `sums`
/// reaches [`SUMS`].
#[inline(always)]
pub(super) unsafe fn multiply<P: Products, E: Element>(
    batch: &Batch<'_>,
    rows: &Reading<E, MAX_LANES>,
    keys: &Reading<E, OPENING>,
    width: usize,
    sums: *mut f32,
    ahead: &mut Ahead,
) -> [<P::S as Simd>::V; OPENING] {
    let lanes = <P::S as Simd>::LANES;
    // SAFETY: rows and keys are the batch's, and the sums hold a square for each key.
    unsafe {
        for run in batch.runs() {
            let behind = run.at + run.rows;
            let mut row = run.at;
            while row < behind {
                let four = row + ROWS <= behind;
                for key in run.keys.clone().step_by(KEYS) {
                    let two = key + KEYS <= run.keys.end;
                    let to = sums.add((key * lanes + row) * lanes);
                    match (four, two) {
                        (true, true) => tile::<P, E, ROWS, KEYS>(rows, row, keys, key, width, to),
                        (true, false) => tile::<P, E, ROWS, 1>(rows, row, keys, key, width, to),
                        (false, true) => tile::<P, E, 1, KEYS>(rows, row, keys, key, width, to),
                        (false, false) => tile::<P, E, 1, 1>(rows, row, keys, key, width, to),
                    }
                    ahead.step();
                }
                row += if four { ROWS } else { 1 };
            }
        }
        let mut joined = [P::S::splat(0.0); OPENING];
        for key in batch.keys() {
            joined[key] = P::S::join::<false>(sums.add(key * lanes * lanes));
        }
        joined
    }
}

/// Sums of some rows with some keys, before their lanes are joined.
///
/// # Safety
/// As [`multiply`]; `to` is the place of the first row and key.
#[inline(always)]
unsafe fn tile<P: Products, E: Element, const ROWS: usize, const KEYS: usize>(
    rows: &Reading<E, MAX_LANES>,
    row: usize,
    keys: &Reading<E, OPENING>,
    key: usize,
    width: usize,
    to: *mut f32,
) {
    let lanes = <P::S as Simd>::LANES;
    let rows: [*const E; ROWS] = from_fn(|i| rows[row + i]);
    let keys: [*const E; KEYS] = from_fn(|i| keys[key + i]);
    // SAFETY: the caller vouches for rows, keys and sums.
    unsafe {
        let mut sums = [[P::S::splat(0.0); KEYS]; ROWS];
        for at in (0..width).step_by(lanes * P::A::PER_WORD) {
            let keys = keys.map(|key| pack::words::<P::S, P::A, E>(key.add(at)));
            for (sums, row) in sums.iter_mut().zip(rows) {
                let row = pack::words::<P::S, P::A, E>(row.add(at));
                for (sum, key) in sums.iter_mut().zip(keys) {
                    *sum = P::A::multiply_add(row, key, *sum);
                }
            }
        }
        for (row, sums) in sums.into_iter().enumerate() {
            for (key, sum) in sums.into_iter().enumerate() {
                P::S::store(to.add((key * lanes + row) * lanes), sum);
            }
        }
    }
}

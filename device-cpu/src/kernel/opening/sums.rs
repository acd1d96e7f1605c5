//! Sums of keys and of rows, each with a weight: out, dq; dk and dv.

use super::batch::Batch;
use super::staging::{Reading, Writing};
use super::{CHUNK, KEYS, MultiplyAdd, OPENING, ROWS};
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
/// elements, whole chunks of words.
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
                let (weights, apart) = (weights.add(row), (<P::S as Simd>::LANES, 1));
                let keys = Addends { of: keys, places: run.keys.clone(), weights, apart };
                if four {
                    in_columns::<P>(&OfKeys::<E, ROWS> { keys, to: from_fn(|i| to[row + i]) }, width, ahead);
                } else {
                    in_columns::<P>(&OfKeys { keys, to: [to[row]] }, width, ahead);
                }
            }
            row += if four { ROWS } else { 1 };
        }
    }
}

/// `to[key] += sum of weights[key][row] * rows[row]` over the rows that see one of some neighbouring keys,
/// descending; `=` where `to` is said to hold zeros. Weights of keys that a row does not see are 0.
///
/// # Safety
/// As [`of_keys`].
#[inline(always)]
pub(super) unsafe fn of_rows<P: Products, E: Element>(
    batch: &Batch<'_>,
    weights: *const f32,
    rows: &Reading<E, MAX_LANES>,
    (to, zeroed): (&Writing<f32, OPENING>, bool),
    width: usize,
    ahead: &mut Ahead,
) {
    let (lanes, end) = (<P::S as Simd>::LANES, batch.keys().end);
    for key in batch.keys().step_by(KEYS) {
        let places = batch.seeing(&(key..end.min(key + KEYS)));
        // SAFETY: keys and rows are the batch's.
        unsafe {
            let rows = Addends { of: rows, places, weights: weights.add(key * lanes), apart: (1, lanes) };
            if key + KEYS <= end {
                let to = from_fn(|i| to[key + i]);
                in_columns::<P>(&OfRows::<E, KEYS> { rows, to, zeroed }, width, ahead);
            } else {
                in_columns::<P>(&OfRows { rows, to: [to[key]], zeroed }, width, ahead);
            }
        }
    }
}

/// Sums that can be made some columns at a time.
trait Sums {
    /// Makes `VECTORS` vectors of each, from a column on.
    ///
    /// # Safety
    /// As [`of_keys`]; the columns are below the width.
    unsafe fn make<P: Products, const VECTORS: usize>(&self, column: usize);
}

/// Makes sums in tiles of as many vectors as leave registers free.
///
/// # Safety
/// As [`of_keys`].
#[inline(always)]
unsafe fn in_columns<P: Products>(sums: &impl Sums, width: usize, ahead: &mut Ahead) {
    let lanes = <P::S as Simd>::LANES;
    let mut column = 0;
    // SAFETY: columns are below the width: it is in whole chunks of words, whose columns are one vector or
    // an even number of them.
    unsafe {
        while lanes == MAX_LANES && column + 4 * lanes <= width {
            sums.make::<P, 4>(column);
            ahead.step();
            column += 4 * lanes;
        }
        while column + 2 * lanes <= width {
            sums.make::<P, 2>(column);
            ahead.step();
            column += 2 * lanes;
        }
        if CHUNK * P::A::PER_WORD == lanes && column < width {
            sums.make::<P, 1>(column);
            ahead.step();
        }
    }
}

/// What sums are made of: keys or rows, each with a weight for every sum.
struct Addends<'a, E, const N: usize> {
    of: &'a Reading<E, N>,
    /// Which of them.
    places: Range<usize>,
    /// Weights for the first sum, from place 0 on; from a place's weight to the next one's, and from a
    /// sum's to the next one's.
    weights: *const f32,
    apart: (usize, usize),
}

impl<E: Element, const N: usize> Addends<'_, E, N> {
    /// Adds some columns of addends to sums, in the order of their places.
    ///
    /// # Safety
    /// As [`Sums::make`].
    #[inline(always)]
    unsafe fn add<S: Simd, const SUMS: usize, const VECTORS: usize>(
        &self,
        places: impl Iterator<Item = usize>,
        column: usize,
        sums: &mut [[S::V; VECTORS]; SUMS],
    ) {
        for place in places {
            // SAFETY: the caller vouches for places, sums and columns.
            unsafe {
                let addend = self.of[place].add(column);
                let addend: [_; VECTORS] = from_fn(|n| pack::load::<S, E>(addend.add(n * S::LANES)));
                for (i, sums) in sums.iter_mut().enumerate() {
                    let weight = self.weights.add(place * self.apart.0 + i * self.apart.1);
                    let weight = S::splat(*weight);
                    for (sum, addend) in sums.iter_mut().zip(addend) {
                        *sum = S::fma(weight, addend, *sum);
                    }
                }
            }
        }
    }
}

/// Sums of keys: for some rows of a token.
struct OfKeys<'a, E, const ROWS: usize> {
    keys: Addends<'a, E, OPENING>,
    to: [*mut E; ROWS],
}

impl<E: Element, const ROWS: usize> Sums for OfKeys<'_, E, ROWS> {
    #[inline(always)]
    unsafe fn make<P: Products, const VECTORS: usize>(&self, column: usize) {
        // SAFETY: the caller vouches for keys, rows and columns.
        unsafe {
            let mut sums = [[P::S::splat(0.0); VECTORS]; ROWS];
            self.keys.add::<P::S, ROWS, VECTORS>(self.keys.places.clone(), column, &mut sums);
            for (to, sums) in self.to.into_iter().zip(sums) {
                for (n, sum) in sums.into_iter().enumerate() {
                    pack::round::<P::S, P::A, E>(sum, 1.0, to.add(column + n * P::S::LANES));
                }
            }
        }
    }
}

/// Sums of rows: for some keys, on top of what is there.
struct OfRows<'a, E, const KEYS: usize> {
    rows: Addends<'a, E, MAX_LANES>,
    to: [*mut f32; KEYS],
    /// Whether that is 0, and need not be read.
    zeroed: bool,
}

impl<E: Element, const KEYS: usize> Sums for OfRows<'_, E, KEYS> {
    #[inline(always)]
    unsafe fn make<P: Products, const VECTORS: usize>(&self, column: usize) {
        let lanes = <P::S as Simd>::LANES;
        // SAFETY: the caller vouches for keys, rows and columns.
        unsafe {
            let to = self.to.map(|to| to.add(column));
            let mut sums = [[P::S::splat(0.0); VECTORS]; KEYS];
            if !self.zeroed {
                sums = to.map(|to| from_fn(|n| P::S::load(to.add(n * lanes))));
            }
            self.rows.add::<P::S, KEYS, VECTORS>(self.rows.places.clone().rev(), column, &mut sums);
            for (to, sums) in to.into_iter().zip(sums) {
                for (n, sum) in sums.into_iter().enumerate() {
                    P::S::store(to.add(n * lanes), P::S::add(sum, P::S::splat(0.0)));
                }
            }
        }
    }
}
